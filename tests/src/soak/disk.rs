//! A device in memory with a volatile write cache and troubles of its own.
//!
//! An operation changes the medium when it ends, never before. A write that fails may have changed
//! some of its blocks. When the power goes, each block that was not flushed keeps its old content
//! or its new one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use bdev::{Bdev, CoreContext, Geometry, Io, IoChannel, IoDone, IoOp, IoStatus, OpenError};
use reactor::{Batch, Buf, Instant};
use serde_json::{Map, Value, json};
use transport::sim::Rng;
use uuid::Uuid;

use super::blocks::BLOCK;
use crate::medium::{assert_buf, bytes_of, geometry};

/// How often operations go wrong: one in so many, 0 for never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Troubles {
    /// Polls that an operation takes, at most.
    pub polls: u64,
    /// It fails.
    pub error_in: u64,
    /// It takes up to 300 polls.
    pub slow_in: u64,
    /// It hangs until the troubles are over, or some while later.
    pub stuck_in: u64,
    /// A read returns a block of wrong data.
    pub corrupt_in: u64,
}

/// What has gone wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Struck {
    /// By [`Troubles::error_in`].
    pub errors: u64,
    /// By [`Troubles::slow_in`].
    pub slow: u64,
    /// By [`Troubles::stuck_in`].
    pub stuck: u64,
    /// By [`Troubles::corrupt_in`].
    pub corrupt: u64,
}

struct State {
    rng: Rng,
    troubles: Troubles,
    struck: Struck,
    /// Size now; what is beyond keeps its content.
    blocks: u64,
    cached: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<bool>,
    /// The process that uses the device has died: what it still does may or may not arrive.
    dying: bool,
    /// Wrong blocks that were returned: block, first word.
    wrong: Vec<(u64, [u8; 8])>,
}

