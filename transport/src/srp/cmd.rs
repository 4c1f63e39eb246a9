//! SRP_CMD: a SCSI command with the descriptors of its data (SRP 16A, 6.8).
//!
//! Two kinds of refusal: bytes that are no command at all are [`Malformed`] and end the
//! connection; a command whose additional CDB or descriptors are wrong still has a tag and a LUN,
//! so it is answered CHECK CONDITION, ILLEGAL REQUEST, invalid field ([`InvalidCmd`]).

use super::descriptor::{IMMEDIATE_BYTES, format};
use super::{
    DESCRIPTOR_BYTES, DataDesc, Direction, INDIRECT_BYTES, Indirect, Lun, Malformed, Opcode, Seg,
    SolNot, Tag, be32, field, fixed, put, start, tag,
};

/// Bytes of the CDB field; longer CDBs continue behind it.
pub const CDB_BYTES: usize = 16;

const SOL_NOT: usize = 1;
const BUF_FMT: usize = 5;
const BUF_FMT_NONE: u8 = 0;
const BUF_FMT_DIRECT_OUT: u8 = format::DIRECT << 4;
const BUF_FMT_DIRECT_IN: u8 = format::DIRECT;
const BUF_FMT_IMMEDIATE: u8 = format::IMMEDIATE << 4;
const DATA_OUT_DESC_CNT: usize = 6;
const DATA_IN_DESC_CNT: usize = 7;
const LUN: usize = 20;
const TASK_ATTR: usize = 29;
/// In units of 4 bytes, in bits 7..2: the byte without its low bits counts bytes.
const ADD_CDB_LEN: usize = 31;
const ADD_CDB_LEN_MASK: u8 = 0xFC;
const CDB: usize = 32;

/// Task attribute (SAM-5, 8.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum TaskAttr {
    /// SIMPLE.
    #[default]
    Simple = 0,
    /// HEAD OF QUEUE.
    HeadOfQueue = 1,
    /// ORDERED.
    Ordered = 2,
    /// ACA.
    Aca = 4,
}

impl TaskAttr {
    /// Reserved values are SIMPLE: what the kernel targets make of them.
    #[inline]
    const fn from_byte(byte: u8) -> Self {
        match byte & 0x07 {
            1 => TaskAttr::HeadOfQueue,
            2 => TaskAttr::Ordered,
            4 => TaskAttr::Aca,
            _ => TaskAttr::Simple,
        }
    }
}

/// A command, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cmd<'a> {
    /// The initiator's name for it.
    pub tag: Tag,
    /// The logical unit.
    pub lun: Lun,
    /// Task attribute.
    pub task_attr: TaskAttr,
    /// Whether the response is to raise a solicited event.
    pub sol_not: SolNot,
    /// The CDB: 16 bytes and the additional CDB, 0 to 252 bytes in steps of 4.
    pub cdb: &'a [u8],
    /// Data from the initiator.
    pub data_out: DataDesc<'a>,
    /// Data to the initiator. Never [`DataDesc::Immediate`].
    pub data_in: DataDesc<'a>,
}

/// A command in the form that nearly every read and write has: a CDB of at most 16 bytes and one
/// direct descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectCmd {
    /// The initiator's name for it.
    pub tag: Tag,
    /// The logical unit.
    pub lun: Lun,
    /// Whether the response is to raise a solicited event.
    pub sol_not: SolNot,
    /// The CDB.
    pub cdb: [u8; CDB_BYTES],
    /// Which way the data goes.
    pub direction: Direction,
    /// The initiator's memory.
    pub seg: Seg,
}

impl DirectCmd {
    /// The command in the received bytes if it has this form; any other is left to [`Cmd::parse`],
    /// which tells the same of this one.
    #[inline]
    pub fn parse(iu: &[u8]) -> Option<Self> {
        let head: &[u8; Cmd::LEN_MIN + DESCRIPTOR_BYTES] = iu.first_chunk()?;
        let direction = match head[BUF_FMT] {
            BUF_FMT_DIRECT_IN => Direction::In,
            BUF_FMT_DIRECT_OUT => Direction::Out,
            _ => return None,
        };
        if head[0] != Opcode::Cmd as u8 || head[ADD_CDB_LEN] & ADD_CDB_LEN_MASK != 0 {
            return None;
        }
        Some(DirectCmd {
            tag: tag(head),
            lun: Lun(field(head, LUN)),
            sol_not: SolNot::from_byte(head[SOL_NOT]),
            cdb: field(head, CDB),
            direction,
            seg: Seg::from_bytes(head[Cmd::LEN_MIN..].first_chunk().expect("inside the head")),
        })
    }

