//! RESERVE and RELEASE: decided at the unit's home core, known to every core before the answer.

use std::sync::Arc;

use srpt_tests::gate::Gate;
use srpt_tests::port::{End, Port};
use srpt_tests::world::{Login, Options, World};
use transport::initiator::{Data, cdb};
use transport::sim::SimMemory;
use transport::srp::Tmf;

use crate::common::{CHECK, GOOD, POWER_ON, TUR, code, seg};

const RESERVATION_CONFLICT: u8 = 0x18;
const RESERVE_6: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const RELEASE_6: [u8; 6] = [0x17, 0, 0, 0, 0, 0];
const RESERVE_10: [u8; 10] = [0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const RELEASE_10: [u8; 10] = [0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const LUNS_CHANGED: (u8, u8, u8) = (6, 0x3f, 0x0e);
const NO_LUN: (u8, u8, u8) = (5, 0x25, 0);

/// A disk that is LUN 0 of target "t"; the home of its unit is core 0.
fn world(cores: usize) -> World {
    let mut world = World::new(&Options::cores(cores));
    world.add(0, Arc::new(Gate::new("disk", 64)));
    world
}

fn status(world: &mut World, port: &Port, cdb: &[u8]) -> u8 {
    world.run(port, 0, cdb, Data::None).status
}

fn read(world: &mut World, port: &Port) -> u8 {
    let cdb = cdb::read10(3, 1);
    world.run(port, 0, &cdb, Data::In(&seg(port, 0, 512))).status
}

#[test]
fn a_reservation_holds_on_every_core_when_it_is_answered() {
    let mut world = world(3);
    let mine = world.ready(1, &Login::multi(1), &[0]);
    let also_mine = world.login(2, &Login::multi(1));
    let others = [0, 1, 2].map(|core| world.ready(core, &Login::of(2 + core as u64), &[0]));
    for (reserve, release) in [(&RESERVE_6[..], &RELEASE_6[..]), (&RESERVE_10, &RELEASE_10)] {
        assert_eq!(status(&mut world, &mine, reserve), GOOD);
        assert_eq!(status(&mut world, &also_mine, reserve), GOOD, "the holder may repeat it");
        for other in &others {
            assert_eq!(read(&mut world, other), RESERVATION_CONFLICT);
            assert_eq!(status(&mut world, other, &TUR), RESERVATION_CONFLICT);
            assert_eq!(status(&mut world, other, reserve), RESERVATION_CONFLICT);
            assert_eq!(status(&mut world, other, release), GOOD, "which releases nothing");
            let inquiry = cdb::inquiry(None, 96);
            let outcome = world.run(other, 0, &inquiry, Data::In(&seg(other, 0, 96)));
            assert_eq!(outcome.status, GOOD);
        }
        assert_eq!(read(&mut world, &mine), GOOD);
        assert_eq!(status(&mut world, &also_mine, release), GOOD);
        for other in &others {
            assert_eq!(read(&mut world, other), GOOD);
        }
    }
    world.assert_home();
}

#[test]
fn third_parties_and_extents_are_refused() {
    let mut world = world(1);
    let port = world.ready(0, &Login::of(1), &[0]);
    for (cdb, at) in [([0x16, 0x10, 0, 0, 0, 0], 1), ([0x17, 1, 0, 0, 0, 0], 1)] {
        let outcome = world.run(&port, 0, &cdb, Data::None);
        assert_eq!((outcome.status, code(&outcome)), (CHECK, Some((5, 0x24, 0))), "byte {at}");
    }
    let long = [0x56, 0x02, 0, 0, 0, 0, 0, 0, 8, 0];
    assert_eq!(code(&world.run(&port, 0, &long, Data::None)), Some((5, 0x24, 0)));
    world.assert_home();
}

#[test]
fn a_conflict_goes_before_all_attentions_but_that_of_a_reset() {
    let mut world = world(2);
    let mine = world.ready(0, &Login::of(1), &[0]);
    let other = world.login(1, &Login::of(2));
    assert_eq!(status(&mut world, &mine, &RESERVE_6), GOOD);
    assert_eq!(code(&world.run(&other, 0, &TUR, Data::None)), Some(POWER_ON));
    world.add(5, Arc::new(Gate::new("another", 64)));
    assert_eq!(status(&mut world, &other, &TUR), RESERVATION_CONFLICT);
    assert_eq!(code(&world.run(&mine, 0, &TUR, Data::None)), Some(LUNS_CHANGED));
    assert_eq!(status(&mut world, &mine, &RELEASE_6), GOOD);
    assert_eq!(code(&world.run(&other, 0, &TUR, Data::None)), Some(LUNS_CHANGED), "still pending");
    world.assert_home();
}

#[test]
fn a_reset_by_anybody_ends_a_reservation() {
    let mut world = world(2);
    let mine = world.ready(1, &Login::of(1), &[0]);
    let other = world.ready(0, &Login::of(2), &[0]);
    assert_eq!(status(&mut world, &mine, &RESERVE_6), GOOD);
    let reset = other.task(Tmf::LunReset as u8, 0, None);
    assert_eq!(world.wait(&other, reset), End::Task(Some(0)));
    for port in [&mine, &other] {
        assert_eq!(code(&world.run(port, 0, &TUR, Data::None)), Some(POWER_ON));
        assert_eq!(read(&mut world, port), GOOD);
    }
    world.assert_home();
}

#[test]
fn who_logs_in_again_finds_nothing_reserved_for_the_session_before() {
    let mut world = world(2);
    let mine = world.ready(1, &Login::of(1), &[0]);
    assert_eq!(status(&mut world, &mine, &RESERVE_6), GOOD);
    // The home of the unit is late with its release: the login waits.
    mine.disconnect();
    world.until("the end of the session", |_| mine.closed());
    world.steps(3);
    let again = world.ready(1, &Login::of(1), &[0]);
    assert_eq!(read(&mut world, &again), GOOD);
    assert_eq!(status(&mut world, &again, &RESERVE_6), GOOD);
    // A login that takes the session over.
    let over = world.ready(0, &Login::of(1), &[0]);
    assert_eq!(read(&mut world, &over), GOOD);
    let other = world.ready(1, &Login::of(2), &[0]);
    assert_eq!(read(&mut world, &other), GOOD);
    world.assert_home();
}

#[test]
fn channels_that_come_while_a_session_is_being_forgotten_share_the_next_one() {
    let mut world = world(2);
    // The unit whose home is core 1.
    world.add(1, Arc::new(Gate::new("second", 64)));
    let mine = world.ready(0, &Login::multi(1), &[0, 1]);
    assert_eq!(world.run(&mine, 1, &RESERVE_6, Data::None).status, GOOD);
    world.stall(1, 60);
    mine.disconnect();
    world.until("the end of the session", |_| mine.closed());
    world.steps(5);
    let memory = SimMemory::new(1 << 20);
    let logins: Vec<_> = (0..2).map(|_| world.connect(0, &Login::multi(1), &memory)).collect();
    world.steps(20);
    assert!(logins.iter().all(|login| !login.answered()), "granted before the release");
    let ports: Vec<_> =
        logins.into_iter().map(|login| world.finish(login).expect("granted")).collect();
    let reports = world.reports();
    let channels: Vec<_> = reports.iter().flat_map(|report| &report.channels).collect();
    assert_eq!(channels.len(), 2);
    assert_eq!(channels[0].session, channels[1].session);
    drop(ports);
}

#[test]
fn an_abort_waits_for_the_decision_and_nobody_hears_of_the_command() {
    let mut world = world(2);
    let mine = world.ready(1, &Login::of(1), &[0]);
    world.stall(0, 200);
    let reserve = mine.submit(0, &RESERVE_6, Data::None);
    world.steps(20);
    let abort = mine.task(Tmf::AbortTaskSet as u8, 0, None);
    world.steps(100);
    assert_eq!((mine.end(reserve), mine.end(abort)), (None, None), "the home core has not decided");
    assert_eq!(world.wait(&mine, abort), End::Task(Some(0)));
    world.steps(100);
    assert_eq!(mine.end(reserve), Some(End::Aborted), "no response came for the command");
    world.assert_home();
}

#[test]
fn a_channel_that_ends_takes_its_waiting_reservation_along() {
    let mut world = world(2);
    let mine = world.ready(1, &Login::of(1), &[0]);
    let other = world.ready(1, &Login::of(2), &[0]);
    world.stall(0, 100);
    mine.submit(0, &RESERVE_6, Data::None);
    world.steps(20);
    mine.disconnect();
    world.until("the end of the session", |_| mine.closed());
    world.steps(300);
    assert_eq!(read(&mut world, &other), GOOD);
    world.assert_home();
}

#[test]
fn a_lun_that_goes_takes_its_sessions_reservations_along() {
    let mut world = world(2);
    world.create_target("u");
    world.map("u", 0, "disk");
    let mine = world.ready(1, &Login::of(1), &[0]);
    let elsewhere = world.ready(0, &Login::of(1).to("u"), &[0]);
    assert_eq!(status(&mut world, &mine, &RESERVE_6), GOOD);
    assert_eq!(read(&mut world, &elsewhere), RESERVATION_CONFLICT, "the unit, not the LUN");
    world.unmap("t", 0);
    assert_eq!(code(&world.run(&mine, 0, &TUR, Data::None)), Some(NO_LUN));
    assert_eq!(read(&mut world, &elsewhere), GOOD);
    world.map("t", 0, "disk");
    assert_eq!(status(&mut world, &elsewhere, &RESERVE_6), GOOD);
    world.assert_home();
}

#[test]
fn a_unit_that_is_mapped_later_is_known_to_be_reserved() {
    let mut world = world(2);
    let mine = world.ready(1, &Login::of(1), &[0]);
    assert_eq!(status(&mut world, &mine, &RESERVE_6), GOOD);
    world.create_target("u");
    world.map("u", 7, "disk");
    let elsewhere = world.ready(0, &Login::of(2).to("u"), &[]);
    assert_eq!(code(&world.run(&elsewhere, 7, &TUR, Data::None)), Some(POWER_ON));
    assert_eq!(world.run(&elsewhere, 7, &TUR, Data::None).status, RESERVATION_CONFLICT);
    world.assert_home();
}
