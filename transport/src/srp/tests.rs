//! Byte layouts against hand-written bytes, first refused and last accepted lengths, and the two
//! laws of every parser: it never panics, and `emit(parse(x)) == x` for canonical bytes.

use proptest::prelude::*;

use super::*;

mod short;

const TAG_BYTES: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
const SEG: Seg = Seg { addr: 0x1112_1314_1516_1718, key: 0x2122_2324, len: 0x200 };
const SEG_BYTES: [u8; 16] = [
    0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, // addr
    0x21, 0x22, 0x23, 0x24, // key
    0, 0, 2, 0, // len
];

/// Bytes from (offset, bytes) pairs; zero elsewhere.
fn bytes(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut all = vec![0; len];
    for (at, part) in parts {
        put(&mut all, *at, part);
    }
    all
}

/// What `emit` writes into dirty space: stale bytes must not survive.
fn emitted(emit: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut space = vec![0xEE; 9000];
    let len = emit(&mut space);
    assert!(space[len..].iter().all(|&byte| byte == 0xEE), "wrote past its length");
    space.truncate(len);
    space
}

fn cmd(data_out: DataDesc<'static>, data_in: DataDesc<'static>) -> Cmd<'static> {
    Cmd {
        tag: TAG_BYTES,
        lun: Lun([0, 9, 0, 0, 0, 0, 0, 0]),
        task_attr: TaskAttr::Ordered,
        sol_not: SolNot { on_success: true, on_failure: true },
        cdb: &[0x28, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        data_out,
        data_in,
    }
}

