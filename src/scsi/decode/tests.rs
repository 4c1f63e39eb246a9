//! Ranges at their boundaries, refusals with their field pointers, and no panic for any CDB.

use bdev::{Geometry, IoOp};
use proptest::prelude::*;

use super::super::fixtures::{IDENTITY, cdb, cdb_10, cdb_12, cdb_16, lu};
use super::super::{ANSWER_BYTES_MAX, Steps};
use super::*;

const OUT_OF_RANGE: Sense = Sense::LBA_OUT_OF_RANGE;

fn in_cdb(byte: u16) -> Sense {
    Sense::invalid_field_in_cdb(byte)
}

fn read_of(lba: u64, blocks: u32) -> Result<Decoded, Sense> {
    let work = Work::Io(IoOp::Read { lba, blocks });
    Ok(Decoded { work, direction: Direction::In, bytes: u64::from(blocks) * 512 })
}

fn write_of(lba: u64, blocks: u32, fua: bool) -> Result<Decoded, Sense> {
    let work = Work::Io(IoOp::Write { lba, blocks, fua });
    Ok(Decoded { work, direction: Direction::Out, bytes: u64::from(blocks) * 512 })
}

fn nothing() -> Result<Decoded, Sense> {
    Ok(Decoded { work: Work::Good, direction: Direction::None, bytes: 0 })
}

#[test]
fn reads_and_writes_of_each_length() {
    let view = lu();
    assert_eq!(decode(&cdb(&[0x08, 0, 1, 2, 3]), &view), read_of(0x102, 3));
    assert_eq!(decode(&cdb_10(0x28, 0, 0x102, 3), &view), read_of(0x102, 3));
    assert_eq!(decode(&cdb_12(0xa8, 0, 0x102, 3), &view), read_of(0x102, 3));
    assert_eq!(decode(&cdb_16(0x88, 0, 0x102, 3), &view), read_of(0x102, 3));
    assert_eq!(decode(&cdb(&[0x0a, 0, 1, 2, 3]), &view), write_of(0x102, 3, false));
    for (flags, fua) in [(0x00, false), (0x08, true), (0x10, false), (0x18, true)] {
        assert_eq!(decode(&cdb_10(0x2a, flags, 5, 3), &view), write_of(5, 3, fua));
        assert_eq!(decode(&cdb_12(0xaa, flags, 5, 3), &view), write_of(5, 3, fua));
        assert_eq!(decode(&cdb_16(0x8a, flags, 5, 3), &view), write_of(5, 3, fua));
    }
}

#[test]
fn a_read_with_fua_reads_the_medium_where_a_cache_could_hide_it() {
    let view = lu();
    let mut uncached = lu();
    uncached.geometry.write_cache = false;
    let work = Work::ReadMedium { lba: 5, blocks: 3 };
    let medium = Ok(Decoded { work, direction: Direction::In, bytes: 3 * 512 });
    for (flags, fua) in [(0x00, false), (0x08, true), (0x10, false), (0x18, true)] {
        let cdbs =
            [cdb_10(0x28, flags, 5, 3), cdb_12(0xa8, flags, 5, 3), cdb_16(0x88, flags, 5, 3)];
        for cdb in cdbs {
            assert_eq!(decode(&cdb, &view), if fua { medium } else { read_of(5, 3) });
            assert_eq!(decode(&cdb, &uncached), read_of(5, 3));
            let short = |view: &LuView<'_>| transfer(&cdb, &view.geometry, false, 1 << 20);
            assert_eq!(short(&view).is_some(), !fua && cdb[0] != 0xa8);
            assert_eq!(short(&uncached).is_some(), cdb[0] != 0xa8);
        }
    }
}

#[test]
fn six_byte_length_0_means_256_and_the_lba_has_21_bits() {
    let mut view = LuView { io_bytes_max: 1 << 20, ..lu() };
    assert_eq!(decode(&cdb(&[0x08, 0, 0, 0, 0]), &view), read_of(0, 256));
    view.geometry.blocks = 1 << 22;
    assert_eq!(decode(&cdb(&[0x08, 0x1f, 0xff, 0xff, 1]), &view), read_of(0x1f_ffff, 1));
    assert_eq!(decode(&cdb(&[0x08, 0x20, 0, 0, 1]), &view), Err(in_cdb(1)));
}

