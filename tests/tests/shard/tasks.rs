//! Task management.

use reactor::Tag;
use srpt_tests::gate::Gate;
use srpt_tests::port::{End, Port};
use srpt_tests::world::{Login, Options, World};
use std::sync::Arc;
use transport::initiator::{Data, cdb};
use transport::srp::Tmf;

use crate::common::{GOOD, TUR, gated, pattern, seg, single};

const SUCCESS: End = End::Task(Some(0x00));
const NOT_SUPPORTED: End = End::Task(Some(0x04));
const FAILED: End = End::Task(Some(0x05));

fn read(port: &Port, lun: u16) -> Tag {
    port.submit(lun, &cdb::read10(0, 1), Data::In(&seg(port, 0, 512)))
}

fn write(port: &Port, lba: u32) -> Tag {
    port.memory_write(0, &pattern(1, 512));
    port.submit(0, &cdb::write10(lba, 1, false), Data::Out(&seg(port, 0, 512)))
}

/// All credits are back, and nothing was answered twice or out of turn.
fn settled(world: &mut World, ports: &[&Port]) {
    world.assert_home();
    for port in ports {
        world.until("the credits", |_| port.credits() == port.credits_at_login());
        assert_eq!((port.in_flight(), port.protocol_errors()), (0, 0));
    }
}

#[test]
fn abort_of_an_executing_command_waits_for_the_device() {
    let (mut world, gate, port) = single();
    gate.shut();
    let stuck = write(&port, 4);
    world.until("the write at the device", |_| gate.held() == 1);
    let number = gate.seen().len() - 1;
    let other = read(&port, 0);
    world.until("the read at the device", |_| gate.held() == 2);
    let abort = port.abort(0, stuck);
    world.steps(500);
    assert_eq!(port.end(abort), None, "the write can still change data");
    gate.release(number);
    assert_eq!(world.wait(&port, abort), SUCCESS);
    assert_eq!(gate.medium(4, 1), pattern(1, 512));
    assert_eq!(port.end(stuck), Some(End::Aborted));
    assert_eq!(port.end(other), None, "only the one");
    gate.open();
    assert!(matches!(world.wait(&port, other), End::Answered(_)));
    settled(&mut world, &[&port]);
}

#[test]
fn abort_reaches_a_command_in_every_phase() {
    // From before it arrives to after it was answered.
    let (mut waiting, mut taken, mut late) = (0, 0, 0);
    for steps in 0..30 {
        let (mut world, gate) = gated(&Options { delay_ns_max: 3000, ..Options::default() });
        let port = world.ready(0, &Login::of(1), &[0]);
        gate.random(steps, 3, 0);
        let segs: Vec<_> = (0..4).map(|n| seg(&port, n * 2000, 256)[0]).collect();
        let mut bytes = [0; 64];
        transport::srp::encode_table(&segs, &mut bytes);
        port.memory_write(65536, &bytes);
        let [memory] = seg(&port, 65536, 64);
        let table = transport::initiator::Table { memory, total_len: 1024, in_iu: &[] };
        let cmd = port.submit(0, &cdb::write10(0, 2, false), Data::OutTable(table));
        world.steps(steps as usize);
        let seen = gate.seen().len();
        let abort = port.abort(0, cmd);
        assert_eq!(world.wait(&port, abort), SUCCESS);
        match port.end(cmd).expect("ended, one way or the other") {
            End::Aborted if gate.seen().len() == seen => waiting += 1,
            End::Aborted => taken += 1,
            End::Answered(outcome) => {
                assert_eq!(outcome.status, GOOD);
                late += 1;
            }
            End::Task(_) => unreachable!(),
        }
        settled(&mut world, &[&port]);
    }
    assert!(waiting > 0 && late > 0, "{waiting} {taken} {late}");
}

#[test]
fn abort_takes_the_command_of_its_own_channel_before_a_namesake() {
    let (mut world, gate) = gated(&Options::cores(2));
    let first = world.ready(0, &Login::of(1), &[0]);
    let second = world.login(1, &Login::multi(1));
    // Tags are numbered per channel: bring both to the same number.
    let last = first.submit(0, &TUR, Data::None);
    world.wait(&first, last);
    for _ in 0..100 {
        let tag = second.submit(0, &TUR, Data::None);
        world.wait(&second, tag);
        if tag == last {
            break;
        }
    }
    gate.shut();
    let (here, there) = (read(&first, 0), read(&second, 0));
    assert_eq!(here, there, "namesakes on two channels");
    world.until("both at the device", |_| gate.held() == 2);
    let abort = first.abort(0, here);
    world.steps(50);
    gate.open();
    assert_eq!(world.wait(&first, abort), SUCCESS);
    assert_eq!(first.end(here), Some(End::Aborted));
    assert!(matches!(world.wait(&second, there), End::Answered(outcome) if outcome.status == GOOD));
    settled(&mut world, &[&first, &second]);
}

