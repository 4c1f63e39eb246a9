//! What a command is asked for, and its data as its information unit describes it.

use bdev::IoOp;
use transport::srp::{Cmd, DataDesc, Direction, Residual, Seg, SolNot, covers};

use crate::limits::SEGMENTS_MAX;
use crate::scsi::{Reserve, ScsiStatus, Sense, Steps};
use crate::shard::names::{MappingKey, SrpTag};
use crate::shard::qos::rate::Cost;

/// Byte of an SRP_CMD's buffer format field, for the field pointer of its errors: the descriptors
/// are no part of the CDB, so the pointer names the CDB's first byte.
pub(super) const NO_CDB_BYTE: u16 = 0;

/// What a request does once its data is there.
#[derive(Debug)]
pub(crate) enum Job {
    /// One operation of the device.
    Io(IoOp),
    /// A flush of the device, and once that has ended well this read.
    FlushThen(IoOp),
    /// Several operations, decided one by one.
    Steps(Steps),
    /// The command itself, which its information unit holds, is the device's.
    Pass {
        /// Bytes of the CDB.
        cdb_bytes: u16,
    },
    /// A change of what all cores go by, which the unit's home core decides.
    Decide(Reserve),
    /// Nothing at a device: only the response is left.
    Reply,
}

impl Job {
    /// What the job takes from the rate limits of its logical unit, whose blocks have `block_bytes`
    /// bytes; `None` for what neither reads nor writes blocks. What is passed through is known by
    /// its data only: `moved`.
    pub(crate) fn cost(&self, moved: Option<(Direction, u32)>, block_bytes: u32) -> Option<Cost> {
        let block_bytes = u64::from(block_bytes);
        match self {
            Job::Io(IoOp::Read { blocks, .. }) | Job::FlushThen(IoOp::Read { blocks, .. }) => {
                Some(Cost { writes: false, bytes: u64::from(*blocks) * block_bytes })
            }
            Job::Io(IoOp::Write { blocks, .. }) => {
                Some(Cost { writes: true, bytes: u64::from(*blocks) * block_bytes })
            }
            Job::Io(_) | Job::FlushThen(_) | Job::Decide(_) | Job::Reply => None,
            Job::Pass { .. } => moved.map(|(direction, bytes)| Cost {
                writes: direction == Direction::Out,
                bytes: u64::from(bytes),
            }),
            Job::Steps(steps) => {
                let (writes, bytes) = steps.moves()?;
                Some(Cost { writes, bytes })
            }
        }
    }
}

/// Where the initiator's side of the data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Source {
    /// No data.
    #[default]
    None,
    /// One range.
    Direct(Seg),
    /// Ranges in the information unit.
    Table {
        /// Where the first one is.
        at: u32,
        /// Bytes of all.
        bytes: u32,
    },
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

    /// RESERVATION CONFLICT.
    pub(crate) const CONFLICT: Outcome =
        Outcome { status: ScsiStatus::ReservationConflict, sense: None };

    /// CHECK CONDITION.
    pub(crate) const fn check(sense: Sense) -> Outcome {
        Outcome { status: ScsiStatus::CheckCondition, sense: Some(sense) }
    }
}

/// What a response needs of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    /// SRP tag.
    pub tag: SrpTag,
    /// When the response is solicited.
    pub sol_not: SolNot,
    /// LUN, if it has the form of one.
    pub lun: Option<u16>,
    /// The logical unit's mapping.
    pub mapping: Option<MappingKey>,
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

    /// The data of a command in the direction of its CDB. `None`: descriptors that can't be used:
    /// data in the other direction as well, too many segments, or a table shorter than it promises.
    #[inline]
    pub(crate) fn of(cmd: &Cmd<'_>, direction: Option<Direction>) -> Option<Offered> {
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
                    let (at, bytes) = (cmd.table_at(side), indirect.in_iu.as_flattened().len());
                    Source::Table { at: at as u32, bytes: bytes as u32 }
                }
            }
        };
        Some(Offered { direction: Some(side), bytes: desc.data_len(), source })
    }

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
