//! From a running request to its response, and what becomes of one that nobody waits for.

use bdev::{Io, IoDone, IoOp, IoStatus};
use reactor::Tag;
use reactor::pool::Buf;
use transport::srp::{Direction, Rsp};
use transport::{CloseReason, ConnId, DataIn, Fabric};

use crate::limits::SENSE_BYTES_MAX;
use crate::scsi::{ScsiStatus, Sense, Step, sense_of};
use crate::shard::command::request::{Job, Outcome, Phase, Request};
use crate::shard::connections::connection::State;
use crate::shard::coverage::{At, Mark, Met, mark, met};
use crate::shard::shard::Shard;

impl<F: Fabric> Shard<F> {
    #[inline]
    pub(crate) fn request(&mut self, tag: Tag) -> &mut Request {
        self.requests.get_mut(tag).expect("every tag comes back once, before its slot is freed")
    }

    /// True when a request that has just come back goes on: nobody aborted it and its channel
    /// still answers. Otherwise it has been discarded.
    pub(crate) fn goes_on(&mut self, tag: Tag) -> bool {
        let request = self.request(tag);
        let (aborted, conn) = (request.aborts != 0, request.conn);
        if !aborted && self.connection(conn).answers() {
            return true;
        }
        mark(if aborted { Mark::Discarded } else { Mark::Orphaned });
        self.discard(tag);
        false
    }

    /// The fabric has read the initiator's memory.
    #[inline(never)]
    pub(crate) fn on_fetched(&mut self, tag: Tag, buf: Buf, ok: bool) {
        let request = self.request(tag);
        let was_table = request.phase == Phase::FetchingTable;
        met(request.phase, if ok { Met::Success } else { Met::Failure });
        if was_table {
            request.table = Some(buf);
        } else {
            request.data = Some(buf);
        }
        if !ok {
            // The fabric is closing the channel: nothing more may be said on it.
            let conn = self.request(tag).conn;
            self.close(conn, CloseReason::Link);
            return self.discard(tag);
        }
        if !self.goes_on(tag) {
            return;
        }
        if !was_table {
            return self.execute(tag);
        }
        if self.collect_segs(tag) {
            self.fetch_data(tag);
        } else {
            mark(Mark::TableShort);
            self.respond(tag, Outcome::check(Sense::invalid_field_in_cdb(0)), false);
        }
    }

    /// All data is here: the job.
    #[inline]
    pub(crate) fn execute(&mut self, tag: Tag) {
        let request = self.requests.get_mut(tag).expect("begun");
        request.phase = Phase::Executing;
        match request.job {
            Job::Io(op) => {
                let buf = request.data.take();
                let mapping = request.mapping.expect("jobs have a logical unit");
                let device = self.luns.mapping(mapping).device;
                request.submitted = self.now;
                self.luns.submit(device, Io { tag, op, buf });
            }
            Job::Steps(_) => self.step(tag, IoStatus::Good),
            Job::Pass => self.pass(tag),
            Job::Reply => self.respond(tag, Outcome::GOOD, false),
        }
    }

    /// The next operation of a job of several.
    fn step(&mut self, tag: Tag, last: IoStatus) {
        let request = self.requests.get_mut(tag).expect("begun");
        let Job::Steps(steps) = &mut request.job else { unreachable!("only jobs of steps") };
        let data = request.data.as_ref().map_or(&[][..], |buf| {
            buf.private().expect("data that is looked at twice is copied first")
        });
        let scratch = request.scratch.as_mut();
        let room = scratch.map_or(&mut [][..], |buf| {
            let capacity = buf.capacity();
            buf.set_len(capacity);
            buf.private_mut().expect("pool buffers are private")
        });
        let op = match steps.next(last, data, room) {
            Step::Io(op) => op,
            Step::Done(Ok(())) => return self.respond(tag, Outcome::GOOD, false),
            Step::Done(Err(sense)) => return self.respond(tag, Outcome::check(sense), false),
        };
        let mapping = self.luns.mapping(request.mapping.expect("jobs have a logical unit"));
        let buf = match op {
            IoOp::Read { blocks, .. } | IoOp::Write { blocks, .. } => {
                let mut buf = request.scratch.take().expect("reads and writes use the scratch");
                buf.set_len(blocks as usize * mapping.geometry.block_bytes as usize);
                Some(buf)
            }
            IoOp::Flush | IoOp::WriteZeroes { .. } | IoOp::Unmap { .. } => None,
        };
        let device = mapping.device;
        request.submitted = self.now;
        self.luns.submit(device, Io { tag, op, buf });
    }

