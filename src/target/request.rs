//! The life of one command, as data.
//!
//! A [`Request`] is a slot of the shard. Its [`Phase`] says who holds its buffers: the fabric
//! (Fetching, Replying) or the device (Executing). Exactly one party will come back with them.

use bdev::IoOp;
use reactor::pool::Buf;
use reactor::{Instant, Tag};
use transport::srp::{Direction, Lun, Residual, Seg, SolNot};
use transport::{ConnId, Recv};

use crate::scsi::{Answer, Sense, Steps};

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
pub enum Job {
    /// One operation of the device.
    Io(IoOp),
    /// Several operations, decided one by one.
    Steps(Box<Steps>),
    /// Nothing at a device: only the response is left.
    Reply,
}

/// Where the initiator's side of the data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
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
pub struct Outcome {
    /// SCSI status.
    pub status: u8,
    /// Sense data, with CHECK CONDITION.
    pub sense: Option<Sense>,
}

/// A command that can be admitted, as planned from its information unit and the LUN map alone.
pub struct Plan {
    /// SRP tag.
    pub tag: [u8; 8],
    /// When the response is solicited.
    pub sol_not: SolNot,
    /// The logical unit's mapping.
    pub mapping: Option<Tag>,
    /// What to do.
    pub work: PlannedWork,
    /// Which way data moves.
    pub direction: Option<Direction>,
    /// Bytes that move between initiator and target.
    pub bytes: u32,
    /// Where they are.
    pub source: Source,
    /// Difference between what the initiator expected to move and what does.
    pub residual: Option<Residual>,
    /// Bytes of the data buffer; at least `bytes`.
    pub data_bytes: usize,
    /// Bytes of the scratch buffer.
    pub scratch_bytes: usize,
    /// Alignment at which the device can use the initiator's own memory; 0: it can't.
    pub place_align: u32,
    /// No other such command may run on the logical unit meanwhile.
    pub exclusive: bool,
}

/// What a plan does.
pub enum PlannedWork {
    /// Answers at once, without data.
    End(Outcome),
    /// Answers with the bytes in the shard's answer scratch.
    Answer,
    /// Runs a job.
    Run(Job),
}

/// One admitted command.
pub struct Request {
    /// Its channel.
    pub conn: ConnId,
    /// The information unit, until the response is built.
    pub recv: Option<Recv>,
    /// SRP tag.
    pub tag: [u8; 8],
    /// When the response is solicited.
    pub sol_not: SolNot,
    /// Who holds the buffers.
    pub phase: Phase,
    /// What it does.
    pub job: Job,
    /// The logical unit's mapping.
    pub mapping: Option<Tag>,
    /// Which way data moves.
    pub direction: Option<Direction>,
    /// Bytes that move.
    pub bytes: u32,
    /// Where the initiator's side is.
    pub source: Source,
    /// Residual of the response.
    pub residual: Option<Residual>,
    /// Data buffer, while nobody else holds it.
    pub data: Option<Buf>,
    /// Scratch buffer, while nobody else holds it.
    pub scratch: Option<Buf>,
    /// Fetched descriptor table.
    pub table: Option<Buf>,
    /// It has entered its logical unit exclusively.
    pub exclusive: bool,
    /// Abort functions that wait for it: bits of [`super::task::Aborts`].
    pub aborts: u64,
    /// When it was admitted.
    pub started: Instant,
}

impl Request {
    /// True for an operation whose data goes to the initiator.
    #[inline]
    pub fn reads(&self) -> bool {
        self.direction == Some(Direction::In)
    }
}

/// A command's data as its information unit describes it.
#[derive(Debug, Clone, Copy)]
pub struct Offered {
    /// Direction of the descriptors; `None` without any.
    pub direction: Option<Direction>,
    /// Bytes.
    pub bytes: u32,
    /// Where.
    pub source: Source,
}

/// The header of a command that has a plan.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// SRP tag.
    pub tag: [u8; 8],
    /// Logical unit.
    pub lun: Lun,
    /// Solicited notification.
    pub sol_not: SolNot,
}

/// An answer that the SCSI layer builds, or one that needs the shard's state.
pub enum Content {
    /// Built from the logical unit.
    Unit(Answer),
}
