//! What a cache line costs from one core to another and back: the floor under every command over
//! shared memory. Where a host moves a guest's processors about, it changes from minute to minute.
//!
//! `round_trip CORE CORE` prints the median of short runs, in nanoseconds.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Round trips of a run: short, so that an interruption spoils one run only.
const TRIPS: u64 = 1000;
/// How long to measure.
const TIME: Duration = Duration::from_millis(100);

/// A word that shares its cache lines with nothing.
#[repr(align(128))]
struct Word(AtomicU64);

static THERE: Word = Word(AtomicU64::new(0));
static BACK: Word = Word(AtomicU64::new(0));
static OVER: AtomicBool = AtomicBool::new(false);

fn pin(core: usize) -> Result<()> {
    let mut only = rustix::thread::CpuSet::new();
    only.set(core);
    rustix::thread::sched_setaffinity(None, &only).with_context(|| format!("core {core}"))
}

/// Sends back every number that comes.
fn echo() {
    let mut last = 0;
    while !OVER.load(Ordering::Relaxed) {
        let number = THERE.0.load(Ordering::Acquire);
        if number != last {
            BACK.0.store(number, Ordering::Release);
            last = number;
        }
    }
}

/// Nanoseconds of a round trip in each run.
fn runs() -> Vec<f64> {
    let (mut runs, mut number) = (Vec::new(), 0);
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        let start = Instant::now();
        for _ in 0..TRIPS {
            number += 1;
            THERE.0.store(number, Ordering::Release);
            while BACK.0.load(Ordering::Acquire) != number {
                std::hint::spin_loop();
            }
        }
        runs.push(start.elapsed().as_nanos() as f64 / TRIPS as f64);
    }
    runs
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [near, far] = arguments.as_slice() else { anyhow::bail!("usage: round_trip CORE CORE") };
    let (near, far) = (near.parse().context(near.clone())?, far.parse().context(far.clone())?);
    anyhow::ensure!(near != far, "two cores are needed");
    let mut runs = std::thread::scope(|scope| -> Result<Vec<f64>> {
        let other = scope.spawn(|| pin(far).map(|()| echo()));
        // Not before: the other thread would be born on this core.
        let pinned = pin(near);
        // Nothing comes back from a thread that could not be pinned.
        while !other.is_finished() && BACK.0.load(Ordering::Acquire) == 0 {
            THERE.0.store(u64::MAX, Ordering::Release);
        }
        let runs = if other.is_finished() { Vec::new() } else { runs() };
        OVER.store(true, Ordering::Relaxed);
        other.join().expect("no panic in the echo").and(pinned)?;
        Ok(runs)
    })?;
    runs.sort_by(f64::total_cmp);
    println!("{:.1}", runs[runs.len() / 2]);
    Ok(())
}