    /// A device has finished an operation.
    #[inline]
    pub(crate) fn on_done(&mut self, done: IoDone) {
        if let Err(done) = self.end_transfer(done) {
            self.on_done_any(done);
        }
    }

    #[inline(never)]
    fn on_done_any(&mut self, done: IoDone) {
        let IoDone { tag, status, buf } = done;
        met(At::Executing, if status.is_good() { Met::Success } else { Met::Failure });
        let request = self.requests.get_mut(tag).expect("devices return tags in flight");
        let mapping = self.luns.mapping(request.mapping.expect("jobs have a logical unit"));
        let (device, block_bytes) = (mapping.device, mapping.geometry.block_bytes);
        let counts = self.luns.on_done(device);
        let took_ns = self.now.ns_since(request.submitted);
        match request.job {
            Job::Io(op) => {
                request.data = buf;
                counts.count(&op, block_bytes, status, took_ns);
                if !self.goes_on(tag) {
                    return;
                }
                let outcome = sense_of(status, &op).map_or(Outcome::GOOD, Outcome::check);
                self.respond(tag, outcome, status == IoStatus::GoodNoData);
            }
            Job::Steps(steps) => {
                // Operations without data leave the scratch where it is.
                if buf.is_some() {
                    request.scratch = buf;
                }
                if let Some(op) = steps.running() {
                    counts.count(&op, block_bytes, status, took_ns);
                }
                if self.goes_on(tag) {
                    self.step(tag, status);
                }
            }
            Job::Pass => {
                request.data = buf;
                self.on_passed(tag, device, took_ns);
            }
            Job::Reply => unreachable!("nothing was submitted"),
        }
    }

    /// Builds and sends the response. `no_data`: a read whose data is all zeros and nowhere.
    pub(crate) fn respond(&mut self, tag: Tag, outcome: Outcome, no_data: bool) {
        if outcome.status != ScsiStatus::Good {
            let request = self.request(tag);
            request.residual = request.residual_of_failure();
            request.bytes = 0;
        }
        let mut sense = [0; SENSE_BYTES_MAX];
        let sense_len = outcome.sense.map_or(0, |what| what.emit(false, &mut sense));
        self.respond_with(tag, outcome.status as u8, &sense[..sense_len], no_data);
    }

    /// As [`Shard::respond`], with residual and bytes moved as the request says.
    #[inline]
    pub(crate) fn respond_with(&mut self, tag: Tag, status: u8, sense: &[u8], no_data: bool) {
        let good = status == ScsiStatus::Good as u8;
        let request = self.request(tag);
        let moves = request.reads() && request.bytes > 0;
        if moves {
            let covered = self.collect_segs(tag);
            debug_assert!(covered, "checked when the table was fetched");
        }
        self.let_go(tag);
        let request = self.requests.get_mut(tag).expect("begun");
        request.phase = Phase::Replying;
        let conn = request.conn;
        let connection = self.connections[conn.index as usize].as_mut().expect("has requests");
        // The receive goes back before the credit that it stands for.
        let recv = request.recv.take().expect("held until the response");
        self.fabric.repost(conn, recv);
        let solicited = request.sol_not.solicits(good);
        let rsp = Rsp {
            tag: request.tag,
            req_lim_delta: connection.grant(),
            solicited,
            status,
            residual: request.residual,
            sense,
            response_code: None,
        };
        let room = self.rsp.len().min(connection.ti_bytes_max as usize);
        let len = rsp.emit(&mut self.rsp[..room]);
        connection.commands += 1;
        match request.direction {
            Some(Direction::In) => connection.bytes_read += u64::from(request.bytes),
            Some(Direction::Out) => connection.bytes_written += u64::from(request.bytes),
            None => {}
        }
        let (len_in, to) = (request.bytes, &self.segs[..]);
        let data = match request.data.take() {
            buf if !moves => {
                if let Some(buf) = buf {
                    if buf.is_peer() { self.fabric.give_back(buf) } else { self.pool.put(buf) }
                }
                DataIn::None { buf: None }
            }
            buf if no_data => DataIn::NoData { buf, len: len_in, to },
            Some(buf) => DataIn::Buf { buf, len: len_in, to },
            None => unreachable!("a read that moves data has a buffer"),
        };
        self.fabric.reply(conn, tag, &self.rsp[..len], solicited, data);
    }

