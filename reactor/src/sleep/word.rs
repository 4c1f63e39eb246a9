//! The word of a [`super::Sleep`]: one bit per source with something pending, and one that says
//! that the core sleeps. No system calls, so that the model tests can run this very file.

use super::atomic::{AtomicU64, Ordering};

/// The core sleeps, or is about to and will look at the eventfd first.
const ASLEEP: u64 = 1 << 63;

/// How many sources have a bit of their own; source `n` uses bit `n % SOURCE_BITS`.
pub const SOURCE_BITS: usize = 63;

/// The bit of a source in what `Word::take` returns.
#[inline]
pub const fn source_bit(source: usize) -> u64 {
    1 << (source % SOURCE_BITS)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Word(AtomicU64);

impl Word {
    /// An awake core with nothing pending.
    pub(super) fn new() -> Self {
        Word(AtomicU64::new(0))
    }

    /// Sender: something is pending at `source`. True: the core sleeps, and it is up to this sender
    /// to wake it.
    #[inline]
    #[must_use]
    pub(super) fn post(&self, source: usize) -> bool {
        let before = self.0.fetch_or(source_bit(source), Ordering::Release);
        // A core only falls asleep with nothing pending, so exactly one sender sees this value.
        before == ASLEEP
    }

    /// Core: true when a source has something pending.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Core, awake: takes the bits of the sources that have something pending, and sees what they
    /// wrote before.
    #[inline]
    pub(super) fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Acquire) & !ASLEEP
    }

    /// Core: announces sleep, unless something is pending.
    #[must_use]
    pub(super) fn announce(&self) -> bool {
        // Failure needs no order: the core calls `take`, which acquires.
        self.0.compare_exchange(0, ASLEEP, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Core: is awake again. What became pending meanwhile stays so.
    pub(super) fn cancel(&self) {
        self.0.fetch_and(!ASLEEP, Ordering::Relaxed);
    }
}
