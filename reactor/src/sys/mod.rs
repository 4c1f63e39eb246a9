//! What needs unsafe code or the operating system.

pub mod affinity;
pub(crate) mod line;
pub mod memory;
pub mod tsc;
