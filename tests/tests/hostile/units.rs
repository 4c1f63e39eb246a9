//! Information units that are none, are cut, too long, or come too often.

use srpt_tests::hostile::{Peer, command};
use transport::initiator::cdb;
use transport::srp::{DataDesc, Tmf};

use crate::rig::{Case, HELD_LUN, INVALID_FIELD, LUN, LUNS, Rig, both, check, good, read, ready};

pub(crate) const CASES: &[Case] = &[
    both("units of no opcode", no_opcode),
    both("units that only a target sends", of_the_target),
    both("units at and below their shortest length", shortest),
    both("units at and above the agreed length", longest),
    both("units of no bytes", empty),
    both("additional CDB inside and beyond the unit", additional_cdb),
    both("answers that nobody asked for", unasked),
    both("more commands than credits", overrun),
    both("the same tag for two commands at a time", same_tag),
    both("all 256 task management functions", functions),
];

fn no_opcode(rig: &Rig) -> String {
    for opcode in [0x04, 0x7f, 0xff] {
        rig.thrown_out("protocol", "malformed_iu", |peer| peer.send(&[opcode; 64]));
    }
    "closed it: malformed_iu".into()
}

fn of_the_target(rig: &Rig) -> String {
    for opcode in [0x00, 0x80, 0x81, 0x82, 0xc0, 0xc1, 0xc2] {
        let mut unit = [0; 64];
        unit[0] = opcode;
        rig.thrown_out("protocol", "unexpected_opcode", |peer| peer.send(&unit));
    }
    "closed it: unexpected_opcode".into()
}

fn shortest(rig: &Rig) -> String {
    let mut function = [0; 48];
    (function[0], function[21], function[30]) = (1, LUN as u8, Tmf::AbortTaskSet as u8);
    let mut peer = rig.peer();
    good(&peer.run(&ready(1)[..48]));
    assert_eq!(peer.run(&function).code, Some(0));
    rig.counted(&[("logout", 1), ("closed local", 1)], || {
        let mut logout = [0; 16];
        logout[0] = 3;
        peer.send(&logout);
        peer.thrown_out();
    });
    for unit in [&ready(1)[..47], &function[..47], &[3; 15], &[0x41; 15], &[0x42; 15], &[2]] {
        rig.thrown_out("protocol", "malformed_iu", |peer| peer.send(unit));
    }
    "took 48 and 16 bytes, closed it below: malformed_iu".into()
}

fn longest(rig: &Rig) -> String {
    let mut unit = ready(1);
    unit.resize(8276, 0xEE);
    good(&rig.peer().run(&unit));
    if rig.is_rdma() {
        unit.push(0xEE);
        // Soft-RoCE says only that the connection has failed.
        rig.thrown_out("link", "", |peer| peer.send(&unit));
        return "took 8276 bytes, closed it above: link".into();
    }
    for len in [8277, 1 << 20, u32::MAX] {
        rig.thrown_out("protocol", "", |peer| peer.shm().send_as(&unit, len));
    }
    "took 8276 bytes, closed it above: protocol".into()
}

fn empty(rig: &Rig) -> String {
    rig.thrown_out("protocol", "", |peer| peer.send(&[]));
    "closed it: protocol".into()
}

/// Rule 2 of the parser: what is read is what was received.
fn additional_cdb(rig: &Rig) -> String {
    let mut peer = rig.peer();
    let mut unit = ready(1);
    unit.resize(48 + 252, 0);
    unit[31] = 252;
    good(&peer.run(&unit));
    check(&peer.run(&unit[..48 + 251]), INVALID_FIELD);
    check(&peer.run(&unit[..48]), INVALID_FIELD);
    "took 252 bytes, one less: CHECK CONDITION 5/24".into()
}

fn unasked(rig: &Rig) -> String {
    for opcode in [0x41, 0x42] {
        let mut unit = [0; 16];
        unit[0] = opcode;
        rig.thrown_out("protocol", "unasked_response", |peer| peer.send(&unit));
    }
    "closed it: unasked_response".into()
}

/// A read that is held.
fn held(rig: &Rig, tag: u64) -> Vec<u8> {
    let into = DataDesc::Direct(rig.seg(0, 512));
    command(tag, HELD_LUN, &cdb::read10(0, 1), DataDesc::None, into)
}

/// Rule 7: the last credit, and one that nobody gave.
fn overrun(rig: &Rig) -> String {
    let number = rig.number();
    let mut peer = Peer::ready(&rig.way, number, LUNS);
    let credits = peer.credits;
    rig.hold();
    (0..credits as u64).for_each(|tag| peer.send(&held(rig, tag)));
    rig.in_flight(number, credits as u64);
    rig.resume();
    (0..credits).for_each(|_| good(&peer.reply()));
    assert_eq!(peer.credits, credits, "every credit comes back");
    rig.hold();
    rig.thrown_out("protocol", "credit_overrun", |peer| {
        (0..=credits as u64).for_each(|tag| peer.send(&held(rig, tag)));
    });
    rig.resume();
    format!("answered {credits}, closed it at one more: credit_overrun")
}

fn same_tag(rig: &Rig) -> String {
    let number = rig.number();
    let mut peer = Peer::ready(&rig.way, number, LUNS);
    let credits = peer.credits;
    rig.hold();
    (0..2).for_each(|_| peer.send(&held(rig, 7)));
    rig.in_flight(number, 2);
    rig.resume();
    for reply in [peer.reply(), peer.reply()] {
        good(&reply);
        assert_eq!(reply.tag, 7);
    }
    // An abort is for all that have the name.
    rig.hold();
    (0..2).for_each(|_| peer.send(&held(rig, 8)));
    let mut abort = [0; 48];
    (abort[0], abort[21], abort[30], abort[39]) = (1, HELD_LUN as u8, Tmf::AbortTask as u8, 8);
    abort[8..16].copy_from_slice(&9u64.to_be_bytes());
    peer.send(&abort);
    rig.in_flight(number, 3);
    rig.resume();
    let reply = peer.reply();
    assert_eq!((reply.tag, reply.code), (9, Some(0)));
    good(&peer.run(&ready(10)));
    peer.credits_back(credits);
    "answered both, aborted both".into()
}

/// Rules 9 and 11: each function has an answer, and no byte of an earlier one.
fn functions(rig: &Rig) -> String {
    let mut peer = rig.peer();
    let credits = peer.credits;
    for function in 0..=255 {
        // Sense data that a careless answer would repeat.
        check(&peer.run(&read(1, &[0xFF; 16], DataDesc::None)), Some((5, 0x20, 0)));
        let mut unit = [0; 48];
        (unit[0], unit[15], unit[21], unit[30]) = (1, 2, LUN as u8, function);
        let reply = peer.run(&unit);
        let known = matches!(function, 0x01 | 0x02 | 0x04 | 0x08);
        assert_eq!(reply.code, Some(if known { 0 } else { 4 }), "function {function:#x}");
        assert_eq!(reply.bytes.len(), 40);
        assert_eq!(reply.bytes[1..4], [0; 3]);
        assert_eq!((&reply.bytes[16..18], &reply.bytes[19..32]), (&[0; 2][..], &[0; 13][..]));
        assert_eq!(reply.bytes[36..39], [0; 3]);
        if function == Tmf::LunReset as u8 {
            check(&peer.run(&ready(3)), Some((6, 0x29, 0)));
        }
    }
    peer.credits_back(credits);
    "answered 4 with SUCCESS, 252 with NOT SUPPORTED".into()
}
