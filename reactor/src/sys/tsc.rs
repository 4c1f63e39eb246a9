//! The production clock: the processor's time-stamp counter.
//!
//! Used when the processor says that the counter runs at one rate in every power state, and the
//! kernel trusts it to agree between cores; else the clock is `CLOCK_MONOTONIC`. Calibrated once
//! per process, so all cores share rate and start.
//!
//! The rate is off by a few parts per million and is not steered by NTP: good for intervals and
//! timeouts, not for wall-clock time. Reading costs some ten nanoseconds at most, most of them the
//! counter's own.

use std::cell::Cell;
use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

use crate::{Clock, Instant};

/// How long the calibration at the first [`Tsc::new`] keeps the thread busy.
const CALIBRATION_NS: u64 = 20_000_000;

/// Fraction bits of [`Rate::multiplier`].
const SHIFT: u32 = 32;

/// Ticks of the counter since `base`, as nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    base: u64,
    /// Nanoseconds per tick, times 2^[`SHIFT`].
    multiplier: u64,
}

impl Rate {
    #[inline]
    fn ns(self, ticks: u64) -> u64 {
        let elapsed = ticks.saturating_sub(self.base);
        // 128 bits, because 2^64 ticks times a rate near 1 overflow 64 within seconds.
        ((u128::from(elapsed) * u128::from(self.multiplier)) >> SHIFT) as u64
    }
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Counter(Rate),
    /// `CLOCK_MONOTONIC`, counted from `base_ns`.
    Monotonic {
        base_ns: u64,
    },
}

/// One thread's clock. Having one tells you that the process's calibration is done, and that times
/// read from it never go back; times of different threads agree to within what a message takes.
#[derive(Debug)]
pub struct Tsc {
    source: Source,
    last: Cell<u64>,
}

impl Tsc {
    /// A clock. The first call in a process keeps the thread busy for 20 ms.
    pub fn new() -> Self {
        static SOURCE: OnceLock<Source> = OnceLock::new();
        Tsc { source: *SOURCE.get_or_init(source), last: Cell::new(0) }
    }

    /// True when the time comes from the processor's counter, false for `CLOCK_MONOTONIC`.
    pub fn is_counter(&self) -> bool {
        matches!(self.source, Source::Counter(_))
    }

    /// Ticks of the processor's counter in a second; `None` when it is not the clock.
    pub fn ticks_per_s(&self) -> Option<u64> {
        match self.source {
            Source::Counter(rate) => {
                Some(((1_000_000_000u128 << SHIFT) / u128::from(rate.multiplier)) as u64)
            }
            Source::Monotonic { .. } => None,
        }
    }
}

impl Default for Tsc {
    fn default() -> Self {
        Tsc::new()
    }
}

impl Clock for Tsc {
    #[inline]
    fn now(&self) -> Instant {
        let ns = match self.source {
            Source::Counter(rate) => rate.ns(counter::ticks()),
            Source::Monotonic { base_ns } => monotonic_ns() - base_ns,
        };
        // A counter may be read out of order, or step back when a virtual machine moves.
        let ns = ns.max(self.last.get());
        self.last.set(ns);
        Instant::from_ns(ns)
    }
}

fn source() -> Source {
    if !counter::is_invariant() || !kernel_trusts_counter() {
        return Source::Monotonic { base_ns: monotonic_ns() };
    }
    match calibrate(counter::ticks, monotonic_ns) {
        Some(rate) => Source::Counter(rate),
        None => Source::Monotonic { base_ns: monotonic_ns() },
    }
}

/// Compares the counter with the system's clock at both ends of [`CALIBRATION_NS`]. `None` when the
/// counter does not move as one would.
fn calibrate(ticks: impl Fn() -> u64, ns: impl Fn() -> u64) -> Option<Rate> {
    let (first_ticks, first_ns) = simultaneous(&ticks, &ns);
    while ns() - first_ns < CALIBRATION_NS {
        std::hint::spin_loop();
    }
    let (last_ticks, last_ns) = simultaneous(&ticks, &ns);
    let elapsed_ticks = last_ticks.checked_sub(first_ticks).filter(|ticks| *ticks > 0)?;
    let elapsed_ns = last_ns - first_ns;
    let multiplier = (u128::from(elapsed_ns) << SHIFT) / u128::from(elapsed_ticks);
    // Outside 1 MHz to 100 GHz it is no time-stamp counter.
    let multiplier = u64::try_from(multiplier).ok()?;
    let plausible = (1 << SHIFT) / 100..=1000 << SHIFT;
    plausible.contains(&multiplier).then_some(Rate { base: first_ticks, multiplier })
}

