//! Two fabrics as one, so that a core serves both.
//!
//! The connections of the first keep their numbers; those of the second come behind them. Only the
//! first may lend memory of its peers.
//!
//! Costs one branch per call, and one move per event of the second fabric.

use reactor::pool::Buf;
use reactor::{Batch, Instant, Tag};

use crate::{CloseReason, ConnId, DataIn, Event, Fabric, PeerInfo, Recv, RemoteSeg};

/// Events of the second fabric that are taken at a time.
const EVENTS: usize = 64;

/// Two fabrics as one.
#[derive(Debug)]
pub struct Pair<A, B> {
    first: A,
    second: B,
    /// Connections of the first fabric.
    offset: u32,
    events: Batch<Event>,
    second_goes_first: bool,
}

impl<A: Fabric, B: Fabric> Pair<A, B> {
    /// Both together.
    pub fn new(first: A, second: B) -> Self {
        let offset = first.connections_max() as u32;
        Pair { first, second, offset, events: Batch::new(EVENTS), second_goes_first: false }
    }

    /// The second fabric's own name for a connection, if it is one of its.
    #[inline]
    fn inner(&self, conn: ConnId) -> Option<ConnId> {
        let index = conn.index.checked_sub(self.offset)?;
        Some(ConnId { index, ..conn })
    }

    fn poll_second(&mut self, now: Instant, events: &mut Batch<Event>) {
        self.second.poll(now, &mut self.events);
        let outer = |conn: ConnId| ConnId { index: conn.index + self.offset, ..conn };
        while !events.is_full()
            && let Some(event) = self.events.pop()
        {
            events.push(match event {
                Event::Login { conn } => Event::Login { conn: outer(conn) },
                Event::Received { conn, recv } => Event::Received { conn: outer(conn), recv },
                Event::Closed { conn, reason } => Event::Closed { conn: outer(conn), reason },
                event @ (Event::Fetched { .. } | Event::Replied { .. }) => event,
            });
        }
    }
}

impl<A: Fabric, B: Fabric> Fabric for Pair<A, B> {
    fn connections_max(&self) -> usize {
        self.first.connections_max() + self.second.connections_max()
    }

    fn poll(&mut self, now: Instant, events: &mut Batch<Event>) {
        // By turns, so that a busy one does not starve the other.
        self.second_goes_first = !self.second_goes_first;
        if self.second_goes_first {
            self.poll_second(now, events);
            self.first.poll(now, events);
        } else {
            self.first.poll(now, events);
            self.poll_second(now, events);
        }
    }

    fn login_data(&self, conn: ConnId) -> &[u8] {
        match self.inner(conn) {
            None => self.first.login_data(conn),
            Some(conn) => self.second.login_data(conn),
        }
    }

    fn peer(&self, conn: ConnId) -> PeerInfo {
        match self.inner(conn) {
            None => self.first.peer(conn),
            Some(conn) => self.second.peer(conn),
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
        match self.inner(conn) {
            None => self.first.accept(conn, login_rsp, credits, iu_bytes_max, ti_bytes_max),
            Some(conn) => self.second.accept(conn, login_rsp, credits, iu_bytes_max, ti_bytes_max),
        }
    }

    fn reject(&mut self, conn: ConnId, login_rej: &[u8]) {
        match self.inner(conn) {
            None => self.first.reject(conn, login_rej),
            Some(conn) => self.second.reject(conn, login_rej),
        }
    }

    #[inline(always)]
    fn iu(&self, conn: ConnId, recv: &Recv) -> &[u8] {
        match self.inner(conn) {
            None => self.first.iu(conn, recv),
            Some(conn) => self.second.iu(conn, recv),
        }
    }

    #[inline(always)]
    fn repost(&mut self, conn: ConnId, recv: Recv) {
        match self.inner(conn) {
            None => self.first.repost(conn, recv),
            Some(conn) => self.second.repost(conn, recv),
        }
    }

    #[inline(always)]
    fn place(&mut self, conn: ConnId, seg: RemoteSeg, align: u32) -> Option<Buf> {
        match self.inner(conn) {
            None => self.first.place(conn, seg, align),
            Some(_) => None,
        }
    }

    #[inline(always)]
    fn give_back(&mut self, buf: Buf) {
        self.first.give_back(buf);
    }

    #[inline]
    fn fetch(&mut self, conn: ConnId, tag: Tag, buf: Buf, from: &[RemoteSeg]) {
        match self.inner(conn) {
            None => self.first.fetch(conn, tag, buf, from),
            Some(conn) => self.second.fetch(conn, tag, buf, from),
        }
    }

    #[inline]
    fn reply(&mut self, conn: ConnId, tag: Tag, iu: &[u8], solicited: bool, data: DataIn<'_>) {
        match self.inner(conn) {
            None => self.first.reply(conn, tag, iu, solicited, data),
            Some(conn) => self.second.reply(conn, tag, iu, solicited, data),
        }
    }

    #[inline(always)]
    fn finish(
        &mut self,
        conn: ConnId,
        tag: Tag,
        recv: Recv,
        loan: Option<Buf>,
        iu: &[u8],
        solicited: bool,
    ) -> bool {
        match self.inner(conn) {
            None => self.first.finish(conn, tag, recv, loan, iu, solicited),
            Some(conn) => self.second.finish(conn, tag, recv, loan, iu, solicited),
        }
    }

    fn probe(&mut self, conn: ConnId) {
        match self.inner(conn) {
            None => self.first.probe(conn),
            Some(conn) => self.second.probe(conn),
        }
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        match self.inner(conn) {
            None => self.first.close(conn, reason),
            Some(conn) => self.second.close(conn, reason),
        }
    }

    fn release(&mut self, conn: ConnId) {
        match self.inner(conn) {
            None => self.first.release(conn),
            Some(conn) => self.second.release(conn),
        }
    }

    #[inline]
    fn flush(&mut self) {
        self.first.flush();
        self.second.flush();
    }

    fn arm(&mut self) -> bool {
        self.events.is_empty() && self.first.arm() && self.second.arm()
    }
}

#[cfg(test)]
mod tests;
