//! From a received information unit to a running request.
//!
//! Channels take turns. A command is planned, and starts when a slot and its buffers are free;
//! otherwise it stays a received information unit in front of its channel and nothing was taken.

use reactor::Tag;
use reactor::pool::Buf;
use transport::srp::{Cmd, CmdError, DataDesc, Direction, covers};
use transport::{ConnId, Fabric, Recv};

use super::connection::{Connection, State};
use super::request::{
    Content, Header, Job, Offered, Outcome, Phase, Plan, Planned, Request, Source,
};
use super::shard::Shard;
use crate::limits::{IO_BYTES_MAX, SEGMENTS_MAX};
use crate::scsi::opcodes::opcode::REPORT_LUNS;
use crate::scsi::{
    self, ANSWER_BYTES_MAX, LuView, Sense, Work, attention, decode, decode_absent, report_luns,
    request_sense,
};

/// Commands of one channel admitted before the next channel has its turn.
const TURN_COMMANDS: usize = 32;

/// Byte of an SRP_CMD's buffer format field, for the field pointer of its errors: the descriptors
/// are no part of the CDB, so the pointer names the CDB's first byte.
const NO_CDB_BYTE: u16 = 0;

/// What became of the oldest waiting command of a channel.
enum Admission {
    /// It runs, or has been answered.
    Started,
    /// No slot, buffer or exclusive access: later.
    Blocked(Recv),
    /// It was no command: the channel closes.
    Broken(Recv),
}

/// Buffers that a job starts with.
#[derive(Default)]
struct Bufs {
    data: Option<Buf>,
    scratch: Option<Buf>,
    table: Option<Buf>,
}

