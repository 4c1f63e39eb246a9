//! A core's RDMA connections.
//!
//! Owns the queue pairs in use, two completion queues per device, the operations in flight with
//! their buffers, and the memory of information units both ways.
//!
//! A send queue cannot overflow: work is posted only into counted free requests, which come back
//! with signalled completions; the rest waits in a list whose entries were made beforehand. A
//! completion queue cannot overflow: a connection is made only if its worst case fits. A buffer
//! comes back once: with its completion, or after its queue pair has been destroyed.
//!
//! A command costs one polled completion for its receive and one for its fetch, and per turn one
//! doorbell for the sends and one for the receives of a connection; the replies that go with one
//! doorbell share a completion. A sleeping core is woken by receives, fetches and probes, not by
//! the end of replies, unless it waits for room.
mod work;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use reactor::pool::Buf;
use reactor::sleep::WakeSet;
use reactor::stats::Counter;
use reactor::sys::memory::Memory;
use reactor::{Batch, Instant, Tag};

use super::connection::{Connection, Data, NIL, Operation, State};
use super::door::{Accept, CoreDoor, DEVICES_MAX, Inside, Login, ToControl, ToCore, door};
use super::options::FabricOptions;
use super::resources::{CoreDevice, Ready};
use super::sys::{Completion, ReceiveChain, SendChain};
use crate::peer_lines::PeerLines;
use crate::{CloseReason, ConnId, DataIn, Event, Fabric, PeerInfo, Recv, RemoteSeg};
use work::flush_shared;

/// Completions taken from a queue at a time.
const POLL_MAX: usize = 32;
/// Completions taken while falling asleep: any batch of events has room for as many.
const EARLY_MAX: usize = 1;
/// Receives posted at a time.
const RECEIVE_CHAIN: usize = 128;

/// What a fabric did, for reports. Only its core adds.
#[derive(Debug, Default)]
pub struct RdmaCounts {
    /// Information units received.
    pub received: Counter,
    /// Calls that posted sends.
    pub doorbells: Counter,
    /// Send work requests posted.
    pub requests: Counter,
    /// Turns in which an operation had to wait for room in a send queue.
    pub send_waits: Counter,
    /// Connections that failed with a local, remote or path error.
    pub errors: Counter,
}

/// The connections of one core. See [`Fabric`] for its grammar.
pub struct RdmaFabric {
    inside: Inside,
    options: FabricOptions,
    /// As many places as were ever used: each costs something every turn.
    devices: Vec<Option<Box<CoreDevice>>>,
    connections: Vec<Connection>,
    operations: Vec<Operation>,
    operation_free: u32,
    /// Connections to flush, to report as logins, and to finish.
    touched: Vec<u32>,
    logins: Batch<u32>,
    finishing: Batch<u32>,
    draining: Batch<u32>,
    /// Connections with operations that have finished and are to be reported.
    reporting: Batch<u32>,
    /// Fetches that have not finished, and operations with something left to post: they wait for
    /// completions of sends.
    fetching: u32,
    unposted: u32,
    /// Connections whose peers are to be asked at the next flush, and how many are asked in all.
    probes: Vec<u32>,
    probing: u32,
    completions: [Completion; POLL_MAX],
    /// Taken by `arm` from the device at this place, for the next poll.
    early: Option<(usize, usize)>,
    /// Where polling begins, so that no device starves another.
    first: usize,
    sends: SendChain,
    receives: ReceiveChain,
    counts: Arc<RdmaCounts>,
    lines: PeerLines,
}

