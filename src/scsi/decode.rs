//! From a CDB to [`Work`]: looks at the CDB and the [`LuView`] only, never at data.
//!
//! Every range is checked here, in 64 bits; a device checks again. [`transfer`] is a short way for
//! READ and WRITE (10) and (16) without faults: it says nothing that [`decode`] doesn't say.

use bdev::{Geometry, IoOp};

use super::cdb::{Cdb, be16, be24, be32, be64, halves, length_of_group};
use super::mode::{self, ModeSense};
use super::opcodes::{self, Command, Kind, opcode};
use super::report_luns::LunSelect;
use super::reserve::Reserve;
use super::sense::Sense;
use super::steps::Steps;
use super::vpd::VpdPage;
use super::{Answer, Decoded, Direction, LuView, Work};
use super::{capacity, inquiry};

/// DPO is accepted and has no effect. FUA of a write goes to the device; with FUA of a read the
/// device writes its volatile cache to the medium first.
const FUA: u8 = 0x08;

/// The operation and the bytes of a READ or WRITE (10) or (16) that nothing is wrong with. `None`:
/// anything else. The arguments behind the CDB are those of the same names in [`LuView`].
#[inline(always)]
pub fn transfer(
    cdb: &Cdb,
    geometry: &Geometry,
    read_only: bool,
    io_bytes_max: u32,
) -> Option<(IoOp, u32)> {
    // READ and WRITE differ in one bit of the operation code.
    const WRITE_BIT: u8 = opcode::READ_10 ^ opcode::WRITE_10;
    const { assert!(opcode::READ_16 ^ opcode::WRITE_16 == WRITE_BIT) };
    let (lba, blocks, reserved) = match cdb[0] & !WRITE_BIT {
        opcode::READ_10 => (u64::from(be32(cdb, 2)), u32::from(be16(cdb, 7)), opcodes::RESERVED_10),
        opcode::READ_16 => (be64(cdb, 2), be32(cdb, 10), opcodes::RESERVED_16),
        _ => return None,
    };
    let is_write = cdb[0] & WRITE_BIT != 0;
    let bytes = u64::from(blocks) * u64::from(geometry.block_bytes);
    let [first, second] = halves(cdb);
    let good = (first & reserved[0]) | (second & reserved[1]) == 0
        && blocks > 0
        && bytes <= u64::from(io_bytes_max)
        && lba < geometry.blocks
        && u64::from(blocks) <= geometry.blocks - lba
        && (cdb[1] & FUA == 0 || is_write || !geometry.write_cache)
        && !(is_write && (read_only | geometry.read_only));
    let op = match is_write {
        true => IoOp::Write { lba, blocks, fua: cdb[1] & FUA != 0 },
        false => IoOp::Read { lba, blocks },
    };
    good.then_some((op, bytes as u32))
}

/// Decodes a command to a logical unit that exists. An error is CHECK CONDITION with that sense
/// data. `cdb` may have any length: bytes beyond the command's own are ignored.
pub fn decode(cdb: &[u8], lu: &LuView<'_>) -> Result<Decoded, Sense> {
    match cdb.first_chunk::<16>() {
        Some(cdb) => decode_any(cdb, lu),
        None => decode_any(&padded(cdb)?, lu),
    }
}

