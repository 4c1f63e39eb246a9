//! Keeps a number of commands in flight on every channel and times each.
//!
//! Owns the slots (one per command in flight, each with its own data memory), the histograms and,
//! when data is verified, the tables of what was written. One thread polls all channels.
//!
//! A slot's data is touched only while its command is not in flight. Blocks of a verified command
//! are claimed until it has been checked, so no two commands in flight overlap.
//!
//! Per command: one draw of the pattern, one reading of the clock, one histogram increment. Nothing
//! is allocated once the load runs, but the text of the first errors.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use reactor::{Clock, Instant};
use transport::initiator::DataMemory;

use crate::interrupt::{EXIT_INTERRUPTED, Interrupt};
use crate::pattern::{Extent, Pattern, Workload};
use crate::port::{Command, Done, Fault, Kind, Port, Unit};
use crate::size::Sizes;
use crate::verify::{BLOCKS_MAX, Table};

/// Longest latency that the histogram tells apart, in nanoseconds.
const LATENCY_NS_MAX: u64 = 100_000_000_000;
/// How long to wait for the last answers once the time is over.
const PATIENCE: Duration = Duration::from_secs(30);
/// Errors whose text is kept; the others are counted.
const ERRORS_SHOWN_MAX: usize = 10;
/// Draws of the pattern before a verified command gives way to those whose blocks it would touch.
const CLAIM_TRIES: u32 = 16;

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Units with the number of blocks to use, from the first one on.
    pub units: Vec<Unit>,
    /// Sizes of commands.
    pub sizes: Sizes,
    /// Kinds and places.
    pub workload: Workload,
    /// Percentage of reads in mixed workloads.
    pub read_percent: u8,
    /// Commands in flight per channel.
    pub depth: u32,
    /// How long.
    pub duration: Duration,
    /// Compare what is read with what was written.
    pub verify: bool,
    /// Start of the pseudo-random numbers.
    pub seed: u64,
    /// Ends the run before its time.
    pub stop: Interrupt,
}

impl Plan {
    /// Refuses what can't be run.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.units.is_empty(), "no logical unit to run on");
        ensure!((1..=4096).contains(&self.depth), "a queue depth from 1 to 4096 is needed");
        ensure!(self.read_percent <= 100, "a percentage of reads from 0 to 100 is needed");
        for unit in &self.units {
            ensure!(
                self.sizes.fit(unit.block_bytes),
                "LUN {}: {} is no multiple of its blocks of {} bytes",
                unit.lun,
                self.sizes,
                unit.block_bytes
            );
            ensure!(
                u64::from(self.sizes.max() / unit.block_bytes) <= unit.blocks,
                "LUN {}: {} does not fit into {} blocks of {} bytes",
                unit.lun,
                self.sizes,
                unit.blocks,
                unit.block_bytes
            );
            ensure!(
                !self.verify || unit.blocks <= BLOCKS_MAX,
                "LUN {}: at most {BLOCKS_MAX} blocks can be verified: limit the range",
                unit.lun
            );
        }
        ensure!(
            !self.verify || self.workload.read_percent(self.read_percent) < 100,
            "nothing to compare with: a workload that writes is needed to verify data"
        );
        Ok(())
    }

    /// Bytes of data memory that a run over `channels` channels needs.
    pub fn memory_bytes(&self, channels: usize) -> usize {
        channels * self.depth as usize * self.sizes.max() as usize
    }
}

/// Commands of one kind that ended well.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Commands.
    pub ios: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Their latencies in nanoseconds.
    pub latency_ns: Histogram<u64>,
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Self {
        let latency_ns = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("valid bounds");
        Tally { ios: 0, bytes: 0, latency_ns }
    }

    /// Both together.
    pub fn sum(&self, other: &Tally) -> Tally {
        let mut sum = self.clone();
        sum.ios += other.ios;
        sum.bytes += other.bytes;
        sum.latency_ns.add(&other.latency_ns).expect("equal bounds");
        sum
    }
}

impl Default for Tally {
    fn default() -> Self {
        Tally::new()
    }
}

/// What came of a run.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Reads, those that verify included.
    pub reads: Tally,
    /// Writes.
    pub writes: Tally,
    /// From the first command to the last answer; without the final sweep of a verified run.
    pub elapsed: Duration,
    /// Commands that failed and data that differed.
    pub errors: u64,
    /// The first of them in words.
    pub errors_shown: Vec<String>,
    /// Blocks that were read again in the final sweep and hold what was written last.
    pub blocks_swept: u64,
    /// The run ended before its time because somebody asked for it. Then not all that was written
    /// has been swept.
    pub interrupted: bool,
}