fn fault(iu: &[u8], imm_data_offset: Option<u32>) -> CmdFault {
    match Cmd::parse(iu, imm_data_offset) {
        Err(CmdError::Invalid(invalid)) => {
            assert_eq!((invalid.tag, invalid.lun.number()), (TAG_BYTES, Some(9)));
            invalid.fault
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn login_request_has_one_meaning_in_both_forms() {
    let (initiator, target) = ([0xA1; 16], [0xB2; 16]);
    let ib = bytes(
        64,
        &[
            (8, &TAG_BYTES),
            (16, &[0, 0, 0x20, 0x44]),
            (24, &[0, 6]),
            (26, &[0x81]),
            (28, &[0, 68]),
            (32, &initiator),
            (48, &target),
        ],
    );
    let rdma_cm = bytes(
        56,
        &[
            (0, &TAG_BYTES),
            (8, &[0, 6]),
            (10, &[0x81]),
            (12, &[0, 0, 0x20, 0x44]),
            (16, &initiator),
            (32, &target),
            (48, &[0, 68]),
        ],
    );
    let long = LoginReq::parse(&ib).unwrap();
    let short = LoginReq::parse(&rdma_cm).unwrap();
    assert_eq!(LoginReq { form: LoginForm::Ib, ..short }, long);
    assert_eq!((long.form, short.form), (LoginForm::Ib, LoginForm::RdmaCm));
    assert_eq!((long.req_it_iu_len, long.req_buf_fmt), (8260, 6));
    assert_eq!((long.multichannel(), long.immediate_data()), (Multichannel::Multi, Some(68)));
    assert_eq!((long.initiator_port_id, long.target_port_id), (initiator, target));
    assert_eq!(emitted(|to| long.emit(to)), ib);
    assert_eq!(emitted(|to| short.emit(to)), rdma_cm);

    let quiet = LoginReq { req_flags: 0, ..long };
    assert_eq!((quiet.multichannel(), quiet.immediate_data()), (Multichannel::Single, None));
    let padded = bytes(92, &[(0, &ib)]);
    assert_eq!(LoginReq::parse(&padded), Ok(long));
    assert_eq!(
        LoginReq::parse(&rdma_cm[..55]),
        Err(Malformed::TooShort { opcode: Opcode::LoginReq, len: 55 })
    );
    let mut wrong = ib;
    wrong[0] = 0x02;
    assert!(matches!(LoginReq::parse(&wrong), Err(Malformed::Unexpected { .. })));
}

#[test]
fn login_answers() {
    let rsp = LoginRsp {
        tag: TAG_BYTES,
        req_lim_delta: 128,
        max_it_iu_len: 8276,
        max_ti_iu_len: 8260,
        buf_fmt: BUF_FMT_DIRECT | BUF_FMT_INDIRECT,
        other_channels: OtherChannels::Kept,
        immediate_data: true,
    };
    let expected = bytes(
        52,
        &[
            (0, &[0xC0]),
            (4, &[0, 0, 0, 128]),
            (8, &TAG_BYTES),
            (16, &[0, 0, 0x20, 0x54]),
            (20, &[0, 0, 0x20, 0x44]),
            (24, &[0, 6]),
            (26, &[0x82]),
        ],
    );
    assert_eq!(emitted(|to| rsp.emit(to)), expected);
    assert_eq!(LoginRsp::parse(&expected), Ok(rsp));

    let rej = LoginRej { tag: TAG_BYTES, reason: RejectReason::ItIuTooLarge, buf_fmt: 6 };
    let expected = bytes(32, &[(0, &[0xC2]), (4, &[0, 1, 0, 2]), (8, &TAG_BYTES), (24, &[0, 6])]);
    assert_eq!(emitted(|to| rej.emit(to)), expected);
    assert_eq!(LoginRej::parse(&expected), Ok(rej));
    assert!(LoginRej::parse(&bytes(32, &[(0, &[0xC2])])).is_err(), "reason 0 is undefined");
    for code in 0x0000_FFFF..0x0001_0008 {
        let reason = RejectReason::from_code(code);
        assert_eq!(reason.map(|reason| reason as u32), reason.and(Some(code)));
        assert_eq!(reason.is_some(), (0x0001_0000..=0x0001_0006).contains(&code));
    }
}

#[test]
fn command_with_one_direct_descriptor() {
    // The count stays 0, as Linux leaves it.
    let expected = bytes(
        64,
        &[
            (0, &[0x02, 0x06]),
            (5, &[0x01, 0, 0]),
            (8, &TAG_BYTES),
            (20, &[0, 9]),
            (29, &[2]),
            (32, &[0x28, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
            (48, &SEG_BYTES),
        ],
    );
    let value = cmd(DataDesc::None, DataDesc::Direct(SEG));
    assert_eq!(Cmd::parse(&expected, None), Ok(value));
    assert_eq!(emitted(|to| value.emit(None, to)), expected);
    assert_eq!(value.data_in.data_len(), 0x200);
    assert_eq!(fault(&expected[..63], None), CmdFault::Truncated(Direction::In));

    let mut counted = expected;
    counted[7] = 1;
    assert_eq!(Cmd::parse(&counted, None), Ok(value));
}

#[test]
fn data_out_descriptors_come_first() {
    let other = Seg { addr: 7, key: 8, len: 9 };
    let value = cmd(DataDesc::Direct(SEG), DataDesc::Direct(other));
    let iu = emitted(|to| value.emit(None, to));
    assert_eq!(iu.len(), 80);
    assert_eq!(iu[5], 0x11);
    assert_eq!(iu[48..64], SEG_BYTES);
    assert_eq!(iu[64..80], other.to_bytes());
    assert_eq!(Cmd::parse(&iu, None), Ok(value));
}

#[test]
fn command_with_additional_cdb() {
    let cdb: [u8; 32] = std::array::from_fn(|at| at as u8);
    let value = Cmd { cdb: &cdb, ..cmd(DataDesc::Direct(SEG), DataDesc::None) };
    let mut iu = emitted(|to| value.emit(None, to));
    assert_eq!((iu.len(), iu[31], iu[5]), (80, 16, 0x10));
    // The low two bits of the length are not part of it.
    iu[31] |= 3;
    assert_eq!(Cmd::parse(&iu, None), Ok(value));
    iu[31] = 32;
    assert_eq!(fault(&iu, None), CmdFault::Truncated(Direction::Out));
    iu[31] = 36;
    assert_eq!(fault(&iu, None), CmdFault::AdditionalCdb);

    let short = Cmd { cdb: &cdb[..6], ..cmd(DataDesc::None, DataDesc::None) };
    let iu = emitted(|to| short.emit(None, to));
    assert_eq!((iu.len(), &iu[32..38], &iu[38..]), (48, &cdb[..6], &[0; 10][..]));
}

#[test]
fn command_with_indirect_table() {
    let mut iu = bytes(
        48 + 20 + 32,
        &[
            (0, &[0x02, 0x06]),
            (5, &[0x20, 2, 0]),
            (8, &TAG_BYTES),
            (20, &[0, 9]),
            (29, &[2]),
            (32, &[0x28, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
            (60, &[0, 0, 0, 32]),
            (64, &[0, 0, 4, 0]),
            (68, &SEG_BYTES),
            (84, &SEG_BYTES),
        ],
    );
    let parsed = Cmd::parse(&iu, None).unwrap();
    let DataDesc::Indirect(indirect) = parsed.data_out else { panic!("{parsed:?}") };
    assert_eq!(indirect.segs().collect::<Vec<_>>(), [SEG, SEG]);
    assert_eq!((indirect.total_len, indirect.is_external()), (0x400, false));
    assert!(covers(indirect.segs(), 0x400) && !covers(indirect.segs(), 0x401));
    assert_eq!(emitted(|to| parsed.emit(None, to)), iu);
    assert_eq!(fault(&iu[..99], None), CmdFault::Truncated(Direction::Out));

    for (table_len, verdict) in [(31, false), (16, false), (0, false), (33, false), (48, true)] {
        iu[63] = table_len;
        match Cmd::parse(&iu, None) {
            Ok(Cmd { data_out: DataDesc::Indirect(indirect), .. }) => {
                assert!(verdict && indirect.is_external());
            }
            _ => {
                assert!(!verdict);
                assert_eq!(fault(&iu, None), CmdFault::TableLength(Direction::Out));
            }
        }
    }
    // A table that is not in the IU at all.
    iu[6] = 0;
    let parsed = Cmd::parse(&iu[..68], None).unwrap();
    let DataDesc::Indirect(indirect) = parsed.data_out else { panic!("{parsed:?}") };
    assert_eq!((indirect.segs().len(), indirect.table_entries()), (0, 3));
}

#[test]
fn fetched_tables() {
    let segs = [SEG, Seg { addr: 1, key: 2, len: u32::MAX }];
    let mut table = [0xEE; 33];
    assert_eq!(encode_table(&segs, &mut table), 32);
    assert_eq!(table[..16], SEG_BYTES);
    assert!(decode_table(&table[..32]).unwrap().eq(segs));
    assert!(decode_table(&table).is_none());
    // A sum past 32 bits does not wrap.
    assert!(covers([segs[1], segs[1]], u32::MAX));
    assert!(!covers([], 1) && covers([], 0));
}

#[test]
fn immediate_data_is_inside_the_received_bytes() {
    let value = cmd(DataDesc::Immediate(b"hello"), DataDesc::None);
    let mut iu = emitted(|to| value.emit(Some(68), to));
    assert_eq!((iu.len(), iu[5], &iu[48..52]), (73, 0x30, &[0, 0, 0, 5][..]));
    assert_eq!((&iu[52..68], &iu[68..]), (&[0; 16][..], &b"hello"[..]));
    assert_eq!(Cmd::parse(&iu, Some(68)), Ok(value));
    assert_eq!(fault(&iu[..72], Some(68)), CmdFault::ImmediateData);
    assert_eq!(fault(&iu, Some(69)), CmdFault::ImmediateData);
    assert!(Cmd::parse(&iu, Some(52)).is_ok());
    assert_eq!(fault(&iu, Some(51)), CmdFault::ImmediateData, "overlaps its descriptor");
    assert_eq!(fault(&iu, Some(u32::MAX)), CmdFault::ImmediateData);
    assert_eq!(fault(&iu, None), CmdFault::Format(Direction::Out), "not agreed on");
    // Offset + length wraps to a small number in 32 bits.
    put(&mut iu, 48, &(u32::MAX - 67).to_be_bytes());
    assert_eq!(fault(&iu, Some(68)), CmdFault::ImmediateData);
    iu[5] = 0x03;
    assert_eq!(fault(&iu, Some(68)), CmdFault::Format(Direction::In));
}

#[test]
fn undefined_formats_are_refused() {
    let iu = emitted(|to| cmd(DataDesc::Direct(SEG), DataDesc::None).emit(None, to));
    for nibble in 4..16 {
        let mut wrong = iu.clone();
        wrong[5] = nibble << 4;
        assert_eq!(fault(&wrong, None), CmdFault::Format(Direction::Out));
        wrong[5] = nibble;
        assert_eq!(fault(&wrong, None), CmdFault::Format(Direction::In));
    }
}

#[test]
fn task_management() {
    let expected = bytes(
        48,
        &[(0, &[0x01, 0x04]), (8, &TAG_BYTES), (20, &[0x41, 0]), (30, &[0x08]), (32, &[0xFF; 8])],
    );
    let value = TskMgmt::parse(&expected).unwrap();
    assert_eq!((value.tmf(), value.lun.number()), (Some(Tmf::LunReset), Some(0x100)));
    assert_eq!(value.sol_not, SolNot { on_success: false, on_failure: true });
    assert!(value.sol_not.solicits(false) && !value.sol_not.solicits(true));
    assert_eq!((value.tag, value.task_tag), (TAG_BYTES, [0xFF; 8]));
    assert_eq!(emitted(|to| value.emit(to)), expected);
    assert_eq!(TskMgmt { function: 0x10, ..value }.tmf(), None);
}

#[test]
fn responses() {
    let good = Rsp {
        tag: TAG_BYTES,
        req_lim_delta: -2,
        solicited: true,
        status: 0,
        residual: None,
        sense: &[],
        response_code: None,
    };
    let expected = bytes(36, &[(0, &[0xC1, 1]), (4, &[0xFF, 0xFF, 0xFF, 0xFE]), (8, &TAG_BYTES)]);
    assert_eq!(emitted(|to| good.emit(to)), expected);
    assert_eq!(Rsp::parse(&expected), Ok(good));

    let check = Rsp { solicited: false, status: 2, sense: &[0x70, 0, 5], ..good };
    let iu = emitted(|to| check.emit(to));
    assert_eq!((iu[18], iu[19], &iu[28..32], &iu[36..]), (2, 2, &[0, 0, 0, 3][..], check.sense));
    assert_eq!(Rsp::parse(&iu), Ok(check));
    assert!(Rsp::parse(&iu[..38]).is_err(), "sense reaches past the received bytes");
    assert_eq!(emitted(|to| check.emit(&mut to[..38]))[28..], [0, 0, 0, 2, 0, 0, 0, 0, 0x70, 0]);
    assert_eq!(emitted(|to| check.emit(&mut to[..36]))[18], 0, "no room for sense");

    let tmf = Rsp { response_code: Some(response_code::NOT_SUPPORTED), ..good };
    let iu = emitted(|to| tmf.emit(to));
    assert_eq!((iu[18], &iu[32..]), (1, &[0, 0, 0, 4, 0, 0, 0, 4][..]));
    assert_eq!(Rsp::parse(&iu), Ok(tmf));
    assert!(Rsp::parse(&iu[..39]).is_err());
    let mut short = iu;
    short[35] = 3;
    assert!(Rsp::parse(&short).is_err(), "no code in three bytes");
}

#[test]
fn residuals() {
    for (direction, overflow, flag, at) in [
        (Direction::Out, true, 0x04, 20),
        (Direction::Out, false, 0x08, 20),
        (Direction::In, true, 0x10, 24),
        (Direction::In, false, 0x20, 24),
    ] {
        let rsp = Rsp {
            tag: TAG_BYTES,
            req_lim_delta: 1,
            solicited: false,
            status: 0,
            residual: Some(Residual { direction, overflow, count: 0x0102_0304 }),
            sense: &[1],
            response_code: None,
        };
        let iu = emitted(|to| rsp.emit(to));
        assert_eq!((iu[18], &iu[at..at + 4]), (flag | 2, &[1, 2, 3, 4][..]));
        assert_eq!(Rsp::parse(&iu), Ok(rsp));
    }
}

#[test]
fn small_units() {
    let plain = |opcode| bytes(16, &[(0, &[opcode]), (8, &TAG_BYTES)]);
    assert_eq!(emitted(|to| ILogout { tag: TAG_BYTES }.emit(to)), plain(0x03));
    assert_eq!(emitted(|to| CredRsp { tag: TAG_BYTES }.emit(to)), plain(0x41));
    assert_eq!(emitted(|to| AerRsp { tag: TAG_BYTES }.emit(to)), plain(0x42));
    assert_eq!(ILogout::parse(&plain(0x03)), Ok(ILogout { tag: TAG_BYTES }));
    assert_eq!(CredRsp::parse(&plain(0x41)), Ok(CredRsp { tag: TAG_BYTES }));
    assert_eq!(AerRsp::parse(&plain(0x42)), Ok(AerRsp { tag: TAG_BYTES }));

    let numbered =
        |opcode| bytes(16, &[(0, &[opcode, 1]), (4, &[0xFF, 0xFF, 0xFF, 1]), (8, &TAG_BYTES)]);
    let logout = TLogout { tag: TAG_BYTES, solicited: true, reason: 0xFFFF_FF01 };
    assert_eq!(emitted(|to| logout.emit(to)), numbered(0x80));
    assert_eq!(TLogout::parse(&numbered(0x80)), Ok(logout));
    let cred = CredReq { tag: TAG_BYTES, solicited: true, req_lim_delta: -255 };
    assert_eq!(emitted(|to| cred.emit(to)), numbered(0x81));
    assert_eq!(CredReq::parse(&numbered(0x81)), Ok(cred));

    let lun = Lun([0, 7, 0, 0, 0, 0, 0, 0]);
    let aer = AerReq { tag: TAG_BYTES, solicited: false, req_lim_delta: 1, lun, sense: &[0x70, 6] };
    let expected = bytes(
        38,
        &[
            (0, &[0x82]),
            (4, &[0, 0, 0, 1]),
            (8, &TAG_BYTES),
            (20, &lun.0),
            (28, &[0, 0, 0, 2]),
            (36, &[0x70, 6]),
        ],
    );
    assert_eq!(emitted(|to| aer.emit(to)), expected);
    assert_eq!(AerReq::parse(&expected), Ok(aer));
    assert!(AerReq::parse(&expected[..37]).is_err());
}

#[test]
fn every_opcode_has_a_shortest_length() {
    for (byte, min) in [
        (0x00, 64),
        (0x01, 48),
        (0x02, 48),
        (0x03, 16),
        (0x41, 16),
        (0x42, 16),
        (0x80, 16),
        (0x81, 16),
        (0x82, 36),
        (0xC0, 52),
        (0xC1, 36),
        (0xC2, 32),
    ] {
        let iu = bytes(min, &[(0, &[byte])]);
        let opcode = Opcode::of(&iu).unwrap();
        assert_eq!(opcode as u8, byte);
        let len = min - 1;
        assert_eq!(Opcode::of(&iu[..len]), Err(Malformed::TooShort { opcode, len }));
        assert_eq!(mismatch(&iu[..len], Opcode::Cmd), Malformed::TooShort { opcode, len });
    }
    assert_eq!(Opcode::of(&[]), Err(Malformed::Empty));
    assert_eq!((0..=255).filter_map(Opcode::from_byte).count(), 12);
    assert_eq!(Opcode::of(&[4; 99]), Err(Malformed::UnknownOpcode { byte: 4 }));
    assert_eq!(
        Cmd::parse(&[0x02; 47], None),
        Err(CmdError::Malformed(Malformed::TooShort { opcode: Opcode::Cmd, len: 47 }))
    );
    assert_eq!(
        ILogout::parse(&[0x41; 16]),
        Err(Malformed::Unexpected { wanted: Opcode::ILogout, found: Opcode::CredRsp })
    );
}

#[test]
fn lun_forms() {
    for (wire, number) in [
        ([0, 0, 0, 0, 0, 0, 0, 0], Some(0)),
        ([0, 255, 0, 0, 0, 0, 0, 0], Some(255)),
        ([1, 0, 0, 0, 0, 0, 0, 0], None),
        ([0x40, 5, 0, 0, 0, 0, 0, 0], Some(5)),
        ([0x41, 0, 0, 0, 0, 0, 0, 0], Some(256)),
        ([0x7F, 0xFF, 0, 0, 0, 0, 0, 0], Some(16383)),
        ([0x80, 0, 0, 0, 0, 0, 0, 0], None),
        ([0xC1, 1, 0, 0, 0, 0, 0, 0], None),
        ([0xD2, 0, 0, 1, 0, 0, 0, 0], None),
        ([0, 1, 0, 1, 0, 0, 0, 0], None),
        ([0, 1, 0, 0, 0, 0, 0, 1], None),
    ] {
        assert_eq!(Lun(wire).number(), number, "{wire:x?}");
    }
    for number in 0..=Lun::MAX {
        assert_eq!(Lun::from_number(number).unwrap().number(), Some(number));
    }
    assert_eq!(Lun::from_number(Lun::MAX + 1), None);
}

/// Random bytes that often are a unit: the opcode is real, and the length is often near a minimum.
fn any_unit() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop::sample::select(
        &[0x00, 0x01, 0x02, 0x03, 0x41, 0x42, 0x80, 0x81, 0x82, 0xC0, 0xC1, 0xC2, 0x7F][..],
    );
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..140),
        prop::collection::vec(any::<u8>(), 0..9000),
        // Small numbers pass more length checks.
        prop::collection::vec(prop::sample::select(&[0u8, 0, 0, 0, 1, 2, 16, 32][..]), 0..400),
    ];
    (opcode, bytes).prop_map(|(opcode, mut bytes)| {
        if let Some(first) = bytes.first_mut() {
            *first = opcode;
        }
        bytes
    })
}

fn any_seg() -> impl Strategy<Value = Seg> {
    (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(addr, key, len)| Seg { addr, key, len })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn no_bytes_make_a_parser_panic(
        iu in any_unit(),
        offset in any::<Option<u32>>(),
        near in 0u32..200,
    ) {
        // What one emits again has the same meaning, whatever the reserved bytes were.
        for offset in [offset, Some(near), None] {
            if let Ok(cmd) = Cmd::parse(&iu, offset) {
                let again = emitted(|to| cmd.emit(offset, to));
                prop_assert_eq!(Cmd::parse(&again, offset), Ok(cmd));
                for data in [cmd.data_out, cmd.data_in] {
                    if let DataDesc::Indirect(indirect) = data {
                        let sum: u64 = indirect.segs().map(|seg| u64::from(seg.len)).sum();
                        prop_assert_eq!(covers(indirect.segs(), indirect.total_len),
                            sum >= u64::from(indirect.total_len));
                    }
                }
            }
        }
        if let Ok(rsp) = Rsp::parse(&iu) {
            let again = emitted(|to| rsp.emit(to));
            prop_assert_eq!(Rsp::parse(&again), Ok(rsp));
        }
        if let Ok(aer) = AerReq::parse(&iu) {
            let again = emitted(|to| aer.emit(to));
            prop_assert_eq!(AerReq::parse(&again), Ok(aer));
        }
        if let Ok(req) = LoginReq::parse(&iu) {
            let again = emitted(|to| req.emit(to));
            prop_assert_eq!(LoginReq::parse(&again), Ok(req));
        }
        let _ = (Opcode::of(&iu), LoginRsp::parse(&iu), LoginRej::parse(&iu), TskMgmt::parse(&iu));
        let _ = (ILogout::parse(&iu), TLogout::parse(&iu), CredReq::parse(&iu));
        let _ = (CredRsp::parse(&iu), AerRsp::parse(&iu), decode_table(&iu));
    }

    #[test]
    fn canonical_commands_survive_the_round_trip(
        tag in any::<[u8; 8]>(),
        lun in any::<[u8; 8]>(),
        words in 4usize..=67,
        fill in any::<u8>(),
        out in prop::collection::vec(any_seg(), 0..256),
        inn in prop::collection::vec(any_seg(), 0..4),
        external in 0u32..3,
    ) {
        let cdb = vec![fill; words * 4];
        let table =
            |segs: &[Seg]| -> Vec<[u8; 16]> { segs.iter().map(|seg| seg.to_bytes()).collect() };
        let (out_table, in_table) = (table(&out), table(&inn));
        let desc = |segs: &[Seg], in_iu| match segs {
            [] => DataDesc::None,
            [seg] => DataDesc::Direct(*seg),
            _ => DataDesc::Indirect(Indirect {
                table: Seg { len: (segs.len() as u32 + external) * 16, ..segs[0] },
                total_len: segs[1].len,
                in_iu,
            }),
        };
        let value = Cmd {
            tag,
            lun: Lun(lun),
            task_attr: TaskAttr::Aca,
            sol_not: SolNot { on_success: fill & 1 != 0, on_failure: fill & 2 != 0 },
            cdb: &cdb,
            data_out: desc(&out, &out_table),
            data_in: desc(&inn, &in_table),
        };
        let iu = emitted(|to| value.emit(None, to));
        let parsed = Cmd::parse(&iu, None).unwrap();
        prop_assert_eq!(parsed, value);
        prop_assert_eq!(emitted(|to| parsed.emit(None, to)), iu);
    }
}
