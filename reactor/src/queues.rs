//! The queues under the mailboxes. The model tests put theirs under the same names.
pub(crate) use crossbeam::queue::ArrayQueue;
pub(crate) use rtrb::{Consumer, Producer, PushError, RingBuffer};
