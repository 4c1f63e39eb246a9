//! The SCSI command set, pure: bytes and values in, values out. Knows no target, no transport and
//! no reactor; of block devices only their plain values.

/// Who a logical unit says it is (SPC-5 INQUIRY and VPD). Stable across restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// T10 vendor identification, 8 bytes of ASCII, padded with spaces.
    pub vendor: [u8; 8],
    /// Product identification, 16 bytes of ASCII, padded with spaces.
    pub product: [u8; 16],
    /// Product revision level, 4 bytes of ASCII.
    pub revision: [u8; 4],
    /// Unit serial number, 1 to 36 bytes of printable ASCII.
    pub serial: String,
    /// NAA designator: locally assigned (3h) 64 bits.
    pub naa: u64,
    /// UUID of the device, for the SCSI name string.
    pub uuid: [u8; 16],
}
