use reactor::Tag;

use super::*;
use crate::contract::{self, Rig};
use crate::registry::testing::{malloc, null};

const READ: IoOp = IoOp::Read { lba: 1, blocks: 1 };
const WRITE: IoOp = IoOp::Write { lba: 1, blocks: 1, fua: false };
const ZEROES: IoOp = IoOp::WriteZeroes { lba: 1, blocks: 1, unmap: false, fua: false };
const UNMAP: IoOp = IoOp::Unmap { lba: 1, blocks: 1 };

fn error(base: Arc<dyn Bdev>) -> ErrorInjection {
    ErrorInjection::new("EE".into(), Uuid::nil(), base, Failing::default())
}

fn injection(fault: Fault, num: u32) -> Injection {
    Injection { fault, num, queue_depth: 0 }
}

fn corrupt(offset: u64, value: u8) -> Fault {
    Fault::CorruptData(Corruption { offset, value })
}

fn submit(rig: &mut Rig, op: IoOp) -> Tag {
    let buf = matches!(op, IoOp::Read { .. } | IoOp::Write { .. }).then(|| {
        let mut buf = rig.take(512);
        buf.fill(0..512, 0xee);
        buf
    });
    rig.submit(op, buf)
}

fn run(rig: &mut Rig, op: IoOp) -> IoStatus {
    let tag = submit(rig, op);
    let done = rig.wait();
    assert_eq!(done.tag, tag);
    rig.put(done.buf);
    done.status
}

#[test]
fn obeys_the_contract() {
    contract::every_rule(&error(malloc(8192, 512)), 10);
    contract::every_rule(&error(malloc(1000, 4096)), 11);
}

#[test]
fn obeys_the_contract_while_errors_wait_for_a_depth_that_never_comes() {
    let error = error(malloc(8192, 512));
    let never = Injection { fault: Fault::Failure, num: u32::MAX, queue_depth: 1000 };
    error.inject(&IoType::ALL, never);
    contract::every_rule(&error, 12);
}

#[test]
fn failures_count_down_by_type_and_change_nothing() {
    let error = error(malloc(64, 512));
    let mut rig = Rig::new(&error, 4, 4096);
    assert_eq!(rig.write(1, &[7; 512]), IoStatus::Good);
    error.inject(&[IoType::Write], injection(Fault::Failure, 2));
    error.inject(&[IoType::Flush], injection(Fault::Failure, 1));
    assert_eq!(run(&mut rig, READ), IoStatus::Good);
    assert_eq!(run(&mut rig, WRITE), IoStatus::WriteError);
    assert_eq!(run(&mut rig, IoOp::Flush), IoStatus::WriteError);
    assert_eq!(run(&mut rig, IoOp::Flush), IoStatus::Good);
    assert_eq!(run(&mut rig, UNMAP), IoStatus::Good);
    assert_eq!(run(&mut rig, WRITE), IoStatus::WriteError);
    assert!(rig.read(1, 1).unwrap().iter().all(|byte| *byte == 0), "only the unmap changed data");
    assert_eq!(run(&mut rig, WRITE), IoStatus::Good);
    assert!(!error.layer.shared.active.load(Ordering::Relaxed), "nothing is left to look for");

    error.inject(&IoType::ALL, injection(Fault::Failure, 9));
    for (op, status) in [
        (READ, IoStatus::ReadError),
        (WRITE, IoStatus::WriteError),
        (IoOp::Flush, IoStatus::WriteError),
        (UNMAP, IoStatus::WriteError),
        (ZEROES, IoStatus::WriteError),
    ] {
        assert_eq!(run(&mut rig, op), status, "{op:?}");
    }
    error.inject(&[IoType::Read], injection(Fault::Failure, 0));
    assert_eq!(run(&mut rig, READ), IoStatus::Good);
    assert_eq!(run(&mut rig, ZEROES), IoStatus::WriteError);
    error.clear();
    assert_eq!(run(&mut rig, ZEROES), IoStatus::Good);
    rig.drain();
}

#[test]
fn channels_share_the_count() {
    let error = error(malloc(64, 512));
    let mut rigs = [Rig::new(&error, 2, 4096), Rig::new(&error, 2, 4096)];
    error.inject(&[IoType::Read], injection(Fault::Failure, 3));
    let failed = (0..8).filter(|at| run(&mut rigs[at % 2], READ) == IoStatus::ReadError).count();
    assert_eq!(failed, 3);
}

#[test]
fn errors_begin_at_a_depth() {
    let error = error(malloc(64, 512));
    let mut rig = Rig::new(&error, 4, 4096);
    error.inject(&[IoType::Read], Injection { fault: Fault::Failure, num: 9, queue_depth: 2 });
    let tags = [READ; 4].map(|op| submit(&mut rig, op));
    let mut failed = Vec::new();
    for _ in tags {
        let done = rig.wait();
        if done.status == IoStatus::ReadError {
            failed.push(done.tag);
        }
        rig.put(done.buf);
    }
    assert_eq!(failed, tags[2..]);
    assert_eq!(run(&mut rig, READ), IoStatus::Good);
    rig.drain();
}

