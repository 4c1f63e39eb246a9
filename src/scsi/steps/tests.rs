//! Steps driven against a disk in memory, which is also the oracle.

use proptest::prelude::*;

use super::super::fixtures::lu;
use super::*;

const BLOCK: usize = 512;

/// A disk in memory. Unmapped blocks read as zero, with "no data" where all of a read is zero.
struct Disk {
    bytes: Vec<u8>,
    ops: Vec<IoOp>,
    /// The status of the operation with this number.
    fault: Option<(usize, IoStatus)>,
}

impl Disk {
    fn new(blocks: usize) -> Disk {
        let bytes = (0..blocks * BLOCK).map(|at| (at / BLOCK + 1) as u8 ^ at as u8).collect();
        Disk { bytes, ops: Vec::new(), fault: None }
    }

    fn range(lba: u64, blocks: u64) -> std::ops::Range<usize> {
        lba as usize * BLOCK..(lba + blocks) as usize * BLOCK
    }

    fn run(&mut self, op: IoOp, scratch: &mut [u8]) -> IoStatus {
        self.ops.push(op);
        if let Some((at, status)) = self.fault
            && at + 1 == self.ops.len()
        {
            return status;
        }
        match op {
            IoOp::Read { lba, blocks } => {
                let data = &self.bytes[Disk::range(lba, u64::from(blocks))];
                if data.iter().all(|byte| *byte == 0) {
                    return IoStatus::GoodNoData;
                }
                scratch[..data.len()].copy_from_slice(data);
            }
            IoOp::Write { lba, blocks, .. } => {
                let range = Disk::range(lba, u64::from(blocks));
                let length = range.len();
                self.bytes[range].copy_from_slice(&scratch[..length]);
            }
            IoOp::WriteZeroes { lba, blocks, .. } | IoOp::Unmap { lba, blocks } => {
                self.bytes[Disk::range(lba, blocks)].fill(0);
            }
            IoOp::Flush => {}
        }
        IoStatus::Good
    }

    /// Runs a command to its end. The scratch buffer starts with what somebody else left there.
    fn drive(&mut self, mut steps: Steps, data: &[u8], io_bytes_max: u32) -> Result<(), Sense> {
        let mut scratch = vec![0xee; steps.scratch_bytes(io_bytes_max)];
        let mut last = IoStatus::Good;
        for _ in 0..10_000 {
            match steps.next(last, data, &mut scratch) {
                Step::Io(op) => last = self.run(op, &mut scratch),
                Step::Done(result) => return result,
            }
        }
        panic!("no end: {:?}", self.ops);
    }
}

#[test]
fn compare_and_write_swaps_when_equal() {
    let mut disk = Disk::new(8);
    let mut data = disk.bytes[Disk::range(2, 3)].to_vec();
    data.extend([0x5a; 3 * BLOCK]);
    let steps = Steps::compare_and_write(2, 3, 512, true);
    assert!(steps.is_atomic());
    let before = disk.bytes.clone();
    assert_eq!(disk.drive(steps, &data, 65536), Ok(()));
    assert_eq!(disk.bytes[..2 * BLOCK], before[..2 * BLOCK]);
    assert_eq!(disk.bytes[Disk::range(2, 3)], [0x5a; 3 * BLOCK]);
    assert_eq!(disk.bytes[5 * BLOCK..], before[5 * BLOCK..]);
    assert_eq!(
        disk.ops,
        [IoOp::Read { lba: 2, blocks: 3 }, IoOp::Write { lba: 2, blocks: 3, fua: true }]
    );
}

#[test]
fn compare_and_write_names_the_first_difference() {
    for offset in [0, 1, 511, 512, 1023] {
        let mut disk = Disk::new(4);
        let before = disk.bytes.clone();
        let mut data = disk.bytes[Disk::range(1, 2)].to_vec();
        data[offset] ^= 1;
        data[1023] ^= 0x80;
        data.extend([0; 2 * BLOCK]);
        let result = disk.drive(Steps::compare_and_write(1, 2, 512, false), &data, 65536);
        assert_eq!(result, Err(Sense::miscompare(offset as u64)));
        assert_eq!(disk.bytes, before);
    }
}

