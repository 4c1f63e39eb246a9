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
use transport::srp::{CDB_BYTES, DirectCmd, Direction, ImmediateCmd, Lun, Rsp, SolNot};
use transport::{ConnId, DataIn, Fabric, Recv};

use super::job::{Header, Job, Source};
use super::request::Phase;
use super::{Commands, Requests};
use crate::limits::IO_BYTES_MAX;
use crate::scsi;
use crate::shard::connections::connection::Connection;
use crate::shard::connections::table::{Connections, own_tag};
use crate::shard::coverage::{Mark, mark};
use crate::shard::names::{MappingKey, RequestKey, SrpTag};
use crate::shard::units::map::Luns;
use crate::shard::units::mapping::Mapping;

/// Where a command goes that its logical unit welcomes: LUN and mapping.
#[inline(always)]
fn welcome(connection: &Connection, luns: &Luns, lun: Lun) -> Option<(u16, MappingKey)> {
    let lun = lun.number()?;
    let mapping = luns.find(connection.target(), lun)?;
    connection.session()?.is_quiet(lun).then_some((lun, mapping))
}

/// What a plain command with `bytes` bytes of data does at its logical unit.
#[inline(always)]
fn plain(unit: &Mapping, cdb: &[u8; CDB_BYTES], direction: Direction, bytes: u32) -> Option<IoOp> {
    if !unit.is_plain() {
        return None;
    }
    let (op, wanted) = scsi::transfer(cdb, unit.geometry(), unit.is_read_only(), IO_BYTES_MAX)?;
    let way = if op.changes_medium() { Direction::Out } else { Direction::In };
    (bytes == wanted && direction == way).then_some(op)
}

/// What the response to a write needs that is done.
pub(super) struct Written {
    tag: SrpTag,
    sol_not: SolNot,
    lun: u16,
    bytes: u32,
}

impl Commands {
    /// Starts a command if it is a plain read or write. `Err`: nothing was done, the general way
    /// decides.
    #[inline(always)]
    pub(super) fn begin_transfer<F: Fabric>(
        &mut self,
        (connection, fabric): (&mut Connection, &mut F),
        luns: &mut Luns,
        conn: ConnId,
        recv: Recv,
        cmd: &DirectCmd,
    ) -> Result<(), Recv> {
        let (direction, bytes) = (cmd.direction, cmd.seg.len);
        let Some((lun, at)) = welcome(connection, luns, cmd.lun) else { return Err(recv) };
        let unit = luns.mapping(at);
        let Some(op) = plain(unit, &cmd.cdb, direction, bytes) else { return Err(recv) };
        if self.requests.slots.is_full() {
            return Err(recv);
        }
        let device = unit.device();
        let buf = match fabric.place(conn, cmd.seg, unit.geometry().buf_align) {
            Some(mut buf) => {
                if luns.devices_mut().at_once(device, &op, bytes, &mut buf) {
                    mark(Mark::DoneAtOnce);
                    self.turn_bytes += u64::from(bytes);
                    let (iu, solicited) = good(connection, cmd.tag, cmd.sol_not, direction, bytes);
                    let own = own_tag(conn);
                    let over = fabric.finish(conn, own, recv, Some(buf), &iu, solicited);
                    assert!(over, "a fabric that lends memory answers in the call");
                    return Ok(());
                }
                buf
            }
            None => match self.requests.buffers.take(bytes as usize) {
                Some(buf) => buf,
                None => return Err(recv),
            },
        };
        self.turn_bytes += u64::from(bytes);
        luns.begin_use(at);
        connection.begin();
        let header =
            Header { tag: cmd.tag, sol_not: cmd.sol_not, lun: Some(lun), mapping: Some(at) };
        let now = self.requests.now;
        let (key, request) = self.requests.take_slot();
        request.begin(conn, recv, &header, Job::Io(op));
        request.set_plain(direction, cmd.seg);
        if direction == Direction::Out && !buf.is_peer() {
            request.enter(Phase::Fetching);
            fabric.fetch(conn, key.tag(), buf, &[cmd.seg]);
        } else {
            if buf.is_peer() {
                mark(Mark::Lent);
            }
            request.submit(now);
            luns.devices_mut().submit(device, Io { tag: key.tag(), op, buf: Some(buf) });
        }
        Ok(())
    }