#[test]
fn what_is_pending_waits_for_its_resume() {
    let error = error(malloc(64, 512));
    let mut rig = Rig::new(&error, 4, 4096);
    error.inject(&[IoType::Write, IoType::Flush], injection(Fault::Pending, 1));
    let write = submit(&mut rig, WRITE);
    assert!(rig.wait_turns(50).is_none());
    assert!(rig.channel().arm(), "what is pending does not keep the core awake");
    assert!(rig.read(1, 1).unwrap().iter().all(|byte| *byte == 0), "not with the base yet");
    error.resume_pending();
    // Comes after the resume, so it is not meant by it.
    let flush = submit(&mut rig, IoOp::Flush);
    let done = rig.wait();
    assert_eq!((done.tag, done.status), (write, IoStatus::Good));
    rig.put(done.buf);
    assert_eq!(rig.read(1, 1).unwrap(), [0xee; 512]);
    assert!(rig.wait_turns(50).is_none());
    error.resume_pending();
    let done = rig.wait();
    assert_eq!((done.tag, done.status), (flush, IoStatus::Good));
    rig.drain();
}

#[test]
fn a_resumed_operation_does_not_meet_the_injections_that_are_left() {
    let error = error(malloc(64, 512));
    let mut rig = Rig::new(&error, 4, 4096);
    error.inject(&[IoType::Read], injection(Fault::Pending, 3));
    let first = submit(&mut rig, READ);
    assert!(rig.wait_turns(50).is_none());
    error.resume_pending();
    let done = rig.wait_turns(50).expect("one resume is enough");
    assert_eq!((done.tag, done.status), (first, IoStatus::Good));
    rig.put(done.buf);
    // The two injections that are left are for two other operations.
    submit(&mut rig, READ);
    submit(&mut rig, READ);
    assert!(rig.wait_turns(50).is_none());
    assert_eq!(run(&mut rig, READ), IoStatus::Good);
    error.inject(&[IoType::Read], injection(Fault::Failure, 5));
    error.resume_pending();
    for _ in 0..2 {
        let done = rig.wait_turns(50).expect("resumed");
        assert_eq!(done.status, IoStatus::Good, "another fault was met after the resume");
        rig.put(done.buf);
    }
    rig.drain();
}

#[test]
fn reads_are_corrupted_on_their_way_up() {
    let error = error(malloc(64, 512));
    let mut rig = Rig::new(&error, 4, 4096);
    assert_eq!(rig.write(1, &[7; 512]), IoStatus::Good);
    error.inject(&[IoType::Read], injection(corrupt(3, 0xff), 1));
    let mut expected = vec![7; 512];
    expected[3] = 0xf8;
    assert_eq!(rig.read(1, 1).unwrap(), expected);
    assert_eq!(rig.read(1, 1).unwrap(), [7; 512], "the medium is whole");
    error.inject(&[IoType::Read], injection(corrupt(512, 0xff), 1));
    assert_eq!(rig.read(1, 1).unwrap(), [7; 512], "beyond the data");
    rig.drain();
}

#[test]
fn writes_are_corrupted_on_their_way_down_and_the_writer_keeps_its_data() {
    let error = error(malloc(64, 512));
    let mut rig = Rig::new(&error, 4, 4096);
    error.inject(&[IoType::Write], injection(corrupt(511, 1), 1));
    submit(&mut rig, WRITE);
    let done = rig.wait();
    assert_eq!(done.status, IoStatus::Good);
    assert_eq!(done.buf.as_ref().and_then(Buf::private).unwrap(), [0xee; 512]);
    rig.put(done.buf);
    let mut expected = vec![0xee; 512];
    expected[511] = 0xef;
    assert_eq!(rig.read(1, 1).unwrap(), expected);
    rig.drain();
}

#[test]
fn a_read_without_data_becomes_one_with_data_to_corrupt() {
    let error = error(null(64));
    let mut rig = Rig::new(&error, 4, 4096);
    error.inject(&[IoType::Read], injection(corrupt(0, 0x55), 1));
    submit(&mut rig, READ);
    let done = rig.wait();
    assert_eq!(done.status, IoStatus::Good);
    let mut expected = vec![0; 512];
    expected[0] = 0x55;
    assert_eq!(done.buf.as_ref().and_then(Buf::private).unwrap(), expected);
    rig.put(done.buf);
    rig.drain();
}

#[test]
#[should_panic(expected = "found other data")]
fn the_contract_notices_corrupted_data() {
    let error = error(malloc(64, 512));
    error.inject(&[IoType::Write], injection(corrupt(5, 0x80), 40));
    contract::data_is_kept(&error, 13, 1000);
}

#[test]
fn corruption_survives_little_room_in_the_callers_batch() {
    let error = error(malloc(64, 512));
    error.inject(&[IoType::Read], injection(corrupt(5, 0x80), 5));
    contract::poll_takes_what_fits(&error);
}

#[test]
fn a_channel_that_ends_with_operations_pending_keeps_their_buffers() {
    let error = error(malloc(64, 512));
    let mut rig = Rig::new(&error, 4, 4096);
    error.inject(&[IoType::Read], injection(Fault::Pending, 1));
    submit(&mut rig, READ);
    error.inject(&[IoType::Read], injection(Fault::Failure, 1));
    submit(&mut rig, READ);
    drop(rig);
}
