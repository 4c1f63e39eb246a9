//! How many log lines peers may cause.
//!
//! Who connects, lies and leaves in a loop must not fill the log: there is a burst, and then so many
//! lines a second. The first line after some were left out says how many. Counters count all.

/// Lines at once.
const BURST: u32 = 64;
/// Time after which there is room for one more line, in ns.
const LINE_NS: u64 = 100_000_000;

/// A budget of lines.
#[derive(Debug)]
pub struct Lines {
    left: u32,
    /// When the last line came to be left.
    refilled_ns: u64,
    left_out: u64,
}

impl Default for Lines {
    /// 64 lines at once and 10 a second.
    fn default() -> Self {
        Lines { left: BURST, refilled_ns: 0, left_out: 0 }
    }
}

impl Lines {
    /// A line is due at `now_ns`, counted from anywhere. `None`: leave it out. Otherwise how many were
    /// left out before it, if any: the inner `None` is for the logger, which shows nothing then.
    pub fn take(&mut self, now_ns: u64) -> Option<Option<u64>> {
        let grown = now_ns.saturating_sub(self.refilled_ns) / LINE_NS;
        if grown > 0 {
            self.refilled_ns += grown * LINE_NS;
            let grown = u32::try_from(grown).unwrap_or(BURST);
            self.left = self.left.saturating_add(grown).min(BURST);
        }
        if self.left == 0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1;
        let left_out = std::mem::take(&mut self.left_out);
        Some((left_out > 0).then_some(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_logs_a_burst_and_then_a_trickle_that_says_what_is_missing() {
        let mut lines = Lines::default();
        let start = 5_000_000_000;
        let shown = (0..1000).filter(|_| lines.take(start).is_some()).count();
        assert_eq!(shown, 64);
        assert_eq!(lines.take(start + LINE_NS - 1), None);
        assert_eq!(lines.take(start + LINE_NS), Some(Some(937)));
        assert_eq!(lines.take(start + LINE_NS), None);
        let later = start + 3600 * 1_000_000_000;
        assert_eq!(lines.take(later), Some(Some(1)));
        assert_eq!((0..1000).filter(|_| lines.take(later).is_some()).count(), 63);
    }
}
