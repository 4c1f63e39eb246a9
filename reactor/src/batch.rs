//! A list with a fixed capacity, reused every turn. Never allocates after construction.

use std::collections::VecDeque;

/// A first-in first-out list of at most `capacity` values.
#[derive(Debug)]
pub struct Batch<T> {
    items: VecDeque<T>,
    capacity: usize,
}

impl<T> Batch<T> {
    /// An empty batch that holds up to `capacity` values.
    pub fn new(capacity: usize) -> Self {
        Batch { items: VecDeque::with_capacity(capacity), capacity }
    }

    /// Appends a value. Panics when full: a producer asks [`Batch::is_full`] first.
    #[inline]
    pub fn push(&mut self, item: T) {
        assert!(self.items.len() < self.capacity, "batch overflow: capacity {}", self.capacity);
        self.items.push_back(item);
    }

    /// Takes the oldest value.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    /// The oldest value, left in place.
    #[inline]
    pub fn front(&self) -> Option<&T> {
        self.items.front()
    }

    /// Puts a value back in front of all others. Panics when full.
    #[inline]
    pub fn push_front(&mut self, item: T) {
        assert!(self.items.len() < self.capacity, "batch overflow: capacity {}", self.capacity);
        self.items.push_front(item);
    }

    /// Values held now.
    #[inline]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True when nothing is held.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// True when [`Batch::push`] would panic.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.items.len() == self.capacity
    }

    /// How many more values fit.
    #[inline]
    pub fn room(&self) -> usize {
        self.capacity - self.items.len()
    }

    /// Values held, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    /// Keeps only the values for which `keep` is true, in order.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.items.retain(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_capacity_and_no_more() {
        let mut batch = Batch::new(2);
        batch.push(1);
        batch.push(2);
        assert!(batch.is_full());
        assert_eq!(batch.room(), 0);
        assert_eq!((batch.pop(), batch.pop(), batch.pop()), (Some(1), Some(2), None));
    }

    #[test]
    #[should_panic(expected = "batch overflow")]
    fn refuses_one_too_many() {
        let mut batch = Batch::new(1);
        batch.push(1);
        batch.push(2);
    }
}