#[test]
fn blocks_without_data_compare_as_zeros() {
    let mut disk = Disk::new(4);
    disk.bytes.fill(0);
    let data = [[0; BLOCK], [7; BLOCK]].concat();
    assert_eq!(disk.drive(Steps::compare_and_write(3, 1, 512, false), &data, 65536), Ok(()));
    assert_eq!(disk.bytes[3 * BLOCK..], [7; BLOCK]);
    assert_eq!(disk.drive(Steps::verify_block(0, 3, 512), &[0; BLOCK], 65536), Ok(()));
    let mut wrong = vec![0; BLOCK];
    wrong[BLOCK - 1] = 1;
    let result = disk.drive(Steps::verify_block(0, 3, 512), &wrong, 65536);
    assert_eq!(result, Err(Sense::MISCOMPARE));
}

#[test]
fn write_same_repeats_the_block_in_chunks() {
    let mut disk = Disk::new(16);
    let before = disk.bytes.clone();
    let block: Vec<u8> = (0..BLOCK).map(|at| (at % 251) as u8).collect();
    let steps = Steps::write_same(3, 10, 512, true);
    assert_eq!(steps.scratch_bytes(4 * 512 + 100), 4 * 512);
    assert_eq!(Steps::write_same(0, 1000, 512, false).scratch_bytes(1 << 20), 128 << 10);
    assert_eq!(Steps::compare_and_write(0, 100, 4096, false).scratch_bytes(1 << 20), 100 * 4096);
    assert_eq!(disk.drive(steps, &block, 4 * 512 + 100), Ok(()));
    assert_eq!(disk.bytes[..3 * BLOCK], before[..3 * BLOCK]);
    assert!(disk.bytes[Disk::range(3, 10)].chunks(BLOCK).all(|copy| copy == block));
    assert_eq!(disk.bytes[13 * BLOCK..], before[13 * BLOCK..]);
    let chunks = [(3, 4), (7, 4), (11, 2)];
    assert_eq!(disk.ops, chunks.map(|(lba, blocks)| IoOp::Write { lba, blocks, fua: false }));
}

