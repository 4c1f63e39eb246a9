//! The SCSI command set, pure: bytes and values in, values out. Knows no target, no transport and
//! no reactor; of block devices only their plain values.
//!
//! [`decode()`] turns a CDB into [`Work`]; [`Answer::fill`] makes the data of small answers,
//! [`Steps`] walks through commands that look at data, [`sense_of`] turns a device's status into
//! sense data.
//!
//! What a CDB may hold is written once, in [`opcodes`]: the table decides what is decoded, which
//! bits are refused, and what REPORT SUPPORTED OPERATION CODES says.
//!
//! READ and WRITE (10) and (16) cost one match and a few comparisons in [`transfer()`]; nothing
//! here allocates but [`Identity`].

pub mod attention;
pub mod capacity;
pub mod cdb;
pub mod decode;
#[cfg(test)]
mod fixtures;
pub mod identity;
pub mod inquiry;
pub mod mode;
pub mod opcodes;
pub mod page;
pub mod pass;
pub mod reads;
pub mod report_luns;
pub mod reserve;
pub mod sense;
pub mod status;
pub mod steps;
pub mod vpd;

pub use decode::{decode, decode_absent, transfer};
pub use identity::{Identity, IdentityError};
pub use report_luns::{LunSelect, report_luns};
pub use reserve::Reserve;
pub use sense::{Sense, request_sense};
pub use status::{ScsiStatus, sense_of};
pub use steps::{Step, Steps};

use bdev::{Geometry, IoOp};

/// Bytes that the longest answer of [`Answer::fill`] can have.
pub const ANSWER_BYTES_MAX: usize = 1024;

/// Most blocks of one COMPARE AND WRITE: its CDB has one byte for them (SBC-3 5.2).
const COMPARE_AND_WRITE_BLOCKS_MAX: u32 = 255;
/// Most bytes that one WRITE SAME changes: bounds the time of one command.
const WRITE_SAME_BYTES_MAX: u64 = 128 << 20;
/// Most blocks that one UNMAP gives up, over all its descriptors.
const UNMAP_BLOCKS_MAX: u32 = 1 << 20;
/// Most block descriptors of one UNMAP.
const UNMAP_DESCRIPTORS_MAX: u32 = 256;

/// What a command sees of its logical unit. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct LuView<'a> {
    /// Size and abilities of the device now.
    pub geometry: Geometry,
    /// Names of the logical unit.
    pub identity: &'a Identity,
    /// The LUN is mapped read-only.
    pub read_only: bool,
    /// The device has its medium.
    pub ready: bool,
    /// The device only holds the LUN's place: nothing is connected.
    pub placeholder: bool,
    /// Relative target port identifier, from 1 (SPC-4 7.8.5.2.6).
    pub relative_port: u16,
    /// Largest data buffer of one command in bytes; at least 64 KiB.
    pub io_bytes_max: u32,
}

impl LuView<'static> {
    /// The view that [`Answer::fill`] gets for the answers of [`decode_absent`]: no blocks, no
    /// name.
    pub fn absent() -> LuView<'static> {
        static NOBODY: Identity = Identity {
            vendor: *identity::VENDOR_DEFAULT,
            product: [b' '; 16],
            revision: [b' '; 4],
            serial: String::new(),
            naa: [0; 16],
            uuid: [0; 16],
        };
        LuView {
            geometry: Geometry {
                block_bytes: 512,
                blocks: 0,
                physical_exponent: 0,
                buf_align: 1,
                write_cache: false,
                read_only: true,
                unmap: false,
                unmap_zeroes: false,
                unmap_granularity: 0,
                rotational: false,
            },
            identity: &NOBODY,
            read_only: true,
            ready: true,
            placeholder: false,
            relative_port: 1,
            io_bytes_max: 64 << 10,
        }
    }
}

impl LuView<'_> {
    /// True when writes are refused, by the mapping or by the device.
    #[inline]
    pub fn write_protected(&self) -> bool {
        self.read_only | self.geometry.read_only
    }

    /// MAXIMUM TRANSFER LENGTH in blocks (SBC-3 6.5.3).
    #[inline]
    pub fn transfer_blocks_max(&self) -> u32 {
        self.io_bytes_max / self.geometry.block_bytes
    }

    /// MAXIMUM COMPARE AND WRITE LENGTH in blocks: both halves of the data fit one buffer.
    pub fn compare_and_write_blocks_max(&self) -> u32 {
        (self.transfer_blocks_max() / 2).min(COMPARE_AND_WRITE_BLOCKS_MAX)
    }

    /// MAXIMUM WRITE SAME LENGTH in blocks.
    pub fn write_same_blocks_max(&self) -> u64 {
        WRITE_SAME_BYTES_MAX / u64::from(self.geometry.block_bytes)
    }

    /// MAXIMUM UNMAP LBA COUNT in blocks; 0 when the device can't unmap.
    pub fn unmap_blocks_max(&self) -> u32 {
        if self.geometry.unmap { UNMAP_BLOCKS_MAX } else { 0 }
    }

    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT; 0 when the device can't unmap.
    pub fn unmap_descriptors_max(&self) -> u32 {
        if self.geometry.unmap { UNMAP_DESCRIPTORS_MAX } else { 0 }
    }
}

