//! Initiators that share their memory: commands use it as their buffer.

use bdev::malloc::MallocOptions;
use srpt_tests::port::Port;
use srpt_tests::world::{Login, Options, World};
use srpt_tgt::shard::coverage::{Mark, marked};
use srpt_tgt::shard::message::Action;
use transport::initiator::{Data, DataMemory, cdb};
use transport::{CloseReason, RemoteSeg};

use crate::common::{CHECK, GOOD, gated, pattern, seg};

/// Bytes of what is written and read here.
const BYTES: usize = 8 * 512;

fn options() -> Options {
    Options { lends: true, delay_ns_max: 0, ..Options::default() }
}

/// A world whose LUN 0 is memory, and an initiator without unit attention.
fn memory() -> (World, Port) {
    let mut world = memory_of(&options());
    let port = world.ready(0, &Login::of(1), &[0]);
    (world, port)
}

fn memory_of(options: &Options) -> World {
    let mut world = World::new(options);
    let name = Some("memory".to_owned());
    let memory = MallocOptions { name, num_blocks: 8192, block_size: 512, ..Default::default() };
    world.bdevs.create(memory).expect("memory");
    world.map("t", 0, "memory");
    world
}

/// Passes by a mark, where they are counted.
fn passed(mark: Mark) -> Option<u64> {
    cfg!(debug_assertions).then(|| marked(mark))
}

fn write(port: &Port) -> reactor::Tag {
    port.submit(0, &cdb::write10(0, 8, false), Data::Out(&seg(port, 0, BYTES)))
}

#[test]
fn a_plain_command_is_over_in_the_turn_that_takes_it() {
    let (mut world, port) = memory();
    let data = pattern(1, BYTES);
    port.memory_write(0, &data);
    let credits = port.credits();
    let written = write(&port);
    let back = seg(&port, BYTES, BYTES);
    let read = port.submit(0, &cdb::read10(0, 8), Data::In(&back));
    assert_eq!(port.credits(), credits - 2);
    let before = passed(Mark::DoneAtOnce);
    world.step();
    assert!(passed(Mark::DoneAtOnce) >= before.map(|before| before + 2), "done without a slot");
    for tag in [written, read] {
        assert_eq!(port.outcome(tag).expect("answered").status, GOOD);
    }
    assert_eq!(port.bytes(BYTES, BYTES), data);
    assert_eq!(port.credits(), credits);
}

#[test]
fn a_write_whose_data_came_with_it_is_over_in_the_turn_that_takes_it() {
    let (mut world, port) = memory();
    let (data, credits) = (pattern(3, BYTES), port.credits());
    let written = port.submit(0, &cdb::write10(0, 8, false), Data::OutImmediate(&data));
    let before = passed(Mark::WrittenAtOnce);
    world.step();
    assert!(passed(Mark::WrittenAtOnce) >= before.map(|before| before + 1));
    assert_eq!(port.outcome(written).expect("answered").status, GOOD);
    assert_eq!(port.credits(), credits);
    let back = seg(&port, 0, BYTES);
    world.run(&port, 0, &cdb::read10(0, 8), Data::In(&back));
    assert_eq!(port.bytes(0, BYTES), data);

    // Too little is refused as a whole; of too much the CDB's part is written.
    for (bytes, status, left) in [(BYTES - 512, CHECK, &data), (BYTES + 512, GOOD, &vec![9; BYTES])]
    {
        let cdb = cdb::write10(0, 8, false);
        let outcome = world.run(&port, 0, &cdb, Data::OutImmediate(&vec![9; bytes]));
        assert_eq!((outcome.status, outcome.residual.is_some()), (status, true), "{bytes} bytes");
        world.run(&port, 0, &cdb::read10(0, 8), Data::In(&back));
        assert_eq!(port.bytes(0, BYTES), *left, "{bytes} bytes");
    }
}

/// What is done at once takes no time: with a histogram it takes the way on which it is timed.
#[test]
fn a_histogram_has_the_writes_that_might_be_done_at_once() {
    let (mut world, port) = memory();
    let bdev = || "memory".to_owned();
    world.control(Action::SetHistogram { bdev: bdev(), enable: true, only: None });
    let lent = seg(&port, 0, BYTES);
    for data in [Data::OutImmediate(&pattern(5, BYTES)), Data::Out(&lent)] {
        world.run(&port, 0, &cdb::write10(0, 8, false), data);
    }
    let reports = world.control(Action::Histogram { bdev: bdev() });
    let histograms = reports.iter().filter_map(|report| report.histogram.as_ref());
    assert_eq!(histograms.map(|h| h.buckets().iter().sum::<u64>()).sum::<u64>(), 2);
}

/// Every way in which a command begins counts: lent memory, buffers, the received bytes, tables.
#[test]
fn a_turn_begins_no_more_than_its_share() {
    for (lends, ranges) in [(true, 1), (false, 1), (false, 0), (false, 2)] {
        let mut options = Options { lends, ..options() };
        options.limits.turn_bytes = BYTES as u64;
        let mut world = memory_of(&options);
        let [much, little] = [1, 2].map(|who| world.ready(0, &Login::of(who), &[0]));
        let submit = |port: &Port| {
            let cdb = cdb::write10(0, 8, false);
            let segs: Vec<_> =
                (0..ranges).flat_map(|at| seg(port, at * BYTES, BYTES / ranges)).collect();
            let data = pattern(4, BYTES);
            let immediate = ranges == 0;
            let data = if immediate { Data::OutImmediate(&data) } else { Data::Out(&segs) };
            port.submit(0, &cdb, data)
        };
        let mut waiting: Vec<_> = (0..8).map(|_| (&much, submit(&much))).collect();
        waiting.push((&little, submit(&little)));
        let (mut turns, mut neighbour) = (0, None);
        while !waiting.is_empty() {
            world.step();
            turns += 1;
            assert!(turns < 100, "{} of {ranges} ranges wait for ever", waiting.len());
            let before = waiting.len();
            waiting.retain(|(port, tag)| port.outcome(*tag).is_none());
            assert!(before - waiting.len() <= 1, "turn {turns} with {ranges} ranges");
            if neighbour.is_none() && little.in_flight() == 0 {
                neighbour = Some(waiting.len());
            }
        }
        assert!(neighbour >= Some(5), "{ranges} ranges: the neighbour had to wait for most");
    }
}

#[test]
fn memory_comes_back_from_a_device_after_its_channel_has_gone() {
    let (mut world, gate) = gated(&options());
    let port = world.ready(0, &Login::of(1), &[0]);
    gate.shut();
    port.memory_write(0, &pattern(2, BYTES));
    write(&port);
    world.until("the device has it", |_| gate.held() == 1);
    port.disconnect();
    world.steps(100);
    assert!(!port.is_released(), "released with its memory at the device");
    gate.open();
    world.until("the release", |_| port.is_released());
    assert_eq!(gate.medium(0, 8), pattern(2, BYTES));
}

#[test]
fn what_was_never_registered_is_not_lent() {
    let (_, port) = memory();
    let good = seg(&port, 0, BYTES)[0];
    let beyond = RemoteSeg { addr: port.memory.len() as u64 - 512, ..good };
    let elsewhere = RemoteSeg { key: good.key + 1, ..good };
    for wrong in [beyond, elsewhere] {
        let (mut world, port) = memory();
        port.submit(0, &cdb::read10(0, 8), Data::In(&[wrong]));
        world.until("the end of the channel", |_| port.closed());
        assert_eq!(port.ended(), Some(CloseReason::RemoteAccess), "{wrong:?}");
    }
}
