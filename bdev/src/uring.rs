//! A regular file or block device through io_uring.
//!
//! A [`Uring`] owns the open file and what was found out about it: it is locked against other
//! targets, and its page cache is bypassed where that is possible. A medium that is lost is let go
//! and opened again when it returns. All channels of a core share one [`Ring`], which the first of
//! them opens on that core's thread; those of a device that polls have one of their own.
//!
//! Memory that the kernel may still write is never given back: it belongs to the ring until the
//! completion has come. A channel should be dropped when it has nothing in flight; otherwise the
//! completions come out of another channel of the same core, or the ring's drop waits for them.
//!
//! One operation is one submission entry and one completion entry. A turn with `flush` and `poll`
//! makes at most two system calls for all channels of the core, and none when nothing happened.

mod channel;
pub mod crash;
mod kernel;
mod medium;
mod options;
mod refusals;
mod ring;
mod state;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use reactor::pool::{Pool, SizeClass};
use reactor::sys::memory::Memory;
use reactor::{Batch, Tag};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::channel::{Polled, UringChannel};
use self::medium::{Medium, Opened, Unmap, os};
pub use self::options::{Direct, OnOff, UringOptions};
use self::refusals::Extra;
pub use self::ring::Ring;
use self::ring::{Op, Work};
pub use self::state::Change;
use self::state::State;
use crate::options::{Options, to_value};
use crate::refused::BdevError;
use crate::sys::queue::{self, Delivery, Setup};
use crate::{Bdev, CoreContext, Geometry, IoChannel, OpenError};

/// One core's ring, shared by its channels.
pub type SharedRing = Rc<RefCell<Ring>>;

/// The file or block device.
#[derive(Debug)]
pub struct Uring {
    name: String,
    uuid: Uuid,
    /// As asked for, with the block size that came of it; the medium says what came of the rest.
    options: UringOptions,
    /// Polling, as far as the system does it.
    polling: Option<Setup>,
    /// Why it does not poll as asked for.
    unpolled_because: Option<String>,
    state: Arc<State>,
}

impl Uring {
    /// Opens a device under a checked name. A file that another process has is waited for up to
    /// `lock_wait`.
    pub(crate) fn open(
        name: String,
        uuid: Uuid,
        options: &UringOptions,
        lock_wait: Duration,
    ) -> Result<Uring, BdevError> {
        if let Some(why) = options.contradiction() {
            return Err(BdevError::Invalid(format!("bdev {name}: {why}")));
        }
        queue::probe().map_err(|errno| os(unavailable(errno))(errno))?;
        let mut opened = Medium::open(&name, options, lock_wait)?;
        opened.medium.check_identity(&options.filename, options.device_id.as_deref())?;
        let mut options = options.clone();
        options.block_size = Some(opened.medium.block_bytes);
        options.rotational = Some(opened.medium.rotational);
        let (polling, unpolled_because) = match choose_polling(&options, &opened) {
            Ok(polling) => (polling, None),
            Err(why) => {
                tracing::warn!("bdev {name}: no polling: {why}");
                // The attempt's own, which has just been told.
                opened.medium.refusals = Arc::default();
                (None, Some(why))
            }
        };
        let state = Arc::new(State::new(opened));
        Ok(Uring { name, uuid, options, polling, unpolled_because, state })
    }

    /// Looks whether the medium has another size, is lost, or is back; open channels follow with
    /// their next operation or [`IoChannel::refresh`]. `None`: all is as before.
    ///
    /// Makes system calls that may take as long as the device wants: never on a core.
    pub fn look(&self) -> Option<Change> {
        self.state.look(&self.name, &self.options)
    }

    /// The same on an operator's word.
    ///
    /// Fails with [`BdevError::Invalid`] when the medium has less than a block, and with the reason
    /// when the medium is still lost.
    pub fn rescan(&self) -> Result<Option<Change>, BdevError> {
        self.state.rescan(&self.name, &self.options)
    }

    /// By its options, or because the medium takes no writes.
    fn is_read_only(&self) -> bool {
        self.options.read_only || self.state.medium().read_only
    }

    /// Why it does not poll, if it was asked to.
    fn polling_refused(&self) -> Option<String> {
        let refusals = &self.state.medium().refusals;
        self.unpolled_because.clone().or_else(|| refusals.why(Extra::Polling))
    }

