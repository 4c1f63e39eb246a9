//! A simulated core's end of the network.

use std::collections::VecDeque;

use reactor::pool::Buf;
use reactor::{Batch, Instant, Tag};

use super::net::{Conn, Failure, LoginAnswer, Net, Phase, Work};
use crate::shared::{Regions, Returned};
use crate::{CloseReason, ConnId, DataIn, Event, Fabric, PeerInfo, Recv, RemoteSeg};

/// One core's connections on a [`Net`].
#[derive(Debug)]
pub struct SimFabric {
    net: Net,
    core: usize,
    /// A copy of each login and of each received information unit: the seam lends references.
    logins: Vec<Vec<u8>>,
    received: Vec<Vec<Vec<u8>>>,
    pending: VecDeque<Event>,
}

impl SimFabric {
    /// The fabric of a core.
    pub fn new(net: &Net, core: usize) -> Self {
        let connections = net.borrow().options.connections_per_core;
        SimFabric {
            net: net.clone(),
            core,
            logins: vec![Vec::new(); connections],
            received: vec![Vec::new(); connections],
            pending: VecDeque::new(),
        }
    }

    /// Puts an operation on a connection's send queue. `work` is told how it will fail.
    fn enqueue(&mut self, conn: ConnId, reply: bool, work: impl FnOnce(Failure) -> Work) {
        let mut inner = self.net.borrow_mut();
        let inner = &mut *inner;
        // What comes after the end of a link ends at once.
        let live = inner.conn(self.core, conn).is_some_and(|conn| conn.phase == Phase::Live);
        let (failure, late) = if live { inner.misfortune(reply) } else { (Failure::None, 0) };
        let (now, delay, wait) = (inner.now, inner.options.delay_ns_max, inner.faults.wait_ns_max);
        let conn = inner.cores[self.core][conn.index as usize].as_mut().filter(|c| c.id == conn);
        let conn = conn.expect("operations name connections that were not released");
        let mut due = conn.due(now, delay, &mut inner.rng);
        if late == u64::MAX {
            due = u64::MAX;
            conn.fails_at.get_or_insert(now + wait);
        } else {
            due += late;
            conn.last_due = due;
        }
        conn.work.push_back((due, work(failure)));
    }

    /// Puts a response into the initiator's hands. False when it does not share its memory, or the
    /// link has ended.
    fn publish(&mut self, conn: ConnId, iu: &[u8]) -> bool {
        let mut inner = self.net.borrow_mut();
        let now = inner.now;
        let shares = |state: &&mut Conn| state.phase == Phase::Live && state.regions.is_some();
        let Some(state) = inner.conn(self.core, conn).filter(shares) else { return false };
        state.to_initiator.push_back((now, iu.to_vec()));
        true
    }

    /// Moves what is due on one connection to `pending`.
    fn advance(&mut self, index: usize, now: u64) {
        let mut inner = self.net.borrow_mut();
        let Some(conn) = inner.cores[self.core][index].as_mut() else { return };
        if conn.phase == Phase::New {
            conn.phase = Phase::Asked;
            self.logins[index] = conn.login.clone();
            self.pending.push_back(Event::Login { conn: conn.id });
        }
        if conn.fails_at.is_some_and(|at| at <= now) {
            conn.end(CloseReason::Link);
        }
        while conn.work.front().is_some_and(|(due, _)| *due <= now) || failing(conn) {
            let Some((_, work)) = conn.work.pop_front() else { break };
            self.pending.extend(complete(conn, work, now));
        }
        while conn.phase == Phase::Live
            && conn.to_target.front().is_some_and(|(due, _)| *due <= now)
        {
            let Some(slot) = conn.receives_free.pop() else { break };
            let (_, iu) = conn.to_target.pop_front().expect("looked at above");
            if iu.len() > conn.iu_bytes_max {
                conn.end(CloseReason::Protocol);
                conn.receives_free.push(slot);
                break;
            }
            let recv = Recv { index: slot, len: iu.len() as u32 };
            self.received[index][slot as usize] = iu;
            self.pending.push_back(Event::Received { conn: conn.id, recv });
        }
        if let Phase::Closing(reason) = conn.phase
            && conn.work.is_empty()
        {
            conn.phase = Phase::Ended;
            self.pending.push_back(Event::Closed { conn: conn.id, reason });
        }
    }
}

/// The mark of a connection's loans: its name in one word.
fn mark(conn: ConnId) -> u64 {
    u64::from(conn.index) << 32 | u64::from(conn.generation)
}

