//! A regular file or block device through io_uring.
//!
//! A [`Uring`] owns the open file and what was found out about it: it is locked against other
//! targets, and its page cache is bypassed where that is possible. All channels of a core share one
//! [`Ring`], which the first of them opens on that core's thread.
//!
//! Memory that the kernel may still write is never given back: it belongs to the ring until the
//! completion has come. A channel should be dropped when it has nothing in flight; otherwise the
//! completions come out of another channel of the same core, or the ring's drop waits for them.
//!
//! One operation is one submission entry and one completion entry. A turn with `flush` and `poll`
//! makes at most two system calls for all channels of the core, and none when nothing happened.

mod medium;
mod ring;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reactor::{Batch, Instant};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::medium::{Medium, os};
pub use self::ring::Ring;
use self::ring::{Op, Work};
use crate::registry::BdevError;
use crate::sys::queue::{self, Delivery};
use crate::{
    Bdev, CoreContext, Geometry, Io, IoChannel, IoDone, IoOp, IoStatus, OpenError, contains,
};

/// One core's ring, shared by its channels.
pub type SharedRing = Rc<RefCell<Ring>>;

/// Whether the page cache is bypassed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direct {
    /// Where possible; `driver_specific` says why not.
    #[default]
    Auto,
    /// Or else the device can't be made.
    On,
    /// Never.
    Off,
}

/// Parameters of `bdev_uring_create`.
#[derive(Debug, Clone, Deserialize)]
pub struct UringOptions {
    /// Name; `Uring0` and so on when absent.
    pub name: Option<String>,
    /// Path of a regular file or block device.
    pub filename: String,
    /// Bytes of a block: a power of two from 512 to 32768. Absent or 0: the block device's own, 512
    /// for a file.
    #[serde(default)]
    pub block_size: Option<u32>,
    /// Identity; derived from host and name when absent.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    /// Refuses writes, and lets others read the file meanwhile.
    #[serde(default, alias = "readonly")]
    pub read_only: bool,
    /// Whether the page cache is bypassed.
    #[serde(default)]
    pub direct: Direct,
    /// Completed writes may be volatile until a flush. False: every write goes to stable storage.
    #[serde(default = "yes")]
    pub write_cache: bool,
    /// A spinning disk; absent: what the system says of a block device, false for a file.
    #[serde(default)]
    pub rotational: Option<bool>,
    /// Other members, refused.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn yes() -> bool {
    true
}

impl UringOptions {
    /// The defaults for a path.
    pub fn new(filename: &str) -> UringOptions {
        UringOptions {
            name: None,
            filename: filename.to_owned(),
            block_size: None,
            uuid: None,
            read_only: false,
            direct: Direct::Auto,
            write_cache: true,
            rotational: None,
            other: Map::new(),
        }
    }
}

/// Members that SPDK clients send and the only values that have a meaning here: none.
pub(crate) fn neutral(_member: &str) -> Option<Value> {
    None
}

/// The file or block device.
#[derive(Debug)]
pub struct Uring {
    name: String,
    uuid: Uuid,
    filename: String,
    /// As asked for; the medium says what came of it.
    direct: Direct,
    read_only: bool,
    write_cache: bool,
    medium: Medium,
    blocks: Arc<AtomicU64>,
}

impl Uring {
    /// Opens a device under a checked name.
    pub(crate) fn open(
        name: String,
        uuid: Uuid,
        options: &UringOptions,
    ) -> Result<Uring, BdevError> {
        queue::probe().map_err(|errno| os(unavailable(errno))(errno))?;
        let medium = Medium::open(&name, options)?;
        Ok(Uring {
            name,
            uuid,
            filename: options.filename.clone(),
            direct: options.direct,
            read_only: options.read_only,
            write_cache: options.write_cache,
            blocks: Arc::new(AtomicU64::new(medium.blocks)),
            medium,
        })
    }

    /// Takes the size that the file or device has now; open channels see it with their next
    /// operation.
    ///
    /// Fails with [`BdevError::Invalid`] when it is not a non-zero multiple of the block size.
    pub fn rescan(&self) -> Result<(), BdevError> {
        let blocks = medium::blocks(&self.filename, &self.medium.fd, self.medium.block_bytes)?;
        self.blocks.store(blocks, Ordering::Relaxed);
        Ok(())
    }
}

/// What to do when not even a small ring can be had.
fn unavailable(errno: Errno) -> &'static str {
    match errno {
        Errno::NOMEM => "setting up io_uring (raise the limit on locked memory)",
        Errno::PERM => "setting up io_uring (see the sysctl kernel.io_uring_disabled)",
        _ => "setting up io_uring",
    }
}