impl RdmaFabric {
    /// An empty fabric and its door for the [`super::Listener`]. `memory` is that of the core's
    /// pool; it is registered with a device at the first login over it. The core sleeps on the
    /// event counter `wake` and the descriptors in `wakes`. Needs no RDMA on this machine.
    pub fn new(
        options: FabricOptions,
        memory: &Arc<Memory>,
        wake: Arc<OwnedFd>,
        wakes: WakeSet,
    ) -> (RdmaFabric, CoreDoor) {
        let (inside, core_door) = door(options, Arc::clone(memory), wake, wakes);
        let count = options.operations_max as u32;
        let link = |index: u32| if index + 1 < count { index + 1 } else { NIL };
        let fabric = RdmaFabric {
            inside,
            options,
            devices: Vec::with_capacity(DEVICES_MAX),
            connections: (0..options.connections_max).map(|_| Connection::new()).collect(),
            operations: (0..count).map(|index| Operation::new(link(index))).collect(),
            operation_free: if count > 0 { 0 } else { NIL },
            touched: Vec::with_capacity(options.connections_max),
            logins: Batch::new(options.connections_max),
            finishing: Batch::new(options.connections_max),
            draining: Batch::new(options.connections_max),
            reporting: Batch::new(options.connections_max),
            fetching: 0,
            unposted: 0,
            probes: Vec::with_capacity(options.connections_max),
            probing: 0,
            completions: [Completion::default(); POLL_MAX],
            early: None,
            first: 0,
            sends: SendChain::new(options.rdma.srpt_sq_size as usize, 16),
            receives: ReceiveChain::new(RECEIVE_CHAIN),
            counts: Arc::new(RdmaCounts::default()),
            lines: PeerLines::default(),
        };
        (fabric, core_door)
    }

    /// What it did, readable by other threads.
    pub fn counts(&self) -> &Arc<RdmaCounts> {
        &self.counts
    }

    /// Connections that are not released yet, in any state.
    pub fn connections(&self) -> usize {
        self.connections.iter().filter(|connection| connection.state != State::Free).count()
    }

    fn connection(&mut self, conn: ConnId) -> &mut Connection {
        let connection = &mut self.connections[conn.index as usize];
        assert!(
            connection.id == conn && connection.state != State::Free,
            "{conn:?} is not a connection"
        );
        connection
    }

    fn touch(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        if !std::mem::replace(&mut connection.touched, true) {
            self.touched.push(index);
        }
    }

    // --- what the control thread says ---

    fn on_control(&mut self) {
        while let Some(message) = self.inside.receive() {
            match message {
                ToCore::Options(rdma) => {
                    self.options.rdma = rdma;
                    self.sends = SendChain::new(rdma.srpt_sq_size as usize, 16);
                }
                ToCore::Device(place, device) => {
                    let places = self.devices.len().max(place + 1);
                    self.devices.resize_with(places, || None);
                    self.devices[place] = Some(device);
                }
                ToCore::DropDevice(place) => {
                    let device = self.devices[place].take();
                    self.inside.send(ToControl::Device(place, device));
                }
                ToCore::Login(login) => self.on_login(*login),
                ToCore::Ready(conn, ready) => self.on_qp(conn, *ready),
                ToCore::Accepted(conn, sends) => self.on_accepted(conn, sends),
                ToCore::Gone(conn, reason) => self.end(conn, reason),
                ToCore::Disconnected(conn) => {
                    self.connection(conn).state = State::Draining;
                    self.draining.push(conn.index);
                }
                ToCore::Ended(conn, reason) => {
                    let connection = self.connection(conn);
                    connection.state = State::Finishing;
                    connection.reason.get_or_insert(reason);
                    self.finishing.push(conn.index);
                }
            }
        }
    }

    fn on_login(&mut self, login: Login) {
        let connection = &mut self.connections[login.conn.index as usize];
        assert_eq!(connection.state, State::Free, "a number was given twice");
        *connection = Connection {
            id: login.conn,
            state: State::Login,
            device: login.device,
            login: login.data,
            peer: Some(login.peer),
            posted: std::mem::take(&mut connection.posted),
            reposts: std::mem::take(&mut connection.reposts),
            touched: connection.touched,
            reporting: connection.reporting,
            ..Connection::new()
        };
        self.logins.push(login.conn.index);
    }

    fn on_qp(&mut self, conn: ConnId, ready: Ready) {
        let connection = self.connection(conn);
        let slots = ready.receives.as_ref().map_or(0, |receives| receives.slots());
        connection.reposts.reserve(slots as usize);
        connection.receives = ready.receives;
        let number = ready.qp.number();
        connection.qp = Some(ready.qp);
        connection.state = State::Live;
        let place = connection.device;
        let closing = connection.reason.is_some();
        if let Some(device) = &mut self.devices[place]
            && device.shared.is_some()
        {
            let at = device.by_number.partition_point(|entry| entry.0 < number);
            device.by_number.insert(at, (number, conn.index));
        }
        if closing {
            // It was closed before it was made.
            self.disconnect(conn);
        }
    }