/// Counter and clock at the same moment: of several readings, the one least disturbed.
fn simultaneous(ticks: &impl Fn() -> u64, ns: &impl Fn() -> u64) -> (u64, u64) {
    (0..32)
        .map(|_| {
            let before = ticks();
            let at_ns = ns();
            let width = ticks().saturating_sub(before);
            (width, before + width / 2, at_ns)
        })
        .min()
        .map(|(_, ticks, ns)| (ticks, ns))
        .expect("several readings")
}

#[inline]
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The kernel strikes the counter from this list when it finds that cores disagree.
fn kernel_trusts_counter() -> bool {
    const LIST: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    std::fs::read_to_string(LIST)
        .map_or(true, |list| list.split_whitespace().any(|name| name == "tsc"))
}

#[cfg(target_arch = "x86_64")]
mod counter {
    use std::arch::x86_64::{__cpuid, _rdtsc};

    /// Leaf of the advanced power management features; bit 8 of EDX is "invariant TSC".
    const POWER_LEAF: u32 = 0x8000_0007;

    #[inline]
    pub(super) fn ticks() -> u64 {
        // SAFETY: every x86_64 processor has the instruction, and Linux lets processes use it.
        unsafe { _rdtsc() }
    }

    pub(super) fn is_invariant() -> bool {
        __cpuid(0x8000_0000).eax >= POWER_LEAF && __cpuid(POWER_LEAF).edx & (1 << 8) != 0
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod counter {
    pub fn ticks() -> u64 {
        0
    }

    pub fn is_invariant() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_rate_is_that_of_the_readings() {
        // 2.5 ticks per nanosecond; both clocks move with every look at the system's clock.
        let time = Cell::new(1_000u64);
        let ticks = || 77 + time.get() * 5 / 2;
        let ns = || {
            time.set(time.get() + 1_000);
            time.get()
        };
        let rate = calibrate(ticks, ns).unwrap();
        for seconds in [1, 3_600, 100 * 365 * 86_400] {
            let expected = seconds * 1_000_000_000;
            let ns = rate.ns(rate.base + expected * 5 / 2);
            assert!(ns.abs_diff(expected) <= expected / 10_000, "{ns} for {expected}");
        }
        assert_eq!(rate.ns(rate.base - 1), 0);
    }

    #[test]
    fn a_counter_that_stands_still_or_runs_back_is_refused() {
        let time = Cell::new(0);
        let ns = || {
            time.set(time.get() + 1_000_000);
            time.get()
        };
        assert_eq!(calibrate(|| 5, ns), None);
        assert_eq!(calibrate(|| u64::MAX / 2 - time.get(), ns), None);
        assert_eq!(calibrate(|| time.get() / 1_000_000, ns), None, "1 kHz");
    }

    #[test]
    fn it_keeps_pace_with_the_system() {
        let clock = Tsc::new();
        // Each reading lies between two of the system's, whatever preempts the thread.
        let bracketed = || (monotonic_ns(), clock.now(), monotonic_ns());
        let (before_first, first, after_first) = bracketed();
        let mut last = first;
        while monotonic_ns() - after_first < 5_000_000 {
            let now = clock.now();
            assert!(now >= last);
            last = now;
        }
        let (before_last, last, after_last) = bracketed();
        let elapsed = last.ns_since(first);
        let (least, most) = (before_last - after_first, after_last - before_first);
        assert!(elapsed >= least - least / 100, "{elapsed} ns, at least {least} ns");
        assert!(elapsed <= most + most / 100, "{elapsed} ns, at most {most} ns");
    }

    #[test]
    fn threads_agree() {
        let clock = Tsc::new();
        let (send, receive) = mpsc::channel();
        let other = std::thread::spawn(move || {
            let clock = Tsc::new();
            let sent: Instant = receive.recv().unwrap();
            (sent, clock.now())
        });
        send.send(clock.now()).unwrap();
        let (sent, received) = other.join().unwrap();
        let after = clock.now();
        assert!(sent <= received && received <= after, "{sent:?} {received:?} {after:?}");
    }
}
