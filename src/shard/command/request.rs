//! The life of one command, as data.
//!
//! A [`Request`] is a slot of the core. Its [`Phase`] says who holds its buffers: the fabric
//! (Fetching, Replying) or the device (Executing); nobody has any while the home core of its unit
//! decides (Deciding). Exactly one party will come back with them.

use bdev::{DataDirection, IoOp, IoStatus};
use reactor::Instant;
use reactor::pool::Buf;
use transport::srp::{Direction, Residual, Seg, SolNot};
use transport::{ConnId, Recv};

use super::job::{Header, Job, Outcome, Source};
use crate::scsi::Step;
use crate::shard::coverage::{At, Mark, mark};
use crate::shard::names::{MappingKey, SrpTag};

/// Who holds a request's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The fabric reads the descriptor table from the initiator's memory.
    FetchingTable,
    /// The fabric reads the data from the initiator's memory.
    Fetching,
    /// The device works.
    Executing,
    /// The home core of the unit decides a change.
    Deciding,
    /// The fabric moves data and response to the initiator.
    Replying,
}

impl From<Phase> for At {
    fn from(phase: Phase) -> At {
        match phase {
            Phase::FetchingTable => At::FetchingTable,
            Phase::Fetching => At::Fetching,
            Phase::Executing => At::Executing,
            Phase::Deciding => At::Deciding,
            Phase::Replying => At::Replying,
        }
    }
}

/// The data of a request, and the buffers that it starts with.
#[derive(Debug, Default)]
pub(crate) struct Cargo {
    /// Which way data moves.
    pub direction: Option<Direction>,
    /// Bytes that move.
    pub bytes: u32,
    /// Residual of the response.
    pub residual: Option<Residual>,
    /// Where the initiator's side is.
    pub source: Source,
    /// Data buffer.
    pub data: Option<Buf>,
    /// Scratch buffer of a job of several operations.
    pub scratch: Option<Buf>,
    /// Room for a descriptor table that must be fetched.
    pub table: Option<Buf>,
}

/// One admitted command, or a free place for one. In the order of use: what a plain read or write
/// touches comes first.
#[repr(C)]
pub(crate) struct Request {
    /// Its connection.
    conn: ConnId,
    /// SRP tag.
    tag: SrpTag,
    /// The information unit, until the response is built.
    recv: Option<Recv>,
    /// When its operation went to the device.
    submitted: Instant,
    /// Abort functions that wait for it: a bit for each one under way on this core.
    aborts: u64,
    /// Data buffer, while nobody else holds it.
    data: Option<Buf>,
    /// The logical unit's mapping.
    mapping: Option<MappingKey>,
    /// Where the initiator's side is.
    source: Source,
    /// What it does.
    job: Job,
    /// Bytes that move.
    bytes: u32,
    /// LUN, if it has the form of one.
    lun: Option<u16>,
    /// Which way data moves.
    direction: Option<Direction>,
    /// When the response is solicited.
    sol_not: SolNot,
    /// Who holds the buffers.
    phase: Phase,
    /// It began as a plain read or write: no residual, one segment, and every byte of it moves.
    plain: bool,
    /// It has entered its logical unit exclusively.
    exclusive: bool,
    /// Residual of the response.
    residual: Option<Residual>,
    /// Scratch buffer, while nobody else holds it.
    scratch: Option<Buf>,
    /// Fetched descriptor table.
    table: Option<Buf>,
}

impl Request {
    /// A free place.
    pub(crate) fn vacant() -> Request {
        Request {
            conn: ConnId { index: u32::MAX, generation: 0 },
            tag: [0; 8],
            recv: None,
            submitted: Instant::default(),
            aborts: 0,
            data: None,
            mapping: None,
            source: Source::None,
            job: Job::Reply,
            bytes: 0,
            lun: None,
            direction: None,
            sol_not: SolNot::default(),
            phase: Phase::Executing,
            plain: false,
            exclusive: false,
            residual: None,
            scratch: None,
            table: None,
        }
    }

    /// Turns the place into a request without data. Whoever left it has taken the buffers along.
    #[inline]
    pub(crate) fn begin(&mut self, conn: ConnId, recv: Recv, header: &Header, job: Job) {
        debug_assert!(self.data.is_none() && self.scratch.is_none() && self.table.is_none());
        debug_assert!(self.mapping.is_none() && self.recv.is_none() && !self.exclusive);
        self.conn = conn;
        self.recv = Some(recv);
        self.tag = header.tag;
        self.sol_not = header.sol_not;
        self.phase = Phase::Executing;
        self.job = job;
        self.lun = header.lun;
        self.mapping = header.mapping;
        self.direction = None;
        self.bytes = 0;
        self.source = Source::None;
        self.residual = None;
        self.plain = false;
        self.aborts = 0;
    }

    /// It is a plain read or write of all bytes of a segment.
    #[inline]
    pub(crate) fn set_plain(&mut self, direction: Direction, seg: Seg) {
        self.plain = true;
        self.direction = Some(direction);
        self.bytes = seg.len;
        self.source = Source::Direct(seg);
    }

