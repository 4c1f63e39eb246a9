//! Time as an argument: the loop reads the clock once per turn and passes it down.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Nanoseconds since an arbitrary start of this process's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Instant(u64);

impl Instant {
    /// An instant by its nanoseconds.
    pub const fn from_ns(ns: u64) -> Self {
        Instant(ns)
    }

    /// Nanoseconds since the clock's start.
    #[inline]
    pub const fn ns(self) -> u64 {
        self.0
    }

    /// Nanoseconds from `earlier` to here, zero if `earlier` is later.
    #[inline]
    pub const fn ns_since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This instant and a duration later.
    #[inline]
    pub fn after(self, wait: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Where the loop reads the time: the time-stamp counter in production, [`Manual`] in simulation.
pub trait Clock {
    /// The time now.
    fn now(&self) -> Instant;
}

/// A clock that moves only when told to. Clones share the time.
#[derive(Debug, Clone, Default)]
pub struct Manual(Rc<Cell<u64>>);

impl Manual {
    /// Moves the time forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now().after(by));
    }

    /// Sets the time.
    pub fn set(&self, to: Instant) {
        self.0.set(to.ns());
    }
}

impl Clock for Manual {
    fn now(&self) -> Instant {
        Instant(self.0.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_saturate_at_both_ends() {
        let (early, late) = (Instant::from_ns(5), Instant::from_ns(8));
        assert_eq!((late.ns_since(early), early.ns_since(late)), (3, 0));
        assert_eq!(late.after(Duration::MAX).ns(), u64::MAX);
    }

    #[test]
    fn clones_of_a_manual_clock_share_the_time() {
        let clock = Manual::default();
        let other = clock.clone();
        clock.advance(Duration::from_micros(2));
        assert_eq!(other.now(), Instant::from_ns(2_000));
    }
}
