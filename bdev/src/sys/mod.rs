//! What needs unsafe code.
pub(crate) mod block;
pub(crate) mod queue;
pub(crate) mod region;
pub(crate) mod sg;
