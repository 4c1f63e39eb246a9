//! Prints what an idle turn costs: the clock alone, and the whole loop around an empty service.

use std::error::Error;
use std::hint::black_box;

use reactor::core::{CoreConfig, run_loop};
use reactor::mailbox::{Capacity, connect};
use reactor::stats::CoreStats;
use reactor::sys::tsc::Tsc;
use reactor::{Batch, Clock, Instant, Progress, Service};

const TURNS: u64 = 10_000_000;

/// Finds nothing, and stops after [`TURNS`].
struct Nothing(u64);

impl Service for Nothing {
    type Message = u64;

    fn turn(&mut self, _now: Instant, _inbox: &mut Batch<u64>) -> Progress {
        self.0 += 1;
        Progress::Idle
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn stopped(&self) -> bool {
        self.0 == TURNS
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let clock = Tsc::new();
    println!("clock: {}", if clock.is_counter() { "time-stamp counter" } else { "system" });
    let start = clock.now();
    for _ in 0..TURNS {
        black_box(clock.now());
    }
    report("reading of the clock", clock.now().ns_since(start));
    for cores in [1, 64] {
        let mut ends = connect(cores, Capacity { core: 16, control: 16 })?;
        let stats = CoreStats::default();
        let start = clock.now();
        run_loop(&clock, &CoreConfig::new(0), &mut ends[0].inbox, &stats, &mut Nothing(0));
        report(&format!("idle turn, {cores} mailboxes"), clock.now().ns_since(start));
    }
    Ok(())
}

fn report(what: &str, ns: u64) {
    println!("{what}: {:.1} ns", ns as f64 / TURNS as f64);
}
