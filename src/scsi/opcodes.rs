//! The table of commands, and REPORT SUPPORTED OPERATION CODES (SPC-4 6.35) which reports it.
//!
//! A command's CDB usage map says which bits are looked at. Every other bit must be zero, or the
//! command ends with INVALID FIELD IN CDB: so RDPROTECT, ANCHOR, NACA and all reserved bits are
//! refused without a line of code each. GROUP NUMBER alone is ignored: it changes no data.

use super::LuView;
use super::cdb::{Cdb, be16, be32};
use super::page::Page;
use super::sense::Sense;

/// Operation codes (SPC-4 annex E.3).
#[allow(missing_docs)]
pub mod opcode {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const READ_6: u8 = 0x08;
    pub const WRITE_6: u8 = 0x0a;
    pub const INQUIRY: u8 = 0x12;
    pub const RESERVE_6: u8 = 0x16;
    pub const RELEASE_6: u8 = 0x17;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2a;
    pub const VERIFY_10: u8 = 0x2f;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const WRITE_SAME_10: u8 = 0x41;
    pub const UNMAP: u8 = 0x42;
    pub const RESERVE_10: u8 = 0x56;
    pub const RELEASE_10: u8 = 0x57;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_16: u8 = 0x88;
    pub const COMPARE_AND_WRITE: u8 = 0x89;
    pub const WRITE_16: u8 = 0x8a;
    pub const VERIFY_16: u8 = 0x8f;
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub const WRITE_SAME_16: u8 = 0x93;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub const REPORT_LUNS: u8 = 0xa0;
    pub const MAINTENANCE_IN: u8 = 0xa3;
    pub const READ_12: u8 = 0xa8;
    pub const WRITE_12: u8 = 0xaa;
    pub const VERIFY_12: u8 = 0xaf;
}

/// The command that a row of the table is. [`super::decode()`] serves every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    TestUnitReady,
    RequestSense,
    Read6,
    Write6,
    Inquiry,
    Reserve,
    Release,
    ModeSense6,
    StartStopUnit,
    ReadCapacity10,
    Read10,
    Write10,
    Verify10,
    SynchronizeCache10,
    WriteSame10,
    Unmap,
    ModeSense10,
    Read16,
    CompareAndWrite,
    Write16,
    Verify16,
    SynchronizeCache16,
    WriteSame16,
    ReadCapacity16,
    ReportLuns,
    ReportOpcodes,
    Read12,
    Write12,
    Verify12,
}

/// One row: what a CDB of this command may hold.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) kind: Kind,
    /// Bytes of the CDB.
    pub(super) cdb_bytes: usize,
    /// CDB usage data: the operation code, the service action, and the bits that are looked at.
    pub(super) usage: [u8; 16],
    /// The opcode has service actions, and this one is in `usage[1]`.
    pub(super) service_action: Option<u8>,
    /// Bits that must be zero, byte 0 of the CDB uppermost.
    reserved: u128,
}

impl Command {
    /// A row without service action.
    const fn new(kind: Kind, usage: &[u8]) -> Command {
        Command::row(kind, usage, None, 0)
    }

    /// A row whose byte `group` holds GROUP NUMBER.
    const fn with_group(kind: Kind, usage: &[u8], group: usize) -> Command {
        Command::row(kind, usage, None, group)
    }

    /// A row with the service action that `usage[1]` holds in its lower five bits.
    const fn with_action(kind: Kind, usage: &[u8]) -> Command {
        Command::row(kind, usage, Some(usage[1] & 0x1f), 0)
    }

    const fn row(kind: Kind, bits: &[u8], service_action: Option<u8>, group: usize) -> Command {
        let mut usage = [0; 16];
        let mut zero = [0; 16];
        let mut at = 0;
        while at < bits.len() {
            usage[at] = bits[at];
            zero[at] = !bits[at];
            at += 1;
        }
        zero[0] = 0;
        if service_action.is_some() {
            zero[1] &= 0xe0;
        }
        if group != 0 {
            zero[group] &= 0xc0;
        }
        let reserved = u128::from_be_bytes(zero);
        Command { kind, cdb_bytes: bits.len(), usage, service_action, reserved }
    }

    /// The operation code.
    pub(super) const fn opcode(&self) -> u8 {
        self.usage[0]
    }

    /// Refuses a CDB with a bit that must be zero, and points at the first such byte.
    #[inline]
    pub(super) fn check_reserved(&self, cdb: &Cdb) -> Result<(), Sense> {
        let wrong = u128::from_be_bytes(*cdb) & self.reserved;
        if wrong == 0 { Ok(()) } else { Err(first_wrong(wrong)) }
    }

    /// True when the device can serve it.
    pub(super) fn is_available(&self, lu: &LuView<'_>) -> bool {
        self.kind != Kind::Unmap || lu.geometry.unmap
    }
}

