//! What is known of CDBs and their ends: pure functions.

use crate::scsi::{CDB_BYTES_MAX, SENSE_BYTES_MAX, ScsiEnd};
use crate::sys::sg::Raw;
use crate::{IoOp, IoStatus};

/// Peripheral device types (SPC-4 table 142).
pub(super) mod peripheral {
    pub(crate) const DISK: u8 = 0x00;
    pub(crate) const TAPE: u8 = 0x01;
    pub(crate) const OPTICAL: u8 = 0x07;
    pub(crate) const SIMPLIFIED_DISK: u8 = 0x0e;
}

/// Operation codes (SPC-4, SBC-3, SSC-4, SMC-3).
mod code {
    pub(super) const REZERO_REWIND: u8 = 0x01;
    pub(super) const FORMAT: u8 = 0x04;
    pub(super) const INITIALIZE_ELEMENT_STATUS: u8 = 0x07;
    pub(super) const READ_6: u8 = 0x08;
    pub(super) const WRITE_6: u8 = 0x0a;
    pub(super) const WRITE_FILEMARKS_6: u8 = 0x10;
    pub(super) const SPACE_6: u8 = 0x11;
    pub(super) const VERIFY_6: u8 = 0x13;
    pub(super) const MODE_SELECT_6: u8 = 0x15;
    pub(super) const ERASE_6: u8 = 0x19;
    pub(super) const MODE_SENSE_6: u8 = 0x1a;
    pub(super) const LOAD_START: u8 = 0x1b;
    pub(super) const SEND_DIAGNOSTIC: u8 = 0x1d;
    pub(super) const READ_CAPACITY_10: u8 = 0x25;
    pub(super) const READ_10: u8 = 0x28;
    pub(super) const WRITE_10: u8 = 0x2a;
    pub(super) const LOCATE_10: u8 = 0x2b;
    pub(super) const WRITE_VERIFY_10: u8 = 0x2e;
    pub(super) const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub(super) const SANITIZE: u8 = 0x48;
    pub(super) const MODE_SELECT_10: u8 = 0x55;
    pub(super) const MODE_SENSE_10: u8 = 0x5a;
    pub(super) const WRITE_FILEMARKS_16: u8 = 0x80;
    pub(super) const READ_16: u8 = 0x88;
    pub(super) const WRITE_16: u8 = 0x8a;
    pub(super) const WRITE_VERIFY_16: u8 = 0x8e;
    pub(super) const SPACE_16: u8 = 0x91;
    pub(super) const LOCATE_16: u8 = 0x92;
    pub(super) const ERASE_16: u8 = 0x93;
    pub(super) const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub(super) const READ_CAPACITY_16: u8 = 0x10;
    pub(super) const MOVE_MEDIUM: u8 = 0xa5;
    pub(super) const EXCHANGE_MEDIUM: u8 = 0xa6;
    pub(super) const READ_12: u8 = 0xa8;
    pub(super) const WRITE_12: u8 = 0xaa;
    pub(super) const WRITE_VERIFY_12: u8 = 0xae;
    pub(super) const FUA: u8 = 0x08;
}

/// What commands take that move a medium, a tape or everything on it: 14,000 s, as the kernel's own
/// tape driver allows.
const LONG_TIMEOUT_MS: u32 = 14_000_000;

/// Sense key and codes (SPC-4 table 48, annex E).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub u8, pub u8, pub u8);

impl Code {
    /// Logical unit not ready, cause not reportable.
    pub(super) const NOT_READY: Code = Code(0x2, 0x04, 0x00);
    /// Invalid field in CDB.
    pub(super) const INVALID_FIELD: Code = Code(0x5, 0x24, 0x00);
    /// Power on, reset or bus device reset occurred.
    pub(super) const POWER_ON: Code = Code(0x6, 0x29, 0x00);
    const NOT_PERMITTED: Code = Code(0x5, 0x20, 0x02);
    const ABORTED: Code = Code(0xb, 0x00, 0x00);
    const TIME_OUT: Code = Code(0xb, 0x08, 0x01);
    const TARGET_FAILURE: Code = Code(0xb, 0x44, 0x00);
    const PARITY: Code = Code(0xb, 0x47, 0x00);
    const NO_SPACE: Code = Code(0x7, 0x27, 0x07);

    /// CHECK CONDITION in fixed format (SPC-4 4.5.3), nothing moved of `residual` bytes.
    pub(super) fn end(self, residual: u32) -> ScsiEnd {
        let Code(key, asc, ascq) = self;
        let mut sense = [0; 18];
        (sense[0], sense[2], sense[7], sense[12], sense[13]) = (0x70, key, 10, asc, ascq);
        ScsiEnd::check(&sense, residual)
    }

