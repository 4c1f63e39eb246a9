//! The Rust half of the fio engine `srpt`: a job's way to a logical unit, or to a block device of
//! fio's own process.
//!
//! The other half is `shim.c`, compiled against the headers of the very fio that loads it, so that
//! no layout of fio's is repeated here. Between the two is the small C interface of [`sys`].
//!
//! fio's buffers are the session's data memory, or the device's buffers: nothing is copied on the
//! way. A slot is fio's number of an I/O unit; it names its buffer, too.
//!
//! Per operation: two calls across the interface, no allocation, no lock.
#![deny(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reactor::sys::tsc::Tsc;
use reactor::{Clock, Instant};
use srpt_bench::address::Address;
use srpt_bench::port::{Command, Done, Kind};
use srpt_bench::session::{self, Identity};
use transport::initiator::cdb::UNMAP_RANGE_BYTES;
use transport::initiator::{Connector, LinkError};
use transport::rdma::RdmaConnector;
use transport::shm::ShmConnector;

mod direct;
mod remote;
#[allow(unsafe_code)]
pub mod sys;

/// Time to find the device that leads to a target.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// What a job asks for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the I/O goes.
    pub to: To,
    /// I/O units: slots from 0 on.
    pub depth: u32,
    /// Bytes of each slot's buffer, a multiple of 4096.
    pub slot_bytes: u32,
    /// How long a job waits without any completion; zero: for ever.
    pub timeout: Duration,
}

/// Where the I/O goes.
#[derive(Debug, Clone)]
pub enum To {
    /// A logical unit of a target.
    Unit {
        /// The target's listener.
        address: Address,
        /// Logical unit number.
        lun: u16,
        /// Channels of the job's session.
        channels: u32,
    },
    /// A block device of this process.
    Bdev {
        /// A device in words, or the name of one of the configuration.
        name: String,
        /// A configuration as save_config writes it.
        config: Option<String>,
        /// Bytes of a block of a device in words.
        block_bytes: u32,
    },
}

/// The ways there.
trait Way {
    /// Bytes of a block, and blocks.
    fn size(&self) -> (u32, u64);
    /// First byte of slot 0's buffer; the others follow.
    fn memory(&self) -> NonNull<u8>;
    /// Takes a command. False: no room now, ask again after a poll.
    fn submit(&mut self, command: &Command) -> Result<bool, LinkError>;
    /// Publishes what was taken.
    fn flush(&mut self) -> Result<(), LinkError>;
    /// Appends what has ended.
    fn poll(&mut self, now: Instant, done: &mut Vec<Done>) -> Result<(), LinkError>;
}

/// Why a job can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The link is gone.
    Link,
    /// Nothing ended within the job's timeout.
    Timeout,
}

/// One job of fio.
pub struct Job {
    way: Box<dyn Way>,
    clock: Tsc,
    depth: u32,
    slot_bytes: u32,
    lun: u16,
    timeout: Duration,
    done: Vec<Done>,
    faults_shown: u32,
}

/// Faults that are spelled out; fio counts them all.
const FAULTS_SHOWN_MAX: u32 = 5;

impl Job {
    /// Opens the way of one job.
    pub fn open(options: &Options) -> Result<Job> {
        let depth = options.depth;
        ensure!((1..=4096).contains(&depth), "iodepth {depth} is not from 1 to 4096");
        let lun = match &options.to {
            To::Unit { lun, .. } => *lun,
            To::Bdev { .. } => 0,
        };
        Ok(Job {
            way: way(options)?,
            clock: Tsc::new(),
            depth,
            slot_bytes: options.slot_bytes,
            lun,
            timeout: options.timeout,
            done: Vec::with_capacity(depth as usize),
            faults_shown: 0,
        })
    }

    /// Bytes of the unit or device.
    pub fn bytes(&self) -> u64 {
        let (block_bytes, blocks) = self.way.size();
        u64::from(block_bytes) * blocks
    }

    /// First byte of slot 0's buffer; slot `n` has the `n`th `slot_bytes` bytes.
    pub fn memory(&self) -> NonNull<u8> {
        self.way.memory()
    }