    /// Does a plain write whose data came with it, if its device waits for nothing. `None`: nothing
    /// was done, the general way decides.
    pub(super) fn write_immediate(
        &mut self,
        connection: &Connection,
        luns: &mut Luns,
        cmd: &ImmediateCmd<'_>,
    ) -> Option<Written> {
        let ImmediateCmd { tag, lun, sol_not, cdb, data } = *cmd;
        let bytes = data.len() as u32;
        let (lun, at) = welcome(connection, luns, lun)?;
        let unit = luns.mapping(at);
        let op = plain(unit, cdb, Direction::Out, bytes)?;
        let device = unit.device();
        // Before the write: the response needs a slot until it is sent.
        if self.requests.slots.is_full() || !luns.devices_mut().write_at_once(device, &op, data) {
            return None;
        }
        mark(Mark::WrittenAtOnce);
        self.turn_bytes += u64::from(bytes);
        Some(Written { tag, sol_not, lun, bytes })
    }

    /// Answers a plain write that was done as it came.
    pub(super) fn end_immediate<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        conn: ConnId,
        recv: Recv,
        written: Written,
    ) {
        let Written { tag, sol_not, lun, bytes } = written;
        let (connection, fabric) = connections.split(conn);
        connection.begin();
        let (iu, solicited) = good(connection, tag, sol_not, Direction::Out, bytes);
        let header = Header { tag, sol_not, lun: Some(lun), mapping: None };
        let (key, request) = self.requests.take_slot();
        request.begin(conn, recv, &header, Job::Reply);
        request.enter(Phase::Replying);
        let recv = request.take_recv();
        if fabric.finish(conn, key.tag(), recv, None, &iu, solicited) {
            self.requests.slots.free(key.tag());
            connections.end_request(conn);
        }
    }
}

impl Requests {
    /// Answers a plain read or write that its device has done. `Err`: it did not go well, is no
    /// longer wanted, or is not plain; nothing was done, the general way decides.
    #[inline]
    pub(super) fn end_transfer<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        done: IoDone,
    ) -> Result<(), IoDone> {
        let IoDone { tag, status, .. } = done;
        let now = self.now;
        let request = self.slots.get_mut(tag).expect("devices return tags in flight");
        let (Source::Direct(seg), Some(at)) = (request.source(), request.mapping()) else {
            return Err(done);
        };
        let conn = request.conn();
        let (connection, fabric) = connections.split(conn);
        let wanted = request.is_plain() && connection.answers();
        let (bytes, is_read, took_ns) = (request.bytes(), request.reads(), request.took_ns(now));
        if !wanted || !status.is_good() || !luns.end_transfer(at, is_read, bytes, took_ns) {
            return Err(done);
        }
        let Some(buf) = done.buf else { unreachable!("a transfer has a buffer") };
        let recv = request.take_recv();
        request.enter(Phase::Replying);
        request.leave_plain();
        let direction = if is_read { Direction::In } else { Direction::Out };
        let (tag, sol_not) = (request.tag(), request.sol_not());
        let (iu, solicited) = good(connection, tag, sol_not, direction, bytes);
        let key = RequestKey::of(done.tag);
        if buf.is_peer() || !is_read {
            // Data in the initiator's own memory is where it belongs.
            let loan = if buf.is_peer() {
                Some(buf)
            } else {
                self.buffers.put(buf);
                None
            };
            if fabric.finish(conn, key.tag(), recv, loan, &iu, solicited) {
                self.slots.free(key.tag());
                connections.end_request(conn);
            }
            return Ok(());
        }
        fabric.repost(conn, recv);
        let data = match status {
            IoStatus::GoodNoData => DataIn::NoData { buf: Some(buf), len: bytes, to: &[seg] },
            _ => DataIn::Buf { buf, len: bytes, to: &[seg] },
        };
        fabric.reply(conn, key.tag(), &iu, solicited, data);
        Ok(())
    }
}

/// Counts a read or write that went well; its response, and whether that is solicited.
#[inline(always)]
fn good(
    connection: &mut Connection,
    tag: SrpTag,
    sol_not: SolNot,
    direction: Direction,
    bytes: u32,
) -> ([u8; Rsp::LEN_MIN], bool) {
    connection.count(Some(direction), bytes);
    let mut iu = [0; Rsp::LEN_MIN];
    let solicited = sol_not.solicits(true);
    Rsp::good(tag, connection.credits().grant(), solicited).emit(&mut iu);
    (iu, solicited)
}
