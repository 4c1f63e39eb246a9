//! The queues under the mailboxes. The model tests put theirs under the same names.
pub use crossbeam::queue::ArrayQueue;
pub use rtrb::{Consumer, Producer, PushError, RingBuffer};
