//! How channels, sessions, LUNs and targets end.

use std::time::Duration;

use reactor::Tag;
use srpt_tests::gate::Gate;
use srpt_tests::port::{End, Port};
use srpt_tests::world::{Login, Options, World};
use srpt_tgt::shard::coverage::{Mark, marked};
use srpt_tgt::shard::message::Action;
use transport::CloseReason;
use transport::initiator::{Data, Table, cdb};
use transport::srp::{OtherChannels, Tmf, encode_table};

use crate::common::{CHECK, GOOD, NO_LUN, TUR, code, gated, pattern, seg};

/// Commands of every kind, more than there are slots.
fn workload(port: &Port) -> Vec<Tag> {
    let segs: Vec<_> = (0..16).map(|n| seg(port, n * 1000, 512)[0]).collect();
    let mut encoded = [0; 256];
    encode_table(&segs, &mut encoded);
    port.memory_write(1 << 20, &encoded);
    let table = Table { memory: seg(port, 1 << 20, 256)[0], total_len: 8192, in_iu: &segs[..2] };
    let mut tags = Vec::new();
    for round in 0..3 {
        let lba = round * 64;
        tags.push(port.submit(0, &cdb::read10(lba, 16), Data::InTable(table)));
        tags.push(port.submit(0, &cdb::write10(lba, 16, false), Data::OutTable(table)));
        tags.push(port.submit(0, &cdb::write10(lba + 20, 1, true), Data::Out(&segs[..1])));
        tags.push(port.submit(0, &cdb::read10(lba, 2), Data::In(&segs[..2])));
        tags.push(port.submit(0, &cdb::compare_and_write(500, 1), Data::Out(&segs[..2])));
        tags.push(port.submit(0, &cdb::inquiry(Some(0x83), 200), Data::In(&segs[..1])));
        tags.push(port.submit(
            0,
            &cdb::write10(lba + 30, 2, false),
            Data::OutImmediate(&[7; 1024]),
        ));
        tags.push(port.submit(0, &TUR, Data::None));
    }
    tags
}

fn scan(seed: u64) -> (World, Gate, Port, Port) {
    let mut options = Options { seed, ..Options::cores(2) };
    options.limits.slots = 6;
    let (mut world, gate) = gated(&options);
    gate.random(seed, 10, 0);
    let port = world.ready(0, &Login::of(1), &[0]);
    let good = world.ready(0, &Login::of(2), &[0]);
    (world, gate, port, good)
}

/// Ends a channel after every number of steps of a fixed workload, another's commands unharmed.
fn at_every_moment(end: impl Fn(&mut World, &Port)) {
    at_every_moment_of(200, end);
}

fn at_every_moment_of(moments: u64, end: impl Fn(&mut World, &Port)) {
    for steps in 0..moments {
        let (mut world, _gate, port, good) = scan(steps);
        workload(&port);
        let tags = workload(&good);
        world.steps(steps as usize);
        end(&mut world, &port);
        world.until("the close", |_| port.closed());
        for tag in tags {
            assert!(matches!(world.wait(&good, tag), End::Answered(_)), "step {steps}");
        }
        assert_eq!(good.protocol_errors() + port.protocol_errors(), 0);
        world.assert_home();
        assert_eq!(world.net.connections(0), 1);
    }
}

#[test]
fn an_initiator_can_vanish_at_any_moment() {
    at_every_moment(|_, port| port.disconnect());
}

#[test]
fn an_initiator_can_vanish_while_its_only_data_is_fetched() {
    for steps in 0..40 {
        let (mut world, _gate, port, _good) = scan(steps);
        port.submit(0, &cdb::write10(0, 2, false), Data::Out(&seg(&port, 0, 1024)));
        world.steps(steps as usize);
        port.disconnect();
        world.until("the close", |_| port.closed());
        world.assert_home();
    }
}

#[test]
fn an_initiator_can_log_out_at_any_moment() {
    at_every_moment(|world, port| {
        port.logout();
        world.step();
    });
}

