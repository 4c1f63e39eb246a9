//! Another logical unit comes under a LUN that sessions know.

use std::sync::Arc;

use bdev::malloc::MallocOptions;
use bdev::{IoOp, ScsiEnd};
use srpt_tests::gate::Gate;
use srpt_tests::port::{Code, End, Port};
use srpt_tests::scripted::Scripted;
use srpt_tests::world::{Login, Options, World};
use srpt_tgt::shard::message::Action;
use srpt_tgt::shard::names::UnitId;
use srpt_tgt::shard::qos::rate::RateLimits;
use srpt_tgt::shard::unit::LogicalUnit;
use transport::initiator::{Data, cdb};
use transport::srp::{Tmf, response_code};

use crate::common::{NO_LUN, POWER_ON, TUR, code, pattern, seg};

const LUN: u16 = 3;
const LUNS_CHANGED: Code = (6, 0x3f, 0x0e);

/// A world whose LUN 3 is gate "a", beside LUN 0.
fn world(options: &Options) -> World {
    let mut world = World::new(options);
    world.add(0, Arc::new(Gate::new("zero", 64)));
    world.add(LUN, Arc::new(Gate::new("a", 64)));
    world
}

/// Takes the LUN away and gives it to another device.
fn replace(world: &mut World, with: &Gate) {
    world.unmap("t", LUN);
    world.add(LUN, Arc::new(with.clone()));
}

/// The unit attentions of a changed map are reported first.
fn hear(world: &mut World, port: &Port) {
    let outcome = world.run(port, LUN, &TUR, Data::None);
    assert_eq!(code(&outcome), Some(LUNS_CHANGED));
}

fn read(world: &mut World, port: &Port) -> Option<Code> {
    code(&world.run(port, LUN, &cdb::read10(0, 1), Data::In(&seg(port, 0, 512))))
}

fn inquire(world: &mut World, port: &Port, page: Option<u8>) {
    let outcome = world.run(port, LUN, &cdb::inquiry(page, 255), Data::In(&seg(port, 0, 255)));
    assert_eq!(code(&outcome), None);
}

