//! What the tests can't do safely.

mod counting;
mod stopped;

pub use counting::{Counting, allocations};
pub use stopped::Stopped;
