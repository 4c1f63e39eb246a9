//! Between the control thread and a core: a bounded ring of messages, places, and bells.
//!
//! The control thread hands places out, so a core is never given more connections than it can hold.
//! A core pays one look at an empty ring and one at a word of bits per turn.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use super::allowance::Charge;
use super::nap::Nap;
use super::ready::Ready;
use super::sys::Regions;
use crate::control_thread::Bell;

/// A peer that has said hello, ready for its core.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Its place on the core.
    pub place: u32,
    /// Number of the connection in this process.
    pub serial: u64,
    /// The peer's socket, watched by the control thread.
    pub socket: Arc<OwnedFd>,
    /// What the peer writes to wake us; the control thread forwards it.
    pub bell: OwnedFd,
    /// The peer's memory.
    pub regions: Regions,
    /// What all this costs.
    pub charge: Charge,
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
    /// The peer with this serial, which was given this place, is gone.
    Gone { place: u32, serial: u64 },
}

/// What is left of a connection: too slow for a core to end, for as long as the peer likes.
#[derive(Debug)]
pub(super) struct Remains {
    /// Its place on the core, which is free from now on.
    pub(super) place: u32,
    /// The peer's memory.
    pub(super) regions: Regions,
    /// The peer's socket, which may hold what nobody has read.
    pub(super) socket: Arc<OwnedFd>,
    /// What the peer rang.
    pub(super) bell: OwnedFd,
    /// What all this costs, until it has ended.
    pub(super) charge: Charge,
}

/// What both sides of a door see.
#[derive(Debug)]
struct Shared {
    nap: Nap,
    ready: Arc<Ready>,
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
    /// Places that no connection has.
    free: Vec<u32>,
}

/// The core's side of a door.
#[derive(Debug)]
pub(super) struct Inside {
    /// What the control thread says.
    pub messages: rtrb::Consumer<Message>,
    remains: rtrb::Producer<Remains>,
    ready: Arc<Ready>,
    shared: Arc<Shared>,
}

/// A door for a core that holds `channels_max` connections and sleeps on the event counter `wake`.
pub(super) fn door(channels_max: u32, wake: Arc<OwnedFd>) -> (Inside, CoreDoor) {
    let (nap, ready, control) = (Nap::new(), Arc::new(Ready::new(channels_max)), OnceLock::new());
    let to_take = Arc::clone(&ready);
    let shared = Arc::new(Shared { nap, ready, control });
    let (to_core, messages) = rtrb::RingBuffer::new(channels_max as usize * 2 + 2);
    // A place is given away again only after its remains have been taken, so all find room.
    let (to_control, remains) = rtrb::RingBuffer::new(channels_max as usize);
    let inside =
        Inside { messages, remains: to_control, ready: to_take, shared: Arc::clone(&shared) };
    let backlog = VecDeque::new();
    let free = (0..channels_max).rev().collect();
    let door = CoreDoor { messages: to_core, backlog, remains, shared, wake, channels_max, free };
    (inside, door)
}

/// Adds one to an event counter. Failure means that it is full, thus readable already.
fn ring(counter: &OwnedFd) {
    let _ = rustix::io::write(counter, &1u64.to_ne_bytes());
}

impl CoreDoor {
    /// Connections that the core holds or is about to get.
    pub(super) fn channels(&self) -> u32 {
        self.channels_max - self.free.len() as u32
    }

    /// Reserves a place for a connection; `None` when the core is full.
    pub(super) fn reserve(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Gives a reservation back that came to nothing.
    pub(super) fn unreserve(&mut self, place: u32) {
        self.free.push(place);
    }

    /// The connection at a place has rung: the core looks at it, and is woken for that if it
    /// sleeps.
    pub(super) fn ring(&self, place: u32) {
        self.shared.ready.set(place);
        self.wake();
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
    fn wake(&self) {
        if self.shared.nap.must_wake() {
            ring(&self.wake);
        }
    }

    /// Tells the core whom to wake when it hands back what is left of a connection.
    pub(super) fn join(&self, control: &Bell) {
        assert!(self.shared.control.set(control.clone()).is_ok(), "one listener per core");
    }

    /// What is left of a released connection, whose place is free from now on.
    pub(super) fn remains(&mut self) -> Option<Remains> {
        let remains = self.remains.pop().ok()?;
        self.free.push(remains.place);
        Some(remains)
    }
}

impl Inside {
    /// Gives away what is left of a connection, and its place.
    pub(super) fn release(&mut self, remains: Remains) {
        let sent = self.remains.push(remains).is_ok();
        assert!(sent, "the ring to the control thread is sized for all connections");
        if let Some(control) = self.shared.control.get() {
            control.ring();
        }
    }

    /// The quiet connections that have rung.
    #[inline(always)]
    pub(super) fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Announces sleep; [`super::ring::before_last_look`] and a look at everything must follow.
    pub(super) fn set_sleeping(&self, sleeping: bool) {
        self.shared.nap.set(sleeping);
    }
}
