//! What the tests share: a simulated [`world`] around the production shard, its initiators
//! ([`port`]), and a device that tests hold in their hands ([`gate`]).

pub mod gate;
pub mod port;
pub mod world;
