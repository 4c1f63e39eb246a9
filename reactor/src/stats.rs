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

/// How many lengths of turns are told apart: each but the last one is twice the one before.
pub const TURN_LENGTHS: usize = 24;

/// Turns of the first length are shorter than two to the power of this, in nanoseconds.
const TURN_NS_FIRST: u32 = 8;

/// Where the turns of a length end, in nanoseconds: all of them are shorter. `None` for the last
/// length, which has no end.
pub fn turn_ns_end(length: usize) -> Option<u64> {
    (length + 1 < TURN_LENGTHS).then(|| 1 << (TURN_NS_FIRST as usize + length))
}

/// One core's time, in nanoseconds, on cache lines of its own.
#[derive(Debug, Default)]
pub struct CoreStats(CachePadded<CoreStatsLine>);

/// The fields of [`CoreStats`].
#[derive(Debug, Default)]
pub struct CoreStatsLine {
    /// Time of turns that moved something.
    pub busy_ns: Counter,
    /// Time of turns that found nothing, and of sleep.
    pub idle_ns: Counter,
    /// Turns that moved something, by their length; see [`turn_ns_end`]. Nothing that arrives
    /// meanwhile is looked at before the turn is over, so this is what others wait for.
    pub busy_turns: [Counter; TURN_LENGTHS],
    /// Turns of the loop.
    pub turns: Counter,
    /// Times the core slept.
    pub sleeps: Counter,
    /// Kernel thread id, 0 before the thread runs.
    pub tid: AtomicI32,
    /// True while the core sleeps.
    pub asleep: AtomicBool,
}

impl CoreStatsLine {
    /// Counts a turn that moved something. Only the owning core may call it.
    #[inline]
    pub fn add_busy(&self, turn_ns: u64) {
        self.busy_ns.add(turn_ns);
        let length = u64::BITS - (turn_ns >> TURN_NS_FIRST).leading_zeros();
        self.busy_turns[(length as usize).min(TURN_LENGTHS - 1)].add(1);
    }
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
    fn a_turn_is_counted_where_it_ends() {
        for (turn_ns, length) in [(0, 0), (255, 0), (256, 1), (511, 1), (512, 2), (u64::MAX, 23)] {
            let stats = CoreStats::default();
            stats.add_busy(turn_ns);
            assert_eq!(stats.busy_ns.value(), turn_ns);
            let counts = stats.busy_turns.each_ref().map(Counter::value);
            assert_eq!((counts[length], counts.iter().sum()), (1, 1u64), "{turn_ns} ns");
            assert!(turn_ns_end(length).is_none_or(|end| turn_ns < end), "{turn_ns} ns");
            let before = length.checked_sub(1).and_then(turn_ns_end);
            assert!(before.is_none_or(|end| turn_ns >= end), "{turn_ns} ns");
        }
    }

    #[test]
    fn cores_do_not_share_a_cache_line() {
        assert!(align_of::<CoreStats>() >= 64);
    }
}
