//! What the tests share: a simulated [`world`] around the production shard, its initiators
//! ([`port`]), and a device that tests hold in their hands ([`gate`]); random worlds against an
//! oracle ([`soak`]); real processes of the built binaries ([`process`]), and a counting allocator
//! ([`sys`]).

pub mod fuzz;
pub mod gate;
pub mod hostile;
mod medium;
pub mod port;
pub mod process;
pub mod scripted;
pub mod soak;
#[allow(unsafe_code)]
pub mod sys;
pub mod world;
