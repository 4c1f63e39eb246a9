//! One core's shared-memory connections.
//!
//! Owns, per connection, the initiator's mapped memory, the two rings and the private receives.
//! All work on data happens inside the call that asks for it; only its event waits for the next
//! poll. So "in flight" is a queue of events, and `Closed` follows when that queue is empty.
//!
//! A poll looks at one header word per idle connection and takes at most 32 units from one.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use reactor::pool::Buf;
use reactor::{Batch, Instant, Tag};
use rustix::io::Errno;

use super::door::{CoreDoor, Inside, Message, Prepared, Remains, door};
use super::ring::{
    Arrival, Consumer, Ends, Geometry, INLINE_BYTES, before_last_look, overflow_stride,
};
use super::sys::{Mapping, Pages, Regions, Returned, sealed_file};
use super::wire::Datagram;
use super::{RESPONSE_RECVS, socket};
use crate::peer_lines::{PeerLines, peer_line};
use crate::{CloseReason, ConnId, DataIn, Event, Fabric, PeerInfo, Recv, RemoteSeg};

/// Units taken from one connection per poll.
const BURST: usize = 32;

/// Capacities of one core's fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FabricOptions {
    /// Connections held at a time.
    pub connections_max: u32,
    /// Fetches and replies that are enqueued between two polls; more cost an allocation.
    pub ops_max: usize,
}

/// Receives of a connection, for reports and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveCount {
    /// Ready for an information unit.
    pub home: u32,
    /// In all: the login's credits and [`RESPONSE_RECVS`].
    pub total: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The login is not answered.
    Login,
    /// Information units flow.
    Live,
    /// `Closed` is due.
    Closing(CloseReason),
    /// `Closed` has been given out.
    Closed,
}

/// A private copy of a small information unit, in cache lines of its own.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Small([u8; INLINE_BYTES]);

/// Private copies of information units: small ones close together, large ones in an area of which
/// only the touched pages exist, and none once the connection is gone.
#[derive(Debug, Default)]
struct Receives {
    free: Vec<u32>,
    total: u32,
    small: Vec<Small>,
    large: Pages,
    stride: usize,
}

impl Receives {
    fn new(count: u32, iu_bytes_max: u32) -> Result<Self, Errno> {
        let long = iu_bytes_max as usize > INLINE_BYTES;
        let stride = if long { overflow_stride(iu_bytes_max) } else { 0 };
        Ok(Receives {
            free: (0..count).rev().collect(),
            total: count,
            small: vec![Small([0; INLINE_BYTES]); count as usize],
            large: Pages::zeroed(count as usize * stride)?,
            stride,
        })
    }

    #[inline(always)]
    fn iu(&self, recv: &Recv) -> &[u8] {
        let len = recv.len as usize;
        match self.small[recv.index as usize].0.get(..len) {
            Some(iu) => iu,
            None => &self.large[recv.index as usize * self.stride..][..len],
        }
    }

    #[inline]
    fn put(&mut self, recv: Recv) {
        debug_assert!(!self.free.contains(&recv.index), "receive given back twice");
        assert!(self.free.len() < self.total as usize, "more receives than there are");
        self.free.push(recv.index);
    }

    /// Copies the unit of `len` bytes that a ring has into a receive.
    #[inline]
    fn fill(&mut self, recv: &Recv, ring: &mut Consumer) {
        let (index, len) = (recv.index as usize, recv.len as usize);
        if len <= INLINE_BYTES {
            ring.take_inline(&mut self.small[index].0);
        } else {
            ring.take(&mut self.large[index * self.stride..][..len]);
        }
    }
}

#[derive(Debug)]
struct Conn {
    phase: Phase,
    ends: Option<Ends>,
    receives: Receives,
    regions: Regions,
    serial: u64,
    socket: Arc<OwnedFd>,
    bell: OwnedFd,
    login: Vec<u8>,
    target: Arc<str>,
    traddr: Arc<str>,
    pid: i32,
    arrival: u64,
}

