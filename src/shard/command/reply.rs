//! The end of a command: its response, or that nobody waits for one.

use reactor::Tag;
use reactor::pool::Buf;
use transport::srp::{Rsp, covers, decode_table};
use transport::{CloseReason, DataIn, Fabric, RemoteSeg};

use super::Requests;
use super::job::{Outcome, Source};
use super::request::{Phase, Request};
use crate::limits::SENSE_BYTES_MAX;
use crate::scsi::ScsiStatus;
use crate::shard::connections::table::{Connections, is_own};
use crate::shard::coverage::{At, Mark, Met, mark, met};
use crate::shard::names::RequestKey;
use crate::shard::units::map::Luns;

impl Requests {
    /// True when a request that has just come back goes on: nobody aborted it and its connection
    /// still answers. Otherwise it has been discarded.
    pub(super) fn goes_on<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        key: RequestKey,
    ) -> bool {
        let request = self.request(key);
        let (aborted, conn) = (request.is_aborted(), request.conn());
        if !aborted && connections.get(conn).answers() {
            return true;
        }
        mark(if aborted { Mark::Discarded } else { Mark::Orphaned });
        self.discard(connections, luns, key);
        false
    }

    /// Builds and sends the response. `no_data`: a read whose data is all zeros and nowhere.
    pub(super) fn respond<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        key: RequestKey,
        outcome: Outcome,
        no_data: bool,
    ) {
        if outcome.status != ScsiStatus::Good {
            self.request(key).fail();
        }
        let mut sense = [0; SENSE_BYTES_MAX];
        let sense_len = outcome.sense.map_or(0, |what| what.emit(false, &mut sense));
        let sense = &sense[..sense_len];
        self.respond_with(connections, luns, key, outcome.status as u8, sense, no_data);
    }

    /// As [`Requests::respond`], with residual and bytes moved as the request says.
    #[inline]
    pub(super) fn respond_with<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        key: RequestKey,
        status: u8,
        sense: &[u8],
        no_data: bool,
    ) {
        let request = self.slots.get(key.tag()).expect("begun");
        let moves = request.reads() && request.bytes() > 0;
        if moves {
            let covered = collect_segs(request, connections, &mut self.segs);
            debug_assert!(covered, "checked when the table was fetched");
        }
        self.let_go(luns, key);
        let request = self.slots.get_mut(key.tag()).expect("begun");
        request.enter(Phase::Replying);
        let conn = request.conn();
        let (connection, fabric) = connections.split(conn);
        // The receive goes back before the credit that it stands for.
        fabric.repost(conn, request.take_recv());
        let solicited = request.sol_not().solicits(status == ScsiStatus::Good as u8);
        let rsp = Rsp {
            tag: request.tag(),
            req_lim_delta: connection.credits().grant(),
            solicited,
            status,
            residual: request.residual(),
            sense,
            response_code: None,
        };
        let room = self.rsp.len().min(connection.agreed().ti_bytes_max as usize);
        let len = rsp.emit(&mut self.rsp[..room]);
        connection.count(request.direction(), request.bytes());
        let (len_in, to) = (request.bytes(), &self.segs[..]);
        let data = match request.take_data() {
            buf if !moves => {
                if let Some(buf) = buf {
                    if buf.is_peer() { fabric.give_back(buf) } else { self.buffers.put(buf) }
                }
                DataIn::None { buf: None }
            }
            buf if no_data => DataIn::NoData { buf, len: len_in, to },
            Some(buf) => DataIn::Buf { buf, len: len_in, to },
            None => unreachable!("a read that moves data has a buffer"),
        };
        fabric.reply(conn, key.tag(), &self.rsp[..len], solicited, data);
    }

    /// A response is in the initiator's hands, or lost with its connection.
    #[inline]
    pub(crate) fn on_replied<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        tag: Tag,
        buf: Option<Buf>,
        ok: bool,
    ) {
        if let Some(buf) = buf {
            self.buffers.home(connections.fabric_mut(), buf);
        }
        if is_own(tag) {
            if let Some((conn, reason)) = connections.on_own_sent(tag, ok) {
                self.close(connections, conn, reason);
            }
            return;
        }
        met(At::Replying, if ok { Met::Success } else { Met::Failure });
        let key = RequestKey::of(tag);
        let conn = self.request(key).conn();
        self.slots.free(tag);
        if !ok {
            self.close(connections, conn, CloseReason::Link);
        }
        connections.end_request(conn);
    }

    /// The command can no longer change data or use its logical unit.
    #[inline]
    fn let_go(&mut self, luns: &mut Luns, key: RequestKey) {
        let request = self.slots.get_mut(key.tag()).expect("begun");
        if let Some(scratch) = request.take_scratch() {
            self.buffers.put(scratch);
        }
        if let Some(table) = request.take_table() {
            self.buffers.put(table);
        }
        let Some((mapping, exclusive)) = request.leave_unit() else { return };
        if exclusive {
            luns.mapping(mapping).lu().leave();
        }
        if luns.end_use(mapping) {
            self.left.extend(luns.take_leaving(mapping));
            self.has_news = true;
        }
    }

    /// Ends a request that nobody waits for: it was aborted, or its connection is gone. Its credit
    /// is owed.
    #[cold]
    pub(super) fn discard<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        key: RequestKey,
    ) {
        self.let_go(luns, key);
        let request = self.slots.get_mut(key.tag()).expect("begun");
        let (conn, aborts) = (request.conn(), request.aborts());
        let (buf, recv) = (request.take_data(), request.recv_left());
        self.slots.free(key.tag());
        let (connection, fabric) = connections.split(conn);
        if let Some(buf) = buf {
            self.buffers.home(fabric, buf);
        }
        if let Some(recv) = recv {
            fabric.repost(conn, recv);
            connection.credits().owe();
        }
        self.aborts.settle(aborts);
        self.has_news = true;
        connections.end_request(conn);
    }
}

/// Collects the segments of a request's data. False when a fetched table does not cover what the
/// descriptor promised.
pub(super) fn collect_segs<F: Fabric>(
    request: &Request,
    connections: &Connections<F>,
    segs: &mut Vec<RemoteSeg>,
) -> bool {
    segs.clear();
    match request.source() {
        Source::None | Source::Immediate => {}
        Source::Direct(seg) => segs.push(seg),
        Source::Table { at, bytes } => {
            let iu = connections.iu(request.conn(), request.recv());
            let entries = &iu[at as usize..][..bytes as usize];
            segs.extend(decode_table(entries).expect("whole entries, as planned"));
        }
        Source::ExternalTable(_) => {
            segs.extend(decode_table(request.table()).expect("whole entries, as planned"));
            return covers(segs.iter().copied(), request.bytes());
        }
    }
    true
}
