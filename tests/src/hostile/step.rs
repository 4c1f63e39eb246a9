//! How fast offenders go.
//!
//! Anybody makes others wait by keeping the target busy, with good commands as with bad ones. So
//! that a comparison is one of what an offence does, and not of how many there are, offenders in
//! the process of the good session take a step only when that has done enough commands since the
//! step before: a step that costs the target one long turn is then no matter of the slowest
//! hundredth, and one that costs more is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Commands of the good session for one unit of an offender.
pub(super) const UNIT: u64 = 150;

/// Commands of the good session for one login of an offender, which takes several turns: of the
/// one who asks, of the one who decides, and of the end of the session.
pub(super) const LOGIN: u64 = 1500;

/// The longest wait for the good session, which may have no processor.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Whether offenders wait at all.
static PACED: AtomicBool = AtomicBool::new(false);

/// Commands of the good session in this process.
static DONE: AtomicU64 = AtomicU64::new(0);

/// From how many on the next step may be taken.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// From now on offenders of this process wait for the good session, or do not.
pub fn paced(on: bool) {
    PACED.store(on, Ordering::Relaxed);
}

/// The good session has done so many commands.
pub(super) fn done(commands: u64) {
    DONE.store(commands, Ordering::Relaxed);
}

/// Waits until a step may be taken that needs so many commands until the next one.
pub(super) fn take(cost: u64) {
    let begun = Instant::now();
    while PACED.load(Ordering::Relaxed) {
        let done = DONE.load(Ordering::Relaxed);
        if done >= NEXT.load(Ordering::Relaxed) || begun.elapsed() > WAIT_MAX {
            return NEXT.store(done + cost, Ordering::Relaxed);
        }
        std::thread::yield_now();
    }
}
