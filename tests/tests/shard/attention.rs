//! Unit attentions.

use bdev::null::{Null, NullOptions};
use srpt_tests::gate::Gate;
use srpt_tests::port::{Code, End, Port};
use srpt_tests::world::{Login, Options, World};
use srpt_tgt::shard::message::Action;
use std::sync::Arc;
use transport::initiator::{Data, cdb};
use transport::srp::Tmf;

use crate::common::{NO_LUN, POWER_ON, TUR, code, gated, seg};

const LUNS_CHANGED: Code = (6, 0x3f, 0x0e);
const CAPACITY_CHANGED: Code = (6, 0x2a, 0x09);
const COMMANDS_CLEARED: Code = (6, 0x2f, 0);

fn ready(world: &mut World, port: &Port, lun: u16) -> Option<Code> {
    code(&world.run(port, lun, &TUR, Data::None))
}

/// REQUEST SENSE in fixed format.
fn request_sense(world: &mut World, port: &Port, lun: u16) -> Code {
    let cdb = [0x03, 0, 0, 0, 18, 0];
    let outcome = world.run(port, lun, &cdb, Data::In(&seg(port, 0, 18)));
    assert_eq!(code(&outcome), None);
    let sense = port.bytes(0, 18);
    assert_eq!(sense[0], 0x70);
    (sense[2] & 0xf, sense[12], sense[13])
}

#[test]
fn power_on_is_reported_once_per_lun_and_session() {
    let (mut world, _gate) = gated(&Options::cores(2));
    world.add(3, Arc::new(Gate::new("other", 16)));
    let first = world.login(0, &Login::of(1));
    let second = world.login(1, &Login::multi(1));
    let stranger = world.login(1, &Login::of(2));
    // Two channels ask at the same time: one of them is told.
    let tags = [first.submit(0, &TUR, Data::None), second.submit(0, &TUR, Data::None)];
    let ends = [world.wait(&first, tags[0]), world.wait(&second, tags[1])];
    let told = ends.iter().filter(|end| match end {
        End::Answered(outcome) => code(outcome) == Some(POWER_ON),
        _ => false,
    });
    assert_eq!(told.count(), 1);
    assert_eq!(ready(&mut world, &second, 3), Some(POWER_ON));
    for port in [&first, &second] {
        assert_eq!(ready(&mut world, port, 0), None);
        assert_eq!(ready(&mut world, port, 3), None);
    }
    assert_eq!(ready(&mut world, &stranger, 0), Some(POWER_ON));
    world.assert_home();
}

#[test]
fn inquiry_and_report_luns_pass_and_leave_it_pending() {
    let (mut world, _gate) = gated(&Options::default());
    let port = world.login(0, &Login::of(1));
    for cdb in [&cdb::inquiry(None, 255)[..], &cdb::report_luns(255)[..]] {
        let outcome = world.run(&port, 0, cdb, Data::In(&seg(&port, 0, 255)));
        assert_eq!(code(&outcome), None);
    }
    assert_eq!(ready(&mut world, &port, 0), Some(POWER_ON));
    assert_eq!(ready(&mut world, &port, 0), None);
}

#[test]
fn request_sense_reports_and_clears() {
    let (mut world, _gate) = gated(&Options::default());
    let port = world.login(0, &Login::of(1));
    assert_eq!(request_sense(&mut world, &port, 0), POWER_ON);
    assert_eq!(request_sense(&mut world, &port, 0), (0, 0, 0));
    assert_eq!(ready(&mut world, &port, 0), None);
    assert_eq!(request_sense(&mut world, &port, 9), NO_LUN);
}

#[test]
fn a_changed_map_is_reported_to_every_session_of_the_target() {
    let (mut world, _gate) = gated(&Options::cores(2));
    world.create_target("u");
    world.map("u", 0, "gate");
    let ports = [world.ready(0, &Login::of(1), &[0]), world.ready(1, &Login::of(2), &[0])];
    let elsewhere = world.ready(1, &Login::of(1).to("u"), &[0]);
    world.add(1, Arc::new(Gate::new("other", 16)));
    for port in &ports {
        assert_eq!(ready(&mut world, port, 0), Some(LUNS_CHANGED));
        assert_eq!(ready(&mut world, port, 0), None);
        assert_eq!(ready(&mut world, port, 1), Some(POWER_ON));
    }
    world.unmap("t", 1);
    for port in &ports {
        assert_eq!(ready(&mut world, port, 0), Some(LUNS_CHANGED));
        assert_eq!(ready(&mut world, port, 1), Some(NO_LUN));
    }
    assert_eq!(ready(&mut world, &elsewhere, 0), None);
}