    /// A response is in the initiator's hands, or lost with its channel.
    #[inline]
    pub(crate) fn on_replied(&mut self, tag: Tag, buf: Option<Buf>, ok: bool) {
        if let Some(buf) = buf {
            self.home(buf);
        }
        if tag.index() == u32::MAX as usize {
            return self.on_own_sent(tag.generation(), ok);
        }
        met(At::Replying, if ok { Met::Success } else { Met::Failure });
        let conn = self.request(tag).conn;
        self.requests.free(tag);
        if !ok {
            self.close(conn, CloseReason::Link);
        }
        self.end_request(conn);
    }

    /// An information unit that belongs to no request has been sent. SRP_T_LOGOUT is the last one.
    #[cold]
    fn on_own_sent(&mut self, index: u32, ok: bool) {
        let slot = self.connections[index as usize].as_mut();
        let connection = slot.expect("a channel is released after all its replies have ended");
        connection.own_in_flight -= 1;
        let conn = connection.id;
        if !ok {
            mark(Mark::OwnSendFailed);
            self.close(conn, CloseReason::Link);
        }
        let connection = self.connection(conn);
        if connection.own_in_flight > 0 {
            return;
        }
        match connection.state {
            State::Leaving { said: true, .. } => self.close(conn, CloseReason::Local),
            State::Gone if connection.in_flight == 0 => self.on_idle(conn),
            _ => {}
        }
    }

    /// The command can no longer change data or use its logical unit.
    #[inline]
    fn let_go(&mut self, tag: Tag) {
        let request = self.requests.get_mut(tag).expect("begun");
        if let Some(scratch) = request.scratch.take() {
            self.pool.put(scratch);
        }
        if let Some(table) = request.table.take() {
            self.pool.put(table);
        }
        let Some(mapping) = request.mapping.take() else { return };
        if std::mem::take(&mut request.exclusive) {
            self.luns.mapping(mapping).lu.leave();
        }
        if self.luns.end_use(mapping) {
            for token in self.luns.take_leaving(mapping) {
                self.answer(token);
            }
        }
    }

    /// Ends a request that nobody waits for: aborted, or its channel is gone. Its credit is owed.
    #[cold]
    fn discard(&mut self, tag: Tag) {
        self.let_go(tag);
        let request = self.requests.get_mut(tag).expect("begun");
        let (conn, aborts) = (request.conn, request.aborts);
        let (buf, recv) = (request.data.take(), request.recv.take());
        self.requests.free(tag);
        if let Some(buf) = buf {
            self.home(buf);
        }
        if let Some(recv) = recv {
            self.fabric.repost(conn, recv);
            self.connection(conn).owed += 1;
        }
        self.settle_aborts(aborts);
        self.end_request(conn);
    }

    #[inline]
    pub(crate) fn end_request(&mut self, conn: ConnId) {
        let connection = self.connection(conn);
        connection.in_flight -= 1;
        if connection.in_flight == 0 && (connection.owed > 0 || connection.state != State::Live) {
            self.on_idle(conn);
        }
    }
}
