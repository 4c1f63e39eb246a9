//! Devices whose commands are handed on.

use std::sync::Arc;

use bdev::{DataDirection, ScsiEnd};
use srpt_tests::port::{End, Port};
use srpt_tests::scripted::Scripted;
use srpt_tests::world::{Login, Options, World};
use srpt_tgt::shard::message::Action;
use transport::initiator::{Data, Outcome, cdb};
use transport::srp::{Direction, Residual, Tmf};

use crate::common::{CHECK, GOOD, INVALID_FIELD, POWER_ON, TUR, code, pattern, seg};

const RESERVATION_CONFLICT: u8 = 0x18;
const RESERVE_6: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const RELEASE_6: [u8; 6] = [0x17, 0, 0, 0, 0, 0];
const RESERVE_10: [u8; 10] = [0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const TAPE: u8 = 1;

/// A world whose LUN 0 is a tape.
fn taped(options: &Options) -> (World, Scripted) {
    let mut world = World::new(options);
    let tape = Scripted::new("tape", TAPE);
    world.add(0, Arc::new(tape.clone()));
    (world, tape)
}

fn single() -> (World, Scripted, Port) {
    let (mut world, tape) = taped(&Options::default());
    let port = world.ready(0, &Login::of(1), &[0]);
    (world, tape, port)
}

fn unused(direction: Direction, count: u32) -> Option<Residual> {
    Some(Residual { direction, overflow: false, count })
}

fn fixed_sense(key: u8, asc: u8, information: u32) -> [u8; 18] {
    let mut sense = [0; 18];
    sense[0] = 0xf0;
    sense[2] = key;
    sense[3..7].copy_from_slice(&information.to_be_bytes());
    sense[7] = 10;
    sense[12] = asc;
    sense
}

fn status(outcome: &Outcome) -> u8 {
    outcome.status
}

#[test]
fn a_command_reaches_the_device_as_it_is_with_its_data() {
    let (mut world, tape, port) = single();
    let before = tape.seen().len();
    port.memory_write(0, &pattern(3, 3000));
    let write = [0x0a, 0, 0, 0x0b, 0xb8, 0x77];
    let outcome = world.run(&port, 0, &write, Data::Out(&seg(&port, 0, 3000)));
    assert_eq!((outcome.status, outcome.residual), (GOOD, None));
    let read = [0x08, 2, 0, 0, 100, 0];
    tape.answer(ScsiEnd::GOOD, &pattern(5, 100));
    let outcome = world.run(&port, 0, &read, Data::In(&seg(&port, 8192, 100)));
    assert_eq!((outcome.status, outcome.residual), (GOOD, None));
    assert_eq!(port.bytes(8192, 100), pattern(5, 100));
    let vendor = [0xd1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    world.run(&port, 0, &vendor, Data::None);
    let seen = &tape.seen()[before..];
    assert_eq!((&seen[0].cdb[..], seen[0].direction), (&write[..], DataDirection::Out));
    assert_eq!(seen[0].data, pattern(3, 3000));
    assert_eq!((&seen[1].cdb[..], seen[1].direction), (&read[..], DataDirection::In));
    assert_eq!((&seen[2].cdb[..], seen[2].direction), (&vendor[..], DataDirection::None));
    world.assert_home();
}

#[test]
fn status_sense_and_residual_come_back_unchanged() {
    let (mut world, tape, port) = single();
    for expected in [0x04, 0x08, 0x18, 0x28, 0x40] {
        tape.answer(ScsiEnd::new(expected), &[]);
        let outcome = world.run(&port, 0, &TUR, Data::None);
        assert_eq!((outcome.status, outcome.sense.as_bytes()), (expected, &[][..]));
    }
    // A filemark: part of the data and sense data together.
    let sense = fixed_sense(0x80, 0, 60);
    tape.answer(ScsiEnd::check(&sense, 60), &pattern(7, 100));
    port.memory_write(0, &[0xee; 100]);
    let read = [0x08, 0, 0, 0, 100, 0];
    let outcome = world.run(&port, 0, &read, Data::In(&seg(&port, 0, 100)));
    assert_eq!((outcome.status, outcome.sense.as_bytes()), (CHECK, &sense[..]));
    assert_eq!(outcome.residual, unused(Direction::In, 60));
    assert_eq!(port.bytes(0, 40), pattern(7, 100)[..40]);
    assert_eq!(port.bytes(40, 60), [0xee; 60]);
    let long: Vec<u8> = std::iter::once(0x72).chain(1..96).collect();
    tape.answer(ScsiEnd::check(&long, 512), &[]);
    let write = [0x0a, 0, 0, 2, 0, 0];
    let outcome = world.run(&port, 0, &write, Data::Out(&seg(&port, 0, 512)));
    assert_eq!(outcome.sense.as_bytes(), long);
    assert_eq!(outcome.residual, unused(Direction::Out, 512));
    world.assert_home();
}

#[test]
fn transfers_that_no_buffer_holds_are_refused() {
    let (mut world, tape, port) = single();
    let before = tape.seen().len();
    let read = [0x08, 0, 0x20, 0, 0, 0];
    let outcome = world.run(&port, 0, &read, Data::In(&seg(&port, 0, 2 << 20)));
    assert_eq!(code(&outcome), Some(INVALID_FIELD));
    assert_eq!(tape.seen().len(), before);
    world.assert_home();
}

#[test]
fn reservations_belong_to_sessions() {
    let (mut world, tape) = taped(&Options::cores(2));
    let mine = world.ready(0, &Login::multi(1), &[0]);
    let also_mine = world.login(1, &Login::multi(1));
    let other = world.ready(1, &Login::of(2), &[0]);
    let seen = tape.seen().len();
    let mut run = |port: &Port, cdb: &[u8]| status(&world.run(port, 0, cdb, Data::None));
    assert_eq!(run(&mine, &RESERVE_6), GOOD);
    assert_eq!(run(&also_mine, &RESERVE_10), GOOD, "a holder may repeat it");
    assert_eq!(run(&other, &RESERVE_6), RESERVATION_CONFLICT);
    assert_eq!(run(&other, &RELEASE_6), GOOD, "which releases nothing");
    assert_eq!(run(&other, &TUR), RESERVATION_CONFLICT);
    assert_eq!(tape.seen().len(), seen, "nothing of this is the device's");
    assert_eq!(run(&also_mine, &TUR), GOOD);
    assert_eq!(run(&mine, &RELEASE_6), GOOD);
    assert_eq!(run(&other, &TUR), GOOD);
    assert_eq!(run(&other, &RESERVE_6), GOOD);
    assert_eq!(run(&mine, &TUR), RESERVATION_CONFLICT);
    let inquiry = cdb::inquiry(None, 96);
    let outcome = world.run(&mine, 0, &inquiry, Data::In(&seg(&mine, 0, 96)));
    assert_eq!(outcome.status, GOOD);
    world.assert_home();
}

#[test]
fn logout_and_reset_end_a_reservation() {
    let (mut world, tape) = taped(&Options::cores(2));
    let mine = world.ready(0, &Login::of(1), &[0]);
    let other = world.ready(1, &Login::of(2), &[0]);
    assert_eq!(status(&world.run(&mine, 0, &RESERVE_6, Data::None)), GOOD);
    let reset = other.task(Tmf::LunReset as u8, 0, None);
    assert_eq!(world.wait(&other, reset), End::Task(Some(0)));
    assert_eq!(tape.resets(), 1);
    for port in [&mine, &other] {
        assert_eq!(code(&world.run(port, 0, &TUR, Data::None)), Some(POWER_ON));
        assert_eq!(status(&world.run(port, 0, &TUR, Data::None)), GOOD);
    }
    assert_eq!(status(&world.run(&mine, 0, &RESERVE_6, Data::None)), GOOD);
    assert_eq!(status(&world.run(&other, 0, &TUR, Data::None)), RESERVATION_CONFLICT);
    mine.disconnect();
    world.until("the end of the session", |_| mine.closed());
    world.steps(200);
    assert_eq!(status(&world.run(&other, 0, &TUR, Data::None)), GOOD);
    world.assert_home();
}

#[test]
fn persistent_reservations_are_refused_and_luns_are_ours() {
    let (mut world, tape, port) = single();
    world.add(5, Arc::new(Scripted::new("changer", 8)));
    let seen = tape.seen().len();
    let refused = world.run(&port, 0, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0], Data::None);
    assert_eq!(code(&refused), Some((6, 0x3f, 0x0e)), "the map has changed");
    let refused = world.run(&port, 0, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0], Data::None);
    assert_eq!(code(&refused), Some((5, 0x20, 0)));
    let outcome = world.run(&port, 0, &cdb::report_luns(255), Data::In(&seg(&port, 0, 255)));
    assert_eq!(outcome.status, GOOD);
    assert_eq!(port.bytes(0, 4), [0, 0, 0, 16]);
    assert_eq!(tape.seen().len(), seen);
    world.assert_home();
}

