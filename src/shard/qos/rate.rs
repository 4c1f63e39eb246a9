//! Rate limits of a bdev, shared by all cores.
//!
//! A [`Limiter`] is a clock of its own for each limit: the time at which what was granted so far is
//! paid for. A command takes its cost from every limit that concerns it and may start when the last
//! of them says so. Times that were not used are forgotten after [`BURST_NS`], so an idle bdev
//! saves nothing up, and a core that was late catches up.
//!
//! Grants are in the order of asking, over all cores. Costs a few atomic operations per command
//! where there is a limit.

use std::sync::atomic::{AtomicU64, Ordering};

use reactor::Instant;

/// Unused time that can still be used, in ns: what a limit may be exceeded by at once.
pub const BURST_NS: u64 = 10_000_000;

/// Units of the clocks per ns: the cost of a command is a whole number of them.
const UNITS: u64 = 64;
const UNITS_PER_S: u64 = UNITS * 1_000_000_000;

/// Limits of a bdev per second; 0: none. A byte limit counts what reads and writes move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Reads and writes.
    pub rw_ios: u64,
    /// Bytes read and written.
    pub rw_bytes: u64,
    /// Bytes read.
    pub r_bytes: u64,
    /// Bytes written.
    pub w_bytes: u64,
}

impl RateLimits {
    /// True when any limit is set.
    pub fn is_on(&self) -> bool {
        self.all() != [0; 4]
    }

    /// Reads and writes have limits of their own, so they wait apart.
    pub fn is_split(&self) -> bool {
        self.r_bytes != 0 || self.w_bytes != 0
    }

    /// What holds for a bdev over one with `below`: the stricter of each.
    pub fn over(&self, below: &RateLimits) -> RateLimits {
        let stricter = |a: u64, b: u64| match (a, b) {
            (0, b) => b,
            (a, 0) => a,
            (a, b) => a.min(b),
        };
        RateLimits {
            rw_ios: stricter(self.rw_ios, below.rw_ios),
            rw_bytes: stricter(self.rw_bytes, below.rw_bytes),
            r_bytes: stricter(self.r_bytes, below.r_bytes),
            w_bytes: stricter(self.w_bytes, below.w_bytes),
        }
    }

    fn all(&self) -> [u64; 4] {
        [self.rw_ios, self.rw_bytes, self.r_bytes, self.w_bytes]
    }
}

/// What a command takes from the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// It changes the medium.
    pub writes: bool,
    /// Bytes that it reads or writes there.
    pub bytes: u64,
}

impl Cost {
    /// How much of each limit, in the order of [`RateLimits::all`].
    fn amounts(&self) -> [u64; 4] {
        let (read, written) = if self.writes { (0, self.bytes) } else { (self.bytes, 0) };
        [1, self.bytes, read, written]
    }
}

/// The limits of one bdev while it is a logical unit.
#[derive(Debug, Default)]
pub struct Limiter {
    rates: [AtomicU64; 4],
    /// When the next command of each limit may start, in 1/64 ns.
    next: [AtomicU64; 4],
}

impl Limiter {
    /// Changes the limits and forgets what was granted: those who wait must ask again.
    pub fn set(&self, limits: &RateLimits) {
        for ((rate, next), limit) in self.rates.iter().zip(&self.next).zip(limits.all()) {
            next.store(0, Ordering::Relaxed);
            rate.store(limit, Ordering::Relaxed);
        }
    }

    /// The limits.
    pub fn limits(&self) -> RateLimits {
        let [rw_ios, rw_bytes, r_bytes, w_bytes] =
            [0, 1, 2, 3].map(|at: usize| self.rates[at].load(Ordering::Relaxed));
        RateLimits { rw_ios, rw_bytes, r_bytes, w_bytes }
    }

