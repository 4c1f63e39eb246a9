use proptest::prelude::*;

use super::super::fake::FakeLink;
use super::*;

const LUN: Lun = Lun([0, 3, 0, 0, 0, 0, 0, 0]);
const CDB: [u8; 16] = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0];
const SEG: Seg = Seg { addr: 0x1000, key: 7, len: 512 };

fn agreed(req_lim: i32) -> Agreed {
    Agreed { req_lim, it_bytes_max: 8260, ti_bytes_max: 8260, imm_data_offset: Some(68) }
}

fn channel(req_lim: i32) -> Channel<FakeLink> {
    Channel::new(FakeLink::default(), agreed(req_lim), 8, 1)
}

fn submit(channel: &mut Channel<FakeLink>, user: u64) -> Result<Tag, SubmitError> {
    channel.submit(&Command::new(LUN, &CDB, Data::In(&[SEG]), user))
}

/// An answer of the target.
fn rsp(tag: Tag, req_lim_delta: i32, response_code: Option<u8>) -> Vec<u8> {
    let rsp = Rsp {
        tag: tag.to_u64().to_be_bytes(),
        req_lim_delta,
        solicited: false,
        status: 0,
        residual: None,
        sense: &[],
        response_code,
    };
    let mut iu = vec![0; 64];
    let len = rsp.emit(&mut iu);
    iu.truncate(len);
    iu
}

/// What a poll reports, in few words.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Done(u64),
    Aborted(u64),
    TaskMgmt(u64, Option<u8>),
    Aer(Lun, Vec<u8>),
    Logout(u32),
    Protocol(ProtocolError),
}

fn seen(event: Event<'_>) -> Seen {
    match event {
        Event::Done(done) => Seen::Done(done.user),
        Event::Aborted { user, .. } => Seen::Aborted(user),
        Event::TaskMgmt { user, response_code, .. } => Seen::TaskMgmt(user, response_code),
        Event::Aer { lun, sense } => Seen::Aer(lun, sense.to_vec()),
        Event::Logout { reason } => Seen::Logout(reason),
        Event::Protocol(error) => Seen::Protocol(error),
    }
}

fn deliver(channel: &mut Channel<FakeLink>, ius: impl IntoIterator<Item = Vec<u8>>) -> Vec<Seen> {
    channel.link.arriving.extend(ius);
    let mut events = Vec::new();
    channel.poll(|event| events.push(seen(event))).unwrap();
    events
}

#[test]
fn a_command_is_a_64_byte_unit_and_ends_once() {
    let mut channel = channel(4);
    let tag = submit(&mut channel, 77).unwrap();
    let [iu] = &channel.link.sent[..] else { panic!() };
    assert_eq!(iu.len(), 64);
    let cmd = Cmd::parse(iu, None).unwrap();
    assert_eq!((cmd.lun, cmd.cdb, cmd.data_in), (LUN, &CDB[..], DataDesc::Direct(SEG)));
    assert!(cmd.data_out.is_none());

    assert_eq!((channel.credits(), channel.in_flight()), (3, 1));
    assert_eq!(deliver(&mut channel, [rsp(tag, 1, None)]), [Seen::Done(77)]);
    assert_eq!((channel.credits(), channel.in_flight()), (4, 0));

    // A second answer finds nothing, not even when the slot is in use again.
    let again = submit(&mut channel, 78).unwrap();
    assert_eq!(again.index(), tag.index());
    let unknown = ProtocolError::UnknownTag(tag);
    assert_eq!(deliver(&mut channel, [rsp(tag, 1, None)]), [Seen::Protocol(unknown)]);
    assert_eq!((channel.credits(), channel.in_flight(), channel.protocol_errors()), (4, 1, 1));
    assert_eq!(deliver(&mut channel, [rsp(again, 1, None)]), [Seen::Done(78)]);
}

#[test]
fn completions_carry_status_sense_and_residual() {
    let mut channel = channel(2);
    let tag = submit(&mut channel, 5).unwrap();
    let residual =
        Some(Residual { direction: crate::srp::Direction::In, overflow: false, count: 9 });
    let answer = Rsp {
        tag: tag.to_u64().to_be_bytes(),
        req_lim_delta: 1,
        solicited: true,
        status: 2,
        residual,
        sense: &[0x70, 0, 5],
        response_code: None,
    };
    let mut iu = vec![0; 64];
    let len = answer.emit(&mut iu);
    channel.link.arriving.push_back(iu[..len].to_vec());
    let mut ended = 0;
    channel
        .poll(|event| {
            let sense = &[0x70, 0, 5][..];
            let user = 5;
            let expected =
                Completion { tag, user, status: 2, sense, residual, response_code: None };
            assert_eq!(event, Event::Done(expected));
            ended += 1;
        })
        .unwrap();
    assert_eq!(ended, 1);
}

