//! What every device must do, as assertions that run on any of them.
//!
//! A [`Rig`] owns a pool, a core's context and one channel, and drives the channel as a core does:
//! submit, flush, poll. The rules panic with the broken promise. [`every_rule`] changes the data of
//! the device's first megabyte or so.

use std::sync::Arc;
use std::time::Duration;

use reactor::pool::{Buf, SizeClass};
use reactor::sleep::{Sleep, Woken};
use reactor::sys::memory::Memory;
use reactor::time::Manual;
use reactor::{Batch, Clock, Pool, Tag};
use rustix::fd::OwnedFd;

use crate::{Bdev, CoreContext, Geometry, Io, IoChannel, IoDone, IoOp, IoStatus};

/// Turns of a core without a completion after which an operation counts as lost.
const TURNS_MAX: u64 = 200_000_000;

/// Time of a turn.
const TURN: Duration = Duration::from_micros(1);

/// How long an armed channel may take to wake its core.
const WAKE_MAX: Duration = Duration::from_secs(10);

/// A channel and all that a core would have around it.
pub struct Rig {
    channel: Box<dyn IoChannel>,
    /// The core's side: kept so that more channels can share its ring.
    pub core: CoreContext,
    /// The time, a microsecond later with every turn.
    pub clock: Manual,
    pool: Pool,
    done: Batch<IoDone>,
    in_flight: Vec<Option<Tag>>,
    generation: u32,
    /// Shape of the device when the rig was made.
    pub geometry: Geometry,
}

impl Rig {
    /// Opens a channel of `depth` operations with buffers of `buf_bytes` (a multiple of 4096).
    pub fn new(bdev: &dyn Bdev, depth: u32, buf_bytes: u32) -> Rig {
        Rig::woken_by(bdev, depth, buf_bytes, None)
    }

    /// As [`Rig::new`], on a core that sleeps until its descriptor `wake` is raised.
    fn woken_by(bdev: &dyn Bdev, depth: u32, buf_bytes: u32, wake: Option<Arc<OwnedFd>>) -> Rig {
        let memory = Memory::ordinary(depth as usize * buf_bytes as usize).expect("test memory");
        let core = CoreContext { memory: Arc::new(memory), ring: None, depth, wake };
        Rig::of(bdev, core, buf_bytes)
    }

    /// Opens a channel on a core whose memory holds `depth` buffers of `buf_bytes`.
    pub fn of(bdev: &dyn Bdev, mut core: CoreContext, buf_bytes: u32) -> Rig {
        let depth = core.depth;
        let memory = Arc::clone(&core.memory);
        let pool = Pool::new(memory, &[SizeClass { bytes: buf_bytes, count: depth }]);
        let channel = bdev.open_channel(&mut core).expect("a channel opens");
        Rig {
            channel,
            core,
            clock: Manual::default(),
            pool,
            done: Batch::new(depth as usize),
            in_flight: vec![None; depth as usize],
            generation: 0,
            geometry: bdev.geometry(),
        }
    }

    /// The channel, for what the rig does not do itself.
    pub fn channel(&mut self) -> &mut dyn IoChannel {
        self.channel.as_mut()
    }

    /// Takes a buffer of `len` bytes. Panics when there is none.
    pub fn take(&mut self, len: usize) -> Buf {
        self.pool.take(len).expect("as many buffers as operations")
    }

    /// Gives a buffer back.
    pub fn put(&mut self, buf: Option<Buf>) {
        if let Some(buf) = buf {
            self.pool.put(buf);
        }
    }

    /// Submits under a tag of its own. Panics when `depth` operations are in flight.
    pub fn submit(&mut self, op: IoOp, buf: Option<Buf>) -> Tag {
        let free = self.in_flight.iter().position(Option::is_none).expect("a free tag");
        self.generation = self.generation.wrapping_add(1);
        let tag = Tag::new(free as u32, self.generation);
        self.in_flight[free] = Some(tag);
        self.channel.submit(Io { tag, op, buf });
        tag
    }