impl Bdev for Uring {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        "URING bdev"
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn geometry(&self) -> Geometry {
        let medium = &self.medium;
        Geometry {
            block_bytes: medium.block_bytes,
            blocks: self.blocks.load(Ordering::Relaxed),
            physical_exponent: (medium.physical_bytes / medium.block_bytes).trailing_zeros() as u8,
            buf_align: medium.buf_align,
            write_cache: self.write_cache && !self.read_only,
            read_only: self.read_only,
            unmap: medium.unmap,
            unmap_zeroes: medium.unmap_zeroes,
            unmap_granularity: medium.unmap_granularity,
            rotational: medium.rotational,
        }
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        let ring = match &core.ring {
            Some(ring) => Rc::clone(ring),
            None => {
                let ring = Ring::open(core.depth, &core.memory, core.wake.as_ref(), &Delivery::ALL)
                    .map_err(|(what, errno)| OpenError::Os { what, errno })?;
                Rc::clone(core.ring.insert(Rc::new(RefCell::new(ring))))
            }
        };
        let file = ring.borrow_mut().open_file(Arc::clone(&self.medium.fd));
        Ok(Box::new(UringChannel {
            ring,
            file,
            block_bytes: self.medium.block_bytes,
            blocks: Arc::clone(&self.blocks),
            read_only: self.read_only,
            write_cache: self.write_cache,
            is_block: self.medium.is_block,
            unmap: self.medium.unmap,
        }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        let mut uring = json!({
            "filename": self.filename,
            "direct": self.medium.direct,
            "read_only": self.read_only,
            "write_cache": self.write_cache,
        });
        if let Some(why) = &self.medium.buffered_because {
            uring["direct_refused"] = json!(why);
        }
        Map::from_iter([("uring".to_owned(), uring)])
    }

    fn create_call(&self) -> (&'static str, Value) {
        let params = json!({
            "name": self.name,
            "block_size": self.medium.block_bytes,
            "filename": self.filename,
            "uuid": self.uuid,
            "read_only": self.read_only,
            "direct": self.direct,
            "write_cache": self.write_cache,
            "rotational": self.medium.rotational,
        });
        ("bdev_uring_create", params)
    }

    fn delete_method(&self) -> &'static str {
        "bdev_uring_delete"
    }
}

struct UringChannel {
    ring: SharedRing,
    file: u32,
    block_bytes: u32,
    blocks: Arc<AtomicU64>,
    read_only: bool,
    write_cache: bool,
    is_block: bool,
    unmap: bool,
}

impl UringChannel {
    /// What an operation comes down to, or how it ends at once.
    #[inline]
    fn work(&self, op: IoOp) -> Result<(Work, bool), IoStatus> {
        if let Some((lba, blocks)) = op.range() {
            if !contains(self.blocks.load(Ordering::Relaxed), lba, blocks) {
                return Err(IoStatus::OutOfRange);
            }
            if op.changes_medium() && self.read_only {
                return Err(IoStatus::WriteProtected);
            }
            if matches!(op, IoOp::Unmap { .. }) && !self.unmap {
                return Err(IoStatus::Unsupported);
            }
            if blocks == 0 {
                return Err(IoStatus::Good);
            }
        }
        let always = !self.write_cache;
        Ok(match op {
            IoOp::Read { .. } => (Work::Read, false),
            IoOp::Write { fua, .. } => (Work::Write, fua || always),
            IoOp::Flush if self.read_only => return Err(IoStatus::Good),
            IoOp::Flush => (Work::Sync, false),
            IoOp::WriteZeroes { unmap: true, fua, .. } if self.unmap => {
                (Work::PunchZero, fua || always)
            }
            IoOp::WriteZeroes { fua, .. } => (Work::ZeroRange, fua || always),
            IoOp::Unmap { .. } if self.is_block => (Work::Discard, always),
            IoOp::Unmap { .. } => (Work::Punch, always),
        })
    }
}

impl IoChannel for UringChannel {
    #[inline]
    fn submit(&mut self, io: Io) {
        io.assert_buf(self.block_bytes);
        let mut ring = self.ring.borrow_mut();
        match self.work(io.op) {
            Ok((work, fua)) => {
                let (lba, blocks) = io.op.range().unwrap_or((0, 0));
                let block_bytes = u64::from(self.block_bytes);
                let (offset, len) = (lba * block_bytes, blocks * block_bytes);
                ring.start(Op {
                    tag: io.tag,
                    file: self.file,
                    work,
                    offset,
                    len,
                    fua,
                    buf: io.buf,
                });
            }
            Err(status) => ring.finish(IoDone { tag: io.tag, status, buf: io.buf }),
        }
    }

    #[inline]
    fn flush(&mut self) {
        self.ring.borrow_mut().flush();
    }

    #[inline]
    fn poll(&mut self, _now: Instant, done: &mut Batch<IoDone>) {
        self.ring.borrow_mut().poll(done);
    }

    fn arm(&mut self) -> bool {
        self.ring.borrow_mut().arm()
    }
}

impl Drop for UringChannel {
    fn drop(&mut self) {
        self.ring.borrow_mut().close_file(self.file);
    }
}

#[cfg(test)]
mod tests;
