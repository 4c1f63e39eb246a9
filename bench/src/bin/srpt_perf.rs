//! Load generator: keeps commands in flight on the channels of one SRP session and measures them.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use reactor::sys::tsc::Tsc;
use srpt_bench::address::{Address, parse_guid};
use srpt_bench::ideal::Ideal;
use srpt_bench::interrupt::Interrupt;
use srpt_bench::load::{self, Plan, Totals};
use srpt_bench::options::{AFTER_HELP, JobOptions};
use srpt_bench::port::Unit;
use srpt_bench::report::Report;
use srpt_bench::session::{self, Identity, SrpPort};
use srpt_bench::size::Luns;
use srpt_tgt::cli::VersionFlag;
use transport::initiator::Connector;
use transport::rdma::RdmaConnector;
use transport::shm::ShmConnector;

/// Time to find the device that leads to a target.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Measures an SRP target. Writing workloads destroy what is on the logical units.
#[derive(Debug, Parser)]
#[command(
    name = "srpt_perf",
    version = srpt_tgt::version(),
    disable_version_flag = true,
    after_help = AFTER_HELP
)]
struct Options {
    /// Where the target listens: shm:PATH or rdma:IP:PORT; ideal:SIZE is no target but a model in
    /// this process
    #[arg(short = 'r', long)]
    target: Address,
    #[command(flatten)]
    job: JobOptions,
    /// Channels of the session
    #[arg(short = 'c', long, default_value_t = 1)]
    channels: usize,
    /// Logical units: 0,2-4 [default: all disks of the target]
    #[arg(short = 'l', long)]
    luns: Option<Luns>,
    /// Core to run on [default: wherever the system puts it]
    #[arg(short = 'P', long)]
    cpu: Option<usize>,
    /// Show progress each second even if standard error is no terminal
    #[arg(long)]
    progress: bool,
    #[command(flatten)]
    ports: Ports,
    #[command(flatten)]
    version: VersionFlag,
}

/// SRP port identifiers, as in the kernel initiator's add_target.
#[derive(Debug, clap::Args)]
struct Ports {
    /// The target's GUID: sets both halves of the target port identifier
    #[arg(long, value_parser = parse_guid, default_value = "0")]
    guid: u64,
    /// Identifier extension of the target port [default: the GUID]
    #[arg(long, value_parser = parse_guid)]
    id_ext: Option<u64>,
    /// I/O controller GUID of the target port [default: the GUID]
    #[arg(long, value_parser = parse_guid)]
    ioc_guid: Option<u64>,
    /// Identifier extension of this initiator port
    #[arg(long, value_parser = parse_guid, default_value = "1")]
    initiator_ext: u64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(totals) => totals.exit_code(),
        Err(error) => {
            eprintln!("srpt_perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Totals> {
    options.job.duration()?;
    if let Some(cpu) = options.cpu {
        session::pin(cpu)?;
    }
    match &options.target {
        Address::Shm(path) => run_on(options, &ShmConnector::new(path)),
        Address::Rdma(address) => run_on(options, &RdmaConnector::new(*address, CONNECT_WAIT)?),
        Address::Ideal(bytes) => run_on(options, &Ideal::new(*bytes as usize)),
    }
}

/// Runs over one fabric.
fn run_on<C: Connector>(options: &Options, connector: &C) -> Result<Totals> {
    let Options { channels, ports, .. } = options;
    let JobOptions { depth, io_size, .. } = &options.job;
    let identity = Identity {
        id_ext: ports.id_ext.unwrap_or(ports.guid),
        ioc_guid: ports.ioc_guid.unwrap_or(ports.guid),
        initiator_ext: ports.initiator_ext,
    };
    let memory_bytes = *channels * *depth as usize * io_size.max() as usize;
    let mut session = session::login(connector, &identity, *channels, *depth, memory_bytes)
        .with_context(|| format!("{}", options.target))?;
    let units = session::units(&mut session, options.luns.as_ref().map(|luns| &luns.0[..]))?;
    let plan = Plan { stop: Interrupt::on_signals()?, ..plan(&options.job, &units)? };
    let credits = session.channels.iter().map(|channel| channel.room()).min().unwrap_or(0);
    if credits < *depth as usize {
        eprintln!("the target grants {credits} credits a channel: depth {depth} is not reached");
    }
    let memory = &session.memory;
    let mut ports: Vec<_> =
        session.channels.iter_mut().map(|channel| SrpPort::new(channel, memory)).collect();
    let mut progress = Progress::new(options.progress);
    let totals =
        load::run(&plan, &mut ports, memory, &Tsc::new(), |totals, at| progress.show(totals, at));
    progress.clear();
    let totals = totals?;
    drop(ports);
    session::logout(&mut session);
    let report = Report::new(&plan, &options.target.to_string(), *channels, &totals);
    output(options, &report)?;
    Ok(totals)
}

fn plan(job: &JobOptions, units: &[Unit]) -> Result<Plan> {
    let range = job.range_bytes();
    let limit = |unit: &Unit| Unit {
        blocks: unit.blocks.min(range / u64::from(unit.block_bytes)),
        ..*unit
    };
    Ok(Plan {
        units: units.iter().map(limit).collect(),
        sizes: job.io_size.clone(),
        workload: job.workload,
        read_percent: job.read_percent,
        depth: job.depth,
        duration: job.duration()?,
        verify: job.verify,
        seed: job.seed,
        stop: Interrupt::default(),
    })
}

/// The table goes to standard output, unless JSON goes there.
fn output(options: &Options, report: &Report) -> Result<()> {
    if options.job.write_json(report)? {
        eprint!("{}", report.table());
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

/// The live line on standard error.
struct Progress {
    /// Rewrites one line; else prints a line each second.
    terminal: bool,
    shown: bool,
    last: (u64, u64, Duration),
}

impl Progress {
    fn new(asked_for: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Progress { terminal, shown: terminal || asked_for, last: (0, 0, Duration::ZERO) }
    }

    fn show(&mut self, totals: &Totals, at: Duration) {
        if !self.shown {
            return;
        }
        let ios = totals.reads.ios + totals.writes.ios;
        let bytes = totals.reads.bytes + totals.writes.bytes;
        let (last_ios, last_bytes, last_at) = std::mem::replace(&mut self.last, (ios, bytes, at));
        let seconds = (at - last_at).as_secs_f64().max(1e-9);
        let line = format!(
            "{:4} s {:>10.0} IOPS {:>9.1} MiB/s {} errors",
            at.as_secs(),
            (ios - last_ios) as f64 / seconds,
            (bytes - last_bytes) as f64 / seconds / f64::from(1 << 20),
            totals.errors
        );
        if self.terminal { eprint!("\r{line}") } else { eprintln!("{line}") }
    }

    fn clear(&self) {
        if self.shown && self.terminal {
            eprint!("\r{:70}\r", "");
            let _ = std::io::stderr().flush();
        }
    }
}