#[test]
fn request_sense_gives_our_attention_first_and_then_asks_the_device() {
    let (mut world, tape) = taped(&Options::default());
    let port = world.login(0, &Login::of(1));
    let cdb = [0x03, 0, 0, 0, 18, 0];
    let outcome = world.run(&port, 0, &cdb, Data::In(&seg(&port, 0, 18)));
    assert_eq!(outcome.status, GOOD);
    let ours = port.bytes(0, 18);
    assert_eq!((ours[2], ours[12]), (6, 0x29));
    assert!(tape.seen().is_empty());
    tape.answer(ScsiEnd::GOOD, &fixed_sense(2, 0x3a, 0));
    world.run(&port, 0, &cdb, Data::In(&seg(&port, 0, 18)));
    assert_eq!(port.bytes(0, 18), fixed_sense(2, 0x3a, 0));
    world.assert_home();
}

#[test]
fn an_attention_of_the_device_reaches_every_session_once() {
    let (mut world, tape) = taped(&Options::cores(2));
    let first = world.ready(0, &Login::of(1), &[0]);
    let second = world.ready(1, &Login::of(2), &[0]);
    tape.answer(ScsiEnd::check(&fixed_sense(6, 0x28, 0), 0), &[]);
    let changed = Some((6, 0x28, 0));
    assert_eq!(code(&world.run(&first, 0, &TUR, Data::None)), changed);
    world.steps(50);
    assert_eq!(code(&world.run(&second, 0, &TUR, Data::None)), changed);
    for port in [&first, &second] {
        assert_eq!(code(&world.run(port, 0, &TUR, Data::None)), None);
    }
    world.assert_home();
}

