//! Rate limits that the operator has set, and that nobody exceeds them.
//!
//! A limit is certain for commands that are sent after every core has confirmed it. Of these, no
//! more may be answered than a limiter could grant since it was told; one command is free, as what
//! is granted is paid for afterwards.

use reactor::Instant;
use srpt_tgt::shard::qos::rate::{BURST_NS, RateLimits};

/// What was granted by one limit since it is certain.
#[derive(Debug)]
struct Window {
    limits: RateLimits,
    /// When limiters were told.
    told: Instant,
    /// What is sent later is limited. `None` until all cores have confirmed.
    since: Option<u64>,
    /// Sums in the order of the limits, and the largest command in them.
    sums: [u64; 4],
    largest: [u64; 4],
}

/// The limits of all devices.
#[derive(Debug, Default)]
pub struct Rates {
    windows: [Option<Window>; 2],
    set: [bool; 2],
}

impl Rates {
    /// A device's limits are about to change.
    pub fn tell(&mut self, disk: usize, limits: RateLimits, now: Instant) {
        self.set[disk] = limits.is_on();
        self.windows[disk] = limits.is_on().then_some(Window {
            limits,
            told: now,
            since: None,
            sums: [0; 4],
            largest: [0; 4],
        });
    }

    /// All cores know it.
    pub fn confirm(&mut self, disk: usize, seq: u64) {
        if let Some(window) = &mut self.windows[disk] {
            window.since = Some(seq);
        }
    }

    /// From now on it is not certain which commands the limits of a device hold for.
    pub fn doubt(&mut self, disk: usize) {
        self.windows[disk] = None;
    }

    /// A device with limits.
    pub fn limited(&self) -> Option<usize> {
        self.set.iter().position(|set| *set)
    }

    /// A read or write that was sent at `sent` has been done. True when it was certainly limited.
    pub fn done(&mut self, disk: usize, sent: u64, writes: bool, bytes: u64, now: Instant) -> bool {
        let Some(window) = &mut self.windows[disk] else { return false };
        if window.since.is_none_or(|since| sent <= since) {
            return false;
        }
        let (read, written) = if writes { (0, bytes) } else { (bytes, 0) };
        for (at, amount) in [1, bytes, read, written].into_iter().enumerate() {
            window.sums[at] += amount;
            window.largest[at] = window.largest[at].max(amount);
        }
        window.check(now);
        true
    }
}

impl Window {
    fn check(&self, now: Instant) {
        let RateLimits { rw_ios, rw_bytes, r_bytes, w_bytes } = self.limits;
        let time_ns = u128::from(now.ns() - self.told.ns().saturating_sub(BURST_NS));
        for (at, rate) in [rw_ios, rw_bytes, r_bytes, w_bytes].into_iter().enumerate() {
            let granted = u128::from(rate) * time_ns / 1_000_000_000;
            let most = granted + u128::from(self.largest[at]) + 1;
            let within = rate == 0 || u128::from(self.sums[at]) <= most;
            assert!(within, "limit {at} was exceeded, {most} at most: {self:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Rates {
        let mut rates = Rates::default();
        let limits = RateLimits { rw_ios: 1_000_000, ..RateLimits::default() };
        rates.tell(0, limits, Instant::from_ns(1000));
        rates
    }

    #[test]
    fn what_a_limiter_may_grant_is_fine() {
        let mut rates = rates();
        assert!(!rates.done(0, 6, false, 512, Instant::from_ns(3000)), "not confirmed");
        rates.confirm(0, 7);
        assert!(!rates.done(0, 7, false, 512, Instant::from_ns(3000)), "sent before");
        (0..5).for_each(|_| assert!(rates.done(0, 8, true, 512, Instant::from_ns(3000))));
        assert_eq!((rates.limited(), rates.windows[0].is_some()), (Some(0), true));
        rates.doubt(0);
        assert!(!rates.done(0, 9, false, 512, Instant::from_ns(3000)));
        assert_eq!(rates.limited(), Some(0));
    }

    #[test]
    #[should_panic(expected = "limit 0 was exceeded")]
    fn more_is_not() {
        let mut rates = rates();
        rates.confirm(0, 7);
        (0..6).for_each(|_| _ = rates.done(0, 8, true, 512, Instant::from_ns(3000)));
    }
}