impl<F: Fabric> Shard<F> {
    /// Starts what can start, channel by channel.
    #[inline]
    pub(super) fn admit_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else { return };
            if self.admit_channel(index) {
                self.ready.push_back(index);
            } else if let Some(connection) = &mut self.connections[index as usize] {
                connection.queued = false;
            }
        }
    }

    /// True when the channel still has waiting commands.
    fn admit_channel(&mut self, index: u32) -> bool {
        for _ in 0..TURN_COMMANDS {
            let Some(connection) = &mut self.connections[index as usize] else { return false };
            if connection.state != State::Live {
                return false;
            }
            let Some(recv) = connection.waiting.pop_front() else { return false };
            let conn = connection.id;
            match self.admit(conn, recv) {
                Admission::Started => {}
                Admission::Blocked(recv) => {
                    self.connection(conn).waiting.push_front(recv);
                    return true;
                }
                Admission::Broken(recv) => {
                    self.violation(conn, Some(recv), "malformed_command");
                    return false;
                }
            }
        }
        self.connections[index as usize].as_ref().is_some_and(|c| !c.waiting.is_empty())
    }

    #[inline]
    fn admit(&mut self, conn: ConnId, recv: Recv) -> Admission {
        if self.requests.is_full() {
            return Admission::Blocked(recv);
        }
        let Some(plan) = self.plan(conn, &recv) else { return Admission::Broken(recv) };
        match plan.work {
            Planned::Run { job, direction, bytes } => {
                self.admit_run(conn, recv, plan.header, plan.offered, job, direction, bytes)
            }
            Planned::End(outcome) => {
                let request = Request::new(conn, recv, plan.header, Job::Reply, self.now);
                let tag = self.begin(request);
                self.request(tag).residual = plan.offered.residual(None, 0);
                self.respond(tag, outcome, false);
                Admission::Started
            }
            Planned::Make { content, allocation } => {
                let header = plan.header;
                let Some(buf) = self.make(conn, header.mapping, &content, allocation) else {
                    return Admission::Blocked(recv);
                };
                let made = buf.len() as u32;
                let table = match plan.offered.source {
                    Source::ExternalTable(seg) => match self.pool.take(seg.len as usize) {
                        Some(table) => Some(table),
                        None => {
                            self.pool.put(buf);
                            return Admission::Blocked(recv);
                        }
                    },
                    _ => None,
                };
                let mut request = Request::new(conn, recv, header, Job::Reply, self.now);
                request.data = Some(buf);
                request.direction = Some(Direction::In);
                request.bytes = made.min(plan.offered.bytes_in(Direction::In));
                request.residual = plan.offered.residual(Some(Direction::In), made.into());
                request.source = plan.offered.source;
                request.table = table;
                let tag = self.begin(request);
                self.start_data(tag);
                Admission::Started
            }
        }
    }

    /// Starts a job that moves `wanted` bytes by its CDB.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "the parts of a plan, moved out of it")]
    fn admit_run(
        &mut self,
        conn: ConnId,
        recv: Recv,
        header: Header,
        offered: Offered,
        job: Job,
        direction: Option<Direction>,
        wanted: u32,
    ) -> Admission {
        let room = direction.map_or(0, |direction| offered.bytes_in(direction));
        let residual = offered.residual(direction, wanted.into());
        if direction == Some(Direction::Out) && room < wanted {
            // Part of the data must not be written as if it were the whole.
            let mut request = Request::new(conn, recv, header, Job::Reply, self.now);
            request.residual = residual;
            let tag = self.begin(request);
            self.respond(tag, Outcome::check(Sense::INVALID_INFORMATION_UNIT), false);
            return Admission::Started;
        }
        let mapping = header.mapping.expect("jobs have a logical unit");
        let Some(bufs) = self.take_bufs(conn, mapping, &offered, &job, direction, wanted) else {
            return Admission::Blocked(recv);
        };
        let mut request = Request::new(conn, recv, header, job, self.now);
        request.exclusive = matches!(&request.job, Job::Steps(steps) if steps.is_atomic());
        request.direction = direction;
        request.bytes = wanted.min(room);
        request.residual = residual;
        request.source = offered.source;
        (request.data, request.scratch, request.table) = (bufs.data, bufs.scratch, bufs.table);
        let tag = self.begin(request);
        self.start_data(tag);
        Admission::Started
    }

    /// All buffers of a job, and exclusive access if it needs that; or nothing.
    #[inline]
    fn take_bufs(
        &mut self,
        conn: ConnId,
        mapping: Tag,
        offered: &Offered,
        job: &Job,
        direction: Option<Direction>,
        wanted: u32,
    ) -> Option<Bufs> {
        let mut bufs = Bufs::default();
        let mapping = self.luns.mapping(mapping);
        if let (Source::Direct(seg), Job::Io(_)) = (offered.source, job)
            && seg.len == wanted
            && offered.direction == direction
        {
            bufs.data = self.fabric.place(conn, seg, mapping.geometry.buf_align);
            if bufs.data.is_some() {
                return Some(bufs);
            }
        }
        let (scratch_bytes, exclusive) = match job {
            Job::Steps(steps) => (steps.scratch_bytes(IO_BYTES_MAX), steps.is_atomic()),
            Job::Io(_) | Job::Reply => (0, false),
        };
        let table_bytes = match offered.source {
            Source::ExternalTable(seg) => seg.len as usize,
            _ => 0,
        };
        let needs = [wanted as usize, scratch_bytes, table_bytes];
        let [data, scratch, table] = needs.map(|bytes| match bytes {
            0 => Some(None),
            bytes => self.pool.take(bytes).map(Some),
        });
        let short = data.is_none() || scratch.is_none() || table.is_none();
        if short || (exclusive && !mapping.lu.try_enter()) {
            for buf in [data, scratch, table].into_iter().flatten().flatten() {
                self.pool.put(buf);
            }
            return None;
        }
        bufs.data = data.flatten();
        bufs.scratch = scratch.flatten();
        bufs.table = table.flatten();
        Some(bufs)
    }

    /// Takes a slot for an admitted command.
    #[inline]
    fn begin(&mut self, request: Request) -> Tag {
        if let Some(mapping) = request.mapping {
            self.luns.begin_use(mapping);
        }
        self.connection(request.conn).in_flight += 1;
        self.requests.insert(request).unwrap_or_else(|_| panic!("a slot was free"))
    }

    /// Data that is made here, in a pool buffer; `None` when there is no buffer.
    fn make(
        &mut self,
        conn: ConnId,
        mapping: Option<Tag>,
        content: &Content,
        allocation: u64,
    ) -> Option<Buf> {
        let connection = self.connections[conn.index as usize].as_ref().expect("live channel");
        let whole = match content {
            Content::Luns(_) => 8 + 8 * self.luns.lun_count(connection.target),
            Content::Unit(_) | Content::Sense { .. } => ANSWER_BYTES_MAX,
        };
        let bytes = whole.min(usize::try_from(allocation).unwrap_or(usize::MAX));
        let mut buf = self.pool.take(bytes)?;
        let out = buf.private_mut().expect("pool buffers are private");
        let made = match content {
            Content::Unit(answer) => match mapping {
                Some(mapping) => answer.fill(&view(self.luns.mapping(mapping), connection), out),
                None => answer.fill(&LuView::absent(), out),
            },
            Content::Luns(select) => {
                if let Some(nexus) = &connection.nexus {
                    nexus.clear_all(attention::cleared_by(REPORT_LUNS));
                }
                report_luns(*select, self.luns.lun_list(connection.target), out)
            }
            Content::Sense { descriptor } => {
                let pending = mapping
                    .and_then(|mapping| next_attention(connection, self.luns.mapping(mapping).lun));
                request_sense(pending, *descriptor, out)
            }
        };
        buf.set_len(made);
        Some(buf)
    }

    /// What a received command asks for. `None`: it is no command.
    #[inline]
    fn plan(&self, conn: ConnId, recv: &Recv) -> Option<Plan> {
        let connection = self.connections[conn.index as usize].as_ref().expect("live channel");
        let iu = self.fabric.iu(conn, recv);
        let cmd = match Cmd::parse(iu, connection.imm_data_offset) {
            Ok(cmd) => cmd,
            Err(CmdError::Malformed(_)) => return None,
            Err(CmdError::Invalid(bad)) => {
                let header = Header { tag: bad.tag, sol_not: bad.sol_not, mapping: None };
                return Some(Plan::refuse(header, Sense::invalid_field_in_cdb(NO_CDB_BYTE)));
            }
        };
        let number = cmd.lun.number();
        let mapping = number.and_then(|lun| self.luns.find(connection.target, lun));
        let header = Header { tag: cmd.tag, sol_not: cmd.sol_not, mapping };
        let decoded = match (mapping, number) {
            (Some(mapping), Some(lun)) => {
                if !attention::bypasses_attention(cmd.cdb[0])
                    && let Some(sense) = next_attention(connection, lun)
                {
                    return Some(Plan::end(header, offer(&cmd, None), Outcome::check(sense)));
                }
                decode(cmd.cdb, &view(self.luns.mapping(mapping), connection))
            }
            _ => decode_absent(cmd.cdb, number.unwrap_or(u16::MAX)),
        };
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(sense) => {
                return Some(Plan::end(header, offer(&cmd, None), Outcome::check(sense)));
            }
        };
        let direction = match decoded.direction {
            scsi::Direction::None => None,
            scsi::Direction::In => Some(Direction::In),
            scsi::Direction::Out => Some(Direction::Out),
        };
        let Some(offered) = offer(&cmd, direction) else {
            return Some(Plan::refuse(header, Sense::invalid_field_in_cdb(NO_CDB_BYTE)));
        };
        let allocation = decoded.bytes;
        let work = match decoded.work {
            Work::Good => Planned::End(Outcome::GOOD),
            Work::Answer(answer) => Planned::Make { content: Content::Unit(answer), allocation },
            Work::ReportLuns(select) => {
                Planned::Make { content: Content::Luns(select), allocation }
            }
            Work::RequestSense { descriptor } => {
                Planned::Make { content: Content::Sense { descriptor }, allocation }
            }
            Work::Io(op) => Planned::Run { job: Job::Io(op), direction, bytes: allocation as u32 },
            Work::Steps(steps) => {
                Planned::Run { job: Job::Steps(steps), direction, bytes: allocation as u32 }
            }
        };
        Some(Plan { header, offered, work })
    }

    /// Starts to move what a request needs from the initiator, or the job if that is nothing.
    #[inline]
    pub(super) fn start_data(&mut self, tag: Tag) {
        let request = self.requests.get_mut(tag).expect("begun");
        if let Source::ExternalTable(seg) = request.source {
            let table = request.table.take().expect("taken with the job");
            request.phase = Phase::FetchingTable;
            return self.fabric.fetch(request.conn, tag, table, &[seg]);
        }
        self.fetch_data(tag);
    }

    /// Fetches data-out, its segments being known; then the job.
    #[inline]
    pub(super) fn fetch_data(&mut self, tag: Tag) {
        let request = self.requests.get_mut(tag).expect("begun");
        let to_fetch = request.direction == Some(Direction::Out)
            && request.data.as_ref().is_some_and(|data| !data.is_peer());
        if !to_fetch {
            return self.execute(tag);
        }
        if request.source == Source::Immediate {
            let conn = request.conn;
            let recv = request.recv.as_ref().expect("held until the response");
            let imm =
                self.connections[conn.index as usize].as_ref().and_then(|c| c.imm_data_offset);
            let cmd = Cmd::parse(self.fabric.iu(conn, recv), imm).expect("parsed before");
            let DataDesc::Immediate(bytes) = cmd.data_out else { unreachable!("planned as such") };
            let data = request.data.as_mut().expect("taken with the job");
            let len = data.len();
            data.write_at(0, &bytes[..len]);
            return self.execute(tag);
        }
        if !self.collect_segs(tag) {
            let sense = Sense::invalid_field_in_cdb(NO_CDB_BYTE);
            return self.respond(tag, Outcome::check(sense), false);
        }
        let request = self.requests.get_mut(tag).expect("begun");
        request.phase = Phase::Fetching;
        let data = request.data.take().expect("taken with the job");
        self.fabric.fetch(request.conn, tag, data, &self.segs);
    }

    /// Collects the segments of a request's data in `self.segs`. False when a fetched table does
    /// not cover what the descriptor promised.
    pub(super) fn collect_segs(&mut self, tag: Tag) -> bool {
        let request = self.requests.get(tag).expect("begun");
        self.segs.clear();
        match request.source {
            Source::None | Source::Immediate => {}
            Source::Direct(seg) => self.segs.push(seg),
            Source::Table => {
                let recv = request.recv.as_ref().expect("held until the response");
                let connection = self.connections[request.conn.index as usize].as_ref();
                let imm = connection.and_then(|connection| connection.imm_data_offset);
                let iu = self.fabric.iu(request.conn, recv);
                let cmd = Cmd::parse(iu, imm).expect("parsed before");
                let desc = if request.reads() { cmd.data_in } else { cmd.data_out };
                let DataDesc::Indirect(indirect) = desc else { unreachable!("planned as such") };
                self.segs.extend(indirect.segs());
            }
            Source::ExternalTable(_) => {
                let table = request.table.as_ref().expect("fetched before");
                let bytes = table.private().expect("pool buffers are private");
                let segs = transport::srp::decode_table(bytes).expect("whole entries, as planned");
                self.segs.extend(segs);
                return covers(self.segs.iter().copied(), request.bytes);
            }
        }
        true
    }
}