#[test]
fn ranges_end_at_the_last_block() {
    let view = lu();
    for (lba, blocks, fits) in [
        (999, 1, true),
        (998, 2, true),
        (999, 2, false),
        (1000, 1, false),
        (999, 0, true),
        (1000, 0, false),
        (1001, 0, false),
        (u32::MAX, 1, false),
    ] {
        let expected = match (fits, blocks) {
            (false, _) => Err(OUT_OF_RANGE),
            (true, 0) => nothing(),
            (true, _) => read_of(u64::from(lba), u32::from(blocks)),
        };
        assert_eq!(decode(&cdb_10(0x28, 0, lba, blocks), &view), expected);
        assert_eq!(decode(&cdb_12(0xa8, 0, lba, u32::from(blocks)), &view), expected);
        let sixteen = cdb_16(0x88, 0, u64::from(lba), u32::from(blocks));
        assert_eq!(decode(&sixteen, &view), expected);
    }
    for lba in [u64::MAX, u64::MAX - 1, 1 << 63] {
        assert_eq!(decode(&cdb_16(0x88, 0, lba, 2), &view), Err(OUT_OF_RANGE));
        assert_eq!(decode(&cdb_16(0x8a, 0, lba, 0), &view), Err(OUT_OF_RANGE));
        assert_eq!(decode(&cdb_16(0x91, 0, lba, 0), &view), Err(OUT_OF_RANGE));
        assert_eq!(decode(&cdb_16(0x8f, 0, lba, u32::MAX), &view), Err(OUT_OF_RANGE));
    }
}

#[test]
fn transfers_end_at_the_largest_buffer() {
    let view = lu();
    assert_eq!(decode(&cdb_10(0x28, 0, 0, 128), &view), read_of(0, 128));
    assert_eq!(decode(&cdb_10(0x28, 0, 0, 129), &view), Err(in_cdb(7)));
    assert_eq!(decode(&cdb_12(0xaa, 0, 0, 129), &view), Err(in_cdb(6)));
    assert_eq!(decode(&cdb_16(0x8a, 0, 0, 129), &view), Err(in_cdb(10)));
    assert_eq!(decode(&cdb(&[0x08, 0, 0, 0, 0]), &view), Err(in_cdb(4)));
    assert_eq!(decode(&cdb_10(0x2f, 0x02, 0, 129), &view), Err(in_cdb(7)));
}

#[test]
fn protection_and_control_bits_are_refused() {
    let view = lu();
    for protect in 1..8u8 {
        for opcode in [0x28, 0x2a, 0x2f, 0x41] {
            assert_eq!(decode(&cdb_10(opcode, protect << 5, 0, 1), &view), Err(in_cdb(1)));
        }
        for opcode in [0x88, 0x8a, 0x8f, 0x93] {
            assert_eq!(decode(&cdb_16(opcode, protect << 5, 0, 1), &view), Err(in_cdb(1)));
        }
    }
    let mut naca = cdb_10(0x28, 0, 0, 1);
    naca[9] = 0x04;
    assert_eq!(decode(&naca, &view), Err(in_cdb(9)));
    assert_eq!(decode(&cdb(&[0, 0, 0, 0, 0, 4]), &view), Err(in_cdb(5)));
    assert_eq!(decode(&cdb(&[0x12, 0, 0, 0, 36, 4]), &view), Err(in_cdb(5)));
    let mut group = cdb_10(0x28, 0, 3, 1);
    group[6] = 0x3f;
    assert_eq!(decode(&group, &view), read_of(3, 1));
    let mut beyond = cdb_10(0x28, 0, 3, 1);
    beyond[10..].fill(0xff);
    assert_eq!(decode(&beyond, &view), read_of(3, 1));
}

