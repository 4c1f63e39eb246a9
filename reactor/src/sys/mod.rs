//! What needs unsafe code or the operating system.

pub mod affinity;
pub mod memory;
pub mod tsc;
