//! The short way of plain reads and writes: one READ or WRITE (10) or (16) without faults, whose
//! one data descriptor has exactly its bytes, for a logical unit without unit attention.
//!
//! It says nothing that the general way (`admit`, `execute`) does not say of the same command: what
//! is not plain, or finds no slot or buffer, goes there untouched.
//!
//! Where the fabric lends the initiator's memory and the device waits for nothing, the command is
//! done and answered in the call that took it, and never becomes a request. A write whose data came
//! with it is done in that call too, out of the received bytes; its response keeps a slot until it
//! is sent.

use bdev::{Io, IoDone, IoOp, IoStatus};
use reactor::Tag;
use transport::srp::{CDB_BYTES, DirectCmd, Direction, ImmediateCmd, Lun, Rsp, SolNot};
use transport::{ConnId, DataIn, Fabric, Recv};

use crate::limits::IO_BYTES_MAX;
use crate::scsi;
use crate::shard::command::request::{Header, Job, Phase, Source};
use crate::shard::connections::connection::{Connection, State};
use crate::shard::coverage::{Mark, mark};
use crate::shard::lun::{Luns, Mapping};
use crate::shard::shard::Shard;

/// Where a command goes that its channel and its logical unit welcome: LUN and mapping.
#[inline(always)]
fn welcome(connection: &Connection, luns: &Luns, lun: Lun, credits: i32) -> Option<(u16, Tag)> {
    let lun = lun.number()?;
    let mapping = luns.find(connection.target, lun)?;
    let nexus = connection.nexus.as_ref()?;
    let welcome = connection.state == State::Live && connection.req_lim >= credits;
    (welcome && nexus.attentions(lun) == 0).then_some((lun, mapping))
}

/// What a plain command with `bytes` bytes of data does at its logical unit.
#[inline(always)]
fn plain(unit: &Mapping, cdb: &[u8; CDB_BYTES], direction: Direction, bytes: u32) -> Option<IoOp> {
    if unit.passes || unit.limited {
        return None;
    }
    let (op, wanted) = scsi::transfer(cdb, &unit.geometry, unit.read_only, IO_BYTES_MAX)?;
    let way = if op.changes_medium() { Direction::Out } else { Direction::In };
    (bytes == wanted && direction == way).then_some(op)
}

impl<F: Fabric> Shard<F> {
    /// Starts a command if it is a plain read or write, and spends `credits`, 1 unless that has
    /// been done. `Err`: nothing was done, the general way decides.
    #[inline(always)]
    pub(crate) fn begin_transfer(
        &mut self,
        conn: ConnId,
        recv: Recv,
        cmd: &DirectCmd,
        credits: i32,
    ) -> Result<(), Recv> {
        let slot = self.connections[conn.index as usize].as_mut();
        let connection = slot.expect("the fabric names connections that were not released");
        let (direction, bytes) = (cmd.direction, cmd.seg.len);
        let Some((lun, at)) = welcome(connection, &self.luns, cmd.lun, credits) else {
            return Err(recv);
        };
        let unit = self.luns.mapping(at);
        let Some(op) = plain(unit, &cmd.cdb, direction, bytes) else { return Err(recv) };
        if self.requests.is_full() {
            return Err(recv);
        }
        let device = unit.device;
        let buf = match self.fabric.place(conn, cmd.seg, unit.geometry.buf_align) {
            Some(mut buf) => {
                if self.luns.at_once(device, &op, bytes, &mut buf) {
                    mark(Mark::DoneAtOnce);
                    self.turn_bytes += u64::from(bytes);
                    connection.req_lim -= credits;
                    let is_read = direction == Direction::In;
                    let (iu, solicited) = good(connection, cmd.tag, cmd.sol_not, is_read, bytes);
                    let own = Self::own_tag(conn);
                    let over = self.fabric.finish(conn, own, recv, Some(buf), &iu, solicited);
                    assert!(over, "a fabric that lends memory answers in the call");
                    return Ok(());
                }
                buf
            }
            None => match Self::take(&mut self.pool, self.reserved, bytes as usize) {
                Some(buf) => buf,
                None => return Err(recv),
            },
        };
        self.turn_bytes += u64::from(bytes);
        self.luns.begin_use(at);
        connection.begin(credits);
        let header =
            Header { tag: cmd.tag, sol_not: cmd.sol_not, lun: Some(lun), mapping: Some(at) };
        let (tag, request) = self.requests.take().expect("a slot is free");
        request.begin(conn, recv, &header, Job::Io(op));
        request.plain = true;
        request.direction = Some(direction);
        request.bytes = bytes;
        request.source = Source::Direct(cmd.seg);
        if direction == Direction::Out && !buf.is_peer() {
            request.phase = Phase::Fetching;
            self.fabric.fetch(conn, tag, buf, &[cmd.seg]);
        } else {
            if buf.is_peer() {
                mark(Mark::Lent);
            }
            request.submitted = self.now;
            self.luns.submit(device, Io { tag, op, buf: Some(buf) });
        }
        Ok(())
    }