    /// The long form of the command. `iu`: the bytes that it was parsed from.
    pub fn as_cmd(&self, iu: &[u8]) -> Cmd<'_> {
        let desc = DataDesc::Direct(self.seg);
        let (data_out, data_in) = match self.direction {
            Direction::Out => (desc, DataDesc::None),
            Direction::In => (DataDesc::None, desc),
        };
        Cmd {
            tag: self.tag,
            lun: self.lun,
            task_attr: TaskAttr::from_byte(iu[TASK_ATTR]),
            sol_not: self.sol_not,
            cdb: &self.cdb,
            data_out,
            data_in,
        }
    }
}

/// A command in the form that nearly every small write has where immediate data was agreed on: a
/// CDB of at most 16 bytes, and its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImmediateCmd<'a> {
    /// The initiator's name for it.
    pub tag: Tag,
    /// The logical unit.
    pub lun: Lun,
    /// Whether the response is to raise a solicited event.
    pub sol_not: SolNot,
    /// The CDB.
    pub cdb: &'a [u8; CDB_BYTES],
    /// DATA-OUT.
    pub data: &'a [u8],
}

impl<'a> ImmediateCmd<'a> {
    /// The command in the received bytes if it has this form; any other is left to [`Cmd::parse`],
    /// which tells the same of this one. `imm_data_offset`: where immediate data begins.
    #[inline]
    pub fn parse(iu: &'a [u8], imm_data_offset: u32) -> Option<Self> {
        let head: &[u8; Cmd::LEN_MIN + IMMEDIATE_BYTES] = iu.first_chunk()?;
        if head[BUF_FMT] != BUF_FMT_IMMEDIATE
            || head[0] != Opcode::Cmd as u8
            || head[ADD_CDB_LEN] & ADD_CDB_LEN_MASK != 0
            || (imm_data_offset as usize) < head.len()
        {
            return None;
        }
        Some(ImmediateCmd {
            tag: tag(head),
            lun: Lun(field(head, LUN)),
            sol_not: SolNot::from_byte(head[SOL_NOT]),
            cdb: head[CDB..].first_chunk().expect("inside the head"),
            data: iu.get(imm_data_offset as usize..)?.get(..be32(head, Cmd::LEN_MIN) as usize)?,
        })
    }

    /// The long form of the command. `iu`: the bytes that it was parsed from.
    pub fn as_cmd(&self, iu: &[u8]) -> Cmd<'a> {
        Cmd {
            tag: self.tag,
            lun: self.lun,
            task_attr: TaskAttr::from_byte(iu[TASK_ATTR]),
            sol_not: self.sol_not,
            cdb: self.cdb,
            data_out: DataDesc::Immediate(self.data),
            data_in: DataDesc::None,
        }
    }
}

/// Why a received SRP_CMD is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CmdError {
    /// Not a command: the connection closes.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A command with wrong fields: answered CHECK CONDITION, 5/24.
    #[error(transparent)]
    Invalid(InvalidCmd),
}

/// A command with wrong fields, and what its answer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct InvalidCmd {
    /// The initiator's name for it.
    pub tag: Tag,
    /// The logical unit.
    pub lun: Lun,
    /// Whether the response is to raise a solicited event.
    pub sol_not: SolNot,
    /// What is wrong.
    pub fault: CmdFault,
}

/// What is wrong with the fields of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CmdFault {
    /// The additional CDB reaches past the received bytes.
    #[error("additional CDB is longer than the information unit")]
    AdditionalCdb,
    /// A descriptor reaches past the received bytes.
    #[error("{0:?} descriptor is longer than the information unit")]
    Truncated(Direction),
    /// An undefined descriptor format, or immediate data where there can't be any.
    #[error("{0:?} descriptor format is not supported")]
    Format(Direction),
    /// An indirect table whose length is 0, no multiple of 16, or below its part in the IU.
    #[error("{0:?} indirect table has a wrong length")]
    TableLength(Direction),
    /// Immediate data that overlaps the descriptors or reaches past the received bytes.
    #[error("immediate data is not inside the information unit")]
    ImmediateData,
}

impl<'a> Cmd<'a> {
    /// Bytes of a command without additional CDB and data.
    pub const LEN_MIN: usize = CDB + CDB_BYTES;

    /// Where the CDB begins in the IU.
    pub const CDB_AT: usize = CDB;