#[cold]
fn first_wrong(wrong: u128) -> Sense {
    Sense::invalid_field_in_cdb((wrong.leading_zeros() / 8) as u16)
}

/// READ (10) (SBC-3 5.11).
pub(super) const READ_10: Command =
    Command::with_group(Kind::Read10, &[0x28, 0x18, 255, 255, 255, 255, 0, 255, 255, 0], 6);
/// WRITE (10) (SBC-3 5.33).
pub(super) const WRITE_10: Command =
    Command::with_group(Kind::Write10, &[0x2a, 0x18, 255, 255, 255, 255, 0, 255, 255, 0], 6);
/// READ (16) (SBC-3 5.13).
pub(super) const READ_16: Command = Command::with_group(
    Kind::Read16,
    &[0x88, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0],
    14,
);
/// WRITE (16) (SBC-3 5.35).
pub(super) const WRITE_16: Command = Command::with_group(
    Kind::Write16,
    &[0x8a, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0],
    14,
);

/// Bits that must be zero in READ and WRITE (10), in the order of memory.
pub(super) const RESERVED_10: [u64; 2] = in_memory(READ_10.reserved);
/// Bits that must be zero in READ and WRITE (16), in the order of memory.
pub(super) const RESERVED_16: [u64; 2] = in_memory(READ_16.reserved);

const fn in_memory(bits: u128) -> [u64; 2] {
    [((bits >> 64) as u64).to_be(), (bits as u64).to_be()]
}

const _: () =
    assert!(READ_10.reserved == WRITE_10.reserved && READ_16.reserved == WRITE_16.reserved);