    fn open_polled(&self, core: &CoreContext) -> Option<Polled<queue::Queue>> {
        let setup = self.polling?;
        if self.polling_refused().is_some() {
            return None;
        }
        let opened = Ring::open(core.depth, &core.memory, core.wake.as_ref(), &[setup]);
        match opened {
            Ok(ring) => {
                let ring = Rc::new(RefCell::new(ring));
                Some(Polled { ring, only_transfers: setup.io_poll, refused: false })
            }
            Err((what, errno)) => {
                tracing::warn!("bdev {}: no polling on this core: {what}: {errno}", self.name);
                None
            }
        }
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

/// Tries the polling that was asked for. An error is why it can't be had; what only shows later is
/// noted in the medium's [`refusals`].
fn choose_polling(options: &UringOptions, opened: &Opened) -> Result<Option<Setup>, String> {
    let UringOptions { sq_poll, io_poll, .. } = *options;
    if !sq_poll && !io_poll {
        return Ok(None);
    }
    if io_poll && !opened.medium.direct {
        return Err("io_poll needs direct I/O".to_owned());
    }
    if io_poll && opened.medium.polled_queues == Some(false) {
        return Err("the disk has no queues that can be polled (queue/io_poll is 0)".to_owned());
    }
    let setup = Setup { delivery: Delivery::Interrupt, sq_poll, io_poll };
    match try_polling(setup, opened) {
        Ok(()) => Ok(Some(setup)),
        Err((what, errno)) => Err(format!("{what}: {errno}")),
    }
}

/// How long the block that is tried may take to come.
const TRY_WAIT_MAX: Duration = Duration::from_secs(1);

fn try_polling(setup: Setup, opened: &Opened) -> Result<(), queue::Refused> {
    let bytes = opened.medium.block_bytes.max(4096);
    let nothing = |_| ("mapping a buffer", Errno::NOMEM);
    let memory = Arc::new(Memory::ordinary(bytes as usize).map_err(nothing)?);
    let mut pool = Pool::new(Arc::clone(&memory), &[SizeClass { bytes, count: 1 }]);
    let mut ring = Ring::open(1, &memory, None, &[setup])?;
    let fd = opened.fd.try_clone();
    let fd = fd.map_err(|error| ("opening", Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let len = u64::from(opened.medium.block_bytes);
    // A hole is read without the disk. A file that has nothing else says nothing.
    let data = rustix::fs::seek(&fd, SeekFrom::Data(0));
    let Ok(data) = data else { return Ok(()) };
    let offset = data / len * len;
    let file = ring.open_file(Arc::new(fd), &opened.medium);
    let buf = pool.take(len as usize);
    let (tag, work) = (Tag::new(0, 0), Work::Read);
    ring.start(Op { tag, file, work, offset, len, fua: false, buf });
    let (mut done, mut refused) = (Batch::new(1), None);
    let deadline = std::time::Instant::now() + TRY_WAIT_MAX;
    while done.is_empty() && refused.is_none() {
        if std::time::Instant::now() > deadline {
            return Err(("reading a block", Errno::TIMEDOUT));
        }
        ring.flush();
        ring.poll(&mut done);
        refused = ring.take_refused();
    }
    let item = done.pop();
    let good = item.as_ref().is_some_and(|item| item.status.is_good());
    let buf = item.and_then(|item| item.buf).or_else(|| refused.and_then(|op| op.buf));
    if let Some(buf) = buf {
        pool.put(buf);
    }
    if good { Ok(()) } else { Err(("reading a block", Errno::OPNOTSUPP)) }
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
        let medium = self.state.medium();
        let read_only = self.is_read_only();
        let UringOptions { write_cache, .. } = self.options;
        let unmap = medium.unmap.filter(|_| !medium.refusals.has(Extra::Unmap));
        Geometry {
            block_bytes: medium.block_bytes,
            blocks: self.state.blocks(),
            physical_exponent: (medium.physical_bytes / medium.block_bytes).trailing_zeros() as u8,
            buf_align: medium.buf_align,
            write_cache: write_cache.0 && !read_only,
            read_only,
            unmap: unmap.is_some(),
            unmap_zeroes: unmap == Some(Unmap::Punch),
            unmap_granularity: medium.unmap_granularity,
            rotational: medium.rotational,
        }
    }

    fn ready(&self) -> bool {
        !self.state.is_lost()
    }

    fn serial(&self) -> Option<&str> {
        self.options.serial.as_deref()
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        let ring = match &core.ring {
            Some(ring) => Rc::clone(ring),
            None => {
                let ring = Ring::open(core.depth, &core.memory, core.wake.as_ref(), &Setup::PLAIN)
                    .map_err(|(what, errno)| OpenError::Os { what, errno })?;
                Rc::clone(core.ring.insert(Rc::new(RefCell::new(ring))))
            }
        };
        let polled = self.open_polled(core);
        let state = Arc::clone(&self.state);
        let UringOptions { read_only, write_cache, .. } = self.options;
        Ok(Box::new(UringChannel::new(state, ring, polled, read_only, write_cache.0)))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        let medium = self.state.medium();
        let undirect = medium.refusals.why(Extra::Direct);
        let unpolled = self.polling_refused();
        let polling = self.polling.filter(|_| unpolled.is_none());
        let mut uring = json!({
            "filename": self.options.filename,
            "direct": medium.direct && undirect.is_none(),
            "read_only": self.is_read_only(),
            "write_cache": self.options.write_cache,
            "sq_poll": polling.is_some_and(|setup| setup.sq_poll),
            "io_poll": polling.is_some_and(|setup| setup.io_poll),
        });
        let reasons = [
            ("direct_refused", medium.buffered_because.clone().or(undirect)),
            ("polling_refused", unpolled),
            ("lost", self.state.lost()),
        ];
        for (member, why) in reasons {
            if let Some(why) = why {
                uring[member] = json!(why);
            }
        }
        Map::from_iter([("uring".to_owned(), uring)])
    }

    fn module(&self) -> &'static str {
        UringOptions::MODULE
    }

    fn options(&self) -> Value {
        to_value(&UringOptions {
            name: Some(self.name.clone()),
            uuid: Some(self.uuid),
            device_id: self.state.medium().identity.clone(),
            ..self.options.clone()
        })
    }

    fn close(&self) {
        self.state.close();
    }

    fn close_may_sleep(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests;
