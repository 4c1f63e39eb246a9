//! The one thing in the tests that can't be done safely.

mod counting;

pub use counting::{Counting, allocations};