#[test]
fn write_same_of_zeros_is_one_operation() {
    for unmap in [false, true] {
        let mut disk = Disk::new(16);
        let steps = Steps::write_same(3, 10, 512, unmap);
        assert_eq!(disk.drive(steps, &[0; BLOCK], 512), Ok(()));
        assert_eq!(disk.ops, [IoOp::WriteZeroes { lba: 3, blocks: 10, unmap, fua: false }]);
        assert!(disk.bytes[Disk::range(3, 10)].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn verify_reads_all_of_it() {
    let mut disk = Disk::new(16);
    assert_eq!(disk.drive(Steps::verify_medium(1, 15, 512), &[], 7 * 512), Ok(()));
    let chunks = [(1, 7), (8, 7), (15, 1)];
    assert_eq!(disk.ops, chunks.map(|(lba, blocks)| IoOp::Read { lba, blocks }));

    let mut data = disk.bytes[Disk::range(1, 15)].to_vec();
    assert_eq!(disk.drive(Steps::verify_data(1, 15, 512), &data, 4 * 512), Ok(()));
    for offset in [0, 4 * BLOCK - 1, 4 * BLOCK, 15 * BLOCK - 1] {
        data[offset] ^= 0x10;
        let result = disk.drive(Steps::verify_data(1, 15, 512), &data, 4 * 512);
        assert_eq!(result, Err(Sense::MISCOMPARE));
        data[offset] ^= 0x10;
    }
}

#[test]
fn a_failed_operation_ends_the_command() {
    let caw = Steps::compare_and_write(0, 1, 512, false);
    let same = Steps::write_same(0, 4, 512, false);
    for (steps, at, status, sense) in [
        (caw, 0, IoStatus::ReadError, Sense { information: Some(0), ..Sense::READ_ERROR }),
        (caw, 1, IoStatus::NoSpace, Sense::SPACE_ALLOCATION_FAILED),
        (same, 1, IoStatus::WriteError, Sense { information: Some(1), ..Sense::WRITE_ERROR }),
        (Steps::verify_medium(0, 4, 512), 3, IoStatus::NotReady, Sense::NOT_READY),
    ] {
        let mut disk = Disk::new(4);
        disk.fault = Some((at, status));
        let data = [&disk.bytes[..BLOCK], &[1; BLOCK]].concat();
        assert_eq!(disk.drive(steps, &data, 512), Err(sense));
        assert_eq!(disk.ops.len(), at + 1);
    }
}

#[test]
fn missing_data_ends_the_command_before_any_operation() {
    for steps in [
        Steps::compare_and_write(0, 2, 512, false),
        Steps::write_same(0, 2, 512, false),
        Steps::verify_data(0, 2, 512),
        Steps::verify_block(0, 2, 512),
    ] {
        let mut disk = Disk::new(4);
        let data = vec![0; steps.data_bytes() - 1];
        let result = disk.drive(steps, &data, 65536);
        assert_eq!(result, Err(Sense::INVALID_INFORMATION_UNIT));
        assert_eq!(disk.ops, []);
    }
}

/// An UNMAP parameter list.
fn list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let length = (16 * ranges.len()) as u16;
    let mut bytes = (length + 6).to_be_bytes().to_vec();
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    for (lba, blocks) in ranges {
        bytes.extend(lba.to_be_bytes());
        bytes.extend(blocks.to_be_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}

fn unmap(disk: &mut Disk, data: &[u8], list_bytes: usize) -> Result<(), Sense> {
    let mut view = lu();
    view.geometry.blocks = (disk.bytes.len() / BLOCK) as u64;
    disk.drive(Steps::unmap(list_bytes as u16, &view), data, 65536)
}

#[test]
fn unmap_gives_up_each_range() {
    let mut disk = Disk::new(16);
    let data = list(&[(1, 2), (5, 0), (16, 0), (15, 1)]);
    assert_eq!(unmap(&mut disk, &data, data.len()), Ok(()));
    let expected = [IoOp::Unmap { lba: 1, blocks: 2 }, IoOp::Unmap { lba: 15, blocks: 1 }];
    assert_eq!(disk.ops, expected);

    let mut disk = Disk::new(16);
    assert_eq!(unmap(&mut disk, &list(&[]), 8), Ok(()));
    let mut incomplete = list(&[(1, 2), (3, 4)]);
    incomplete[3] = 31;
    assert_eq!(unmap(&mut disk, &incomplete, 40), Ok(()));
    assert_eq!(disk.ops, [IoOp::Unmap { lba: 1, blocks: 2 }]);
}

#[test]
fn unmap_checks_the_whole_list_first() {
    let length_error = Err(Sense::PARAMETER_LIST_LENGTH);
    let good = list(&[(1, 2), (3, 4)]);
    let cases: [(Vec<u8>, usize, Result<(), Sense>); 6] = [
        (list(&[(1, 2), (15, 2)]), 40, Err(Sense::LBA_OUT_OF_RANGE)),
        (list(&[(1, 2), (u64::MAX, 2)]), 40, Err(Sense::LBA_OUT_OF_RANGE)),
        (list(&[(1, 2), (17, 0)]), 40, Err(Sense::LBA_OUT_OF_RANGE)),
        (good.clone(), 39, length_error),
        (good[..39].to_vec(), 40, length_error),
        (good[..7].to_vec(), 40, length_error),
    ];
    for (data, list_bytes, expected) in cases {
        let mut disk = Disk::new(16);
        assert_eq!(unmap(&mut disk, &data, list_bytes), expected);
        assert_eq!(disk.ops, []);
    }
}

#[test]
fn unmap_limits() {
    let mut disk = Disk::new(16);
    let most = list(&[(0, 1); 256]);
    assert_eq!(unmap(&mut disk, &most, most.len()), Ok(()));
    let more = list(&[(0, 1); 257]);
    let refused = Err(Sense::invalid_field_in_parameters(2));
    assert_eq!(unmap(&mut disk, &more, more.len()), refused);

    let mut view = lu();
    view.geometry.blocks = u64::MAX;
    for (second, fits) in [(1 << 19, true), ((1 << 19) + 1, false)] {
        let data = list(&[(7, 1 << 19), (u64::MAX - (1 << 20), second)]);
        let mut steps = Steps::unmap(data.len() as u16, &view);
        let step = steps.next(IoStatus::Good, &data, &mut []);
        let refused = Step::Done(Err(Sense::invalid_field_in_parameters(32)));
        let first = Step::Io(IoOp::Unmap { lba: 7, blocks: 1 << 19 });
        assert_eq!(step, if fits { first } else { refused });
    }
}

proptest! {
    #[test]
    fn unmap_takes_any_list(
        mut data in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..200),
        honest: bool,
        list_bytes in 8u16..300,
    ) {
        if honest && data.len() >= 8 {
            data[2] = 0;
            data[3] = data.len() as u8 - 8;
        }
        let mut steps = Steps::unmap(list_bytes, &lu());
        let mut ended = false;
        for _ in 0..=13 {
            match steps.next(IoStatus::Good, &data, &mut []) {
                Step::Io(IoOp::Unmap { lba, blocks }) => prop_assert!(lba + blocks <= 1000),
                step => {
                    prop_assert!(matches!(step, Step::Done(_)));
                    ended = true;
                    break;
                }
            }
        }
        prop_assert!(ended, "more operations than descriptors");
    }
}
