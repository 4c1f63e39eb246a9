//! What needs unsafe code or the operating system.
pub mod memory;