/// A tag names a command together with its LUN: that of a command which was answered already is
/// not taken for the namesake of another channel.
#[test]
fn abort_of_an_answered_command_spares_its_namesake_at_another_lun() {
    let (mut world, gate) = gated(&Options::cores(2));
    world.add(1, Arc::new(Gate::new("other", 64)));
    let first = world.ready(0, &Login::of(1), &[0, 1]);
    let second = world.login(1, &Login::multi(1));
    // Tags are numbered per channel: bring the next one of the second channel to that number.
    let mut answered = Tag::new(0, 0);
    for _ in 0..20 {
        answered = first.submit(1, &TUR, Data::None);
        world.wait(&first, answered);
    }
    for _ in 0..100 {
        let tag = second.submit(0, &TUR, Data::None);
        world.wait(&second, tag);
        if tag.generation() + 1 == answered.generation() {
            break;
        }
    }
    gate.shut();
    let namesake = read(&second, 0);
    assert_eq!(namesake, answered, "namesakes on two channels");
    world.until("at the device", |_| gate.held() == 1);
    for lun in [1, 2] {
        let abort = first.abort(lun, answered);
        assert_eq!(world.wait(&first, abort), SUCCESS);
        world.steps(100);
    }
    gate.open();
    assert!(
        matches!(world.wait(&second, namesake), End::Answered(outcome) if outcome.status == GOOD)
    );
    settled(&mut world, &[&first, &second]);
}

#[test]
fn abort_of_a_waiting_command_needs_no_device() {
    let mut options = Options::tight(1, &[(4096, 4), (1 << 20, 3)]);
    options.delay_ns_max = 0;
    let (mut world, gate) = gated(&options);
    let port = world.ready(0, &Login::of(1), &[0]);
    gate.shut();
    let first = read(&port, 0);
    world.until("the first at the device", |_| gate.held() == 1);
    let second = read(&port, 0);
    let third = read(&port, 0);
    world.steps(5);
    let abort = port.abort(0, second);
    assert_eq!(world.wait(&port, abort), SUCCESS);
    assert_eq!((port.end(first), port.end(second)), (None, Some(End::Aborted)));
    gate.open();
    for tag in [first, third] {
        assert!(matches!(world.wait(&port, tag), End::Answered(outcome) if outcome.status == GOOD));
    }
    assert_eq!(gate.seen().len(), 2);
    settled(&mut world, &[&port]);
}

#[test]
fn abort_of_an_unknown_command_succeeds() {
    let (mut world, _gate, port) = single();
    let done = port.submit(0, &TUR, Data::None);
    world.wait(&port, done);
    for task in [done, Tag::new(77, 7)] {
        let abort = port.abort(0, task);
        assert_eq!(world.wait(&port, abort), SUCCESS);
    }
    settled(&mut world, &[&port]);
}

#[test]
fn a_command_is_aborted_through_its_own_session_only() {
    let (mut world, gate) = gated(&Options::cores(2));
    let mine = world.ready(0, &Login::of(1), &[0]);
    let second = world.login(1, &Login::multi(1));
    let other = world.ready(1, &Login::of(2), &[0]);
    gate.shut();
    let stuck = write(&mine, 0);
    world.until("the write at the device", |_| gate.held() == 1);
    let abort = other.abort(0, stuck);
    assert_eq!(world.wait(&other, abort), SUCCESS, "unknown to that session");
    let abort = second.abort(0, stuck);
    world.steps(200);
    assert_eq!(second.end(abort), None, "known on the other channel");
    gate.open();
    assert_eq!(world.wait(&second, abort), SUCCESS);
    assert_eq!(mine.end(stuck), None, "never answered");
    world.until("the credit by SRP_CRED_REQ", |_| mine.credits() == mine.credits_at_login());
    let abort = mine.abort(0, stuck);
    assert_eq!(world.wait(&mine, abort), SUCCESS);
    settled(&mut world, &[&mine, &second, &other]);
}

