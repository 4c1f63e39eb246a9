//! Between the control thread and a core: two bounded rings and two event counters.
//!
//! A connection's number is the control thread's to give and returns to it with
//! [`ToControl::Release`]. Each life of a number takes a fixed number of messages each way, so the
//! rings are sized by the connections and a push cannot fail.
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use reactor::sleep::WakeSet;
use reactor::sys::memory::Memory;

use super::options::{FabricOptions, RdmaOptions};
use super::resources::{CoreDevice, Ready};
use super::sys::{Qp, ReceiveArea};
use crate::control_thread::Bell;
use crate::{CloseReason, ConnId, PeerInfo};

/// Devices that one core can serve at a time.
pub(super) const DEVICES_MAX: usize = 16;

/// From the control thread to a core.
pub(super) enum ToCore {
    /// What to lay devices out for; before the first of them.
    Options(RdmaOptions),
    /// A device to poll, at this place.
    Device(usize, Box<CoreDevice>),
    /// The device has gone and so have its connections: give it back.
    DropDevice(usize),
    /// A peer asks to log in.
    Login(Box<Login>),
    /// An accepted connection's queue pair, with its receives posted.
    Ready(ConnId, Box<Ready>),
    /// The queue pair can send, as many work requests at a time.
    Accepted(ConnId, u32),
    /// The peer or the link is gone.
    Gone(ConnId, CloseReason),
    /// The queue pair is in its error state: what it did not finish is flushed.
    Disconnected(ConnId),
    /// Nothing of the connection is left outside of the core.
    Ended(ConnId, CloseReason),
}

pub(super) struct Login {
    pub conn: ConnId,
    pub device: usize,
    pub data: Vec<u8>,
    pub peer: PeerInfo,
}

/// From a core to the control thread.
pub(super) enum ToControl {
    Accept(ConnId, Box<Accept>),
    Reject(ConnId, Vec<u8>),
    /// Fail the queue pair and tell the peer; `ToCore::Disconnected` follows.
    Disconnect(ConnId),
    /// Destroy the queue pair, if there is one, and the identifier; `ToCore::Ended` follows.
    Destroy(ConnId, Option<Qp>),
    /// The number is free again.
    Release(ConnId, Option<ReceiveArea>),
    /// A dead device comes home.
    Device(usize, Option<Box<CoreDevice>>),
}

pub(super) struct Accept {
    pub login_rsp: Vec<u8>,
    pub credits: u32,
    pub iu_bytes_max: u32,
}

/// Writes an event counter. A full counter rings already.
fn raise(eventfd: &OwnedFd) {
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

/// A core as the control thread sees it; made by [`super::RdmaFabric::new`].
pub struct CoreDoor {
    to_core: rtrb::Producer<ToCore>,
    from_core: rtrb::Consumer<ToControl>,
    wake: Arc<OwnedFd>,
    /// Where the completion channels of the core's devices are.
    pub(super) wakes: WakeSet,
    control: Arc<OnceLock<Bell>>,
    pub(super) options: FabricOptions,
    pub(super) pool: Arc<Memory>,
}

impl CoreDoor {
    /// Replaces the parameters of ib_srpt that the fabric was made with. At most once, before the
    /// door is given to a [`super::Listener`].
    pub fn configure(&mut self, rdma: RdmaOptions) {
        self.options.rdma = rdma;
        self.send(ToCore::Options(rdma));
    }

    /// Names the bell that wakes the control thread.
    pub(super) fn join(&self, control: &Bell) {
        let _ = self.control.set(control.clone());
    }

    pub(super) fn send(&mut self, message: ToCore) {
        assert!(self.to_core.push(message).is_ok(), "the ring to a core is sized for all messages");
        raise(&self.wake);
    }

    pub(super) fn receive(&mut self) -> Option<ToControl> {
        self.from_core.pop().ok()
    }
}

impl std::fmt::Debug for CoreDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoreDoor").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The core's side of a door.
pub(super) struct Inside {
    to_control: rtrb::Producer<ToControl>,
    from_control: rtrb::Consumer<ToCore>,
    control: Arc<OnceLock<Bell>>,
}

impl Inside {
    pub(super) fn send(&mut self, message: ToControl) {
        let sent = self.to_control.push(message).is_ok();
        assert!(sent, "the ring to the control thread is sized for all messages");
        if let Some(control) = self.control.get() {
            control.ring();
        }
    }

    #[inline]
    pub(super) fn receive(&mut self) -> Option<ToCore> {
        self.from_control.pop().ok()
    }

    /// True when nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.from_control.is_empty()
    }
}

/// A door for a core that sleeps on the event counter `wake` and the set `wakes`.
pub(super) fn door(
    options: FabricOptions,
    pool: Arc<Memory>,
    wake: Arc<OwnedFd>,
    wakes: WakeSet,
) -> (Inside, CoreDoor) {
    // Login, Ready, Accepted, Gone, Disconnected, Ended; Accept or Reject, Disconnect, Destroy,
    // Release.
    // Once: Options.
    let (to_core, from_control) =
        rtrb::RingBuffer::new(options.connections_max * 6 + DEVICES_MAX * 2 + 1);
    let (to_control, from_core) =
        rtrb::RingBuffer::new(options.connections_max * 4 + DEVICES_MAX * 2);
    let control = Arc::new(OnceLock::new());
    let inside = Inside { to_control, from_control, control: Arc::clone(&control) };
    (inside, CoreDoor { to_core, from_core, wake, wakes, control, options, pool })
}
