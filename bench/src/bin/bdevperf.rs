//! Load generator straight on block devices: no fabric, no SCSI, one reactor per core.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bdev::Bdev;
use clap::Parser;
use reactor::CoreSet;
use reactor::sys::memory::PageWish;
use reactor::sys::tsc::Tsc;
use serde::Serialize;
use srpt_bench::device::load::{self, CoreTotals, Plan};
use srpt_bench::device::{Devices, Spec, copy, fill};
use srpt_bench::interrupt::Interrupt;
use srpt_bench::load::Totals;
use srpt_bench::options::{AFTER_HELP, JobOptions};
use srpt_bench::report::{Line, Percentile, percentiles};
use srpt_bench::size::parse_bytes;
use srpt_tgt::cli::VersionFlag;

/// Measures block devices inside this process. Writing workloads destroy what is on them.
#[derive(Debug, Parser)]
#[command(
    name = "bdevperf",
    version = srpt_tgt::version(),
    disable_version_flag = true,
    after_help = AFTER_HELP
)]
struct Options {
    #[command(flatten)]
    job: JobOptions,
    /// Processors, one reactor each: 0x3 or [0,2-3]
    #[arg(short = 'm', long, default_value = "0x1")]
    cpumask: CoreSet,
    /// Every core runs on every device, instead of one core per device
    #[arg(short = 'C', long)]
    every_core: bool,
    /// Configuration whose bdevs are made, as save_config writes it
    #[arg(short = 'c', long)]
    config: Option<PathBuf>,
    /// A device in words: null:SIZE, malloc:SIZE or file:PATH; can be given several times
    #[arg(short = 'b', long = "bdev")]
    bdevs: Vec<Spec>,
    /// Bytes of a block of devices given by --bdev
    #[arg(long, default_value_t = 512)]
    block_size: u32,
    /// Run on this bdev only [default: all that no other bdev is over]
    #[arg(short = 'T', long)]
    only: Option<String>,
    /// Write all of it once before the load, so that no block is met for the first time
    #[arg(long)]
    fill: bool,
    /// Show progress every so many seconds
    #[arg(short = 'S', long)]
    show_period: Option<f64>,
    /// Average the progress over so many periods
    #[arg(short = 'P', long, default_value_t = 1)]
    average_periods: usize,
    /// Show the latency histogram
    #[arg(short = 'l', long)]
    latency: bool,
    /// Ordinary pages for buffers
    #[arg(long)]
    no_huge: bool,
    /// No device: copy into and out of so many bytes of memory, the ceiling of a malloc bdev
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memcpy: Option<u64>,
    #[command(flatten)]
    version: VersionFlag,
}

/// A run's result.
#[derive(Serialize)]
struct Report {
    job: Job,
    total: Line,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<Line>,
    percentiles: Vec<Percentile>,
    errors: u64,
    errors_shown: Vec<String>,
    interrupted: bool,
    cores: Vec<CoreLine>,
}

#[derive(Serialize)]
struct Job {
    bdevs: Vec<String>,
    pattern: String,
    io_size: String,
    read_percent: u8,
    depth: u32,
    verify: bool,
    seed: u64,
    elapsed_s: f64,
}

