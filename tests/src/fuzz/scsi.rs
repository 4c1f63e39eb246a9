//! The command set: CDBs, data that commands look at, and devices that are passed through.

use std::sync::LazyLock;

use bdev::{Geometry, IoOp, IoStatus};
use srpt_tgt::scsi::pass::{self, Pass};
use srpt_tgt::scsi::reads::only_reads;
use srpt_tgt::scsi::reserve::is_allowed;
use srpt_tgt::scsi::{
    ANSWER_BYTES_MAX, Decoded, Direction, Identity, LuView, Sense, Step, Steps, Work, decode,
    decode_absent, report_luns, request_sense, transfer,
};
use transport::initiator;

use super::Input;

static IDENTITY: LazyLock<Identity> =
    LazyLock::new(|| Identity::new("Fuzz disk", *b"0123456789abcdef"));

/// A logical unit of any size.
fn unit(input: &mut Input<'_>) -> LuView<'static> {
    let (bits, sizes) = (input.u8(), input.u8());
    let block_bytes = 512 << (sizes % 7);
    let blocks = match sizes / 7 % 3 {
        0 => u64::from(input.u8()),
        1 => u64::from(input.u32()),
        _ => input.u64() % (i64::MAX as u64 / u64::from(block_bytes)),
    };
    let bit = |number: u8| bits >> number & 1 != 0;
    LuView {
        geometry: Geometry {
            block_bytes,
            blocks,
            physical_exponent: sizes / 21 % 8,
            buf_align: 512,
            write_cache: bit(0),
            read_only: bit(1),
            unmap: bit(2),
            unmap_zeroes: bit(2) && bit(3),
            unmap_granularity: if bit(2) { 4096 } else { 0 },
            rotational: bit(4),
        },
        identity: &IDENTITY,
        read_only: bit(5),
        ready: !bit(6),
        placeholder: bit(7),
        relative_port: 7,
        io_bytes_max: 1 << 20,
    }
}

/// A logical unit, the LUN that it is not, and a CDB.
pub(super) fn cdb(input: &[u8]) {
    let mut input = Input::new(input);
    let lu = unit(&mut input);
    let lun = input.u16();
    let cdb = input.rest();
    let decoded = decode(cdb, &lu);
    match &decoded {
        Ok(decoded) => check(decoded, &lu),
        Err(sense) => check_sense(sense),
    }
    if let Some(whole) = cdb.first_chunk::<16>() {
        let short = transfer(whole, &lu.geometry, lu.read_only, lu.io_bytes_max);
        if let Some((op, bytes)) = short {
            let direction = if op.changes_medium() { Direction::Out } else { Direction::In };
            let bytes = u64::from(bytes);
            assert_eq!(decoded, Ok(Decoded { work: Work::Io(op), direction, bytes }));
        }
    }
    match decode_absent(cdb, lun) {
        Ok(decoded) => {
            assert_ne!(decoded.direction, Direction::Out);
            check(&decoded, &LuView::absent());
        }
        Err(sense) => check_sense(&sense),
    }
}

/// What every command that was decoded promises.
fn check(decoded: &Decoded, lu: &LuView<'_>) {
    let Decoded { work, direction, bytes } = *decoded;
    let block_bytes = u64::from(lu.geometry.block_bytes);
    assert!(direction != Direction::Out || bytes <= u64::from(lu.io_bytes_max), "{decoded:?}");
    assert!(direction != Direction::None || bytes == 0, "{decoded:?}");
    // As much room as a buffer has.
    let room = bytes.min(2 * ANSWER_BYTES_MAX as u64) as usize;
    match work {
        Work::Good | Work::Reserve(_) => assert_eq!(direction, Direction::None),
        Work::Io(op) => {
            in_range(&op, lu);
            match op {
                IoOp::Read { blocks, .. } => {
                    let moved = (Direction::In, u64::from(blocks) * block_bytes);
                    assert_eq!((direction, bytes), moved);
                }
                IoOp::Write { blocks, .. } => {
                    let moved = (Direction::Out, u64::from(blocks) * block_bytes);
                    assert_eq!((direction, bytes), moved);
                }
                _ => assert_eq!(direction, Direction::None),
            }
        }
        Work::ReadMedium { lba, blocks } => {
            in_range(&IoOp::Read { lba, blocks }, lu);
            assert_eq!((direction, bytes), (Direction::In, u64::from(blocks) * block_bytes));
        }
        Work::Answer(answer) => {
            let mut whole = vec![0xee; 2 * ANSWER_BYTES_MAX];
            let len = answer.fill(lu, &mut whole);
            assert!(len > 0 && len <= ANSWER_BYTES_MAX);
            cut(&whole[..len], room, |out| answer.fill(lu, out));
        }
        Work::ReportLuns(select) => {
            let luns = || [0, 255, 256, 16383].into_iter();
            let mut whole = [0xee; 64];
            let len = report_luns(select, luns(), &mut whole);
            cut(&whole[..len], room, |out| report_luns(select, luns(), out));
        }
        Work::RequestSense { descriptor } => {
            let mut whole = [0xee; 64];
            let len = request_sense(Some(Sense::NOT_READY), descriptor, &mut whole);
            cut(&whole[..len], room, |out| request_sense(Some(Sense::NOT_READY), descriptor, out));
        }
        Work::Steps(steps) => {
            let data = if direction == Direction::Out { bytes } else { 0 };
            assert_eq!(steps.data_bytes() as u64, data);
            assert!(steps.scratch_bytes(lu.io_bytes_max) <= lu.io_bytes_max as usize);
        }
    }
}

/// An answer in less room is the front of the whole one, and nothing else is written.
fn cut(whole: &[u8], room: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
    let mut out = vec![0xee; room];
    let len = fill(&mut out);
    assert_eq!(len, whole.len().min(room));
    assert_eq!(out[..len], whole[..len]);
    assert!(out[len..].iter().all(|byte| *byte == 0xee), "written behind the answer");
}

/// An operation that the device may be given.
fn in_range(op: &IoOp, lu: &LuView<'_>) {
    let range = match *op {
        IoOp::Flush => return,
        IoOp::Read { lba, blocks } => (lba, u64::from(blocks)),
        IoOp::Write { lba, blocks, .. } => (lba, u64::from(blocks)),
        IoOp::WriteZeroes { lba, blocks, .. } => (lba, blocks),
        IoOp::Unmap { lba, blocks } => (lba, blocks),
    };
    let end = range.0.checked_add(range.1);
    assert!(range.1 > 0 && end.is_some_and(|end| end <= lu.geometry.blocks), "{op:?}");
    assert!(!op.changes_medium() || !lu.write_protected(), "{op:?}");
}

/// Sense data says the same in both formats, to whoever reads it.
fn check_sense(sense: &Sense) {
    for descriptor in [false, true] {
        let mut bytes = [0; 252];
        let len = sense.emit(descriptor, &mut bytes);
        let read = initiator::Sense::new(&bytes[..len]);
        assert_eq!(read.code(), Some((sense.key, sense.asc, sense.ascq)));
    }
}

/// A small logical unit, a CDB, how the operations end, and the data.
pub(super) fn parameters(input: &[u8]) {
    let mut input = Input::new(input);
    let mut lu = unit(&mut input);
    lu.geometry.block_bytes = 512;
    lu.geometry.blocks %= 80;
    lu.io_bytes_max = 64 << 10;
    let cdb: [u8; 16] = input.array();
    let ends: [u8; 4] = input.array();
    let data = input.rest();
    let Ok(Decoded { work: Work::Steps(mut steps), bytes, .. }) = decode(&cdb, &lu) else { return };
    let data = &data[..data.len().min(bytes as usize)];
    let before: Vec<u8> = (0..lu.geometry.blocks).flat_map(|lba| [lba as u8 % 3; 512]).collect();
    let mut medium = before.clone();
    let (ended, ops) = walk(&mut steps, &lu, &ends, data, &mut medium);
    let failed = ends.iter().take(ops.len()).any(|end| *end > 0xf0);
    if ended.is_err() && !failed {
        assert_eq!(medium, before, "a command that failed has changed the medium: {ended:?}");
    }
    if ops.iter().all(|op| !op.changes_medium()) {
        assert_eq!(medium, before);
    }
    if cdb[0] == 0x89 && ended.is_ok() && !failed {
        let at = u64::from_be_bytes(cdb[2..10].try_into().expect("eight bytes")) as usize * 512;
        let (compare, write) = data.split_at(data.len() / 2);
        assert!(before[at..].starts_with(compare) && medium[at..].starts_with(write));
    }
}

/// Goes through the steps, on a medium. Every operation is within the device.
fn walk(
    steps: &mut Steps,
    lu: &LuView<'_>,
    ends: &[u8],
    data: &[u8],
    medium: &mut [u8],
) -> (Result<(), Sense>, Vec<IoOp>) {
    let mut scratch = vec![0xee; steps.scratch_bytes(lu.io_bytes_max)];
    let (mut last, mut ops) = (IoStatus::Good, Vec::new());
    loop {
        let op = match steps.next(last, data, &mut scratch) {
            Step::Done(ended) => {
                if let Err(sense) = &ended {
                    check_sense(sense);
                }
                return (ended, ops);
            }
            Step::Io(op) => op,
        };
        in_range(&op, lu);
        assert!(ops.len() < 1024, "more operations than blocks and descriptors");
        let end = ends.get(ops.len()).copied().unwrap_or(0);
        ops.push(op);
        last = match end {
            0..=0xf0 => run(&op, medium, &mut scratch),
            0xf1..=0xf5 => IoStatus::ReadError,
            0xf6..=0xfa => IoStatus::OutOfRange,
            _ => IoStatus::NoSpace,
        };
    }
}

fn run(op: &IoOp, medium: &mut [u8], scratch: &mut [u8]) -> IoStatus {
    let bytes = |lba: u64, blocks: u64| lba as usize * 512..(lba + blocks) as usize * 512;
    match *op {
        IoOp::Flush => {}
        IoOp::Read { lba, blocks } => {
            let from = &medium[bytes(lba, blocks.into())];
            scratch[..from.len()].copy_from_slice(from);
        }
        IoOp::Write { lba, blocks, .. } => {
            let to = &mut medium[bytes(lba, blocks.into())];
            to.copy_from_slice(&scratch[..to.len()]);
        }
        IoOp::WriteZeroes { lba, blocks, .. } | IoOp::Unmap { lba, blocks } => {
            medium[bytes(lba, blocks)].fill(0);
        }
    }
    IoStatus::Good
}

/// A CDB for a device that takes commands, and what the device says.
pub(super) fn pass(input: &[u8]) {
    let mut input = Input::new(input);
    let (cdb_bytes_max, port) = (16 + input.below(17), input.u16());
    let cdb_bytes = 16 + input.below(253);
    let mut cdb = input.bytes(cdb_bytes).to_vec();
    cdb.resize(cdb_bytes, 0);
    match pass::classify(&cdb, cdb_bytes_max) {
        Ok(Pass::Forward(bytes)) => assert!((6..=cdb_bytes_max.min(cdb.len())).contains(&bytes)),
        Ok(_) => {}
        Err(sense) => check_sense(&sense),
    }
    is_allowed(&cdb);
    let vendors_own = cdb[0] >= 0xc0;
    assert!(!(vendors_own && only_reads(&cdb, port as u8)));
    let said = input.rest();
    pass::attentions_of(said);
    let mut page = said.to_vec();
    pass::protect(&cdb, &mut page);
    assert!(page.iter().zip(said).filter(|(one, other)| one != other).count() <= 1);
    page = said[..said.len().min(pass::IDENTIFICATION_BYTES.into())].to_vec();
    let len = page.len();
    page.resize(len + 8, 0xee);
    let made = pass::own_port(&mut page, len, port);
    assert!(made <= len + 8);
    if len >= 4 && page[1] == 0x83 {
        assert_eq!(made, 4 + usize::from(u16::from_be_bytes([page[2], page[3]])));
        let again = pass::own_port(&mut page.clone(), made, port);
        assert_eq!(again, made, "the port is there twice");
    }
}