    /// Flushes and polls once.
    fn turn(&mut self) {
        self.clock.advance(TURN);
        self.channel.flush();
        self.channel.poll(self.clock.now(), &mut self.done);
    }

    /// What has completed, if something has; checks that its tag was in flight.
    fn completed(&mut self) -> Option<IoDone> {
        let done = self.done.pop()?;
        let slot = &mut self.in_flight[done.tag.index()];
        assert_eq!(*slot, Some(done.tag), "a tag came back that was not in flight");
        *slot = None;
        Some(done)
    }

    /// Runs so many turns, or fewer if something completes.
    pub fn wait_turns(&mut self, turns: u64) -> Option<IoDone> {
        for _ in 0..turns {
            if let Some(done) = self.completed() {
                return Some(done);
            }
            self.turn();
        }
        self.completed()
    }

    /// Flushes and polls until something completes; checks that its tag was in flight.
    pub fn wait(&mut self) -> IoDone {
        self.wait_turns(TURNS_MAX).expect("every operation completes")
    }

    /// Runs one operation without data.
    pub fn run(&mut self, op: IoOp) -> IoStatus {
        let tag = self.submit(op, None);
        let done = self.wait();
        assert_eq!(done.tag, tag);
        assert!(done.buf.is_none());
        done.status
    }

    /// Reads blocks that can be read, and whether the device had no data to give for them.
    fn read_raw(&mut self, lba: u64, blocks: u32) -> (Vec<u8>, bool) {
        let buf = self.take(blocks as usize * self.geometry.block_bytes as usize);
        self.submit(IoOp::Read { lba, blocks }, Some(buf));
        let done = self.wait();
        assert!(done.status.is_good(), "block {lba}: {:?}", done.status);
        let bytes = done.buf.as_ref().and_then(Buf::private).expect("the buffer").to_vec();
        self.put(done.buf);
        (bytes, done.status == IoStatus::GoodNoData)
    }

    /// Reads blocks into a vector.
    pub fn read(&mut self, lba: u64, blocks: u32) -> Result<Vec<u8>, IoStatus> {
        let buf = self.take(blocks as usize * self.geometry.block_bytes as usize);
        self.submit(IoOp::Read { lba, blocks }, Some(buf));
        let done = self.wait();
        let bytes = done.buf.as_ref().and_then(Buf::private).expect("the buffer").to_vec();
        self.put(done.buf);
        if done.status.is_good() { Ok(bytes) } else { Err(done.status) }
    }

    /// Writes whole blocks.
    pub fn write(&mut self, lba: u64, bytes: &[u8]) -> IoStatus {
        let blocks = (bytes.len() / self.geometry.block_bytes as usize) as u32;
        let mut buf = self.take(bytes.len());
        buf.write_at(0, bytes);
        self.submit(IoOp::Write { lba, blocks, fua: false }, Some(buf));
        let done = self.wait();
        self.put(done.buf);
        done.status
    }

    /// Flushes and polls until nothing is in flight, and once more: nothing may come twice.
    pub fn drain(&mut self) {
        while self.in_flight.iter().any(Option::is_some) {
            let done = self.wait();
            self.put(done.buf);
        }
        self.turn();
        assert!(self.done.is_empty(), "a completion came twice");
        assert!(self.pool.counts().all(|count| count.free == count.total), "a buffer is missing");
    }
}

/// Marsaglia's xorshift64*: numbers from a seed, the same everywhere.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from any seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound
    }
}

/// A rule: runs on a device with numbers from a seed.
pub type Rule = fn(&dyn Bdev, u64);

/// Every rule and its name.
pub const RULES: [(&str, Rule); 7] = [
    ("ranges are checked", |bdev, _| ranges_are_checked(bdev)),
    ("nothing completes inside submit, every tag once", |bdev, _| {
        nothing_completes_inside_submit(bdev);
    }),
    ("depth is held", |bdev, _| depth_is_held(bdev)),
    ("poll takes what fits", |bdev, _| poll_takes_what_fits(bdev)),
    ("a core that sleeps is woken", |bdev, _| a_core_that_sleeps_is_woken(bdev)),
    ("data is kept", |bdev, seed| data_is_kept(bdev, seed, 1000)),
    ("at once is as submitted", at_once_is_as_submitted),
];

