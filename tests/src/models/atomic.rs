//! `std::sync::atomic` of the models: loom's, with orders that can be weakened to see whether a
//! model notices.

use std::cell::Cell;

use loom::sync::atomic as model;
pub(crate) use std::sync::atomic::Ordering;

/// Who passes a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Publishes to a ring.
    Initiator,
    /// Forwards a bell.
    Control,
    /// Falls asleep.
    Core,
}

/// What is weakened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weak {
    /// Nothing: the code as it is.
    Nothing,
    /// Stores publish nothing: Release is Relaxed.
    Release,
    /// Loads see nothing published: Acquire is Relaxed.
    Acquire,
    /// The fence of one side is none.
    Fence(Side),
}

thread_local! {
    // All threads of a model are fibres of one thread of the system.
    static WEAK: Cell<Weak> = const { Cell::new(Weak::Nothing) };
}

loom::thread_local! {
    static SIDE: Cell<Option<Side>> = Cell::new(None);
}

/// Sets what is weakened in the models that follow.
pub(crate) fn weaken(weak: Weak) {
    WEAK.set(weak);
}

/// Says whose fences those of this thread of the model are.
pub(crate) fn side(side: Side) {
    SIDE.with(|cell| cell.set(Some(side)));
}

fn weakened(order: Ordering) -> Ordering {
    match (WEAK.get(), order) {
        (Weak::Release, Ordering::Release) | (Weak::Acquire, Ordering::Acquire) => {
            Ordering::Relaxed
        }
        _ => order,
    }
}

/// A full fence, unless it is this one that is weakened.
pub(crate) fn fence(order: Ordering) {
    let ours = SIDE.with(Cell::get);
    if ours.is_none_or(|side| WEAK.get() != Weak::Fence(side)) {
        model::fence(order);
    }
}

/// As in the standard library.
#[derive(Debug)]
pub(crate) struct AtomicU64(model::AtomicU64);

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        AtomicU64(model::AtomicU64::new(value))
    }

    pub(crate) fn load(&self, order: Ordering) -> u64 {
        self.0.load(weakened(order))
    }

    pub(crate) fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, weakened(order));
    }

    pub(crate) fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.swap(value, weakened(order))
    }

    pub(crate) fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.0.fetch_or(bits, weakened(order))
    }

    pub(crate) fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.0.fetch_and(bits, weakened(order))
    }

    pub(crate) fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, weakened(success), weakened(failure))
    }
}

/// As in the standard library.
#[derive(Debug)]
pub(crate) struct AtomicBool(model::AtomicBool);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        AtomicBool(model::AtomicBool::new(value))
    }

    pub(crate) fn load(&self, order: Ordering) -> bool {
        self.0.load(weakened(order))
    }

    pub(crate) fn store(&self, value: bool, order: Ordering) {
        self.0.store(value, weakened(order));
    }
}