#[test]
fn writes_to_a_protected_unit_are_refused() {
    let mut device = lu();
    device.geometry.read_only = true;
    for view in [LuView { read_only: true, ..lu() }, device] {
        for bytes in [
            cdb(&[0x0a, 0, 0, 0, 1]),
            cdb_10(0x2a, 0, 0, 1),
            cdb_12(0xaa, 0, 0, 1),
            cdb_16(0x8a, 0, 0, 1),
            cdb_10(0x41, 0, 0, 1),
            cdb_16(0x93, 0, 0, 1),
            cdb_10(0x42, 0, 0, 24),
            cdb(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ] {
            assert_eq!(decode(&bytes, &view), Err(Sense::WRITE_PROTECTED));
        }
        assert_eq!(decode(&cdb_10(0x28, 0, 0, 1), &view), read_of(0, 1));
        assert_eq!(decode(&cdb_10(0x2f, 0, 0, 0), &view), nothing());
    }
}

#[test]
fn write_same() {
    let view = lu();
    let steps = |blocks, unmap| {
        let work = Work::Steps(Steps::write_same(4, blocks, 512, unmap));
        Ok(Decoded { work, direction: Direction::Out, bytes: 512 })
    };
    assert_eq!(decode(&cdb_10(0x41, 0, 4, 9), &view), steps(9, false));
    assert_eq!(decode(&cdb_16(0x93, 8, 4, 9), &view), steps(9, true));
    for (flags, unmap) in [(1, false), (9, true)] {
        let op = IoOp::WriteZeroes { lba: 4, blocks: 9, unmap, fua: false };
        let expected = Decoded { work: Work::Io(op), direction: Direction::None, bytes: 0 };
        assert_eq!(decode(&cdb_16(0x93, flags, 4, 9), &view), Ok(expected));
    }
    assert_eq!(decode(&cdb_10(0x41, 1, 4, 9), &view), Err(in_cdb(1)), "no NDOB in 10 bytes");
    assert_eq!(decode(&cdb_10(0x41, 0, 0, 0), &view), Err(in_cdb(7)), "WSNZ");
    assert_eq!(decode(&cdb_16(0x93, 0, 0, 0), &view), Err(in_cdb(10)), "WSNZ");
    for anchor in [0x10, 0x18] {
        assert_eq!(decode(&cdb_16(0x93, anchor, 0, 1), &view), Err(in_cdb(1)));
    }
    let mut large = lu();
    large.geometry.blocks = 1 << 40;
    assert!(decode(&cdb_16(0x93, 0, 0, 262_144), &large).is_ok());
    assert_eq!(decode(&cdb_16(0x93, 0, 0, 262_145), &large), Err(in_cdb(10)));
    let mut thick = lu();
    thick.geometry.unmap = false;
    assert!(decode(&cdb_10(0x41, 0, 0, 1), &thick).is_ok());
    assert_eq!(decode(&cdb_10(0x41, 8, 0, 1), &thick), Err(in_cdb(1)));
}

#[test]
fn unmap() {
    let view = lu();
    let decoded = decode(&cdb_10(0x42, 0, 0, 24), &view).unwrap();
    assert_eq!((decoded.direction, decoded.bytes), (Direction::Out, 24));
    assert_eq!(decode(&cdb_10(0x42, 0, 0, 0), &view), nothing());
    assert_eq!(decode(&cdb_10(0x42, 0, 0, 7), &view), Err(Sense::PARAMETER_LIST_LENGTH));
    assert_eq!(decode(&cdb_10(0x42, 1, 0, 24), &view), Err(in_cdb(1)), "ANCHOR");
    let mut thick = lu();
    thick.geometry.unmap = false;
    assert_eq!(decode(&cdb_10(0x42, 0, 0, 24), &thick), Err(Sense::INVALID_OPCODE));
}

#[test]
fn compare_and_write() {
    let view = lu();
    let caw = |lba: u64, blocks: u8, flags: u8| {
        let mut bytes = cdb_16(0x89, flags, lba, 0);
        bytes[13] = blocks;
        decode(&bytes, &view)
    };
    let work = Work::Steps(Steps::compare_and_write(936, 64, 512, true));
    let expected = Decoded { work, direction: Direction::Out, bytes: 65536 };
    assert_eq!(caw(936, 64, 0x18), Ok(expected));
    assert_eq!(caw(937, 64, 0), Err(OUT_OF_RANGE));
    assert_eq!(caw(0, 65, 0), Err(in_cdb(13)));
    assert_eq!(caw(0, 0, 0), nothing());
    assert_eq!(caw(0, 1, 0x20), Err(in_cdb(1)));
}

#[test]
fn verify() {
    let view = lu();
    let bytes_of = |flags: u8, blocks: u16| {
        let decoded = decode(&cdb_10(0x2f, flags, 0, blocks), &view)?;
        Ok((decoded.direction, decoded.bytes))
    };
    assert_eq!(bytes_of(0x10, 1000), Ok((Direction::None, 0)));
    assert_eq!(bytes_of(0x02, 2), Ok((Direction::Out, 1024)));
    assert_eq!(bytes_of(0x06, 1000), Ok((Direction::Out, 512)));
    assert_eq!(bytes_of(0x04, 1), Err(in_cdb(1)));
    assert_eq!(bytes_of(0x06, 0), Ok((Direction::None, 0)));
    assert_eq!(bytes_of(0x00, 1001), Err(OUT_OF_RANGE));
    assert!(decode(&cdb_12(0xaf, 0x02, 0, 1), &view).is_ok());
    assert!(decode(&cdb_16(0x8f, 0x02, 0, 1), &view).is_ok());
}

#[test]
fn cache_and_power() {
    let view = lu();
    let flushes = Decoded { work: Work::Io(IoOp::Flush), direction: Direction::None, bytes: 0 };
    assert_eq!(decode(&cdb_10(0x35, 0, 0, 0), &view), Ok(flushes));
    assert_eq!(decode(&cdb_10(0x35, 2, 999, 1), &view), Ok(flushes));
    assert_eq!(decode(&cdb_10(0x35, 0, 999, 2), &view), Err(OUT_OF_RANGE));
    assert_eq!(decode(&cdb_16(0x91, 2, 0, 1000), &view), Ok(flushes));
    assert_eq!(decode(&cdb(&[0x1b, 0, 0, 0, 0]), &view), Ok(flushes));
    assert_eq!(decode(&cdb(&[0x1b, 1, 0, 0, 1]), &view), nothing());
    assert_eq!(decode(&cdb(&[0x1b, 0, 0, 0, 4]), &view), nothing());
    assert_eq!(decode(&cdb(&[0x1b, 0, 0, 0, 2]), &view), Err(in_cdb(4)), "LOEJ");
    assert_eq!(decode(&cdb(&[0x1b, 0, 0, 0, 0x10]), &view), Err(in_cdb(4)), "POWER CONDITION");
    assert_eq!(decode(&cdb(&[0]), &view), nothing());
}

#[test]
fn questions_with_wrong_fields() {
    let view = lu();
    assert_eq!(decode(&cdb(&[0x12, 0, 0x80, 0, 255]), &view), Err(in_cdb(2)));
    assert_eq!(decode(&cdb(&[0x12, 1, 0x81, 0, 255]), &view), Err(in_cdb(2)));
    assert_eq!(decode(&cdb(&[0x12, 2, 0, 0, 255]), &view), Err(in_cdb(1)));
    assert_eq!(decode(&cdb(&[0x9e, 0x11]), &view), Err(in_cdb(1)));
    assert_eq!(decode(&cdb(&[0x25, 0, 0, 0, 0, 1]), &view), Err(in_cdb(5)));
    assert_eq!(decode(&cdb(&[0xa0, 0, 3]), &view), Err(in_cdb(2)));
    assert_eq!(decode(&cdb(&[0x1a, 0, 0x01, 0, 255]), &view), Err(in_cdb(2)));
    assert_eq!(decode(&cdb(&[0x1a, 0, 0x0a, 1, 255]), &view), Err(in_cdb(3)));
    assert_eq!(decode(&cdb(&[0x1a, 0, 0xca, 0, 255]), &view), Err(Sense::SAVING_NOT_SUPPORTED));
}

#[test]
fn questions_that_need_the_target() {
    for absent in [false, true] {
        let ask = |bytes: &[u8]| match absent {
            false => decode(&cdb(bytes), &lu()),
            true => decode_absent(&cdb(bytes), 5),
        };
        for (code, select) in
            [(0, LunSelect::Addressable), (1, LunSelect::WellKnown), (2, LunSelect::All)]
        {
            let decoded = ask(&[0xa0, 0, code, 0, 0, 0, 0, 1, 0, 8]).unwrap();
            assert_eq!((decoded.work, decoded.bytes), (Work::ReportLuns(select), 0x10008));
        }
    }
    for (flags, descriptor) in [(0, false), (1, true)] {
        let decoded = decode(&cdb(&[0x03, flags, 0, 0, 252]), &lu()).unwrap();
        assert_eq!((decoded.work, decoded.bytes), (Work::RequestSense { descriptor }, 252));
    }
}

#[test]
fn absent_units_refuse_all_else() {
    for code in 0..=255u8 {
        if ![0x03, 0x12, 0xa0].contains(&code) {
            assert_eq!(decode_absent(&cdb(&[code]), 0), Err(Sense::LUN_NOT_SUPPORTED));
        }
    }
    assert_eq!(decode_absent(&[], 0), Err(Sense::LUN_NOT_SUPPORTED));
    assert_eq!(decode_absent(&cdb(&[0x12, 1, 0x80, 0, 255]), 1), Err(in_cdb(2)));
}

#[test]
fn short_cdbs_need_the_length_of_their_group() {
    assert_eq!(decode(&[], &lu()), Err(Sense::INVALID_OPCODE));
    assert_eq!(decode(&cdb_10(0x28, 0, 1, 1)[..10], &lu()), read_of(1, 1));
    assert_eq!(decode(&cdb_10(0x28, 0, 1, 1)[..9], &lu()), Err(Sense::INVALID_INFORMATION_UNIT));
    assert_eq!(decode(&[0x7f; 9], &lu()), Err(Sense::INVALID_OPCODE));
}

fn geometries() -> impl Strategy<Value = Geometry> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (9u32..=15, prop_oneof![0..4096u64, any::<u64>()], 0u8..=15, any::<u32>(), flags).prop_map(
        |(shift, blocks, physical_exponent, unmap_granularity, flags)| Geometry {
            block_bytes: 1 << shift,
            blocks,
            physical_exponent,
            buf_align: 1,
            write_cache: flags.0,
            read_only: flags.1,
            unmap: flags.2,
            unmap_zeroes: flags.3,
            unmap_granularity,
            rotational: flags.4,
        },
    )
}

