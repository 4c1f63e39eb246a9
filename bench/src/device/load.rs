//! Keeps operations in flight on block devices, straight on their channels.
//!
//! Each core runs the target's own loop around a service that owns its channels, its buffers and
//! one slot per operation. A buffer is with its slot's operation as long as that runs; when the
//! time is over all come home.
//!
//! Two operations in flight never touch the same blocks when data is verified: they are claimed.
//! Cores that share a device divide its blocks between them.
//!
//! Per operation: one draw of the pattern, one histogram increment. The clock is the turn's: an
//! operation's latency runs from the turn that submits it to the turn that finds its completion.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bdev::{Bdev, CoreContext, Io, IoChannel, IoDone, IoOp, IoStatus};
use reactor::core::{Core, CoreConfig};
use reactor::mailbox::{Capacity, connect};
use reactor::pool::SizeClass;
use reactor::stats::{CoreStats, Counter};
use reactor::sys::memory::{Memory, PageWish};
use reactor::{Batch, Buf, Instant, Pool, Progress, Service, Tag};

use crate::interrupt::Interrupt;
use crate::load::Totals;
use crate::pattern::{Extent, Pattern, Workload};
use crate::port::{Kind, Unit};
use crate::size::Sizes;
use crate::verify::{BLOCKS_MAX, Table};

/// Errors whose text is kept.
const ERRORS_SHOWN_MAX: usize = 10;
/// Draws of the pattern before a verified operation gives way to those whose blocks it would touch.
const CLAIM_TRIES: u32 = 16;
/// How long to wait for the last completions once the time is over.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at whether the cores are done.
const LOOK: Duration = Duration::from_millis(10);

/// What every core runs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Sizes of operations.
    pub sizes: Sizes,
    /// Kinds and places.
    pub workload: Workload,
    /// Percentage of reads in mixed workloads.
    pub read_percent: u8,
    /// Operations in flight per device and core.
    pub depth: u32,
    /// How long.
    pub duration: Duration,
    /// Stamp what is written, read it back and compare.
    pub verify: bool,
    /// Start of the pseudo-random numbers.
    pub seed: u64,
    /// Pages of the buffers.
    pub pages: PageWish,
    /// Ends the run before its time.
    pub stop: Interrupt,
}

/// A device, or a core's part of it.
#[derive(Debug, Clone)]
pub struct Share {
    /// The device.
    pub bdev: Arc<dyn Bdev>,
    /// First block to use.
    pub first: u64,
    /// Blocks to use.
    pub blocks: u64,
}

/// What one core came to.
#[derive(Debug)]
pub struct CoreTotals {
    /// The core's number in the system.
    pub core: usize,
    /// Operations and their latencies.
    pub totals: Totals,
    /// Time of turns that moved something, in nanoseconds.
    pub busy_ns: u64,
    /// Time of turns that found nothing.
    pub idle_ns: u64,
    /// Turns of the loop.
    pub turns: u64,
}

impl Plan {
    /// Refuses what can't be run on the devices.
    pub fn check(&self, shares: &[Share]) -> Result<()> {
        ensure!(!shares.is_empty(), "no device to run on");
        ensure!((1..=4096).contains(&self.depth), "a queue depth from 1 to 4096 is needed");
        ensure!(self.read_percent <= 100, "a percentage of reads from 0 to 100 is needed");
        ensure!(
            !self.verify || self.workload.read_percent(self.read_percent) < 100,
            "nothing to compare with: a workload that writes is needed to verify data"
        );
        for share in shares {
            let (name, geometry) = (share.bdev.name(), share.bdev.geometry());
            let block_bytes = geometry.block_bytes;
            ensure!(
                self.sizes.fit(block_bytes),
                "{name}: {} is no multiple of its blocks of {block_bytes} bytes",
                self.sizes
            );
            ensure!(
                u64::from(self.sizes.max() / block_bytes) <= share.blocks,
                "{name}: {} does not fit into {} blocks of {block_bytes} bytes",
                self.sizes,
                share.blocks
            );
            ensure!(
                !self.verify || share.blocks <= BLOCKS_MAX,
                "{name}: at most {BLOCKS_MAX} blocks can be verified: limit the range"
            );
            ensure!(
                !geometry.read_only || self.workload.read_percent(self.read_percent) == 100,
                "{name} is read-only"
            );
        }
        Ok(())
    }
}

/// The running cores.
pub struct Running {
    cores: Vec<Core<StartError>>,
    results: Receiver<(usize, Totals)>,
    ios: Vec<Arc<Counter>>,
}

