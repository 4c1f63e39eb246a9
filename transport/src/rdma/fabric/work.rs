//! Work posted and finished: completions, operations, receives.
use reactor::{Batch, Tag};

use super::super::connection::{Data, NIL, Posted, State};
use super::super::resources::{CoreDevice, Work, WorkId};
use super::super::sys::{Completion, Outcome};
use super::{POLL_MAX, RdmaFabric};
use crate::peer_lines::{PeerLines, peer_line};
use crate::{CloseReason, ConnId, Event, Recv, RemoteSeg};

/// Bytes of replies after which a completion is asked for: their buffers come home with it.
const SIGNAL_BYTES: u64 = 64 << 10;

impl RdmaFabric {
    // --- completions ---

    /// All of them: what they finish is reported when there is room.
    pub(super) fn poll_sends(&mut self, place: usize, events: &mut Batch<Event>) {
        loop {
            let Some(device) = &mut self.devices[place] else { return };
            let count = device.sends.poll(&mut self.completions);
            self.on_completions(place, count, events);
            if count < POLL_MAX {
                return;
            }
        }
    }

    pub(super) fn poll_receives(&mut self, place: usize, events: &mut Batch<Event>) {
        loop {
            let room = events.room().min(POLL_MAX);
            if room == 0 {
                return;
            }
            let Some(device) = &mut self.devices[place] else { return };
            let count = device.receives.poll(&mut self.completions[..room]);
            self.on_completions(place, count, events);
            if count < room {
                return self.drained(place);
            }
        }
    }

    /// Each receive makes at most one event, a send none.
    pub(super) fn on_completions(&mut self, place: usize, count: usize, events: &mut Batch<Event>) {
        // A connection may have been made since its control message was looked for.
        if count > 0 {
            self.on_control();
        }
        for index in 0..count {
            let completion = self.completions[index];
            self.on_completion(place, &completion, events);
        }
    }

    fn on_completion(&mut self, place: usize, done: &Completion, events: &mut Batch<Event>) {
        match WorkId(done.id()).work() {
            Work::Send { conn, generation } => {
                if self.is_current(conn, generation) {
                    self.on_sent(conn, done.outcome());
                }
            }
            Work::Probe { conn, generation } => {
                if self.is_current(conn, generation) {
                    self.probed(conn);
                    self.on_sent(conn, done.outcome());
                }
            }
            Work::Receive { conn, generation, slot } => {
                if self.is_current(conn, generation) {
                    self.on_received(conn, slot, done, events);
                }
            }
            Work::SharedReceive { slot } => {
                let Some(device) = &mut self.devices[place] else { return };
                let conn = device
                    .by_number
                    .binary_search_by_key(&done.queue_pair(), |entry| entry.0)
                    .map(|at| device.by_number[at].1);
                let Some(shared) = &mut device.shared else { return };
                shared.area.hold(slot);
                match conn {
                    Ok(conn) => self.on_shared_received(place, conn, slot, done, events),
                    Err(_) => self.repost_shared(place, slot),
                }
            }
        }
    }

    /// False for a late completion of a number's earlier life.
    fn is_current(&self, index: u32, generation: u32) -> bool {
        self.connections.get(index as usize).is_some_and(|connection| {
            connection.qp.is_some() && WorkId::short(connection.id.generation) == generation
        })
    }

    fn on_received(&mut self, index: u32, slot: u32, done: &Completion, events: &mut Batch<Event>) {
        let connection = &mut self.connections[index as usize];
        let (conn, live) = (connection.id, connection.state == State::Live);
        if let Some(reason) = self.failure(done.outcome()) {
            return self.end(conn, reason);
        }
        let connection = &mut self.connections[index as usize];
        let Some(receives) = &mut connection.receives else { return };
        if live && receives.hold(slot) {
            self.counts.received.add(1);
            let recv = Recv { index: slot, len: done.bytes() };
            events.push(Event::Received { conn, recv });
        }
    }

    fn on_shared_received(
        &mut self,
        place: usize,
        index: u32,
        slot: u32,
        done: &Completion,
        events: &mut Batch<Event>,
    ) {
        let connection = &self.connections[index as usize];
        let (conn, live) = (connection.id, connection.state == State::Live);
        if let Some(reason) = self.failure(done.outcome()) {
            self.end(conn, reason);
            self.repost_shared(place, slot);
        } else if live {
            self.counts.received.add(1);
            let recv = Recv { index: slot, len: done.bytes() };
            events.push(Event::Received { conn, recv });
        } else {
            self.repost_shared(place, slot);
        }
    }