/// A mapping as the SCSI layer sees it.
#[inline]
fn view<'a>(mapping: &'a super::lun::Mapping, connection: &Connection) -> LuView<'a> {
    LuView {
        geometry: mapping.geometry,
        identity: &mapping.lu.identity,
        read_only: mapping.read_only,
        relative_port: connection.nexus.as_ref().map_or(1, |nexus| nexus.target.relative_port),
        io_bytes_max: IO_BYTES_MAX,
    }
}

/// Takes the unit attention to report at a LUN, if there is one.
#[inline]
fn next_attention(connection: &Connection, lun: u16) -> Option<Sense> {
    let nexus = connection.nexus.as_ref()?;
    loop {
        let (bit, sense) = attention::highest(nexus.attentions(lun))?;
        if nexus.claim_attention(lun, bit) {
            return Some(sense);
        }
    }
}

/// The data of a command in the direction of its CDB. `None`: descriptors that can't be used:
/// data in the other direction as well, too many segments, or a table shorter than it promises.
#[inline]
fn offer(cmd: &Cmd<'_>, direction: Option<Direction>) -> Option<Offered> {
    let (side, desc) = match (cmd.data_in.is_none(), cmd.data_out.is_none()) {
        (true, true) => return Some(Offered::NONE),
        (false, true) => (Direction::In, cmd.data_in),
        (true, false) => (Direction::Out, cmd.data_out),
        (false, false) => return None,
    };
    let source = match desc {
        DataDesc::None => Source::None,
        DataDesc::Direct(seg) => Source::Direct(seg),
        DataDesc::Immediate(_) => Source::Immediate,
        DataDesc::Indirect(indirect) => {
            if indirect.table_entries() > SEGMENTS_MAX {
                return None;
            }
            if indirect.is_external() && direction == Some(side) {
                Source::ExternalTable(indirect.table)
            } else if !indirect.is_external() && !covers(indirect.segs(), indirect.total_len) {
                return None;
            } else {
                Source::Table
            }
        }
    };
    Some(Offered { direction: Some(side), bytes: desc.data_len(), source })
}