impl Totals {
    /// The exit code of a tool whose run came to this: failure when a command failed or data
    /// differed, [`EXIT_INTERRUPTED`] for a run that ended early.
    pub fn exit_code(&self) -> ExitCode {
        match (self.errors, self.interrupted) {
            (0, false) => ExitCode::SUCCESS,
            (0, true) => ExitCode::from(EXIT_INTERRUPTED),
            _ => ExitCode::FAILURE,
        }
    }
}

/// What a slot is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Draws its next command.
    Idle,
    /// Runs a command of the pattern.
    Run,
    /// Has written, and is to read that back.
    ReadBack,
    /// Reads in the final sweep.
    Sweep,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    phase: Phase,
    kind: Kind,
    extent: Extent,
    started: Instant,
}

/// The slots of one channel that have no command in flight.
#[derive(Debug)]
struct Lane {
    /// Those that have their next command, and go first: claimed blocks hang on them.
    ready: Vec<u32>,
    /// The others.
    idle: Vec<u32>,
}

impl Lane {
    fn new(depth: u32) -> Self {
        Lane { ready: Vec::with_capacity(depth as usize), idle: (0..depth).rev().collect() }
    }
}

struct Load<'a, M> {
    plan: &'a Plan,
    memory: &'a M,
    pattern: Pattern,
    slots: Vec<Slot>,
    lanes: Vec<Lane>,
    /// One per unit; empty unless data is verified.
    tables: Vec<Table>,
    scratch: Vec<u8>,
    totals: Totals,
    in_flight: usize,
    stage: Stage,
}

/// What new commands are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The load.
    Run,
    /// Nothing new; written data is still read back.
    Drain,
    /// The final sweep, from this place on.
    Sweep { unit: usize, lba: u64 },
}

/// Runs a load. `progress` is called about once a second with the time since the start. An error is
/// a broken channel or a target that does not answer; failed commands are counted in [`Totals`].
/// Once [`Plan::stop`] is raised no new command starts, and what is in flight is waited for.
pub fn run<P: Port, M: DataMemory>(
    plan: &Plan,
    ports: &mut [P],
    memory: &M,
    clock: &impl Clock,
    mut progress: impl FnMut(&Totals, Duration),
) -> Result<Totals> {
    plan.check()?;
    ensure!(memory.len() >= plan.memory_bytes(ports.len()), "data memory too small");
    let mut load = Load::new(plan, ports.len(), memory);
    let mut done = Vec::with_capacity(plan.depth as usize);
    let start = clock.now();
    let mut end = start.after(plan.duration);
    let mut report = start.after(Duration::from_secs(1));
    load.drive(ports, clock, &mut done, |load, now| {
        if now >= report {
            report = now.after(Duration::from_secs(1));
            progress(&load.totals, Duration::from_nanos(now.ns_since(start)));
        }
        if load.is_interrupted() {
            end = now;
        }
        if now >= end && load.stage == Stage::Run {
            load.stage = Stage::Drain;
        }
        now >= end.after(PATIENCE)
    })?;
    load.totals.elapsed = Duration::from_nanos(clock.now().ns_since(start));
    if plan.verify && !load.totals.interrupted {
        load.stage = Stage::Sweep { unit: 0, lba: 0 };
        let mut ended = (0, clock.now());
        load.drive(ports, clock, &mut done, |load, now| {
            if load.is_interrupted() {
                load.stage = Stage::Drain;
            }
            // The sweep takes as long as it takes, while it moves.
            if load.totals.blocks_swept != ended.0 {
                ended = (load.totals.blocks_swept, now);
            }
            now >= ended.1.after(PATIENCE)
        })?;
    }
    Ok(load.totals)
}

impl<'a, M: DataMemory> Load<'a, M> {
    fn new(plan: &'a Plan, channels: usize, memory: &'a M) -> Self {
        let idle = Slot {
            phase: Phase::Idle,
            kind: Kind::Read,
            extent: Extent { unit: 0, lba: 0, blocks: 0 },
            started: Instant::default(),
        };
        let table = |unit: &Unit| Table::new(plan.seed, unit.lun, unit.block_bytes, unit.blocks);
        Load {
            plan,
            memory,
            pattern: Pattern::new(
                &plan.units,
                &plan.sizes,
                plan.workload,
                plan.read_percent,
                plan.seed,
            ),
            slots: vec![idle; channels * plan.depth as usize],
            lanes: (0..channels).map(|_| Lane::new(plan.depth)).collect(),
            tables: if plan.verify { plan.units.iter().map(table).collect() } else { Vec::new() },
            scratch: vec![0; if plan.verify { plan.sizes.max() as usize } else { 0 }],
            totals: Totals {
                errors_shown: Vec::with_capacity(ERRORS_SHOWN_MAX),
                ..Totals::default()
            },
            in_flight: 0,
            stage: Stage::Run,
        }
    }

