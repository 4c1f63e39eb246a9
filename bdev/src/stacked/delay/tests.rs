use reactor::Clock;

use super::*;
use crate::contract::{self, Rig};
use crate::registry::testing::malloc;
use crate::{IoStatus, Tag};

const READ: IoOp = IoOp::Read { lba: 0, blocks: 1 };
const WRITE: IoOp = IoOp::Write { lba: 0, blocks: 1, fua: false };

fn delay(latencies: [u64; 4]) -> Result<Delay, BdevError> {
    let [avg_read_us, p99_read_us, avg_write_us, p99_write_us] = latencies;
    let latencies = Latencies { avg_read_us, p99_read_us, avg_write_us, p99_write_us };
    let slow = Slow::new("D", &latencies)?;
    Ok(Delay::new("D".into(), Uuid::nil(), malloc(8192, 512), slow))
}

fn submit(rig: &mut Rig, op: IoOp) -> Tag {
    let buf = rig.take(512);
    rig.submit(op, Some(buf))
}

/// Nanoseconds that an operation took, alone.
fn took_ns(rig: &mut Rig, op: IoOp) -> u64 {
    let start = rig.clock.now();
    match op {
        IoOp::Read { .. } | IoOp::Write { .. } => {
            let tag = submit(rig, op);
            let done = rig.wait();
            assert_eq!((done.tag, done.status), (tag, IoStatus::Good));
            rig.put(done.buf);
        }
        _ => assert_eq!(rig.run(op), IoStatus::Good),
    }
    rig.clock.now().ns_since(start)
}

#[test]
fn obeys_the_contract() {
    contract::every_rule(&delay([0; 4]).unwrap(), 7);
    contract::every_rule(&delay([3, 40, 5, 50]).unwrap(), 8);
    contract::every_rule(&delay([0, 90, 7, 7]).unwrap(), 9);
}

#[test]
fn each_kind_takes_its_time_and_one_in_a_hundred_takes_longer() {
    let delay = delay([20, 300, 50, 700]).unwrap();
    let mut rig = Rig::new(&delay, 2, 4096);
    // The turn of the submission is the first microsecond.
    for (op, avg_us, p99_us) in [(READ, 21, 301), (WRITE, 51, 701)] {
        for number in 1..=200 {
            let expected = if number % 100 == 0 { p99_us } else { avg_us };
            assert_eq!(took_ns(&mut rig, op), expected * 1000, "{op:?} {number}");
        }
    }
    let zeroes = IoOp::WriteZeroes { lba: 0, blocks: 1, unmap: false, fua: false };
    for op in [IoOp::Flush, IoOp::Unmap { lba: 0, blocks: 1 }, zeroes] {
        assert_eq!(took_ns(&mut rig, op), 1000, "{op:?}");
    }
    rig.drain();
}

#[test]
fn the_order_is_that_of_the_deadlines() {
    let delay = delay([50, 50, 20, 20]).unwrap();
    let mut rig = Rig::new(&delay, 4, 4096);
    let tags = [READ, WRITE, READ, WRITE].map(|op| submit(&mut rig, op));
    let came: Vec<Tag> = (0..4)
        .map(|_| {
            let done = rig.wait();
            rig.put(done.buf);
            done.tag
        })
        .collect();
    assert_eq!(came, [tags[1], tags[3], tags[0], tags[2]]);
    rig.drain();
}

#[test]
fn a_core_stays_awake_while_completions_are_held() {
    let delay = delay([50, 50, 0, 0]).unwrap();
    let mut rig = Rig::new(&delay, 2, 4096);
    assert!(rig.channel().arm());
    submit(&mut rig, READ);
    assert!(!rig.channel().arm(), "the time has not begun");
    assert!(rig.wait_turns(10).is_none());
    assert!(!rig.channel().arm(), "nothing would wake the core at the deadline");
    let done = rig.wait();
    rig.put(done.buf);
    assert!(rig.channel().arm());
    rig.drain();
}

#[test]
fn an_update_holds_for_what_is_submitted_from_then_on() {
    let delay = delay([50, 50, 0, 0]).unwrap();
    let mut rig = Rig::new(&delay, 2, 4096);
    let slow = submit(&mut rig, READ);
    delay.update(LatencyType::AvgRead, 5).unwrap();
    let fast = submit(&mut rig, READ);
    for expected in [fast, slow] {
        let done = rig.wait();
        assert_eq!(done.tag, expected);
        rig.put(done.buf);
    }
    assert_eq!(delay.options()["avg_read_latency"], 5);
    rig.drain();
}

#[test]
fn a_p99_below_the_average_is_refused() {
    assert!(delay([10, 9, 0, 0]).is_err());
    assert!(delay([0, 0, 10, 9]).is_err());
    assert!(delay([0, LATENCY_US_MAX + 1, 0, 0]).is_err());
    let delay = delay([10, 20, 30, 40]).unwrap();
    for (which, us) in [
        (LatencyType::AvgRead, 21),
        (LatencyType::P99Read, 9),
        (LatencyType::AvgWrite, 41),
        (LatencyType::P99Write, 29),
    ] {
        let before = delay.options();
        assert_eq!(delay.update(which, us).unwrap_err().errno(), -22, "{which:?}");
        assert_eq!(delay.options(), before);
    }
}

#[test]
fn a_channel_that_ends_with_completions_held_keeps_their_buffers() {
    let delay = delay([50, 50, 0, 0]).unwrap();
    let mut rig = Rig::new(&delay, 2, 4096);
    submit(&mut rig, READ);
    assert!(rig.wait_turns(3).is_none());
    drop(rig);
}