#[test]
fn the_last_credit_is_for_task_management() {
    let mut channel = channel(3);
    assert_eq!(channel.room(), 2);
    let first = submit(&mut channel, 0).unwrap();
    submit(&mut channel, 1).unwrap();
    assert!(matches!(submit(&mut channel, 2), Err(SubmitError::NoCredit)));
    let request =
        TaskRequest { function: Tmf::AbortTask as u8, lun: LUN, task: Some(first), user: 9 };
    channel.task_mgmt(&request).unwrap();
    assert_eq!(channel.credits(), 0);
    assert!(matches!(channel.task_mgmt(&request), Err(SubmitError::NoCredit)));
}

#[test]
fn credits_are_signed_and_never_more_than_slots() {
    let mut channel = channel(2);
    let tag = submit(&mut channel, 0).unwrap();
    deliver(&mut channel, [rsp(tag, -3, None)]);
    assert_eq!((channel.credits(), channel.room()), (-2, 0));
    assert!(matches!(submit(&mut channel, 0), Err(SubmitError::NoCredit)));

    let grant = |req_lim_delta| {
        let mut iu = vec![0; 16];
        CredReq { tag: [6; 8], solicited: false, req_lim_delta }.emit(&mut iu);
        iu
    };
    assert_eq!(deliver(&mut channel, [grant(i32::MAX)]), []);
    assert_eq!(deliver(&mut channel, [grant(i32::MAX)]), []);
    assert_eq!((channel.credits(), channel.room()), (i32::MAX, 8));
    for user in 0..8 {
        submit(&mut channel, user).unwrap();
    }
    assert!(matches!(submit(&mut channel, 8), Err(SubmitError::NoCredit)));
    let reset = TaskRequest { function: Tmf::LunReset as u8, lun: LUN, task: None, user: 9 };
    assert!(channel.task_mgmt(&reset).is_ok(), "a slot is left for task management");
    assert_eq!(deliver(&mut channel, [grant(i32::MIN)]), []);
    assert_eq!(deliver(&mut channel, [grant(i32::MIN)]), []);
    assert_eq!(channel.room(), 0);
}

#[test]
fn requests_of_the_target_are_answered() {
    let mut channel = channel(2);
    let mut cred = vec![0; 16];
    CredReq { tag: [6; 8], solicited: false, req_lim_delta: 5 }.emit(&mut cred);
    assert_eq!(deliver(&mut channel, [cred]), []);
    assert_eq!(CredRsp::parse(&channel.link.sent[0]), Ok(CredRsp { tag: [6; 8] }));
    assert_eq!((channel.credits(), channel.link.flushes), (7, 1));

    let mut aer = vec![0; 40];
    let request =
        AerReq { tag: [8; 8], solicited: false, req_lim_delta: -1, lun: LUN, sense: &[1, 2] };
    let len = request.emit(&mut aer);
    aer.truncate(len);
    assert_eq!(deliver(&mut channel, [aer.clone()]), [Seen::Aer(LUN, vec![1, 2])]);
    assert_eq!(AerRsp::parse(&channel.link.sent[1]), Ok(AerRsp { tag: [8; 8] }));
    assert_eq!(channel.credits(), 6);

    let many = deliver(&mut channel, vec![aer; ANSWERS_MAX + 1]);
    assert_eq!(many.last(), Some(&Seen::Protocol(ProtocolError::TooManyRequests)));
    assert_eq!(channel.link.sent.len(), 2 + ANSWERS_MAX);

    let mut logout = vec![0; 16];
    TLogout { tag: [0; 8], solicited: false, reason: 3 }.emit(&mut logout);
    assert_eq!(deliver(&mut channel, [logout]), [Seen::Logout(3)]);
    assert_eq!(channel.link.sent.len(), 2 + ANSWERS_MAX, "a logout is not answered");
}

#[test]
fn an_aborted_command_ends_with_the_answer_to_the_abort() {
    let mut channel = channel(4);
    let victim = submit(&mut channel, 1).unwrap();
    let other = submit(&mut channel, 2).unwrap();
    let request =
        TaskRequest { function: Tmf::AbortTask as u8, lun: LUN, task: Some(victim), user: 3 };
    let abort = channel.task_mgmt(&request).unwrap();
    let sent = TskMgmt::parse(&channel.link.sent[2]).unwrap();
    assert_eq!(sent.task_tag, victim.to_u64().to_be_bytes());
    assert_eq!(sent.tmf(), Some(Tmf::AbortTask));
    assert_eq!((channel.credits(), channel.in_flight()), (1, 3));
    // The credit of the aborted command comes with the answer.
    assert_eq!(
        deliver(&mut channel, [rsp(abort, 2, Some(response_code::SUCCESS))]),
        [Seen::Aborted(1), Seen::TaskMgmt(3, Some(0))]
    );
    assert_eq!((channel.credits(), channel.in_flight()), (3, 1));
    assert_eq!(deliver(&mut channel, [rsp(other, 1, None)]), [Seen::Done(2)]);
    assert_eq!(channel.credits(), 4);
}

