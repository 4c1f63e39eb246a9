//! Block devices behind one seam.
//!
//! A [`Bdev`] is the shared object that the control plane creates; an [`IoChannel`] is one core's
//! way into it. The grammar is *submit, flush, poll*: `submit` only takes the operation, `flush`
//! hands everything to the device with at most one system call, and results appear only in `poll`,
//! so nothing re-enters the caller. Every tag comes back exactly once, with its buffer.
//!
//! The path of one operation makes no allocation, takes no lock and touches no reference count.
//!
//! A core drives a channel like this:
//!
//! ```
//! use std::sync::Arc;
//!
//! use bdev::malloc::MallocOptions;
//! use bdev::registry::Registry;
//! use bdev::{CoreContext, Io, IoChannel, IoDone, IoOp, IoStatus};
//! use reactor::pool::{Pool, SizeClass};
//! use reactor::sys::memory::Memory;
//! use reactor::{Batch, Instant, Tag};
//!
//! // Submits one operation, and polls until it has come back.
//! fn run(channel: &mut dyn IoChannel, io: Io) -> IoDone {
//!     let tag = io.tag;
//!     let mut done = Batch::new(8);
//!     channel.submit(io);
//!     channel.flush();
//!     loop {
//!         channel.poll(Instant::default(), &mut done);
//!         if let Some(end) = done.pop() {
//!             assert_eq!(end.tag, tag);
//!             return end;
//!         }
//!     }
//! }
//!
//! // The control plane makes the device.
//! let disk = MallocOptions { num_blocks: 2048, block_size: 512, ..Default::default() };
//! let disk = Registry::new().create(disk)?;
//!
//! // A core has eight buffers of 4 KiB, and opens its channel once.
//! let memory = Arc::new(Memory::ordinary(8 * 4096)?);
//! let mut pool = Pool::new(Arc::clone(&memory), &[SizeClass { bytes: 4096, count: 8 }]);
//! let mut core = CoreContext { memory, ring: None, depth: 8, wake: None };
//! let mut channel = disk.open_channel(&mut core)?;
//!
//! // A buffer moves into the operation and comes back with its end.
//! let mut buf = pool.take(1024).expect("none is taken yet");
//! buf.fill(0..1024, 0xA5);
//! let op = IoOp::Write { lba: 7, blocks: 2, fua: false };
//! let written = run(&mut *channel, Io { tag: Tag::new(0, 1), op, buf: Some(buf) });
//! assert_eq!(written.status, IoStatus::Good);
//!
//! let op = IoOp::Read { lba: 8, blocks: 1 };
//! let mut buf = written.buf.expect("the buffer of the write");
//! buf.set_len(512);
//! let read = run(&mut *channel, Io { tag: Tag::new(0, 2), op, buf: Some(buf) });
//! let buf = read.buf.expect("the buffer of the read");
//! let mut block = [0; 512];
//! buf.read_at(0, &mut block);
//! assert_eq!(block, [0xA5; 512]);
//! pool.put(buf);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use reactor::pool::Buf;
use reactor::{Batch, Instant, Tag};
use serde_json::{Map, Value};
use uuid::Uuid;

pub mod contract;
pub mod malloc;
pub mod null;
pub mod options;
pub(crate) mod refused;
pub mod registry;
pub mod scsi;
pub mod sg;
pub mod stacked;
#[allow(unsafe_code)]
pub(crate) mod sys;
pub(crate) mod threaded;
pub mod uring;
pub mod values;

pub use options::Options;
pub use refused::BdevError;
pub use scsi::{DataDirection, ScsiDevice, ScsiEnd, ScsiIo};