    /// Of sense data in either format.
    pub(super) fn of(sense: &[u8]) -> Option<Code> {
        let at = |at: usize| sense.get(at).copied();
        match at(0)? & 0x7f {
            0x70 | 0x71 => Some(Code(at(2)? & 0x0f, at(12).unwrap_or(0), at(13).unwrap_or(0))),
            0x72 | 0x73 => Some(Code(at(1)? & 0x0f, at(2)?, at(3)?)),
            _ => None,
        }
    }
}

/// Statuses (SAM-5 5.3.1).
const CHECK_CONDITION: u8 = 0x02;
const BUSY: u8 = 0x08;

/// The end of a command as its initiator sees it. What the device said is passed on as it is; what
/// only the host knows becomes a status that makes initiators do the right thing.
pub(super) fn end_of(raw: &Raw, len: u32) -> ScsiEnd {
    let sense = &raw.sense[..usize::from(raw.sense_len).min(SENSE_BYTES_MAX)];
    if raw.status == CHECK_CONDITION && !sense.is_empty() {
        return ScsiEnd::check(sense, raw.residual);
    }
    if raw.status != 0 && raw.status != CHECK_CONDITION {
        let mut end = ScsiEnd::new(raw.status);
        end.residual = raw.residual;
        return end;
    }
    match (raw.host_status, raw.driver_status & 0x0f) {
        // DRIVER_SENSE says only that there is sense data.
        (0, 0x00 | 0x08) if raw.status == 0 => {
            let mut end = ScsiEnd::GOOD;
            end.residual = raw.residual;
            end
        }
        // CHECK CONDITION whose sense data was lost.
        (0, 0x00 | 0x08) => Code::ABORTED.end(len),
        (_, 0x06) | (0x03, _) => Code::TIME_OUT.end(len),
        // NO_CONNECT, BAD_TARGET, TRANSPORT_FAILFAST.
        (0x01 | 0x04 | 0x0f, _) => Code::NOT_READY.end(len),
        // BUS_BUSY, SOFT_ERROR, IMM_RETRY, REQUEUE, TRANSPORT_DISRUPTED, TRANSPORT_MARGINAL.
        (0x02 | 0x0b..=0x0e | 0x14, _) => {
            let mut end = ScsiEnd::new(BUSY);
            end.residual = len;
            end
        }
        (0x05, _) => Code::ABORTED.end(len),
        (0x06, _) => Code::PARITY.end(len),
        (0x08, _) => Code::POWER_ON.end(len),
        (0x12, _) => Code::NO_SPACE.end(len),
        _ => Code::TARGET_FAILURE.end(len),
    }
}

/// The end of a command that the driver did not take.
pub(super) fn end_of_refused(errno: rustix::io::Errno, len: u32) -> ScsiEnd {
    use rustix::io::Errno;
    match errno {
        Errno::NODEV | Errno::NXIO => Code::NOT_READY.end(len),
        Errno::PERM | Errno::ACCESS => Code::NOT_PERMITTED.end(len),
        Errno::NOMEM | Errno::AGAIN | Errno::BUSY | Errno::DOM => {
            let mut end = ScsiEnd::new(BUSY);
            end.residual = len;
            end
        }
        // More data than the host adapter moves at once, for the most part.
        _ => Code::INVALID_FIELD.end(len),
    }
}

/// How an operation on blocks ended. `None`: a unit attention, so it can be tried again.
pub(super) fn status_of(end: &ScsiEnd, op: &IoOp) -> Option<IoStatus> {
    let medium = match op {
        IoOp::Read { .. } => IoStatus::ReadError,
        _ => IoStatus::WriteError,
    };
    if end.status == 0 {
        return Some(IoStatus::Good);
    }
    if end.status != CHECK_CONDITION {
        return Some(IoStatus::Aborted);
    }
    Some(match Code::of(end.sense()) {
        Some(Code(0x6, _, _)) => return None,
        Some(Code(0x2, _, _)) => IoStatus::NotReady,
        Some(Code::NO_SPACE) => IoStatus::NoSpace,
        Some(Code(0x7, _, _)) => IoStatus::WriteProtected,
        Some(Code(0x5, 0x21, _)) => IoStatus::OutOfRange,
        Some(Code(0x5, _, _)) => IoStatus::Unsupported,
        Some(Code(0xb, _, _)) => IoStatus::Aborted,
        _ => medium,
    })
}

