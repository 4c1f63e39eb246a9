//! Few slots, few buffers, much to do.

use srpt_tests::port::{End, Port};
use srpt_tests::world::{Login, Options};
use transport::initiator::{Data, Table, cdb};
use transport::sim::Rng;
use transport::srp::{Tmf, encode_table};

use crate::common::{GOOD, gated, pattern, seg};

fn tight() -> Options {
    let mut options = Options::tight(2, &[(65536, 1), (1 << 20, 2)]);
    options.limits.credits = 128;
    options
}

/// One random command of a port; all of them succeed.
fn random_command(port: &Port, rng: &mut Rng) -> reactor::Tag {
    let blocks = [1, 8, 200, 2048][rng.below(4) as usize];
    let data = seg(port, 0, blocks * 512);
    match rng.below(5) {
        0 => port.submit(0, &cdb::write16(0, blocks as u32, false), Data::Out(&data)),
        1 => port.submit(
            0,
            &cdb::compare_and_write(5000, 100),
            Data::Out(&seg(port, 3 << 20, 102_400)),
        ),
        2 => port.submit(0, &cdb::inquiry(None, 96), Data::In(&seg(port, 0, 96))),
        _ => port.submit(0, &cdb::read16(0, blocks as u32), Data::In(&data)),
    }
}

#[test]
fn everything_ends_with_two_slots_and_two_buffers() {
    let (mut world, gate) = gated(&tight());
    let ports: Vec<_> = (1..4).map(|n| world.ready(0, &Login::of(n), &[0])).collect();
    gate.random(3, 4, 0);
    let mut rng = Rng::new(5);
    let tags: Vec<_> = ports
        .iter()
        .flat_map(|port| (0..128).map(|_| port.clone()).collect::<Vec<_>>())
        .map(|port| (random_command(&port, &mut rng), port))
        .collect();
    world.until("all", |_| ports.iter().all(|port| port.in_flight() == 0));
    for (tag, port) in tags {
        let Some(End::Answered(outcome)) = port.end(tag) else { panic!("aborted") };
        assert_eq!(outcome.status, GOOD, "{outcome:?}");
    }
    world.assert_home();
}

#[test]
fn a_command_that_needs_every_buffer_gets_its_turn() {
    let (mut world, gate) = gated(&tight());
    let busy: Vec<_> = (1..4).map(|n| world.ready(0, &Login::of(n), &[0])).collect();
    let patient = world.ready(0, &Login::of(9), &[0]);
    gate.random(3, 6, 0);
    let refill = |busy: &[Port]| {
        for port in busy {
            while port.credits() > 0 {
                let data = seg(port, 0, 1 << 20);
                port.submit(0, &cdb::read16(0, 2048), Data::In(&data));
            }
        }
    };
    for round in 0..3 {
        refill(&busy);
        world.steps(10);
        let data = seg(&patient, 0, 1 << 20);
        let mut verify = cdb::read16(0, 2048);
        (verify[0], verify[1]) = (0x8f, 0x02);
        let tag = patient.submit(0, &verify, Data::Out(&data));
        for _ in 0..10_000 {
            if patient.end(tag).is_some() {
                break;
            }
            refill(&busy);
            world.step();
        }
        assert!(patient.end(tag).is_some(), "round {round}: starved");
        busy.iter().for_each(Port::forget_ends);
    }
    world.until("all", |_| busy.iter().all(|port| port.in_flight() == 0));
    world.assert_home();
}

#[test]
fn a_stuck_device_with_all_large_buffers_leaves_the_small_ones_to_others() {
    let mut options = Options::tight(16, &[(4096, 2), (1 << 20, 3)]);
    options.limits.credits = 8;
    let (mut world, gate) = gated(&options);
    let fine = std::sync::Arc::new(srpt_tests::gate::Gate::new("fine", 64));
    world.add(1, fine);
    let stuck = world.ready(0, &Login::of(1), &[0]);
    let other = world.ready(0, &Login::of(2), &[0, 1]);
    gate.shut();
    for _ in 0..5 {
        stuck.submit(0, &cdb::read16(0, 2048), Data::In(&seg(&stuck, 0, 1 << 20)));
    }
    world.until("three reads at the device", |_| gate.held() == 3);
    world.clock.advance(std::time::Duration::from_millis(5));
    for _ in 0..3 {
        let read = world.run(&other, 1, &cdb::read16(0, 1), Data::In(&seg(&other, 0, 512)));
        assert_eq!(read.status, GOOD);
    }
    gate.open();
    world.assert_home();
}