/// What one core came to. Cycles are those of the time-stamp counter; absent without one.
#[derive(Serialize)]
struct CoreLine {
    core: usize,
    iops: f64,
    turns: u64,
    busy_ns: u64,
    idle_ns: u64,
    busy_percent: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    busy_cycles: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    busy_cycles_per_io: Option<f64>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(totals) => totals.exit_code(),
        Err(error) => {
            eprintln!("bdevperf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Totals> {
    let plan = plan(options)?;
    if let Some(bytes) = options.memcpy {
        let core = options.cpumask.iter().next().context("no core to run on")?;
        reactor::sys::affinity::pin(core)?;
        let totals = copy::run(&plan, bytes)?;
        output(options, &report(&plan, vec!["memcpy".to_owned()], &totals, Vec::new()))?;
        return Ok(totals);
    }
    let devices = devices(options)?;
    let names: Vec<String> = devices.iter().map(|bdev| bdev.name().to_owned()).collect();
    let cores: Vec<usize> = options.cpumask.iter().collect();
    let range = options.job.range_bytes();
    let shares = load::shares(&devices, &cores, options.every_core, range)?;
    if options.fill {
        devices.iter().try_for_each(|bdev| fill::all(bdev, range, plan.pages, &plan.stop))?;
    }
    let running = load::start(&plan, &shares)?;
    let ended = match options.show_period {
        None => running.join()?,
        Some(period) => {
            ensure!((0.01..=3600.0).contains(&period), "a period from 0.01 to 3600 s is needed");
            ensure!(options.average_periods > 0, "at least one period is needed for an average");
            let mut progress = Progress::new(period, options.average_periods);
            running.watch(Duration::from_secs_f64(period), |ios| progress.show(ios))?
        }
    };
    let mut totals = Totals::default();
    for CoreTotals { totals: core, .. } in &ended {
        totals.reads = totals.reads.sum(&core.reads);
        totals.writes = totals.writes.sum(&core.writes);
        totals.elapsed = totals.elapsed.max(core.elapsed);
        totals.errors += core.errors;
        totals.interrupted |= core.interrupted;
        totals.errors_shown.extend(core.errors_shown.iter().cloned());
    }
    let report = report(&plan, names, &totals, core_lines(&ended));
    output(options, &report)?;
    Ok(totals)
}

fn plan(options: &Options) -> Result<Plan> {
    let job = &options.job;
    Ok(Plan {
        sizes: job.io_size.clone(),
        workload: job.workload,
        read_percent: job.read_percent,
        depth: job.depth,
        duration: job.duration()?,
        verify: job.verify,
        seed: job.seed,
        stop: Interrupt::on_signals()?,
        pages: if options.no_huge { PageWish::Ordinary } else { PageWish::Huge2M },
    })
}

fn devices(options: &Options) -> Result<Vec<Arc<dyn Bdev>>> {
    let mut devices = Devices::new();
    if let Some(path) = &options.config {
        devices.load(path)?;
    }
    for spec in &options.bdevs {
        devices.make(spec, options.block_size).with_context(|| format!("{spec}"))?;
    }
    let chosen = match &options.only {
        Some(name) => vec![devices.find(name)?],
        None => devices.unclaimed(),
    };
    ensure!(!chosen.is_empty(), "no device: give --config or --bdev");
    Ok(chosen)
}

fn core_lines(ended: &[CoreTotals]) -> Vec<CoreLine> {
    let ticks_per_s = Tsc::new().ticks_per_s();
    let line = |core: &CoreTotals| {
        let ios = core.totals.reads.ios + core.totals.writes.ios;
        let busy_cycles = ticks_per_s
            .map(|ticks| (u128::from(core.busy_ns) * u128::from(ticks) / 1_000_000_000) as u64);
        CoreLine {
            core: core.core,
            iops: ios as f64 / core.totals.elapsed.as_secs_f64().max(1e-9),
            turns: core.turns,
            busy_ns: core.busy_ns,
            idle_ns: core.idle_ns,
            busy_percent: core.busy_ns as f64 * 100.0 / (core.busy_ns + core.idle_ns).max(1) as f64,
            busy_cycles,
            busy_cycles_per_io: busy_cycles.map(|cycles| cycles as f64 / ios.max(1) as f64),
        }
    };
    ended.iter().map(line).collect()
}

fn report(plan: &Plan, bdevs: Vec<String>, totals: &Totals, cores: Vec<CoreLine>) -> Report {
    let elapsed_s = totals.elapsed.as_secs_f64();
    let both = totals.reads.sum(&totals.writes);
    Report {
        job: Job {
            bdevs,
            pattern: plan.workload.name().to_owned(),
            io_size: plan.sizes.to_string(),
            read_percent: plan.workload.read_percent(plan.read_percent),
            depth: plan.depth,
            verify: plan.verify,
            seed: plan.seed,
            elapsed_s,
        },
        total: Line::of(&both, elapsed_s),
        read: (totals.reads.ios > 0).then(|| Line::of(&totals.reads, elapsed_s)),
        write: (totals.writes.ios > 0).then(|| Line::of(&totals.writes, elapsed_s)),
        percentiles: percentiles(&both.latency_ns),
        errors: totals.errors,
        errors_shown: totals.errors_shown.clone(),
        interrupted: totals.interrupted,
        cores,
    }
}

fn output(options: &Options, report: &Report) -> Result<()> {
    if !options.job.write_json(report)? {
        print(options, report);
    }
    Ok(())
}

fn print(options: &Options, report: &Report) {
    let Job { bdevs, pattern, io_size, depth, elapsed_s, .. } = &report.job;
    println!("{pattern} {io_size}, depth {depth}, {}, {elapsed_s:.2} s", bdevs.join(" "));
    let lines = [("total", Some(&report.total)), ("read", report.read.as_ref())];
    for (name, line) in lines.into_iter().chain([("write", report.write.as_ref())]) {
        let Some(Line { iops, mib_per_s, latency_us: us, .. }) = line else { continue };
        println!(
            "{name:<6} {iops:>10.0} IOPS {mib_per_s:>9.1} MiB/s  us: avg {:.3} min {:.3} p50 \
             {:.3} p99 {:.3} p99.9 {:.3} max {:.1}",
            us.avg, us.min, us.p50, us.p99, us.p99_9, us.max
        );
    }
    for core in &report.cores {
        let cycles = core
            .busy_cycles_per_io
            .map_or(String::new(), |cycles| format!(", {cycles:.0} busy cycles per operation"));
        println!(
            "core {}: {:.0} IOPS, busy {:.1} %{cycles}",
            core.core, core.iops, core.busy_percent
        );
    }
    if options.latency {
        for percentile in &report.percentiles {
            println!("{:>9.4} % : {:>10.3} us", percentile.percent, percentile.us);
        }
    }
    if report.interrupted {
        println!("interrupted");
    }
    println!("errors: {}", report.errors);
    report.errors_shown.iter().for_each(|error| println!("  {error}"));
}

/// Progress lines, each an average of the last periods.
struct Progress {
    period: f64,
    periods: usize,
    seen: VecDeque<u64>,
}

impl Progress {
    fn new(period: f64, periods: usize) -> Self {
        Progress { period, periods, seen: VecDeque::from([0]) }
    }

    fn show(&mut self, ios: u64) {
        self.seen.push_back(ios);
        if self.seen.len() > self.periods + 1 {
            self.seen.pop_front();
        }
        let first = self.seen.front().copied().unwrap_or(0);
        let seconds = self.period * (self.seen.len() - 1) as f64;
        eprintln!("{:>12.0} IOPS", (ios - first) as f64 / seconds);
    }
}