impl Conn {
    /// Ends a loan of this connection's memory.
    #[inline]
    fn take_back(&mut self, id: ConnId, buf: Buf) {
        let returned = Returned::of(buf).expect("a pool buffer was given back as a loan");
        assert!(returned.owner() == mark(id), "a loan of another connection");
        self.regions.take_back(returned);
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    conn: Option<Conn>,
}

/// The connections of one core. See [`Fabric`] for its grammar.
#[derive(Debug)]
pub struct ShmFabric {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots in phase `Live`, in no order.
    live: Vec<u32>,
    /// Where the next poll starts in `live`.
    first: usize,
    /// Slots in phase `Closing`.
    closing: VecDeque<u32>,
    pending: VecDeque<Event>,
    inside: Inside,
    armed: bool,
    lines: PeerLines,
}

/// The mark of a connection's loans; below 2^63, because there are fewer connections than 2^31.
#[inline]
fn mark(conn: ConnId) -> u64 {
    u64::from(conn.index) << 32 | u64::from(conn.generation)
}

#[inline]
fn conn_of(mark: u64) -> ConnId {
    ConnId { index: (mark >> 32) as u32, generation: mark as u32 }
}

/// Out of the way of those who name connections that exist.
#[cold]
fn released(conn: ConnId) -> ! {
    panic!("{conn:?} has been released");
}

impl ShmFabric {
    /// An empty fabric and its door for the [`super::Listener`]. `wake` is the event counter that
    /// the core sleeps on; it is written only between [`Fabric::arm`] and the next poll.
    pub fn new(options: FabricOptions, wake: Arc<OwnedFd>) -> (ShmFabric, CoreDoor) {
        let count = options.connections_max;
        let (inside, door) = door(count, wake);
        let fabric = ShmFabric {
            slots: (0..count).map(|_| Slot::default()).collect(),
            free: (0..count).rev().collect(),
            live: Vec::with_capacity(count as usize),
            first: 0,
            closing: VecDeque::with_capacity(count as usize),
            pending: VecDeque::with_capacity(options.ops_max + count as usize),
            inside,
            armed: false,
            lines: PeerLines::default(),
        };
        (fabric, door)
    }

    /// Connections that are not released yet, in any state.
    pub fn connections(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Connections that carry information units.
    pub fn connections_live(&self) -> usize {
        self.live.len()
    }

    /// Buffers of a connection's memory that are lent out.
    pub fn loans(&self, conn: ConnId) -> u32 {
        self.conn(conn).regions.loans()
    }

    /// Receives of a connection.
    pub fn receives(&self, conn: ConnId) -> ReceiveCount {
        let receives = &self.conn(conn).receives;
        ReceiveCount { home: receives.free.len() as u32, total: receives.total }
    }

    #[inline(always)]
    fn conn(&self, conn: ConnId) -> &Conn {
        let slot = &self.slots[conn.index as usize];
        if slot.generation != conn.generation {
            released(conn);
        }
        slot.conn.as_ref().expect("connection exists")
    }

    #[inline(always)]
    fn conn_mut(&mut self, conn: ConnId) -> &mut Conn {
        let slot = &mut self.slots[conn.index as usize];
        if slot.generation != conn.generation {
            released(conn);
        }
        slot.conn.as_mut().expect("connection exists")
    }

    fn id_at(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.slots[index as usize].generation }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Attach(prepared) => self.on_attach(*prepared),
            Message::Gone(serial) => {
                let found = self
                    .slots
                    .iter()
                    .position(|slot| slot.conn.as_ref().is_some_and(|conn| conn.serial == serial));
                if let Some(index) = found {
                    self.begin_close(index as u32, CloseReason::PeerGone);
                }
            }
        }
    }

    fn on_attach(&mut self, prepared: Prepared) {
        let index = self.free.pop().expect("the control thread reserved a place");
        let Prepared { serial, socket, bell, regions, login, target, traddr, pid, arrival } =
            prepared;
        self.slots[index as usize].conn = Some(Conn {
            phase: Phase::Login,
            ends: None,
            receives: Receives::default(),
            regions,
            serial,
            socket,
            bell,
            login,
            target,
            traddr,
            pid,
            arrival,
        });
        self.pending.push_back(Event::Login { conn: self.id_at(index) });
    }

    fn begin_close(&mut self, index: u32, reason: CloseReason) {
        let Some(conn) = self.slots[index as usize].conn.as_mut() else { return };
        if matches!(conn.phase, Phase::Closing(_) | Phase::Closed) {
            return;
        }
        conn.phase = Phase::Closing(reason);
        conn.ends = None;
        // Tells the peer, and the control thread, which then forgets the socket.
        let _ = rustix::net::shutdown(&conn.socket, rustix::net::Shutdown::Both);
        self.live.retain(|live| *live != index);
        self.closing.push_back(index);
    }

    /// Takes information units from one connection; an answer means that it must close.
    fn pull(&mut self, index: u32, events: &mut Batch<Event>) -> Option<CloseReason> {
        let id = self.id_at(index);
        let conn = self.slots[index as usize].conn.as_mut().expect("live connection");
        let ends = conn.ends.as_mut().expect("live connection has rings");
        for _ in 0..BURST.min(events.room()) {
            let len = match ends.consumer.peek() {
                Arrival::Nothing => return None,
                Arrival::Bad(_) => return Some(CloseReason::Protocol),
                Arrival::Unit(len) => len,
            };
            // More units than credits: the peer broke SRP's flow control.
            let Some(free) = conn.receives.free.pop() else { return Some(CloseReason::Protocol) };
            let recv = Recv { index: free, len };
            conn.receives.fill(&recv, &mut ends.consumer);
            events.push(Event::Received { conn: id, recv });
        }
        None
    }