#[test]
fn a_session_can_be_ended_at_any_moment_and_is_told() {
    at_every_moment(|world, port| {
        let abort = port.credits() > 0 && world.steps % 3 == 0;
        if abort {
            port.task(Tmf::AbortTaskSet as u8, 0, None);
        }
        let reports = world.reports();
        let own = reports[0].channels.iter().find(|c| c.initiator_port_id[15] == 1);
        let session = own.expect("a session").session;
        world.control(Action::Disconnect { session });
        world.until("the end", |_| port.closed());
        assert!(port.inner().logout, "SRP_T_LOGOUT came");
    });
}

#[test]
fn an_initiator_can_vanish_at_any_moment_of_a_disconnect() {
    for steps in 0..60 {
        at_every_moment_of(10, |world, port| {
            let reports = world.reports();
            let own = reports[0].channels.iter().find(|c| c.initiator_port_id[15] == 1);
            let session = own.expect("a session").session;
            world.begin(Action::Disconnect { session });
            world.steps(steps);
            port.disconnect();
        });
    }
}

/// A session of three channels on two cores, of which the first has a read at the device, and
/// another session.
fn three_and_another() -> (World, Gate, [Port; 3], Port) {
    let (mut world, gate) = gated(&Options::cores(2));
    let first = world.ready(0, &Login::of(1), &[0]);
    let ports = [first, world.login(0, &Login::multi(1)), world.login(1, &Login::multi(1))];
    let other = world.ready(1, &Login::of(2), &[0]);
    gate.shut();
    read(&ports[0]);
    world.until("the read at the device", |_| gate.held() == 1);
    (world, gate, ports, other)
}

#[test]
fn channels_without_traffic_end_with_the_one_that_finds_their_initiator_gone() {
    let (mut world, gate, ports, other) = three_and_another();
    let asked = marked(Mark::Probed);
    ports.iter().for_each(Port::vanish);
    world.steps(1000);
    assert_eq!(world.closed(CloseReason::Link), 0, "nobody was told");
    gate.open();
    world.until("the end of all", |_| ports.iter().all(Port::is_released));
    assert_eq!(world.closed(CloseReason::Link), 3);
    assert!(!cfg!(debug_assertions) || marked(Mark::Probed) >= asked + 2);
    assert_eq!(world.run(&other, 0, &TUR, Data::None).status, GOOD);
    world.assert_home();
    // Nothing of the session is left: this is its first channel.
    let rsp = world.login(1, &Login::of(1)).inner().rsp;
    assert_eq!(rsp.other_channels, OtherChannels::None);
}

/// Nothing is in flight on any channel. More channels than are looked at in one turn.
#[test]
fn an_initiator_without_traffic_that_has_gone_is_noticed_and_the_others_stay() {
    let mut options = Options { connections: 150, ..Options::cores(2) };
    options.limits.probe_every = Duration::from_secs(1);
    let (mut world, _) = gated(&options);
    let mut login = |number: u64| world.ready(number as usize % 2, &Login::of(number), &[0]);
    let ports: Vec<_> = (0..140).map(&mut login).collect();
    let gone = [0, 1, 63, 64, 138, 139];
    gone.iter().for_each(|at| ports[*at].vanish());
    world.steps(1000);
    assert_eq!(world.closed(CloseReason::Link), 0, "nobody asked");
    world.clock.advance(Duration::from_secs(1));
    world.until("the end of those", |_| gone.iter().all(|at| ports[*at].is_released()));
    world.steps(1000);
    assert_eq!(world.closed(CloseReason::Link), gone.len() as u64);
    for (_, port) in ports.iter().enumerate().filter(|(at, _)| !gone.contains(at)) {
        assert_eq!(world.run(port, 0, &TUR, Data::None).status, GOOD);
        assert_eq!(port.protocol_errors(), 0);
    }
    world.assert_home();
    ports[2].vanish();
    world.clock.advance(Duration::from_secs(1));
    world.until("the end in the next round", |_| ports[2].is_released());
}