#[test]
fn an_abort_that_fails_or_comes_late_takes_nothing() {
    let mut channel = channel(4);
    for (code, late) in [
        (Some(response_code::FAILED), false),
        (Some(response_code::NOT_SUPPORTED), false),
        (None, false),
        (Some(response_code::SUCCESS), true),
    ] {
        let victim = submit(&mut channel, 1).unwrap();
        let task = Some(victim);
        let request = TaskRequest { function: Tmf::AbortTask as u8, lun: LUN, task, user: 3 };
        let abort = channel.task_mgmt(&request).unwrap();
        let mut answers = [rsp(abort, 1, code), rsp(victim, 1, None)];
        let mut expected = [Seen::TaskMgmt(3, code), Seen::Done(1)];
        if late {
            answers.reverse();
            expected.reverse();
        }
        assert_eq!(deliver(&mut channel, answers), expected);
        assert_eq!((channel.credits(), channel.in_flight()), (4, 0));
    }
}

#[test]
fn a_reset_takes_what_was_sent_before_it_to_its_logical_unit() {
    let mut channel = channel(9);
    let elsewhere = Lun([0, 4, 0, 0, 0, 0, 0, 0]);
    submit(&mut channel, 1).unwrap();
    let other = channel.submit(&Command::new(elsewhere, &CDB, Data::None, 2)).unwrap();
    let request = TaskRequest { function: Tmf::LunReset as u8, lun: LUN, task: None, user: 3 };
    let reset = channel.task_mgmt(&request).unwrap();
    let after = submit(&mut channel, 4).unwrap();
    assert_eq!(TskMgmt::parse(&channel.link.sent[2]).unwrap().task_tag, NO_TASK);
    assert_eq!(
        deliver(&mut channel, [rsp(reset, 2, Some(response_code::SUCCESS))]),
        [Seen::Aborted(1), Seen::TaskMgmt(3, Some(0))]
    );
    assert_eq!(
        deliver(&mut channel, [rsp(after, 1, None), rsp(other, 1, None)]),
        [Seen::Done(4), Seen::Done(2)]
    );
    assert_eq!((channel.credits(), channel.in_flight()), (9, 0));

    submit(&mut channel, 5).unwrap();
    let mut events = Vec::new();
    channel.forget(elsewhere, |event| events.push(seen(event)));
    channel.forget(LUN, |event| events.push(seen(event)));
    assert_eq!(events, [Seen::Aborted(5)]);
}

#[test]
fn descriptors_take_the_form_that_fits() {
    let mut channel = channel(20);
    let segs = [SEG, Seg { addr: 9, key: 9, len: 9 }, SEG];
    let mut send = |data| {
        channel.submit(&Command::new(LUN, &CDB, data, 0)).unwrap();
        channel.link.sent.pop().unwrap()
    };

    let iu = send(Data::Out(&segs));
    let DataDesc::Indirect(found) = Cmd::parse(&iu, None).unwrap().data_out else { panic!() };
    assert!(found.segs().eq(segs));
    assert_eq!((found.total_len, found.is_external()), (1033, false));

    let memory = Seg { addr: 0x9000, key: 3, len: 48 };
    let iu = send(Data::InTable(Table { memory, total_len: 1033, in_iu: &segs[..1] }));
    let DataDesc::Indirect(found) = Cmd::parse(&iu, None).unwrap().data_in else { panic!() };
    assert_eq!((found.table, found.segs().len(), found.is_external()), (memory, 1, true));

    let iu = send(Data::OutImmediate(b"data"));
    let found = Cmd::parse(&iu, Some(68)).unwrap();
    assert_eq!(found.data_out, DataDesc::Immediate(b"data"));
    let iu = send(Data::In(&[]));
    assert_eq!(iu.len(), 48);
}

#[test]
fn what_can_not_be_sent_changes_nothing() {
    const HUGE: [Seg; 2] = [Seg { len: u32::MAX, ..SEG }; 2];
    let mut channel = channel(4);
    let mut refused = |data| {
        let refused = channel.submit(&Command::new(LUN, &CDB, data, 0)).unwrap_err();
        assert_eq!((channel.credits(), channel.in_flight(), channel.link.sent.len()), (4, 0, 0));
        refused
    };
    assert!(matches!(refused(Data::In(&[SEG; 256])), SubmitError::TooLong));
    assert!(matches!(refused(Data::In(&HUGE)), SubmitError::TooLong));
    assert!(matches!(refused(Data::OutImmediate(&[0; 8193])), SubmitError::TooLong));
    channel.agreed.imm_data_offset = None;
    let data = Data::OutImmediate(&[0; 4]);
    let refused = channel.submit(&Command::new(LUN, &CDB, data, 0));
    assert!(matches!(refused, Err(SubmitError::NoImmediateData)));
    channel.link.sends_max = Some(0);
    assert!(matches!(submit(&mut channel, 0), Err(SubmitError::Link(LinkError::Full))));
    assert_eq!((channel.credits(), channel.in_flight()), (4, 0));
}

