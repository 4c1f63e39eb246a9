//! One connection as its core sees it, and the operations on it.
//!
//! Operations are posted and finish in the order in which they were enqueued, so one list per
//! connection holds them all: finished ones leave at its head, and a mark says which one is next to
//! be posted. What does not fit the send queue waits behind that mark.
use std::collections::VecDeque;

use reactor::Tag;
use reactor::pool::Buf;

use super::resources::{CoreDevice, WorkId, ZERO_BYTES};
use super::sys::{Local, Qp, ReceiveArea, SendChain};
use crate::{CloseReason, ConnId, PeerInfo, RemoteSeg};

/// No operation.
pub(super) const NIL: u32 = u32::MAX;
/// Bytes of one work request: below the smallest limit of a device (soft-RoCE: 8 MiB).
const MESSAGE_BYTES_MAX: u32 = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// The target has not answered the login.
    Login,
    /// The control thread makes the queue pair.
    Accepting,
    Live,
    /// The control thread fails the queue pair.
    Disconnecting,
    /// The queue pair has failed; its completions are being polled.
    Draining,
    /// The control thread takes it apart.
    Ending,
    /// Operations that did not finish are being reported, then the end.
    Finishing,
    /// Tokens may still be out.
    Closed,
}

pub(super) struct Connection {
    pub id: ConnId,
    pub state: State,
    pub device: usize,
    pub login: Vec<u8>,
    pub peer: Option<PeerInfo>,
    /// Why it is ending; the first reason stays.
    pub reason: Option<CloseReason>,
    pub qp: Option<Qp>,
    pub receives: Option<ReceiveArea>,
    /// Receive slots to post at the next flush.
    pub reposts: Vec<u32>,
    /// Free work requests of the send queue. None before the queue pair can send.
    pub sends_free: u32,
    /// What was posted and has not completed, in order.
    pub posted: VecDeque<Posted>,
    /// First operation that has not been reported.
    pub head: u32,
    /// Last operation.
    pub tail: u32,
    /// First operation with something to post.
    pub next: u32,
    /// Operations from the head on that have finished well.
    pub done: u32,
    /// On the list of connections to flush.
    pub touched: bool,
    /// On the list of connections with finished operations.
    pub reporting: bool,
    /// The peer is to be asked, or was, whether it is there.
    pub probing: bool,
}

/// Work requests up to and with a signalled one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posted {
    pub requests: u32,
    /// Operations that are finished with it, from the head on.
    pub operations: u32,
}

impl Connection {
    pub(super) fn new() -> Self {
        Connection {
            id: ConnId { index: 0, generation: 0 },
            state: State::Free,
            device: 0,
            login: Vec::new(),
            peer: None,
            reason: None,
            qp: None,
            receives: None,
            reposts: Vec::new(),
            sends_free: 0,
            posted: VecDeque::new(),
            head: NIL,
            tail: NIL,
            next: NIL,
            done: 0,
            touched: false,
            reporting: false,
            probing: false,
        }
    }
}

/// Where an operation's data comes from or goes to, on our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// From the peer into the buffer.
    Read,
    /// From the buffer to the peer.
    Write,
    /// Zeroes to the peer.
    Zeroes,
}

/// A fetch or a reply. Its place in the table is also its slot for an outgoing information unit.
#[derive(Debug)]
pub(super) struct Operation {
    pub tag: Tag,
    pub buf: Option<Buf>,
    pub data: Data,
    /// Bytes to move.
    pub len: u32,
    /// Bytes of the information unit that follows; 0 for a fetch.
    pub iu_len: u32,
    pub solicited: bool,
    /// The peer's memory; keeps its capacity from one use to the next.
    pub segs: Vec<RemoteSeg>,
    /// The segment being worked on, bytes done of it, bytes done in all.
    seg: usize,
    seg_done: u32,
    done: u32,
    /// The next operation of the connection, or of the free list.
    pub link: u32,
}

impl Operation {
    pub(super) fn new(link: u32) -> Self {
        Operation {
            tag: Tag::from_u64(0),
            buf: None,
            data: Data::Read,
            len: 0,
            iu_len: 0,
            solicited: false,
            segs: Vec::new(),
            seg: 0,
            seg_done: 0,
            done: 0,
            link,
        }
    }

    /// Sets the peer's memory and rewinds.
    pub(super) fn aim(&mut self, segs: &[RemoteSeg]) {
        self.segs.clear();
        self.segs.extend_from_slice(segs);
        (self.seg, self.seg_done, self.done) = (0, 0, 0);
    }

    /// The peer named less memory than there are bytes.
    pub(super) fn is_short(&self) -> bool {
        self.segs.iter().map(|seg| u64::from(seg.len)).sum::<u64>() < u64::from(self.len)
    }

    /// Appends up to `room` work requests to `chain`. True when that was all of the operation.
    pub(super) fn post(
        &mut self,
        conn: ConnId,
        place: u32,
        device: &CoreDevice,
        chain: &mut SendChain,
        room: u32,
        inline_max: u32,
    ) -> bool {
        let id = WorkId::send(conn).0;
        let mut room = room;
        while self.done < self.len {
            if room == 0 {
                return false;
            }
            room -= self.post_data(id, device, chain);
        }
        if self.iu_len == 0 && self.len == 0 {
            // Nothing to fetch still has to end in its turn: the mark of an empty write.
            chain.write(id, &[], 0, 0);
        }
        if self.iu_len > 0 {
            if room == 0 {
                return false;
            }
            let unit = device.units.local(place as usize * device.unit_stride, self.iu_len);
            chain.send(id, unit, self.solicited, self.iu_len <= inline_max);
        }
        true
    }

    /// Appends the next work request of data, if the segment at hand has bytes left.
    fn post_data(&mut self, id: u64, device: &CoreDevice, chain: &mut SendChain) -> u32 {
        let seg = self.segs[self.seg];
        let left = (seg.len - self.seg_done).min(self.len - self.done);
        if left == 0 {
            (self.seg, self.seg_done) = (self.seg + 1, 0);
            return 0;
        }
        let address = seg.addr.wrapping_add(u64::from(self.seg_done));
        let bytes = match &self.buf {
            Some(buf) if self.data != Data::Zeroes => {
                left.min(MESSAGE_BYTES_MAX).min(device.pool.reach(buf, self.done as usize))
            }
            _ => left.min(ZERO_BYTES * device.segments),
        };
        match (self.data, &self.buf) {
            (Data::Read, Some(buf)) => {
                let to = device.pool.local(buf, self.done as usize, bytes);
                chain.read(id, to, address, seg.key);
            }
            (Data::Write, Some(buf)) => {
                let from = device.pool.local(buf, self.done as usize, bytes);
                chain.write(id, &[from], address, seg.key);
            }
            _ => {
                let mut zeroes = [device.zeroes.local(0, 0); 16];
                let count = bytes.div_ceil(ZERO_BYTES) as usize;
                for (index, local) in zeroes[..count].iter_mut().enumerate() {
                    let len = ZERO_BYTES.min(bytes - index as u32 * ZERO_BYTES);
                    *local = device.zeroes.local(0, len);
                }
                let zeroes: &[Local] = &zeroes[..count];
                chain.write(id, zeroes, address, seg.key);
            }
        }
        self.seg_done += bytes;
        self.done += bytes;
        1
    }
}
