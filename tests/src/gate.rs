//! A device in memory whose operations end when a test says so.
//!
//! [`Gate`] is the bdev, shared by all cores; what it was asked to do is recorded in order. An
//! operation changes the medium when it ends, never before: whoever sees it end knows that nothing
//! comes after. The number of an operation is its place in the record.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use bdev::{Bdev, CoreContext, Geometry, Io, IoChannel, IoDone, IoOp, IoStatus, OpenError};
use reactor::{Batch, Instant};
use serde_json::{Map, Value, json};
use transport::sim::Rng;
use uuid::Uuid;

use crate::medium::{assert_buf, bytes_of, geometry};

/// When operations end.
enum Mode {
    /// At once.
    Open,
    /// Only those that were released.
    Shut,
    /// After up to so many polls, drawn from the seed; one in `errors_in` fails.
    Random { rng: Rng, polls_max: u64, errors_in: u64 },
}

struct State {
    mode: Mode,
    released: BTreeSet<usize>,
    fail: VecDeque<IoStatus>,
    seen: Vec<IoOp>,
    held: usize,
    blocks: u64,
    lost: bool,
    medium: Vec<u8>,
}

/// The device.
#[derive(Clone)]
pub struct Gate {
    name: String,
    uuid: Uuid,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Gate {
    /// An open gate of so many blocks of 512 bytes that read as zero.
    pub fn new(name: &str, blocks: u64) -> Gate {
        let state = State {
            mode: Mode::Open,
            released: BTreeSet::new(),
            fail: VecDeque::new(),
            seen: Vec::new(),
            held: 0,
            blocks,
            lost: false,
            medium: vec![0; bytes_of(0, blocks).len()],
        };
        let uuid = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes());
        Gate { name: name.to_owned(), uuid, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock held")
    }

    /// Operations end at once from now on, those that are held too.
    pub fn open(&self) {
        self.state().mode = Mode::Open;
    }

    /// Operations are held from now on, unless they were released.
    pub fn shut(&self) {
        self.state().mode = Mode::Shut;
    }

    /// Each operation takes up to `polls_max` polls; one in `errors_in` fails, none for 0.
    pub fn random(&self, seed: u64, polls_max: u64, errors_in: u64) {
        self.state().mode = Mode::Random { rng: Rng::new(seed), polls_max, errors_in };
    }

    /// Lets the operation of this number end.
    pub fn release(&self, number: usize) {
        self.state().released.insert(number);
    }

    /// The next operation that ends fails with `status` and changes nothing.
    pub fn fail_next(&self, status: IoStatus) {
        self.state().fail.push_back(status);
    }

    /// Every operation so far, in the order of submission.
    pub fn seen(&self) -> Vec<IoOp> {
        self.state().seen.clone()
    }

    /// Operations that were submitted and have not ended.
    pub fn held(&self) -> usize {
        self.state().held
    }

    /// Bytes of the medium, from a block on.
    pub fn medium(&self, lba: u64, blocks: u64) -> Vec<u8> {
        let range = bytes_of(lba, blocks);
        self.state().medium[range].to_vec()
    }

    /// The medium is gone, or back.
    pub fn lose(&self, lost: bool) {
        self.state().lost = lost;
    }

    /// Changes the size.
    pub fn resize(&self, blocks: u64) {
        let mut state = self.state();
        state.blocks = blocks;
        state.medium.resize(bytes_of(0, blocks).len(), 0);
    }
}

impl State {
    /// Whether an operation may end now. `polls`: how many more it waits in [`Mode::Random`].
    fn ready(&mut self, number: usize, polls: &mut u64) -> bool {
        match self.mode {
            Mode::Open => true,
            Mode::Shut => self.released.contains(&number),
            Mode::Random { .. } if *polls == 0 => true,
            Mode::Random { .. } => {
                *polls -= 1;
                false
            }
        }
    }

    fn failure(&mut self, op: &IoOp) -> Option<IoStatus> {
        if let Some(status) = self.fail.pop_front() {
            return Some(status);
        }
        let Mode::Random { rng, errors_in, .. } = &mut self.mode else { return None };
        let fails = *errors_in > 0 && rng.one(*errors_in);
        let status = if op.changes_medium() { IoStatus::WriteError } else { IoStatus::ReadError };
        fails.then_some(status)
    }

    fn run(&mut self, io: &mut Io) -> IoStatus {
        if self.lost {
            return IoStatus::NotReady;
        }
        if let Some(status) = self.failure(&io.op) {
            return status;
        }
        let Some((lba, blocks)) = io.op.range() else { return IoStatus::Good };
        if lba.checked_add(blocks).is_none_or(|end| end > self.blocks) {
            return IoStatus::OutOfRange;
        }
        let medium = &mut self.medium[bytes_of(lba, blocks)];
        match (&io.op, &mut io.buf) {
            (IoOp::Read { .. }, Some(buf)) => buf.write_at(0, medium),
            (IoOp::Write { .. }, Some(buf)) => buf.read_at(0, medium),
            _ => medium.fill(0),
        }
        IoStatus::Good
    }
}

impl Bdev for Gate {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        "Gate disk"
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn geometry(&self) -> Geometry {
        geometry(self.state().blocks)
    }

    fn ready(&self) -> bool {
        !self.state().lost
    }

    fn open_channel(&self, _core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        Ok(Box::new(GateChannel { gate: self.clone(), held: VecDeque::new() }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        Map::new()
    }

    fn module(&self) -> &'static str {
        "gate"
    }

    fn options(&self) -> Value {
        json!({ "name": self.name })
    }
}

/// An operation that has not ended.
struct Held {
    number: usize,
    polls: u64,
    io: Io,
}

struct GateChannel {
    gate: Gate,
    held: VecDeque<Held>,
}

impl IoChannel for GateChannel {
    fn submit(&mut self, io: Io) {
        assert_buf(&io);
        let mut state = self.gate.state();
        let polls = match &mut state.mode {
            Mode::Random { rng, polls_max, .. } => rng.below(*polls_max + 1),
            _ => 0,
        };
        let number = state.seen.len();
        state.seen.push(io.op);
        state.held += 1;
        self.held.push_back(Held { number, polls, io });
    }

    fn flush(&mut self) {}

    fn poll(&mut self, _now: Instant, done: &mut Batch<IoDone>) {
        let mut state = self.gate.state();
        for _ in 0..self.held.len() {
            let mut held = self.held.pop_front().expect("counted");
            if done.is_full() || !state.ready(held.number, &mut held.polls) {
                self.held.push_back(held);
                continue;
            }
            let status = state.run(&mut held.io);
            state.held -= 1;
            done.push(IoDone { tag: held.io.tag, status, buf: held.io.buf });
        }
    }
}