    /// What is to be sent was waiting for it.
    fn on_accepted(&mut self, conn: ConnId, sends: u32) {
        let connection = self.connection(conn);
        connection.posted.reserve(sends as usize);
        connection.sends_free = sends;
        self.touch(conn.index);
    }

    /// Begins the end of a connection, whatever its state. The first reason stays.
    fn end(&mut self, conn: ConnId, reason: CloseReason) {
        let connection = self.connection(conn);
        connection.reason.get_or_insert(reason);
        match connection.state {
            State::Live => self.disconnect(conn),
            State::Login => {
                connection.state = State::Ending;
                self.logins.retain(|index| *index != conn.index);
                self.inside.send(ToControl::Destroy(conn, None));
            }
            // While it is being made, `on_qp` sees the reason; later it is ending already.
            _ => {}
        }
    }

    fn disconnect(&mut self, conn: ConnId) {
        self.connection(conn).state = State::Disconnecting;
        self.inside.send(ToControl::Disconnect(conn));
    }

    /// Connections whose completions have all been polled give their queue pair up.
    fn drained(&mut self, place: usize) {
        for _ in 0..self.draining.len() {
            let Some(index) = self.draining.pop() else { break };
            let connection = &mut self.connections[index as usize];
            if connection.device != place {
                self.draining.push(index);
                continue;
            }
            connection.state = State::Ending;
            let qp = connection.qp.take();
            if let (Some(qp), Some(device)) = (&qp, &mut self.devices[place])
                && let Ok(at) = device.by_number.binary_search_by_key(&qp.number(), |e| e.0)
            {
                device.by_number.remove(at);
            }
            self.inside.send(ToControl::Destroy(connection.id, qp));
        }
    }
}

impl Fabric for RdmaFabric {
    fn connections_max(&self) -> usize {
        self.options.connections_max
    }

    fn poll(&mut self, _now: Instant, events: &mut Batch<Event>) {
        self.on_control();
        if let Some((place, count)) = self.early {
            if events.room() < count {
                return;
            }
            self.early = None;
            self.on_completions(place, count, events);
        }
        let places = self.devices.len();
        for place in 0..places {
            self.poll_sends(place, events);
        }
        self.report(events);
        for place in (self.first..places).chain(0..self.first) {
            self.poll_receives(place, events);
        }
        self.first = if self.first + 1 < places { self.first + 1 } else { 0 };
        while !events.is_full()
            && let Some(index) = self.logins.pop()
        {
            events.push(Event::Login { conn: self.connections[index as usize].id });
        }
        self.finish(events);
    }

    fn login_data(&self, conn: ConnId) -> &[u8] {
        let connection = &self.connections[conn.index as usize];
        assert_eq!(connection.id, conn, "not a connection");
        &connection.login
    }

    fn peer(&self, conn: ConnId) -> PeerInfo {
        let connection = &self.connections[conn.index as usize];
        assert_eq!(connection.id, conn, "not a connection");
        connection.peer.clone().expect("a connection has a peer")
    }

    fn accept(
        &mut self,
        conn: ConnId,
        login_rsp: &[u8],
        credits: u32,
        iu_bytes_max: u32,
        ti_bytes_max: u32,
    ) {
        assert!(
            ti_bytes_max <= self.options.rdma.srp_max_rsp_size,
            "information units of {ti_bytes_max} bytes exceed srp_max_rsp_size"
        );
        let connection = self.connection(conn);
        // Otherwise the peer has gone meanwhile.
        if connection.state == State::Login {
            connection.state = State::Accepting;
            let accept = Accept { login_rsp: login_rsp.to_vec(), credits, iu_bytes_max };
            self.inside.send(ToControl::Accept(conn, Box::new(accept)));
        }
    }

    fn reject(&mut self, conn: ConnId, login_rej: &[u8]) {
        let connection = self.connection(conn);
        if connection.state == State::Login {
            connection.state = State::Ending;
            self.inside.send(ToControl::Reject(conn, login_rej.to_vec()));
        }
    }

    fn iu(&self, conn: ConnId, recv: &Recv) -> &[u8] {
        let connection = &self.connections[conn.index as usize];
        assert_eq!(connection.id, conn, "not a connection");
        let device = self.devices[connection.device].as_ref();
        let shared = device.and_then(|device| device.shared.as_ref()).map(|shared| &shared.area);
        let area = connection.receives.as_ref().or(shared);
        area.expect("a received information unit has an area").bytes(recv.index, recv.len)
    }