/// What a device is asked to do. Block numbers are logical blocks of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoOp {
    /// Fills the buffer from `lba` on; the buffer's length is `blocks` blocks.
    Read {
        /// First block.
        lba: u64,
        /// Number of blocks.
        blocks: u32,
    },
    /// Writes the buffer from `lba` on.
    Write {
        /// First block.
        lba: u64,
        /// Number of blocks.
        blocks: u32,
        /// Complete only when the data is on stable storage.
        fua: bool,
    },
    /// Puts all completed writes on stable storage.
    Flush,
    /// Makes blocks read as zero, without data. `unmap`: may give up their space.
    WriteZeroes {
        /// First block.
        lba: u64,
        /// Number of blocks.
        blocks: u64,
        /// May deallocate.
        unmap: bool,
        /// Complete only when the change is on stable storage.
        fua: bool,
    },
    /// Gives up the blocks' space. They read as zero afterwards where [`Geometry::unmap_zeroes`].
    Unmap {
        /// First block.
        lba: u64,
        /// Number of blocks.
        blocks: u64,
    },
}

impl IoOp {
    /// First block and number of blocks; `None` for `Flush`.
    #[inline]
    pub fn range(&self) -> Option<(u64, u64)> {
        match *self {
            IoOp::Read { lba, blocks } | IoOp::Write { lba, blocks, .. } => {
                Some((lba, u64::from(blocks)))
            }
            IoOp::WriteZeroes { lba, blocks, .. } | IoOp::Unmap { lba, blocks } => {
                Some((lba, blocks))
            }
            IoOp::Flush => None,
        }
    }

    /// See [`Io::assert_buf`].
    #[inline]
    pub(crate) fn assert_buf(&self, buf: Option<&Buf>, block_bytes: u32) {
        if buf.map(|buf| buf.len() as u64) != self.data_bytes(block_bytes) {
            self.wrong_buf(buf);
        }
    }

    /// Panics unless this is a write of so many bytes: the caller's bug, never the peer's.
    #[inline]
    pub(crate) fn assert_data(&self, data: &[u8], block_bytes: u32) {
        let fits = self.data_bytes(block_bytes) == Some(data.len() as u64);
        assert!(fits && self.changes_medium(), "{self:?} with {} bytes", data.len());
    }

    /// Bytes of a read or write.
    #[inline(always)]
    fn data_bytes(&self, block_bytes: u32) -> Option<u64> {
        match *self {
            IoOp::Read { blocks, .. } | IoOp::Write { blocks, .. } => {
                Some(u64::from(blocks) * u64::from(block_bytes))
            }
            _ => None,
        }
    }

    #[cold]
    fn wrong_buf(&self, buf: Option<&Buf>) -> ! {
        panic!("{self:?} with {buf:?}");
    }

    /// True for what a read-only device refuses.
    #[inline]
    pub fn changes_medium(&self) -> bool {
        !matches!(self, IoOp::Read { .. } | IoOp::Flush)
    }
}

/// One operation. The buffer goes in here ...
#[derive(Debug)]
pub struct Io {
    /// Names the operation; unique among those in flight on the channel's core, with an index below
    /// [`CoreContext::depth`].
    pub tag: Tag,
    /// What to do.
    pub op: IoOp,
    /// Where the data is or goes: present exactly for `Read` and `Write`.
    pub buf: Option<Buf>,
}

impl Io {
    /// Panics unless the buffer is there exactly for `Read` and `Write` and has their length: the
    /// caller's bug, never the peer's.
    #[inline]
    pub(crate) fn assert_buf(&self, block_bytes: u32) {
        self.op.assert_buf(self.buf.as_ref(), block_bytes);
    }
}