#[test]
fn a_changed_capacity_is_reported_where_the_device_is_mapped() {
    let (mut world, _gate) = gated(&Options::cores(2));
    let options = NullOptions {
        name: Some("null".to_owned()),
        num_blocks: 100,
        block_size: 512,
        ..NullOptions::default()
    };
    world.bdevs.create(options).expect("created");
    world.map("t", 1, "null");
    let port = world.ready(1, &Login::of(1), &[0, 1]);
    let read = |world: &mut World, lba| {
        code(&world.run(&port, 1, &cdb::read10(lba, 1), Data::In(&seg(&port, 0, 512))))
    };
    assert_eq!(read(&mut world, 150), Some((5, 0x21, 0)));
    let null = world.bdevs.of_kind::<Null>("null", "").expect("a null device");
    null.resize(200).expect("resized");
    world.control(Action::CapacityChanged { bdev: "null".to_owned() });
    assert_eq!(ready(&mut world, &port, 0), None);
    assert_eq!(read(&mut world, 150), Some(CAPACITY_CHANGED));
    assert_eq!(read(&mut world, 150), None);
    let cdb = cdb::read_capacity16(32);
    world.run(&port, 1, &cdb, Data::In(&seg(&port, 0, 32)));
    assert_eq!(port.bytes(0, 8), 199u64.to_be_bytes());
}

#[test]
fn a_lost_medium_is_not_ready_and_its_return_is_told() {
    const NOT_READY: Code = (2, 0x04, 0);
    let (mut world, gate) = gated(&Options::cores(2));
    world.add(1, Arc::new(Gate::new("other", 16)));
    let ports = [world.ready(0, &Login::of(1), &[0, 1]), world.ready(1, &Login::of(2), &[0, 1])];
    let changed = |ready| Action::MediumChanged { bdev: "gate".to_owned(), ready };
    gate.lose(true);
    world.control(changed(false));
    for port in &ports {
        for cdb in
            [TUR.to_vec(), cdb::synchronize_cache10(0, 0).to_vec(), vec![0x1b, 0, 0, 0, 1, 0]]
        {
            let outcome = world.run(port, 0, &cdb, Data::None);
            assert_eq!(code(&outcome), Some(NOT_READY), "{cdb:02x?}");
        }
        for cdb in [&cdb::read10(0, 1)[..], &cdb::read_capacity16(32)[..]] {
            let outcome = world.run(port, 0, cdb, Data::In(&seg(port, 0, 512)));
            assert_eq!(code(&outcome), Some(NOT_READY), "{cdb:02x?}");
        }
        assert_eq!(request_sense(&mut world, port, 0), NOT_READY);
        assert_eq!(request_sense(&mut world, port, 1), (0, 0, 0));
        let inquiry = cdb::inquiry(None, 255);
        let outcome = world.run(port, 0, &inquiry, Data::In(&seg(port, 0, 255)));
        assert_eq!((code(&outcome), port.bytes(0, 1)), (None, vec![0]), "it keeps its LUN");
        assert_eq!(ready(&mut world, port, 1), None, "another one is not touched");
    }
    gate.lose(false);
    gate.resize(100);
    world.control(changed(true));
    world.control(Action::CapacityChanged { bdev: "gate".to_owned() });
    for port in &ports {
        assert_eq!(request_sense(&mut world, port, 0), (6, 0x28, 0));
        assert_eq!(ready(&mut world, port, 0), Some(CAPACITY_CHANGED));
        assert_eq!(request_sense(&mut world, port, 0), (0, 0, 0));
        assert_eq!(ready(&mut world, port, 0), None);
        assert_eq!(ready(&mut world, port, 1), None);
    }
    world.assert_home();
}

#[test]
fn clear_task_set_is_reported_to_others_and_a_reset_to_all() {
    let (mut world, _gate) = gated(&Options::cores(2));
    let mine = world.ready(0, &Login::of(1), &[0]);
    let other = world.ready(1, &Login::of(2), &[0]);
    let tag = mine.task(Tmf::ClearTaskSet as u8, 0, None);
    assert_eq!(world.wait(&mine, tag), End::Task(Some(0)));
    assert_eq!(ready(&mut world, &mine, 0), None);
    assert_eq!(ready(&mut world, &other, 0), Some(COMMANDS_CLEARED));
    assert_eq!(ready(&mut world, &other, 0), None);
    let tag = other.task(Tmf::LunReset as u8, 0, None);
    assert_eq!(world.wait(&other, tag), End::Task(Some(0)));
    for port in [&mine, &other] {
        assert_eq!(ready(&mut world, port, 0), Some(POWER_ON));
        assert_eq!(ready(&mut world, port, 0), None);
    }
}
