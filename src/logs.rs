//! The log: one output on standard error, whose level can change while the target runs.
//!
//! SPDK has two levels, for the system log and for standard error. Here both govern the one
//! output: a line is written when either asks for it.

use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;

/// Importance of a log line, in SPDK's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something looks wrong.
    Warning,
    /// What an operator wants to know.
    Notice,
    /// Details of the control path.
    Info,
    /// Everything.
    Debug,
}

/// All levels, least talkative first.
pub const LEVELS: [Level; 5] =
    [Level::Error, Level::Warning, Level::Notice, Level::Info, Level::Debug];

impl Level {
    /// SPDK's word for the level.
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "ERROR",
            Level::Warning => "WARNING",
            Level::Notice => "NOTICE",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Level::Error => LevelFilter::ERROR,
            Level::Warning => LevelFilter::WARN,
            Level::Notice => LevelFilter::INFO,
            Level::Info => LevelFilter::DEBUG,
            Level::Debug => LevelFilter::TRACE,
        }
    }
}

/// A word that is no level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of ERROR, WARNING, NOTICE, INFO, DEBUG")]
pub struct UnknownLevel(String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        LEVELS
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownLevel(text.chars().take(40).collect()))
    }
}

#[derive(Debug, Clone, Copy)]
struct Levels {
    log: Level,
    print: Level,
}

/// The two levels and the filter that obeys them. Clones share them.
#[derive(Clone)]
pub struct Logs {
    levels: Arc<Mutex<Levels>>,
    apply: Arc<dyn Fn(LevelFilter) + Send + Sync>,
}

impl Logs {
    /// Levels that call `apply` whenever the effective filter may have changed.
    pub fn new(level: Level, apply: impl Fn(LevelFilter) + Send + Sync + 'static) -> Self {
        Logs {
            levels: Arc::new(Mutex::new(Levels { log: level, print: level })),
            apply: Arc::new(apply),
        }
    }

    /// Starts writing log lines of the whole process to standard error. Once per process; a second
    /// call leaves the first output in place.
    pub fn start(level: Level) -> Self {
        let (filter, handle) = reload::Layer::new(level.filter());
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        let _ = tracing::subscriber::set_global_default(subscriber);
        // The filter is gone only when the process ends.
        Logs::new(level, move |filter| drop(handle.modify(|now| *now = filter)))
    }

    /// Level of the log.
    pub fn level(&self) -> Level {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).log
    }

    /// Level of what is printed.
    pub fn print_level(&self) -> Level {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).print
    }

    /// Sets the level of the log.
    pub fn set_level(&self, level: Level) {
        self.change(|levels| levels.log = level);
    }

    /// Sets the level of what is printed.
    pub fn set_print_level(&self, level: Level) {
        self.change(|levels| levels.print = level);
    }

    fn change(&self, change: impl FnOnce(&mut Levels)) {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut levels);
        (self.apply)(levels.log.max(levels.print).filter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_talkative_level_counts() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let logs = Logs::new(Level::Notice, move |filter| sink.lock().unwrap().push(filter));
        logs.set_print_level(Level::Debug);
        logs.set_level(Level::Error);
        logs.set_print_level(Level::Warning);
        assert_eq!(
            *seen.lock().unwrap(),
            [LevelFilter::TRACE, LevelFilter::TRACE, LevelFilter::WARN]
        );
        assert_eq!((logs.level(), logs.print_level()), (Level::Error, Level::Warning));
    }

    #[test]
    fn levels_are_read_as_they_are_written() {
        for level in LEVELS {
            assert_eq!(level.name().parse(), Ok(level));
        }
        assert_eq!("notice".parse(), Ok(Level::Notice));
        assert!("VERBOSE".parse::<Level>().is_err());
    }
}
