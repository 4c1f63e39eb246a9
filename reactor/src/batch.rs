//! A list with a fixed capacity, filled and emptied every turn. Never allocates after construction.

use std::fmt;

use crate::sys::line::Line;

/// A first-in first-out list of at most `capacity` values. Emptied to its end it starts at its
/// first place again, so that short batches stay in few cache lines however large they may grow.
pub struct Batch<T>(Line<T>);

impl<T> Batch<T> {
    /// An empty batch that holds up to `capacity` values.
    pub fn new(capacity: usize) -> Self {
        Batch(Line::new(capacity))
    }

    /// Appends a value. Panics when full: a producer asks [`Batch::is_full`] first.
    #[inline]
    pub fn push(&mut self, item: T) {
        self.0.push(item);
    }

    /// Takes the oldest value.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// The oldest value, left in place.
    #[inline]
    pub fn front(&self) -> Option<&T> {
        self.0.as_slice().first()
    }

    /// Puts a value back in front of all others. Panics when full.
    #[inline]
    pub fn push_front(&mut self, item: T) {
        self.0.push_front(item);
    }

    /// Moves values of `other` behind the own ones, oldest first, while there is room. Two batches
    /// of one capacity trade places if this one is empty, whatever they hold.
    #[inline]
    pub fn append(&mut self, other: &mut Batch<T>) {
        if self.is_empty() && self.0.capacity() == other.0.capacity() {
            return std::mem::swap(self, other);
        }
        while !self.is_full()
            && let Some(item) = other.pop()
        {
            self.push(item);
        }
    }

    /// Values held now.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.as_slice().len()
    }

    /// True when nothing is held.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when [`Batch::push`] would panic.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// How many more values fit.
    #[inline]
    pub fn room(&self) -> usize {
        self.0.capacity() - self.len()
    }

    /// Values held, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.as_slice().iter()
    }

    /// Keeps only the values for which `keep` is true, in order.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for _ in 0..self.len() {
            if let Some(item) = self.pop()
                && keep(&item)
            {
                self.push(item);
            }
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Batch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn holds_capacity_and_no_more() {
        let mut batch = Batch::new(2);
        batch.push(1);
        batch.push(2);
        assert!(batch.is_full());
        assert_eq!(batch.room(), 0);
        assert_eq!((batch.pop(), batch.pop(), batch.pop()), (Some(1), Some(2), None));
        assert_eq!(Batch::<u8>::new(0).pop(), None);
    }

    #[test]
    #[should_panic(expected = "batch overflow")]
    fn refuses_one_too_many() {
        let mut batch = Batch::new(1);
        batch.push(1);
        batch.push(2);
    }

    #[test]
    #[should_panic(expected = "batch overflow")]
    fn refuses_one_too_many_in_front() {
        let mut batch = Batch::new(1);
        batch.push(1);
        batch.push_front(2);
    }

    #[test]
    fn batches_of_one_size_trade_places_and_others_take_what_fits() {
        let filled = |capacity, values: &[u8]| {
            let mut batch = Batch::new(capacity);
            values.iter().for_each(|value| batch.push(*value));
            batch
        };
        let (mut to, mut from) = (Batch::new(3), filled(3, &[1, 2, 3]));
        to.append(&mut from);
        assert_eq!((to.len(), from.len()), (3, 0));
        let (mut to, mut from) = (filled(3, &[9]), filled(5, &[1, 2, 3]));
        to.append(&mut from);
        assert_eq!(to.iter().collect::<Vec<_>>(), [&9, &1, &2]);
        assert_eq!(from.pop(), Some(3));
    }

    /// Any sequence of calls does what a deque does. The seed is the sequence.
    #[test]
    fn is_a_deque() {
        for seed in 0..200u32 {
            let (mut batch, mut model) = (Batch::new(5), VecDeque::new());
            let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
            for value in 0..60u32 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                match state >> 29 {
                    0..3 if !batch.is_full() => {
                        batch.push(value);
                        model.push_back(value);
                    }
                    3 if !batch.is_full() => {
                        batch.push_front(value);
                        model.push_front(value);
                    }
                    4 => {
                        batch.retain(|value| value % 3 != 0);
                        model.retain(|value| value % 3 != 0);
                    }
                    _ => assert_eq!(batch.pop(), model.pop_front()),
                }
                assert_eq!(batch.front(), model.front());
                assert_eq!(batch.iter().collect::<Vec<_>>(), model.iter().collect::<Vec<_>>());
                assert_eq!((batch.len(), batch.room()), (model.len(), 5 - model.len()));
            }
        }
    }
}