/// Why a core could not start.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// Starts the plan on cores, each with its shares, of which the first reason not to is returned.
pub fn start(plan: &Plan, cores: &[(usize, Vec<Share>)]) -> Result<Running> {
    for (_, shares) in cores {
        plan.check(shares)?;
    }
    let (tell, results) = channel();
    let mut running = Running { cores: Vec::new(), results, ios: Vec::new() };
    for (core, shares) in cores {
        let mut ends = connect::<()>(1, Capacity { core: 1, control: 1 })?;
        let inbox = ends.remove(0).inbox;
        let (plan, shares, tell) = (plan.clone(), shares.clone(), tell.clone());
        let ios = Arc::new(Counter::default());
        running.ios.push(Arc::clone(&ios));
        let number = *core;
        running.cores.push(reactor::core::spawn(CoreConfig::new(number), inbox, move || {
            let load = DeviceLoad::new(number, plan, shares, tell, ios);
            load.map_err(|error| StartError(format!("{error:#}")))
        })?);
    }
    Ok(running)
}

impl Running {
    /// Operations that have ended so far, over all cores.
    pub fn ios(&self) -> u64 {
        self.ios.iter().map(|ios| ios.value()).sum()
    }

    /// True when [`Running::join`] won't wait.
    pub fn is_finished(&self) -> bool {
        self.cores.iter().all(Core::is_finished)
    }

    /// Waits for the end.
    pub fn join(self) -> Result<Vec<CoreTotals>> {
        let mut stats: Vec<(usize, Arc<CoreStats>)> = Vec::new();
        for core in self.cores {
            stats.push((core.number(), Arc::clone(core.stats())));
            core.join().map_err(|error| anyhow!("{error}"))?;
        }
        let mut ended: Vec<(usize, Totals)> = self.results.try_iter().collect();
        ended.sort_by_key(|(core, _)| *core);
        ensure!(ended.len() == stats.len(), "operations are not answered after {PATIENCE:?}");
        stats.sort_by_key(|(core, _)| *core);
        let totals = ended.into_iter().zip(stats).map(|((core, totals), (_, stats))| CoreTotals {
            core,
            totals,
            busy_ns: stats.busy_ns.value(),
            idle_ns: stats.idle_ns.value(),
            turns: stats.turns.value(),
        });
        Ok(totals.collect())
    }

    /// Waits for the end, and calls `each` about every `period` with the operations so far.
    pub fn watch(self, period: Duration, mut each: impl FnMut(u64)) -> Result<Vec<CoreTotals>> {
        let mut next = std::time::Instant::now() + period;
        while !self.is_finished() {
            if std::time::Instant::now() >= next {
                next += period;
                each(self.ios());
            }
            std::thread::sleep(LOOK.min(period));
        }
        self.join()
    }
}

/// What a slot's operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// An operation of the pattern.
    Run,
    /// Reads back what the slot has written.
    ReadBack,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    started: Instant,
    /// Place within the core's share.
    extent: Extent,
    device: u32,
    kind: Kind,
    phase: Phase,
}

struct Device {
    channel: Box<dyn IoChannel>,
    name: String,
    first: u64,
    block_bytes: u32,
    pattern: Pattern,
    table: Option<Table>,
}

struct DeviceLoad {
    core: usize,
    plan: Plan,
    devices: Vec<Device>,
    slots: Vec<Slot>,
    /// Slots and their buffers that wait for blocks to be free.
    waiting: Vec<(u32, Buf)>,
    pool: Pool,
    done: Batch<IoDone>,
    totals: Totals,
    in_flight: u32,
    ended: u64,
    start: Option<Instant>,
    end: Instant,
    stopped: bool,
    tell: Sender<(usize, Totals)>,
    ios: Arc<Counter>,
}

impl DeviceLoad {
    fn new(
        core: usize,
        plan: Plan,
        shares: Vec<Share>,
        tell: Sender<(usize, Totals)>,
        ios: Arc<Counter>,
    ) -> Result<Self> {
        let count = u32::try_from(shares.len()).ok().and_then(|n| n.checked_mul(plan.depth));
        let count = count.filter(|count| *count <= 1 << 16);
        let count = count.context("at most 65536 operations in flight per core")?;
        let class = SizeClass { bytes: plan.sizes.max().next_multiple_of(4096), count };
        let (memory, report) = Memory::new(class.bytes as usize * count as usize, plan.pages)?;
        if report.is_less_than_wanted() {
            eprintln!("core {core}: buffer memory: {report}");
        }
        let memory = Arc::new(memory);
        let mut context =
            CoreContext { memory: Arc::clone(&memory), ring: None, depth: count, wake: None };
        let mut devices = Vec::new();
        for (number, share) in shares.into_iter().enumerate() {
            let block_bytes = share.bdev.geometry().block_bytes;
            let unit = Unit { lun: number as u16, block_bytes, blocks: share.blocks };
            let seed = plan.seed ^ (core as u64) << 32 ^ number as u64;
            let (sizes, workload) = (&plan.sizes, plan.workload);
            let name = share.bdev.name().to_owned();
            devices.push(Device {
                channel: share.bdev.open_channel(&mut context).context(name.clone())?,
                name,
                first: share.first,
                block_bytes,
                pattern: Pattern::new(&[unit], sizes, workload, plan.read_percent, seed),
                table: plan
                    .verify
                    .then(|| Table::new(seed, number as u16, block_bytes, share.blocks)),
            });
        }
        let idle = |slot: u32| Slot {
            started: Instant::default(),
            extent: Extent { unit: 0, lba: 0, blocks: 0 },
            device: slot / plan.depth,
            kind: Kind::Read,
            phase: Phase::Run,
        };
        Ok(DeviceLoad {
            core,
            devices,
            slots: (0..count).map(idle).collect(),
            waiting: Vec::with_capacity(count as usize),
            pool: Pool::new(memory, &[class]),
            done: Batch::new(count as usize),
            totals: Totals::default(),
            in_flight: 0,
            ended: 0,
            start: None,
            end: Instant::default(),
            stopped: false,
            tell,
            ios,
            plan,
        })
    }