    /// It has data. A job that must not be interrupted has entered its logical unit.
    pub(crate) fn load(&mut self, cargo: Cargo) {
        self.exclusive = matches!(&self.job, Job::Steps(steps) if steps.is_atomic());
        self.direction = cargo.direction;
        self.bytes = cargo.bytes;
        self.residual = cargo.residual;
        self.source = cargo.source;
        (self.data, self.scratch, self.table) = (cargo.data, cargo.scratch, cargo.table);
    }

    /// Its connection.
    #[inline]
    pub(crate) fn conn(&self) -> ConnId {
        self.conn
    }

    /// SRP tag.
    #[inline]
    pub(crate) fn tag(&self) -> SrpTag {
        self.tag
    }

    /// LUN, if it has the form of one.
    pub(crate) fn lun(&self) -> Option<u16> {
        self.lun
    }

    /// The logical unit's mapping, until the response is built; a job has one.
    #[inline]
    pub(crate) fn mapping(&self) -> Option<MappingKey> {
        self.mapping
    }

    /// The mapping of a request that has a job.
    #[inline]
    pub(crate) fn unit(&self) -> MappingKey {
        self.mapping.expect("jobs have a logical unit")
    }

    /// Who holds the buffers.
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The buffers go to somebody else.
    #[inline]
    pub(crate) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// An operation goes to the device.
    #[inline]
    pub(crate) fn submit(&mut self, now: Instant) {
        self.submitted = now;
    }

    /// Time since the operation went to the device.
    #[inline]
    pub(crate) fn took_ns(&self, now: Instant) -> u64 {
        now.ns_since(self.submitted)
    }

    /// What it does.
    #[inline]
    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    /// The next operation of a job of one, or of a read behind a flush, and its buffer.
    #[inline]
    pub(crate) fn next_op(&mut self) -> (IoOp, Option<Buf>) {
        match self.job {
            Job::Io(op) => (op, self.data.take()),
            _ => (IoOp::Flush, None),
        }
    }

    /// The operation of [`Request::next_op`] has ended and its buffer is back. The operation, and
    /// whether the read that it was for comes next.
    pub(crate) fn end_op(&mut self, status: IoStatus, buf: Option<Buf>) -> (IoOp, bool) {
        match self.job {
            Job::FlushThen(read) => {
                if status.is_good() {
                    mark(Mark::FlushedToRead);
                    self.job = Job::Io(read);
                }
                (IoOp::Flush, status.is_good())
            }
            Job::Io(op) => {
                self.data = buf;
                (op, false)
            }
            _ => unreachable!("jobs with operations of their own"),
        }
    }

    /// It is the command that this connection knows by this LUN and this tag.
    pub(crate) fn is_named(&self, conn: ConnId, lun: Option<u16>, tag: SrpTag) -> bool {
        self.conn == conn && self.lun == lun && self.tag == tag
    }

    /// Where the initiator's side of the data is.
    #[inline]
    pub(crate) fn source(&self) -> Source {
        self.source
    }

    /// Bytes that move.
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Which way data moves.
    #[inline]
    pub(crate) fn direction(&self) -> Option<Direction> {
        self.direction
    }

    /// True for an operation whose data goes to the initiator.
    #[inline]
    pub(crate) fn reads(&self) -> bool {
        self.direction == Some(Direction::In)
    }

    /// When the response is solicited.
    #[inline]
    pub(crate) fn sol_not(&self) -> SolNot {
        self.sol_not
    }

    /// Residual of the response.
    pub(crate) fn residual(&self) -> Option<Residual> {
        self.residual
    }

    /// No data moves, of what the initiator offered.
    pub(crate) fn set_residual(&mut self, residual: Option<Residual>) {
        self.residual = residual;
    }

    /// Its data must be fetched: it goes to a buffer that is not the initiator's own memory.
    #[inline]
    pub(crate) fn must_fetch(&self) -> bool {
        self.direction == Some(Direction::Out)
            && self.data.as_ref().is_some_and(|data| !data.is_peer())
    }

