//! Data descriptors of SRP_CMD: where the initiator's data is (SRP 16A, 5.4).

use super::{be32, field, put};

/// Bytes of a direct descriptor, which is also an entry of an indirect table.
pub const DESCRIPTOR_BYTES: usize = 16;

/// Bytes of an indirect descriptor before the table entries that follow it in the IU.
pub const INDIRECT_BYTES: usize = DESCRIPTOR_BYTES + 4;

/// Bytes of an immediate descriptor.
pub(super) const IMMEDIATE_BYTES: usize = 4;

/// A range of the initiator's memory, as an SRP memory descriptor names it (SRP 16A, 5.4).
/// Unchecked: the fabric refuses what the initiator did not register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seg {
    /// Virtual address in the initiator's terms.
    pub addr: u64,
    /// Registration (R_Key).
    pub key: u32,
    /// Bytes.
    pub len: u32,
}

impl Seg {
    /// The segment of a 16-byte descriptor.
    #[inline]
    pub fn from_bytes(bytes: &[u8; DESCRIPTOR_BYTES]) -> Self {
        Seg { addr: u64::from_be_bytes(field(bytes, 0)), key: be32(bytes, 8), len: be32(bytes, 12) }
    }

    /// The 16-byte descriptor.
    #[inline]
    pub fn to_bytes(self) -> [u8; DESCRIPTOR_BYTES] {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        put(&mut bytes, 0, &self.addr.to_be_bytes());
        put(&mut bytes, 8, &self.key.to_be_bytes());
        put(&mut bytes, 12, &self.len.to_be_bytes());
        bytes
    }
}

/// Which way the data of a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// DATA-OUT: initiator to target.
    Out,
    /// DATA-IN: target to initiator.
    In,
}

/// The data of one direction of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataDesc<'a> {
    /// None.
    #[default]
    None,
    /// One range of the initiator's memory.
    Direct(Seg),
    /// A list of ranges.
    Indirect(Indirect<'a>),
    /// The data itself, inside the IU. DATA-OUT only.
    Immediate(&'a [u8]),
}

impl DataDesc<'_> {
    /// Bytes of data the initiator expects to move (SPC: data-in or data-out buffer size).
    #[inline]
    pub fn data_len(&self) -> u32 {
        match self {
            DataDesc::None => 0,
            DataDesc::Direct(seg) => seg.len,
            DataDesc::Indirect(indirect) => indirect.total_len,
            // An IU is shorter than 4 GiB: receives are sized in 32 bits.
            DataDesc::Immediate(data) => data.len() as u32,
        }
    }

    /// True without data descriptor.
    #[inline]
    pub fn is_none(&self) -> bool {
        matches!(self, DataDesc::None)
    }

    /// The nibble of the `buf_fmt` byte.
    #[inline]
    pub(super) fn format(&self) -> u8 {
        match self {
            DataDesc::None => format::NONE,
            DataDesc::Direct(_) => format::DIRECT,
            DataDesc::Indirect(_) => format::INDIRECT,
            DataDesc::Immediate(_) => format::IMMEDIATE,
        }
    }

    /// The descriptor count field of the direction: entries of the table inside the IU. A direct
    /// descriptor counts 0.
    #[inline]
    pub(super) fn count(&self) -> u8 {
        match self {
            DataDesc::Indirect(indirect) => {
                u8::try_from(indirect.in_iu.len()).expect("at most 255 table entries in the IU")
            }
            _ => 0,
        }
    }

    /// Bytes of the descriptor.
    #[inline]
    pub(super) fn wire_len(&self) -> usize {
        match self {
            DataDesc::None => 0,
            DataDesc::Direct(_) => DESCRIPTOR_BYTES,
            DataDesc::Indirect(indirect) => {
                INDIRECT_BYTES + indirect.in_iu.len() * DESCRIPTOR_BYTES
            }
            DataDesc::Immediate(_) => IMMEDIATE_BYTES,
        }
    }
}

/// Values of the two nibbles of `buf_fmt` in SRP_CMD.
pub(super) mod format {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const DIRECT: u8 = 1;
    pub(crate) const INDIRECT: u8 = 2;
    pub(crate) const IMMEDIATE: u8 = 3;
}

/// An indirect descriptor: a table of segments, in the IU as far as it fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Indirect<'a> {
    /// The whole table in the initiator's memory. Address and key are only valid when
    /// [`Indirect::is_external`]; the length always is: 16 bytes an entry.
    pub table: Seg,
    /// Bytes of data that the segments hold in total, as the initiator says; see [`covers`].
    pub total_len: u32,
    /// The first entries of the table, copied into the IU. At most 255, and no more than
    /// `table.len` has.
    pub in_iu: &'a [[u8; DESCRIPTOR_BYTES]],
}

impl<'a> Indirect<'a> {
    /// The entries inside the IU.
    #[inline]
    pub fn segs(&self) -> Segs<'a> {
        Segs(self.in_iu.iter())
    }

    /// Entries of the whole table.
    #[inline]
    pub const fn table_entries(&self) -> usize {
        self.table.len as usize / DESCRIPTOR_BYTES
    }

    /// True when the table is longer than its part in the IU: the rest must be fetched from
    /// `table`.
    #[inline]
    pub const fn is_external(&self) -> bool {
        self.table_entries() > self.in_iu.len()
    }
}

/// The segments of a table, in order.
#[derive(Debug, Clone)]
pub struct Segs<'a>(std::slice::Iter<'a, [u8; DESCRIPTOR_BYTES]>);

impl Iterator for Segs<'_> {
    type Item = Seg;

    #[inline]
    fn next(&mut self) -> Option<Seg> {
        self.0.next().map(Seg::from_bytes)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Segs<'_> {}

/// The segments of a table that was fetched from the initiator's memory. `None` unless the length
/// is a multiple of 16 bytes.
pub fn decode_table(bytes: &[u8]) -> Option<Segs<'_>> {
    match bytes.as_chunks() {
        (entries, []) => Some(Segs(entries.iter())),
        _ => None,
    }
}

/// Writes a table and returns its bytes. Panics when `to` is too short.
pub fn encode_table(segs: &[Seg], to: &mut [u8]) -> usize {
    let len = segs.len() * DESCRIPTOR_BYTES;
    let (entries, _) = to[..len].as_chunks_mut();
    for (entry, seg) in entries.iter_mut().zip(segs) {
        *entry = seg.to_bytes();
    }
    len
}

/// Whether segments hold at least `total_len` bytes. A list that does not is an invalid field of
/// the command (CHECK CONDITION, 5/24).
pub fn covers(segs: impl IntoIterator<Item = Seg>, total_len: u32) -> bool {
    // 2^32 entries of 2^32 bytes stay below 2^64, so the sum is exact.
    segs.into_iter().map(|seg| u64::from(seg.len)).sum::<u64>() >= u64::from(total_len)
}
