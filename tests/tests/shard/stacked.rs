//! Logical units on devices over devices.

use std::sync::Arc;

use bdev::malloc::MallocOptions;
use bdev::stacked::delay::{Delay, DelayOptions, Latencies, LatencyType};
use bdev::stacked::fault::{Corruption, ErrorInjection, ErrorOptions, Fault, Injection, IoType};
use reactor::{Clock, Service};
use srpt_tests::port::{End, Port};
use srpt_tests::world::{Login, Options, World};
use transport::initiator::{Data, DataMemory, cdb};

use crate::common::{GOOD, code, pattern, seg};

/// A world whose LUN 0 is the error device EE_D over the delay device D over memory.
fn stacked(options: &Options, avg_us: u64, p99_us: u64) -> World {
    let mut world = World::new(options);
    let memory = MallocOptions {
        name: Some("M".into()),
        num_blocks: 8192,
        block_size: 512,
        ..MallocOptions::default()
    };
    world.bdevs.create(memory).expect("memory");
    let latencies = Latencies {
        avg_read_us: avg_us,
        p99_read_us: p99_us,
        avg_write_us: avg_us,
        p99_write_us: p99_us,
    };
    let delay = DelayOptions::new("D", "M", latencies);
    world.bdevs.create(delay).expect("a free base");
    let error = ErrorOptions { base: "D".into(), uuid: None };
    world.bdevs.create(error).expect("a free base");
    world.map("t", 0, "EE_D");
    world
}

fn errors(world: &World) -> Arc<ErrorInjection> {
    world.bdevs.of_kind("EE_D", "").expect("an error device")
}

fn inject(world: &World, io_type: IoType, fault: Fault) {
    let injection = Injection { fault, num: 1, queue_depth: 0 };
    errors(world).inject(&[io_type], injection);
}

/// Runs a read of the first block; its microseconds.
fn read_us(world: &mut World, port: &Port) -> u64 {
    let start = world.clock.now();
    let outcome = world.run(port, 0, &cdb::read10(0, 1), Data::In(&seg(port, 0, 512)));
    assert_eq!(outcome.status, GOOD);
    world.clock.now().ns_since(start) / 1000
}

#[test]
fn a_command_takes_the_delay_of_its_device_and_little_more() {
    let mut world = stacked(&Options::default(), 300, 1500);
    let port = world.ready(0, &Login::of(1), &[0]);
    for number in 1..=100 {
        let least = if number == 100 { 1500 } else { 300 };
        let took = read_us(&mut world, &port);
        assert!((least..least + 30).contains(&took), "read {number} took {took} us");
    }
    let delay = world.bdevs.of_kind::<Delay>("D", "").expect("a delay device");
    delay.update(LatencyType::AvgRead, 900).expect("below the p99");
    assert!(read_us(&mut world, &port) >= 900, "an open channel sees the change");
    world.assert_home();
}

#[test]
fn a_core_does_not_sleep_past_a_deadline() {
    let mut world = stacked(&Options::default(), 300, 300);
    let port = world.ready(0, &Login::of(1), &[0]);
    world.steps(100);
    assert!(world.shards[0].arm());
    let read = port.submit(0, &cdb::read10(0, 1), Data::In(&seg(&port, 0, 512)));
    world.steps(100);
    assert_eq!(port.end(read), None);
    assert!(!world.shards[0].arm(), "nothing would wake the core");
    world.wait(&port, read);
    world.steps(100);
    assert!(world.shards[0].arm());
}

#[test]
fn abort_of_a_pending_command_is_answered_after_its_resume() {
    let mut world = stacked(&Options::cores(2), 0, 0);
    let port = world.ready(1, &Login::of(1), &[0]);
    port.memory_write(0, &pattern(1, 512));
    inject(&world, IoType::Write, Fault::Pending);
    let stuck = port.submit(0, &cdb::write10(4, 1, false), Data::Out(&seg(&port, 0, 512)));
    world.steps(200);
    let abort = port.abort(0, stuck);
    world.steps(500);
    assert_eq!((port.end(stuck), port.end(abort)), (None, None), "it can still change data");
    errors(&world).resume_pending();
    assert_eq!(world.wait(&port, abort), End::Task(Some(0)));
    assert_eq!(port.end(stuck), Some(End::Aborted));
    world.assert_home();
}

#[test]
fn a_failure_is_a_medium_error_and_corruption_is_silent() {
    let mut world = stacked(&Options::default(), 1, 1);
    let port = world.ready(0, &Login::of(1), &[0]);
    let data = pattern(3, 512);
    port.memory_write(0, &data);
    let write = cdb::write10(0, 1, false);
    let read = cdb::read10(0, 1);
    assert_eq!(world.run(&port, 0, &write, Data::Out(&seg(&port, 0, 512))).status, GOOD);
    inject(&world, IoType::Read, Fault::Failure);
    let outcome = world.run(&port, 0, &read, Data::In(&seg(&port, 512, 512)));
    assert_eq!(code(&outcome), Some((3, 0x11, 0)));
    inject(&world, IoType::Read, Fault::CorruptData(Corruption { offset: 100, value: 0x10 }));
    for byte in [data[100] ^ 0x10, data[100]] {
        let outcome = world.run(&port, 0, &read, Data::In(&seg(&port, 512, 512)));
        assert_eq!(outcome.status, GOOD);
        let mut expected = data.clone();
        expected[100] = byte;
        let mut found = vec![0; 512];
        port.memory.read_at(512, &mut found);
        assert_eq!(found, expected);
    }
    world.assert_home();
}
