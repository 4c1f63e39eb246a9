//! How channels and sessions begin.

use srpt_tests::world::{GUID, Login, Options, World};
use srpt_tgt::shard::message::Action;
use transport::initiator::{Data, cdb};
use transport::sim::SimMemory;
use transport::srp::{LoginForm, OtherChannels, RejectReason};

use crate::common::{GOOD, POWER_ON, TUR, code, gated, pattern, seg};

#[test]
fn both_forms_are_accepted_with_what_was_agreed() {
    for form in [LoginForm::Ib, LoginForm::RdmaCm] {
        let (mut world, _gate) = gated(&Options::default());
        let mut login = Login::of(7);
        login.req.form = form;
        let port = world.login(0, &login);
        let rsp = port.inner().rsp;
        assert_eq!(rsp.tag, *b"thelogin");
        assert_eq!((rsp.req_lim_delta, rsp.max_it_iu_len, rsp.max_ti_iu_len), (32, 8276, 256));
        assert_eq!(rsp.buf_fmt, 0x0006);
        assert_eq!(rsp.other_channels, OtherChannels::None);
        assert!(rsp.immediate_data);
        let reports = world.reports();
        let channel = &reports[0].channels[0];
        assert_eq!(channel.initiator_port_id, *b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07");
        assert_eq!(channel.target_port_id[..8], GUID.to_be_bytes());
        assert_eq!((channel.credits, channel.req_lim), (32, 32));
        assert!(channel.immediate_data && !channel.multichannel);
        world.assert_home();
    }
}

#[test]
fn immediate_data_is_agreed_on_only_where_it_can_be() {
    let (mut world, gate) = gated(&Options::default());
    for (offset, agreed) in
        [(47, false), (48, false), (51, false), (52, true), (8275, true), (8276, false)]
    {
        let mut login = Login::of(1);
        login.req.imm_data_offset = offset;
        let port = world.login(0, &login);
        assert_eq!(port.inner().rsp.immediate_data, agreed, "offset {offset}");
    }
    let mut login = Login::of(1);
    login.req.imm_data_offset = 52;
    let port = world.login(0, &login);
    while code(&world.run(&port, 0, &TUR, Data::None)).is_some() {}
    let written = world.run(&port, 0, &cdb::write10(0, 1, false), Data::OutImmediate(&[7; 512]));
    assert_eq!(code(&written), None, "what was agreed on works");
    assert_eq!(gate.medium(0, 1), [7; 512]);
    let mut login = Login::of(1);
    login.req.req_flags = 0;
    assert!(!world.login(0, &login).inner().rsp.immediate_data);
}

#[test]
fn lengths_of_information_units_have_both_bounds() {
    let (mut world, _gate) = gated(&Options::default());
    for (len, accepted) in [(0, false), (63, false), (64, true), (8276, true), (8277, false)] {
        let mut login = Login::of(1);
        login.req.req_it_iu_len = len;
        let answer = world.try_login(0, &login).map(|_| ()).map_err(|reason| reason as u32);
        let expected = if accepted { Ok(()) } else { Err(RejectReason::ItIuTooLarge as u32) };
        assert_eq!(answer, expected, "{len} bytes");
    }
}

#[test]
fn new_lengths_hold_for_logins_that_come_after_them() {
    let (mut world, _gate) = gated(&Options::default());
    let early = world.ready(0, &Login::of(1), &[0]);
    world.control(Action::SetIuSizes { iu_bytes_max: 996, rsp_bytes_max: 54 });
    let mut login = Login::of(2);
    login.req.req_it_iu_len = 997;
    assert_eq!(world.try_login(0, &login).err(), Some(RejectReason::ItIuTooLarge));
    login.req.req_it_iu_len = 996;
    let late = world.login(0, &login);
    let rsp = late.inner().rsp;
    assert_eq!((rsp.max_it_iu_len, rsp.max_ti_iu_len), (996, 54));
    let reports = world.reports();
    let sizes: Vec<u32> = reports[0].channels.iter().map(|channel| channel.iu_bytes_max).collect();
    assert_eq!(sizes, [8276, 996], "each channel keeps what its login agreed on");
    // The first answer of a session carries sense: it fits in the shortest response.
    assert_eq!(code(&world.run(&late, 0, &TUR, Data::None)), Some(POWER_ON));
    assert_eq!(code(&world.run(&early, 0, &TUR, Data::None)), None);
    world.assert_home();
}

#[test]
fn a_target_port_that_is_not_there_is_refused() {
    let (mut world, _gate) = gated(&Options::default());
    let right = GUID.to_be_bytes();
    for (first, second) in [(right, [0; 8]), ([0; 8], right), ([0; 8], [0; 8])] {
        let mut login = Login::of(1);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&first);
        id[8..].copy_from_slice(&second);
        login.port_id = Some(id);
        assert_eq!(world.try_login(0, &login).err(), Some(RejectReason::UnableToAssociate));
    }
    let login = Login::of(1).to("nobody");
    assert_eq!(world.try_login(0, &login).err(), Some(RejectReason::UnableToAssociate));
    world.assert_home();
}