/// Decodes a command to a LUN that is not in the map (SPC-4 6.6.1, SAM-5 5.11; pass any LUN above
/// 0 for a form of address that names none). [`Answer::fill`] takes [`LuView::absent`] for it.
pub fn decode_absent(cdb: &[u8], lun: u16) -> Result<Decoded, Sense> {
    let cdb = &padded(cdb).map_err(|_| Sense::LUN_NOT_SUPPORTED)?;
    let command = opcodes::find(cdb).map_err(|_| Sense::LUN_NOT_SUPPORTED)?;
    match command.kind {
        Kind::Inquiry => {
            command.check_reserved(cdb)?;
            let peripheral = match lun {
                0 => inquiry::PERIPHERAL_UNCONNECTED,
                _ => inquiry::PERIPHERAL_NONE,
            };
            if cdb[2] != 0 {
                return Err(Sense::invalid_field_in_cdb(2));
            }
            let evpd = cdb[1] & 0x01 != 0;
            let data =
                if evpd { Answer::AbsentVpd(peripheral) } else { Answer::Inquiry(peripheral) };
            Ok(answer(data, u64::from(be16(cdb, 3))))
        }
        Kind::ReportLuns => {
            command.check_reserved(cdb)?;
            report_luns(cdb)
        }
        Kind::RequestSense => {
            command.check_reserved(cdb)?;
            let descriptor = cdb[1] & 0x01 != 0;
            let said = Answer::Sense { sense: Sense::LUN_NOT_SUPPORTED, descriptor };
            Ok(answer(said, u64::from(cdb[4])))
        }
        _ => Err(Sense::LUN_NOT_SUPPORTED),
    }
}

/// The CDB in 16 bytes; refused when it is shorter than its group code says.
#[cold]
fn padded(cdb: &[u8]) -> Result<Cdb, Sense> {
    let group_bytes = cdb.first().and_then(|code| length_of_group(*code));
    let group_bytes = group_bytes.ok_or(Sense::INVALID_OPCODE)?;
    if cdb.len() < group_bytes {
        return Err(Sense::INVALID_INFORMATION_UNIT);
    }
    let mut whole = [0; 16];
    let length = cdb.len().min(16);
    whole[..length].copy_from_slice(&cdb[..length]);
    Ok(whole)
}

/// Decodes by the table.
#[inline(never)]
fn decode_any(cdb: &Cdb, lu: &LuView<'_>) -> Result<Decoded, Sense> {
    let command: &Command = opcodes::find(cdb)?;
    if !command.is_available(lu) {
        return Err(Sense::INVALID_OPCODE);
    }
    command.check_reserved(cdb)?;
    if !lu.ready && needs_medium(command.kind) {
        return Err(Sense::NOT_READY);
    }
    let fua = cdb[1] & FUA != 0;
    let lba_10 = u64::from(be32(cdb, 2));
    match command.kind {
        Kind::Read6 => read(lu, lba_6(cdb), blocks_6(cdb), 4, false),
        Kind::Read10 => read(lu, lba_10, u32::from(be16(cdb, 7)), 7, fua),
        Kind::Read12 => read(lu, lba_10, be32(cdb, 6), 6, fua),
        Kind::Read16 => read(lu, be64(cdb, 2), be32(cdb, 10), 10, fua),
        Kind::Write6 => write(lu, lba_6(cdb), blocks_6(cdb), 4, false),
        Kind::Write10 => write(lu, lba_10, u32::from(be16(cdb, 7)), 7, fua),
        Kind::Write12 => write(lu, lba_10, be32(cdb, 6), 6, fua),
        Kind::Write16 => write(lu, be64(cdb, 2), be32(cdb, 10), 10, fua),
        Kind::Verify10 => verify(cdb, lu, lba_10, u32::from(be16(cdb, 7)), 7),
        Kind::Verify12 => verify(cdb, lu, lba_10, be32(cdb, 6), 6),
        Kind::Verify16 => verify(cdb, lu, be64(cdb, 2), be32(cdb, 10), 10),
        Kind::WriteSame10 => write_same(cdb, lu, lba_10, u32::from(be16(cdb, 7)), 7),
        Kind::WriteSame16 => write_same(cdb, lu, be64(cdb, 2), be32(cdb, 10), 10),
        Kind::CompareAndWrite => compare_and_write(cdb, lu, fua),
        Kind::Unmap => unmap(cdb, lu),
        Kind::SynchronizeCache10 => flush(lu, lba_10, u32::from(be16(cdb, 7))),
        Kind::SynchronizeCache16 => flush(lu, be64(cdb, 2), be32(cdb, 10)),
        Kind::StartStopUnit => Ok(start_stop(cdb)),
        Kind::TestUnitReady => Ok(no_data(Work::Good)),
        Kind::Inquiry => inquiry_data(cdb),
        Kind::ReportLuns => report_luns(cdb),
        Kind::RequestSense => {
            let work = Work::RequestSense { descriptor: cdb[1] & 0x01 != 0 };
            Ok(Decoded { work, direction: Direction::In, bytes: u64::from(cdb[4]) })
        }
        Kind::ReadCapacity10 => Ok(answer(Answer::Capacity10, capacity::CAPACITY_10_BYTES)),
        Kind::ReadCapacity16 => Ok(answer(Answer::Capacity16, u64::from(be32(cdb, 10)))),
        Kind::ModeSense6 => mode_sense(cdb, false, u64::from(cdb[4])),
        Kind::ModeSense10 => mode_sense(cdb, true, u64::from(be16(cdb, 7))),
        Kind::Reserve => Ok(no_data(Work::Reserve(Reserve::Reserve))),
        Kind::Release => Ok(no_data(Work::Reserve(Reserve::Release))),
        Kind::ReportOpcodes => {
            let bytes = u64::from(opcodes::allocation_length(cdb));
            Ok(answer(Answer::Opcodes(opcodes::query(cdb)?), bytes))
        }
    }
}