    fn repost(&mut self, conn: ConnId, recv: Recv) {
        let connection = self.connection(conn);
        if connection.receives.is_none() {
            let place = connection.device;
            self.repost_shared(place, recv.index);
        } else if connection.state == State::Live {
            connection.reposts.push(recv.index);
            self.touch(conn.index);
        }
    }

    fn place(&mut self, _conn: ConnId, _seg: RemoteSeg, _align: u32) -> Option<Buf> {
        None
    }

    fn give_back(&mut self, _buf: Buf) {
        panic!("this fabric lends no buffers");
    }

    fn fetch(&mut self, conn: ConnId, tag: Tag, buf: Buf, from: &[RemoteSeg]) {
        let place = self.enqueue(conn, tag, from);
        let operation = &mut self.operations[place as usize];
        operation.len = buf.len() as u32;
        operation.data = Data::Read;
        operation.buf = Some(buf);
        operation.iu_len = 0;
        self.fetching += 1;
        if operation.is_short() {
            self.end(conn, CloseReason::Protocol);
        }
    }

    fn reply(&mut self, conn: ConnId, tag: Tag, iu: &[u8], solicited: bool, data: DataIn<'_>) {
        let (kind, buf, len, to) = match data {
            DataIn::Buf { buf, len, to } => (Data::Write, Some(buf), len, to),
            DataIn::NoData { buf, len, to } => (Data::Zeroes, buf, len, to),
            DataIn::None { buf } => (Data::Zeroes, buf, 0, &[][..]),
        };
        let place = self.enqueue(conn, tag, to);
        let operation = &mut self.operations[place as usize];
        operation.data = kind;
        operation.buf = buf;
        operation.len = len;
        operation.solicited = solicited;
        operation.iu_len = iu.len() as u32;
        assert!(!iu.is_empty() && iu.len() <= self.options.rdma.srp_max_rsp_size as usize);
        let short = operation.is_short();
        let at = self.connections[conn.index as usize].device;
        if let Some(device) = &self.devices[at] {
            device.units.write_at(place as usize * device.unit_stride, iu);
        }
        if short {
            self.end(conn, CloseReason::Protocol);
        }
    }

    fn probe(&mut self, conn: ConnId) {
        let connection = self.connection(conn);
        if connection.state == State::Live && !std::mem::replace(&mut connection.probing, true) {
            self.probing += 1;
            self.probes.push(conn.index);
        }
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        self.end(conn, reason);
    }

    fn release(&mut self, conn: ConnId) {
        let connection = self.connection(conn);
        assert_eq!(connection.state, State::Closed, "released before it was closed");
        assert_eq!(connection.head, NIL, "released with operations in flight");
        connection.state = State::Free;
        let receives = connection.receives.take();
        self.inside.send(ToControl::Release(conn, receives));
    }

    fn flush(&mut self) {
        while let Some(index) = self.touched.pop() {
            let connection = &mut self.connections[index as usize];
            connection.touched = false;
            if connection.state != State::Live {
                connection.reposts.clear();
                continue;
            }
            // Before the responses that allow the peer to use them.
            self.post_receives(index);
            if self.connections[index as usize].state == State::Live {
                self.pump(index);
            }
        }
        while let Some(index) = self.probes.pop() {
            self.post_probe(index);
        }
        for device in self.devices.iter_mut().flatten() {
            flush_shared(device, &mut self.lines);
        }
    }

    fn arm(&mut self) -> bool {
        let lists = [&self.finishing, &self.logins, &self.draining, &self.reporting];
        if self.early.is_some() || lists.iter().any(|list| !list.is_empty()) {
            return false;
        }
        let sends = self.fetching > 0 || self.unposted > 0 || self.probing > 0;
        for (place, device) in self.devices.iter_mut().enumerate() {
            let Some(device) = device else { continue };
            device.arm(sends);
            let early = &mut self.completions[..EARLY_MAX];
            let mut count = device.receives.poll(early);
            if count == 0 && sends {
                count = device.sends.poll(early);
            }
            if count > 0 {
                self.early = Some((place, count));
                return false;
            }
        }
        self.inside.is_empty()
    }
}