#[test]
fn bytes_that_are_no_login_are_refused() {
    let (mut world, _gate) = gated(&Options::default());
    let memory = SimMemory::new(0);
    let mut other_opcode = vec![0; 64];
    other_opcode[0] = 0x02;
    for bytes in [vec![], vec![0; 55], other_opcode] {
        let link = world.net.connect(0, "t", &bytes, &memory).expect("a connection is free");
        world.until("a reject", |_| link.login_answer().is_some());
        let Some(transport::sim::LoginAnswer::Rejected(rej)) = link.login_answer() else {
            panic!("{bytes:?} was accepted")
        };
        let reason = transport::srp::LoginRej::parse(&rej).expect("a reject").reason;
        assert_eq!(reason, RejectReason::UnableToEstablish);
    }
    world.assert_home();
}

#[test]
fn nobody_comes_in_while_the_target_stops_or_is_deleted() {
    let (mut world, gate) = gated(&Options::default());
    let port = world.ready(0, &Login::of(1), &[0]);
    gate.shut();
    port.submit(0, &cdb::read10(0, 1), Data::In(&seg(&port, 0, 512)));
    world.until("a command at the device", |_| gate.held() == 1);
    let delete = world.begin(Action::DeleteTarget { target: "t".to_owned() });
    world.steps(10);
    assert_eq!(
        world.try_login(0, &Login::of(2)).err(),
        Some(RejectReason::UnableToAssociate),
        "a target that is being deleted"
    );
    world.create_target("u");
    let stop = world.begin(Action::Shutdown);
    world.steps(10);
    let refused = world.try_login(0, &Login::of(3).to("u")).err();
    assert_eq!(refused, Some(RejectReason::InsufficientResources));
    assert!(!world.answered(delete) && !world.answered(stop));
    gate.open();
    world.until("the end", |world| world.answered(stop) && world.answered(delete));
    assert!(port.closed() && port.inner().logout);
}

#[test]
fn rejected_logins_leave_nothing() {
    let (mut world, _gate) = gated(&Options::cores(2));
    let port = world.ready(1, &Login::of(1), &[0]);
    let state = |world: &mut World| {
        let mut reports = world.reports();
        reports.iter_mut().for_each(|report| {
            report.counters.clear();
            report.closed.clear();
        });
        format!("{reports:?}")
    };
    let before = state(&mut world);
    let mut long = Login::of(1);
    long.req.req_it_iu_len = 9000;
    let mut other = Login::multi(1);
    other.port_id = Some([1; 16]);
    let memory = SimMemory::new(0);
    for number in 0..2000 {
        let login = if number % 2 == 0 { &long } else { &other };
        let pending = world.connect(number % 2, login, &memory);
        assert!(world.finish(pending).is_err());
    }
    world.assert_home();
    assert_eq!(state(&mut world), before);
    assert_eq!(world.counter("login_rejected"), 2000);
    assert_eq!(code(&world.run(&port, 0, &TUR, Data::None)), None);
}

#[test]
fn a_single_login_ends_the_others_once_their_commands_are_back() {
    for (old_core, new_core) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (mut world, gate) = gated(&Options::cores(2));
        let old = world.ready(old_core, &Login::of(1), &[0]);
        let second = world.login(1 - old_core, &Login::multi(1));
        assert_eq!(second.inner().rsp.other_channels, OtherChannels::Kept);
        let bystander = world.ready(0, &Login::of(2), &[0]);
        gate.shut();
        old.memory_write(0, &pattern(1, 512));
        let stuck = old.submit(0, &cdb::write10(5, 1, false), Data::Out(&seg(&old, 0, 512)));
        world.until("the write at the device", |_| gate.held() == 1);

        let pending = world.connect(new_core, &Login::of(1), &SimMemory::new(4096));
        world.until("the old channels to close", |_| old.closed() && second.closed());
        world.steps(500);
        assert!(!pending.answered(), "answered with the old write at the device");
        assert_eq!(gate.medium(5, 1), vec![0; 512]);
        gate.open();
        let new = world.finish(pending).expect("accepted");
        assert_eq!(gate.medium(5, 1), pattern(1, 512), "settled before the answer");
        assert_eq!(new.inner().rsp.other_channels, OtherChannels::Terminated);
        assert_eq!(old.end(stuck), None);
        assert!(!bystander.closed());
        assert_eq!(code(&world.run(&new, 0, &TUR, Data::None)), Some(POWER_ON), "a new session");
        assert_eq!(world.run(&bystander, 0, &TUR, Data::None).status, GOOD);
        world.assert_home();
        let sessions: Vec<_> = world.reports().into_iter().flat_map(|r| r.channels).collect();
        assert_eq!(sessions.len(), 2);
    }
}

