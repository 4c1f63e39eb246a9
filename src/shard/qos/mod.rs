//! Rate limits, and the commands that wait for them.

pub(crate) mod queue;
pub mod rate;
