//! A SCSI device of this host, passed through: disks, tapes, changers and all else that the Linux
//! sg driver shows.
//!
//! [`Sg`] owns the open device and a thread that talks to the driver (`threaded.rs`). A channel is
//! a pair of rings to that thread. Commands go to the device as they are, and of a disk too large
//! ones in parts; a disk also serves the operations on blocks, for the devices over it.
//!
//! A core never calls the driver, so no command can hold it up. More than the device takes waits
//! in the rings, which have room for all that a core can have in flight. A device that goes away
//! answers NOT READY until it is back.
//!
//! One command costs a push and a pop on either side, two system calls of the thread, and one of
//! the core for those that find the thread asleep.

mod command;
mod node;
mod worker;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant as Time};

use reactor::sys::memory::Memory;
use reactor::{Batch, Instant, Tag};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::command::Learned;
use self::node::{Inquiry, Opened};
use self::worker::{Ask, Device, Shared, Traits, Worker};
use crate::options::{Options, Place, checked, maybe, to_value};
use crate::refused::BdevError;
use crate::scsi::{CDB_BYTES_MAX, ScsiDevice, ScsiEnd, ScsiIo};
use crate::sys::sg::ZEROS_BYTES;
use crate::threaded::{Asked, Ended, Hub, Line, Thread};
use crate::values::{BdevName, Bounded, PathText, UuidText};
use crate::{
    Bdev, CoreContext, Geometry, Io, IoChannel, IoDone, IoOp, IoStatus, OpenError, contains,
};

/// When the host gives up on a command of a disk, in ms, unless told otherwise.
const DISK_TIMEOUT_MS: u32 = 60_000;
/// The same for tapes and all else: a tape may have to be wound.
const OTHER_TIMEOUT_MS: u32 = 900_000;
/// The longest timeout: a day, in ms.
pub const TIMEOUT_MS_MAX: u32 = 86_400_000;

/// Bytes of the longest serial number that a logical unit shows.
const SERIAL_BYTES_MAX: usize = 36;

/// How often a device that has gone is looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the driver is asked for the rest of what a device had when it went.
const LOSS_INTERVAL: Duration = Duration::from_millis(10);

/// Parameters of `bdev_sg_create`.
#[derive(Debug, Clone, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SgOptions {
    /// Name of the new bdev; the first free of Sg0, Sg1 and so on if absent.
    #[serde(default, deserialize_with = "maybe::<BdevName, _, _>")]
    #[schemars(with = "Option<BdevName>")]
    pub name: Option<String>,
    /// Any node of the device: `/dev/sgN`, `/dev/sdX`, `/dev/stN`.
    #[serde(deserialize_with = "checked::<PathText, _, _>")]
    #[schemars(with = "PathText")]
    pub filename: String,
    /// Time after which an ordinary command is given up; 60000 for a disk and 900000 for any
    /// other device if absent.
    #[serde(default, deserialize_with = "maybe::<TimeoutMs, _, _>")]
    #[schemars(with = "Option<TimeoutMs>", extend("x-unit" = "ms"))]
    pub timeout_ms: Option<u32>,
    /// Identity; derived from host and name if absent.
    #[serde(default, deserialize_with = "maybe::<UuidText, _, _>")]
    #[schemars(with = "Option<UuidText>")]
    pub uuid: Option<Uuid>,
}

/// Milliseconds.
type TimeoutMs = Bounded<1, { TIMEOUT_MS_MAX as u64 }>;

impl Options for SgOptions {
    const MODULE: &'static str = "sg";