    fn on_sent(&mut self, index: u32, outcome: Outcome) {
        if let Some(reason) = self.failure(outcome) {
            return self.on_send_failed(index, reason);
        }
        let connection = &mut self.connections[index as usize];
        let posted = connection.posted.pop_front().expect("a completion without posted work");
        connection.sends_free += posted.requests;
        connection.done += posted.operations;
        if connection.done > 0 && !std::mem::replace(&mut connection.reporting, true) {
            self.reporting.push(index);
        }
        if connection.next != NIL {
            self.touch(index);
        }
    }

    #[cold]
    fn on_send_failed(&mut self, index: u32, reason: CloseReason) {
        let connection = &mut self.connections[index as usize];
        // The receives that this has flushed may have been seen before it.
        if connection.reason == Some(CloseReason::PeerGone) {
            connection.reason = Some(reason);
        }
        let conn = connection.id;
        self.end(conn, reason);
    }

    /// Reports operations that have finished well.
    pub(super) fn report(&mut self, events: &mut Batch<Event>) {
        while let Some(index) = self.reporting.front().copied() {
            while self.connections[index as usize].done > 0 {
                if events.is_full() {
                    return;
                }
                self.connections[index as usize].done -= 1;
                let operation = self.take_head(index);
                events.push(self.finished(operation, true));
            }
            self.connections[index as usize].reporting = false;
            self.reporting.pop();
        }
    }

    /// Why a connection ends after this outcome, if it does.
    fn failure(&mut self, outcome: Outcome) -> Option<CloseReason> {
        let reason = match outcome {
            Outcome::Success => return None,
            Outcome::Flushed => return Some(CloseReason::PeerGone),
            Outcome::TooLong => CloseReason::Protocol,
            Outcome::RemoteAccess => CloseReason::RemoteAccess,
            Outcome::Failed(_) => CloseReason::Link,
        };
        self.counts.errors.add(1);
        Some(reason)
    }

    // --- operations ---

    /// Appends an operation to a connection's list; the place of it.
    pub(super) fn enqueue(&mut self, conn: ConnId, tag: Tag, segs: &[RemoteSeg]) -> u32 {
        let place = self.operation_free;
        assert!(place != NIL, "more operations than operations_max");
        let operation = &mut self.operations[place as usize];
        self.operation_free = operation.link;
        operation.link = NIL;
        operation.tag = tag;
        operation.aim(segs);
        self.unposted += 1;
        let connection = self.connection(conn);
        // Its end was reported, but the caller had not seen that yet.
        let late = connection.state == State::Closed && connection.head == NIL;
        let tail = std::mem::replace(&mut connection.tail, place);
        if connection.head == NIL {
            connection.head = place;
        }
        if connection.next == NIL {
            connection.next = place;
        }
        if tail != NIL {
            self.operations[tail as usize].link = place;
        }
        if late {
            self.finishing.push(conn.index);
        }
        self.touch(conn.index);
        place
    }

    /// Takes the first operation off a connection's list.
    fn take_head(&mut self, index: u32) -> u32 {
        let connection = &mut self.connections[index as usize];
        let place = connection.head;
        assert!(place != NIL, "no operation is in flight");
        let link = self.operations[place as usize].link;
        connection.head = link;
        if link == NIL {
            connection.tail = NIL;
        }
        if connection.next == place {
            connection.next = link;
            self.unposted -= 1;
        }
        place
    }

    /// Frees an operation and makes its event.
    fn finished(&mut self, place: u32, ok: bool) -> Event {
        let operation = &mut self.operations[place as usize];
        operation.link = self.operation_free;
        self.operation_free = place;
        let (tag, buf) = (operation.tag, operation.buf.take());
        match (operation.iu_len, buf) {
            (0, Some(buf)) => {
                self.fetching -= 1;
                Event::Fetched { tag, buf, ok }
            }
            (_, buf) => Event::Replied { tag, buf, ok },
        }
    }