#[test]
fn page_83_names_our_port_whatever_the_initiator_asks_for() {
    let (mut world, tape, port) = single();
    let unit = [0x01, 0x03, 0, 8, 0x33, 1, 2, 3, 4, 5, 6, 7];
    let theirs = [0x61, 0x94, 0, 4, 0, 0, 0, 9];
    let ours = [0x41, 0x94, 0, 4, 0, 0, 0, 1];
    let page = [&[1, 0x83, 0, 20][..], &unit, &theirs].concat();
    let expected = [&[1, 0x83, 0, 20][..], &unit, &ours].concat();
    for allocation in [4u16, 23, 24, 255, 4096] {
        let mut end = ScsiEnd::new(GOOD);
        end.residual = 2048 - 24;
        tape.answer(end, &page);
        port.memory_write(0, &[0xee; 4096]);
        let asked = cdb::inquiry(Some(0x83), allocation);
        let data = Data::In(&seg(&port, 0, usize::from(allocation)));
        let outcome = world.run(&port, 0, &asked, data);
        assert_eq!(outcome.status, GOOD);
        let there = usize::from(allocation).min(24);
        assert_eq!(port.bytes(0, there), expected[..there]);
        assert_eq!(port.bytes(there, 8), [0xee; 8]);
        let rest = u32::from(allocation) - there as u32;
        assert_eq!(outcome.residual, (rest > 0).then(|| unused(Direction::In, rest)).flatten());
        assert_eq!(tape.seen().last().expect("asked").cdb, [0x12, 1, 0x83, 8, 0, 0]);
    }
    world.assert_home();
}

