//! From a received information unit to a running request.
//!
//! Channels take turns. A command is planned, and starts when a slot and its buffers are free;
//! otherwise it stays a received information unit in front of its channel and nothing was taken.

use reactor::Tag;
use reactor::pool::{Buf, Pool};
use transport::srp::{Cmd, CmdError, DataDesc, DirectCmd, Direction, covers};
use transport::{ConnId, Fabric, Recv};

use crate::limits::{IO_BYTES_MAX, SEGMENTS_MAX};
use crate::scsi::opcodes::opcode::REPORT_LUNS;
use crate::scsi::{
    self, ANSWER_BYTES_MAX, LuView, Sense, Work, attention, decode, decode_absent, report_luns,
    request_sense,
};
use crate::shard::command::passed::pass_plan;
use crate::shard::command::request::{
    Content, Header, Job, Offered, Outcome, Phase, Plan, Planned, Source,
};
use crate::shard::connections::connection::{Connection, State};
use crate::shard::coverage::{At, Mark, Met, mark, met};
use crate::shard::shard::Shard;

/// Commands of one channel admitted before the next channel has its turn.
const TURN_COMMANDS: usize = 32;

/// Byte of an SRP_CMD's buffer format field, for the field pointer of its errors: the descriptors
/// are no part of the CDB, so the pointer names the CDB's first byte.
const NO_CDB_BYTE: u16 = 0;

/// How long a command may wait for buffers while later ones of other channels find some.
const OVERTAKEN_NS_MAX: u64 = 1_000_000;

/// What became of the oldest waiting command of a channel.
enum Admission {
    /// It runs, or has been answered.
    Started,
    /// No slot: later.
    Full(Recv),
    /// No buffer: later. The smallest one it needs has so many bytes.
    Short(Recv, usize),
    /// Another command has its logical unit for itself: later.
    Excluded(Recv),
    /// It waits for a rate limit, apart from the others.
    Held,
}

/// How a channel's turn ended.
enum Turn {
    /// Nothing waits any more.
    Empty,
    /// Others wait; it has had its share, or waits for a logical unit.
    Served,
    /// Its first command found no buffer.
    Short,
}

/// Why a job did not get its buffers.
enum Lack {
    /// There are too few. The smallest one has so many bytes.
    Bufs(usize),
    /// Another command has the logical unit for itself.
    Unit,
}

/// Buffers that a job starts with.
#[derive(Default)]
struct Bufs {
    data: Option<Buf>,
    scratch: Option<Buf>,
    table: Option<Buf>,
}

impl<F: Fabric> Shard<F> {
    /// Starts what can start, channel by channel. A channel that came away empty-handed keeps its
    /// place, all others go to the end, so what comes free goes to those who wait longest. False:
    /// nothing could start.
    #[inline(never)]
    pub(crate) fn admit_ready(&mut self) -> bool {
        let (mut at, mut started) = (0, false);
        for _ in 0..self.ready.len() {
            if self.is_sated() {
                mark(Mark::Sated);
                break;
            }
            if self.requests.is_full() {
                mark(Mark::NoSlot);
                break;
            }
            let Some(index) = self.ready.get(at).copied() else { break };
            let turn = self.admit_channel(index, &mut started);
            match turn {
                Turn::Short => {
                    if at == 0 {
                        self.reserved = self.overdue(index);
                    }
                    at += 1;
                }
                Turn::Served => {
                    self.ready.remove(at);
                    self.ready.push_back(index);
                }
                Turn::Empty => {
                    self.ready.remove(at);
                    if let Some(connection) = &mut self.connections[index as usize] {
                        connection.queued = false;
                    }
                }
            }
        }
        started
    }

    /// A command that needs many buffers at once gets them only if others hold back: from how many
    /// bytes on buffers are kept for the first channel.
    fn overdue(&self, index: u32) -> Option<usize> {
        let (since, bytes) = self.connections[index as usize].as_ref()?.short?;
        let overdue = self.now.ns_since(since) > OVERTAKEN_NS_MAX;
        overdue.then(|| mark(Mark::Overdue));
        overdue.then_some(bytes)
    }

    /// A buffer that is not kept for another command.
    #[inline]
    pub(crate) fn take(pool: &mut Pool, reserved: Option<usize>, bytes: usize) -> Option<Buf> {
        let buf = pool.take(bytes)?;
        if reserved.is_some_and(|least| buf.capacity() >= least) {
            pool.put(buf);
            return None;
        }
        Some(buf)
    }

