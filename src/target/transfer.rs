//! The short way of plain reads and writes: one READ or WRITE (10) or (16) without faults, whose
//! one data descriptor has exactly its bytes, for a logical unit without unit attention.
//!
//! It says nothing that the general way (`admit`, `execute`) does not say of the same command: what
//! is not plain, or finds no slot or buffer, goes there untouched.
//!
//! Where the fabric lends the initiator's memory and the device waits for nothing, the command is
//! done and answered in the call that took it, and never becomes a request.

use bdev::{Io, IoDone, IoStatus};
use transport::srp::{DirectCmd, Direction, Rsp, SolNot};
use transport::{ConnId, DataIn, Fabric, Recv};

use super::connection::{Connection, State};
use super::mark::{Mark, mark};
use super::request::{Header, Job, Phase, Source};
use super::shard::Shard;
use crate::limits::IO_BYTES_MAX;
use crate::scsi;

impl<F: Fabric> Shard<F> {
    /// Starts a command if it is a plain read or write, and spends `credits`, 1 unless that has
    /// been done. `Err`: nothing was done, the general way decides.
    #[inline(always)]
    pub(super) fn begin_transfer(
        &mut self,
        conn: ConnId,
        recv: Recv,
        cmd: &DirectCmd,
        credits: i32,
    ) -> Result<(), Recv> {
        let slot = self.connections[conn.index as usize].as_mut();
        let connection = slot.expect("the fabric names connections that were not released");
        let Some(lun) = cmd.lun.number() else { return Err(recv) };
        let Some(at) = self.luns.find(connection.target, lun) else { return Err(recv) };
        let Some(nexus) = &connection.nexus else { return Err(recv) };
        let welcome = connection.state == State::Live && connection.req_lim >= credits;
        if !welcome || nexus.attentions(lun) != 0 || self.requests.is_full() {
            return Err(recv);
        }
        let mapping = self.luns.mapping_mut(at);
        if mapping.passes || mapping.limited {
            return Err(recv);
        }
        let geometry = &mapping.geometry;
        let work = scsi::transfer(&cmd.cdb, geometry, mapping.read_only, IO_BYTES_MAX);
        let Some((op, bytes)) = work else { return Err(recv) };
        let direction = if op.changes_medium() { Direction::Out } else { Direction::In };
        if cmd.seg.len != bytes || cmd.direction != direction {
            return Err(recv);
        }
        let device = mapping.device;
        let buf = match self.fabric.place(conn, cmd.seg, geometry.buf_align) {
            Some(mut buf) => {
                if self.luns.at_once(device, &op, bytes, &mut buf) {
                    mark(Mark::DoneAtOnce);
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
        self.luns.begin_use(at);
        connection.req_lim -= credits;
        connection.in_flight += 1;
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

    /// Answers a plain read or write that its device has done. `Err`: it did not go well, is no
    /// longer wanted, or is not plain; nothing was done, the general way decides.
    #[inline]
    pub(super) fn end_transfer(&mut self, done: IoDone) -> Result<(), IoDone> {
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
