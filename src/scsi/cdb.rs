//! Fields of a command descriptor block (SPC-4 4.2.5): big-endian numbers at fixed places.

/// A CDB of up to 16 bytes, padded with zeros.
pub type Cdb = [u8; 16];

/// Two bytes from `at` on.
#[inline]
pub(super) fn be16(cdb: &Cdb, at: usize) -> u16 {
    u16::from_be_bytes([cdb[at], cdb[at + 1]])
}

/// Three bytes from `at` on.
#[inline]
pub(super) fn be24(cdb: &Cdb, at: usize) -> u32 {
    u32::from_be_bytes([0, cdb[at], cdb[at + 1], cdb[at + 2]])
}

/// Four bytes from `at` on.
#[inline]
pub(super) fn be32(cdb: &Cdb, at: usize) -> u32 {
    u32::from_be_bytes([cdb[at], cdb[at + 1], cdb[at + 2], cdb[at + 3]])
}

/// Eight bytes from `at` on.
#[inline]
pub(super) fn be64(cdb: &Cdb, at: usize) -> u64 {
    (u64::from(be32(cdb, at)) << 32) | u64::from(be32(cdb, at + 4))
}

/// The CDB as two words, in the order of memory.
#[inline]
pub(super) fn halves(cdb: &Cdb) -> [u64; 2] {
    let word = |at: usize| u64::from_ne_bytes(*cdb[at..].first_chunk().expect("16 bytes"));
    [word(0), word(8)]
}

/// Bytes of the CDB by its group code (SPC-4 4.2.5.1); `None`: vendor specific, reserved, or
/// variable length, none of which is served.
pub(super) fn length_of_group(opcode: u8) -> Option<usize> {
    match opcode >> 5 {
        0 => Some(6),
        1 | 2 => Some(10),
        4 => Some(16),
        5 => Some(12),
        _ => None,
    }
}