    /// Starts up to [`TURN_COMMANDS`] commands of a channel, and tells whether there were any.
    #[inline(never)]
    fn admit_channel(&mut self, index: u32, started: &mut bool) -> Turn {
        for count in 0..TURN_COMMANDS {
            if self.is_sated() {
                break;
            }
            let Some(connection) = &mut self.connections[index as usize] else {
                return Turn::Empty;
            };
            if connection.state != State::Live {
                return Turn::Empty;
            }
            let Some(recv) = connection.waiting.pop_front() else { return Turn::Empty };
            let conn = connection.id;
            match self.admit(conn, recv) {
                Admission::Started => {
                    met(At::Waiting, Met::Success);
                    *started = true;
                    let connection = self.connection(conn);
                    connection.short = None;
                    connection.paid = connection.paid.saturating_sub(1);
                }
                Admission::Held => {}
                Admission::Short(recv, bytes) => {
                    mark(Mark::NoBuffer);
                    let now = self.now;
                    let connection = self.connection(conn);
                    connection.waiting.push_front(recv);
                    connection.short.get_or_insert((now, bytes));
                    return if count == 0 { Turn::Short } else { Turn::Served };
                }
                Admission::Full(recv) | Admission::Excluded(recv) => {
                    self.connection(conn).waiting.push_front(recv);
                    return Turn::Served;
                }
            }
        }
        match &self.connections[index as usize] {
            Some(connection) if !connection.waiting.is_empty() => Turn::Served,
            _ => Turn::Empty,
        }
    }