/// Runs a function with commands of two sessions on two LUNs at the devices; returns which of
/// mine on LUN 0, mine on the other channel, mine on LUN 1 and the other session's were answered.
fn sweep(function: Tmf) -> [bool; 4] {
    let (mut world, gate) = gated(&Options::cores(2));
    let elsewhere = Gate::new("elsewhere", 64);
    world.add(1, Arc::new(elsewhere.clone()));
    let mine = world.ready(0, &Login::of(1), &[0, 1]);
    let second = world.login(1, &Login::multi(1));
    let other = world.ready(1, &Login::of(2), &[0, 1]);
    gate.shut();
    elsewhere.shut();
    let tags = [write(&mine, 1), write(&second, 2), read(&mine, 1), write(&other, 3)];
    let owners = [&mine, &second, &mine, &other];
    world.until("all at the devices", |_| gate.held() == 3 && elsewhere.held() == 1);
    let task = mine.task(function as u8, 0, None);
    world.steps(500);
    assert_eq!(mine.end(task), None, "commands can still change data");
    let first = gate.seen().len() - 3;
    for number in first..first + 3 {
        assert_eq!(mine.end(task), None, "{function:?} after {} of 3", number - first);
        gate.release(number);
        world.steps(100);
    }
    assert_eq!(world.wait(&mine, task), SUCCESS);
    elsewhere.open();
    world.steps(200);
    let answered = [0, 1, 2, 3].map(|n| matches!(owners[n].end(tags[n]), Some(End::Answered(_))));
    for port in owners {
        world.until("the credits", |_| port.credits() == port.credits_at_login());
        assert_eq!(port.protocol_errors(), 0);
    }
    world.assert_home();
    answered
}

#[test]
fn abort_task_set_ends_the_sessions_commands_to_the_unit() {
    assert_eq!(sweep_own(), [false, false, true, true]);
}

/// ABORT TASK SET waits for two of the three commands only.
fn sweep_own() -> [bool; 4] {
    let (mut world, gate) = gated(&Options::cores(2));
    let elsewhere = Gate::new("elsewhere", 64);
    world.add(1, Arc::new(elsewhere.clone()));
    let mine = world.ready(0, &Login::of(1), &[0, 1]);
    let second = world.login(1, &Login::multi(1));
    let other = world.ready(1, &Login::of(2), &[0, 1]);
    gate.shut();
    elsewhere.shut();
    let mut tags = vec![(&mine, write(&mine, 1))];
    world.until("the first", |_| gate.held() == 1);
    tags.push((&second, write(&second, 2)));
    world.until("the second", |_| gate.held() == 2);
    tags.push((&mine, read(&mine, 1)));
    tags.push((&other, write(&other, 3)));
    world.until("all at the devices", |_| gate.held() == 3 && elsewhere.held() == 1);
    let task = mine.task(Tmf::AbortTaskSet as u8, 0, None);
    world.steps(200);
    let first = gate.seen().len() - 3;
    gate.release(first);
    world.steps(200);
    assert_eq!(mine.end(task), None, "the other channel's write is at the device");
    gate.release(first + 1);
    assert_eq!(world.wait(&mine, task), SUCCESS);
    assert_eq!(gate.held(), 1, "the other session's command is left alone");
    gate.open();
    elsewhere.open();
    world.steps(200);
    for (port, _) in &tags {
        world.until("the credits", |_| port.credits() == port.credits_at_login());
        assert_eq!(port.protocol_errors(), 0);
    }
    world.assert_home();
    [0, 1, 2, 3].map(|n| matches!(tags[n].0.end(tags[n].1), Some(End::Answered(_))))
}

#[test]
fn clear_task_set_and_reset_end_everybodys_commands_to_the_unit() {
    assert_eq!(sweep(Tmf::ClearTaskSet), [false, false, true, false]);
    assert_eq!(sweep(Tmf::LunReset), [false, false, true, false]);
}

#[test]
fn functions_and_units_that_do_not_exist_are_named_as_such() {
    let (mut world, _gate, port) = single();
    for (function, lun, expected) in [
        (0x00, 0, NOT_SUPPORTED),
        (0x40, 0, NOT_SUPPORTED),
        (0x10, 0, NOT_SUPPORTED),
        (0xff, 9, NOT_SUPPORTED),
        (Tmf::LunReset as u8, 9, FAILED),
        (Tmf::ClearTaskSet as u8, 9, FAILED),
        (Tmf::AbortTaskSet as u8, 300, FAILED),
        (Tmf::LunReset as u8, 0, SUCCESS),
    ] {
        let task = port.task(function, lun, None);
        assert_eq!(world.wait(&port, task), expected, "{function:#x} at {lun}");
    }
    settled(&mut world, &[&port]);
}

