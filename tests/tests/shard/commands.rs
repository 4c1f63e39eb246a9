//! Commands of several steps, through the shard.

use std::time::Duration;

use bdev::{IoOp, IoStatus};
use srpt_tests::port::End;
use srpt_tests::world::{Login, Options};
use transport::initiator::{Data, cdb};

use crate::common::{code, gated, pattern, seg, single};

#[test]
fn one_of_two_concurrent_compare_and_writes_wins() {
    for seed in 0..40 {
        let (mut world, gate) = gated(&Options { seed, ..Options::cores(2) });
        gate.random(seed, 20, 0);
        let ports = [world.ready(0, &Login::of(1), &[0]), world.ready(1, &Login::of(2), &[0])];
        let tags = [0, 1].map(|number| {
            let port = &ports[number];
            let new = pattern(number as u64 + 1, 512);
            port.memory_write(0, &[vec![0; 512], new].concat());
            port.submit(0, &cdb::compare_and_write(3, 1), Data::Out(&seg(port, 0, 1024)))
        });
        let codes = [0, 1].map(|number| match world.wait(&ports[number], tags[number]) {
            End::Answered(outcome) => code(&outcome),
            other => panic!("{other:?}"),
        });
        let winner = codes.iter().position(Option::is_none).expect("one wins");
        assert_eq!(codes[1 - winner], Some((0xe, 0x1d, 0)), "and one loses");
        assert_eq!(gate.medium(3, 1), pattern(winner as u64 + 1, 512));
        world.assert_home();
    }
}

#[test]
fn an_aborted_compare_and_write_lets_the_next_one_in() {
    let (mut world, gate, port) = single();
    gate.shut();
    let first = port.submit(0, &cdb::compare_and_write(0, 1), Data::Out(&seg(&port, 0, 1024)));
    world.until("the first at the device", |_| gate.held() == 1);
    let second = port.submit(0, &cdb::compare_and_write(0, 1), Data::Out(&seg(&port, 0, 1024)));
    world.steps(50);
    assert_eq!(gate.held(), 1, "the second waits");
    let abort = port.abort(0, first);
    world.steps(20);
    gate.open();
    assert_eq!(world.wait(&port, abort), End::Task(Some(0)));
    assert_eq!(world.wait(&port, first), End::Aborted);
    assert!(matches!(world.wait(&port, second), End::Answered(outcome) if outcome.status == 0));
    world.assert_home();
}

#[test]
fn write_same_covers_the_range_and_zeros_go_to_the_device_as_such() {
    let (mut world, gate, port) = single();
    let block = pattern(1, 512);
    port.memory_write(0, &block);
    let cdb = cdb::write_same16(10, 5000, false);
    let outcome = world.run(&port, 0, &cdb, Data::Out(&seg(&port, 0, 512)));
    assert_eq!(code(&outcome), None);
    assert_eq!(gate.medium(10, 5000), block.repeat(5000));
    assert_eq!((gate.medium(9, 1), gate.medium(5010, 1)), (vec![0; 512], vec![0; 512]));
    port.memory_write(0, &[0; 512]);
    let cdb = cdb::write_same16(11, 100, true);
    let outcome = world.run(&port, 0, &cdb, Data::Out(&seg(&port, 0, 512)));
    assert_eq!(code(&outcome), None);
    assert_eq!(gate.medium(11, 100), vec![0; 51200]);
    let last = IoOp::WriteZeroes { lba: 11, blocks: 100, unmap: true, fua: false };
    assert_eq!(gate.seen().last(), Some(&last));
    world.assert_home();
}