#[test]
fn an_aborted_command_is_waited_for_and_then_gone() {
    let (mut world, tape, port) = single();
    tape.shut(true);
    let rewind = port.submit(0, &[0x01, 0, 0, 0, 0, 0], Data::None);
    world.steps(50);
    let abort = port.abort(0, rewind);
    world.steps(200);
    assert!(port.end(abort).is_none(), "the device has not let go yet");
    tape.shut(false);
    assert_eq!(world.wait(&port, abort), End::Task(Some(0)));
    assert_eq!(world.wait(&port, rewind), End::Aborted);
    world.assert_home();
}

#[test]
fn every_command_is_counted() {
    let (mut world, tape, port) = single();
    tape.answer(ScsiEnd::check(&fixed_sense(3, 0x11, 0), 100), &[]);
    let read = [0x08, 0, 0, 0, 100, 0];
    world.run(&port, 0, &read, Data::In(&seg(&port, 0, 100)));
    world.run(&port, 0, &read, Data::In(&seg(&port, 0, 100)));
    world.run(&port, 0, &[0x0a, 0, 0, 0, 50, 0], Data::Out(&seg(&port, 0, 50)));
    let report = world.control(Action::Report).remove(0);
    let (_, counts) = report.bdevs.iter().find(|(name, _)| name == "tape").expect("mapped");
    assert_eq!((counts.read_ops, counts.bytes_read, counts.errors), (1, 100, 1));
    assert_eq!((counts.write_ops, counts.bytes_written), (1, 50));
}

#[test]
fn a_read_only_mapping_hands_on_only_what_is_known_to_read() {
    let mut world = World::new(&Options::default());
    let disk = Scripted::new("disk", 0);
    world.add(0, Arc::new(disk.clone()));
    let target = || "t".to_owned();
    world.control(Action::UnmapLun { target: target(), lun: 0 });
    let lu = world.unit("disk");
    world.control(Action::MapLun { target: target(), lun: 0, lu, read_only: true });
    let port = world.ready(0, &Login::of(1), &[0]);
    let before = disk.seen().len();
    let [mut write_long, mut ata, mut reset_zone] =
        [[0x9f, 0x11], [0x85, 0x06], [0x94, 0x04]].map(|[opcode, action]| {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1]) = (opcode, action);
            cdb
        });
    // WR_UNCOR; SECURITY ERASE UNIT; ALL.
    (write_long[1], ata[14], reset_zone[14]) = (0x51, 0xf4, 0x01);
    let vendor = [0xd1; 16];
    for cdb in [&write_long[..], &ata, &reset_zone, &vendor, &[0x04, 0, 0, 0, 0, 0]] {
        let outcome = world.run(&port, 0, cdb, Data::None);
        assert_eq!(code(&outcome), Some((7, 0x27, 0)), "{cdb:02x?}");
    }
    // VERIFY with data to compare.
    let verify = [0x2f, 0x02, 0, 0, 0, 0, 0, 0, 1, 0];
    let outcome = world.run(&port, 0, &verify, Data::Out(&seg(&port, 0, 512)));
    assert_eq!(code(&outcome), Some((7, 0x27, 0)));
    assert_eq!(disk.seen().len(), before, "the device has seen none of them");
    let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    disk.answer(ScsiEnd::GOOD, &pattern(5, 512));
    let outcome = world.run(&port, 0, &read, Data::In(&seg(&port, 0, 512)));
    assert_eq!((status(&outcome), port.bytes(0, 512)), (GOOD, pattern(5, 512)));
    world.assert_home();
}
