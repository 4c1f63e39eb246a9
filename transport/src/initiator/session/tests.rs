use super::super::fake::FakeConnector;
use super::*;
use crate::srp::OtherChannels;

const INITIATOR: PortId = [1; 16];
const TARGET: PortId = [2; 16];

fn accepted(immediate_data: bool, max_it_iu_len: u32) -> Result<Vec<u8>, ConnectError> {
    let rsp = LoginRsp {
        tag: [0; 8],
        req_lim_delta: 32,
        max_it_iu_len,
        max_ti_iu_len: 300,
        buf_fmt: 6,
        other_channels: OtherChannels::None,
        immediate_data,
    };
    let mut bytes = vec![0; LoginRsp::LEN];
    rsp.emit(&mut bytes);
    Ok(bytes)
}

fn connector(answers: impl IntoIterator<Item = Result<Vec<u8>, ConnectError>>) -> FakeConnector {
    let answers: Vec<_> = answers.into_iter().collect();
    FakeConnector { requests: Default::default(), answers: std::cell::RefCell::new(answers.into()) }
}

#[test]
fn the_first_channel_ends_the_others_and_the_rest_joins_it() {
    let connector = connector([accepted(true, 8276), accepted(true, 8276), accepted(false, 500)]);
    let options = LoginOptions::new(INITIATOR, TARGET);
    let session = Session::login(&connector, &options, 3, 4096).unwrap();
    let requests: Vec<_> =
        connector.requests.borrow().iter().map(|iu| LoginReq::parse(iu).unwrap()).collect();
    assert_eq!(
        requests.iter().map(LoginReq::multichannel).collect::<Vec<_>>(),
        [Multichannel::Single, Multichannel::Multi, Multichannel::Multi]
    );
    assert_eq!(requests[0].immediate_data(), Some(68));
    assert_eq!((requests[0].req_it_iu_len, requests[0].form), (8260, LoginForm::Ib));
    assert_eq!((requests[0].initiator_port_id, requests[0].target_port_id), (INITIATOR, TARGET));

    let first = session.channels[0].agreed();
    assert_eq!((first.it_bytes_max, first.imm_data_offset, first.req_lim), (8260, Some(68), 32));
    let third = session.channels[2].agreed();
    assert_eq!((third.it_bytes_max, third.ti_bytes_max), (500, 300));
    assert_eq!(third.imm_data_offset, None, "asked for, but not granted");
}

#[test]
fn the_short_form_without_immediate_data() {
    let connector = connector([accepted(true, 8276)]);
    let options = LoginOptions {
        form: LoginForm::RdmaCm,
        imm_data_offset: None,
        flags: LoginReq::FLAG_AER_SOLICITED,
        ..LoginOptions::new(INITIATOR, TARGET)
    };
    let session = Session::login(&connector, &options, 1, 4096).unwrap();
    let requests = connector.requests.borrow();
    assert_eq!(requests[0].len(), 56);
    assert_eq!(LoginReq::parse(&requests[0]).unwrap().req_flags, 0x40);
    assert_eq!(session.channels[0].agreed().imm_data_offset, None, "granted, but not asked for");
}

#[test]
fn refusals() {
    let mut rej = vec![0; LoginRej::LEN];
    LoginRej { tag: [0; 8], reason: RejectReason::ChannelLimit, buf_fmt: 6 }.emit(&mut rej);
    let log_in = |answer| {
        let connector = connector([answer]);
        Session::login(&connector, &LoginOptions::new(INITIATOR, TARGET), 1, 0).map(|_| ())
    };
    let rejected = log_in(Err(ConnectError::Rejected(rej)));
    assert!(matches!(rejected, Err(LoginError::Rejected(RejectReason::ChannelLimit))));
    let garbage = log_in(Err(ConnectError::Rejected(vec![])));
    assert!(matches!(garbage, Err(LoginError::Malformed(Malformed::Empty))));
    assert!(matches!(log_in(Ok(vec![0xC0; 51])), Err(LoginError::Malformed(_))));
    assert!(matches!(log_in(accepted(true, 63)), Err(LoginError::IuTooSmall(63))));
    assert!(log_in(accepted(true, 64)).is_ok());
}
