//! One core's channel of a file or block device.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use reactor::{Batch, Instant};

use super::kernel::Kernel;
use super::medium::Unmap;
use super::refusals::Extra;
use super::ring::{Op, Ring, Work};
use super::state::State;
use crate::{Io, IoChannel, IoDone, IoOp, IoStatus, contains};

/// A ring of the channel's own that polls.
pub(super) struct Polled<K: Kernel> {
    pub ring: Rc<RefCell<Ring<K>>>,
    /// It takes reads and writes only.
    pub only_transfers: bool,
    /// The kernel does not poll this medium after all: nothing more goes there.
    pub refused: bool,
}

/// Numbers of the medium's file in the rings; `polled` is unused without such a ring.
#[derive(Clone, Copy)]
struct Files {
    shared: u32,
    polled: u32,
}

pub(super) struct UringChannel<K: Kernel> {
    state: Arc<State>,
    /// [`State::changes`] when the medium was taken.
    changes: u32,
    ring: Rc<RefCell<Ring<K>>>,
    polled: Option<Polled<K>>,
    /// `None`: the medium is lost.
    files: Option<Files>,
    block_bytes: u32,
    /// Writes are refused whatever the medium takes.
    must_not_write: bool,
    read_only: bool,
    write_cache: bool,
    unmap: Option<Unmap>,
}

impl<K: Kernel> UringChannel<K> {
    pub(super) fn new(
        state: Arc<State>,
        ring: Rc<RefCell<Ring<K>>>,
        polled: Option<Polled<K>>,
        must_not_write: bool,
        write_cache: bool,
    ) -> UringChannel<K> {
        let block_bytes = state.medium().block_bytes;
        let mut channel = UringChannel {
            changes: 0,
            state,
            ring,
            polled,
            files: None,
            block_bytes,
            must_not_write,
            read_only: must_not_write,
            write_cache,
            unmap: None,
        };
        channel.take_medium();
        channel
    }

    /// Takes the medium as it is now.
    #[cold]
    fn take_medium(&mut self) {
        self.let_go();
        let (changes, medium, fd) = self.state.take();
        self.changes = changes;
        self.unmap = medium.unmap;
        self.read_only = self.must_not_write || medium.read_only;
        self.files = fd.map(|fd| Files {
            polled: match &mut self.polled {
                Some(polled) => {
                    polled.refused = medium.refusals.why(Extra::Polling).is_some();
                    polled.ring.borrow_mut().open_file(Arc::clone(&fd), &medium)
                }
                None => 0,
            },
            shared: self.ring.borrow_mut().open_file(fd, &medium),
        });
    }

    fn let_go(&mut self) {
        let Some(files) = self.files.take() else { return };
        self.ring.borrow_mut().close_file(files.shared);
        if let Some(polled) = &self.polled {
            polled.ring.borrow_mut().close_file(files.polled);
        }
    }

    /// The kernel does not poll this medium: operations go the usual way, those too that it has
    /// refused.
    #[cold]
    fn on_refused(&mut self, first: Op) {
        let Some(polled) = &mut self.polled else { return };
        polled.refused = true;
        let mut refused = Some(first);
        while let Some(op) = refused {
            let mut ring = self.ring.borrow_mut();
            match self.files {
                Some(files) => ring.start(Op { file: files.shared, ..op }),
                None => {
                    ring.finish(IoDone { tag: op.tag, status: IoStatus::NotReady, buf: op.buf });
                }
            }
            refused = polled.ring.borrow_mut().take_refused();
        }
    }

    /// What an operation comes down to, or how it ends at once.
    #[inline]
    fn work(&self, op: IoOp) -> Result<(Work, bool), IoStatus> {
        if let Some((lba, blocks)) = op.range() {
            if !contains(self.state.blocks(), lba, blocks) {
                return Err(IoStatus::OutOfRange);
            }
            if op.changes_medium() && self.read_only {
                return Err(IoStatus::WriteProtected);
            }
            if matches!(op, IoOp::Unmap { .. }) && self.unmap.is_none() {
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
            IoOp::WriteZeroes { unmap: true, fua, .. } if self.unmap.is_some() => {
                (Work::PunchZero, fua || always)
            }
            IoOp::WriteZeroes { fua, .. } => (Work::ZeroRange, fua || always),
            IoOp::Unmap { .. } if self.unmap == Some(Unmap::Discard) => (Work::Discard, always),
            IoOp::Unmap { .. } => (Work::Punch, always),
        })
    }

    /// The ring that does some work, and the file's number there.
    #[inline]
    fn way(&self, files: Files, work: Work, fua: bool) -> (&RefCell<Ring<K>>, u32) {
        match &self.polled {
            Some(polled)
                if !polled.refused
                    && (!polled.only_transfers
                        || (matches!(work, Work::Read | Work::Write) && !fua)) =>
            {
                (&polled.ring, files.polled)
            }
            _ => (&self.ring, files.shared),
        }
    }
}

impl<K: Kernel> IoChannel for UringChannel<K> {
    #[inline]
    fn submit(&mut self, io: Io) {
        io.assert_buf(self.block_bytes);
        if self.state.changes() != self.changes {
            self.take_medium();
        }
        let ended = match (self.files, self.work(io.op)) {
            (None, _) => IoStatus::NotReady,
            (Some(files), Ok((work, fua))) => {
                let (lba, blocks) = io.op.range().unwrap_or((0, 0));
                let block_bytes = u64::from(self.block_bytes);
                let (offset, len) = (lba * block_bytes, blocks * block_bytes);
                let (ring, file) = self.way(files, work, fua);
                let op = Op { tag: io.tag, file, work, offset, len, fua, buf: io.buf };
                return ring.borrow_mut().start(op);
            }
            (Some(_), Err(status)) => status,
        };
        let done = IoDone { tag: io.tag, status: ended, buf: io.buf };
        self.ring.borrow_mut().finish(done);
    }

    #[inline]
    fn flush(&mut self) {
        self.ring.borrow_mut().flush();
        if let Some(polled) = &self.polled {
            polled.ring.borrow_mut().flush();
        }
    }

    #[inline]
    fn poll(&mut self, _now: Instant, done: &mut Batch<IoDone>) {
        self.ring.borrow_mut().poll(done);
        if let Some(polled) = &self.polled {
            let mut ring = polled.ring.borrow_mut();
            ring.poll(done);
            if let Some(op) = ring.take_refused() {
                drop(ring);
                self.on_refused(op);
            }
        }
    }

    fn arm(&mut self) -> bool {
        self.ring.borrow_mut().arm()
            && self.polled.as_ref().is_none_or(|polled| polled.ring.borrow_mut().arm())
    }

    fn refresh(&mut self) {
        if self.state.changes() != self.changes {
            self.take_medium();
        }
    }
}

impl<K: Kernel> Drop for UringChannel<K> {
    fn drop(&mut self) {
        self.let_go();
    }
}
