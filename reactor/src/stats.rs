//! What a core did, published for readers on other threads.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// A counter with one writer and any readers. Adding is a load and a store, not a locked
/// instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only the owning core may call it.
    #[inline]
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// Sets the value. Only the owning core may call it.
    #[inline]
    pub fn set(&self, to: u64) {
        self.0.store(to, Ordering::Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One core's time, in nanoseconds, on a cache line of its own.
#[derive(Debug, Default)]
pub struct CoreStats(CachePadded<CoreStatsLine>);

/// The fields of [`CoreStats`].
#[derive(Debug, Default)]
pub struct CoreStatsLine {
    /// Time of turns that moved something.
    pub busy_ns: Counter,
    /// Time of turns that found nothing, and of sleep.
    pub idle_ns: Counter,
    /// Turns of the loop.
    pub turns: Counter,
    /// Times the core slept.
    pub sleeps: Counter,
    /// Kernel thread id, 0 before the thread runs.
    pub tid: AtomicI32,
    /// True while the core sleeps.
    pub asleep: AtomicBool,
}

impl std::ops::Deref for CoreStats {
    type Target = CoreStatsLine;
    fn deref(&self) -> &CoreStatsLine {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_adds_sets_and_wraps() {
        let counter = Counter::default();
        counter.add(3);
        counter.add(4);
        assert_eq!(counter.value(), 7);
        counter.set(u64::MAX);
        counter.add(2);
        assert_eq!(counter.value(), 1);
    }

    #[test]
    fn cores_do_not_share_a_cache_line() {
        assert!(align_of::<CoreStats>() >= 64);
    }
}