/// Any bytes, and CDBs that get past the opcode with few bits set.
fn cdbs() -> impl Strategy<Value = Vec<u8>> {
    let known = (0..opcodes::COMMANDS.len(), prop::collection::vec(any::<u8>(), 16)).prop_map(
        |(row, noise)| {
            let usage = &opcodes::COMMANDS[row].usage;
            let mut bytes: Vec<u8> = noise.iter().zip(usage).map(|(a, b)| a & b).collect();
            bytes[0] = usage[0];
            bytes
        },
    );
    prop_oneof![prop::collection::vec(any::<u8>(), 0..260), known]
}

proptest! {
    #[test]
    fn no_cdb_panics_and_what_is_accepted_is_within_bounds(
        bytes in cdbs(),
        geometry in geometries(),
        read_only: bool,
        io_bytes_max in 65536u32..=1 << 24,
        lun: u16,
    ) {
        let identity = &IDENTITY;
        let view = LuView {
            geometry,
            identity,
            read_only,
            ready: true,
            placeholder: false,
            relative_port: 1,
            io_bytes_max,
        };
        let _ = decode_absent(&bytes, lun);
        let decoded = decode(&bytes, &view);
        if let Ok(decoded) = &decoded {
            check_bounds(decoded, &view);
        }
        if let Some(cdb) = bytes.first_chunk() {
            let short = transfer(cdb, &geometry, read_only, io_bytes_max);
            prop_assert_eq!(short, plain(cdb, decoded));
        }
    }
}

