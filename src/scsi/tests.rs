//! Layouts of the answers, byte by byte.

use super::fixtures::{cdb, lu};
use super::*;

/// The whole answer to a CDB.
fn answer_of(bytes: &[u8], lu: &LuView<'_>) -> Vec<u8> {
    let decoded = decode(&cdb(bytes), lu).unwrap();
    let Work::Answer(answer) = decoded.work else { panic!("{decoded:?}") };
    assert_eq!(decoded.direction, Direction::In);
    let mut out = vec![0xee; 2 * ANSWER_BYTES_MAX];
    let length = answer.fill(lu, &mut out);
    assert!(length <= ANSWER_BYTES_MAX);
    assert!(out[length..].iter().all(|byte| *byte == 0xee));
    out.truncate(length);
    out
}

fn vpd_page(page: u8, lu: &LuView<'_>) -> Vec<u8> {
    let data = answer_of(&[0x12, 1, page, 0xff, 0xff, 0], lu);
    assert_eq!(data[..2], [0, page]);
    assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])), data.len() - 4);
    data
}

#[test]
fn standard_inquiry() {
    let data = answer_of(&[0x12, 0, 0, 0xff, 0xff, 0], &lu());
    let mut expected = vec![0x00, 0x00, 0x06, 0x12, 91, 0, 0, 0x02];
    expected.extend(b"SRPT_TGTMalloc disk     0.1 ");
    expected.resize(58, 0);
    expected.extend([0x00, 0xa0, 0x09, 0x40, 0x04, 0x60, 0x04, 0xc0]);
    expected.resize(96, 0);
    assert_eq!(data, expected);
}

#[test]
fn answers_are_cut_at_the_buffer() {
    let whole = answer_of(&[0x12, 0, 0, 0, 255, 0], &lu());
    for room in 0..whole.len() {
        let mut out = vec![0; room];
        assert_eq!(Answer::Inquiry(0).fill(&lu(), &mut out), room);
        assert_eq!(out, whole[..room]);
    }
}