    /// Does and answers a plain write whose data came with it, if its device waits for nothing.
    /// `credits` and `Err` as in [`Shard::begin_transfer`].
    #[inline(never)]
    pub(crate) fn write_immediate(
        &mut self,
        conn: ConnId,
        recv: Recv,
        credits: i32,
    ) -> Result<(), Recv> {
        let slot = self.connections[conn.index as usize].as_mut();
        let connection = slot.expect("the fabric names connections that were not released");
        let Some(offset) = connection.imm_data_offset else { return Err(recv) };
        let cmd = ImmediateCmd::parse(self.fabric.iu(conn, &recv), offset);
        let Some(ImmediateCmd { tag, lun, sol_not, cdb, data }) = cmd else { return Err(recv) };
        let bytes = data.len() as u32;
        let Some((lun, at)) = welcome(connection, &self.luns, lun, credits) else {
            return Err(recv);
        };
        let unit = self.luns.mapping(at);
        let Some(op) = plain(unit, cdb, Direction::Out, bytes) else { return Err(recv) };
        let device = unit.device;
        // Before the write: the response needs a slot until it is sent.
        if self.requests.is_full() || !self.luns.write_at_once(device, &op, data) {
            return Err(recv);
        }
        mark(Mark::WrittenAtOnce);
        self.turn_bytes += u64::from(bytes);
        connection.begin(credits);
        let (iu, solicited) = good(connection, tag, sol_not, false, bytes);
        let header = Header { tag, sol_not, lun: Some(lun), mapping: None };
        let (tag, request) = self.requests.take().expect("a slot is free");
        request.begin(conn, recv, &header, Job::Reply);
        request.phase = Phase::Replying;
        let recv = request.recv.take().expect("just given");
        if self.fabric.finish(conn, tag, recv, None, &iu, solicited) {
            self.requests.free(tag);
            self.end_request(conn);
        }
        Ok(())
    }

    /// Answers a plain read or write that its device has done. `Err`: it did not go well, is no
    /// longer wanted, or is not plain; nothing was done, the general way decides.
    #[inline]
    pub(crate) fn end_transfer(&mut self, done: IoDone) -> Result<(), IoDone> {
        let IoDone { tag, status, .. } = done;
        let request = self.requests.get_mut(tag).expect("devices return tags in flight");
        let (Source::Direct(seg), Some(at)) = (request.source, request.mapping) else {
            return Err(done);
        };
        let slot = self.connections[request.conn.index as usize].as_mut();
        let connection = slot.expect("a channel with requests is not released");
        let wanted = request.plain && request.aborts == 0 && connection.answers();
        let (conn, bytes, is_read) = (request.conn, request.bytes, request.reads());
        let took_ns = self.now.ns_since(request.submitted);
        if !wanted || !status.is_good() || !self.luns.end_transfer(at, is_read, bytes, took_ns) {
            return Err(done);
        }
        let (Some(buf), Some(recv)) = (done.buf, request.recv.take()) else {
            unreachable!("a transfer has a buffer, and its receive until the response")
        };
        request.phase = Phase::Replying;
        request.mapping = None;
        let (iu, solicited) = good(connection, request.tag, request.sol_not, is_read, bytes);
        if buf.is_peer() || !is_read {
            // Data in the initiator's own memory is where it belongs.
            let loan = if buf.is_peer() {
                Some(buf)
            } else {
                self.pool.put(buf);
                None
            };
            if self.fabric.finish(conn, tag, recv, loan, &iu, solicited) {
                self.requests.free(tag);
                self.end_request(conn);
            }
            return Ok(());
        }
        self.fabric.repost(conn, recv);
        let data = match status {
            IoStatus::GoodNoData => DataIn::NoData { buf: Some(buf), len: bytes, to: &[seg] },
            _ => DataIn::Buf { buf, len: bytes, to: &[seg] },
        };
        self.fabric.reply(conn, tag, &iu, solicited, data);
        Ok(())
    }
}

/// Counts a read or write that went well; its response, and whether that is solicited.
#[inline(always)]
fn good(
    connection: &mut Connection,
    tag: [u8; 8],
    sol_not: SolNot,
    is_read: bool,
    bytes: u32,
) -> ([u8; Rsp::LEN_MIN], bool) {
    connection.commands += 1;
    if is_read {
        connection.bytes_read += u64::from(bytes);
    } else {
        connection.bytes_written += u64::from(bytes);
    }
    let mut iu = [0; Rsp::LEN_MIN];
    let solicited = sol_not.solicits(true);
    Rsp::good(tag, connection.grant(), solicited).emit(&mut iu);
    (iu, solicited)
}