    /// Grants a command and says when it may start: at `now` or before when there is room.
    pub fn reserve(&self, now: Instant, cost: &Cost) -> Instant {
        let earliest = now.ns().saturating_sub(BURST_NS).saturating_mul(UNITS);
        let mut start = 0;
        for (at, units) in self.units(cost) {
            let next = &self.next[at];
            let mut old = next.load(Ordering::Relaxed);
            loop {
                let mine = old.max(earliest);
                let new = mine.saturating_add(units);
                match next.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => {
                        start = start.max(mine);
                        break;
                    }
                    Err(other) => old = other,
                }
            }
        }
        // Not a moment too early.
        Instant::from_ns(start.div_ceil(UNITS))
    }

    /// Takes a grant back that was not used.
    pub fn refund(&self, cost: &Cost) {
        for (at, units) in self.units(cost) {
            let back = |next: u64| Some(next.saturating_sub(units));
            let _ = self.next[at].fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
        }
    }

    /// The limits that a command takes from, and how much.
    fn units(&self, cost: &Cost) -> impl Iterator<Item = (usize, u64)> + '_ {
        let amounts = cost.amounts();
        self.rates.iter().enumerate().filter_map(move |(at, rate)| {
            let (rate, amount) = (rate.load(Ordering::Relaxed), amounts[at]);
            if rate == 0 || amount == 0 {
                return None;
            }
            let units = match amount.checked_mul(UNITS_PER_S) {
                Some(product) => product.div_ceil(rate),
                None => {
                    let units = u128::from(amount) * u128::from(UNITS_PER_S) / u128::from(rate);
                    u64::try_from(units).unwrap_or(u64::MAX)
                }
            };
            Some((at, units))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Cost = Cost { writes: false, bytes: 4096 };
    const WRITE: Cost = Cost { writes: true, bytes: 4096 };

    fn limiter(limits: RateLimits) -> Limiter {
        let limiter = Limiter::default();
        limiter.set(&limits);
        limiter
    }

    /// Grants of a second from a time on, asked for as soon as the one before is there.
    fn granted_in_a_second(limiter: &Limiter, cost: &Cost, from: Instant) -> u64 {
        let (mut now, mut count) = (from, 0);
        loop {
            let start = limiter.reserve(now, cost);
            if start.ns() >= from.ns() + 1_000_000_000 {
                return count;
            }
            now = now.max(start);
            count += 1;
        }
    }

    #[test]
    fn every_rate_is_exact_but_for_the_burst() {
        let from = Instant::from_ns(77_000_000_000);
        for rw_ios in [1, 7, 100, 10_000, 333_333, 500_000, 3_000_000] {
            let limiter = limiter(RateLimits { rw_ios, ..RateLimits::default() });
            let burst = rw_ios * BURST_NS / 1_000_000_000;
            let count = granted_in_a_second(&limiter, &READ, from);
            let expected = rw_ios + burst;
            assert!(count.abs_diff(expected) <= 1 + expected / 2000, "{rw_ios}: {count}");
        }
        let limiter = limiter(RateLimits { rw_bytes: 50 << 20, ..RateLimits::default() });
        let count = granted_in_a_second(&limiter, &WRITE, from);
        assert!(count.abs_diff(12_800 + 128) <= 7, "{count}");
    }

    #[test]
    fn reads_and_writes_have_limits_of_their_own() {
        let now = Instant::from_ns(1_000_000_000);
        let limiter = limiter(RateLimits { r_bytes: 4096, ..RateLimits::default() });
        assert!(limiter.reserve(now, &READ) <= now);
        for _ in 0..5 {
            assert!(limiter.reserve(now, &WRITE) <= now);
        }
        let second = limiter.reserve(now, &READ);
        assert_eq!(second.ns_since(now), 1_000_000_000 - BURST_NS);
    }

    #[test]
    fn what_is_taken_back_can_be_granted_again() {
        let now = Instant::from_ns(1_000_000_000);
        let limiter = limiter(RateLimits { rw_ios: 1, ..RateLimits::default() });
        limiter.reserve(now, &READ);
        let start = limiter.reserve(now, &READ);
        assert!(start > now);
        limiter.refund(&READ);
        assert_eq!(limiter.reserve(now, &READ), start);
    }

    #[test]
    fn the_stricter_limit_of_a_stack_holds() {
        let upper = RateLimits { rw_ios: 10, r_bytes: 5, ..RateLimits::default() };
        let lower = RateLimits { rw_ios: 20, w_bytes: 7, r_bytes: 3, ..RateLimits::default() };
        let both = RateLimits { rw_ios: 10, rw_bytes: 0, r_bytes: 3, w_bytes: 7 };
        assert_eq!(upper.over(&lower), both);
        assert!(both.is_split() && both.is_on() && !RateLimits::default().is_on());
    }

    #[test]
    fn costs_beyond_all_measure_do_not_wrap() {
        let limiter = limiter(RateLimits { rw_bytes: 1, ..RateLimits::default() });
        let huge = Cost { writes: true, bytes: u64::MAX };
        limiter.reserve(Instant::from_ns(5), &huge);
        assert!(limiter.reserve(Instant::from_ns(5), &READ).ns() > 1 << 57);
    }
}