/// True for commands that are about the medium and don't reach the device, which would refuse the
/// others itself.
fn needs_medium(kind: Kind) -> bool {
    use Kind::{ReadCapacity10, ReadCapacity16, StartStopUnit, TestUnitReady};
    matches!(kind, TestUnitReady | ReadCapacity10 | ReadCapacity16 | StartStopUnit)
}

fn no_data(work: Work) -> Decoded {
    Decoded { work, direction: Direction::None, bytes: 0 }
}

fn answer(answer: Answer, allocation_length: u64) -> Decoded {
    Decoded { work: Work::Answer(answer), direction: Direction::In, bytes: allocation_length }
}

/// LBA of a 6-byte CDB: 21 bits.
fn lba_6(cdb: &Cdb) -> u64 {
    u64::from(be24(cdb, 1) & 0x1f_ffff)
}

/// Length of a 6-byte CDB: 0 means 256 (SBC-3 5.10).
fn blocks_6(cdb: &Cdb) -> u32 {
    if cdb[4] == 0 { 256 } else { u32::from(cdb[4]) }
}

/// Refuses blocks outside the medium. No blocks at all still want an LBA that exists.
#[inline]
fn check_range(lu: &LuView<'_>, lba: u64, blocks: u64) -> Result<(), Sense> {
    let total = lu.geometry.blocks;
    if lba >= total || blocks > total - lba { Err(Sense::LBA_OUT_OF_RANGE) } else { Ok(()) }
}

/// Bytes of `blocks` blocks of data; refused beyond the largest buffer. `length_at`: the CDB byte
/// to blame.
#[inline]
fn data_bytes(lu: &LuView<'_>, blocks: u32, length_at: u16) -> Result<u64, Sense> {
    let bytes = u64::from(blocks) * u64::from(lu.geometry.block_bytes);
    if bytes > u64::from(lu.io_bytes_max) {
        return Err(Sense::invalid_field_in_cdb(length_at));
    }
    Ok(bytes)
}

#[inline]
fn check_writable(lu: &LuView<'_>) -> Result<(), Sense> {
    if lu.write_protected() { Err(Sense::WRITE_PROTECTED) } else { Ok(()) }
}

