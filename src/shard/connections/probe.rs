//! Rounds in which the peers of all connections are asked whether they are there: the peer of a
//! session without traffic would not be missed.

use std::ops::Range;
use std::time::Duration;

use reactor::Instant;

/// Connections looked at in one turn of a round.
const PROBES_PER_TURN: usize = 64;

/// When the next round is due, and where the one under way goes on.
#[derive(Debug)]
pub(crate) struct Probes {
    at: Instant,
    next: usize,
    every: Duration,
}

impl Probes {
    /// Rounds begin `every` so often.
    pub(crate) fn new(every: Duration) -> Probes {
        Probes { at: Instant::default(), next: 0, every }
    }

    /// A part of a round is due.
    #[inline]
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.at <= now
    }

    /// The places of `count` that are looked at in this turn.
    pub(crate) fn part(&mut self, now: Instant, count: usize) -> Range<usize> {
        let part = self.next..count.min(self.next + PROBES_PER_TURN);
        self.next = part.end;
        if part.end == count {
            self.next = 0;
            self.at = now.after(self.every);
        }
        part
    }
}
