//! The initiator's side, for tools and tests: logs in over RDMA/CM and polls.
//!
//! One device context, found through the route to the target, is shared by memory and links. A
//! link polls its own completion queue and never sleeps; it looks for a disconnect only when it has
//! found nothing for a while, because that costs a system call.
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::sys::abi::*;
use super::sys::cm::ChannelError;
use super::sys::queue::QpPlan;
use super::sys::{
    CmEvent, CmId, Completion, Cq, Device, EventChannel, Outcome, Qp, RdmaError, ReceiveArea,
    ReceiveChain, Region, SendChain,
};
use crate::RemoteSeg;
use crate::initiator::{ConnectError, Connector, DataMemory, Link, LinkError};
use crate::srp::{LoginForm, LoginReq};

/// Receives posted, and sends in flight at a time; a target that grants more credits is used up
/// to this many.
const UNITS: u32 = 256;
/// Bytes of a receive: SRP_RSP with all the sense data there can be, and more.
const RECEIVE_BYTES: u32 = 1024;
/// Bytes of a send: the largest information unit that targets admit (ib_srpt: 8276), and more.
const SEND_BYTES: u32 = 16 << 10;
/// Empty polls between two looks for a disconnect.
const EMPTY_POLLS: u32 = 4096;
/// Empty polls after which the processor is offered to others: soft-RoCE works on it.
const YIELD_POLLS: u32 = 256;
const POLL_MAX: usize = 32;

/// Opens links to a listener at an address and port.
pub struct RdmaConnector {
    peer: SocketAddr,
    local: Option<SocketAddr>,
    device: Arc<Device>,
    // Reports of the device, which nobody reads; kept because the device is bound through it.
    _channel: EventChannel,
}

impl std::fmt::Debug for RdmaConnector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = self.device.name();
        f.debug_struct("RdmaConnector").field("peer", &self.peer).field("device", &device).finish()
    }
}

/// Memory that targets reach, registered with the connector's device.
pub struct RdmaMemory {
    region: Region,
    bytes: usize,
}

/// One connection to a target.
pub struct RdmaLink {
    id: CmId,
    channel: EventChannel,
    qp: Qp,
    cq: Arc<Cq>,
    sends: Region,
    chain: SendChain,
    /// Free slots of `sends`, as a stack.
    free: Vec<u32>,
    receives: ReceiveArea,
    reposts: ReceiveChain,
    completions: [Completion; POLL_MAX],
    empty_polls: u32,
    deaf: bool,
    gone: bool,
}

/// A login that a target has granted to somebody who never takes the answer, so that the connection
/// is not established. Dropping it gives it up.
pub struct RdmaHalfOpen {
    // An identifier keeps its channel, so the order does not matter.
    _id: CmId,
    channel: EventChannel,
    ended: bool,
}

fn failed(what: impl Into<String>) -> impl FnOnce(RdmaError) -> ConnectError {
    |error| ConnectError::Failed { what: what.into(), reason: error.to_string() }
}

impl From<ChannelError> for ConnectError {
    fn from(error: ChannelError) -> Self {
        ConnectError::Failed { what: "opening RDMA".into(), reason: error.to_string() }
    }
}

/// Waits for the next event of a channel that serves one identifier.
fn wait(channel: &EventChannel, until: Instant) -> Option<CmEvent> {
    loop {
        if let Some(event) = channel.next() {
            return Some(event);
        }
        let left = until.checked_duration_since(Instant::now())?;
        let timeout = Timespec::try_from(left).ok()?;
        let mut fds = [PollFd::new(channel, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timeout));
    }
}

impl RdmaConnector {
    /// Finds the device that leads to `peer`. Fails without RDMA or a route to it.
    pub fn new(peer: SocketAddr, timeout: Duration) -> Result<Self, ConnectError> {
        Self::from_local(None, peer, timeout)
    }

    /// As [`RdmaConnector::new`], from a local address: chooses among several devices.
    pub fn from_local(
        local: Option<IpAddr>,
        peer: SocketAddr,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let local = local.map(|ip| SocketAddr::new(ip, 0));
        let channel = EventChannel::new()?;
        let id = channel.id(0).map_err(failed("an identifier"))?;
        resolve(&channel, &id, local, peer, Instant::now() + timeout)?;
        let device = Device::of(&id, &channel, 0).map_err(failed("the device"))?;
        Ok(RdmaConnector { peer, local, device, _channel: channel })
    }