/// Runs every rule with numbers from `seed`.
pub fn every_rule(bdev: &dyn Bdev, seed: u64) {
    RULES.iter().for_each(|(_, rule)| rule(bdev, seed));
}

/// Blocks outside the device are refused, whatever the operation; empty ranges are good.
pub fn ranges_are_checked(bdev: &dyn Bdev) {
    let mut rig = Rig::new(bdev, 4, 65536);
    let end = rig.geometry.blocks;
    let block = rig.geometry.block_bytes as usize;
    for (lba, blocks) in [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2), (end + 7, 1)] {
        for write in [false, true] {
            let buf = rig.take(blocks as usize * block);
            let op = match write {
                true => IoOp::Write { lba, blocks, fua: false },
                false => IoOp::Read { lba, blocks },
            };
            rig.submit(op, Some(buf));
            let done = rig.wait();
            assert_eq!(done.status, IoStatus::OutOfRange, "{op:?} of {end} blocks");
            rig.put(done.buf);
        }
        let blocks = u64::from(blocks);
        for op in [
            IoOp::WriteZeroes { lba, blocks, unmap: false, fua: false },
            IoOp::WriteZeroes { lba, blocks: u64::MAX, unmap: true, fua: true },
            IoOp::Unmap { lba, blocks },
            IoOp::Unmap { lba: 1, blocks: u64::MAX },
        ] {
            assert_eq!(rig.run(op), IoStatus::OutOfRange, "{op:?} of {end} blocks");
        }
    }
    assert!(rig.read(end - 1, 1).is_ok(), "the last block can't be read");
    if !rig.geometry.read_only {
        let empty = IoOp::WriteZeroes { lba: end, blocks: 0, unmap: false, fua: false };
        assert_eq!(rig.run(empty), IoStatus::Good);
    }
    rig.drain();
}

/// Only `poll` gives results, and the rig's wait for a tag sees each exactly once.
pub fn nothing_completes_inside_submit(bdev: &dyn Bdev) {
    let mut rig = Rig::new(bdev, 8, 65536);
    let block = rig.geometry.block_bytes as usize;
    for round in 0..8u64 {
        let buf = rig.take(block);
        rig.submit(IoOp::Read { lba: round % rig.geometry.blocks, blocks: 1 }, Some(buf));
        assert!(rig.done.is_empty());
    }
    rig.drain();
    assert!(rig.channel.arm(), "an idle channel does not let its core sleep");
}

/// `depth` operations fit before the first flush and after every completion.
pub fn depth_is_held(bdev: &dyn Bdev) {
    let depth = 37;
    let mut rig = Rig::new(bdev, depth, 65536);
    let block = rig.geometry.block_bytes as usize;
    for round in 0..u64::from(depth) * 4 {
        if round >= u64::from(depth) {
            let done = rig.wait();
            assert!(done.status.is_good(), "{:?}", done.status);
            rig.put(done.buf);
        }
        let buf = rig.take(block);
        rig.submit(IoOp::Read { lba: round % rig.geometry.blocks, blocks: 1 }, Some(buf));
    }
    rig.drain();
}

/// `poll` gives no more than there is room for, and loses nothing.
pub fn poll_takes_what_fits(bdev: &dyn Bdev) {
    let mut rig = Rig::new(bdev, 8, 65536);
    let block = rig.geometry.block_bytes as usize;
    for _ in 0..8 {
        let buf = rig.take(block);
        rig.submit(IoOp::Read { lba: 0, blocks: 1 }, Some(buf));
    }
    rig.done = Batch::new(1);
    rig.drain();
}

