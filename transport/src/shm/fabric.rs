//! One core's shared-memory connections.
//!
//! Owns, per connection, the initiator's mapped memory, the two rings and the private receives.
//! All work on data happens inside the call that asks for it; only its event waits for the next
//! poll. So "in flight" is a queue of events, and `Closed` follows when that queue is empty.
//!
//! A poll takes at most 32 units from one connection, and starts behind the one that the last batch
//! was full with. A connection that sends nothing for a millisecond is quiet as soon as there are
//! more than a few: its peer is told to ring its bell, and polls look at the connection when it has
//! rung. A poll that finds nothing looks at one header word per busy connection, and now and then
//! at that of a quiet one, because a bell may be late.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use reactor::pool::Buf;
use reactor::{Batch, Instant, Tag};

use super::door::{CoreDoor, Inside, Message, Prepared, Remains, door};
use super::receives::{ReceiveCount, Receives};
use super::ring::{Arrival, Ends, Geometry, before_last_look};
use super::roster::Roster;
use super::sys::{Mapping, Returned, sealed_file};
use super::wire::Datagram;
use super::{RESPONSE_RECVS, socket};
use crate::peer_lines::{PeerLines, peer_line};
use crate::{CloseReason, ConnId, DataIn, Event, Fabric, PeerInfo, Recv, RemoteSeg};

/// Units taken from one connection per poll.
const BURST: usize = 32;
/// Connections that are polled whether they send anything or not: as many cost next to nothing.
const BUSY_MIN: usize = 8;
/// One in so many polls looks at a quiet connection that has not rung. A look often misses all
/// caches.
const LOOKS_BY_ROTE: u32 = 8;
/// Nanoseconds without a unit after which one of more is quiet. Ringing a bell once in that time is
/// nothing to its peer.
const QUIET_AFTER_NS: u64 = 1_000_000;

/// Capacities of one core's fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FabricOptions {
    /// Connections held at a time.
    pub connections_max: u32,
    /// Fetches and replies that are enqueued between two polls; more cost an allocation.
    pub ops_max: usize,
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

#[derive(Debug)]
struct Conn {
    phase: Phase,
    ends: Option<Ends>,
    receives: Receives,
    peer: Prepared,
    /// Poll in which it last sent something.
    heard_at: Instant,
}

impl Conn {
    /// True when its peer has sent something that nobody has taken.
    #[inline]
    fn has_news(&self) -> bool {
        self.ends.as_ref().is_some_and(|ends| ends.consumer.peek() != Arrival::Nothing)
    }

    /// Tells its peer whether to ring.
    fn ask_for_bell(&self, ask: bool) {
        if let Some(ends) = &self.ends {
            ends.sleep.set(ask);
        }
    }

    /// Ends a loan of this connection's memory.
    #[inline]
    fn take_back(&mut self, id: ConnId, buf: Buf) {
        let returned = Returned::of(buf).expect("a pool buffer was given back as a loan");
        assert!(returned.owner() == mark(id), "a loan of another connection");
        self.peer.regions.take_back(returned);
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
    /// Slots with a connection.
    held: usize,
    /// Slots in phase `Live`.
    roster: Roster,
    /// Time of the last poll.
    now: Instant,
    /// Polls in which there was a crowd, counted round.
    looks: u32,
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

/// A quiet connection is busy once it has sent something: a peer that only rings costs a look.
fn look_at_quiet(roster: &mut Roster, slot: &Slot, index: u32, armed: bool) {
    if let Some(conn) = &slot.conn
        && roster.is_quiet(index)
        && conn.has_news()
    {
        conn.ask_for_bell(armed);
        roster.rouse(index);
    }
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
            held: 0,
            roster: Roster::new(count, BUSY_MIN),
            now: Instant::default(),
            looks: 0,
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
        self.held
    }

    /// Connections that carry information units.
    pub fn connections_live(&self) -> usize {
        self.roster.len()
    }

    /// Connections that every poll looks at. The others carry information units, but not often.
    pub fn connections_busy(&self) -> usize {
        self.roster.busy().len()
    }

    /// Buffers of a connection's memory that are lent out.
    pub fn loans(&self, conn: ConnId) -> u32 {
        self.conn(conn).peer.regions.loans()
    }

    /// Receives of a connection.
    pub fn receives(&self, conn: ConnId) -> ReceiveCount {
        self.conn(conn).receives.count()
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
            Message::Attach(peer) => self.on_attach(*peer),
            Message::Gone { place, serial } => {
                let conn = self.slots[place as usize].conn.as_ref();
                if conn.is_some_and(|conn| conn.peer.serial == serial) {
                    self.begin_close(place, CloseReason::PeerGone);
                }
            }
        }
    }