    /// True once: when the run is asked to end early.
    fn is_interrupted(&mut self) -> bool {
        self.plan.stop.is_raised() && !std::mem::replace(&mut self.totals.interrupted, true)
    }

    /// Polls and submits until nothing is in flight and nothing new is to come. `each` is called
    /// once per round; true: give up.
    fn drive<P: Port>(
        &mut self,
        ports: &mut [P],
        clock: &impl Clock,
        done: &mut Vec<Done>,
        mut each: impl FnMut(&mut Self, Instant) -> bool,
    ) -> Result<()> {
        loop {
            let mut now = clock.now();
            if each(self, now) {
                bail!("{} commands are not answered after {PATIENCE:?}", self.in_flight);
            }
            for (channel, port) in ports.iter_mut().enumerate() {
                done.clear();
                port.poll(done)?;
                for ended in done.iter() {
                    now = clock.now();
                    self.on_done(channel, ended, now);
                }
                self.fill(channel, port, now)?;
            }
            let ready = self.lanes.iter().any(|lane| !lane.ready.is_empty());
            if self.in_flight == 0 && !ready && self.stage != Stage::Run {
                return Ok(());
            }
        }
    }

    /// Submits on a channel until it is full, or there is nothing to submit now.
    #[inline]
    fn fill<P: Port>(&mut self, channel: usize, port: &mut P, now: Instant) -> Result<()> {
        let mut submitted = false;
        while let Some(slot) = self.next_slot(channel) {
            let index = channel * self.plan.depth as usize + slot as usize;
            let Slot { kind, extent, .. } = self.slots[index];
            let unit = self.plan.units[extent.unit];
            let command = Command {
                slot,
                kind,
                lun: unit.lun,
                lba: extent.lba,
                blocks: extent.blocks,
                offset: index * self.plan.sizes.max() as usize,
                bytes: extent.blocks * unit.block_bytes,
            };
            if !port.submit(&command)? {
                self.lanes[channel].ready.push(slot);
                break;
            }
            self.slots[index].started = now;
            self.in_flight += 1;
            submitted = true;
        }
        if submitted { Ok(port.flush()?) } else { Ok(()) }
    }

    /// A slot of the channel that has its next command. `None`: nothing to submit now.
    #[inline]
    fn next_slot(&mut self, channel: usize) -> Option<u32> {
        if let Some(slot) = self.lanes[channel].ready.pop() {
            return Some(slot);
        }
        let slot = *self.lanes[channel].idle.last()?;
        if !self.prepare(channel * self.plan.depth as usize + slot as usize) {
            return None;
        }
        self.lanes[channel].idle.pop()
    }

    /// Gives an idle slot its next command. False: there is none now.
    #[inline]
    fn prepare(&mut self, index: usize) -> bool {
        let (phase, (kind, extent)) = match self.stage {
            Stage::Run if self.tables.is_empty() => (Phase::Run, self.pattern.draw()),
            Stage::Run => match self.draw_claimed(index) {
                Some(drawn) => (Phase::Run, drawn),
                None => return false,
            },
            Stage::Drain => return false,
            Stage::Sweep { unit, lba } => match self.next_sweep(unit, lba) {
                Some(extent) => (Phase::Sweep, (Kind::Read, extent)),
                None => return false,
            },
        };
        let slot = &mut self.slots[index];
        (slot.phase, slot.kind, slot.extent) = (phase, kind, extent);
        true
    }

    /// A command that touches no block in flight, with the data to write in place.
    fn draw_claimed(&mut self, index: usize) -> Option<(Kind, Extent)> {
        for _ in 0..CLAIM_TRIES {
            let (kind, extent) = self.pattern.draw();
            let table = &mut self.tables[extent.unit];
            if !table.claim(extent.lba, extent.blocks) {
                continue;
            }
            if kind == Kind::Write {
                let bytes = extent.blocks * self.plan.units[extent.unit].block_bytes;
                let data = &mut self.scratch[..bytes as usize];
                table.stamp(extent.lba, data);
                self.memory.write_at(index * self.plan.sizes.max() as usize, data);
            }
            return Some((kind, extent));
        }
        None
    }

