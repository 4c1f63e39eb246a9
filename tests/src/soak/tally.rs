//! What happened, over any number of runs: trouble that never struck is a hole in the test.

use srpt_tgt::shard::coverage::{At, Mark, Met, marked, times_met};

use super::plan::Fault;

macro_rules! seen {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Something that should be seen now and then.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Seen { $($(#[$doc])* $name,)* }

        impl Seen {
            /// All of them.
            pub const ALL: &[Seen] = &[$(Seen::$name,)*];
            const NAMES: &[&str] = &[$($text,)*];
        }
    };
}

seen! {
    /// Commands sent.
    Commands = "commands",
    /// Commands answered.
    Answered = "answered",
    /// Commands taken away by a function.
    Aborted = "aborted",
    /// Commands that another's function took away, found by the initiator's patience.
    Taken = "taken",
    /// Commands of channels that ended.
    Orphaned = "orphaned",
    /// Blocks read that might have held several values.
    Either = "either value",
    /// Comparisons that failed.
    Miscompares = "miscompares",
    /// Unit attentions.
    Attentions = "unit attentions",
    /// Commands to a LUN that was away.
    Absent = "LUN absent",
    /// Commands beyond a device that had shrunk.
    Beyond = "beyond the end",
    /// Device errors that arrived as sense data.
    Errors = "device errors",
    /// Wrong data that the oracle found.
    Corruptions = "corruptions found",
    /// Logins accepted.
    Logins = "logins",
    /// Logins rejected.
    Rejects = "logins rejected",
    /// Commands answered that were certain to be charged to a rate limit.
    Limited = "rate-limited",
    /// Asynchronous events.
    Events = "events",
    /// SRP_T_LOGOUT received.
    Farewells = "farewells",
    /// Blocks that a crash took back to an older value.
    Undone = "writes undone by a crash",
    /// Hostile initiators whose connection the target ended.
    Expelled = "hostile initiators expelled",
    /// Machines that vanished, whose channels ended one after the other.
    Missed = "missed as a whole",
    /// Commands that met another session's reservation.
    Conflicts = "reservation conflicts",
    /// Commands that met a reservation that was certain.
    Excluded = "certain conflicts",
    /// Runs with a fair middle act.
    Fair = "fair acts",
}

/// Counts.
#[derive(Debug, Clone)]
pub struct Tally {
    faults: Vec<u64>,
    seen: Vec<u64>,
    /// Runs.
    pub runs: u64,
    /// Lines of event logs.
    pub lines: u64,
}

impl Default for Tally {
    fn default() -> Tally {
        let (faults, seen) = (vec![0; Fault::ALL.len()], vec![0; Seen::ALL.len()]);
        Tally { faults, seen, runs: 0, lines: 0 }
    }
}

impl Tally {
    /// A fault struck.
    pub fn fault(&mut self, fault: Fault) {
        self.faults(fault, 1);
    }

    /// Several struck.
    pub fn faults(&mut self, fault: Fault, count: u64) {
        self.faults[fault as usize] += count;
    }

    /// Something was seen.
    pub fn seen(&mut self, seen: Seen) {
        self.seen[seen as usize] += 1;
    }

    /// How often.
    pub fn count(&self, seen: Seen) -> u64 {
        self.seen[seen as usize]
    }

    /// Takes in what others counted.
    pub fn add(&mut self, other: &Tally) {
        let add = |to: &mut Vec<u64>, from: &[u64]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        };
        add(&mut self.faults, &other.faults);
        add(&mut self.seen, &other.seen);
        self.runs += other.runs;
        self.lines += other.lines;
    }

    /// Names with counts: faults, then what was seen.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let faults = Fault::ALL.iter().map(|fault| (fault.name(), self.faults[*fault as usize]));
        let seen = Seen::ALL.iter().map(|s| (Seen::NAMES[*s as usize], self.seen[*s as usize]));
        faults.chain(seen)
    }

    /// Names of what never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        self.rows().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }
}

/// Marks of the target that nobody has passed since the process began.
pub fn marks_missing() -> Vec<Mark> {
    Mark::ALL.iter().copied().filter(|mark| marked(*mark) == 0).collect()
}

/// What has happened to commands in each phase: a row per phase, a column per event, `x` for pairs
/// that were met since the process began.
pub fn pairs_table() -> String {
    let mut table = format!("{:<14}", "");
    for met in Met::ALL {
        table += &format!(" {:<8}", format!("{met:?}"));
    }
    table.truncate(table.trim_end().len());
    table.push('\n');
    for at in At::ALL {
        let mut row = format!("{:<14}", format!("{at:?}"));
        for met in Met::ALL {
            row += if times_met(*at, *met) > 0 { " x       " } else { " -       " };
        }
        table += row.trim_end();
        table.push('\n');
    }
    table
}