#[test]
fn supported_pages_are_those_that_decode_answers() {
    let listed = vpd_page(0x00, &lu())[4..].to_vec();
    let answered: Vec<u8> = (0..=255)
        .filter(|page| decode(&cdb(&[0x12, 1, *page, 0, 255, 0]), &lu()).is_ok())
        .collect();
    assert_eq!(listed, [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    assert_eq!(listed, answered);
    listed.iter().for_each(|page| drop(vpd_page(*page, &lu())));
}

#[test]
fn unit_serial_number() {
    assert_eq!(&vpd_page(0x80, &lu())[4..], b"00112233445566778899aabbccddeeff");
}

#[test]
fn device_identification() {
    let data = vpd_page(0x83, &lu());
    let mut expected = vec![0x02, 0x01, 0, 40];
    expected.extend(b"SRPT_TGT00112233445566778899aabbccddeeff");
    expected.extend([0x01, 0x03, 0, 16]);
    expected.extend(fixtures::IDENTITY.naa);
    expected.extend([0x01, 0x0a, 0, 18, 0x10, 0x00]);
    expected.extend(fixtures::IDENTITY.uuid);
    expected.extend([0x41, 0x94, 0, 4, 0, 0, 0, 7]);
    assert_eq!(data[4..], expected);
    assert_eq!(data[52] >> 4, 6, "the name that every tool ranks first");
}

#[test]
fn longest_names_fit() {
    let identity = fixtures::IDENTITY.clone().with_serial(&"s".repeat(36)).unwrap();
    let view = LuView { identity: &identity, ..lu() };
    assert_eq!(vpd_page(0x80, &view).len(), 40);
    assert_eq!(vpd_page(0x83, &view).len(), 4 + 4 + 44 + 20 + 22 + 8);
}

#[test]
fn extended_inquiry() {
    let data = vpd_page(0x86, &lu());
    assert_eq!(data.len(), 64);
    assert_eq!(data[4..7], [0x00, 0x01, 0x01]);
    assert!(data[7..].iter().all(|byte| *byte == 0));
}

#[test]
fn block_limits() {
    let data = vpd_page(0xb0, &lu());
    assert_eq!(data.len(), 64);
    // WSNZ; 64 KiB hold 128 blocks, or 64 to compare and 64 to write.
    assert_eq!(data[4..8], [1, 64, 0, 8]);
    assert_eq!(data[8..12], 128u32.to_be_bytes());
    assert_eq!(data[12..20], [0; 8]);
    assert_eq!(data[20..24], (1u32 << 20).to_be_bytes());
    assert_eq!(data[24..28], 256u32.to_be_bytes());
    assert_eq!(data[28..32], 8u32.to_be_bytes());
    assert_eq!(data[32..36], [0x80, 0, 0, 0]);
    assert_eq!(data[36..44], 262_144u64.to_be_bytes());
    assert!(data[44..].iter().all(|byte| *byte == 0));

    let large = LuView { io_bytes_max: 1 << 20, ..lu() };
    assert_eq!(vpd_page(0xb0, &large)[5], 255);

    let mut thick = lu();
    thick.geometry.unmap = false;
    assert_eq!(vpd_page(0xb0, &thick)[20..36], [0; 16]);
}

#[test]
fn block_device_characteristics() {
    let data = vpd_page(0xb1, &lu());
    assert_eq!((data.len(), &data[4..6]), (64, &[0u8, 1][..]));
    let mut spinning = lu();
    spinning.geometry.rotational = true;
    assert_eq!(vpd_page(0xb1, &spinning)[4..6], [0, 0]);
}

#[test]
fn provisioning_says_the_same_in_both_places() {
    for (unmap, zeroes, page, capacity) in [
        (true, true, [0, 0xe4, 2, 0], 0xc0),
        (true, false, [0, 0xe0, 2, 0], 0x80),
        (false, true, [0, 0, 0, 0], 0x00),
    ] {
        let mut view = lu();
        view.geometry.unmap = unmap;
        view.geometry.unmap_zeroes = zeroes;
        assert_eq!(vpd_page(0xb2, &view)[4..], page);
        let read_capacity = answer_of(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32], &view);
        assert_eq!(read_capacity[14], capacity);
    }
}

#[test]
fn read_capacity_10_at_its_limit() {
    for (blocks, last) in [
        (1000, 999),
        (1 << 32, u32::MAX),
        ((1 << 32) - 1, u32::MAX - 1),
        ((1 << 32) + 1, u32::MAX),
        (u64::MAX, u32::MAX),
    ] {
        let mut view = lu();
        view.geometry.blocks = blocks;
        let data = answer_of(&[0x25], &view);
        assert_eq!(data[..4], last.to_be_bytes());
        assert_eq!(data[4..], 512u32.to_be_bytes());
    }
}

#[test]
fn read_capacity_16() {
    let mut view = lu();
    view.geometry.blocks = 1 << 33;
    let data = answer_of(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32], &view);
    let mut expected = ((1u64 << 33) - 1).to_be_bytes().to_vec();
    expected.extend([0, 0, 2, 0, 0x00, 0x03, 0xc0, 0x00]);
    expected.resize(32, 0);
    assert_eq!(data, expected);
}