/// Each form of command that touches the unit, on its shortest way.
fn assert_refused(world: &mut World, port: &Port) {
    let data = pattern(1, 512);
    port.memory_write(0, &data);
    let memory = seg(port, 0, 512);
    let commands: [(&[u8], Data<'_>); 11] = [
        (&cdb::read10(0, 1), Data::In(&memory)),
        (&cdb::read16(0, 1), Data::In(&memory)),
        (&[0x08, 0, 0, 0, 1, 0], Data::In(&memory)),
        (&cdb::write10(0, 1, false), Data::Out(&memory)),
        (&cdb::write10(0, 1, false), Data::OutImmediate(&data)),
        (&cdb::write_same16(0, 1, false), Data::Out(&memory)),
        (&cdb::unmap(24), Data::Out(&seg(port, 0, 24))),
        (&cdb::synchronize_cache10(0, 0), Data::None),
        (&TUR, Data::None),
        (&cdb::read_capacity16(32), Data::In(&seg(port, 0, 32))),
        (&[0x1a, 0, 0x3f, 0, 64, 0], Data::In(&seg(port, 0, 64))),
    ];
    for (cdb, data) in commands {
        let outcome = world.run(port, LUN, cdb, data);
        assert_eq!(code(&outcome), Some(NO_LUN), "{cdb:02x?}");
    }
    assert_eq!(port.bytes(0, 512), data, "nothing was read");
}

#[test]
fn a_session_that_knew_another_unit_must_ask_who_is_there() {
    let mut world = world(&Options::cores(2));
    let first = world.ready(0, &Login::multi(1), &[0, LUN]);
    let second = world.login(1, &Login::multi(1));
    let b = Gate::new("b", 64);
    replace(&mut world, &b);
    hear(&mut world, &first);
    for port in [&first, &second] {
        assert_refused(&mut world, port);
    }
    let sense = world.run(&first, LUN, &[0x03, 0, 0, 0, 18, 0], Data::In(&seg(&first, 0, 18)));
    assert_eq!(code(&sense), None, "REQUEST SENSE is answered");
    assert_refused(&mut world, &first);
    assert!(b.seen().is_empty(), "nothing reached the device: {:?}", b.seen());
    inquire(&mut world, &second, None);
    for port in [&first, &second] {
        assert_eq!(read(&mut world, port), None);
    }
    assert_eq!(b.seen().len(), 2);
    world.assert_home();
}

#[test]
fn each_way_of_asking_is_enough() {
    let mut world = world(&Options::default());
    let port = world.ready(0, &Login::of(1), &[0, LUN]);
    let ask = |world: &mut World, way: usize| match way {
        0 => inquire(world, &port, None),
        1 => inquire(world, &port, Some(0x83)),
        2 => inquire(world, &port, Some(0)),
        _ => {
            let luns = cdb::report_luns(64);
            // Of any LUN: it tells of all.
            world.run(&port, 0, &luns, Data::In(&seg(&port, 0, 64)));
        }
    };
    for way in 0..4 {
        replace(&mut world, &Gate::new(&format!("other{way}"), 64));
        hear(&mut world, &port);
        assert_eq!(read(&mut world, &port), Some(NO_LUN));
        ask(&mut world, way);
        assert_eq!(read(&mut world, &port), None, "{way}");
    }
}

#[test]
fn what_tells_nothing_of_the_unit_is_not_enough() {
    let mut world = world(&Options::default());
    let port = world.ready(0, &Login::of(1), &[0, LUN]);
    world.unmap("t", LUN);
    // Asked while nothing is there: another one comes later.
    inquire(&mut world, &port, None);
    world.run(&port, 0, &cdb::report_luns(64), Data::In(&seg(&port, 0, 64)));
    world.add(LUN, Arc::new(Gate::new("b", 64)));
    hear(&mut world, &port);
    let memory = seg(&port, 0, 255);
    for (lun, cdb) in [
        (LUN, &cdb::inquiry(Some(0xc0), 255)[..]),
        (0, &cdb::inquiry(None, 255)[..]),
        (0, &[0xa0, 0, 1, 0, 0, 0, 0, 0, 0, 64, 0, 0][..]),
    ] {
        world.run(&port, lun, cdb, Data::In(&memory));
        assert_eq!(read(&mut world, &port), Some(NO_LUN), "{cdb:02x?}");
    }
}

#[test]
fn the_unit_that_a_session_knows_may_come_back() {
    let mut world = world(&Options::cores(2));
    let port = world.ready(1, &Login::of(1), &[0, LUN]);
    world.unmap("t", LUN);
    world.map("t", LUN, "a");
    hear(&mut world, &port);
    assert_eq!(read(&mut world, &port), None);
    replace(&mut world, &Gate::new("b", 64));
    world.unmap("t", LUN);
    // A copy that has the names of "a".
    let identity = world.unit("a").identity.clone();
    let copy = LogicalUnit::new(UnitId::new(77), Arc::new(Gate::new("copy", 64)), identity);
    let (target, lu) = ("t".to_owned(), Arc::new(copy));
    let announced = Arc::clone(&lu);
    world.control(Action::AnnounceLun { target: target.clone(), lun: LUN, lu: announced });
    world.control(Action::MapLun { target: target.clone(), lun: LUN, lu, read_only: false });
    world.control(Action::LunsChanged { target });
    hear(&mut world, &port);
    assert_eq!(read(&mut world, &port), None);
}

#[test]
fn who_has_never_seen_the_other_unit_need_not_ask() {
    let mut world = world(&Options::cores(2));
    world.unmap("t", LUN);
    let between = world.ready(0, &Login::of(1), &[0]);
    world.add(LUN, Arc::new(Gate::new("b", 64)));
    let after = world.login(1, &Login::of(2));
    for port in [&between, &after] {
        assert_eq!(read(&mut world, port), Some(POWER_ON));
        while code(&world.run(port, LUN, &TUR, Data::None)).is_some_and(|code| code.0 == 6) {}
        assert_eq!(read(&mut world, port), None);
    }
}

#[test]
fn a_new_login_of_the_same_port_does_not_know_more() {
    let mut world = world(&Options::cores(2));
    let takes_over = world.ready(0, &Login::of(1), &[0, LUN]);
    let comes_back = world.ready(0, &Login::of(2), &[0, LUN]);
    comes_back.disconnect();
    drop(comes_back);
    world.steps(50);
    replace(&mut world, &Gate::new("b", 64));
    for login in [Login::of(1), Login::of(2)] {
        let port = world.login(1, &login);
        assert_eq!(read(&mut world, &port), Some(POWER_ON));
        assert_refused(&mut world, &port);
        inquire(&mut world, &port, None);
        assert_eq!(read(&mut world, &port), None);
    }
    drop(takes_over);
}

#[test]
fn another_target_of_the_same_guid_is_the_same_to_initiators() {
    let mut world = world(&Options::default());
    let port = world.ready(0, &Login::of(1), &[0, LUN]);
    world.control(Action::UnmapLun { target: "t".to_owned(), lun: LUN });
    world.control(Action::DeleteTarget { target: "t".to_owned() });
    drop(port);
    world.create_target("t");
    world.add(LUN, Arc::new(Gate::new("b", 64)));
    let port = world.login(0, &Login::of(1));
    assert_eq!(read(&mut world, &port), Some(POWER_ON));
    assert_eq!(read(&mut world, &port), Some(NO_LUN));
}

#[test]
fn commands_done_at_once_are_refused_too() {
    let mut world = World::new(&Options { lends: true, delay_ns_max: 0, ..Options::default() });
    for name in ["a", "b"] {
        let name = Some(name.to_owned());
        let memory = MallocOptions { name, num_blocks: 64, block_size: 512, ..Default::default() };
        world.bdevs.create(memory).expect("memory");
    }
    world.map("t", LUN, "a");
    let port = world.ready(0, &Login::of(1), &[LUN]);
    assert_eq!(read(&mut world, &port), None);
    world.unmap("t", LUN);
    world.map("t", LUN, "b");
    hear(&mut world, &port);
    assert_refused(&mut world, &port);
    inquire(&mut world, &port, None);
    assert_eq!(read(&mut world, &port), None);
    assert_eq!(port.bytes(0, 512), [0; 512], "no write came there");
}

#[test]
fn what_waits_for_a_limit_meets_the_other_unit_unasked() {
    let mut world = world(&Options::default());
    let port = world.ready(0, &Login::of(1), &[0, LUN]);
    let slow = RateLimits { rw_ios: 10_000, ..RateLimits::default() };
    world.limit("a", slow);
    let tags: Vec<_> = (0..8)
        .map(|at| port.submit(LUN, &cdb::write10(at, 1, false), Data::Out(&seg(&port, 0, 512))))
        .collect();
    world.steps(4);
    let b = Gate::new("b", 64);
    let announce = |world: &mut World| {
        let (target, lu) = ("t".to_owned(), world.unit("b"));
        let announced = Arc::clone(&lu);
        world.begin(Action::AnnounceLun { target: target.clone(), lun: LUN, lu: announced });
        world.begin(Action::MapLun { target, lun: LUN, lu, read_only: false })
    };
    world.bdevs.insert(Arc::new(b.clone())).expect("new");
    // All in one turn of the core.
    world.begin(Action::UnmapLun { target: "t".to_owned(), lun: LUN });
    let mapped = announce(&mut world);
    world.until("mapped", |world| world.answered(mapped));
    let mut refused = 0;
    for tag in tags {
        match world.wait(&port, tag) {
            End::Answered(outcome) => refused += u32::from(code(&outcome) == Some(NO_LUN)),
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 0);
    assert!(b.seen().is_empty(), "{:?}", b.seen());
}

#[test]
fn a_passed_through_device_hears_nothing_before_inquiry() {
    let mut world = World::new(&Options::default());
    let (first, second) = (Scripted::new("first", 1), Scripted::new("second", 1));
    world.add(LUN, Arc::new(first));
    let port = world.ready(0, &Login::of(1), &[LUN]);
    world.unmap("t", LUN);
    world.add(LUN, Arc::new(second.clone()));
    hear(&mut world, &port);
    let rewind = [0x01, 0, 0, 0, 0, 0];
    for cdb in [TUR, rewind, [0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]] {
        assert_eq!(code(&world.run(&port, LUN, &cdb, Data::None)), Some(NO_LUN), "{cdb:02x?}");
    }
    world.run(&port, LUN, &[0x03, 0, 0, 0, 18, 0], Data::In(&seg(&port, 0, 18)));
    let tag = port.task(Tmf::LunReset as u8, LUN, None);
    assert_eq!(world.wait(&port, tag), End::Task(Some(response_code::FAILED)));
    assert!(second.seen().is_empty(), "{:?}", second.seen());
    // An INQUIRY that the device refuses tells nothing.
    let inquiry = cdb::inquiry(Some(0xc0), 96);
    let sense = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0, 0, 0];
    second.answer(ScsiEnd::check(&sense, 96), &[]);
    world.run(&port, LUN, &inquiry, Data::In(&seg(&port, 0, 96)));
    assert_eq!(code(&world.run(&port, LUN, &rewind, Data::None)), Some(NO_LUN));
    for page in [None, Some(0x83)] {
        second.answer(ScsiEnd::GOOD, &[1; 96]);
        inquire(&mut world, &port, page);
        assert_eq!(code(&world.run(&port, LUN, &rewind, Data::None)), None);
    }
}

#[test]
fn a_command_that_runs_ends_on_the_unit_that_it_was_for() {
    let mut world = World::new(&Options::default());
    let a = Gate::new("a", 64);
    world.add(LUN, Arc::new(a.clone()));
    let port = world.ready(0, &Login::of(1), &[LUN]);
    a.shut();
    let tag = port.submit(LUN, &cdb::write10(0, 1, false), Data::Out(&seg(&port, 0, 512)));
    world.until("at the device", |_| a.held() == 1);
    let token = world.begin(Action::UnmapLun { target: "t".to_owned(), lun: LUN });
    world.steps(20);
    assert!(!world.answered(token), "the control plane waits before it maps another one");
    a.open();
    assert!(matches!(world.wait(&port, tag), End::Answered(outcome) if outcome.status == 0));
    world.until("unmapped", |world| world.answered(token));
    assert!(matches!(a.seen()[..], [IoOp::Write { .. }]));
}