    /// Starts all slots; the time runs from here.
    fn begin(&mut self, now: Instant) {
        (self.start, self.end) = (Some(now), now.after(self.plan.duration));
        for slot in 0..self.slots.len() as u32 {
            let mut buf = self.pool.take(self.plan.sizes.max() as usize).expect("one per slot");
            buf.fill(0..buf.len(), 0xa5);
            self.next(slot, buf, now);
        }
    }

    /// Gives a slot its next operation, or parks it while the blocks it draws are claimed.
    #[inline]
    fn next(&mut self, slot: u32, mut buf: Buf, now: Instant) {
        let device = &mut self.devices[self.slots[slot as usize].device as usize];
        let drawn = match &mut device.table {
            None => Some(device.pattern.draw()),
            Some(table) => draw_claimed(&mut device.pattern, table, device.block_bytes, &mut buf),
        };
        let Some((kind, extent)) = drawn else {
            return self.waiting.push((slot, buf));
        };
        let state = &mut self.slots[slot as usize];
        (state.kind, state.extent, state.phase) = (kind, extent, Phase::Run);
        self.submit(slot, buf, now);
    }

    #[inline]
    fn submit(&mut self, slot: u32, mut buf: Buf, now: Instant) {
        let state = &mut self.slots[slot as usize];
        state.started = now;
        let device = &mut self.devices[state.device as usize];
        let (lba, blocks) = (device.first + state.extent.lba, state.extent.blocks);
        buf.set_len((blocks * device.block_bytes) as usize);
        let op = match state.kind {
            Kind::Read => IoOp::Read { lba, blocks },
            _ => IoOp::Write { lba, blocks, fua: false },
        };
        self.in_flight += 1;
        device.channel.submit(Io { tag: Tag::new(slot, 0), op, buf: Some(buf) });
    }

    #[inline]
    fn on_done(&mut self, done: IoDone, now: Instant) {
        let slot = done.tag.index();
        let buf = done.buf.expect("a buffer goes in and comes back");
        self.in_flight -= 1;
        self.ended += 1;
        let Slot { kind, extent, started, device, .. } = self.slots[slot];
        if done.status.is_good() {
            let block_bytes = self.devices[device as usize].block_bytes;
            let totals = &mut self.totals;
            let tally = if kind == Kind::Read { &mut totals.reads } else { &mut totals.writes };
            tally.ios += 1;
            tally.bytes += u64::from(extent.blocks * block_bytes);
            tally.latency_ns.saturating_record(now.ns_since(started));
        } else {
            self.on_failed(slot, done.status);
        }
        if self.plan.verify {
            return self.on_verified(slot, done.status, buf, now);
        }
        if now < self.end { self.next(slot as u32, buf, now) } else { self.pool.put(buf) }
    }

    #[cold]
    fn on_failed(&mut self, slot: usize, status: IoStatus) {
        let Slot { kind, extent, device, .. } = self.slots[slot];
        let device = &self.devices[device as usize];
        let (name, lba) = (&device.name, device.first + extent.lba);
        let text = format!("{name}, {kind:?} of {} blocks at {lba}: {status:?}", extent.blocks);
        self.count_error(text);
    }

    fn count_error(&mut self, text: String) {
        self.totals.errors += 1;
        if self.totals.errors_shown.len() < ERRORS_SHOWN_MAX {
            self.totals.errors_shown.push(text);
        }
    }

