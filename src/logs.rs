//! The log: one output on standard error, whose level can change while the target runs.
//!
//! Nobody who logs waits for standard error (`output`): no core, no thread of the control plane,
//! not even the end of the process, but for [`END_WAIT_MAX`].
//!
//! SPDK has two levels, for the system log and for standard error. Here both govern the one
//! output: a line is written when either asks for it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};

mod output;

use output::{Lines, Output};

/// How long the end of the process, or of a thread that panicked, waits for its last lines.
pub const END_WAIT_MAX: Duration = Duration::from_millis(200);

/// The output of the process, once [`Logs::start`] has run.
static OUTPUT: OnceLock<Arc<Output>> = OnceLock::new();

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

/// The last words of a thread or of the process, after what is in the log already: waits until they
/// are written, but not longer than [`END_WAIT_MAX`].
pub fn end_with(words: impl Display) {
    let line = format!("{words}\n");
    match OUTPUT.get() {
        Some(output) => {
            output.push_urgent(line.as_bytes());
            output.flush(END_WAIT_MAX);
        }
        // The process has not got so far that it has a log.
        None => eprint!("{line}"),
    }
}

/// Waits until the log is written, but not longer than [`END_WAIT_MAX`].
pub fn end() {
    if let Some(output) = OUTPUT.get() {
        output.flush(END_WAIT_MAX);
    }
}

/// Lets lines up to a level pass, by its place in [`LEVELS`]. Cores ask it without a lock.
struct Filter(Arc<AtomicUsize>);

impl Filter {
    fn now(&self) -> LevelFilter {
        LEVELS[self.0.load(Ordering::Relaxed)].filter()
    }
}

impl<S: Subscriber> tracing_subscriber::Layer<S> for Filter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if *metadata.level() <= self.now() { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.now()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.now())
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

    /// Starts writing log lines of the whole process, and the messages of its panics, to standard
    /// error. Once per process; a second call leaves the first output in place.
    ///
    /// Fails when the system has no thread to give.
    pub fn start(level: Level) -> std::io::Result<Self> {
        let output = Output::start(std::io::stderr())?;
        let filter = Filter(Arc::new(AtomicUsize::new(level as usize)));
        let now = Arc::clone(&filter.0);
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(Lines(Arc::clone(&output)))
            .with_ansi(std::io::stderr().is_terminal())
            .log_internal_errors(false);
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        if tracing::subscriber::set_global_default(subscriber).is_ok() {
            OUTPUT.get_or_init(|| output);
            std::panic::set_hook(Box::new(|info| {
                let thread = std::thread::current();
                let name = thread.name().unwrap_or("without a name").to_owned();
                let trace = Backtrace::capture();
                let trace = match trace.status() {
                    BacktraceStatus::Captured => format!("\n{trace}"),
                    _ => String::new(),
                };
                end_with(format_args!("thread '{name}' {info}{trace}"));
            }));
        }
        Ok(Logs::new(level, move |filter| {
            let level = LEVELS.iter().position(|level| level.filter() == filter);
            now.store(level.unwrap_or_default(), Ordering::Relaxed);
            tracing::callsite::rebuild_interest_cache();
        }))
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