    /// Asks for a login, waits until it is granted, and leaves the connection half open. For tests
    /// of targets. There is no queue pair: `qp`, 24 bits, is the number of one that is claimed, and
    /// must differ from those of all other connections. Fails as [`Connector::connect`] does.
    pub fn connect_half(
        &self,
        login_req: &[u8],
        qp: u32,
        timeout: Duration,
    ) -> Result<RdmaHalfOpen, ConnectError> {
        let until = Instant::now() + timeout;
        let channel = EventChannel::new()?;
        let id = channel.id(0).map_err(failed("an identifier"))?;
        resolve(&channel, &id, self.local, self.peer, until)?;
        let ((bytes, len), limits) = (rdma_form(login_req), self.device.limits());
        id.connect_as(qp, &bytes[..len], limits.reads_in, limits.reads_out)
            .map_err(failed(self.peer.to_string()))?;
        self.answer(&channel, RDMA_CM_EVENT_CONNECT_RESPONSE, until)?;
        Ok(RdmaHalfOpen { _id: id, channel, ended: false })
    }

    /// The private data of the event that a login is granted with.
    fn answer(
        &self,
        channel: &EventChannel,
        granted: i32,
        until: Instant,
    ) -> Result<Vec<u8>, ConnectError> {
        let refused = |reason: String| ConnectError::Failed {
            what: format!("{}: connecting", self.peer),
            reason,
        };
        match wait(channel, until) {
            Some(event) if event.kind == granted => Ok(event.private_data().to_vec()),
            Some(event) if event.kind == RDMA_CM_EVENT_REJECTED && has_unit(&event) => {
                Err(ConnectError::Rejected(event.private_data().to_vec()))
            }
            Some(event) if event.kind == RDMA_CM_EVENT_REJECTED => {
                Err(refused(format!("refused, reason {} (is there a listener?)", event.status)))
            }
            Some(event) => Err(refused(format!("event {}, {}", event.kind, event.status))),
            None => Err(refused("no answer in time".into())),
        }
    }

    fn link(&self, until: Instant) -> Result<RdmaLink, ConnectError> {
        let channel = EventChannel::new()?;
        let id = channel.id(0).map_err(failed("an identifier"))?;
        resolve(&channel, &id, self.local, self.peer, until)?;
        let device = &self.device;
        let cq = Cq::new(device, UNITS * 2 + 16, None, 0).map_err(failed("a completion queue"))?;
        let plan = QpPlan { sends: UNITS, receives: UNITS, segments: 1, inline: 0 };
        let mut qp = Qp::new(&id, device, &cq, &cq, None, plan).map_err(failed("a queue pair"))?;
        let mut receives =
            ReceiveArea::new(device, UNITS, RECEIVE_BYTES).map_err(failed("receives"))?;
        let mut reposts = ReceiveChain::new(UNITS as usize);
        for slot in 0..UNITS {
            reposts.push(u64::from(slot), receives.local(slot));
        }
        qp.post_receive(&mut reposts).map_err(failed("receives"))?;
        let sends = Region::private(device, (UNITS * SEND_BYTES) as usize);
        Ok(RdmaLink {
            id,
            channel,
            qp,
            cq,
            sends: sends.map_err(failed("sends"))?,
            chain: SendChain::new(UNITS as usize, 1),
            free: (0..UNITS).collect(),
            receives,
            reposts,
            completions: [Completion::default(); POLL_MAX],
            empty_polls: 0,
            deaf: false,
            gone: false,
        })
    }
}

fn resolve(
    channel: &EventChannel,
    id: &CmId,
    local: Option<SocketAddr>,
    peer: SocketAddr,
    until: Instant,
) -> Result<(), ConnectError> {
    let ms = until.saturating_duration_since(Instant::now()).as_millis();
    let ms = i32::try_from(ms).unwrap_or(i32::MAX);
    let step = |wanted: i32, what: &str| match wait(channel, until) {
        Some(event) if event.kind == wanted => Ok(()),
        Some(event) => Err(ConnectError::Failed {
            what: format!("{peer}: {what}"),
            reason: std::io::Error::from_raw_os_error(event.status.abs()).to_string(),
        }),
        None => Err(ConnectError::Failed {
            what: format!("{peer}: {what}"),
            reason: "no answer in time".into(),
        }),
    };
    id.resolve_address(local, peer, ms).map_err(failed(peer.to_string()))?;
    step(RDMA_CM_EVENT_ADDR_RESOLVED, "resolving the address")?;
    id.resolve_route(ms).map_err(failed(peer.to_string()))?;
    step(RDMA_CM_EVENT_ROUTE_RESOLVED, "resolving the route")
}

impl Connector for RdmaConnector {
    type Link = RdmaLink;
    type Memory = RdmaMemory;

    fn memory(&self, bytes: usize) -> Result<RdmaMemory, ConnectError> {
        let region = Region::shared(&self.device, bytes).map_err(failed("data memory"))?;
        Ok(RdmaMemory { region, bytes })
    }

    fn connect(
        &self,
        login_req: &[u8],
        _memory: &RdmaMemory,
        timeout: Duration,
    ) -> Result<(RdmaLink, Vec<u8>), ConnectError> {
        let until = Instant::now() + timeout;
        let link = self.link(until)?;
        let limits = self.device.limits();
        let (login_req, len) = rdma_form(login_req);
        link.id
            .connect(&login_req[..len], limits.reads_in, limits.reads_out)
            .map_err(failed(self.peer.to_string()))?;
        let answer = self.answer(&link.channel, RDMA_CM_EVENT_ESTABLISHED, until)?;
        Ok((link, answer))
    }
}