    fn name(&self, _base: &str) -> Option<String> {
        self.name.clone()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn filename(&self) -> Option<&str> {
        Some(&self.filename)
    }

    fn make(self, place: Place) -> Result<Arc<dyn Bdev>, BdevError> {
        Ok(Arc::new(Sg::open(place.name, place.uuid, &self)?))
    }
}

/// A SCSI device.
#[derive(Debug)]
pub struct Sg {
    name: String,
    uuid: Uuid,
    filename: String,
    timeout_ms: u32,
    depth: u32,
    transfer_bytes_max: u32,
    inquiry: Inquiry,
    shared: Arc<Shared>,
    _thread: Thread<Ask, ScsiEnd>,
}

impl Sg {
    /// Opens a device under a checked name and starts its thread.
    pub(crate) fn open(name: String, uuid: Uuid, options: &SgOptions) -> Result<Sg, BdevError> {
        let failed = |what: &str| {
            let what = format!("{what} for bdev {name}");
            move |errno| BdevError::Os { what, errno }
        };
        if options.timeout_ms.is_some_and(|ms| !(1..=TIMEOUT_MS_MAX).contains(&ms)) {
            return Err(BdevError::Invalid(format!(
                "bdev {name}: timeout_ms is not in 1..={TIMEOUT_MS_MAX}"
            )));
        }
        let zeros = Memory::ordinary(ZEROS_BYTES as usize)
            .map_err(|_| failed("mapping zeros")(Errno::NOMEM))?;
        let zeros = Arc::new(zeros);
        let opened = node::open(&options.filename, &zeros)?;
        let inquiry = opened.inquiry.clone();
        let hub = Hub::new().map_err(failed("making an eventfd"))?;
        let shared = Arc::new(Shared::new(hub));
        match node::look_at_medium(&opened) {
            Some(Learned::Capacity { block_bytes, blocks }) => {
                shared.block_bytes.store(block_bytes, Ordering::Relaxed);
                shared.blocks.store(blocks, Ordering::Relaxed);
            }
            Some(Learned::BlockLength(bytes)) => shared.block_bytes.store(bytes, Ordering::Relaxed),
            None => {}
        }
        let usual = if inquiry.is_disk() { DISK_TIMEOUT_MS } else { OTHER_TIMEOUT_MS };
        let timeout_ms = options.timeout_ms.unwrap_or(usual);
        let (is_disk, is_tape) = (inquiry.is_disk(), inquiry.is_tape());
        let traits = Traits { is_disk, is_tape, timeout_ms };
        let (depth, transfer_bytes_max) = (opened.depth(), opened.transfer_bytes_max());
        let runner = Runner {
            worker: Worker::new(Arc::clone(&shared), traits, opened),
            shared: Arc::clone(&shared),
            filename: options.filename.clone(),
            name: name.clone(),
            inquiry: inquiry.clone(),
            zeros,
            look_at: Time::now(),
        };
        let thread = Thread::start(&shared.hub, "sg", move || runner.run())
            .map_err(failed("starting the thread"))?;
        Ok(Sg {
            name,
            uuid,
            filename: options.filename.clone(),
            timeout_ms,
            depth,
            transfer_bytes_max,
            inquiry,
            shared,
            _thread: thread,
        })
    }
}

impl Bdev for Sg {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        "SCSI device"
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// Its own, so that another device behind the same name is told apart.
    fn serial(&self) -> Option<&str> {
        let serial = self.inquiry.serial.as_str();
        (1..=SERIAL_BYTES_MAX).contains(&serial.len()).then_some(serial)
    }

    fn geometry(&self) -> Geometry {
        let block_bytes = self.shared.block_bytes.load(Ordering::Relaxed);
        let usable = self.inquiry.is_disk()
            && block_bytes.is_power_of_two()
            && (512..=32768).contains(&block_bytes);
        Geometry {
            block_bytes: if usable { block_bytes } else { 512 },
            blocks: if usable { self.shared.blocks.load(Ordering::Relaxed) } else { 0 },
            physical_exponent: 0,
            buf_align: 512,
            write_cache: true,
            read_only: false,
            unmap: false,
            unmap_zeroes: false,
            unmap_granularity: 0,
            rotational: false,
        }
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        let is_disk = self.inquiry.is_disk();
        Ok(Box::new(SgChannel::open(&self.shared, self.geometry(), is_disk, core)))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        let inquiry = &self.inquiry;
        let sg = json!({
            "filename": self.filename,
            "timeout_ms": self.timeout_ms,
            "peripheral_type": inquiry.peripheral_type,
            "removable": inquiry.removable,
            "vendor": inquiry.vendor,
            "product": inquiry.product,
            "revision": inquiry.revision,
            "serial": inquiry.serial,
            "block_length": self.shared.block_bytes.load(Ordering::Relaxed),
            "queue_depth": self.depth,
            "max_transfer_bytes": self.transfer_bytes_max,
            "online": self.shared.online.load(Ordering::Relaxed),
        });
        Map::from_iter([("sg".to_owned(), sg)])
    }

    fn module(&self) -> &'static str {
        SgOptions::MODULE
    }

    fn options(&self) -> Value {
        to_value(&SgOptions {
            name: Some(self.name.clone()),
            filename: self.filename.clone(),
            timeout_ms: Some(self.timeout_ms),
            uuid: Some(self.uuid),
        })
    }

    fn close_may_sleep(&self) -> bool {
        true
    }

    fn scsi(&self) -> Option<ScsiDevice> {
        let Inquiry { peripheral_type, removable, .. } = self.inquiry;
        Some(ScsiDevice { peripheral_type, removable })
    }
}

/// The thread and what it needs to find its device again.
struct Runner {
    worker: Worker<Opened>,
    shared: Arc<Shared>,
    filename: String,
    name: String,
    inquiry: Inquiry,
    zeros: Arc<Memory>,
    /// When a device that has gone is looked for next.
    look_at: Time,
}

impl Runner {
    fn run(mut self) {
        let mut online = true;
        loop {
            let progress = self.worker.turn();
            let there = self.worker.device().is_some();
            if online && !there {
                tracing::warn!("bdev {}: {} is gone", self.name, self.filename);
                self.look_at = Time::now() + LOOK_INTERVAL;
            }
            online = there;
            if self.shared.hub.is_stopping() && self.worker.is_idle() {
                return;
            }
            if !online && Time::now() >= self.look_at {
                self.look_for_device();
                online = self.worker.device().is_some();
            }
            if !progress && self.worker.may_sleep() {
                self.sleep();
            }
            self.worker.awake();
        }
    }

