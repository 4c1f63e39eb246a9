//! The log lines that peers cause: all of one part go through its [`PeerLines`], so that no way to
//! annoy us is left out of the budget.

use std::time::Instant;

use reactor::Lines;

/// The budget of one part: a burst of lines, and then so many a second (see [`Lines`]). Reads the
/// clock when a line is due and at no other time.
#[derive(Debug)]
pub(crate) struct PeerLines {
    lines: Lines,
    started: Instant,
}

impl Default for PeerLines {
    fn default() -> Self {
        PeerLines { lines: Lines::default(), started: Instant::now() }
    }
}

impl PeerLines {
    /// For [`peer_line`]: see [`Lines::take`].
    pub(crate) fn take(&mut self) -> Option<Option<u64>> {
        let now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.lines.take(now_ns)
    }
}

/// Logs a line that a peer has caused, if the budget has room for it, with the number of lines that
/// were left out before it: `peer_line!(lines, WARN, field, "words")`. A line that the log's level
/// hides costs nothing of the budget.
macro_rules! peer_line {
    ($lines:expr, $level:ident, $($line:tt)+) => {
        if tracing::enabled!(tracing::Level::$level)
            && let Some(left_out) = $lines.take()
        {
            tracing::event!(tracing::Level::$level, left_out, $($line)+);
        }
    };
}

pub(crate) use peer_line;