/// A read or write of a range of blocks, that can be done in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfer {
    opcode: u8,
    flags: u8,
    /// First block.
    pub lba: u64,
    /// Blocks.
    pub blocks: u64,
}

impl Transfer {
    /// Of a CDB of a disk; `None` for other commands.
    pub(super) fn of(cdb: &[u8]) -> Option<Transfer> {
        let number = |at: usize, len: usize| {
            cdb[at..at + len].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let opcode = *cdb.first()?;
        let (lba, blocks) = match opcode {
            code::READ_6 | code::WRITE_6 if cdb.len() >= 6 => {
                let blocks = if cdb[4] == 0 { 256 } else { u64::from(cdb[4]) };
                return Some(Transfer { opcode, flags: 0, lba: number(1, 3) & 0x1f_ffff, blocks });
            }
            code::READ_10 | code::WRITE_10 | code::WRITE_VERIFY_10 if cdb.len() >= 10 => {
                (number(2, 4), number(7, 2))
            }
            code::READ_12 | code::WRITE_12 | code::WRITE_VERIFY_12 if cdb.len() >= 12 => {
                (number(2, 4), number(6, 4))
            }
            code::READ_16 | code::WRITE_16 | code::WRITE_VERIFY_16 if cdb.len() >= 16 => {
                (number(2, 8), number(10, 4))
            }
            _ => return None,
        };
        Some(Transfer { opcode, flags: cdb[1], lba, blocks })
    }

    /// Of an operation on blocks.
    pub(super) fn of_op(op: &IoOp) -> Option<Transfer> {
        let (lba, blocks) = op.range()?;
        let (opcode, fua) = match *op {
            IoOp::Read { .. } => (code::READ_16, false),
            IoOp::Write { fua, .. } | IoOp::WriteZeroes { fua, .. } => (code::WRITE_16, fua),
            IoOp::Unmap { .. } | IoOp::Flush => return None,
        };
        Some(Transfer { opcode, flags: if fua { code::FUA } else { 0 }, lba, blocks })
    }

    /// The CDB of a part: `blocks` blocks from block `done` on, both inside the transfer, at most
    /// as many as the whole has by its own CDB. A part beyond the CDB's address range is beyond
    /// the medium: the wide form lets the device say so.
    pub(super) fn part(&self, done: u64, blocks: u32) -> ([u8; CDB_BYTES_MAX], u8) {
        let lba = self.lba + done;
        let mut cdb = [0; CDB_BYTES_MAX];
        (cdb[0], cdb[1]) = (self.opcode, self.flags);
        let short = u32::try_from(lba);
        match (self.opcode, short) {
            (code::READ_6 | code::WRITE_6, Ok(short)) if short < 1 << 21 && blocks <= 256 => {
                cdb[1..4].copy_from_slice(&short.to_be_bytes()[1..]);
                cdb[4] = (blocks % 256) as u8;
                return (cdb, 6);
            }
            (code::READ_10 | code::WRITE_10 | code::WRITE_VERIFY_10, Ok(short)) => {
                cdb[2..6].copy_from_slice(&short.to_be_bytes());
                cdb[7..9].copy_from_slice(&(blocks as u16).to_be_bytes());
                return (cdb, 10);
            }
            (code::READ_12 | code::WRITE_12 | code::WRITE_VERIFY_12, Ok(short)) => {
                cdb[2..6].copy_from_slice(&short.to_be_bytes());
                cdb[6..10].copy_from_slice(&blocks.to_be_bytes());
                return (cdb, 12);
            }
            _ => {}
        }
        cdb[0] = match self.opcode {
            code::READ_6 | code::READ_10 | code::READ_12 | code::READ_16 => code::READ_16,
            code::WRITE_6 | code::WRITE_10 | code::WRITE_12 | code::WRITE_16 => code::WRITE_16,
            _ => code::WRITE_VERIFY_16,
        };
        cdb[2..10].copy_from_slice(&lba.to_be_bytes());
        cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
        (cdb, 16)
    }
}

/// SYNCHRONIZE CACHE (10) of the whole medium.
pub(super) fn flush() -> ([u8; CDB_BYTES_MAX], u8) {
    let mut cdb = [0; CDB_BYTES_MAX];
    cdb[0] = code::SYNCHRONIZE_CACHE_10;
    (cdb, 10)
}

/// True for commands that are answered whatever state the device is in (SPC-4 5.2): they neither
/// report nor clear a unit attention.
pub(super) fn bypasses_attention(cdb: &[u8]) -> bool {
    matches!(cdb.first(), Some(0x03 | 0x12 | 0xa0))
}

/// When the host gives up on a command, in ms.
pub(super) fn timeout_ms(cdb: &[u8], is_disk: bool, usual_ms: u32) -> u32 {
    let is_long = match cdb[0] {
        code::FORMAT | code::SANITIZE | code::SEND_DIAGNOSTIC => true,
        _ if is_disk => false,
        code::REZERO_REWIND
        | code::INITIALIZE_ELEMENT_STATUS
        | code::WRITE_FILEMARKS_6
        | code::WRITE_FILEMARKS_16
        | code::SPACE_6
        | code::SPACE_16
        | code::VERIFY_6
        | code::ERASE_6
        | code::ERASE_16
        | code::LOAD_START
        | code::LOCATE_10
        | code::LOCATE_16
        | code::MOVE_MEDIUM
        | code::EXCHANGE_MEDIUM => true,
        _ => false,
    };
    if is_long { usual_ms.max(LONG_TIMEOUT_MS) } else { usual_ms }
}

/// What a command that ended GOOD says of the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learned {
    /// Bytes of a block of a disk, and its blocks.
    Capacity { block_bytes: u32, blocks: u64 },
    /// Bytes of a block of a tape; 0: they vary.
    BlockLength(u32),
}

