//! Commands that a device takes as they are: the values of [`IoChannel::submit_scsi`].
//!
//! Status, sense data and residual come back unchanged (SAM-5 5.3, SPC-4 4.5).
//!
//! [`IoChannel::submit_scsi`]: crate::IoChannel::submit_scsi

use reactor::{Buf, Tag};

/// Bytes of the longest CDB that a device takes.
pub const CDB_BYTES_MAX: usize = 32;

/// Bytes of sense data that are kept: as much as the Linux SCSI stack keeps.
pub const SENSE_BYTES_MAX: usize = 96;

/// What a device is whose commands are handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScsiDevice {
    /// Peripheral device type (SPC-4 table 142): 0 disk, 1 tape, 8 changer and so on.
    pub peripheral_type: u8,
    /// The medium can be taken out.
    pub removable: bool,
}

/// Which way the data of a command goes, seen from the initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataDirection {
    /// No data.
    None,
    /// From the device.
    In,
    /// To the device.
    Out,
}

/// A command for a SCSI device.
#[derive(Debug)]
pub struct ScsiIo<'a> {
    /// As [`Io::tag`](crate::Io::tag).
    pub tag: Tag,
    /// The CDB, 6 to [`CDB_BYTES_MAX`] bytes.
    pub cdb: &'a [u8],
    /// Which way the data goes.
    pub direction: DataDirection,
    /// Where it is or goes, and how much: present unless there is none.
    pub buf: Option<Buf>,
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ScsiEnd {
    /// SCSI status (SAM-5 table 44).
    pub status: u8,
    /// Bytes of the buffer that were not moved.
    pub residual: u32,
    sense: [u8; SENSE_BYTES_MAX],
    sense_len: u8,
}

impl ScsiEnd {
    /// GOOD, all data moved.
    pub const GOOD: ScsiEnd = ScsiEnd::new(0);

    /// A status without sense data.
    pub const fn new(status: u8) -> ScsiEnd {
        ScsiEnd { status, residual: 0, sense: [0; SENSE_BYTES_MAX], sense_len: 0 }
    }

    /// CHECK CONDITION with sense data, cut off at [`SENSE_BYTES_MAX`]; nothing moved of
    /// `residual` bytes.
    pub fn check(sense: &[u8], residual: u32) -> ScsiEnd {
        let mut end = ScsiEnd::new(0x02);
        end.residual = residual;
        let len = sense.len().min(SENSE_BYTES_MAX);
        end.sense[..len].copy_from_slice(&sense[..len]);
        end.sense_len = len as u8;
        end
    }

    /// The sense data; empty for none.
    pub fn sense(&self) -> &[u8] {
        &self.sense[..usize::from(self.sense_len)]
    }
}

impl std::fmt::Debug for ScsiEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScsiEnd")
            .field("status", &self.status)
            .field("residual", &self.residual)
            .field("sense", &self.sense())
            .finish()
    }
}