fn conn_of(mark: u64) -> ConnId {
    ConnId { index: (mark >> 32) as u32, generation: mark as u32 }
}

fn failing(conn: &Conn) -> bool {
    matches!(conn.phase, Phase::Closing(_)) && !conn.work.is_empty()
}

fn complete(conn: &mut Conn, work: Work, now: u64) -> Option<Event> {
    if conn.vanished {
        conn.end(CloseReason::Link);
    }
    let alive = conn.phase == Phase::Live;
    let event = match work {
        Work::Fetch { tag, mut buf, from, failure } => {
            let spared = alive && failure == Failure::None;
            let ok = spared && gather(conn, &mut buf, &from);
            if alive && !ok {
                conn.end(if spared { CloseReason::RemoteAccess } else { CloseReason::Link });
            }
            Event::Fetched { tag, buf, ok }
        }
        Work::Reply { tag, buf, move_bytes, to, iu, failure } => {
            let moved =
                alive && failure != Failure::Whole && scatter(conn, buf.as_ref(), move_bytes, &to);
            let ok = moved && failure == Failure::None;
            if ok {
                conn.to_initiator.push_back((now, iu));
            } else if alive {
                let spared = failure == Failure::None;
                conn.end(if spared { CloseReason::RemoteAccess } else { CloseReason::Link });
            }
            Event::Replied { tag, buf, ok }
        }
        Work::Probe => return None,
    };
    Some(event)
}

/// Calls `each` for the pieces of `segs` that hold the first `total` bytes: offset in the data,
/// address, bytes. False when a piece is not registered, or there is too little.
fn pieces(
    conn: &Conn,
    segs: &[RemoteSeg],
    total: usize,
    mut each: impl FnMut(usize, usize, usize),
) -> bool {
    let mut offset = 0;
    for seg in segs {
        if offset == total {
            break;
        }
        if !conn.memory.check(seg) {
            return false;
        }
        let bytes = (seg.len as usize).min(total - offset);
        each(offset, seg.addr as usize, bytes);
        offset += bytes;
    }
    offset == total
}

fn gather(conn: &Conn, buf: &mut Buf, from: &[RemoteSeg]) -> bool {
    let total = buf.len();
    pieces(conn, from, total, |offset, at, bytes| conn.memory.fetch(at, buf, offset, bytes))
}

fn scatter(conn: &Conn, buf: Option<&Buf>, move_bytes: u32, to: &[RemoteSeg]) -> bool {
    let total = move_bytes as usize;
    pieces(conn, to, total, |offset, at, bytes| conn.memory.store(at, buf, offset, bytes))
}

impl Fabric for SimFabric {
    fn connections_max(&self) -> usize {
        self.received.len()
    }

    fn poll(&mut self, now: Instant, events: &mut Batch<Event>) {
        self.net.borrow_mut().now = now.ns();
        for index in 0..self.received.len() {
            self.advance(index, now.ns());
        }
        while !events.is_full() {
            let Some(event) = self.pending.pop_front() else { break };
            events.push(event);
        }
    }

    fn login_data(&self, conn: ConnId) -> &[u8] {
        &self.logins[conn.index as usize]
    }

    fn peer(&self, conn: ConnId) -> PeerInfo {
        let mut inner = self.net.borrow_mut();
        let state = inner.conn(self.core, conn);
        let known = state.map(|state| (state.target.clone(), state.arrival));
        let (target, arrival) = known.unwrap_or_default();
        PeerInfo {
            trtype: "sim",
            traddr: format!("core {}", self.core),
            peer: format!("link {}", conn.index),
            target,
            arrival,
        }
    }

    fn accept(&mut self, conn: ConnId, rsp: &[u8], credits: u32, iu_bytes_max: u32, _ti: u32) {
        let mut inner = self.net.borrow_mut();
        let Some(state) = inner.conn(self.core, conn) else { return };
        state.receives = credits as usize;
        state.receives_free = (0..credits).rev().collect();
        state.iu_bytes_max = iu_bytes_max as usize;
        self.received[conn.index as usize] = vec![Vec::new(); credits as usize];
        if state.phase == Phase::Asked {
            state.phase = Phase::Live;
            *state.answer.borrow_mut() = Some(LoginAnswer::Accepted(rsp.to_vec()));
        }
    }

    fn reject(&mut self, conn: ConnId, rej: &[u8]) {
        let mut inner = self.net.borrow_mut();
        let Some(state) = inner.conn(self.core, conn) else { return };
        *state.answer.borrow_mut() = Some(LoginAnswer::Rejected(rej.to_vec()));
        state.end(CloseReason::Local);
    }