const CACHING: [u8; 20] = [8, 0x12, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CONTROL: [u8; 12] = [0x0a, 0x0a, 0x02, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
const EXCEPTIONS: [u8; 12] = [0x1c, 0x0a, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn mode_sense_6_all_pages() {
    let mut expected = vec![55, 0, 0x10, 8];
    expected.extend([0, 0, 3, 0xe8, 0, 0, 2, 0]);
    expected.extend(CACHING);
    expected.extend(CONTROL);
    expected.extend(EXCEPTIONS);
    assert_eq!(answer_of(&[0x1a, 0, 0x3f, 0, 255], &lu()), expected);
    // All subpages are none more; defaults are the current values.
    assert_eq!(answer_of(&[0x1a, 0, 0x3f, 0xff, 255], &lu()), expected);
    assert_eq!(answer_of(&[0x1a, 0, 0xbf, 0, 255], &lu()), expected);
}

#[test]
fn mode_sense_reports_protection_and_cache() {
    let mut view = LuView { read_only: true, ..lu() };
    view.geometry.write_cache = false;
    assert_eq!(answer_of(&[0x1a, 8, 8, 0, 255], &view)[..7], [23, 0, 0x90, 0, 8, 0x12, 0]);
}

#[test]
fn nothing_is_changeable() {
    let data = answer_of(&[0x1a, 8, 0x7f, 0, 255], &lu());
    let mut expected = vec![47, 0, 0x10, 0];
    for (page, length) in [(8, 0x12), (0x0a, 0x0a), (0x1c, 0x0a)] {
        expected.extend([page, length]);
        expected.resize(expected.len() + usize::from(length), 0);
    }
    assert_eq!(data, expected);
}

#[test]
fn mode_sense_10_block_descriptors() {
    let mut view = lu();
    view.geometry.blocks = 1 << 33;
    let short = answer_of(&[0x5a, 0, 0x0a, 0, 0, 0, 0, 0, 255, 0], &view);
    assert_eq!(short[..8], [0, 26, 0, 0x10, 0, 0, 0, 8]);
    assert_eq!(short[8..16], [0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]);
    assert_eq!(short[16..], CONTROL);

    let long = answer_of(&[0x5a, 0x10, 0x0a, 0, 0, 0, 0, 0, 255, 0], &view);
    assert_eq!(long[..8], [0, 34, 0, 0x10, 1, 0, 0, 16]);
    assert_eq!(long[8..24], [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(long[24..], CONTROL);

    let none = answer_of(&[0x5a, 0x18, 0x1c, 0, 0, 0, 0, 0, 255, 0], &view);
    assert_eq!(none[..8], [0, 18, 0, 0x10, 0, 0, 0, 0]);
    assert_eq!(none[8..], EXCEPTIONS);
}

#[test]
fn a_placeholder_is_not_connected() {
    let view = LuView { placeholder: true, ..lu() };
    for cdb in [cdb(&[0x12, 0, 0, 0, 96]), cdb(&[0x12, 1, 0x83, 0, 96])] {
        let Work::Answer(answer) = decode(&cdb, &view).unwrap().work else { panic!("no data") };
        let mut out = [0xff; 96];
        assert!(answer.fill(&view, &mut out) > 8);
        assert_eq!(out[0], 0x3f);
        assert_eq!(answer.fill(&lu(), &mut out), answer.fill(&view, &mut [0; 96]));
        assert_eq!(out[0], 0);
    }
}

#[test]
fn absent_logical_units_say_so() {
    let mut out = [0xee; 128];
    for (lun, peripheral) in [(0, 0x3f), (1, 0x7f), (u16::MAX, 0x7f)] {
        let decoded = decode_absent(&cdb(&[0x12, 0, 0, 0, 96]), lun).unwrap();
        let Work::Answer(answer) = decoded.work else { panic!("{decoded:?}") };
        assert_eq!((answer.fill(&LuView::absent(), &mut out), decoded.bytes), (96, 96));
        assert_eq!(out[0], peripheral);
        assert_eq!(&out[8..16], b"SRPT_TGT");
        let decoded = decode_absent(&cdb(&[0x12, 1, 0, 0, 96]), lun).unwrap();
        let Work::Answer(answer) = decoded.work else { panic!("{decoded:?}") };
        assert_eq!(answer.fill(&LuView::absent(), &mut out), 5);
        assert_eq!(out[..5], [peripheral, 0, 0, 1, 0], "no page but the list of pages");
        for evpd in [0, 1] {
            let page = cdb(&[0x12, evpd, 0x83, 0, 96]);
            assert_eq!(decode_absent(&page, lun), Err(Sense::invalid_field_in_cdb(2)));
        }
    }
    let decoded = decode_absent(&cdb(&[0x03, 0, 0, 0, 18]), 1).unwrap();
    let Work::Answer(answer) = decoded.work else { panic!("{decoded:?}") };
    assert_eq!(answer.fill(&LuView::absent(), &mut out), 18);
    assert_eq!((out[0], out[2], out[12], out[13]), (0x70, 5, 0x25, 0));
}