#[test]
fn channels_outlive_the_one_whose_path_has_died() {
    for vanished in 0..3 {
        let (mut world, gate, ports, other) = three_and_another();
        ports[vanished].vanish();
        gate.open();
        // One that has nothing in flight is not missed.
        let missed = vanished == 0;
        world.steps(2000);
        assert_eq!(world.closed(CloseReason::Link), u64::from(missed));
        for (at, port) in ports.iter().enumerate().filter(|(at, _)| *at != vanished) {
            assert!(!port.closed(), "channel {at} with {vanished} gone");
            assert_eq!(world.run(port, 0, &TUR, Data::None).status, GOOD);
            assert_eq!(port.protocol_errors(), 0);
        }
        assert_eq!(world.run(&other, 0, &TUR, Data::None).status, GOOD);
        world.assert_home();
    }
}

#[test]
fn what_runs_at_a_disconnect_is_answered_first() {
    let (mut world, gate) = gated(&Options::cores(2));
    let port = world.ready(0, &Login::of(1), &[0]);
    let second = world.login(1, &Login::multi(1));
    let other = world.ready(1, &Login::of(2), &[0]);
    gate.shut();
    port.memory_write(0, &pattern(2, 512));
    let write = port.submit(0, &cdb::write10(0, 1, false), Data::Out(&seg(&port, 0, 512)));
    world.until("the write at the device", |_| gate.held() == 1);
    let session = world.reports()[0].channels[0].session;
    world.control(Action::Disconnect { session });
    world.until("the idle channel to end", |_| second.closed());
    assert!(second.inner().logout);
    world.steps(100);
    assert!(!port.closed() && !port.inner().logout);
    gate.open();
    world.until("the end", |_| port.closed());
    assert!(matches!(port.end(write), Some(End::Answered(o)) if o.status == GOOD));
    assert!(port.inner().logout);
    assert_eq!(gate.medium(0, 1), pattern(2, 512));
    assert!(!other.closed());
    world.assert_home();
    assert_eq!(world.closed(CloseReason::Local), 2);
}

#[test]
fn a_function_that_runs_at_a_disconnect_is_answered_and_the_logout_comes_after_it() {
    let (mut world, gate) = gated(&Options::default());
    let port = world.ready(0, &Login::of(1), &[0]);
    gate.shut();
    port.submit(0, &cdb::read10(0, 1), Data::In(&seg(&port, 0, 512)));
    world.until("the read at the device", |_| gate.held() == 1);
    let task = port.task(Tmf::LunReset as u8, 0, None);
    world.steps(20);
    let session = world.reports()[0].channels[0].session;
    world.control(Action::Disconnect { session });
    gate.open();
    world.until("the end", |_| port.closed());
    assert_eq!(port.end(task), Some(End::Task(Some(0))));
    assert!(port.inner().logout);
    world.assert_home();
}

#[test]
fn patience_with_a_stuck_device_ends() {
    let (mut world, gate) = gated(&Options::default());
    let port = world.ready(0, &Login::of(1), &[0]);
    gate.shut();
    port.submit(0, &cdb::read10(0, 1), Data::In(&seg(&port, 0, 512)));
    world.until("the read at the device", |_| gate.held() == 1);
    let session = world.reports()[0].channels[0].session;
    world.control(Action::Disconnect { session });
    world.steps(100);
    assert!(!port.closed());
    world.clock.advance(std::time::Duration::from_secs(1));
    world.until("the end", |_| port.closed());
    gate.open();
    world.assert_home();
}

#[test]
fn a_target_is_deleted_under_load() {
    let (mut world, gate) = gated(&Options::cores(2));
    world.create_target("u");
    world.map("u", 0, "gate");
    let ports = [world.ready(0, &Login::of(1), &[0]), world.ready(1, &Login::of(2), &[0])];
    let elsewhere = world.ready(1, &Login::of(1).to("u"), &[0]);
    gate.random(1, 30, 0);
    ports.iter().for_each(|port| drop(workload(port)));
    let other = workload(&elsewhere);
    world.steps(20);
    let token = world.begin(Action::DeleteTarget { target: "t".to_owned() });
    world.until("the deletion", |world| world.answered(token));
    assert!(ports.iter().all(|port| port.closed() && port.inner().logout));
    assert!(ports.iter().all(|port| port.protocol_errors() == 0));
    assert!(world.try_login(0, &Login::of(1)).is_err());
    for tag in other {
        world.wait(&elsewhere, tag);
    }
    world.assert_home();
    world.control(Action::DeleteTarget { target: "t".to_owned() });
    world.create_target("t");
    world.map("t", 0, "gate");
    assert_eq!(code(&world.run(&elsewhere, 0, &TUR, Data::None)), None);
    world.ready(0, &Login::of(1), &[0]);
}

