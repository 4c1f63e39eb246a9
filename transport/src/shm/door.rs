//! Between the control thread and a core: a bounded ring of messages, a count and a bell.
//!
//! The control thread reserves a connection number before it hands over, so a core is never given
//! more connections than it can hold. A core pays one look at an empty ring per turn.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use super::nap::Nap;
use super::sys::Regions;
use crate::control_thread::Bell;

/// Peers that the control thread attaches in a round, at most.
pub(super) const ATTACHED_MAX: usize = 64;

/// A peer that has said hello, ready for its core.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Number of the connection in this process.
    pub serial: u64,
    /// The peer's socket, watched by the control thread.
    pub socket: Arc<OwnedFd>,
    /// What the peer writes to wake us; the control thread forwards it.
    pub bell: OwnedFd,
    /// The peer's memory.
    pub regions: Regions,
    /// Its login request.
    pub login: Vec<u8>,
    /// Target of the listener.
    pub target: Arc<str>,
    /// Path of the listener.
    pub traddr: Arc<str>,
    /// The peer's process, 0 for one we can't see.
    pub pid: i32,
    /// See [`crate::PeerInfo::arrival`].
    pub arrival: u64,
}

/// From the control thread to a core.
#[derive(Debug)]
pub(super) enum Message {
    /// A new peer.
    Attach(Box<Prepared>),
    /// The peer with this serial is gone.
    Gone(u64),
}

/// What is left of a connection: too slow for a core to end, for as long as the peer likes.
#[derive(Debug)]
pub(super) struct Remains {
    /// The peer's memory.
    pub(super) regions: Regions,
    /// The peer's socket, which may hold what nobody has read.
    pub(super) socket: Arc<OwnedFd>,
    /// What the peer rang.
    pub(super) bell: OwnedFd,
}

/// What both sides of a door see.
#[derive(Debug)]
struct Shared {
    nap: Nap,
    channels: AtomicU32,
    control: OnceLock<Bell>,
}

/// A core as the control thread sees it; made by [`super::ShmFabric::new`].
#[derive(Debug)]
pub struct CoreDoor {
    messages: rtrb::Producer<Message>,
    backlog: VecDeque<Message>,
    remains: rtrb::Consumer<Remains>,
    shared: Arc<Shared>,
    wake: Arc<OwnedFd>,
    channels_max: u32,
}

/// The core's side of a door.
#[derive(Debug)]
pub(super) struct Inside {
    /// What the control thread says.
    pub messages: rtrb::Consumer<Message>,
    remains: rtrb::Producer<Remains>,
    shared: Arc<Shared>,
}

/// A door for a core that holds `channels_max` connections and sleeps on the event counter `wake`.
pub(super) fn door(channels_max: u32, wake: Arc<OwnedFd>) -> (Inside, CoreDoor) {
    let (nap, channels, control) = (Nap::new(), AtomicU32::new(0), OnceLock::new());
    let shared = Arc::new(Shared { nap, channels, control });
    let (to_core, messages) = rtrb::RingBuffer::new(channels_max as usize * 2 + 2);
    // Emptied before each round in which the control thread attaches peers, so it never holds more
    // than all connections and those of one round.
    let (to_control, remains) = rtrb::RingBuffer::new(channels_max as usize + ATTACHED_MAX);
    let inside = Inside { messages, remains: to_control, shared: Arc::clone(&shared) };
    let backlog = VecDeque::new();
    (inside, CoreDoor { messages: to_core, backlog, remains, shared, wake, channels_max })
}

/// Adds one to an event counter. Failure means that it is full, thus readable already.
fn ring(counter: &OwnedFd) {
    let _ = rustix::io::write(counter, &1u64.to_ne_bytes());
}

impl CoreDoor {
    /// Connections that the core holds or is about to get.
    pub(super) fn channels(&self) -> u32 {
        self.shared.channels.load(Ordering::Relaxed)
    }

    /// Reserves a connection; false when the core is full.
    pub(super) fn reserve(&self) -> bool {
        // Only the control thread adds, so nobody can take the place between look and add.
        let free = self.channels() < self.channels_max;
        if free {
            self.shared.channels.fetch_add(1, Ordering::Relaxed);
        }
        free
    }

    /// Gives a reservation back that came to nothing.
    pub(super) fn unreserve(&self) {
        self.shared.channels.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sends a message and wakes the core. What doesn't fit stays for [`CoreDoor::retry`].
    pub(super) fn send(&mut self, message: Message) {
        self.backlog.push_back(message);
        self.retry();
    }

    /// Sends what didn't fit; false when something is left.
    pub(super) fn retry(&mut self) -> bool {
        let before = self.backlog.len();
        while let Some(message) = self.backlog.pop_front() {
            if let Err(rtrb::PushError::Full(message)) = self.messages.push(message) {
                self.backlog.push_front(message);
                break;
            }
        }
        if self.backlog.len() < before {
            self.wake();
        }
        self.backlog.is_empty()
    }

    /// Wakes the core if it sleeps.
    pub(super) fn wake(&self) {
        if self.shared.nap.must_wake() {
            ring(&self.wake);
        }
    }

    /// Tells the core whom to wake when it hands back what is left of a connection.
    pub(super) fn join(&self, control: &Bell) {
        assert!(self.shared.control.set(control.clone()).is_ok(), "one listener per core");
    }

    /// What is left of a released connection.
    pub(super) fn remains(&mut self) -> Option<Remains> {
        self.remains.pop().ok()
    }
}

impl Inside {
    /// Frees a connection's place and gives away what is left of it.
    pub(super) fn release(&mut self, remains: Remains) {
        let sent = self.remains.push(remains).is_ok();
        assert!(sent, "the ring to the control thread is sized for all connections");
        self.shared.channels.fetch_sub(1, Ordering::Relaxed);
        if let Some(control) = self.shared.control.get() {
            control.ring();
        }
    }

    /// Announces sleep; [`super::ring::before_last_look`] and a look at everything must follow.
    pub(super) fn set_sleeping(&self, sleeping: bool) {
        self.shared.nap.set(sleeping);
    }
}