    /// Parses the received bytes of a command. `imm_data_offset`: where immediate data begins, if
    /// the login agreed on it.
    #[inline]
    pub fn parse(iu: &'a [u8], imm_data_offset: Option<u32>) -> Result<Self, CmdError> {
        let head: &[u8; Cmd::LEN_MIN] = fixed(iu, Opcode::Cmd)?;
        let mut cmd = Cmd {
            tag: tag(head),
            lun: Lun(field(head, LUN)),
            task_attr: TaskAttr::from_byte(head[TASK_ATTR]),
            sol_not: SolNot::from_byte(head[SOL_NOT]),
            cdb: &head[CDB..],
            data_out: DataDesc::None,
            data_in: DataDesc::None,
        };
        // The common forms, in a few branches: a CDB of 16 bytes and at most one direct descriptor.
        let desc = iu[Self::LEN_MIN..].first_chunk().map(Seg::from_bytes).map(DataDesc::Direct);
        match (head[ADD_CDB_LEN] & ADD_CDB_LEN_MASK, head[BUF_FMT], desc) {
            (0, BUF_FMT_NONE, _) => {}
            (0, BUF_FMT_DIRECT_OUT, Some(desc)) => cmd.data_out = desc,
            (0, BUF_FMT_DIRECT_IN, Some(desc)) => cmd.data_in = desc,
            _ => cmd.parse_any(iu, head, imm_data_offset)?,
        }
        Ok(cmd)
    }

    /// Additional CDB and descriptors of any form.
    #[inline(never)]
    fn parse_any(
        &mut self,
        iu: &'a [u8],
        head: &[u8; Cmd::LEN_MIN],
        imm_data_offset: Option<u32>,
    ) -> Result<(), CmdError> {
        let Cmd { tag, lun, sol_not, .. } = *self;
        let invalid = |fault| CmdError::Invalid(InvalidCmd { tag, lun, sol_not, fault });
        let add_cdb_len = usize::from(head[ADD_CDB_LEN] & ADD_CDB_LEN_MASK);
        let end = Self::LEN_MIN + add_cdb_len;
        self.cdb = iu.get(CDB..end).ok_or_else(|| invalid(CmdFault::AdditionalCdb))?;

        let mut walk = Walk { iu, at: end };
        let (out_format, in_format) = (head[BUF_FMT] >> 4, head[BUF_FMT] & 0x0F);
        let data_out =
            walk.next(Direction::Out, out_format, head[DATA_OUT_DESC_CNT]).map_err(invalid)?;
        let data_in =
            walk.next(Direction::In, in_format, head[DATA_IN_DESC_CNT]).map_err(invalid)?;
        self.data_out = match data_out {
            Found::Desc(desc) => desc,
            Found::Immediate { len } => {
                walk.immediate(imm_data_offset, len).map(DataDesc::Immediate).map_err(invalid)?
            }
        };
        self.data_in = match data_in {
            Found::Desc(desc) => desc,
            Found::Immediate { .. } => return Err(invalid(CmdFault::Format(Direction::In))),
        };
        Ok(())
    }

    /// Where the memory descriptors of a direction's indirect table begin in the IU that the
    /// command was parsed from.
    #[inline]
    pub fn table_at(&self, direction: Direction) -> usize {
        let before = match direction {
            Direction::Out => 0,
            Direction::In => self.data_out.wire_len(),
        };
        CDB + self.cdb.len() + before + INDIRECT_BYTES
    }

    /// Bytes of the IU that [`Cmd::emit`] writes.
    #[inline]
    pub fn wire_len(&self, imm_data_offset: Option<u32>) -> usize {
        if let DataDesc::Immediate(data) = self.data_out {
            let offset = imm_data_offset.expect("immediate data was agreed on at login");
            return offset as usize + data.len();
        }
        CDB + self.cdb_field_len() + self.data_out.wire_len() + self.data_in.wire_len()
    }