    /// Takes an operation. `Ok(false)`: ask again once some have ended. `Err`: positive errno.
    pub fn queue(&mut self, slot: u32, kind: Kind, at: u64, bytes: u64) -> Result<bool, i32> {
        let (block_bytes, blocks) = self.way.size();
        let block_bytes = u64::from(block_bytes);
        let whole = at.is_multiple_of(block_bytes) && bytes.is_multiple_of(block_bytes);
        let moves_data = matches!(kind, Kind::Read | Kind::Write);
        // A slot bounds what moves data; the CDB bounds the rest.
        let bytes_max =
            if moves_data { self.slot_bytes.into() } else { block_bytes * u64::from(u32::MAX) };
        if slot >= self.depth || !whole || bytes > bytes_max {
            return Err(libc::EINVAL);
        }
        let (lba, count) = (at / block_bytes, bytes / block_bytes);
        if lba.checked_add(count).is_none_or(|end| end > blocks) {
            return Err(libc::ENOSPC);
        }
        // The parameter lists of UNMAP are behind the buffers, whose data they leave alone.
        let slots_bytes = self.depth as usize * self.slot_bytes as usize;
        let offset = match kind {
            Kind::Unmap => slots_bytes + slot as usize * UNMAP_RANGE_BYTES,
            _ => slot as usize * self.slot_bytes as usize,
        };
        let command = Command {
            slot,
            kind,
            lun: self.lun,
            lba,
            blocks: count as u32,
            offset,
            bytes: if moves_data { bytes as u32 } else { 0 },
        };
        self.way.submit(&command).map_err(|_| libc::EPIPE)
    }

    /// Hands over what was taken.
    pub fn commit(&mut self) -> Result<(), Broken> {
        self.way.flush().map_err(|_| Broken::Link)
    }

    /// Waits until `min` operations have ended, or for `wait` at most, and returns how many have;
    /// they replace those of the last call.
    pub fn reap(&mut self, min: usize, wait: Option<Duration>) -> Result<usize, Broken> {
        self.done.clear();
        let start = self.clock.now();
        loop {
            let now = self.clock.now();
            self.way.poll(now, &mut self.done).map_err(|_| Broken::Link)?;
            if self.done.len() >= min || wait.is_some_and(|wait| now >= start.after(wait)) {
                return Ok(self.done.len());
            }
            if !self.timeout.is_zero() && now >= start.after(self.timeout) {
                return Err(Broken::Timeout);
            }
            std::hint::spin_loop();
        }
    }

    /// Slot of one of the operations of the last [`Job::reap`], and its errno: 0 for success.
    pub fn ended(&mut self, index: usize) -> (u32, i32) {
        let Done { slot, result } = self.done[index];
        let Err(fault) = result else { return (slot, 0) };
        if self.faults_shown < FAULTS_SHOWN_MAX {
            self.faults_shown += 1;
            eprintln!("srpt: {fault}");
        }
        (slot, libc::EIO)
    }
}

fn way(options: &Options) -> Result<Box<dyn Way>> {
    Ok(match &options.to {
        To::Bdev { name, config, block_bytes } => {
            Box::new(direct::Direct::open(options, name, config.as_deref(), *block_bytes)?)
        }
        To::Unit { address, lun, channels } => match address {
            Address::Shm(path) => {
                remote(&ShmConnector::new(path), options, address, *lun, *channels)?
            }
            Address::Rdma(ip) => {
                let connector = RdmaConnector::new(*ip, CONNECT_WAIT)?;
                remote(&connector, options, address, *lun, *channels)?
            }
            Address::Ideal(_) => anyhow::bail!("{address}: no target"),
        },
    })
}

/// A session of the job's own: jobs of one process are different initiator ports.
fn remote<C>(
    connector: &C,
    options: &Options,
    address: &Address,
    lun: u16,
    channels: u32,
) -> Result<Box<dyn Way>>
where
    C: Connector + 'static,
{
    static JOBS: AtomicU64 = AtomicU64::new(1);
    let initiator_ext = JOBS.fetch_add(1, Ordering::Relaxed);
    let identity = Identity { id_ext: 0, ioc_guid: 0, initiator_ext };
    let bytes = options.depth as usize * (options.slot_bytes as usize + UNMAP_RANGE_BYTES);
    let mut session = session::login(connector, &identity, channels as usize, options.depth, bytes)
        .with_context(|| format!("{address}"))?;
    let units = session::units(&mut session, Some(&[lun]))?;
    Ok(Box::new(remote::Remote::new(session, units[0])?))
}