#[inline]
fn read(
    lu: &LuView<'_>,
    lba: u64,
    blocks: u32,
    length_at: u16,
    fua: bool,
) -> Result<Decoded, Sense> {
    check_range(lu, lba, u64::from(blocks))?;
    let bytes = data_bytes(lu, blocks, length_at)?;
    if blocks == 0 {
        return Ok(no_data(Work::Good));
    }
    let work = match fua && lu.geometry.write_cache {
        true => Work::ReadMedium { lba, blocks },
        false => Work::Io(IoOp::Read { lba, blocks }),
    };
    Ok(Decoded { work, direction: Direction::In, bytes })
}

#[inline]
fn write(
    lu: &LuView<'_>,
    lba: u64,
    blocks: u32,
    length_at: u16,
    fua: bool,
) -> Result<Decoded, Sense> {
    check_writable(lu)?;
    check_range(lu, lba, u64::from(blocks))?;
    let bytes = data_bytes(lu, blocks, length_at)?;
    if blocks == 0 {
        return Ok(no_data(Work::Good));
    }
    let work = Work::Io(IoOp::Write { lba, blocks, fua });
    Ok(Decoded { work, direction: Direction::Out, bytes })
}

/// VERIFY (SBC-3 5.27): BYTCHK 00b reads the medium, 01b compares all data, 11b compares one block
/// with each.
fn verify(
    cdb: &Cdb,
    lu: &LuView<'_>,
    lba: u64,
    blocks: u32,
    length_at: u16,
) -> Result<Decoded, Sense> {
    check_range(lu, lba, u64::from(blocks))?;
    let block_bytes = lu.geometry.block_bytes;
    let (steps, bytes) = match (cdb[1] >> 1) & 0x03 {
        0 => (Steps::verify_medium(lba, blocks, block_bytes), 0),
        1 => (Steps::verify_data(lba, blocks, block_bytes), data_bytes(lu, blocks, length_at)?),
        3 => (Steps::verify_block(lba, blocks, block_bytes), u64::from(block_bytes)),
        _ => return Err(Sense::invalid_field_in_cdb(1)),
    };
    if blocks == 0 {
        return Ok(no_data(Work::Good));
    }
    let direction = if bytes == 0 { Direction::None } else { Direction::Out };
    Ok(Decoded { work: Work::Steps(steps), direction, bytes })
}

/// WRITE SAME (SBC-3 5.45, 5.46). NDOB is a bit of the 16-byte form; the table keeps it out of the
/// other.
fn write_same(
    cdb: &Cdb,
    lu: &LuView<'_>,
    lba: u64,
    blocks: u32,
    length_at: u16,
) -> Result<Decoded, Sense> {
    let unmap = cdb[1] & 0x08 != 0;
    let no_data_out = cdb[1] & 0x01 != 0;
    if unmap && !lu.geometry.unmap {
        return Err(Sense::invalid_field_in_cdb(1));
    }
    check_writable(lu)?;
    // WSNZ: a length of 0 is refused.
    if blocks == 0 || u64::from(blocks) > lu.write_same_blocks_max() {
        return Err(Sense::invalid_field_in_cdb(length_at));
    }
    check_range(lu, lba, u64::from(blocks))?;
    if no_data_out {
        let blocks = u64::from(blocks);
        return Ok(no_data(Work::Io(IoOp::WriteZeroes { lba, blocks, unmap, fua: false })));
    }
    let block_bytes = lu.geometry.block_bytes;
    let work = Work::Steps(Steps::write_same(lba, blocks, block_bytes, unmap));
    Ok(Decoded { work, direction: Direction::Out, bytes: u64::from(block_bytes) })
}

/// COMPARE AND WRITE (SBC-3 5.2): the data is what to compare, then what to write.
fn compare_and_write(cdb: &Cdb, lu: &LuView<'_>, fua: bool) -> Result<Decoded, Sense> {
    let (lba, blocks) = (be64(cdb, 2), u32::from(cdb[13]));
    check_writable(lu)?;
    if blocks > lu.compare_and_write_blocks_max() {
        return Err(Sense::invalid_field_in_cdb(13));
    }
    check_range(lu, lba, u64::from(blocks))?;
    if blocks == 0 {
        return Ok(no_data(Work::Good));
    }
    let block_bytes = lu.geometry.block_bytes;
    let work = Work::Steps(Steps::compare_and_write(lba, blocks, block_bytes, fua));
    let bytes = 2 * u64::from(blocks) * u64::from(block_bytes);
    Ok(Decoded { work, direction: Direction::Out, bytes })
}