    /// Writes the IU and returns its bytes. The CDB is padded with zeros to 16 bytes, or beyond to
    /// a multiple of 4. Panics when `to` is shorter than [`Cmd::wire_len`], when the CDB has more
    /// than 268 bytes, or when immediate data is in DATA-IN or not agreed on.
    #[inline]
    pub fn emit(&self, imm_data_offset: Option<u32>, to: &mut [u8]) -> usize {
        let len = self.wire_len(imm_data_offset);
        let to = &mut to[..len];
        let head: &mut [u8; Cmd::LEN_MIN] = start(to, Opcode::Cmd);
        head[SOL_NOT] = self.sol_not.to_byte();
        head[BUF_FMT] = self.data_out.format() << 4 | self.data_in.format();
        head[DATA_OUT_DESC_CNT] = self.data_out.count();
        head[DATA_IN_DESC_CNT] = self.data_in.count();
        put(head, super::TAG, &self.tag);
        put(head, LUN, &self.lun.0);
        head[TASK_ATTR] = self.task_attr as u8;
        let cdb_len = self.cdb_field_len();
        head[ADD_CDB_LEN] =
            u8::try_from(cdb_len - CDB_BYTES).expect("at most 252 bytes of additional CDB");
        if let Ok(cdb) = <&[u8; CDB_BYTES]>::try_from(self.cdb) {
            put(to, CDB, cdb);
        } else {
            put(to, CDB, self.cdb);
            to[CDB + self.cdb.len()..CDB + cdb_len].fill(0);
        }
        let at = put_descriptor(to, CDB + cdb_len, &self.data_out);
        let end = put_descriptor(to, at, &self.data_in);
        if let DataDesc::Immediate(data) = self.data_out {
            let offset = len - data.len();
            to[end..offset].fill(0);
            put(to, offset, data);
        }
        assert!(!matches!(self.data_in, DataDesc::Immediate(_)), "immediate data is DATA-OUT only");
        len
    }

    /// Bytes of the CDB field and the additional CDB.
    #[inline]
    fn cdb_field_len(&self) -> usize {
        self.cdb.len().max(CDB_BYTES).next_multiple_of(4)
    }
}

/// A descriptor; of immediate data only the length is known before all descriptors are passed.
enum Found<'a> {
    Desc(DataDesc<'a>),
    Immediate { len: u32 },
}

/// Goes over the descriptors of a received command.
struct Walk<'a> {
    iu: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    #[inline]
    fn next(&mut self, direction: Direction, format: u8, count: u8) -> Result<Found<'a>, CmdFault> {
        let truncated = CmdFault::Truncated(direction);
        Ok(match format {
            format::NONE => Found::Desc(DataDesc::None),
            // The count is not looked at: initiators leave it 0 for a single descriptor.
            format::DIRECT => {
                let bytes = self.take(DESCRIPTOR_BYTES).ok_or(truncated)?;
                Found::Desc(DataDesc::Direct(Seg::from_bytes(&field(bytes, 0))))
            }
            format::INDIRECT => {
                let len = INDIRECT_BYTES + usize::from(count) * DESCRIPTOR_BYTES;
                let bytes = self.take(len).ok_or(truncated)?;
                let (in_iu, _) = bytes[INDIRECT_BYTES..].as_chunks();
                let table = Seg::from_bytes(&field(bytes, 0));
                let indirect = Indirect { table, total_len: be32(bytes, DESCRIPTOR_BYTES), in_iu };
                if table.len == 0
                    || !(table.len as usize).is_multiple_of(DESCRIPTOR_BYTES)
                    || indirect.table_entries() < in_iu.len()
                {
                    return Err(CmdFault::TableLength(direction));
                }
                Found::Desc(DataDesc::Indirect(indirect))
            }
            format::IMMEDIATE => {
                let bytes = self.take(IMMEDIATE_BYTES).ok_or(truncated)?;
                Found::Immediate { len: be32(bytes, 0) }
            }
            _ => return Err(CmdFault::Format(direction)),
        })
    }

    #[inline]
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.iu.get(self.at..)?.get(..len)?;
        self.at += len;
        Some(bytes)
    }

    /// Immediate data, once all descriptors are passed.
    fn immediate(&self, offset: Option<u32>, len: u32) -> Result<&'a [u8], CmdFault> {
        let offset = offset.ok_or(CmdFault::Format(Direction::Out))? as usize;
        if offset < self.at {
            return Err(CmdFault::ImmediateData);
        }
        let data = self.iu.get(offset..).ok_or(CmdFault::ImmediateData)?;
        data.get(..len as usize).ok_or(CmdFault::ImmediateData)
    }
}

/// Writes a descriptor at `at` and returns where the next one begins.
#[inline]
fn put_descriptor(to: &mut [u8], at: usize, desc: &DataDesc<'_>) -> usize {
    match desc {
        DataDesc::None => {}
        DataDesc::Direct(seg) => put(to, at, &seg.to_bytes()),
        DataDesc::Indirect(indirect) => {
            put(to, at, &indirect.table.to_bytes());
            put(to, at + DESCRIPTOR_BYTES, &indirect.total_len.to_be_bytes());
            put(to, at + INDIRECT_BYTES, indirect.in_iu.as_flattened());
        }
        DataDesc::Immediate(data) => {
            let len = u32::try_from(data.len()).expect("immediate data fits an information unit");
            put(to, at, &len.to_be_bytes());
        }
    }
    at + desc.wire_len()
}