#[test]
fn buffers_are_not_kept_for_a_command_that_was_aborted() {
    let mut options = Options::tight(16, &[(4096, 2), (1 << 20, 3)]);
    options.limits.credits = 8;
    let (mut world, gate) = gated(&options);
    world.add(1, std::sync::Arc::new(srpt_tests::gate::Gate::new("fine", 64)));
    let hog = world.ready(0, &Login::of(1), &[0]);
    let stuck = world.ready(0, &Login::of(2), &[0]);
    let other = world.ready(0, &Login::of(3), &[1]);
    gate.shut();
    for blocks in [2048, 2048, 2048, 1, 1] {
        let data = seg(&hog, 0, blocks as usize * 512);
        hog.submit(0, &cdb::read16(0, blocks), Data::In(&data));
    }
    world.until("every buffer at the device", |_| gate.held() == 5);
    stuck.submit(0, &cdb::read16(0, 1), Data::In(&seg(&stuck, 0, 512)));
    world.steps(50);
    let abort = stuck.task(Tmf::AbortTaskSet as u8, 0, None);
    assert_eq!(world.wait(&stuck, abort), End::Task(Some(0)));
    // Now it wants a large buffer, and small ones are free.
    gate.release(3);
    gate.release(4);
    world.until("two small buffers", |_| gate.held() == 3);
    stuck.submit(0, &cdb::read16(0, 2048), Data::In(&seg(&stuck, 0, 1 << 20)));
    world.steps(50);
    world.clock.advance(std::time::Duration::from_millis(5));
    let read = world.run(&other, 1, &cdb::read16(0, 1), Data::In(&seg(&other, 0, 512)));
    assert_eq!(read.status, GOOD);
    gate.open();
    world.assert_home();
}

#[test]
fn tables_and_scratch_fit_into_the_smallest_pool() {
    let (mut world, gate) = gated(&tight());
    let port = world.ready(0, &Login::of(1), &[0]);
    let bytes = pattern(1, 1 << 20);
    port.memory_write(0, &bytes);
    let segs: Vec<_> = (0..2048).map(|n| seg(&port, n * 512, 512)[0]).collect();
    let mut encoded = vec![0; 32768];
    encode_table(&segs, &mut encoded);
    port.memory_write(2 << 20, &encoded);
    let table = Table { memory: seg(&port, 2 << 20, 32768)[0], total_len: 1 << 20, in_iu: &[] };
    let write = port.submit(0, &cdb::write16(0, 2048, false), Data::OutTable(table));
    let mut verify = cdb::read16(0, 2048);
    (verify[0], verify[1]) = (0x8f, 0x02);
    let verify = port.submit(0, &verify, Data::OutTable(table));
    for tag in [write, verify] {
        assert!(matches!(world.wait(&port, tag), End::Answered(o) if o.status == GOOD));
    }
    assert_eq!(gate.medium(0, 2048), bytes);
    world.assert_home();
}

#[test]
fn a_unit_attention_is_not_lost_for_want_of_a_buffer() {
    let mut options = tight();
    options.limits.slots = 8;
    let (mut world, gate) = gated(&options);
    let port = world.ready(0, &Login::of(1), &[0]);
    let other = world.ready(0, &Login::of(2), &[0]);
    gate.shut();
    // One buffer is left, and REQUEST SENSE with a table needs two.
    for _ in 0..2 {
        other.submit(0, &cdb::read16(0, 2048), Data::In(&seg(&other, 0, 1 << 20)));
    }
    world.until("both reads at the device", |_| gate.held() == 2);
    let target = "t".to_owned();
    world.control(srpt_tgt::shard::message::Action::LunsChanged { target });
    let mut encoded = [0; 16];
    encode_table(&seg(&port, 0, 18), &mut encoded);
    port.memory_write(4096, &encoded);
    let table = Table { memory: seg(&port, 4096, 16)[0], total_len: 18, in_iu: &[] };
    let sense = port.submit(0, &[3, 0, 0, 0, 18, 0], Data::InTable(table));
    world.steps(50);
    assert_eq!(port.end(sense), None, "no buffer for it");
    gate.open();
    world.wait(&port, sense);
    let sense = port.bytes(0, 18);
    assert_eq!((sense[2], sense[12], sense[13]), (6, 0x3f, 0x0e));
    world.assert_home();
}