#[test]
fn a_lun_goes_when_its_last_command_has_ended() {
    let (mut world, gate) = gated(&Options::cores(2));
    let ports = [world.ready(0, &Login::of(1), &[0]), world.ready(1, &Login::of(2), &[0])];
    gate.shut();
    let tags: Vec<_> = ports.iter().map(read).collect();
    world.until("both at the device", |_| gate.held() == 2);
    let token = world.begin(Action::UnmapLun { target: "t".to_owned(), lun: 0 });
    world.steps(100);
    for port in &ports {
        assert_eq!(code(&world.run(port, 0, &TUR, Data::None)), Some(NO_LUN));
        let data = Data::In(&seg(port, 0, 96));
        assert_eq!(world.run(port, 0, &cdb::inquiry(None, 96), data).status, GOOD);
        assert_eq!(port.bytes(0, 1), [0x3f], "LUN 0 always answers");
    }
    let number = gate.seen().len() - 1;
    gate.release(number);
    world.steps(100);
    assert!(!world.answered(token), "one core still has a command");
    gate.open();
    world.until("the answer", |world| world.answered(token));
    for (port, tag) in ports.iter().zip(tags) {
        assert!(matches!(world.wait(port, tag), End::Answered(o) if o.status == GOOD));
    }
    world.assert_home();
    // The same device under the same number again, while old commands run to nothing.
    world.map("t", 0, "gate");
    let outcome = world.run(&ports[0], 0, &TUR, Data::None);
    assert_eq!(outcome.status, CHECK);
    assert_eq!(world.run(&ports[0], 0, &TUR, Data::None).status, GOOD);
}

fn read(port: &Port) -> Tag {
    port.submit(0, &cdb::read10(0, 1), Data::In(&seg(port, 0, 512)))
}

#[test]
fn an_unmap_that_is_asked_for_again_waits_like_the_first() {
    let (mut world, gate) = gated(&Options::cores(2));
    let port = world.ready(0, &Login::of(1), &[0]);
    gate.shut();
    let tag = read(&port);
    world.until("the read at the device", |_| gate.held() == 1);
    let unmap = || Action::UnmapLun { target: "t".to_owned(), lun: 0 };
    let tokens = [world.begin(unmap()), world.begin(unmap())];
    world.steps(100);
    assert!(!tokens.iter().any(|token| world.answered(*token)), "the device still works");
    gate.open();
    world.until("both answers", |world| tokens.iter().all(|token| world.answered(*token)));
    assert!(matches!(world.wait(&port, tag), End::Answered(o) if o.status == GOOD));
    let bdev = world.bdevs.find("gate").expect("there");
    world.control(Action::CloseBdev { bdev });
    assert!(world.reports().iter().all(|report| report.bdevs.is_empty()));
}

#[test]
fn a_deletion_that_is_asked_for_again_is_answered_with_the_first() {
    let (mut world, gate) = gated(&Options::cores(2));
    let port = world.ready(0, &Login::of(1), &[0]);
    gate.shut();
    read(&port);
    world.until("the read at the device", |_| gate.held() == 1);
    let delete = || Action::DeleteTarget { target: "t".to_owned() };
    let tokens = [world.begin(delete()), world.begin(delete())];
    world.steps(100);
    assert!(!tokens.iter().any(|token| world.answered(*token)), "the channel still lives");
    gate.open();
    world.until("both answers", |world| tokens.iter().all(|token| world.answered(*token)));
    assert!(port.closed());
    world.create_target("t");
    world.map("t", 0, "gate");
    world.ready(0, &Login::of(1), &[0]);
}

