//! A first-in first-out list in one piece of memory, for [`crate::Batch`].

use std::mem::MaybeUninit;

/// Values in places `head..tail` of a fixed number of places. Having one tells you that exactly
/// those places hold values, and that it never allocates after construction.
pub(crate) struct Line<T> {
    places: Box<[MaybeUninit<T>]>,
    head: usize,
    tail: usize,
}

impl<T> Line<T> {
    /// `capacity` empty places.
    pub(crate) fn new(capacity: usize) -> Self {
        Line { places: Box::new_uninit_slice(capacity), head: 0, tail: 0 }
    }

    /// Places in all.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.places.len()
    }

    /// The values, oldest first.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[T] {
        let held = &self.places[self.head..self.tail];
        // SAFETY: these places hold values.
        unsafe { &*(std::ptr::from_ref(held) as *const [T]) }
    }

    /// Appends a value. Panics when all places are in use.
    #[inline]
    pub(crate) fn push(&mut self, item: T) {
        if self.tail == self.places.len() {
            self.move_to(0);
        }
        self.places[self.tail].write(item);
        self.tail += 1;
    }

    /// Takes the oldest value. After the last one it starts at its first place again.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.head == self.tail {
            (self.head, self.tail) = (0, 0);
            return None;
        }
        let place = &self.places[self.head];
        // SAFETY: the place held a value, and counts as empty from the next line on.
        let item = unsafe { place.assume_init_read() };
        self.head += 1;
        Some(item)
    }

    /// Puts a value in front of all others. Panics when all places are in use.
    pub(crate) fn push_front(&mut self, item: T) {
        if self.head == 0 {
            self.move_to(self.places.len() - self.tail);
        }
        self.head -= 1;
        self.places[self.head].write(item);
    }

    /// Moves all values so that the oldest is at place `head`. Panics when that is where it is.
    #[cold]
    fn move_to(&mut self, head: usize) {
        assert!(head != self.head, "batch overflow: capacity {}", self.places.len());
        let len = self.tail - self.head;
        assert!(head + len <= self.places.len());
        let places = self.places.as_mut_ptr();
        // SAFETY: both ranges are inside the places; the values move, so none is there twice.
        unsafe { std::ptr::copy(places.add(self.head), places.add(head), len) };
        (self.head, self.tail) = (head, head + len);
    }
}

impl<T> Drop for Line<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}