/// The device. Clones are the same device.
#[derive(Clone)]
pub struct Disk {
    name: String,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Disk {
    /// A device without troubles that reads as zeros.
    pub fn new(name: &str, blocks: u64, rng: Rng) -> Disk {
        let state = State {
            rng,
            troubles: Troubles::default(),
            struck: Struck::default(),
            blocks,
            cached: vec![0; bytes_of(0, blocks).len()],
            durable: vec![0; bytes_of(0, blocks).len()],
            dirty: vec![false; blocks as usize],
            dying: false,
            wrong: Vec::new(),
        };
        Disk { name: name.to_owned(), state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A run that fails unwinds through here.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on it has these troubles. Without any, operations that hang end.
    pub fn set_troubles(&self, troubles: Troubles) {
        self.state().troubles = troubles;
    }

    /// What has gone wrong so far.
    pub fn struck(&self) -> Struck {
        self.state().struck
    }

    /// Changes the size, up to that of the beginning.
    pub fn resize(&self, blocks: u64) {
        self.state().blocks = blocks;
    }

    /// Blocks now.
    pub fn blocks(&self) -> u64 {
        self.state().blocks
    }

    /// Content of a block.
    pub fn block(&self, lba: u64) -> Vec<u8> {
        self.state().cached[bytes_of(lba, 1)].to_vec()
    }

    /// The bytes were returned as a wrong block, which is forgotten.
    pub fn was_wrong(&self, lba: u64, bytes: &[u8]) -> bool {
        let wrong = &mut self.state().wrong;
        let at = wrong.iter().position(|(at, word)| *at == lba && bytes.starts_with(word));
        at.map(|at| wrong.swap_remove(at)).is_some()
    }

    /// A block of the range was returned wrong, which is forgotten.
    pub fn was_wrong_within(&self, lba: u64, blocks: u64) -> bool {
        let wrong = &mut self.state().wrong;
        let at = wrong.iter().position(|(at, _)| (lba..lba + blocks).contains(at));
        at.map(|at| wrong.swap_remove(at)).is_some()
    }

    /// The process dies: what was not flushed is lost or not, block by block.
    pub fn die(&self) {
        let state = &mut *self.state();
        state.dying = true;
        for lba in 0..state.dirty.len() {
            if std::mem::take(&mut state.dirty[lba]) {
                let range = bytes_of(lba as u64, 1);
                if state.rng.one(2) {
                    state.durable[range.clone()].copy_from_slice(&state.cached[range]);
                } else {
                    state.cached[range.clone()].copy_from_slice(&state.durable[range]);
                }
            }
        }
    }

    /// Another process opens it.
    pub fn revive(&self) {
        self.state().dying = false;
    }
}

impl State {
    fn draw(&mut self) -> u64 {
        let Troubles { polls, slow_in, stuck_in, .. } = self.troubles;
        if slow_in > 0 && self.rng.one(slow_in) {
            self.struck.slow += 1;
            return self.rng.below(300);
        }
        if stuck_in > 0 && self.rng.one(stuck_in) {
            self.struck.stuck += 1;
            return u64::MAX;
        }
        if polls > 0 { self.rng.below(polls + 1) } else { 0 }
    }

    /// An operation that has not ended is looked at: true when it ends now.
    fn ends(&mut self, polls: &mut u64) -> bool {
        let untroubled = self.troubles.slow_in == 0 && self.troubles.stuck_in == 0;
        match *polls {
            0 => true,
            u64::MAX => untroubled || self.rng.one(400),
            _ if untroubled && *polls > self.troubles.polls => true,
            _ => {
                *polls -= 1;
                false
            }
        }
    }

    /// Draws whether an operation fails.
    fn fails(&mut self) -> bool {
        self.troubles.error_in > 0 && self.rng.one(self.troubles.error_in)
    }

    /// Draws whether an operation waits for nothing and goes well.
    fn is_quick(&mut self, op: &IoOp) -> bool {
        let polls = self.troubles.polls;
        let inside = op.range().is_some_and(|(lba, blocks)| lba + blocks <= self.blocks);
        inside && (polls == 0 || self.rng.one(polls)) && !self.fails()
    }

    /// A write of blocks that there are.
    fn write(&mut self, op: IoOp, data: &[u8]) -> bool {
        let IoOp::Write { lba, blocks, fua } = op else { panic!("{op:?} with data") };
        let write = |at: u64, block: &mut [u8]| block.copy_from_slice(&data[bytes_of(at, 1)]);
        self.change(lba, u64::from(blocks), fua, false, write).is_good()
    }

    fn run(&mut self, op: IoOp, buf: Option<&mut Buf>, fails: bool) -> IoStatus {
        let Some((lba, blocks)) = op.range() else { return self.flush(fails) };
        if lba.checked_add(blocks).is_none_or(|end| end > self.blocks) {
            return IoStatus::OutOfRange;
        }
        match (op, buf) {
            (IoOp::Read { .. }, Some(buf)) => {
                if fails {
                    self.struck.errors += 1;
                    return [IoStatus::ReadError, IoStatus::NotReady][self.rng.below(2) as usize];
                }
                buf.write_at(0, &self.cached[bytes_of(lba, blocks)]);
                let in_ = self.troubles.corrupt_in;
                if in_ > 0 && self.rng.one(in_) {
                    self.corrupt(lba, blocks, buf);
                }
                IoStatus::Good
            }
            (IoOp::Write { fua, .. }, Some(buf)) => {
                let mut bytes = [0; BLOCK];
                self.change(lba, blocks, fua, fails, |at, block| {
                    buf.read_at(at as usize * BLOCK, &mut bytes);
                    block.copy_from_slice(&bytes);
                })
            }
            (IoOp::WriteZeroes { fua, .. }, _) => {
                self.change(lba, blocks, fua, fails, |_, block| block.fill(0))
            }
            _ => self.change(lba, blocks, false, fails, |_, block| block.fill(0)),
        }
    }

    fn flush(&mut self, fails: bool) -> IoStatus {
        if fails {
            self.struck.errors += 1;
            return IoStatus::WriteError;
        }
        for lba in 0..self.dirty.len() {
            if std::mem::take(&mut self.dirty[lba]) {
                let range = bytes_of(lba as u64, 1);
                self.durable[range.clone()].copy_from_slice(&self.cached[range]);
            }
        }
        IoStatus::Good
    }

    fn corrupt(&mut self, lba: u64, blocks: u64, buf: &mut Buf) {
        self.struck.corrupt += 1;
        let at = self.rng.below(blocks);
        let mut block = [0; BLOCK];
        buf.read_at(at as usize * BLOCK, &mut block);
        let mask = self.rng.next_u64() | 1;
        for chunk in block.as_chunks_mut().0 {
            *chunk = (u64::from_be_bytes(*chunk) ^ mask).to_be_bytes();
        }
        buf.write_at(at as usize * BLOCK, &block);
        let word = *block.first_chunk().expect("a block is longer");
        self.wrong.push((lba + at, word));
    }

    /// Changes blocks, all of them unless it fails or the process is dead.
    fn change(
        &mut self,
        lba: u64,
        blocks: u64,
        fua: bool,
        fails: bool,
        mut each: impl FnMut(u64, &mut [u8]),
    ) -> IoStatus {
        let torn = fails || self.dying;
        for at in 0..blocks {
            if torn && self.rng.one(2) {
                continue;
            }
            let range = bytes_of(lba + at, 1);
            each(at, &mut self.cached[range.clone()]);
            // A cache writes back when it likes.
            let back = fua || self.dying || self.rng.one(4);
            self.dirty[(lba + at) as usize] = !back;
            if back {
                self.durable[range.clone()].copy_from_slice(&self.cached[range]);
            }
        }
        if !fails {
            return IoStatus::Good;
        }
        self.struck.errors += 1;
        let statuses =
            [IoStatus::WriteError, IoStatus::NoSpace, IoStatus::NotReady, IoStatus::Aborted];
        statuses[self.rng.below(4) as usize]
    }
}

impl Bdev for Disk {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        "Soak disk"
    }

    fn uuid(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, self.name.as_bytes())
    }

    fn geometry(&self) -> Geometry {
        geometry(self.blocks())
    }

    fn open_channel(&self, _core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        Ok(Box::new(DiskChannel { disk: self.clone(), held: Vec::new() }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        Map::new()
    }

    fn module(&self) -> &'static str {
        "soak"
    }

    fn options(&self) -> Value {
        json!({ "name": self.name })
    }
}

struct DiskChannel {
    disk: Disk,
    /// Polls that an operation still takes, and the operation.
    held: Vec<(u64, Io)>,
}

impl IoChannel for DiskChannel {
    fn submit(&mut self, io: Io) {
        assert_buf(&io);
        self.held.push((self.disk.state().draw(), io));
    }

    fn at_once(&mut self, op: &IoOp, buf: &mut Buf) -> bool {
        let mut state = self.disk.state();
        state.is_quick(op) && state.run(*op, Some(buf), false).is_good()
    }

    fn write_at_once(&mut self, op: &IoOp, data: &[u8]) -> bool {
        let mut state = self.disk.state();
        state.is_quick(op) && state.write(*op, data)
    }

    fn flush(&mut self) {}

    fn poll(&mut self, _now: Instant, done: &mut Batch<IoDone>) {
        let mut state = self.disk.state();
        let mut at = 0;
        while at < self.held.len() && !done.is_full() {
            if !state.ends(&mut self.held[at].0) {
                at += 1;
                continue;
            }
            let (_, mut io) = self.held.remove(at);
            let fails = state.fails();
            let status = state.run(io.op, io.buf.as_mut(), fails);
            done.push(IoDone { tag: io.tag, status, buf: io.buf });
        }
    }
}