    fn iu(&self, conn: ConnId, recv: &Recv) -> &[u8] {
        &self.received[conn.index as usize][recv.index as usize][..recv.len as usize]
    }

    fn repost(&mut self, conn: ConnId, recv: Recv) {
        // Poison: a late look at a receive that was given back must not find the old command.
        self.received[conn.index as usize][recv.index as usize].fill(0xee);
        if let Some(state) = self.net.borrow_mut().conn(self.core, conn) {
            state.receives_free.push(recv.index);
        }
    }

    fn place(&mut self, conn: ConnId, seg: RemoteSeg, align: u32) -> Option<Buf> {
        let mut inner = self.net.borrow_mut();
        let state = inner.conn(self.core, conn).filter(|state| state.phase == Phase::Live)?;
        if !state.memory.check(&seg) {
            return None;
        }
        // The only region.
        let seg = RemoteSeg { key: 0, ..seg };
        state.regions.as_mut()?.lend(&seg, align, mark(conn))
    }

    fn give_back(&mut self, buf: Buf) {
        let returned = Returned::of(buf).expect("a pool buffer was given back as a loan");
        let mut inner = self.net.borrow_mut();
        let state = inner.conn(self.core, conn_of(returned.owner()));
        let state = state.expect("a connection with buffers lent out was released");
        state.regions.as_mut().expect("memory is lent").take_back(returned);
    }

    fn fetch(&mut self, conn: ConnId, tag: Tag, mut buf: Buf, from: &[RemoteSeg]) {
        // Poison: whoever looks before the data is there must not find what was there before.
        let len = buf.len();
        buf.fill(0..len, 0xdd);
        let from = from.to_vec();
        self.enqueue(conn, false, |failure| Work::Fetch { tag, buf, from, failure });
    }

    fn reply(&mut self, conn: ConnId, tag: Tag, iu: &[u8], _solicited: bool, data: DataIn<'_>) {
        let (buf, zeros, move_bytes, to) = match data {
            DataIn::Buf { buf, len, to } => (Some(buf), false, len, to.to_vec()),
            DataIn::NoData { buf, len, to } => (buf, true, len, to.to_vec()),
            DataIn::None { buf } => (buf, true, 0, Vec::new()),
        };
        let mut buf = buf;
        if zeros && let Some(buf) = buf.as_mut() {
            let len = buf.len();
            buf.fill(0..len, 0);
        }
        let iu = iu.to_vec();
        self.enqueue(conn, true, |failure| Work::Reply { tag, buf, move_bytes, to, iu, failure });
    }

    fn finish(
        &mut self,
        conn: ConnId,
        tag: Tag,
        recv: Recv,
        loan: Option<Buf>,
        iu: &[u8],
        solicited: bool,
    ) -> bool {
        self.repost(conn, recv);
        if let Some(buf) = loan {
            self.give_back(buf);
        }
        let over = self.publish(conn, iu);
        if !over {
            self.reply(conn, tag, iu, solicited, DataIn::None { buf: None });
        }
        over
    }

    fn probe(&mut self, conn: ConnId) {
        let mut inner = self.net.borrow_mut();
        let (now, delay) = (inner.now, inner.options.delay_ns_max);
        let live = |state: &&mut Conn| state.phase == Phase::Live && state.regions.is_none();
        let Some(state) = inner.conn(self.core, conn).filter(live) else { return };
        if !state.work.iter().any(|(_, work)| matches!(work, Work::Probe)) {
            state.last_due = state.last_due.max(now + delay);
            state.work.push_back((state.last_due, Work::Probe));
        }
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let mut inner = self.net.borrow_mut();
        let Some(state) = inner.conn(self.core, conn) else { return };
        state.end(reason);
    }

    fn release(&mut self, conn: ConnId) {
        let mut inner = self.net.borrow_mut();
        let state = inner.conn(self.core, conn).expect("released once");
        assert_eq!(state.phase, Phase::Ended, "released before its last event");
        assert!(state.work.is_empty(), "released with operations in flight");
        assert_eq!(state.receives_free.len(), state.receives, "released with receives in use");
        let loans = state.regions.as_ref().map_or(0, Regions::loans);
        assert_eq!(loans, 0, "released with buffers lent out");
        inner.cores[self.core][conn.index as usize] = None;
    }

    fn flush(&mut self) {}

    fn arm(&mut self) -> bool {
        self.pending.is_empty()
    }
}
