//! Credits, and the requests of the target's own.

use srpt_tests::port::{End, Port};
use srpt_tests::world::{Login, Options, World};
use srpt_tgt::shard::message::Action;
use transport::initiator::{Data, Link, cdb};
use transport::srp::{AerReq, CredReq, LoginReq, Opcode, Tmf};

use crate::common::{GOOD, TUR, gated, seg};

/// What the target has said to a port that is deaf.
fn said(port: &Port) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut inner = port.inner_mut();
    let polled = inner.channel.link_mut().poll(&mut |iu| all.push(iu.to_vec()));
    polled.expect("open");
    all
}

fn opcodes(ius: &[Vec<u8>]) -> Vec<Opcode> {
    ius.iter().map(|iu| Opcode::of(iu).expect("an opcode")).collect()
}

fn luns_changed() -> Action {
    Action::LunsChanged { target: "t".to_owned() }
}

#[test]
fn events_go_to_those_who_asked_one_at_a_time() {
    let (mut world, _gate) = gated(&Options::cores(2));
    let wants = world.ready(0, &Login::of(1).flags(LoginReq::FLAG_AER_SOLICITED), &[0]);
    let silent = world.ready(0, &Login::of(2), &[0]);
    wants.inner_mut().deaf = true;
    silent.inner_mut().deaf = true;
    world.control(luns_changed());
    world.control(luns_changed());
    world.steps(50);
    let heard = said(&wants);
    assert_eq!(opcodes(&heard), [Opcode::AerReq], "one until it is answered");
    let event = AerReq::parse(&heard[0]).expect("an event");
    assert!(event.solicited);
    assert_eq!(event.req_lim_delta, 0);
    let sense = transport::initiator::Sense::new(event.sense);
    assert_eq!(sense.code(), Some((6, 0x3f, 0x0e)));
    assert_eq!(opcodes(&said(&silent)), []);
    let mut answer = [0; 16];
    transport::srp::AerRsp { tag: event.tag }.emit(&mut answer);
    wants.raw(&answer);
    world.steps(50);
    world.control(luns_changed());
    world.steps(50);
    assert_eq!(opcodes(&said(&wants)), [Opcode::AerReq]);
    assert!(!wants.closed() && !silent.closed());
}

#[test]
fn credits_come_back_by_request_and_one_request_at_a_time() {
    let (mut world, gate) = gated(&Options::default());
    let victim = world.ready(0, &Login::of(1), &[0]);
    let other = world.ready(0, &Login::of(2), &[0]);
    victim.inner_mut().deaf = true;
    let mut returned = 0;
    for round in 0..2 {
        // Takes the unit attention of the reset.
        victim.submit(0, &TUR, Data::None);
        world.steps(20);
        if round == 1 {
            assert_eq!(opcodes(&said(&victim)), [Opcode::Rsp]);
        } else {
            said(&victim);
        }
        gate.shut();
        let held = gate.held();
        for _ in 0..5 {
            victim.submit(0, &cdb::read10(0, 1), Data::In(&seg(&victim, 0, 512)));
        }
        world.until("all at the device", |_| gate.held() == held + 5);
        let task = other.task(Tmf::LunReset as u8, 0, None);
        world.steps(50);
        gate.open();
        assert_eq!(world.wait(&other, task), End::Task(Some(0)));
        world.steps(50);
        let heard = said(&victim);
        if round == 1 {
            assert_eq!(opcodes(&heard), [], "the first is unanswered");
            break;
        }
        assert_eq!(opcodes(&heard), [Opcode::CredReq]);
        let request = CredReq::parse(&heard[0]).expect("a request");
        returned += request.req_lim_delta;
        assert_eq!(returned, 5);
    }
    // The answer makes room for the next request.
    let mut answer = [0; 16];
    transport::srp::CredRsp { tag: [0; 8] }.emit(&mut answer);
    victim.raw(&answer);
    world.steps(50);
    let heard = said(&victim);
    assert_eq!(opcodes(&heard), [Opcode::CredReq]);
    assert_eq!(CredReq::parse(&heard[0]).expect("a request").req_lim_delta, 5);
    victim.raw(&answer);
    world.assert_home();
}

#[test]
fn an_initiator_without_a_credit_is_not_left_alone() {
    let mut options = Options::default();
    options.limits.credits = 4;
    let (mut world, gate) = gated(&options);
    let victim = world.ready(0, &Login::of(1).flags(LoginReq::FLAG_AER_SOLICITED), &[0]);
    let other = world.ready(0, &Login::of(2), &[0]);
    gate.shut();
    let lost: Vec<_> = (0..4)
        .map(|_| victim.submit(0, &cdb::read10(0, 1), Data::In(&seg(&victim, 0, 512))))
        .collect();
    world.until("all at the device", |_| gate.held() == 4);
    victim.inner_mut().deaf = true;
    world.control(luns_changed());
    let task = other.task(Tmf::LunReset as u8, 0, None);
    world.steps(50);
    gate.open();
    assert_eq!(world.wait(&other, task), End::Task(Some(0)));
    assert_eq!(victim.credits(), 0);
    victim.inner_mut().deaf = false;
    world.until("all credits", |_| victim.credits() == 4);
    assert_eq!(victim.inner().events, [(6, 0x3f, 0x0e)]);
    assert!(lost.iter().all(|tag| victim.end(*tag).is_none()));
    world.assert_home();
}

#[test]
fn every_credit_can_be_used_at_once_again_and_again() {
    let (mut world, _gate) = gated(&Options::cores(2));
    let ports: [Port; 2] = [0, 1].map(|core| world.ready(core, &Login::of(core as u64), &[0]));
    for round in 0..20 {
        let tags: Vec<_> = ports.iter().flat_map(|port| all_credits(port, round)).collect();
        assert!(ports.iter().all(|port| port.credits() == 0));
        for (port, tag) in tags {
            let End::Answered(outcome) = world.wait(&port, tag) else { panic!("aborted") };
            assert_eq!(outcome.status, GOOD);
        }
        check_credits(&ports);
    }
    world.assert_home();
}

fn all_credits(port: &Port, round: u32) -> Vec<(Port, reactor::Tag)> {
    let submit = |lba: u32| {
        let data = seg(port, lba as usize * 512, 512);
        (port.clone(), port.submit(0, &cdb::read10(lba + round, 1), Data::In(&data)))
    };
    (0..port.credits() as u32).map(submit).collect()
}

fn check_credits(ports: &[Port]) {
    for port in ports {
        assert_eq!(port.credits(), port.credits_at_login());
    }
}

#[test]
fn what_the_target_owes_travels_with_the_next_response() {
    let (mut world, gate) = gated(&Options::default());
    let port: Port = world.ready(0, &Login::of(1), &[0]);
    gate.shut();
    let read = |world: &mut World| {
        let tag = port.submit(0, &cdb::read10(0, 1), Data::In(&seg(&port, 0, 512)));
        world.steps(20);
        tag
    };
    let (first, second) = (read(&mut world), read(&mut world));
    let abort = port.abort(0, first);
    world.steps(20);
    let number = gate.seen().len() - 2;
    gate.release(number);
    assert_eq!(world.wait(&port, abort), End::Task(Some(0)));
    assert_eq!(port.credits(), port.credits_at_login() - 1, "all but the one at the device");
    gate.open();
    world.wait(&port, second);
    assert_eq!(port.credits(), port.credits_at_login());
}