/// ... and comes back here.
#[derive(Debug)]
pub struct IoDone {
    /// The operation's tag.
    pub tag: Tag,
    /// How it ended.
    pub status: IoStatus,
    /// The operation's buffer.
    pub buf: Option<Buf>,
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoStatus {
    /// Done.
    Good,
    /// A read is done, but the device has no data to give and left the buffer alone: it reads as
    /// zeros, and a fabric need not touch the initiator's memory for it.
    GoodNoData,
    /// Blocks outside the device.
    OutOfRange,
    /// The medium could not be read.
    ReadError,
    /// The medium could not be written.
    WriteError,
    /// No space left for the write.
    NoSpace,
    /// The device is read-only.
    WriteProtected,
    /// The device is gone or does not answer.
    NotReady,
    /// The device can't do this operation.
    Unsupported,
    /// The operation was cancelled and changed nothing more.
    Aborted,
    /// A command of [`IoChannel::submit_scsi`] ended: [`IoChannel::scsi_end`] says how.
    Scsi,
}

impl IoStatus {
    /// True when the operation did what was asked.
    #[inline]
    pub fn is_good(self) -> bool {
        matches!(self, IoStatus::Good | IoStatus::GoodNoData)
    }
}

/// What a device is. Plain values; a change of size shows in a later call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a logical block: a power of two from 512 to 32768.
    pub block_bytes: u32,
    /// Logical blocks.
    pub blocks: u64,
    /// Logical blocks per physical block, as a power of two (SBC READ CAPACITY (16)).
    pub physical_exponent: u8,
    /// Alignment in bytes that a buffer in a peer's memory must have to be used in place.
    pub buf_align: u32,
    /// Completed writes may be volatile until `Flush` or FUA.
    pub write_cache: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// `Unmap` and `WriteZeroes { unmap: true }` give space back.
    pub unmap: bool,
    /// Unmapped blocks read as zero.
    pub unmap_zeroes: bool,
    /// Bytes of the unit in which space is given back; 0: unknown.
    pub unmap_granularity: u32,
    /// A spinning disk.
    pub rotational: bool,
}

impl Geometry {
    /// True when `blocks` blocks from `lba` on are all inside the device.
    #[inline]
    pub fn contains(&self, lba: u64, blocks: u64) -> bool {
        contains(self.blocks, lba, blocks)
    }
}

/// A value that all cores read with every operation, on cache lines of its own (two, because
/// processors fetch them in pairs): nothing that somebody writes shares them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Alone<T>(pub T);

const _: () = assert!(align_of::<Alone<u8>>() == 128 && size_of::<Alone<u8>>() == 128);

#[inline]
pub(crate) fn contains(device_blocks: u64, lba: u64, blocks: u64) -> bool {
    lba.checked_add(blocks).is_some_and(|end| end <= device_blocks)
}

/// A device. Shared between the control plane and the cores.
pub trait Bdev: Any + Send + Sync + fmt::Debug {
    /// Unique name, 1 to 255 bytes of printable ASCII.
    fn name(&self) -> &str;
    /// Kind of device as SPDK's `bdev_get_bdevs` names it ("Malloc disk").
    fn product_name(&self) -> &'static str;
    /// Identity, the same after a restart with the same configuration.
    fn uuid(&self) -> Uuid;
    /// Size and abilities now.
    fn geometry(&self) -> Geometry;
    /// False while the medium is gone: operations end with [`IoStatus::NotReady`].
    fn ready(&self) -> bool {
        true
    }
    /// True for a device that only holds a LUN's place: initiators are told that nothing is
    /// connected there (SPC-4 6.6.2, peripheral qualifier 001b).
    fn placeholder(&self) -> bool {
        false
    }
    /// Unit serial number that its logical unit shows instead of the UUID.
    fn serial(&self) -> Option<&str> {
        None
    }
    /// Opens one core's channel. Runs on that core's thread.
    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError>;
    /// Members of `driver_specific` in `bdev_get_bdevs`.
    fn driver_specific(&self) -> Map<String, Value>;
    /// Kind of device, as in the names of the RPCs for it: `bdev_MODULE_create`,
    /// `bdev_MODULE_delete`.
    fn module(&self) -> &'static str;
    /// The [`options`] that would make this device again, every one of them.
    fn options(&self) -> Value;
    /// Closes what the device has open in the kernel, whoever still holds the device, which is
    /// deleted.
    fn close(&self) {}
    /// True when [`Bdev::close`], or letting go of the device, may take as long as a file system or
    /// a device of the host wants.
    fn close_may_sleep(&self) -> bool {
        false
    }
    /// What a device is whose commands are handed on as they are. `None`: it has blocks only.
    fn scsi(&self) -> Option<ScsiDevice> {
        None
    }
}