#[test]
fn a_login_that_waits_for_another_can_go_away_or_be_overtaken() {
    let (mut world, gate) = gated(&Options::cores(2));
    let old = world.ready(0, &Login::of(1), &[0]);
    gate.shut();
    old.submit(0, &cdb::read10(0, 1), Data::In(&seg(&old, 0, 512)));
    world.until("a command at the device", |_| gate.held() == 1);
    let memory = SimMemory::new(0);
    let gone = world.connect(1, &Login::of(1), &memory);
    world.steps(20);
    let first = world.connect(0, &Login::of(1), &memory);
    world.steps(20);
    let last = world.connect(1, &Login::of(1), &memory);
    world.steps(20);
    let joins = world.try_login(0, &Login::multi(1));
    assert_eq!(joins.err(), Some(RejectReason::UnableToAssociate), "the session is ending");
    gone.disconnect();
    world.steps(20);
    gate.open();
    assert_eq!(world.finish(first).err(), Some(RejectReason::UnableToAssociate));
    let last = world.finish(last).expect("the last one holds");
    assert_eq!(code(&world.run(&last, 0, &TUR, Data::None)), Some(POWER_ON));
    world.assert_home();
}

#[test]
fn multichannel_logins_share_a_session_up_to_the_limit() {
    let options = Options { connections: 80, ..Options::cores(2) };
    let (mut world, _gate) = gated(&options);
    let login = Login::multi(1);
    let mut ports = Vec::new();
    for number in 0..64 {
        ports.push(world.login(number % 2, &login));
    }
    assert_eq!(world.try_login(0, &login).err(), Some(RejectReason::ChannelLimit));
    let reports = world.reports();
    let mut sessions: Vec<_> =
        reports.iter().flat_map(|report| &report.channels).map(|c| c.session).collect();
    sessions.dedup();
    assert_eq!(sessions.len(), 1);
    let other = world.login(0, &Login::multi(2));
    assert!(!other.closed());
    ports.pop();
    world.assert_home();
    ports.push(world.login(0, &login));
    let single = world.login(1, &Login::of(1));
    assert_eq!(single.inner().rsp.other_channels, OtherChannels::Terminated);
    world.until("all others to close", |_| ports.iter().all(|port| port.closed()));
    world.assert_home();
}

#[test]
fn a_login_in_progress_can_be_broken_off_at_any_time() {
    let (mut world, _gate) = gated(&Options { mailbox: 1, ..Options::cores(3) });
    let memory = SimMemory::new(0);
    for steps in 0..12 {
        for core in 0..3 {
            let single = world.connect(core, &Login::of(1), &memory);
            let multi = world.connect(core, &Login::multi(1), &memory);
            world.steps(steps);
            single.disconnect();
            multi.disconnect();
        }
    }
    world.assert_home();
    assert!(world.reports().iter().all(|report| report.channels.is_empty()));
}

/// A core is late with a login that its initiator has given up, and for which it has another.
#[test]
fn a_login_takes_over_no_session_of_a_later_one() {
    for (late, core) in [(1, 0), (1, 2), (0, 1)] {
        let (mut world, _gate) = gated(&Options::cores(3));
        let memory = SimMemory::new(0);
        let other = world.ready(core, &Login::of(2), &[0]);
        world.stall(late, 1000);
        let given_up = world.connect(late, &Login::of(1), &memory);
        let joins = world.connect(late, &Login::multi(1), &memory);
        given_up.disconnect();
        let port = world.ready(core, &Login::of(1), &[0]);
        let second = world.login(core, &Login::multi(1));
        let joins = world.finish(joins).expect("one channel more does no harm");
        world.steps(200);
        assert!([&port, &second, &joins, &other].iter().all(|port| !port.closed()));
        assert_eq!(world.run(&port, 0, &TUR, Data::None).status, GOOD, "the same session");
        let last = world.login(late, &Login::of(1));
        assert_eq!(last.inner().rsp.other_channels, OtherChannels::Terminated);
        world.until("the end of the others", |_| port.closed() && second.closed());
        world.assert_home();
    }
}