/// Every command, in ascending order of operation code and service action.
pub(super) static COMMANDS: [Command; 31] = [
    Command::new(Kind::TestUnitReady, &[0x00, 0, 0, 0, 0, 0]),
    Command::new(Kind::RequestSense, &[0x03, 0x01, 0, 0, 255, 0]),
    Command::new(Kind::Read6, &[0x08, 0x1f, 255, 255, 255, 0]),
    Command::new(Kind::Write6, &[0x0a, 0x1f, 255, 255, 255, 0]),
    Command::new(Kind::Inquiry, &[0x12, 0x01, 255, 255, 255, 0]),
    // Third parties and extents are of SCSI-2.
    Command::new(Kind::Reserve, &[opcode::RESERVE_6, 0, 0, 0, 0, 0]),
    Command::new(Kind::Release, &[opcode::RELEASE_6, 0, 0, 0, 0, 0]),
    Command::new(Kind::ModeSense6, &[0x1a, 0x08, 255, 255, 255, 0]),
    Command::new(Kind::StartStopUnit, &[0x1b, 0x01, 0, 0, 0x05, 0]),
    Command::new(Kind::ReadCapacity10, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    READ_10,
    WRITE_10,
    Command::with_group(Kind::Verify10, &[0x2f, 0x16, 255, 255, 255, 255, 0, 255, 255, 0], 6),
    Command::with_group(
        Kind::SynchronizeCache10,
        &[0x35, 0x02, 255, 255, 255, 255, 0, 255, 255, 0],
        6,
    ),
    Command::with_group(Kind::WriteSame10, &[0x41, 0x08, 255, 255, 255, 255, 0, 255, 255, 0], 6),
    Command::with_group(Kind::Unmap, &[0x42, 0, 0, 0, 0, 0, 0, 255, 255, 0], 6),
    Command::new(Kind::Reserve, &[opcode::RESERVE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    Command::new(Kind::Release, &[opcode::RELEASE_10, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    Command::new(Kind::ModeSense10, &[0x5a, 0x18, 255, 255, 0, 0, 0, 255, 255, 0]),
    READ_16,
    Command::with_group(
        Kind::CompareAndWrite,
        &[0x89, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 255, 0, 0],
        14,
    ),
    WRITE_16,
    Command::with_group(
        Kind::Verify16,
        &[0x8f, 0x16, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0],
        14,
    ),
    Command::with_group(
        Kind::SynchronizeCache16,
        &[0x91, 0x02, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0],
        14,
    ),
    Command::with_group(
        Kind::WriteSame16,
        &[0x93, 0x09, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0],
        14,
    ),
    Command::with_action(
        Kind::ReadCapacity16,
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0],
    ),
    Command::new(Kind::ReportLuns, &[0xa0, 0, 255, 0, 0, 0, 255, 255, 255, 255, 0, 0]),
    Command::with_action(
        Kind::ReportOpcodes,
        &[0xa3, 0x0c, 0x87, 255, 255, 255, 255, 255, 255, 255, 0, 0],
    ),
    Command::with_group(
        Kind::Read12,
        &[0xa8, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0],
        10,
    ),
    Command::with_group(
        Kind::Write12,
        &[0xaa, 0x18, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0],
        10,
    ),
    Command::with_group(
        Kind::Verify12,
        &[0xaf, 0x16, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0],
        10,
    ),
];

/// No row.
const NONE: u8 = u8::MAX;

/// First row of each operation code.
static FIRST_ROW: [u8; 256] = {
    let mut first = [NONE; 256];
    let mut row = COMMANDS.len();
    while row > 0 {
        row -= 1;
        first[COMMANDS[row].opcode() as usize] = row as u8;
    }
    first
};

/// The rows of an operation code with their indices; several only with service actions.
fn rows(opcode: u8) -> impl Iterator<Item = (u8, &'static Command)> {
    let first = usize::from(FIRST_ROW[usize::from(opcode)]);
    let numbered = COMMANDS.iter().enumerate().skip(first);
    numbered
        .map(|(row, command)| (row as u8, command))
        .take_while(move |(_, command)| command.opcode() == opcode)
}

/// The row of a CDB. An unknown operation code and an unknown service action differ in their sense.
pub(super) fn find(cdb: &Cdb) -> Result<&'static Command, Sense> {
    let mut found = Err(Sense::INVALID_OPCODE);
    for (_, command) in rows(cdb[0]) {
        match command.service_action {
            Some(action) if action != cdb[1] & 0x1f => {
                found = Err(Sense::invalid_field_in_cdb(1));
            }
            _ => return Ok(command),
        }
    }
    found
}

/// What a REPORT SUPPORTED OPERATION CODES asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpcodeQuery {
    select: Select,
    /// Command timeouts descriptors are wanted (RCTD).
    timeouts: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Select {
    All,
    /// One command by its row; `None`: not supported.
    One(Option<u8>),
}

/// Reads the query from a CDB (SPC-4 table 302).
pub(super) fn query(cdb: &Cdb) -> Result<OpcodeQuery, Sense> {
    let (opcode, action) = (cdb[3], be16(cdb, 4));
    let has_actions = rows(opcode).any(|(_, command)| command.service_action.is_some());
    let select = match cdb[2] & 0x07 {
        0 => Select::All,
        1 if has_actions => return Err(Sense::invalid_field_in_cdb(2)),
        1 => Select::One(rows(opcode).map(|(row, _)| row).next()),
        2 if !has_actions && rows(opcode).next().is_some() => {
            return Err(Sense::invalid_field_in_cdb(2));
        }
        2 | 3 => Select::One(
            rows(opcode)
                .find(|(_, command)| u16::from(command.service_action.unwrap_or(0)) == action)
                .map(|(row, _)| row),
        ),
        _ => return Err(Sense::invalid_field_in_cdb(2)),
    };
    Ok(OpcodeQuery { select, timeouts: cdb[2] & 0x80 != 0 })
}

/// The allocation length of the query.
pub(super) fn allocation_length(cdb: &Cdb) -> u32 {
    be32(cdb, 6)
}

/// Appends the parameter data (SPC-4 6.35.2, 6.35.3).
pub(super) fn report(query: &OpcodeQuery, lu: &LuView<'_>, out: &mut Page) {
    let available = |command: &&Command| command.is_available(lu);
    match query.select {
        Select::All => {
            out.u32(0);
            for command in COMMANDS.iter().filter(available) {
                all_commands_descriptor(command, query.timeouts, out);
            }
            out.patch_u32(0, out.len() - 4);
        }
        Select::One(row) => {
            let command = row.map(|row| &COMMANDS[usize::from(row)]).filter(available);
            one_command(command, query.timeouts, out);
        }
    }
}

fn all_commands_descriptor(command: &Command, timeouts: bool, out: &mut Page) {
    let ctdp = if timeouts { 0x02 } else { 0 };
    let servactv = u8::from(command.service_action.is_some());
    out.bytes(&[command.opcode(), 0]);
    out.u16(u16::from(command.service_action.unwrap_or(0)));
    out.bytes(&[0, ctdp | servactv]);
    out.u16(command.cdb_bytes as u16);
    if timeouts {
        timeouts_descriptor(out);
    }
}

/// SUPPORT is 011b for a command of the standard, 001b for none.
fn one_command(command: Option<&Command>, timeouts: bool, out: &mut Page) {
    let Some(command) = command else {
        return out.bytes(&[0, 0x01, 0, 0]);
    };
    out.bytes(&[0, 0x03 | if timeouts { 0x80 } else { 0 }]);
    out.u16(command.cdb_bytes as u16);
    out.bytes(&command.usage[..command.cdb_bytes]);
    if timeouts {
        timeouts_descriptor(out);
    }
}

/// No timeout is known for any command (SPC-4 6.35.4): all values zero.
fn timeouts_descriptor(out: &mut Page) {
    out.u16(0x0a);
    out.zeros(10);
}

#[cfg(test)]
mod tests;
