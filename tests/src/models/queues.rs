//! The queues under the mailboxes, as models: the calls and the orders of the crates' own, small
//! enough to be run in every order. What they carry is not modelled, only when it is seen.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use loom::sync::atomic::{AtomicUsize, Ordering};

/// A bounded queue of one sender and one receiver.
#[derive(Debug)]
struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    capacity: usize,
    /// Pushed so far; written by the sender.
    tail: AtomicUsize,
    /// Popped so far; written by the receiver.
    head: AtomicUsize,
}

impl<T> Queue<T> {
    fn new(capacity: usize) -> Self {
        let (tail, head) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Queue { items: Mutex::default(), capacity, tail, head }
    }

    fn push(&self, item: T) -> Result<(), T> {
        let tail = self.tail.load(Ordering::Relaxed);
        if tail - self.head.load(Ordering::Acquire) == self.capacity {
            return Err(item);
        }
        self.items.lock().unwrap().push_back(item);
        self.tail.store(tail + 1, Ordering::Release);
        Ok(())
    }

    fn pop(&self) -> Option<T> {
        let head = self.head.load(Ordering::Relaxed);
        if self.tail.load(Ordering::Acquire) == head {
            return None;
        }
        let item = self.items.lock().unwrap().pop_front();
        self.head.store(head + 1, Ordering::Release);
        item
    }

    fn len(&self) -> usize {
        self.items.lock().unwrap().len()
    }
}

/// As in `crossbeam`, for one sender.
#[derive(Debug)]
pub(crate) struct ArrayQueue<T>(Queue<T>);

impl<T> ArrayQueue<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        ArrayQueue(Queue::new(capacity))
    }

    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        self.0.push(item)
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// As in `rtrb`.
pub(crate) struct RingBuffer;

/// As in `rtrb`.
pub(crate) struct Producer<T>(Arc<Queue<T>>);

/// As in `rtrb`.
pub(crate) struct Consumer<T>(Arc<Queue<T>>);

/// As in `rtrb`.
pub(crate) enum PushError<T> {
    Full(T),
}

impl RingBuffer {
    #[expect(clippy::new_ret_no_self, reason = "as in rtrb")]
    pub(crate) fn new<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
        let queue = Arc::new(Queue::new(capacity));
        (Producer(Arc::clone(&queue)), Consumer(queue))
    }
}

impl<T> Producer<T> {
    pub(crate) fn push(&mut self, item: T) -> Result<(), PushError<T>> {
        self.0.push(item).map_err(PushError::Full)
    }

    pub(crate) fn slots(&self) -> usize {
        self.0.capacity - self.0.len()
    }
}

impl<T> Consumer<T> {
    pub(crate) fn pop(&mut self) -> Result<T, ()> {
        self.0.pop().ok_or(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.head.load(Ordering::Relaxed) == self.0.tail.load(Ordering::Acquire)
    }
}