/// `arm` lets a core sleep only if the channel will wake the core: not while an operation waits for
/// `flush`, and a core that does sleep is woken by the next completion.
pub fn a_core_that_sleeps_is_woken(bdev: &dyn Bdev) {
    let sleep = Sleep::new().expect("an eventfd");
    let mut rig = Rig::woken_by(bdev, 4, 65536, Some(Arc::clone(sleep.eventfd())));
    let Geometry { block_bytes, read_only, .. } = rig.geometry;
    for round in 0..8u32 {
        let op = match round % 4 {
            0 => IoOp::Flush,
            1 if !read_only => IoOp::Write { lba: 0, blocks: 1, fua: true },
            _ => IoOp::Read { lba: 0, blocks: 1 },
        };
        let buf = (op != IoOp::Flush).then(|| rig.take(block_bytes as usize));
        assert!(rig.channel.arm(), "an idle channel does not let its core sleep");
        rig.submit(op, buf);
        assert!(!rig.channel.arm(), "{op:?} waits for a flush, and the core may sleep");
        rig.turn();
        while rig.done.is_empty() {
            // Whatever raised the descriptor before does not count.
            sleep.wait(Some(Duration::ZERO));
            if rig.channel.arm() {
                let asleep = std::time::Instant::now();
                let woken = sleep.wait(Some(WAKE_MAX));
                // The kernel may end a sleep to deliver a completion without raising anything.
                let slept = asleep.elapsed() >= WAKE_MAX;
                assert!(woken == Woken::Raised || !slept, "the end of {op:?} woke nobody");
            }
            rig.turn();
        }
        let done = rig.completed().expect("looked at above");
        rig.put(done.buf);
    }
    rig.drain();
}

/// What a device does at once is what it would do after `submit`; what it would refuse there it
/// leaves alone here.
pub fn at_once_is_as_submitted(bdev: &dyn Bdev, seed: u64) {
    let mut rig = Rig::new(bdev, 2, 65536);
    let mut random = Random::new(seed);
    let Geometry { block_bytes, blocks: end, read_only, .. } = rig.geometry;
    let mut beyond = rig.take(block_bytes as usize);
    for op in
        [IoOp::Read { lba: end, blocks: 1 }, IoOp::Write { lba: u64::MAX, blocks: 1, fua: false }]
    {
        assert!(!rig.channel.at_once(&op, &mut beyond), "{op:?} of {end} blocks");
    }
    rig.put(Some(beyond));
    let beyond = IoOp::Write { lba: end, blocks: 1, fua: false };
    assert!(!rig.channel.write_at_once(&beyond, &vec![0; block_bytes as usize]), "{beyond:?}");
    for _ in 0..100 {
        let (lba, fua) = (random.below(end.min(1000)), random.below(2) == 0);
        let mut buf = rig.take(block_bytes as usize);
        buf.fill(0..buf.len(), 0xa5);
        let read = rig.channel.at_once(&IoOp::Read { lba, blocks: 1 }, &mut buf);
        let found = buf.private().expect("pool memory").to_vec();
        buf.fill(0..buf.len(), random.below(256) as u8);
        let new = buf.private().expect("pool memory").to_vec();
        let submitted = rig.read_raw(lba, 1);
        let op = IoOp::Write { lba, blocks: 1, fua };
        let write = match random.below(2) {
            0 => rig.channel.at_once(&op, &mut buf),
            _ => rig.channel.write_at_once(&op, &new),
        };
        assert!(!(write && read_only), "a read-only device was written to");
        rig.put(Some(buf));
        let (after, no_data) = rig.read_raw(lba, 1);
        if !no_data {
            assert!(!read || found == submitted.0, "block {lba} reads differently at once");
            assert!(after == if write { new } else { submitted.0 }, "block {lba} after a write");
        }
    }
    rig.drain();
}

/// Blocks in flight, so that the oracle knows one right answer for each read.
struct Flight {
    tag: Tag,
    op: IoOp,
    /// What a read must find.
    expected: Vec<u8>,
}

/// Random operations against a copy in memory: every read sees exactly what was written before.
pub fn data_is_kept(bdev: &dyn Bdev, seed: u64, operations: u32) {
    data_is_kept_by(&mut Rig::new(bdev, 16, 65536), seed, operations);
}

