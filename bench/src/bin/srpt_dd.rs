//! Copies a file or a pipe into or out of a logical unit behind SRP.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgGroup, Parser};
use srpt_bench::address::{Address, parse_guid};
use srpt_bench::copy::{self, Copied, Job};
use srpt_bench::ideal::Ideal;
use srpt_bench::interrupt::{EXIT_INTERRUPTED, Input, Interrupt};
use srpt_bench::options::AFTER_HELP;
use srpt_bench::port::Unit;
use srpt_bench::session::{self, Identity, SrpPort};
use srpt_bench::size::parse_bytes;
use srpt_tgt::cli::VersionFlag;
use transport::initiator::{Connector, DataMemory, Link};
use transport::rdma::RdmaConnector;
use transport::shm::ShmConnector;

/// Time to find the device that leads to a target.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Largest block of a copy.
const BS_MAX: u64 = 64 << 20;

/// Copies into a logical unit with --if, out of it with --of. "-" is standard input or output.
#[derive(Debug, Parser)]
#[command(
    name = "srpt_dd",
    version = srpt_tgt::version(),
    disable_version_flag = true,
    after_help = AFTER_HELP,
    group(ArgGroup::new("file").required(true).args(["input", "output"]))
)]
struct Options {
    /// Where the target listens: shm:PATH or rdma:IP:PORT; ideal:SIZE is no target but a model in
    /// this process
    #[arg(short = 'r', long)]
    target: Address,
    /// Logical unit
    #[arg(long)]
    lun: u16,
    /// Copy this file into the logical unit
    #[arg(long = "if", value_name = "FILE")]
    input: Option<String>,
    /// Copy the logical unit into this file
    #[arg(long = "of", value_name = "FILE")]
    output: Option<String>,
    /// Bytes of a copy block and of a request
    #[arg(long, default_value = "1M", value_parser = parse_bytes)]
    bs: u64,
    /// Copy only so many blocks of --bs bytes
    #[arg(long)]
    count: Option<u64>,
    /// Skip so many blocks of --bs bytes of what is read
    #[arg(long, default_value_t = 0)]
    skip: u64,
    /// Skip so many blocks of --bs bytes of what is written
    #[arg(long, default_value_t = 0)]
    seek: u64,
    /// fsync: put everything on stable storage at the end; notrunc: keep what else the file holds
    #[arg(long, value_delimiter = ',', value_enum)]
    conv: Vec<Conversion>,
    /// Requests in flight
    #[arg(short = 'q', long, default_value_t = 8)]
    depth: u32,
    /// The target's GUID: both halves of the target port identifier
    #[arg(long, value_parser = parse_guid, default_value = "0")]
    guid: u64,
    /// Identifier extension of this initiator port
    #[arg(long, value_parser = parse_guid, default_value = "2")]
    initiator_ext: u64,
    #[command(flatten)]
    version: VersionFlag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Conversion {
    Fsync,
    Notrunc,
}

fn main() -> ExitCode {
    let started = Instant::now();
    let options = Options::parse();
    let copied = match &options.target {
        Address::Shm(path) => run(&options, &ShmConnector::new(path)),
        Address::Rdma(address) => RdmaConnector::new(*address, CONNECT_WAIT)
            .map_err(anyhow::Error::from)
            .and_then(|connector| run(&options, &connector)),
        Address::Ideal(bytes) => run(&options, &Ideal::new(*bytes as usize)),
    };
    match copied {
        Ok(copied) => {
            let seconds = started.elapsed().as_secs_f64();
            let rate = copied.bytes as f64 / seconds / f64::from(1 << 20);
            eprintln!("{copied}, {seconds:.3} s, {rate:.1} MiB/s");
            if copied.interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("srpt_dd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run<C: Connector>(options: &Options, connector: &C) -> Result<Copied> {
    let Options { bs, depth, lun, .. } = options;
    ensure!((512..=BS_MAX).contains(bs), "--bs from 512 to 64M is needed");
    ensure!((1..=256).contains(depth), "a queue depth from 1 to 256 is needed");
    let memory_bytes = *bs as usize * *depth as usize;
    let Options { guid, initiator_ext, .. } = *options;
    let identity = Identity { id_ext: guid, ioc_guid: guid, initiator_ext };
    let mut session = session::login(connector, &identity, 1, *depth, memory_bytes)
        .with_context(|| format!("{}", options.target))?;
    let unit = session::units(&mut session, Some(&[*lun]))?[0];
    let copied = {
        let mut port = SrpPort::new(&mut session.channels[0], &session.memory);
        transfer(options, &mut port, &session.memory, unit)
    };
    session::logout(&mut session);
    copied
}

fn transfer<L: Link, M: DataMemory>(
    options: &Options,
    port: &mut SrpPort<'_, L, M>,
    memory: &M,
    unit: Unit,
) -> Result<Copied> {
    let Options { bs, count, skip, seek, .. } = *options;
    let block_bytes = u64::from(unit.block_bytes);
    ensure!(bs.is_multiple_of(block_bytes), "--bs must be a multiple of {block_bytes} bytes");
    let blocks = |number: u64| number.checked_mul(bs).context("a place beyond 16 EiB");
    let fsync = options.conv.contains(&Conversion::Fsync);
    let job = |start: u64| -> Result<Job> {
        let unit_bytes = unit.blocks * block_bytes;
        ensure!(start <= unit_bytes, "LUN {} has only {unit_bytes} bytes", unit.lun);
        let bytes_max = count.map_or(Ok(u64::MAX), blocks)?;
        let chunk_bytes = u32::try_from(bs).context("--bs")?;
        Ok(Job { unit, start_byte: start, bytes_max, chunk_bytes, depth: options.depth })
    };
    let stop = Interrupt::on_signals()?;
    match (&options.input, &options.output) {
        (Some(name), None) => {
            let mut from = open_input(name, blocks(skip)?, &stop).context(name.clone())?;
            Ok(copy::to_unit(port, memory, &job(blocks(seek)?)?, &mut from, fsync, &stop)?)
        }
        (None, Some(name)) if name == "-" => {
            ensure!(seek == 0 && !fsync, "standard output takes neither --seek nor --conv=fsync");
            let mut to = io::stdout().lock();
            Ok(copy::from_unit(port, memory, &job(blocks(skip)?)?, &mut to, &stop)?)
        }
        (None, Some(name)) => {
            let keep = options.conv.contains(&Conversion::Notrunc);
            let mut to = open_output(name, blocks(seek)?, keep).context(name.clone())?;
            let copied = copy::from_unit(port, memory, &job(blocks(skip)?)?, &mut to, &stop)?;
            if fsync {
                to.sync_all().context(name.clone())?;
            }
            Ok(copied)
        }
        _ => bail!("one of --if and --of is needed"),
    }
}

/// Opens a file or standard input `skip` bytes from its start. What can't seek is read past.
fn open_input(name: &str, skip: u64, stop: &Interrupt) -> io::Result<Input> {
    let mut file = match name {
        "-" => File::from(io::stdin().as_fd().try_clone_to_owned()?),
        name => File::open(name)?,
    };
    let skipped = skip == 0 || name != "-" && file.seek(SeekFrom::Start(skip)).is_ok();
    let mut from = Input::new(file, stop.clone());
    if !skipped {
        io::copy(&mut Read::by_ref(&mut from).take(skip), &mut io::sink())?;
    }
    Ok(from)
}

/// Opens a file for writing from byte `seek` on, and cuts it off there unless it is to be kept.
fn open_output(name: &str, seek: u64, keep: bool) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(name)?;
    if !keep && file.metadata()?.is_file() {
        file.set_len(seek)?;
    }
    if seek > 0 {
        file.seek(SeekFrom::Start(seek))?;
    }
    file.flush()?;
    Ok(file)
}
