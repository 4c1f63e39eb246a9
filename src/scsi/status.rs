//! SCSI status codes, and the one table from a device's status to sense data.

use bdev::{IoOp, IoStatus};

use super::sense::Sense;

/// Status of a command (SAM-5 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ScsiStatus {
    /// GOOD.
    Good = 0x00,
    /// CHECK CONDITION, with sense data.
    CheckCondition = 0x02,
    /// BUSY: try again later.
    Busy = 0x08,
    /// RESERVATION CONFLICT.
    ReservationConflict = 0x18,
    /// TASK SET FULL: try again when a command has finished.
    TaskSetFull = 0x28,
    /// TASK ABORTED by another nexus.
    TaskAborted = 0x40,
}

/// Sense data for the end of `op`; `None` when it did what was asked. INFORMATION is set for medium
/// errors only where it names the failed block exactly, that is when there was only one.
pub fn sense_of(status: IoStatus, op: &IoOp) -> Option<Sense> {
    let information = match *op {
        IoOp::Read { lba, blocks: 1 } | IoOp::Write { lba, blocks: 1, .. } => Some(lba),
        _ => None,
    };
    Some(match status {
        IoStatus::Good | IoStatus::GoodNoData => return None,
        IoStatus::OutOfRange => Sense::LBA_OUT_OF_RANGE,
        IoStatus::ReadError => Sense { information, ..Sense::READ_ERROR },
        IoStatus::WriteError => Sense { information, ..Sense::WRITE_ERROR },
        IoStatus::NoSpace => Sense::SPACE_ALLOCATION_FAILED,
        IoStatus::WriteProtected => Sense::WRITE_PROTECTED,
        IoStatus::NotReady => Sense::NOT_READY,
        IoStatus::Unsupported => Sense::INVALID_OPCODE,
        IoStatus::Aborted => Sense::ABORTED,
        // A command has its own sense data.
        IoStatus::Scsi => Sense::INTERNAL_TARGET_FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_has_no_sense_and_all_else_has() {
        let op = IoOp::Read { lba: 7, blocks: 2 };
        assert_eq!(sense_of(IoStatus::Good, &op), None);
        assert_eq!(sense_of(IoStatus::GoodNoData, &op), None);
        let table = [
            (IoStatus::OutOfRange, (5, 0x21, 0)),
            (IoStatus::ReadError, (3, 0x11, 0)),
            (IoStatus::WriteError, (3, 0x0c, 0)),
            (IoStatus::NoSpace, (7, 0x27, 7)),
            (IoStatus::WriteProtected, (7, 0x27, 0)),
            (IoStatus::NotReady, (2, 0x04, 0)),
            (IoStatus::Unsupported, (5, 0x20, 0)),
            (IoStatus::Aborted, (0xb, 0, 0)),
        ];
        for (status, expected) in table {
            let sense = sense_of(status, &op).unwrap();
            assert_eq!((sense.key, sense.asc, sense.ascq), expected);
            assert_eq!(sense.information, None);
        }
    }

    #[test]
    fn a_medium_error_of_one_block_names_it() {
        let sense = sense_of(IoStatus::ReadError, &IoOp::Read { lba: 7, blocks: 1 }).unwrap();
        assert_eq!(sense.information, Some(7));
    }
}
