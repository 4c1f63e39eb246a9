//! A SCSI device that answers as a test tells it to.
//!
//! [`Scripted`] is the bdev, shared by all cores. Each command takes the next answer of the script;
//! without one it ends GOOD, all data moved, data for the initiator being `0x5a`. What it was given
//! is recorded in order.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use bdev::{
    Bdev, CoreContext, DataDirection, Geometry, Io, IoChannel, IoDone, IoStatus, OpenError,
    ScsiDevice, ScsiEnd, ScsiIo,
};
use reactor::{Batch, Instant, Tag};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// What a command was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its CDB.
    pub cdb: Vec<u8>,
    /// Which way its data goes.
    pub direction: DataDirection,
    /// The data for the device, or zeros in the length of that for the initiator.
    pub data: Vec<u8>,
}

#[derive(Default)]
struct State {
    answers: VecDeque<(ScsiEnd, Vec<u8>)>,
    seen: Vec<Seen>,
    resets: u32,
    shut: bool,
}

/// The device.
#[derive(Clone)]
pub struct Scripted {
    name: String,
    uuid: Uuid,
    scsi: ScsiDevice,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Scripted {
    /// A device of a peripheral device type.
    pub fn new(name: &str, peripheral_type: u8) -> Scripted {
        Scripted {
            name: name.to_owned(),
            uuid: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()),
            scsi: ScsiDevice { peripheral_type, removable: true },
            state: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with the lock held")
    }

    /// The end and the data of one command to come. Data replaces the front of the buffer.
    pub fn answer(&self, end: ScsiEnd, data: &[u8]) {
        self.state().answers.push_back((end, data.to_vec()));
    }

    /// Commands are held from now on, or end again.
    pub fn shut(&self, shut: bool) {
        self.state().shut = shut;
    }

    /// What has been submitted.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Resets so far.
    pub fn resets(&self) -> u32 {
        self.state().resets
    }
}

impl Bdev for Scripted {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        "Scripted"
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            block_bytes: 512,
            blocks: 0,
            physical_exponent: 0,
            buf_align: 1,
            write_cache: false,
            read_only: false,
            unmap: false,
            unmap_zeroes: false,
            unmap_granularity: 0,
            rotational: false,
        }
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        let ends = vec![ScsiEnd::GOOD; core.depth as usize].into_boxed_slice();
        Ok(Box::new(ScriptedChannel { device: self.clone(), ends, running: VecDeque::new() }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        Map::new()
    }

    fn module(&self) -> &'static str {
        "scripted"
    }

    fn options(&self) -> Value {
        json!({ "name": self.name })
    }

    fn scsi(&self) -> Option<ScsiDevice> {
        Some(self.scsi)
    }
}

struct ScriptedChannel {
    device: Scripted,
    ends: Box<[ScsiEnd]>,
    running: VecDeque<IoDone>,
}

impl IoChannel for ScriptedChannel {
    fn submit(&mut self, io: Io) {
        panic!("{:?} for a device that takes commands", io.op);
    }

    fn submit_scsi(&mut self, io: ScsiIo<'_>) {
        let ScsiIo { tag, cdb, direction, mut buf } = io;
        let mut state = self.device.state();
        let len = buf.as_ref().map_or(0, |buf| buf.len());
        let mut data = vec![0; len];
        if let (DataDirection::Out, Some(buf)) = (direction, &buf) {
            buf.read_at(0, &mut data);
        }
        state.seen.push(Seen { cdb: cdb.to_vec(), direction, data });
        let (end, data) = state.answers.pop_front().unwrap_or((ScsiEnd::GOOD, vec![0x5a; len]));
        if let (DataDirection::In, Some(buf)) = (direction, &mut buf) {
            buf.write_at(0, &data);
        }
        self.ends[tag.index()] = end;
        self.running.push_back(IoDone { tag, status: IoStatus::Scsi, buf });
    }

    fn scsi_end(&self, tag: Tag) -> &ScsiEnd {
        &self.ends[tag.index()]
    }

    fn reset(&mut self) {
        self.device.state().resets += 1;
    }

    fn flush(&mut self) {}

    fn poll(&mut self, _now: Instant, done: &mut Batch<IoDone>) {
        if self.device.state().shut {
            return;
        }
        while !done.is_full() {
            let Some(item) = self.running.pop_front() else { break };
            done.push(item);
        }
    }
}