    /// A plain read or write that nobody has aborted.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain && self.aborts == 0
    }

    /// An abort function waits for it.
    #[inline]
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborts != 0
    }

    /// An abort function of this number waits for it from now on.
    pub(crate) fn abort(&mut self, number: usize) {
        self.aborts |= 1 << number;
    }

    /// The abort functions that wait for it, a bit for each.
    pub(crate) fn aborts(&self) -> u64 {
        self.aborts
    }

    /// The information unit.
    #[inline]
    pub(crate) fn recv(&self) -> &Recv {
        self.recv.as_ref().expect("held until the response")
    }

    /// Takes the information unit for the response.
    #[inline]
    pub(crate) fn take_recv(&mut self) -> Recv {
        self.recv.take().expect("held until the response")
    }

    /// Takes the information unit, if there still is one.
    pub(crate) fn recv_left(&mut self) -> Option<Recv> {
        self.recv.take()
    }

    /// Takes the data buffer, if it is here.
    #[inline]
    pub(crate) fn take_data(&mut self) -> Option<Buf> {
        self.data.take()
    }

    /// The data buffer, if it is here.
    pub(crate) fn data(&self) -> Option<&Buf> {
        self.data.as_ref()
    }

    /// The data buffer, if it is here.
    pub(crate) fn data_mut(&mut self) -> Option<&mut Buf> {
        self.data.as_mut()
    }

    /// The data buffer is back, if there is one.
    #[inline]
    pub(crate) fn put_data(&mut self, buf: Option<Buf>) {
        self.data = buf;
    }

    /// Takes the room for the descriptor table.
    pub(crate) fn take_table(&mut self) -> Option<Buf> {
        self.table.take()
    }

    /// The descriptor table has been fetched.
    pub(crate) fn put_table(&mut self, table: Buf) {
        self.table = Some(table);
    }

    /// The fetched descriptor table.
    pub(crate) fn table(&self) -> &[u8] {
        let table = self.table.as_ref().expect("fetched before");
        table.private().expect("pool buffers are private")
    }

    /// The scratch buffer is back. Operations without data leave the scratch where it is.
    pub(crate) fn put_scratch(&mut self, buf: Option<Buf>) {
        if buf.is_some() {
            self.scratch = buf;
        }
    }

    /// Takes the scratch buffer, if it is here.
    #[inline]
    pub(crate) fn take_scratch(&mut self) -> Option<Buf> {
        self.scratch.take()
    }

    /// The next operation of a job of several, and its buffer; `block_bytes` a block.
    pub(crate) fn next_step(&mut self, last: IoStatus, block_bytes: u32) -> Next {
        let Job::Steps(steps) = &mut self.job else { unreachable!("only jobs of steps") };
        let data = self.data.as_ref().map_or(&[][..], |buf| {
            buf.private().expect("data that is looked at twice is copied first")
        });
        let room = self.scratch.as_mut().map_or(&mut [][..], |buf| {
            let capacity = buf.capacity();
            buf.set_len(capacity);
            buf.private_mut().expect("pool buffers are private")
        });
        let op = match steps.next(last, data, room) {
            Step::Io(op) => op,
            Step::Done(Ok(())) => return Next::Done(Outcome::GOOD),
            Step::Done(Err(sense)) => return Next::Done(Outcome::check(sense)),
        };
        let buf = match op {
            IoOp::Read { blocks, .. } | IoOp::Write { blocks, .. } => {
                let mut buf = self.scratch.take().expect("reads and writes use the scratch");
                buf.set_len(blocks as usize * block_bytes as usize);
                Some(buf)
            }
            IoOp::Flush | IoOp::WriteZeroes { .. } | IoOp::Unmap { .. } => None,
        };
        Next::Io(op, buf)
    }

    /// Takes the mapping: the command can no longer change data or use its logical unit. True: it
    /// leaves the unit, which it had for itself.
    #[inline]
    pub(crate) fn leave_unit(&mut self) -> Option<(MappingKey, bool)> {
        let mapping = self.mapping.take()?;
        Some((mapping, std::mem::take(&mut self.exclusive)))
    }

    /// As [`Request::leave_unit`], of a plain read or write: it never has the unit for itself.
    #[inline]
    pub(crate) fn leave_plain(&mut self) {
        self.mapping = None;
    }

    /// Nothing moves to the initiator after all: the residual is the whole of its buffer.
    pub(crate) fn fail(&mut self) {
        self.residual = self.residual_of_failure();
        self.bytes = 0;
    }

    fn residual_of_failure(&self) -> Option<Residual> {
        if !self.reads() {
            return self.residual;
        }
        let unused = self.residual.filter(|residual| !residual.overflow);
        let count = self.bytes + unused.map_or(0, |residual| residual.count);
        (count > 0).then_some(Residual { direction: Direction::In, overflow: false, count })
    }

    /// Only `moved` bytes have moved, as the device says.
    pub(crate) fn settle(&mut self, moved: u32) {
        let Some(direction) = self.direction else { return };
        let unused = self.residual.filter(|residual| !residual.overflow);
        let offered = self.bytes + unused.map_or(0, |residual| residual.count);
        self.bytes = moved.min(self.bytes);
        let count = offered - self.bytes;
        self.residual = (count > 0).then_some(Residual { direction, overflow: false, count });
    }

    /// Which way the data of a command that is passed on goes, if there is any.
    pub(crate) fn passed_direction(&self) -> DataDirection {
        match self.direction {
            Some(Direction::In) if self.data.is_some() => DataDirection::In,
            Some(Direction::Out) if self.data.is_some() => DataDirection::Out,
            _ => DataDirection::None,
        }
    }
}

/// What comes next in a job of several operations.
pub(crate) enum Next {
    /// An operation with its buffer.
    Io(IoOp, Option<Buf>),
    /// The response.
    Done(Outcome),
}