#[test]
fn more_functions_than_there_is_room_for_are_all_carried_out() {
    let mut options = Options { mailbox: 8, ..Options::cores(2) };
    options.limits.credits = 128;
    let (mut world, gate) = gated(&options);
    let ports = [world.ready(0, &Login::of(1), &[0]), world.ready(1, &Login::of(2), &[0])];
    gate.shut();
    let stuck = [write(&ports[0], 0), write(&ports[1], 1)];
    world.until("both at the device", |_| gate.held() == 2);
    let functions: Vec<_> =
        (0..200).map(|n| (n % 2, ports[n % 2].task(Tmf::ClearTaskSet as u8, 0, None))).collect();
    world.steps(2000);
    gate.open();
    for (port, tag) in functions {
        assert_eq!(world.wait(&ports[port], tag), SUCCESS);
    }
    assert!(stuck.iter().zip(&ports).all(|(tag, port)| port.end(*tag) == Some(End::Aborted)));
    settled(&mut world, &[&ports[0], &ports[1]]);
}

#[test]
fn functions_that_wait_go_with_their_channel() {
    for logs_out in [false, true] {
        let mut options = Options::cores(2);
        options.limits.credits = 128;
        let (mut world, gate) = gated(&options);
        let ports = [world.ready(0, &Login::of(1), &[0]), world.ready(0, &Login::of(2), &[0])];
        gate.shut();
        let stuck = write(&ports[0], 0);
        world.until("the write at the device", |_| gate.held() == 1);
        let functions: Vec<_> =
            (0..100).map(|n| ports[n % 2].task(Tmf::ClearTaskSet as u8, 0, None)).collect();
        world.steps(200);
        if logs_out {
            ports[1].logout()
        } else {
            ports[1].disconnect()
        }
        world.steps(200);
        gate.open();
        for tag in functions.iter().step_by(2) {
            assert_eq!(world.wait(&ports[0], *tag), SUCCESS);
        }
        assert_eq!(ports[0].end(stuck), Some(End::Aborted));
        settled(&mut world, &[&ports[0]]);
        assert_eq!(world.net.connections(0), 1);
    }
}

#[test]
fn a_function_outlives_its_channel() {
    let (mut world, gate) = gated(&Options::cores(2));
    let port = world.ready(0, &Login::of(1), &[0]);
    let other = world.ready(1, &Login::of(2), &[0]);
    gate.shut();
    let stuck = write(&other, 0);
    world.until("the write at the device", |_| gate.held() == 1);
    port.task(Tmf::LunReset as u8, 0, None);
    world.steps(20);
    port.disconnect();
    world.steps(200);
    assert_eq!(world.net.connections(0), 1, "kept until the function ends");
    gate.open();
    world.assert_home();
    assert_eq!(other.end(stuck), None);
    assert_eq!(world.net.connections(0), 0);
}

#[test]
fn a_reset_takes_waiting_commands_although_the_lun_goes_meanwhile() {
    // At some distance the map changes between the function's arrival and its work.
    for steps in 0..6 {
        let mut options = Options::tight(1, &[(4096, 4), (1 << 20, 3)]);
        (options.delay_ns_max, options.mailbox) = (0, 1);
        let (mut world, gate) = gated(&options);
        let port = world.ready(0, &Login::of(1), &[0]);
        gate.shut();
        let first = read(&port, 0);
        world.until("the first at the device", |_| gate.held() == 1);
        let second = read(&port, 0);
        world.step();
        let reset = port.task(Tmf::LunReset as u8, 0, None);
        world.steps(steps);
        let target = "t".to_owned();
        let unmap = world.begin(srpt_tgt::shard::message::Action::UnmapLun { target, lun: 0 });
        world.steps(20);
        gate.open();
        let end = world.wait(&port, reset);
        world.until("the map", |world| world.answered(unmap));
        world.assert_home();
        if end == SUCCESS {
            assert_eq!([first, second].map(|tag| port.end(tag)), [Some(End::Aborted); 2]);
        }
        assert_eq!(port.protocol_errors(), 0, "{steps} steps");
    }
}