#[test]
fn unmap_gives_up_its_ranges_and_stops_at_the_first_failure() {
    let (mut world, gate, port) = single();
    port.memory_write(0, &pattern(1, 512 * 64));
    world.run(&port, 0, &cdb::write10(0, 64, false), Data::Out(&seg(&port, 0, 512 * 64)));
    let list = cdb::unmap_list(&[(1, 2), (10, 0), (20, 3)]);
    port.memory_write(0, &list);
    let cdb = cdb::unmap(list.len() as u16);
    let outcome = world.run(&port, 0, &cdb, Data::Out(&seg(&port, 0, list.len())));
    assert_eq!(code(&outcome), None);
    for (lba, zero) in [(0, false), (1, true), (2, true), (3, false), (10, false), (22, true)] {
        assert_eq!(gate.medium(lba, 1) == [0; 512], zero, "block {lba}");
    }
    let list = cdb::unmap_list(&[(30, 1), (31, 1)]);
    port.memory_write(0, &list);
    let before = gate.seen().len();
    gate.fail_next(bdev::IoStatus::WriteError);
    let cdb = cdb::unmap(list.len() as u16);
    let outcome = world.run(&port, 0, &cdb, Data::Out(&seg(&port, 0, list.len())));
    assert_eq!(code(&outcome), Some((3, 0x0c, 0)));
    assert_eq!(gate.seen().len(), before + 1);
    world.assert_home();
}

#[test]
fn verify_compares_with_the_medium() {
    let (mut world, gate, port) = single();
    let bytes = pattern(3, 1 << 20);
    port.memory_write(0, &bytes);
    let data = seg(&port, 0, 1 << 20);
    world.run(&port, 0, &cdb::write16(0, 2048, false), Data::Out(&data));
    let mut verify = cdb::read16(0, 2048);
    (verify[0], verify[1]) = (0x8f, 0x02);
    assert_eq!(code(&world.run(&port, 0, &verify, Data::Out(&data))), None);
    port.memory_write(1_000_000, &[bytes[1_000_000] ^ 1]);
    assert_eq!(code(&world.run(&port, 0, &verify, Data::Out(&data))), Some((0xe, 0x1d, 0)));
    verify[1] = 0;
    let before = gate.seen().len();
    assert_eq!(code(&world.run(&port, 0, &verify, Data::None)), None);
    assert!(gate.seen()[before..].iter().all(|op| matches!(op, IoOp::Read { .. })));
    assert!(gate.seen().len() > before);
    world.assert_home();
}

#[test]
fn a_flush_reaches_the_device() {
    let (mut world, gate, port) = single();
    let outcome = world.run(&port, 0, &cdb::synchronize_cache10(0, 0), Data::None);
    assert_eq!(code(&outcome), None);
    assert_eq!(gate.seen().last(), Some(&IoOp::Flush));
}

#[test]
fn a_device_is_timed_for_each_of_a_commands_operations_and_failures_only_counted() {
    let (mut world, gate, port) = single();
    gate.shut();
    // VERIFY (10) of 1024 blocks, read in two chunks.
    let verify = port.submit(0, &[0x2f, 0, 0, 0, 0, 0, 0, 4, 0, 0], Data::None);
    for number in 0..2 {
        world.until("a chunk at the device", |_| gate.seen().len() == number + 1);
        world.clock.advance(Duration::from_secs(1));
        gate.release(number);
    }
    assert!(matches!(world.wait(&port, verify), End::Answered(o) if code(&o).is_none()));
    gate.open();
    let counts = |world: &mut srpt_tests::world::World| world.reports()[0].bdevs[0].1;
    let good = counts(&mut world);
    assert_eq!((good.read_ops, good.bytes_read, good.errors), (2, 1024 * 512, 0));
    let seconds = |ns: u64| Duration::from_nanos(ns).as_secs();
    assert_eq!([good.read_ns_min, good.read_ns_max, good.read_ns].map(seconds), [1, 1, 2]);

    gate.fail_next(IoStatus::ReadError);
    world.run(&port, 0, &cdb::read10(0, 1), Data::In(&seg(&port, 0, 512)));
    let failed = counts(&mut world);
    assert_eq!(failed.errors, 1);
    assert_eq!(srpt_tgt::shard::message::IoCounts { errors: 0, ..failed }, good);
}