    /// A write is read back next; what was read is compared and its claim ends.
    fn on_verified(&mut self, slot: usize, status: IoStatus, mut buf: Buf, now: Instant) {
        let Slot { kind, extent, device, .. } = self.slots[slot];
        let device = &mut self.devices[device as usize];
        let table = device.table.as_mut().expect("a table per device");
        let (lba, blocks) = (extent.lba, extent.blocks);
        if kind == Kind::Write && status.is_good() {
            // So that a read that moves nothing can't find the data still there.
            buf.fill(0..buf.len(), 0);
            let state = &mut self.slots[slot];
            (state.kind, state.phase) = (Kind::Read, Phase::ReadBack);
            return self.submit(slot as u32, buf, now);
        }
        let checked = match status.is_good() {
            true => table.check(lba, buf.private().expect("memory of this process")),
            false => {
                table.forget(lba, blocks);
                Ok(())
            }
        };
        table.release(lba, blocks);
        if let Err(difference) = checked {
            let name = device.name.clone();
            self.count_error(format!("{name}: {difference}"));
        }
        buf.set_len(buf.capacity());
        if now < self.end { self.next(slot as u32, buf, now) } else { self.pool.put(buf) }
    }

    /// Tries the slots that wait for blocks again.
    #[cold]
    fn retry(&mut self, now: Instant) {
        for _ in 0..self.waiting.len() {
            let (slot, buf) = self.waiting.swap_remove(0);
            if now < self.end { self.next(slot, buf, now) } else { self.pool.put(buf) }
        }
    }
}

/// An operation that touches no block in flight, with the data to write in place.
fn draw_claimed(
    pattern: &mut Pattern,
    table: &mut Table,
    block_bytes: u32,
    buf: &mut Buf,
) -> Option<(Kind, Extent)> {
    for _ in 0..CLAIM_TRIES {
        let (kind, extent) = pattern.draw();
        if !table.claim(extent.lba, extent.blocks) {
            continue;
        }
        buf.set_len((extent.blocks * block_bytes) as usize);
        if kind == Kind::Write {
            table.stamp(extent.lba, buf.private_mut().expect("memory of this process"));
        }
        return Some((kind, extent));
    }
    None
}

impl Service for DeviceLoad {
    type Message = ();

    #[inline]
    fn turn(&mut self, now: Instant, _inbox: &mut Batch<()>) -> Progress {
        let Some(start) = self.start else {
            self.begin(now);
            self.devices.iter_mut().for_each(|device| device.channel.flush());
            return Progress::Busy;
        };
        for device in &mut self.devices {
            device.channel.poll(now, &mut self.done);
        }
        if now < self.end && self.plan.stop.is_raised() {
            self.end = now;
            self.totals.interrupted = true;
        }
        let progress = if self.done.is_empty() { Progress::Idle } else { Progress::Busy };
        while let Some(done) = self.done.pop() {
            self.on_done(done, now);
        }
        if !self.waiting.is_empty() {
            self.retry(now);
        }
        if progress == Progress::Busy {
            self.devices.iter_mut().for_each(|device| device.channel.flush());
            self.ios.set(self.ended);
        }
        if now >= self.end && self.in_flight == 0 && !self.stopped {
            self.stopped = true;
            let mut totals = std::mem::take(&mut self.totals);
            totals.elapsed = Duration::from_nanos(now.ns_since(start));
            // The receiver is there until all cores have been joined.
            let _ = self.tell.send((self.core, totals));
        }
        if now >= self.end.after(PATIENCE) {
            self.stopped = true;
        }
        progress
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn stopped(&self) -> bool {
        self.stopped
    }
}

/// Divides devices among cores: with `every_core` each core gets its part of each, else each device
/// has one core, in turns. Uses at most `range_bytes` of a device. Cores without a device are left
/// out.
pub fn shares(
    devices: &[Arc<dyn Bdev>],
    cores: &[usize],
    every_core: bool,
    range_bytes: u64,
) -> Result<Vec<(usize, Vec<Share>)>> {
    ensure!(!cores.is_empty(), "no core to run on");
    ensure!(!devices.is_empty(), "no device to run on");
    let mut all: Vec<(usize, Vec<Share>)> = cores.iter().map(|core| (*core, Vec::new())).collect();
    for (number, bdev) in devices.iter().enumerate() {
        let geometry = bdev.geometry();
        let blocks = geometry.blocks.min(range_bytes / u64::from(geometry.block_bytes));
        if !every_core {
            let share = Share { bdev: Arc::clone(bdev), first: 0, blocks };
            all[number % cores.len()].1.push(share);
            continue;
        }
        let part = blocks / cores.len() as u64;
        for ((_, shares), index) in all.iter_mut().zip(0..) {
            shares.push(Share { bdev: Arc::clone(bdev), first: part * index, blocks: part });
        }
    }
    all.retain(|(_, shares)| !shares.is_empty());
    Ok(all)
}

#[cfg(test)]
mod tests;
