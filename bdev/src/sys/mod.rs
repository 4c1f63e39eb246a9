//! What needs unsafe code.
pub mod region;
