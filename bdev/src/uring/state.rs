//! What all channels of a device share: its medium as it is now.
//!
//! [`State`] owns the open file while there is one. A channel looks at the number of changes with
//! each operation and takes the medium anew when it differs; the file of a lost medium closes with
//! the last channel that lets go of it.
//!
//! Looking at a medium makes system calls that may take long, so it is never done on a core, nor
//! with anything locked that a core waits for.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;

use super::medium::{Fate, Medium, Opened};
use super::options::UringOptions;
use crate::Alone;
use crate::refused::BdevError;

/// How long a look that is under way keeps somebody waiting who closes the device.
const LOOK_WAIT_MAX: Duration = Duration::from_millis(20);

/// What became of a medium since it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has another size, or no longer gives up space.
    Resized,
    /// It is gone; the text says how that showed.
    Lost(String),
    /// It is back.
    Returned {
        /// With another size.
        resized: bool,
    },
}

/// The medium of a device.
#[derive(Debug)]
pub(super) struct State {
    seen: Alone<Seen>,
    held: Mutex<Held>,
    /// One look at a time.
    looking: Mutex<()>,
}

/// What every operation looks at.
#[derive(Debug)]
struct Seen {
    /// Blocks of the medium; of the last one while it is lost.
    blocks: AtomicU64,
    changes: AtomicU32,
}

#[derive(Debug)]
struct Held {
    medium: Arc<Medium>,
    /// `None`: lost.
    fd: Option<Arc<OwnedFd>>,
    /// Why there is none.
    lost: Option<String>,
    /// Never to be opened again.
    closed: bool,
}

impl State {
    pub(super) fn new(opened: Opened) -> State {
        State {
            seen: Alone(Seen {
                blocks: AtomicU64::new(opened.medium.blocks),
                changes: AtomicU32::new(0),
            }),
            held: Mutex::new(Held {
                medium: Arc::new(opened.medium),
                fd: Some(Arc::new(opened.fd)),
                lost: None,
                closed: false,
            }),
            looking: Mutex::new(()),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks now.
    #[inline]
    pub(super) fn blocks(&self) -> u64 {
        self.seen.0.blocks.load(Ordering::Relaxed)
    }

    /// Differs when channels must take the medium anew.
    #[inline]
    pub(super) fn changes(&self) -> u32 {
        self.seen.0.changes.load(Ordering::Relaxed)
    }

    /// The number of changes, the medium, and its file unless it is lost.
    pub(super) fn take(&self) -> (u32, Arc<Medium>, Option<Arc<OwnedFd>>) {
        let held = self.held();
        (self.seen.0.changes.load(Ordering::Acquire), Arc::clone(&held.medium), held.fd.clone())
    }

    pub(super) fn medium(&self) -> Arc<Medium> {
        Arc::clone(&self.held().medium)
    }

    /// Why the medium is lost, if it is.
    pub(super) fn lost(&self) -> Option<String> {
        self.held().lost.clone()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.held().fd.is_none()
    }

    /// Looks at the medium. `None`: nothing has changed, or somebody else is looking.
    pub(super) fn look(&self, name: &str, options: &UringOptions) -> Option<Change> {
        let _looking = self.looking.try_lock().ok()?;
        let (_, medium, fd) = self.take();
        if self.held().closed {
            return None;
        }
        let does_less = medium.refusals.tell(name);
        let Some(fd) = fd else {
            return match self.reopen(name, options, &medium) {
                Ok(change) => Some(change),
                Err(error) => {
                    self.held().lost = Some(error.to_string());
                    None
                }
            };
        };
        match medium.fate(&options.filename, &fd) {
            Fate::Lost(why) => {
                self.lose(why.clone());
                Some(Change::Lost(why))
            }
            Fate::There { bytes } => {
                let resized = self.resize(bytes / u64::from(medium.block_bytes));
                (resized || does_less).then_some(Change::Resized)
            }
        }
    }

    /// The same on an operator's word: a medium of less than a block and one that is still lost are
    /// refused.
    pub(super) fn rescan(
        &self,
        name: &str,
        options: &UringOptions,
    ) -> Result<Option<Change>, BdevError> {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, medium, fd) = self.take();
        let Some(fd) = fd else {
            return self.reopen(name, options, &medium).map(Some);
        };
        let Medium { is_block, block_bytes, .. } = *medium;
        let (blocks, _) = super::medium::blocks(&options.filename, &fd, is_block, block_bytes)?;
        Ok(self.resize(blocks).then_some(Change::Resized))
    }

    /// Lets go of the file for good, so that it is free for its next user at once. A look that is
    /// under way is waited for, but not for long: then the file closes with it.
    pub(super) fn close(&self) {
        let deadline = Instant::now() + LOOK_WAIT_MAX;
        let _looking = loop {
            match self.looking.try_lock() {
                Ok(guard) => break Some(guard),
                Err(_) if Instant::now() > deadline => break None,
                Err(_) => std::thread::yield_now(),
            }
        };
        self.held().closed = true;
        self.lose("deleted".to_owned());
    }

    fn resize(&self, blocks: u64) -> bool {
        self.seen.0.blocks.swap(blocks, Ordering::Relaxed) != blocks
    }

    fn lose(&self, why: String) {
        let mut held = self.held();
        held.fd = None;
        held.lost = Some(why);
        self.seen.0.changes.fetch_add(1, Ordering::Release);
    }

    fn reopen(
        &self,
        name: &str,
        options: &UringOptions,
        before: &Medium,
    ) -> Result<Change, BdevError> {
        let opened = Medium::open_again(name, options, before)?;
        let resized = self.resize(opened.medium.blocks);
        let mut held = self.held();
        held.medium = Arc::new(opened.medium);
        held.fd = Some(Arc::new(opened.fd));
        held.lost = None;
        self.seen.0.changes.fetch_add(1, Ordering::Release);
        Ok(Change::Returned { resized })
    }
}