    fn disarm(&mut self) {
        self.armed = false;
        self.inside.set_sleeping(false);
        self.set_sleep_words(false);
    }

    fn set_sleep_words(&self, sleeps: bool) {
        for index in &self.live {
            if let Some(ends) =
                self.slots[*index as usize].conn.as_ref().and_then(|c| c.ends.as_ref())
            {
                ends.sleep.set(sleeps);
            }
        }
    }

    fn open_rings(conn: &mut Conn, geometry: &Geometry, login_rsp: &[u8]) -> Result<(), String> {
        let file = sealed_file("srp-ring", geometry.bytes()).map_err(|e| e.to_string())?;
        let ring = Mapping::of_sealed(&file, u64::MAX).map_err(|e| e.to_string())?;
        let accept = Datagram::Accept {
            slots: geometry.slots(),
            to_target_bytes_max: geometry.to_target_bytes_max(),
            to_initiator_bytes_max: geometry.to_initiator_bytes_max(),
            login_rsp: login_rsp.to_vec(),
        };
        conn.ends = Some(Ends::of_target(geometry, ring));
        socket::send(&conn.socket, &accept.encode(), &[file.as_fd(), conn.bell.as_fd()])
            .map_err(|e| e.to_string())
    }
}

impl Fabric for ShmFabric {
    fn connections_max(&self) -> usize {
        self.slots.len()
    }

    fn poll(&mut self, _now: Instant, events: &mut Batch<Event>) {
        if self.armed {
            self.disarm();
        }
        while let Ok(message) = self.inside.messages.pop() {
            self.on_message(message);
        }
        while !events.is_full() {
            let Some(event) = self.pending.pop_front() else { break };
            events.push(event);
        }
        while self.pending.is_empty() && !events.is_full() {
            let Some(index) = self.closing.pop_front() else { break };
            let conn = self.id_at(index);
            let state = self.conn_mut(conn);
            let Phase::Closing(reason) = state.phase else { unreachable!("listed as closing") };
            state.phase = Phase::Closed;
            events.push(Event::Closed { conn, reason });
        }
        let mut at = self.first;
        // A close below shortens the list: the loop may then miss or revisit one, once.
        for _ in 0..self.live.len() {
            if events.is_full() || self.live.is_empty() {
                break;
            }
            at = if at < self.live.len() { at } else { 0 };
            let index = self.live[at];
            at += 1;
            if let Some(reason) = self.pull(index, events) {
                self.begin_close(index, reason);
            }
        }
        self.first = if self.first + 1 < self.live.len() { self.first + 1 } else { 0 };
    }

    fn login_data(&self, conn: ConnId) -> &[u8] {
        &self.conn(conn).login
    }

    fn peer(&self, conn: ConnId) -> PeerInfo {
        let conn = self.conn(conn);
        PeerInfo {
            trtype: "shm",
            traddr: conn.traddr.to_string(),
            peer: format!("pid {}", conn.pid),
            target: conn.target.to_string(),
            arrival: conn.arrival,
        }
    }

    fn accept(
        &mut self,
        conn: ConnId,
        login_rsp: &[u8],
        credits: u32,
        iu_bytes_max: u32,
        ti_bytes_max: u32,
    ) {
        let geometry = Geometry::for_credits(credits, iu_bytes_max, ti_bytes_max)
            .expect("credits and unit sizes within the limits of the ring");
        let state = self.conn_mut(conn);
        match state.phase {
            Phase::Login => {}
            Phase::Live => panic!("{conn:?} accepted twice"),
            Phase::Closing(_) | Phase::Closed => return,
        }
        let receives = Receives::new(credits + RESPONSE_RECVS, iu_bytes_max);
        let opened = receives.map_err(|errno| format!("receives: {errno}")).and_then(|receives| {
            state.receives = receives;
            Self::open_rings(state, &geometry, login_rsp)
        });
        match opened {
            Ok(()) => {
                state.phase = Phase::Live;
                self.live.push(conn.index);
            }
            Err(reason) => {
                let pid = state.pid;
                let told = Datagram::Error(format!("the target can't answer the login: {reason}"));
                // A peer that doesn't read its answer learns from the close.
                let _ = socket::send(&state.socket, &told.encode(), &[]);
                peer_line!(self.lines, WARN, pid, reason, "can't answer a login");
                self.begin_close(conn.index, CloseReason::Link);
            }
        }
    }

