//! A block device of fio's own process.
//!
//! Devices are made once per process, when the first job asks for them, and stay: jobs that are
//! threads share them, jobs that are processes have them as they were at the fork.

use std::collections::BTreeMap;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use bdev::{Bdev, CoreContext, Io, IoChannel, IoDone, IoOp, IoStatus};
use reactor::pool::SizeClass;
use reactor::sys::memory::{Memory, PageWish};
use reactor::{Batch, Buf, Instant, Pool, Tag};
use srpt_bench::device::{Devices, Spec};
use srpt_bench::port::{Command, Done, Fault, Kind};
use transport::initiator::LinkError;

use crate::{Options, Way};

/// Devices by what was asked for.
static MADE: Mutex<BTreeMap<String, Arc<dyn Bdev>>> = Mutex::new(BTreeMap::new());

fn device(name: &str, config: Option<&str>, block_bytes: u32) -> Result<Arc<dyn Bdev>> {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = format!("{} {name}", config.unwrap_or_default());
    if let Some(bdev) = made.get(&key) {
        return Ok(Arc::clone(bdev));
    }
    let mut devices = Devices::new();
    let bdev = match config {
        Some(path) => {
            devices.load(Path::new(path))?;
            // All of the configuration at once: a second load would open its files again.
            for bdev in devices.unclaimed() {
                made.insert(format!("{path} {}", bdev.name()), bdev);
            }
            devices.find(name)?
        }
        None => {
            let spec: Spec = name.parse().map_err(anyhow::Error::msg)?;
            devices.make(&spec, block_bytes)?
        }
    };
    made.insert(key, Arc::clone(&bdev));
    Ok(bdev)
}

/// A job's channel to a device.
pub(crate) struct Direct {
    channel: Box<dyn IoChannel>,
    block_bytes: u32,
    blocks: u64,
    memory: NonNull<u8>,
    /// Each slot's buffer, while no operation has it.
    bufs: Vec<Option<Buf>>,
    done: Batch<IoDone>,
    in_flight: usize,
    pool: Pool,
}

impl Direct {
    /// Opens the device, and makes it if this process does not have it yet.
    pub(crate) fn open(
        options: &Options,
        name: &str,
        config: Option<&str>,
        block_bytes: u32,
    ) -> Result<Direct> {
        let bdev = device(name, config, block_bytes)?;
        let Options { depth, slot_bytes, .. } = *options;
        let (memory, _) = Memory::new(depth as usize * slot_bytes as usize, PageWish::Huge2M)?;
        let memory = Arc::new(memory);
        let mut pool =
            Pool::new(Arc::clone(&memory), &[SizeClass { bytes: slot_bytes, count: depth }]);
        let bufs: Vec<_> = (0..depth).map(|_| pool.take(slot_bytes as usize)).collect();
        let base = memory.at(0);
        for (slot, buf) in bufs.iter().enumerate() {
            let at = buf.as_ref().context("a buffer per slot")?.as_ptr() as usize;
            let expected = base.as_ptr() as usize + slot * slot_bytes as usize;
            ensure!(at == expected, "buffers are not in the order of their slots");
        }
        let mut context = CoreContext { memory, ring: None, depth, wake: None };
        let geometry = bdev.geometry();
        Ok(Direct {
            channel: bdev.open_channel(&mut context)?,
            block_bytes: geometry.block_bytes,
            blocks: geometry.blocks,
            memory: base,
            bufs,
            done: Batch::new(depth as usize),
            in_flight: 0,
            pool,
        })
    }
}

impl Way for Direct {
    fn size(&self) -> (u32, u64) {
        (self.block_bytes, self.blocks)
    }

    fn memory(&self) -> NonNull<u8> {
        self.memory
    }

    #[inline]
    fn submit(&mut self, command: &Command) -> Result<bool, LinkError> {
        let Command { slot, kind, lba, blocks, bytes, .. } = *command;
        let op = match kind {
            Kind::Read => IoOp::Read { lba, blocks },
            Kind::Write => IoOp::Write { lba, blocks, fua: false },
            Kind::Flush => IoOp::Flush,
            Kind::Unmap => IoOp::Unmap { lba, blocks: blocks.into() },
        };
        let buf = match kind {
            Kind::Flush | Kind::Unmap => None,
            _ => {
                let mut buf = self.bufs[slot as usize].take().expect("one operation per slot");
                buf.set_len(bytes as usize);
                Some(buf)
            }
        };
        self.in_flight += 1;
        self.channel.submit(Io { tag: Tag::new(slot, 0), op, buf });
        Ok(true)
    }

    #[inline]
    fn flush(&mut self) -> Result<(), LinkError> {
        self.channel.flush();
        Ok(())
    }

    #[inline]
    fn poll(&mut self, now: Instant, done: &mut Vec<Done>) -> Result<(), LinkError> {
        // Steps that an operation takes after its first one go out here.
        self.channel.flush();
        self.channel.poll(now, &mut self.done);
        while let Some(IoDone { tag, status, buf }) = self.done.pop() {
            self.in_flight -= 1;
            if let Some(buf) = buf {
                self.bufs[tag.index()] = Some(buf);
            }
            let result = if status.is_good() { Ok(()) } else { Err(fault(status)) };
            done.push(Done { slot: tag.index() as u32, result });
        }
        Ok(())
    }
}

/// As sense data would say it: CHECK CONDITION with the codes of SPC-5, annex F.
#[cold]
fn fault(status: IoStatus) -> Fault {
    let (key, asc) = match status {
        IoStatus::Good | IoStatus::GoodNoData => (0x0, (0, 0)),
        IoStatus::OutOfRange => (0x5, (0x21, 0)),
        IoStatus::ReadError => (0x3, (0x11, 0)),
        IoStatus::WriteError => (0x3, (0x0C, 0)),
        IoStatus::NoSpace => (0x7, (0x27, 7)),
        IoStatus::WriteProtected => (0x7, (0x27, 0)),
        IoStatus::NotReady => (0x2, (0x04, 0)),
        IoStatus::Unsupported => (0x5, (0x20, 0)),
        _ => (0xB, (0, 0)),
    };
    Fault { status: 0x02, key, asc, residual: 0 }
}

impl Drop for Direct {
    fn drop(&mut self) {
        // fio ends a job early with operations under way: they are waited for here.
        let mut done = Vec::new();
        let clock = reactor::sys::tsc::Tsc::new();
        while self.in_flight > 0 {
            let _ = self.poll(reactor::Clock::now(&clock), &mut done);
            done.clear();
        }
        for buf in self.bufs.drain(..).flatten() {
            self.pool.put(buf);
        }
    }
}