/// What the data of a command says, in either direction.
pub(super) fn learn(cdb: &[u8], data: &[u8], is_tape: bool) -> Option<Learned> {
    let number = |at: usize, len: usize| {
        let bytes = data.get(at..at + len)?;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    match cdb[0] {
        code::READ_CAPACITY_10 if !is_tape => {
            let last = number(0, 4).filter(|last| *last != u64::from(u32::MAX))?;
            Some(Learned::Capacity { block_bytes: number(4, 4)? as u32, blocks: last + 1 })
        }
        code::SERVICE_ACTION_IN_16 if !is_tape && cdb[1] & 0x1f == code::READ_CAPACITY_16 => {
            let blocks = number(0, 8)?.checked_add(1)?;
            Some(Learned::Capacity { block_bytes: number(8, 4)? as u32, blocks })
        }
        code::MODE_SENSE_6 | code::MODE_SELECT_6 if is_tape && number(3, 1)? >= 8 => {
            Some(Learned::BlockLength(number(9, 3)? as u32))
        }
        code::MODE_SENSE_10 | code::MODE_SELECT_10 if is_tape && number(6, 2)? >= 8 => {
            Some(Learned::BlockLength(number(13, 3)? as u32))
        }
        _ => None,
    }
}

/// Bytes that a tape's READ or WRITE did not move, by its sense data: filemark, end of medium and
/// incorrect length come with the difference in INFORMATION (SSC-4 4.2.15, 5.3), in blocks of
/// `block_bytes` in fixed block mode, else in bytes. A block longer than asked for was moved as far
/// as asked.
pub(super) fn tape_residual(cdb: &[u8], sense: &[u8], block_bytes: u32, len: u32) -> Option<u32> {
    if !matches!(cdb[0], code::READ_6 | code::WRITE_6) {
        return None;
    }
    let (marks, information) = match sense.first()? & 0x7f {
        0x70 if sense[0] & 0x80 != 0 => {
            let bytes = sense.get(3..7)?.first_chunk()?;
            (sense[2], i64::from(i32::from_be_bytes(*bytes)))
        }
        0x72 => stream_marks(sense)?,
        _ => return None,
    };
    // FILEMARK, EOM, ILI.
    if marks & 0xe0 == 0 {
        return None;
    }
    let unit = if cdb[1] & 0x01 != 0 { block_bytes } else { 1 };
    let missing = information.max(0).checked_mul(i64::from(unit))?;
    Some(u32::try_from(missing).unwrap_or(u32::MAX).min(len))
}

/// FILEMARK, EOM and ILI, and INFORMATION, of sense data in descriptor format (SPC-4 4.5.2).
fn stream_marks(sense: &[u8]) -> Option<(u8, i64)> {
    let (mut marks, mut information) = (0, None);
    let mut rest = sense.get(8..)?;
    while let [kind, len, ..] = *rest {
        let whole = 2 + usize::from(len);
        match kind {
            0x00 => {
                let bytes = rest.get(4..12)?.first_chunk()?;
                information = Some(i64::from_be_bytes(*bytes));
            }
            0x04 => marks = *rest.get(3)?,
            _ => {}
        }
        rest = rest.get(whole..).unwrap_or(&[]);
    }
    Some((marks, information?))
}

#[cfg(test)]
mod tests;