    fn reject(&mut self, conn: ConnId, login_rej: &[u8]) {
        let state = self.conn_mut(conn);
        if state.phase == Phase::Login {
            // A peer that doesn't read its answer learns from the close.
            let reject = Datagram::Reject(login_rej.to_vec()).encode();
            let _ = socket::send(&state.socket, &reject, &[]);
        }
        self.begin_close(conn.index, CloseReason::Local);
    }

    #[inline(always)]
    fn iu(&self, conn: ConnId, recv: &Recv) -> &[u8] {
        self.conn(conn).receives.iu(recv)
    }

    #[inline(always)]
    fn repost(&mut self, conn: ConnId, recv: Recv) {
        self.conn_mut(conn).receives.put(recv);
    }

    #[inline(always)]
    fn place(&mut self, conn: ConnId, seg: RemoteSeg, align: u32) -> Option<Buf> {
        let state = self.conn_mut(conn);
        if state.phase != Phase::Live {
            return None;
        }
        state.regions.lend(&seg, align, mark(conn))
    }

    #[inline(always)]
    fn give_back(&mut self, buf: Buf) {
        let returned = Returned::of(buf).expect("a pool buffer was given back as a loan");
        self.conn_mut(conn_of(returned.owner())).regions.take_back(returned);
    }

    #[inline]
    fn fetch(&mut self, conn: ConnId, tag: Tag, mut buf: Buf, from: &[RemoteSeg]) {
        let state = self.conn_mut(conn);
        let live = state.phase == Phase::Live;
        let ok = live && state.regions.gather(from, &mut buf);
        if live && !ok {
            self.begin_close(conn.index, CloseReason::RemoteAccess);
        }
        self.pending.push_back(Event::Fetched { tag, buf, ok });
    }

    #[inline]
    fn reply(&mut self, conn: ConnId, tag: Tag, iu: &[u8], _solicited: bool, data: DataIn<'_>) {
        let state = self.conn_mut(conn);
        let live = state.phase == Phase::Live;
        let (moved, buf) = match data {
            DataIn::Buf { buf, len, to } => {
                (live && state.regions.scatter(&buf, len as usize, to), Some(buf))
            }
            DataIn::NoData { buf, len, to } => (live && state.regions.check(to, len as usize), buf),
            DataIn::None { buf } => (live, buf),
        };
        if moved {
            state.ends.as_mut().expect("live connection has rings").producer.publish(iu);
        } else if live {
            self.begin_close(conn.index, CloseReason::RemoteAccess);
        }
        self.pending.push_back(Event::Replied { tag, buf, ok: moved });
    }

    #[inline(always)]
    fn finish(
        &mut self,
        conn: ConnId,
        tag: Tag,
        recv: Recv,
        loan: Option<Buf>,
        iu: &[u8],
        _solicited: bool,
    ) -> bool {
        let state = self.conn_mut(conn);
        state.receives.put(recv);
        if let Some(buf) = loan {
            state.take_back(conn, buf);
        }
        let live = state.phase == Phase::Live;
        if live {
            state.ends.as_mut().expect("live connection has rings").producer.publish(iu);
        } else {
            self.pending.push_back(Event::Replied { tag, buf: None, ok: false });
        }
        live
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let slot = &self.slots[conn.index as usize];
        assert_eq!(slot.generation, conn.generation, "{conn:?} has been released");
        self.begin_close(conn.index, reason);
    }

    fn release(&mut self, conn: ConnId) {
        let state = self.conn_mut(conn);
        assert_eq!(state.phase, Phase::Closed, "{conn:?} released before its Closed");
        assert_eq!(state.regions.loans(), 0, "{conn:?} released with buffers lent out");
        let home = state.receives.free.len() as u32;
        assert_eq!(home, state.receives.total, "{conn:?} released with receives out");
        let slot = &mut self.slots[conn.index as usize];
        let Conn { regions, socket, bell, .. } = slot.conn.take().expect("checked above");
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(conn.index);
        self.inside.release(Remains { regions, socket, bell });
    }

    /// Nothing to do: units are published by [`Fabric::reply`], at the price of one store.
    fn flush(&mut self) {}

    fn arm(&mut self) -> bool {
        self.armed = true;
        // First the flag that lets the control thread forward a ring, then the words that ask for
        // it.
        self.inside.set_sleeping(true);
        self.set_sleep_words(true);
        // Peers and control thread publish first and look then.
        before_last_look();
        let quiet = |index: &u32| {
            let conn = self.slots[*index as usize].conn.as_ref();
            let ends = conn.and_then(|conn| conn.ends.as_ref());
            ends.is_none_or(|ends| ends.consumer.peek() == Arrival::Nothing)
        };
        self.pending.is_empty()
            && self.closing.is_empty()
            && self.inside.messages.is_empty()
            && self.live.iter().all(quiet)
    }
}
