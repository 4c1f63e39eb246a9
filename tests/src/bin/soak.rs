//! Runs random worlds against an oracle, by seed: see `srpt_tests::soak`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use srpt_tests::soak::plan::{Cuts, Fault};
use srpt_tests::soak::shrink::{Failure, attempt, quiet, shrink};
use srpt_tests::soak::tally::{Tally, marks_missing, pairs_table};
use srpt_tests::soak::{corpus, run};

/// Seeds after which everything must have been seen.
const COMPLETE: u64 = 20_000;

/// What commands meet in each phase, once everything has been seen.
const PAIRS: &str = include_str!("../../corpus/pairs.txt");

/// Random worlds against an oracle.
///
/// Without --seed or --count, runs seeds from 0 on. A run that fails is made smaller, and the line
/// that repeats it is printed.
#[derive(Parser, Debug)]
#[command(name = "soak", max_term_width = 100)]
struct Arguments {
    /// First seed, or with --count 1 the only one. Decimal, or hexadecimal with 0x
    #[arg(long, value_parser = number)]
    seed: Option<u64>,
    /// Number of seeds [default: 1 with --seed, else 1000]
    #[arg(long)]
    count: Option<u64>,
    /// Runs for so many seconds instead of a number of seeds
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Runs at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Prints the event log
    #[arg(long)]
    log: bool,
    /// Runs every seed twice, and compares the logs
    #[arg(long)]
    twice: bool,
    /// Runs the corpus of seeds that once failed
    #[arg(long)]
    corpus: bool,
    /// Stops at the first failure and leaves it as it is
    #[arg(long)]
    no_shrink: bool,
    /// Faults to leave out, comma-separated
    #[arg(long, value_delimiter = ',', value_parser = fault)]
    without: Vec<Fault>,
    /// Steps of the first act, at most
    #[arg(long)]
    steps: Option<u64>,
    /// Sessions, at most
    #[arg(long)]
    sessions: Option<u64>,
    /// Channels of a session, at most
    #[arg(long)]
    channels: Option<u64>,
    /// Cores, at most
    #[arg(long)]
    cores: Option<u64>,
    /// Commands, at most
    #[arg(long)]
    commands: Option<u64>,
}

fn number(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
}

fn fault(name: &str) -> Result<Fault, String> {
    let names = || Fault::ALL.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ");
    Fault::of_name(name).ok_or_else(|| format!("there are {}", names()))
}

/// What all jobs share.
struct Soak {
    arguments: Arguments,
    cuts: Cuts,
    next: AtomicU64,
    end: u64,
    until: Option<Instant>,
    stop: AtomicBool,
    tally: Mutex<Tally>,
    failure: Mutex<Option<Failure>>,
    hash: AtomicU64,
}

impl Soak {
    fn new(arguments: Arguments) -> Soak {
        let Arguments { without, steps, sessions, channels, cores, commands, .. } = &arguments;
        let cuts = Cuts {
            without: without.clone(),
            steps: *steps,
            sessions: *sessions,
            channels: *channels,
            cores: *cores,
            commands: *commands,
        };
        let first = arguments.seed.unwrap_or(0);
        let usual = if arguments.seed.is_some() { 1 } else { 1000 };
        let until = arguments.seconds.map(|s| Instant::now() + Duration::from_secs(s));
        let count =
            if until.is_some() { u64::MAX - first } else { arguments.count.unwrap_or(usual) };
        Soak {
            cuts,
            next: AtomicU64::new(first),
            end: first.saturating_add(count),
            until,
            stop: AtomicBool::new(false),
            tally: Mutex::default(),
            failure: Mutex::default(),
            hash: AtomicU64::new(0),
            arguments,
        }
    }

    /// One job: seeds until there are no more, or one has failed.
    fn work(&self) {
        let mut tally = Tally::default();
        while !self.stop.load(Ordering::Relaxed)
            && self.until.is_none_or(|until| Instant::now() < until)
        {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                break;
            }
            if let Err(failure) = self.seed(seed, &mut tally) {
                self.stop.store(true, Ordering::Relaxed);
                self.failure.lock().expect("no job panics").get_or_insert(*failure);
            }
        }
        self.tally.lock().expect("no job panics").add(&tally);
    }

    fn seed(&self, seed: u64, tally: &mut Tally) -> Result<(), Box<Failure>> {
        if self.arguments.log {
            run(seed, &self.cuts, true, tally);
            return Ok(());
        }
        let hash = attempt(seed, &self.cuts, tally)?;
        // Jobs finish in any order: a sum that does not mind.
        self.hash.fetch_add(hash ^ seed, Ordering::Relaxed);
        if self.arguments.twice {
            let again = attempt(seed, &self.cuts, &mut Tally::default())?;
            if again != hash {
                let what = format!("two runs differ: {hash:016x} and {again:016x}");
                return Err(Box::new(Failure { seed, cuts: self.cuts.clone(), what }));
            }
        }
        Ok(())
    }

    /// Prints what happened. False when something never did.
    fn report(&self, took: Duration) -> bool {
        let tally = self.tally.lock().expect("no job panics");
        for (name, count) in tally.rows() {
            println!("{count:>12} {name}");
        }
        let per_second = tally.runs as f64 / took.as_secs_f64();
        let hash = self.hash.load(Ordering::Relaxed);
        println!("{} lines of event logs, hash {hash:016x}", tally.lines);
        if self.arguments.twice {
            println!("every seed ran twice, with identical logs");
        }
        println!(
            "{} seeds passed in {:.1} s, {per_second:.0} seeds/s with {} job(s)",
            tally.runs,
            took.as_secs_f64(),
            self.arguments.jobs
        );
        if tally.runs < COMPLETE || self.cuts != Cuts::default() {
            return true;
        }
        let missing = tally.missing();
        println!("never happened: {missing:?}");
        if !cfg!(debug_assertions) {
            println!("marks of the target: not compiled in, use --profile soak");
            return missing.is_empty();
        }
        let marks = marks_missing();
        let table = pairs_table();
        println!("marks never passed: {marks:?}\n{table}");
        if table != PAIRS {
            println!("what commands met should be (tests/corpus/pairs.txt):\n{PAIRS}");
        }
        missing.is_empty() && marks.is_empty() && table == PAIRS
    }
}

/// Runs what once failed. False when something fails again.
fn corpus_passes() -> bool {
    let mut passes = true;
    for entry in corpus::entries() {
        let arguments = Arguments::parse_from(entry.arguments());
        let soak = Soak::new(arguments);
        soak.work();
        let failure = soak.failure.into_inner().expect("no job panics");
        println!("{} {}", if failure.is_some() { "FAILED" } else { "passed" }, entry.line);
        if let Some(failure) = failure {
            println!("    {}", failure.what);
            passes = false;
        }
    }
    passes
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.log {
        quiet();
    }
    if arguments.corpus {
        return if corpus_passes() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let soak = Soak::new(arguments);
    let began = Instant::now();
    std::thread::scope(|scope| {
        (0..soak.arguments.jobs).for_each(|_| drop(scope.spawn(|| soak.work())));
    });
    let failure = soak.failure.lock().expect("no job panics").take();
    let Some(failure) = failure else {
        let complete = soak.report(began.elapsed());
        return if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    };
    println!("seed {} failed: {}", failure.seed, failure.what);
    if !soak.arguments.no_shrink {
        let small = shrink(&failure);
        println!("smaller: {}", small.what);
        println!("again: soak --seed {:#x}{} --log", small.seed, small.cuts);
    }
    ExitCode::FAILURE
}