    /// Takes the device back if it is there again and the same.
    fn look_for_device(&mut self) {
        self.look_at = Time::now() + LOOK_INTERVAL;
        match node::open(&self.filename, &self.zeros) {
            Ok(opened) if opened.inquiry == self.inquiry => {
                tracing::info!("bdev {}: {} is back", self.name, self.filename);
                self.worker.on_returned(opened);
            }
            Ok(_) => {
                tracing::warn!("bdev {}: {} is another device now", self.name, self.filename);
            }
            Err(error) => tracing::debug!("bdev {}: {error}", self.name),
        }
    }

    /// Waits for a core, the driver, or the time to look for the device.
    fn sleep(&mut self) {
        let losing = self.worker.is_losing();
        let stopping = self.shared.hub.is_stopping();
        let longest = match self.worker.device() {
            // A hang-up does not end: waiting for it would be no waiting.
            Some(_) if losing || stopping => Some(LOSS_INTERVAL),
            Some(_) => None,
            None => Some(self.look_at.saturating_duration_since(Time::now())),
        };
        let device = self.worker.device().filter(|_| !losing);
        let files = device.into_iter().flat_map(Opened::fds);
        if self.worker.sleep(files, longest) {
            self.worker.on_hang_up();
        }
    }
}

struct SgChannel {
    shared: Arc<Shared>,
    geometry: Geometry,
    is_disk: bool,
    line: Line<Ask, ScsiEnd>,
    /// What ended without the worker.
    ready: Batch<IoDone>,
    /// How commands ended, by the index of their tag.
    ends: Box<[ScsiEnd]>,
}

impl SgChannel {
    fn open(
        shared: &Arc<Shared>,
        geometry: Geometry,
        is_disk: bool,
        core: &CoreContext,
    ) -> SgChannel {
        let depth = core.depth as usize;
        SgChannel {
            shared: Arc::clone(shared),
            geometry,
            is_disk,
            line: shared.hub.open(core),
            ready: Batch::new(depth),
            ends: vec![ScsiEnd::GOOD; depth].into_boxed_slice(),
        }
    }

    /// How an operation on blocks ends that the device need not see.
    fn refusal(&self, op: &IoOp) -> Option<IoStatus> {
        let Some((lba, blocks)) = op.range() else {
            return (!self.is_disk).then_some(IoStatus::Unsupported);
        };
        if !contains(self.shared.blocks.load(Ordering::Relaxed), lba, blocks) {
            return Some(IoStatus::OutOfRange);
        }
        match op {
            _ if !self.is_disk => Some(IoStatus::Unsupported),
            IoOp::Unmap { .. } => Some(IoStatus::Unsupported),
            _ => (blocks == 0).then_some(IoStatus::Good),
        }
    }
}

impl IoChannel for SgChannel {
    fn submit(&mut self, io: Io) {
        io.assert_buf(self.geometry.block_bytes);
        let Io { tag, op, buf } = io;
        match self.refusal(&op) {
            Some(status) => self.ready.push(IoDone { tag, status, buf }),
            None => self.line.push(Asked { tag, ask: Ask::Blocks(op), buf }),
        }
    }

    fn submit_scsi(&mut self, io: ScsiIo<'_>) {
        let ScsiIo { tag, cdb: from, direction, buf } = io;
        let mut cdb = [0; CDB_BYTES_MAX];
        cdb[..from.len()].copy_from_slice(from);
        let ask = Ask::Scsi { cdb, cdb_len: from.len() as u8, direction };
        self.line.push(Asked { tag, ask, buf });
    }

    fn scsi_end(&self, tag: Tag) -> &ScsiEnd {
        &self.ends[tag.index()]
    }

    fn reset(&mut self) {
        self.shared.reset();
    }

    fn flush(&mut self) {
        self.line.flush();
    }

    fn poll(&mut self, _now: Instant, done: &mut Batch<IoDone>) {
        while !done.is_full() {
            let Some(item) = self.ready.pop() else { break };
            done.push(item);
        }
        while !done.is_full() {
            let Some(Ended { tag, status, end, buf }) = self.line.pop() else { break };
            if status == IoStatus::Scsi {
                self.ends[tag.index()] = end;
            }
            done.push(IoDone { tag, status, buf });
        }
    }

    fn arm(&mut self) -> bool {
        self.line.arm() && self.ready.is_empty()
    }
}

impl Drop for SgChannel {
    fn drop(&mut self) {
        // A target that ends with operations in flight: nobody is left to take their buffers home.
        while let Some(item) = self.ready.pop() {
            std::mem::forget(item.buf);
        }
    }
}

#[cfg(test)]
mod tests;