/// Which way a command's data goes, seen from the initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// To the initiator.
    In,
    /// From the initiator.
    Out,
}

/// A command as its CDB states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// What to do.
    pub work: Work,
    /// Which way the data goes.
    pub direction: Direction,
    /// Bytes of data by the CDB: transfer length of reads and writes, allocation length of answers,
    /// parameter list length of data-out. Data-out never exceeds `LuView::io_bytes_max`; an
    /// allocation length may.
    pub bytes: u64,
}

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Nothing: status GOOD.
    Good,
    /// Data that [`Answer::fill`] makes.
    Answer(Answer),
    /// One operation of the device; `Read` and `Write` move exactly `Decoded::bytes`.
    Io(IoOp),
    /// A read with FUA of a device with a volatile cache (SBC-3 5.8): what the cache holds goes to
    /// the medium first, then the blocks are read. Moves exactly `Decoded::bytes`.
    ReadMedium {
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
    },
    /// Several operations, depending on data.
    Steps(Steps),
    /// The unit is reserved or released for the nexus, on all cores.
    Reserve(Reserve),
    /// The LUN list of the target: [`report_luns()`] makes the data.
    ReportLuns(LunSelect),
    /// The pending sense data of the nexus: [`request_sense`] makes the data.
    RequestSense {
        /// Descriptor format is wanted (DESC).
        descriptor: bool,
    },
}

/// A small answer whose data depends on the [`LuView`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Standard INQUIRY data; the byte is peripheral qualifier and device type.
    Inquiry(u8),
    /// Vital product data page.
    Vpd(vpd::VpdPage),
    /// The only vital product data page where no logical unit is: the list of pages. The byte is
    /// peripheral qualifier and device type.
    AbsentVpd(u8),
    /// READ CAPACITY (10).
    Capacity10,
    /// READ CAPACITY (16).
    Capacity16,
    /// MODE SENSE (6) and (10).
    Mode(mode::ModeSense),
    /// REPORT SUPPORTED OPERATION CODES.
    Opcodes(opcodes::OpcodeQuery),
    /// REQUEST SENSE data that doesn't depend on the nexus.
    Sense {
        /// What it says.
        sense: Sense,
        /// Descriptor format is wanted (DESC).
        descriptor: bool,
    },
}

impl Answer {
    /// Writes the answer to the front of `out`, cut off at its end (SPC-4 4.2.5.6: the allocation
    /// length cuts the data without changing its length fields). Returns the bytes written, at most
    /// [`ANSWER_BYTES_MAX`].
    pub fn fill(&self, lu: &LuView<'_>, out: &mut [u8]) -> usize {
        let mut whole = page::Page::new();
        match self {
            Answer::Inquiry(peripheral) => inquiry::standard(*peripheral, lu, &mut whole),
            Answer::Vpd(page) => vpd::page(*page, lu, &mut whole),
            Answer::AbsentVpd(peripheral) => vpd::absent(*peripheral, &mut whole),
            Answer::Capacity10 => capacity::capacity_10(lu, &mut whole),
            Answer::Capacity16 => capacity::capacity_16(lu, &mut whole),
            Answer::Mode(query) => mode::mode_sense(query, lu, &mut whole),
            Answer::Opcodes(query) => opcodes::report(query, lu, &mut whole),
            Answer::Sense { sense, descriptor } => {
                let mut bytes = [0; sense::SENSE_BYTES_MAX];
                let length = sense.emit(*descriptor, &mut bytes);
                whole.bytes(&bytes[..length]);
            }
        }
        let whole = whole.as_bytes();
        let length = whole.len().min(out.len());
        out[..length].copy_from_slice(&whole[..length]);
        if lu.placeholder && matches!(self, Answer::Inquiry(_) | Answer::Vpd(_)) && length > 0 {
            out[0] = inquiry::PERIPHERAL_UNCONNECTED;
        }
        length
    }
}

#[cfg(test)]
mod tests;