    fn on_attach(&mut self, peer: Prepared) {
        let place = peer.place;
        let slot = &mut self.slots[place as usize];
        assert!(slot.conn.is_none(), "the control thread gave a place away twice");
        self.held += 1;
        slot.conn = Some(Conn {
            phase: Phase::Login,
            ends: None,
            receives: Receives::default(),
            peer,
            heard_at: self.now,
        });
        self.pending.push_back(Event::Login { conn: self.id_at(place) });
    }

    fn begin_close(&mut self, index: u32, reason: CloseReason) {
        let Some(conn) = self.slots[index as usize].conn.as_mut() else { return };
        if matches!(conn.phase, Phase::Closing(_) | Phase::Closed) {
            return;
        }
        conn.phase = Phase::Closing(reason);
        conn.ends = None;
        // Tells the peer, and the control thread, which then forgets the socket.
        let _ = rustix::net::shutdown(&conn.peer.socket, rustix::net::Shutdown::Both);
        self.roster.leave(index);
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
            let Some(free) = conn.receives.take() else { return Some(CloseReason::Protocol) };
            conn.heard_at = self.now;
            let recv = Recv { index: free, len };
            conn.receives.fill(&recv, &mut ends.consumer);
            events.push(Event::Received { conn: id, recv });
        }
        None
    }

    /// Takes information units from the busy connections, one after the other.
    #[inline]
    fn pull_all(&mut self, events: &mut Batch<Event>) {
        // One that closes leaves the list: the loop may then miss or revisit another one, once.
        let mut turns = self.roster.turns();
        while turns.are_left() {
            if events.is_full() {
                return self.roster.stop(turns);
            }
            let Some(index) = self.roster.turn(&mut turns) else { return };
            if let Some(reason) = self.pull(index, events) {
                self.begin_close(index, reason);
            }
        }
    }

    /// What a poll does besides serving the busy connections, where there are many.
    #[cold]
    fn look_round(&mut self) {
        self.on_bells();
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS_BY_ROTE)
            && let Some(index) = self.roster.quiet_by_rote()
        {
            let slot = &self.slots[index as usize];
            look_at_quiet(&mut self.roster, slot, index, self.armed);
        }
        if self.roster.busy().len() > BUSY_MIN
            && let Some(index) = self.roster.busy_by_rote()
        {
            self.settle_if_silent(index);
        }
    }

    /// Leaves a busy connection that has not sent anything for a while to its bell.
    fn settle_if_silent(&mut self, index: u32) {
        let conn = self.slots[index as usize].conn.as_ref().expect("live connection");
        if self.now.ns_since(conn.heard_at) < QUIET_AFTER_NS {
            return;
        }
        conn.ask_for_bell(true);
        // The peer publishes first and looks then.
        before_last_look();
        if conn.has_news() {
            conn.ask_for_bell(false);
        } else {
            self.roster.settle(index);
        }
    }

    /// Looks at the quiet connections that have rung.
    fn on_bells(&mut self) {
        if !self.inside.ready().any() {
            return;
        }
        let ShmFabric { inside, roster, slots, armed, .. } = self;
        inside.ready().take(|place| look_at_quiet(roster, &slots[place as usize], place, *armed));
    }

    fn disarm(&mut self) {
        self.armed = false;
        self.inside.set_sleeping(false);
        self.set_sleep_words(false);
        // Busy ones have rung, too, and their bits would keep the core awake.
        self.on_bells();
    }

    /// Quiet peers ring always.
    fn set_sleep_words(&self, sleeps: bool) {
        for index in self.roster.busy() {
            if let Some(conn) = &self.slots[*index as usize].conn {
                conn.ask_for_bell(sleeps);
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
        socket::send(&conn.peer.socket, &accept.encode(), &[file.as_fd(), conn.peer.bell.as_fd()])
            .map_err(|e| e.to_string())
    }
}

impl Fabric for ShmFabric {
    fn connections_max(&self) -> usize {
        self.slots.len()
    }

    fn poll(&mut self, now: Instant, events: &mut Batch<Event>) {
        self.now = now;
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
        if self.roster.is_crowded() {
            self.look_round();
        }
        self.pull_all(events);
    }

    fn login_data(&self, conn: ConnId) -> &[u8] {
        &self.conn(conn).peer.login
    }

    fn peer(&self, conn: ConnId) -> PeerInfo {
        let conn = &self.conn(conn).peer;
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
        let now = self.now;
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
                state.heard_at = now;
                self.roster.join(conn.index);
            }
            Err(reason) => {
                let pid = state.peer.pid;
                let told = Datagram::Error(format!("the target can't answer the login: {reason}"));
                // A peer that doesn't read its answer learns from the close.
                let _ = socket::send(&state.peer.socket, &told.encode(), &[]);
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
            let _ = socket::send(&state.peer.socket, &reject, &[]);
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
        state.peer.regions.lend(&seg, align, mark(conn))
    }

    #[inline(always)]
    fn give_back(&mut self, buf: Buf) {
        let returned = Returned::of(buf).expect("a pool buffer was given back as a loan");
        self.conn_mut(conn_of(returned.owner())).peer.regions.take_back(returned);
    }

    #[inline]
    fn fetch(&mut self, conn: ConnId, tag: Tag, mut buf: Buf, from: &[RemoteSeg]) {
        let state = self.conn_mut(conn);
        let live = state.phase == Phase::Live;
        let ok = live && state.peer.regions.gather(from, &mut buf);
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
                (live && state.peer.regions.scatter(&buf, len as usize, to), Some(buf))
            }
            DataIn::NoData { buf, len, to } => {
                (live && state.peer.regions.check(to, len as usize), buf)
            }
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
        assert_eq!(state.peer.regions.loans(), 0, "{conn:?} released with buffers lent out");
        let ReceiveCount { home, total } = state.receives.count();
        assert_eq!(home, total, "{conn:?} released with receives out");
        let slot = &mut self.slots[conn.index as usize];
        let peer = slot.conn.take().expect("checked above").peer;
        let Prepared { place, regions, socket, bell, charge, .. } = peer;
        slot.generation = slot.generation.wrapping_add(1);
        self.held -= 1;
        self.inside.release(Remains { place, regions, socket, bell, charge });
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
        let has_news =
            |index: &u32| self.slots[*index as usize].conn.as_ref().is_some_and(Conn::has_news);
        self.pending.is_empty()
            && self.closing.is_empty()
            && self.inside.messages.is_empty()
            && !self.inside.ready().any()
            && !self.roster.busy().iter().any(has_news)
    }
}

#[cfg(test)]
impl ShmFabric {
    /// A quiet connection has rung, and the next poll looks at it.
    pub(super) fn has_heard_bells(&self) -> bool {
        self.inside.ready().any()
    }

    /// The connection is live and quiet.
    pub(super) fn is_quiet(&self, conn: ConnId) -> bool {
        self.roster.is_quiet(conn.index)
    }
}