/// One core's way into a device. Lives and dies on its core.
pub trait IoChannel {
    /// Takes an operation. It may be started here or at `flush`; its result appears only in `poll`.
    /// `Io::buf` obeys [`Io`]; blocks are checked here against the device, never trusted.
    fn submit(&mut self, io: Io);
    /// Does a read or write before it returns, if the device waits for nothing: no tag, no event.
    /// False: nothing was done, because the device does wait or the operation would fail;
    /// [`IoChannel::submit`] is the way, and tells how it ends. A read whose status would be
    /// [`IoStatus::GoodNoData`] may leave the buffer alone. What was submitted before may come
    /// back later. `op` and `buf` obey [`Io`].
    fn at_once(&mut self, op: &IoOp, buf: &mut Buf) -> bool {
        let _ = (op, buf);
        false
    }
    /// As [`IoChannel::at_once`], a write of bytes that the caller keeps.
    fn write_at_once(&mut self, op: &IoOp, data: &[u8]) -> bool {
        let _ = (op, data);
        false
    }
    /// Hands everything taken so far to the device: at most one system call.
    fn flush(&mut self);
    /// Appends what has completed, up to the room in `done`. Completions of other channels that
    /// share a queue with this one on the same core may come out here too: tags tell them apart.
    /// `now` is the time of the core's turn.
    fn poll(&mut self, now: Instant, done: &mut Batch<IoDone>);
    /// Takes a SCSI command; it ends in `poll` as [`IoStatus::Scsi`]. Panics unless
    /// [`Bdev::scsi`] says that the device takes commands: the caller's bug.
    fn submit_scsi(&mut self, io: ScsiIo<'_>) {
        panic!("a device of blocks was given the command {:02x?}", io.cdb);
    }
    /// How the command of a tag ended, from its completion until the tag is submitted again.
    fn scsi_end(&self, tag: Tag) -> &ScsiEnd {
        panic!("a device of blocks was asked for the end of the command {tag:?}");
    }
    /// Resets a SCSI device: what it runs ends, and what is submitted later starts afterwards.
    /// Does nothing for a device of blocks, and never waits.
    fn reset(&mut self) {}
    /// Before the core sleeps: makes sure that a completion will raise the core's wake-up
    /// descriptor. False when an operation waits for [`IoChannel::flush`], when completions are
    /// waiting already, or when they wait for a time to come: nothing would wake the core for that.
    fn arm(&mut self) -> bool {
        true
    }
    /// Something about the device has changed: lets go of what is gone and takes what is new. Not
    /// on the path of an operation.
    fn refresh(&mut self) {}
}

/// What the channels of one core share: its pool's memory and its rings.
pub struct CoreContext {
    /// The core's buffers, to be registered once with each ring.
    pub memory: Arc<reactor::sys::memory::Memory>,
    /// The core's io_uring ring, opened by the first channel that needs it.
    pub ring: Option<uring::SharedRing>,
    /// Operations a ring must hold in flight: the core's request slots.
    pub depth: u32,
    /// Descriptor to raise when a completion arrives while the core sleeps; `None`: the core never
    /// sleeps.
    pub wake: Option<Arc<rustix::fd::OwnedFd>>,
}

impl CoreContext {
    /// A context of the same core that shares no ring. Whoever must see every completion of a
    /// channel opens it with this: no other channel can take them.
    pub fn apart(&self) -> CoreContext {
        let CoreContext { memory, ring: _, depth, wake } = self;
        CoreContext { memory: Arc::clone(memory), ring: None, depth: *depth, wake: wake.clone() }
    }
}

/// Why a channel could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("{what}: {errno}")]
    Os {
        /// The step that failed.
        what: &'static str,
        /// The system's reason.
        errno: rustix::io::Errno,
    },
}