/// What [`transfer`] is to say of a CDB that became `decoded`.
fn plain(cdb: &Cdb, decoded: Result<Decoded, Sense>) -> Option<(IoOp, u32)> {
    match decoded.ok()?.work {
        Work::Io(op @ (IoOp::Read { .. } | IoOp::Write { .. })) => {
            let short = matches!(cdb[0], 0x28 | 0x2a | 0x88 | 0x8a);
            short.then_some((op, decoded.ok()?.bytes as u32))
        }
        _ => None,
    }
}

fn check_bounds(decoded: &Decoded, view: &LuView<'_>) {
    let limit = u64::from(view.io_bytes_max);
    assert!(decoded.direction != Direction::Out || decoded.bytes <= limit);
    assert!(decoded.direction != Direction::None || decoded.bytes == 0);
    match decoded.work {
        Work::Io(IoOp::Read { lba, blocks } | IoOp::Write { lba, blocks, .. })
        | Work::ReadMedium { lba, blocks } => {
            assert!(lba.checked_add(u64::from(blocks)).unwrap() <= view.geometry.blocks);
            assert_eq!(decoded.bytes, u64::from(blocks) * u64::from(view.geometry.block_bytes));
            assert!(decoded.bytes <= limit && blocks > 0);
        }
        Work::Io(IoOp::WriteZeroes { lba, blocks, .. } | IoOp::Unmap { lba, blocks }) => {
            assert!(lba.checked_add(blocks).unwrap() <= view.geometry.blocks);
        }
        Work::Answer(answer) => {
            assert!(answer.fill(view, &mut [0; 4096]) <= ANSWER_BYTES_MAX);
        }
        Work::Steps(steps) => {
            assert_eq!(steps.data_bytes() as u64, decoded.bytes);
            assert!(steps.scratch_bytes(view.io_bytes_max) as u64 <= limit);
        }
        _ => {}
    }
}