/// The RDMA/CM form of a login request (SRP 16A, B.4): RDMA/CM carries no more than its 56 bytes.
/// What is no login request goes as it is, cut to them.
fn rdma_form(login_req: &[u8]) -> ([u8; LoginReq::LEN_RDMA_CM], usize) {
    let mut bytes = [0; LoginReq::LEN_RDMA_CM];
    let len = match LoginReq::parse(login_req) {
        Ok(request) => LoginReq { form: LoginForm::RdmaCm, ..request }.emit(&mut bytes),
        Err(_) => {
            let len = login_req.len().min(bytes.len());
            bytes[..len].copy_from_slice(&login_req[..len]);
            len
        }
    };
    (bytes, len)
}

/// A reject by the CM itself has no private data, or nothing but padding.
fn has_unit(event: &CmEvent) -> bool {
    event.private_data().iter().any(|byte| *byte != 0)
}

impl DataMemory for RdmaMemory {
    fn len(&self) -> usize {
        self.bytes
    }

    fn seg(&self, offset: usize, len: u32) -> RemoteSeg {
        assert!(offset + len as usize <= self.bytes, "outside of the data memory");
        let key = self.region.remote_key();
        RemoteSeg { addr: self.region.address(0) + offset as u64, key, len }
    }

    fn read_at(&self, offset: usize, to: &mut [u8]) {
        self.region.read_at(offset, to);
    }

    fn write_at(&self, offset: usize, from: &[u8]) {
        self.region.write_at(offset, from);
    }

    fn base(&self) -> Option<NonNull<u8>> {
        NonNull::new(self.region.address(0) as *mut u8)
    }
}

/// The number of a send; a receive has its slot alone.
const SEND: u64 = 1 << 32;

impl Link for RdmaLink {
    fn send(&mut self, iu: &[u8]) -> Result<(), LinkError> {
        if self.gone {
            return Err(LinkError::Closed);
        }
        assert!(iu.len() <= SEND_BYTES as usize, "an information unit of {} bytes", iu.len());
        let slot = self.free.pop().ok_or(LinkError::Full)?;
        let offset = (slot * SEND_BYTES) as usize;
        self.sends.write_at(offset, iu);
        let unit = self.sends.local(offset, iu.len() as u32);
        self.chain.send(SEND | u64::from(slot), unit, false, false);
        // Each slot is known to be free again by its own completion.
        self.chain.signal_last();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        if self.gone {
            return Err(LinkError::Closed);
        }
        let posted = self.qp.post_send(&mut self.chain);
        posted.map_err(|_| {
            self.gone = true;
            LinkError::Closed
        })
    }

    fn poll(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<usize, LinkError> {
        let count = self.cq.poll(&mut self.completions);
        let mut arrived = 0;
        for done in &self.completions[..count] {
            if done.outcome() != Outcome::Success {
                self.gone = true;
            } else if done.id() & SEND != 0 {
                self.free.push((done.id() & !SEND) as u32);
            } else {
                let slot = done.id() as u32;
                self.receives.hold(slot);
                each(self.receives.bytes(slot, done.bytes()));
                if !self.deaf {
                    self.reposts.push(u64::from(slot), self.receives.local(slot));
                }
                arrived += 1;
            }
        }
        if self.qp.post_receive(&mut self.reposts).is_err() {
            self.gone = true;
        }
        if count == 0 {
            self.on_nothing();
        } else {
            self.empty_polls = 0;
        }
        if arrived == 0 && self.gone { Err(LinkError::Closed) } else { Ok(arrived) }
    }
}

impl RdmaLink {
    /// From now on no receive is posted again: what the target sends beyond those that are posted
    /// finds none (RNR). For tests of targets.
    pub fn stop_receiving(&mut self) {
        self.deaf = true;
    }

    fn on_nothing(&mut self) {
        self.empty_polls += 1;
        if self.empty_polls > YIELD_POLLS {
            rustix::thread::sched_yield();
        }
        if self.empty_polls < EMPTY_POLLS {
            return;
        }
        self.empty_polls = 0;
        while let Some(event) = self.channel.next() {
            if matches!(event.kind, RDMA_CM_EVENT_DISCONNECTED | RDMA_CM_EVENT_DEVICE_REMOVAL) {
                self.gone = true;
            }
        }
    }
}

impl RdmaHalfOpen {
    /// True when the target has given the login up.
    pub fn ended(&mut self) -> bool {
        // After the answer nothing else comes.
        self.ended |= self.channel.next().is_some();
        self.ended
    }
}

impl Drop for RdmaLink {
    fn drop(&mut self) {
        // The peer may have done so already.
        let _ = self.id.disconnect();
    }
}

impl AsFd for RdmaLink {
    /// Becomes readable when the connection's state changes.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
