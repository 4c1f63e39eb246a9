//! The life of one command, as data.
//!
//! A [`Request`] is a slot of the shard. Its [`Phase`] says who holds its buffers: the fabric
//! (Fetching, Replying) or the device (Executing). Exactly one party will come back with them.

use bdev::IoOp;
use reactor::pool::Buf;
use reactor::{Instant, Tag};
use transport::srp::{Direction, Residual, Seg, SolNot};
use transport::{ConnId, Recv};

use crate::scsi::{Answer, LunSelect, ScsiStatus, Sense, Steps};

/// Who holds a request's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The fabric reads the descriptor table from the initiator's memory.
    FetchingTable,
    /// The fabric reads the data from the initiator's memory.
    Fetching,
    /// The device works.
    Executing,
    /// The fabric moves data and response to the initiator.
    Replying,
}

/// What a request does once its data is there.
#[derive(Debug)]
pub(crate) enum Job {
    /// One operation of the device.
    Io(IoOp),
    /// Several operations, decided one by one.
    Steps(Steps),
    /// The command itself, which its information unit holds, is the device's.
    Pass,
    /// Nothing at a device: only the response is left.
    Reply,
}

/// Where the initiator's side of the data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// No data.
    None,
    /// One range.
    Direct(Seg),
    /// Ranges in the information unit.
    Table,
    /// Ranges in a table that must be fetched first.
    ExternalTable(Seg),
    /// In the information unit itself.
    Immediate,
}

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// SCSI status.
    pub status: ScsiStatus,
    /// Sense data, with CHECK CONDITION.
    pub sense: Option<Sense>,
}

impl Outcome {
    /// GOOD.
    pub(crate) const GOOD: Outcome = Outcome { status: ScsiStatus::Good, sense: None };

    /// CHECK CONDITION.
    pub(crate) const fn check(sense: Sense) -> Outcome {
        Outcome { status: ScsiStatus::CheckCondition, sense: Some(sense) }
    }
}

/// What a response needs of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    /// SRP tag.
    pub tag: [u8; 8],
    /// When the response is solicited.
    pub sol_not: SolNot,
    /// LUN, if it has the form of one.
    pub lun: Option<u16>,
    /// The logical unit's mapping.
    pub mapping: Option<Tag>,
}

/// What a command is going to do, from its information unit and the LUN map alone. Making a plan
/// takes nothing, so a command that finds no buffer is simply planned again later.
pub(crate) struct Plan {
    /// Names of the command.
    pub header: Header,
    /// The initiator's side of the data.
    pub offered: Offered,
    /// What to do.
    pub work: Planned,
}

impl Plan {
    /// A response without data.
    pub(crate) fn end(header: Header, offered: Option<Offered>, outcome: Outcome) -> Plan {
        let offered = offered.unwrap_or(Offered::NONE);
        Plan { header, offered, work: Planned::End(outcome) }
    }

    /// CHECK CONDITION for a command whose data descriptors can't be used.
    pub(crate) fn refuse(header: Header, sense: Sense) -> Plan {
        Plan::end(header, None, Outcome::check(sense))
    }
}

/// The work of a plan.
pub(crate) enum Planned {
    /// A response without data.
    End(Outcome),
    /// Data made here.
    Make {
        /// What it says.
        content: Content,
        /// Most bytes, by the CDB's allocation length.
        allocation: u64,
    },
    /// A job with data.
    Run {
        /// What to do.
        job: Job,
        /// Which way the data goes.
        direction: Option<Direction>,
        /// Bytes by the CDB.
        bytes: u32,
    },
}

/// Data that is made here.
pub(crate) enum Content {
    /// From the logical unit.
    Unit(Answer),
    /// From the LUN map.
    Luns(LunSelect),
    /// From the session's unit attentions.
    Sense {
        /// Descriptor format.
        descriptor: bool,
    },
}

/// A command's data as its information unit describes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offered {
    /// Direction of the descriptors; `None` without any.
    pub direction: Option<Direction>,
    /// Bytes.
    pub bytes: u32,
    /// Where.
    pub source: Source,
}

impl Offered {
    /// No data.
    pub(crate) const NONE: Offered = Offered { direction: None, bytes: 0, source: Source::None };

    /// Bytes offered in a direction.
    pub(crate) fn bytes_in(&self, direction: Direction) -> u32 {
        if self.direction == Some(direction) { self.bytes } else { 0 }
    }

    /// The residual when `moved` of `wanted` bytes go in `direction` (SRP 16A, 6.9).
    pub(crate) fn residual(&self, direction: Option<Direction>, wanted: u64) -> Option<Residual> {
        let offered = direction.map_or(0, |direction| self.bytes_in(direction));
        if let Some(direction) = direction
            && wanted > u64::from(offered)
        {
            let count = u32::try_from(wanted - u64::from(offered)).unwrap_or(u32::MAX);
            return Some(Residual { direction, overflow: true, count });
        }
        let unused = if direction == self.direction {
            u64::from(offered) - wanted
        } else {
            self.bytes.into()
        };
        let direction = self.direction?;
        (unused > 0).then_some(Residual { direction, overflow: false, count: unused as u32 })
    }
}

/// One admitted command, or a free place for one. In the order of use: what a plain read or write
/// touches comes first.
#[repr(C)]
pub(crate) struct Request {
    /// Its channel.
    pub conn: ConnId,
    /// SRP tag.
    pub tag: [u8; 8],
    /// The information unit, until the response is built.
    pub recv: Option<Recv>,
    /// When its operation went to the device.
    pub submitted: Instant,
    /// Abort functions that wait for it: a bit for each one under way on this core.
    pub aborts: u64,
    /// Data buffer, while nobody else holds it.
    pub data: Option<Buf>,
    /// The logical unit's mapping.
    pub mapping: Option<Tag>,
    /// Where the initiator's side is.
    pub source: Source,
    /// What it does.
    pub job: Job,
    /// Bytes that move.
    pub bytes: u32,
    /// LUN, if it has the form of one.
    pub lun: Option<u16>,
    /// Which way data moves.
    pub direction: Option<Direction>,
    /// When the response is solicited.
    pub sol_not: SolNot,
    /// Who holds the buffers.
    pub phase: Phase,
    /// It began as a plain read or write: no residual, one segment, and every byte of it moves.
    pub plain: bool,
    /// It has entered its logical unit exclusively.
    pub exclusive: bool,
    /// Residual of the response.
    pub residual: Option<Residual>,
    /// Scratch buffer, while nobody else holds it.
    pub scratch: Option<Buf>,
    /// Fetched descriptor table.
    pub table: Option<Buf>,
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

    /// Residual when nothing moved to the initiator after all: the whole of its buffer.
    pub(crate) fn residual_of_failure(&self) -> Option<Residual> {
        if !self.reads() {
            return self.residual;
        }
        let unused = self.residual.filter(|residual| !residual.overflow);
        let count = self.bytes + unused.map_or(0, |residual| residual.count);
        (count > 0).then_some(Residual { direction: Direction::In, overflow: false, count })
    }

    /// True for an operation whose data goes to the initiator.
    #[inline]
    pub(crate) fn reads(&self) -> bool {
        self.direction == Some(Direction::In)
    }
}