#[test]
fn the_longest_immediate_data_fits() {
    let mut channel = channel(4);
    channel.submit(&Command::new(LUN, &CDB, Data::OutImmediate(&[0; 8192]), 0)).unwrap();
    assert_eq!(channel.link.sent[0].len(), 8260);
}

#[test]
fn a_closed_link_reports_its_last_events_first() {
    let mut channel = channel(4);
    let tag = submit(&mut channel, 1).unwrap();
    channel.link.arriving.push_back(rsp(tag, 1, None));
    channel.link.closed = true;
    let mut events = Vec::new();
    assert!(matches!(channel.poll(|event| events.push(seen(event))), Err(LinkError::Closed)));
    assert_eq!(events, [Seen::Done(1)]);
}

#[test]
fn logout_uses_no_credit() {
    let mut channel = channel(0);
    channel.logout().unwrap();
    assert!(ILogout::parse(&channel.link.sent[0]).is_ok());
    assert_eq!((channel.credits(), channel.link.flushes), (0, 1));
}

#[test]
fn only_a_target_s_units_are_taken() {
    let mut channel = channel(4);
    let events = deliver(&mut channel, [vec![], vec![0x03; 16], vec![0xC1; 35], vec![0xC0; 52]]);
    let short = Malformed::TooShort { opcode: Opcode::Rsp, len: 35 };
    assert_eq!(
        events,
        [
            Seen::Protocol(Malformed::Empty.into()),
            Seen::Protocol(ProtocolError::Misplaced(Opcode::ILogout)),
            Seen::Protocol(short.into()),
            Seen::Protocol(ProtocolError::Misplaced(Opcode::LoginRsp)),
        ]
    );
    assert_eq!(channel.protocol_errors(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn commands_end_once_and_credits_are_what_was_granted(
        steps in prop::collection::vec((0u8..5, any::<prop::sample::Index>(), -1i32..4), 1..200),
    ) {
        let mut channel = channel(6);
        let mut credits = 6;
        let mut alive: Vec<(Tag, u64, bool)> = Vec::new();
        let mut ended = std::collections::BTreeMap::new();
        let mut started = 0;
        for (step, pick, delta) in steps {
            match step {
                0 | 1 => match submit(&mut channel, started) {
                    Ok(tag) => {
                        alive.push((tag, started, true));
                        credits -= 1;
                        started += 1;
                    }
                    Err(_) => prop_assert!(credits <= 1 || alive.len() >= 8),
                },
                2 if !alive.is_empty() => {
                    let task = Some(pick.get(&alive).0);
                    let function = Tmf::AbortTask as u8;
                    let request = TaskRequest { function, lun: LUN, task, user: started };
                    if let Ok(tag) = channel.task_mgmt(&request) {
                        alive.push((tag, started, false));
                        credits -= 1;
                        started += 1;
                    }
                }
                _ if !alive.is_empty() => {
                    let (tag, _, is_command) = alive[pick.index(alive.len())];
                    let code = (!is_command).then_some(response_code::SUCCESS);
                    credits += delta;
                    for event in deliver(&mut channel, [rsp(tag, delta, code)]) {
                        let (Seen::Done(user) | Seen::Aborted(user) | Seen::TaskMgmt(user, _)) =
                            event
                        else {
                            return Err(TestCaseError::fail(format!("{event:?}")));
                        };
                        *ended.entry(user).or_insert(0) += 1;
                        alive.retain(|(_, other, _)| *other != user);
                    }
                }
                _ => {}
            }
            prop_assert_eq!(channel.credits(), credits);
            prop_assert_eq!(channel.in_flight(), alive.len());
        }
        prop_assert_eq!(ended.len() + alive.len(), started as usize);
        prop_assert!(ended.values().all(|&times| times == 1));
    }

    #[test]
    fn no_bytes_of_a_target_make_the_channel_panic(
        ius in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20),
        opcode in prop::sample::select(&[0xC1u8, 0x80, 0x81, 0x82, 0xC0, 0x02][..]),
    ) {
        let mut channel = channel(4);
        submit(&mut channel, 0).unwrap();
        deliver(&mut channel, ius.into_iter().map(|mut iu| {
            if let Some(first) = iu.first_mut() {
                *first = opcode;
            }
            iu
        }));
    }
}