#[test]
fn luns_come_and_go_under_load() {
    let (mut world, gate, port, good) = scan(3);
    gate.random(4, 20, 0);
    for _ in 0..20 {
        let mut tags = workload(&port).into_iter().map(|tag| (&port, tag)).collect::<Vec<_>>();
        tags.extend(workload(&good).into_iter().map(|tag| (&good, tag)));
        world.steps(7);
        world.unmap("t", 0);
        world.map("t", 0, "gate");
        for (port, tag) in tags {
            assert!(matches!(world.wait(port, tag), End::Answered(_)));
        }
        port.forget_ends();
        good.forget_ends();
    }
    world.unmap("t", 0);
    let bdev = world.bdevs.find("gate").expect("there");
    world.control(Action::CloseBdev { bdev });
    assert!(world.reports().iter().all(|report| report.bdevs.is_empty()));
    world.assert_home();
}

#[test]
fn a_shutdown_under_load_ends() {
    for seed in 0..20 {
        let (mut world, gate, port, good) = scan(seed);
        let far = world.ready(1, &Login::of(3), &[0]);
        gate.random(seed, 40, 0);
        let tags = workload(&port);
        workload(&good);
        workload(&far);
        world.steps(seed as usize * 3);
        world.shut_down();
        for port in [&port, &good, &far] {
            world.until("the close", |_| port.closed());
            assert!(port.inner().logout, "seed {seed}");
            assert_eq!(port.protocol_errors(), 0);
        }
        // Only what waited for a slot was dropped.
        let answered = tags.iter().filter(|tag| port.end(**tag).is_some()).count();
        assert!(answered > 0 || seed < 5, "seed {seed}: nothing was answered");
        assert_eq!(gate.held(), 0);
    }
}

/// The core without channels has nothing left at once, but the other one still asks it.
#[test]
fn a_function_that_began_before_a_shutdown_ends_on_every_core() {
    let (mut world, gate) = gated(&Options::cores(2));
    let port = world.ready(1, &Login::of(1), &[0]);
    gate.shut();
    let stuck = read(&port);
    world.until("the read at the device", |_| gate.held() == 1);
    let token = world.begin_in_turn(Action::Shutdown, |world, core| {
        if core == 0 {
            world.steps(10);
            port.abort(0, stuck);
            world.steps(10);
        }
    });
    gate.open();
    world.until("the answers of both", |world| world.answered(token));
    assert!(port.closed());
    world.end();
}

/// What a core was told while it was silent: a map, its undoing and the closing, all at once, with
/// commands that came between the first two.
#[test]
fn a_channel_that_is_closed_while_commands_use_it_is_gone_with_the_last() {
    let open = |world: &mut World| {
        let devices = world.control(Action::Report).remove(0).bdevs;
        devices.iter().any(|(name, _)| name == "late")
    };
    for mapped_again in [false, true] {
        let (mut world, _gate, port) = crate::common::single();
        let late = Gate::new("late", 64);
        world.add(1, std::sync::Arc::new(late.clone()));
        while world.run(&port, 1, &TUR, Data::None).status != GOOD {}
        late.shut();
        let read = port.submit(1, &cdb::read10(0, 1), Data::In(&seg(&port, 0, 512)));
        world.until("the read is with the device", |_| late.held() == 1);
        let unmap = world.begin(Action::UnmapLun { target: "t".into(), lun: 1 });
        world.control(Action::CloseBdev { bdev: world.device("late") });
        assert!(open(&mut world) && !world.answered(unmap));
        if mapped_again {
            world.map("t", 2, "late");
        }
        late.open();
        assert!(matches!(world.wait(&port, read), End::Answered(_)));
        world.until("the answer", |world| world.answered(unmap));
        assert_eq!(open(&mut world), mapped_again, "closed, unless it is wanted again");
        if mapped_again {
            while world.run(&port, 2, &TUR, Data::None).status != GOOD {}
            let again = world.run(&port, 2, &cdb::read10(0, 1), Data::In(&seg(&port, 0, 512)));
            assert_eq!(again.status, GOOD);
        }
        world.assert_home();
    }
}
