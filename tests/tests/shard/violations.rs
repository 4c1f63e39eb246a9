//! Peers that break the protocol.

use srpt_tests::port::Port;
use srpt_tests::world::{Login, Options, World};
use transport::CloseReason;
use transport::initiator::{Data, cdb};

use crate::common::{GOOD, TUR, gated, seg};

/// Runs one offence next to a good initiator on the same core.
fn offend(counter: &str, offence: impl FnOnce(&mut World, &Port)) {
    let (mut world, gate) = gated(&Options::default());
    let good = world.ready(0, &Login::of(1), &[0]);
    let bad = world.ready(0, &Login::of(2), &[0]);
    gate.random(1, 5, 0);
    let tags: Vec<_> =
        (0..8).map(|n| good.submit(0, &cdb::read10(n, 1), Data::In(&seg(&good, 0, 512)))).collect();
    bad.submit(0, &cdb::read10(0, 1), Data::In(&seg(&bad, 0, 512)));
    offence(&mut world, &bad);
    world.until(counter, |_| bad.closed());
    assert_eq!(world.counter(counter), 1, "{counter}");
    assert_eq!(world.closed(CloseReason::Protocol), 1, "{counter}");
    for tag in tags {
        world.wait(&good, tag);
    }
    assert_eq!(world.run(&good, 0, &TUR, Data::None).status, GOOD);
    world.assert_home();
    let reports = world.reports();
    assert_eq!(reports[0].channels.len(), 1, "{counter}");
    assert_eq!((good.credits(), good.protocol_errors()), (good.credits_at_login(), 0));
}

#[test]
fn information_units_that_are_none() {
    offend("malformed_iu", |_, bad| bad.raw(&[]));
    for opcode in [0x04, 0x40, 0x43, 0x7f, 0x83, 0xc3, 0xff] {
        let mut iu = [0; 64];
        iu[0] = opcode;
        offend("malformed_iu", |_, bad| bad.raw(&iu));
    }
    for (opcode, len) in [(0x02, 1), (0x02, 47), (0x01, 47), (0x03, 15), (0x41, 15), (0x42, 1)] {
        let mut iu = vec![0; len];
        iu[0] = opcode;
        offend("malformed_iu", |_, bad| bad.raw(&iu));
    }
}

#[test]
fn information_units_of_the_other_side() {
    for opcode in [0x00, 0x80, 0x81, 0x82, 0xc0, 0xc1, 0xc2] {
        let mut iu = [0; 64];
        iu[0] = opcode;
        offend("unexpected_opcode", |_, bad| bad.raw(&iu));
    }
}

#[test]
fn answers_to_no_request() {
    for opcode in [0x41, 0x42] {
        let mut iu = [0; 16];
        iu[0] = opcode;
        offend("unasked_response", |_, bad| bad.raw(&iu));
    }
}

#[test]
fn more_commands_than_credits() {
    for function in [false, true] {
        offend("credit_overrun", |world, bad| {
            let mut iu = [0; 48];
            iu[0] = if function { 0x01 } else { 0x02 };
            while bad.credits() > 0 {
                bad.submit(0, &cdb::synchronize_cache10(0, 0), Data::None);
            }
            bad.raw(&iu);
            world.step();
        });
    }
}

#[test]
fn longer_information_units_than_agreed() {
    let (mut world, _gate) = gated(&Options::default());
    let bad = world.ready(0, &Login::of(2), &[0]);
    bad.raw(&vec![2; 8277]);
    world.until("the end", |_| bad.closed());
    assert_eq!(world.closed(CloseReason::Protocol), 1);
    world.assert_home();
}

#[test]
fn random_bytes_never_do_harm() {
    let mut rng = transport::sim::Rng::new(7);
    let (mut world, _gate) = gated(&Options::default());
    let good = world.ready(0, &Login::of(1), &[0]);
    for _ in 0..1500 {
        let bad = world.ready(0, &Login::of(2), &[0]);
        for _ in 0..4 {
            let len = rng.below(160) as usize;
            let mut iu: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
            if let Some(first) = iu.first_mut() {
                *first = [0x02, 0x02, 0x02, 0x01, 0x03, *first][rng.below(6) as usize];
            }
            if len > 48 {
                iu[20..28].fill(0);
                iu[32] = [0x28, 0x2a, 0x12, 0x42, 0x89, 0x93, 0x2f, iu[32]][rng.below(8) as usize];
                iu[5] &= 0x33;
                iu[31] &= 0x0f;
            }
            let sent = bad.inner_mut().channel.link_mut().is_closed();
            if !sent {
                bad.raw(&iu);
            }
        }
        world.steps(6);
    }
    // Some of the bytes may have been functions that leave unit attentions.
    let tries = (0..4).map(|_| world.run(&good, 0, &TUR, Data::None).status);
    assert!(tries.last() == Some(GOOD));
    world.assert_home();
}