    /// The next piece, from a place on, that holds something written.
    fn next_sweep(&mut self, mut unit: usize, mut lba: u64) -> Option<Extent> {
        while let Some(table) = self.tables.get(unit) {
            let blocks_max = self.plan.sizes.max() / self.plan.units[unit].block_bytes;
            while lba < table.blocks() {
                let blocks = u64::from(blocks_max).min(table.blocks() - lba) as u32;
                let extent = Extent { unit, lba, blocks };
                lba += u64::from(blocks);
                if table.knows(extent.lba, blocks) {
                    self.stage = Stage::Sweep { unit, lba };
                    return Some(extent);
                }
            }
            (unit, lba) = (unit + 1, 0);
        }
        self.stage = Stage::Sweep { unit, lba };
        None
    }

    #[inline]
    fn on_done(&mut self, channel: usize, done: &Done, now: Instant) {
        let index = channel * self.plan.depth as usize + done.slot as usize;
        self.in_flight -= 1;
        self.settle(index, done, now);
        let lane = &mut self.lanes[channel];
        let idle = self.slots[index].phase == Phase::Idle;
        if idle { lane.idle.push(done.slot) } else { lane.ready.push(done.slot) }
    }

    /// Counts a command and decides what its slot does next.
    #[inline]
    fn settle(&mut self, index: usize, done: &Done, now: Instant) {
        let slot = self.slots[index];
        if let Err(fault) = done.result {
            return self.on_fault(index, fault);
        }
        if slot.phase != Phase::Sweep {
            let tally = if slot.kind == Kind::Read {
                &mut self.totals.reads
            } else {
                &mut self.totals.writes
            };
            let block_bytes = self.plan.units[slot.extent.unit].block_bytes;
            tally.ios += 1;
            tally.bytes += u64::from(slot.extent.blocks) * u64::from(block_bytes);
            tally.latency_ns.saturating_record(now.ns_since(slot.started));
        }
        if self.tables.is_empty() {
            self.slots[index].phase = Phase::Idle;
        } else {
            self.on_verified_done(index);
        }
    }

    /// A write is read back next; what was read is compared and its claim ends.
    fn on_verified_done(&mut self, index: usize) {
        let Slot { phase, kind, extent, .. } = self.slots[index];
        if kind == Kind::Write {
            let slot = &mut self.slots[index];
            (slot.phase, slot.kind) = (Phase::ReadBack, Kind::Read);
            // So that a read that moves nothing can't find the data still there.
            let bytes = extent.blocks * self.plan.units[extent.unit].block_bytes;
            let data = &mut self.scratch[..bytes as usize];
            data.fill(0);
            return self.memory.write_at(index * self.plan.sizes.max() as usize, data);
        }
        let bytes = extent.blocks * self.plan.units[extent.unit].block_bytes;
        let data = &mut self.scratch[..bytes as usize];
        self.memory.read_at(index * self.plan.sizes.max() as usize, data);
        let table = &mut self.tables[extent.unit];
        let checked = table.check(extent.lba, data);
        if phase == Phase::Sweep {
            self.totals.blocks_swept += u64::from(extent.blocks);
        } else {
            table.release(extent.lba, extent.blocks);
        }
        self.slots[index].phase = Phase::Idle;
        if let Err(difference) = checked {
            self.count_error(|| difference);
        }
    }

    #[cold]
    fn on_fault(&mut self, index: usize, fault: Fault) {
        let Slot { phase, kind, extent, .. } = self.slots[index];
        self.slots[index].phase = Phase::Idle;
        if let Some(table) = self.tables.get_mut(extent.unit) {
            if kind == Kind::Write {
                table.forget(extent.lba, extent.blocks);
            }
            if phase == Phase::Sweep {
                self.totals.blocks_swept += u64::from(extent.blocks);
            } else {
                table.release(extent.lba, extent.blocks);
            }
        }
        let lun = self.plan.units[extent.unit].lun;
        self.count_error(|| {
            format!(
                "LUN {lun}, {kind:?} of {} blocks at LBA {}: {fault}",
                extent.blocks, extent.lba
            )
        });
    }

    fn count_error(&mut self, text: impl FnOnce() -> String) {
        self.totals.errors += 1;
        if self.totals.errors_shown.len() < ERRORS_SHOWN_MAX {
            self.totals.errors_shown.push(text());
        }
    }
}

#[cfg(test)]
mod tests;