/// [`data_is_kept`] on a rig of depth 16 and buffers of 65536 bytes.
pub fn data_is_kept_by(rig: &mut Rig, seed: u64, operations: u32) {
    let mut random = Random::new(seed);
    let block = rig.geometry.block_bytes as usize;
    let blocks_max = (65536 / block) as u64;
    let window = rig.geometry.blocks.min((1 << 20) / block as u64).max(1);
    let mut oracle = Vec::with_capacity(window as usize * block);
    for lba in 0..window {
        oracle.extend(rig.read(lba, 1).expect("a readable device"));
    }
    let mut flights: Vec<Flight> = Vec::new();
    for _ in 0..operations {
        let lba = random.below(window);
        let blocks = 1 + random.below(blocks_max.min(window - lba));
        let op = match draw(&mut random, lba, blocks) {
            // What such blocks read as is the device's secret.
            IoOp::Unmap { .. } if rig.geometry.unmap && !rig.geometry.unmap_zeroes => IoOp::Flush,
            op => op,
        };
        while flights.len() == 16 || flights.iter().any(|flight| overlap(&flight.op, &op)) {
            land(rig, &mut flights);
        }
        let range = lba as usize * block..(lba + blocks) as usize * block;
        let expected = oracle[range.clone()].to_vec();
        let mut buf = match op {
            IoOp::Read { .. } | IoOp::Write { .. } => Some(rig.take(range.len())),
            _ => None,
        };
        let changes = op.changes_medium() && !rig.geometry.read_only;
        match &mut buf {
            Some(buf) if op.changes_medium() => {
                let words = (0..range.len() / 8).map(|_| random.below(1 << 53));
                let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
                buf.write_at(0, &bytes);
                if changes {
                    oracle[range].copy_from_slice(&bytes);
                }
            }
            Some(buf) => buf.fill(0..range.len(), 0xa5),
            None if op == IoOp::Flush || !changes => {}
            None if matches!(op, IoOp::Unmap { .. }) && !rig.geometry.unmap => {}
            None => oracle[range].fill(0),
        }
        let tag = rig.submit(op, buf);
        flights.push(Flight { tag, op, expected });
        if random.below(4) == 0 {
            rig.channel.flush();
        }
    }
    while !flights.is_empty() {
        land(rig, &mut flights);
    }
    rig.drain();
}

fn draw(random: &mut Random, lba: u64, blocks: u64) -> IoOp {
    let fua = random.below(8) == 0;
    match random.below(16) {
        0..=6 => IoOp::Read { lba, blocks: blocks as u32 },
        7..=12 => IoOp::Write { lba, blocks: blocks as u32, fua },
        13 => IoOp::WriteZeroes { lba, blocks, unmap: random.below(2) == 0, fua },
        14 => IoOp::Unmap { lba, blocks },
        _ => IoOp::Flush,
    }
}

fn overlap(one: &IoOp, other: &IoOp) -> bool {
    match (one.range(), other.range()) {
        (Some((a, a_len)), Some((b, b_len))) => a < b + b_len && b < a + a_len,
        _ => false,
    }
}

fn land(rig: &mut Rig, flights: &mut Vec<Flight>) {
    let done = rig.wait();
    let at = flights.iter().position(|flight| flight.tag == done.tag).expect("a known tag");
    let flight = flights.swap_remove(at);
    let expected = match flight.op {
        op if op.changes_medium() && rig.geometry.read_only => IoStatus::WriteProtected,
        IoOp::Unmap { .. } if !rig.geometry.unmap => IoStatus::Unsupported,
        IoOp::Read { .. } if done.status == IoStatus::GoodNoData => IoStatus::GoodNoData,
        _ => IoStatus::Good,
    };
    assert_eq!(done.status, expected, "{:?}", flight.op);
    let bytes = done.buf.as_ref().and_then(Buf::private);
    match (flight.op, bytes) {
        (IoOp::Read { .. }, Some(bytes)) if done.status == IoStatus::Good => {
            assert!(bytes == flight.expected, "{:?} found other data", flight.op);
        }
        (IoOp::Read { .. }, Some(bytes)) => {
            assert!(bytes.iter().all(|byte| *byte == 0xa5), "no data, but a changed buffer");
        }
        _ => {}
    }
    rig.put(done.buf);
}