    /// Posts what fits of a connection's operations, with one doorbell. A completion is asked for
    /// after each fetch, after [`SIGNAL_BYTES`] of replies, and at the end.
    pub(super) fn pump(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let Some(device) = &self.devices[connection.device] else { return };
        let Some(qp) = &mut connection.qp else { return };
        let (conn, inline_max) = (connection.id, qp.inline_max());
        let (mut part, mut bytes) = (Posted { requests: 0, operations: 0 }, 0);
        while connection.next != NIL && connection.sends_free > 0 {
            let place = connection.next;
            let operation = &mut self.operations[place as usize];
            let before = self.sends.len();
            let room = connection.sends_free.min(self.sends.room() as u32);
            let last = operation.post(conn, place, device, &mut self.sends, room, inline_max);
            let requests = (self.sends.len() - before) as u32;
            connection.sends_free -= requests;
            part.requests += requests;
            bytes += u64::from(operation.len);
            if !last {
                break;
            }
            part.operations += 1;
            self.unposted -= 1;
            connection.next = operation.link;
            if operation.data == Data::Read || bytes >= SIGNAL_BYTES {
                self.sends.signal_last();
                connection.posted.push_back(part);
                (part, bytes) = (Posted { requests: 0, operations: 0 }, 0);
            }
        }
        if part.requests > 0 {
            self.sends.signal_last();
            connection.posted.push_back(part);
        }
        if connection.next != NIL {
            self.counts.send_waits.add(1);
        }
        if self.sends.len() == 0 {
            return;
        }
        self.counts.doorbells.add(1);
        self.counts.requests.add(self.sends.len() as u64);
        if let Err(error) = qp.post_send(&mut self.sends) {
            peer_line!(self.lines, WARN, %error, "a connection fails");
            self.end(conn, CloseReason::Link);
        }
    }

    /// Posts what asks a peer whether it is there: an RDMA WRITE of no bytes, which needs no memory
    /// and no receive of the peer, and is acknowledged like any other (IBA C9-88: its R_Key is not
    /// looked at). What fills a send queue asks the same; a peer that is still being accepted is
    /// not asked.
    pub(super) fn post_probe(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let conn = connection.id;
        let ready = connection.state == State::Live && connection.sends_free > 0;
        let Some(qp) = connection.qp.as_mut().filter(|_| ready) else { return self.probed(index) };
        self.sends.write(WorkId::probe(conn).0, &[], 0, 0);
        self.sends.signal_last();
        connection.sends_free -= 1;
        connection.posted.push_back(Posted { requests: 1, operations: 0 });
        self.counts.doorbells.add(1);
        self.counts.requests.add(1);
        if let Err(error) = qp.post_send(&mut self.sends) {
            peer_line!(self.lines, WARN, %error, "a connection fails");
            self.end(conn, CloseReason::Link);
        }
    }

    /// A probe is over: the peer has answered, or the connection ends.
    fn probed(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        self.probing -= u32::from(std::mem::take(&mut connection.probing));
    }

    pub(super) fn post_receives(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let conn = connection.id;
        let (Some(qp), Some(area)) = (&mut connection.qp, &mut connection.receives) else {
            return connection.reposts.clear();
        };
        let mut result = Ok(());
        for slot in connection.reposts.drain(..) {
            self.receives.push(WorkId::receive(conn, slot).0, area.local(slot));
            if self.receives.is_full() {
                result = result.and(qp.post_receive(&mut self.receives));
            }
        }
        if let Err(error) = result.and(qp.post_receive(&mut self.receives)) {
            peer_line!(self.lines, WARN, %error, "a connection fails");
            self.end(conn, CloseReason::Link);
        }
    }

    pub(super) fn repost_shared(&mut self, place: usize, slot: u32) {
        let Some(device) = &mut self.devices[place] else { return };
        let Some(shared) = &mut device.shared else { return };
        shared.chain.push(WorkId::shared_receive(slot).0, shared.area.local(slot));
        if shared.chain.is_full() {
            flush_shared(device, &mut self.lines);
        }
    }

    /// Reports operations that did not finish, then the end.
    pub(super) fn finish(&mut self, events: &mut Batch<Event>) {
        while let Some(index) = self.finishing.front().copied() {
            while self.connections[index as usize].head != NIL {
                if events.is_full() {
                    return;
                }
                let connection = &mut self.connections[index as usize];
                let done = connection.done > 0;
                connection.done = connection.done.saturating_sub(1);
                let operation = self.take_head(index);
                events.push(self.finished(operation, done));
            }
            let connection = &mut self.connections[index as usize];
            if connection.state == State::Closed {
                self.finishing.pop();
                continue;
            }
            if events.is_full() {
                return;
            }
            self.finishing.pop();
            connection.state = State::Closed;
            connection.posted.clear();
            let reason = connection.reason.unwrap_or(CloseReason::Link);
            events.push(Event::Closed { conn: connection.id, reason });
            self.probed(index);
        }
    }
}

pub(super) fn flush_shared(device: &mut CoreDevice, lines: &mut PeerLines) {
    if let Some(shared) = &mut device.shared
        && let Err(error) = shared.srq.post(&mut shared.chain)
    {
        // The slots are lost; the connections of a failed device end by themselves.
        peer_line!(lines, WARN, %error, "receives were not posted");
    }
}