/// UNMAP (SBC-3 5.28): all ranges are in the parameter list.
fn unmap(cdb: &Cdb, lu: &LuView<'_>) -> Result<Decoded, Sense> {
    check_writable(lu)?;
    let list_bytes = be16(cdb, 7);
    match list_bytes {
        0 => return Ok(no_data(Work::Good)),
        1..8 => return Err(Sense::PARAMETER_LIST_LENGTH),
        _ => {}
    }
    let work = Work::Steps(Steps::unmap(list_bytes, lu));
    Ok(Decoded { work, direction: Direction::Out, bytes: u64::from(list_bytes) })
}

/// SYNCHRONIZE CACHE (SBC-3 5.22): the whole device is flushed; with IMMED too the answer comes
/// after it. A length of 0 means "to the end".
fn flush(lu: &LuView<'_>, lba: u64, blocks: u32) -> Result<Decoded, Sense> {
    check_range(lu, lba, u64::from(blocks))?;
    Ok(no_data(Work::Io(IoOp::Flush)))
}

/// START STOP UNIT (SBC-3 5.20): there is nothing to start; a stop is a flush unless NO_FLUSH. The
/// table refuses LOEJ and power conditions.
fn start_stop(cdb: &Cdb) -> Decoded {
    let (no_flush, start) = (cdb[4] & 0x04 != 0, cdb[4] & 0x01 != 0);
    no_data(if start || no_flush { Work::Good } else { Work::Io(IoOp::Flush) })
}

fn inquiry_data(cdb: &Cdb) -> Result<Decoded, Sense> {
    let (evpd, page) = (cdb[1] & 0x01 != 0, cdb[2]);
    let data = match (evpd, page) {
        (true, page) => {
            Answer::Vpd(VpdPage::from_code(page).ok_or(Sense::invalid_field_in_cdb(2))?)
        }
        (false, 0) => Answer::Inquiry(inquiry::PERIPHERAL_DISK),
        (false, _) => return Err(Sense::invalid_field_in_cdb(2)),
    };
    Ok(answer(data, u64::from(be16(cdb, 3))))
}

fn report_luns(cdb: &Cdb) -> Result<Decoded, Sense> {
    let select = LunSelect::from_code(cdb[2]).ok_or(Sense::invalid_field_in_cdb(2))?;
    let bytes = u64::from(be32(cdb, 6));
    Ok(Decoded { work: Work::ReportLuns(select), direction: Direction::In, bytes })
}

/// MODE SENSE: PAGE CONTROL 11b asks for saved values, of which there are none. Subpage FFh asks
/// for all subpages, which is page 00h alone.
fn mode_sense(cdb: &Cdb, ten: bool, allocation_length: u64) -> Result<Decoded, Sense> {
    let (control, page, subpage) = (cdb[2] >> 6, cdb[2] & 0x3f, cdb[3]);
    if !mode::is_page(page) {
        return Err(Sense::invalid_field_in_cdb(2));
    }
    if subpage != 0x00 && subpage != 0xff {
        return Err(Sense::invalid_field_in_cdb(3));
    }
    if control == 3 {
        return Err(Sense::SAVING_NOT_SUPPORTED);
    }
    let query = ModeSense {
        ten,
        page,
        changeable: control == 1,
        no_block_descriptor: cdb[1] & 0x08 != 0,
        long_lba: ten && cdb[1] & 0x10 != 0,
    };
    Ok(answer(Answer::Mode(query), allocation_length))
}

#[cfg(test)]
mod tests;