    #[inline(never)]
    fn admit(&mut self, conn: ConnId, recv: Recv) -> Admission {
        if self.requests.is_full() {
            return Admission::Full(recv);
        }
        let begun = match DirectCmd::parse(self.fabric.iu(conn, &recv)) {
            Some(cmd) => self.begin_transfer(conn, recv, &cmd, 0),
            None => self.write_immediate(conn, recv, 0),
        };
        let recv = match begun {
            Ok(()) => return Admission::Started,
            Err(recv) => recv,
        };
        let plan = self.plan(conn, &recv);
        match plan.work {
            Planned::Run { job, direction, bytes } => {
                let limited = |tag| self.luns.mapping(tag).limited;
                let recv = if plan.header.mapping.is_some_and(limited) {
                    let moved = direction.map(|direction| (direction, bytes));
                    match self.charge(conn, recv, &plan.header, &job, moved) {
                        Some(recv) => recv,
                        None => return Admission::Held,
                    }
                } else {
                    recv
                };
                self.admit_run(conn, recv, plan.header, plan.offered, job, direction, bytes)
            }
            Planned::End(outcome) => {
                let tag = self.begin(conn, recv, &plan.header, Job::Reply);
                self.request(tag).residual = plan.offered.residual(None, 0);
                self.respond(tag, outcome, false);
                Admission::Started
            }
            Planned::Make { content, allocation } => {
                let header = plan.header;
                // First the table: making REQUEST SENSE data takes a unit attention.
                let table = match plan.offered.source {
                    Source::ExternalTable(seg) => {
                        let bytes = seg.len as usize;
                        match Self::take(&mut self.pool, self.reserved, bytes) {
                            Some(table) => Some(table),
                            None => return Admission::Short(recv, bytes),
                        }
                    }
                    _ => None,
                };
                let Some(buf) = self.make(conn, header.mapping, &content, allocation) else {
                    mark(Mark::NoBufferToMake);
                    if let Some(table) = table {
                        self.pool.put(table);
                    }
                    return Admission::Short(recv, 0);
                };
                let made = buf.len() as u32;
                let tag = self.begin(conn, recv, &header, Job::Reply);
                let request = self.request(tag);
                request.data = Some(buf);
                request.direction = Some(Direction::In);
                request.bytes = made.min(plan.offered.bytes_in(Direction::In));
                request.residual = plan.offered.residual(Some(Direction::In), made.into());
                request.source = plan.offered.source;
                request.table = table;
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
            mark(Mark::TooLittle);
            let tag = self.begin(conn, recv, &header, Job::Reply);
            self.request(tag).residual = residual;
            self.respond(tag, Outcome::check(Sense::INVALID_INFORMATION_UNIT), false);
            return Admission::Started;
        }
        let mapping = header.mapping.expect("jobs have a logical unit");
        let bufs = match self.take_bufs(conn, mapping, &offered, &job, direction, wanted) {
            Ok(bufs) => bufs,
            Err(Lack::Bufs(bytes)) => return Admission::Short(recv, bytes),
            Err(Lack::Unit) => {
                mark(Mark::Excluded);
                return Admission::Excluded(recv);
            }
        };
        self.turn_bytes += u64::from(wanted);
        let tag = self.begin(conn, recv, &header, job);
        let request = self.request(tag);
        request.exclusive = matches!(&request.job, Job::Steps(steps) if steps.is_atomic());
        request.direction = direction;
        request.bytes = wanted.min(room);
        request.residual = residual;
        request.source = offered.source;
        (request.data, request.scratch, request.table) = (bufs.data, bufs.scratch, bufs.table);
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
    ) -> Result<Bufs, Lack> {
        let mut bufs = Bufs::default();
        let mapping = self.luns.mapping(mapping);
        if let (Source::Direct(seg), Job::Io(_)) = (offered.source, job)
            && seg.len == wanted
            && offered.direction == direction
        {
            bufs.data = self.fabric.place(conn, seg, mapping.geometry.buf_align);
            if bufs.data.is_some() {
                return Ok(bufs);
            }
        }
        let (scratch_bytes, exclusive) = match job {
            Job::Steps(steps) => (steps.scratch_bytes(IO_BYTES_MAX), steps.is_atomic()),
            Job::Io(_) | Job::Pass | Job::Reply => (0, false),
        };
        let table_bytes = match offered.source {
            Source::ExternalTable(seg) => seg.len as usize,
            _ => 0,
        };
        let needs = [wanted as usize, scratch_bytes, table_bytes];
        let [data, scratch, table] = needs.map(|bytes| match bytes {
            0 => Some(None),
            bytes => Self::take(&mut self.pool, self.reserved, bytes).map(Some),
        });
        let short = data.is_none() || scratch.is_none() || table.is_none();
        if short || (exclusive && !mapping.lu.try_enter()) {
            for buf in [data, scratch, table].into_iter().flatten().flatten() {
                self.pool.put(buf);
            }
            let least = needs.into_iter().filter(|bytes| *bytes > 0).min().unwrap_or(0);
            return Err(if short { Lack::Bufs(least) } else { Lack::Unit });
        }
        bufs.data = data.flatten();
        bufs.scratch = scratch.flatten();
        bufs.table = table.flatten();
        Ok(bufs)
    }

    /// Takes a slot for an admitted command.
    fn begin(&mut self, conn: ConnId, recv: Recv, header: &Header, job: Job) -> Tag {
        if let Some(mapping) = header.mapping {
            self.luns.begin_use(mapping);
        }
        self.connection(conn).in_flight += 1;
        let (tag, request) = self.requests.take().expect("a slot was free");
        request.begin(conn, recv, header, job);
        tag
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
            Content::Luns(_) => 8 + 8 * self.luns.lun_list(connection.target).len(),
            Content::Unit(_) | Content::Sense { .. } => ANSWER_BYTES_MAX,
        };
        let bytes = whole.min(usize::try_from(allocation).unwrap_or(usize::MAX));
        let mut buf = Self::take(&mut self.pool, self.reserved, bytes)?;
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

    /// What a received command asks for.
    #[inline]
    fn plan(&self, conn: ConnId, recv: &Recv) -> Plan {
        let connection = self.connections[conn.index as usize].as_ref().expect("live channel");
        let iu = self.fabric.iu(conn, recv);
        let cmd = match Cmd::parse(iu, connection.imm_data_offset) {
            Ok(cmd) => cmd,
            Err(CmdError::Malformed(fault)) => unreachable!("looked at on arrival: {fault}"),
            Err(CmdError::Invalid(bad)) => {
                mark(Mark::Refused);
                let header = Header {
                    tag: bad.tag,
                    sol_not: bad.sol_not,
                    lun: bad.lun.number(),
                    mapping: None,
                };
                return Plan::refuse(header, Sense::invalid_field_in_cdb(NO_CDB_BYTE));
            }
        };
        let number = cmd.lun.number();
        let mapping = number.and_then(|lun| self.luns.find(connection.target, lun));
        let header = Header { tag: cmd.tag, sol_not: cmd.sol_not, lun: number, mapping };
        let decoded = match (mapping, number) {
            (Some(mapping), Some(lun)) => {
                if !attention::bypasses_attention(cmd.cdb[0])
                    && let Some(sense) = next_attention(connection, lun)
                {
                    mark(Mark::Attention);
                    return Plan::end(header, offer(&cmd, None), Outcome::check(sense));
                }
                let unit = self.luns.mapping(mapping);
                if unit.passes
                    && let Some(plan) = pass_plan(connection, unit, &cmd, header)
                {
                    return plan;
                }
                decode(cmd.cdb, &view(unit, connection))
            }
            _ => decode_absent(cmd.cdb, number.unwrap_or(u16::MAX)),
        };
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(sense) => {
                return Plan::end(header, offer(&cmd, None), Outcome::check(sense));
            }
        };
        let direction = match decoded.direction {
            scsi::Direction::None => None,
            scsi::Direction::In => Some(Direction::In),
            scsi::Direction::Out => Some(Direction::Out),
        };
        let Some(offered) = offer(&cmd, direction) else {
            mark(Mark::Refused);
            return Plan::refuse(header, Sense::invalid_field_in_cdb(NO_CDB_BYTE));
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
        Plan { header, offered, work }
    }

    /// Starts to move what a request needs from the initiator, or the job if that is nothing.
    #[inline]
    pub(crate) fn start_data(&mut self, tag: Tag) {
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
    pub(crate) fn fetch_data(&mut self, tag: Tag) {
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
    pub(crate) fn collect_segs(&mut self, tag: Tag) -> bool {
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
fn view<'a>(mapping: &'a crate::shard::lun::Mapping, connection: &Connection) -> LuView<'a> {
    LuView {
        geometry: mapping.geometry,
        identity: &mapping.lu.identity,
        read_only: mapping.read_only,
        ready: mapping.ready,
        placeholder: mapping.placeholder,
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
pub(crate) fn offer(cmd: &Cmd<'_>, direction: Option<Direction>) -> Option<Offered> {
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
