//! What needs unsafe code.
pub mod queue;
pub mod region;
pub mod sg;
