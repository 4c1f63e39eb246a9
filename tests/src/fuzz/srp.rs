//! The wire format: what is accepted is sent again bit by bit, but for reserved fields.

use std::ops::Range;

use srpt_tgt::scsi::report_luns::lun_of;
use transport::rdma::{login_part, login_tag};
use transport::srp::{
    AerReq, AerRsp, Cmd, CmdError, CredReq, CredRsp, DESCRIPTOR_BYTES, DataDesc, DirectCmd,
    Direction, ILogout, INDIRECT_BYTES, ImmediateCmd, LoginForm, LoginRej, LoginReq, LoginRsp, Lun,
    Opcode, Rsp, Seg, TLogout, TskMgmt, covers, decode_table, encode_table,
};

use super::Input;

/// SCSOLNT and UCSOLNT.
const SOL_NOT: u8 = 0x06;

/// A unit of either side, with the offset of immediate data in front; 0 for none.
pub(super) fn unit(input: &[u8]) {
    let mut input = Input::new(input);
    let offset = Some(u32::from(input.u16())).filter(|offset| *offset > 0);
    let iu = input.rest();
    command(iu, offset);
    let mut accepted = u32::from(Cmd::parse(iu, offset).is_ok());
    if let Ok(function) = TskMgmt::parse(iu) {
        let kept = [0..1, 8..16, 20..28, 30..31, 32..40];
        let mut expected = only(&iu[..TskMgmt::LEN], &kept);
        expected[1] = iu[1] & SOL_NOT;
        assert_eq!(sent(|to| function.emit(to)), expected);
        accepted += 1;
    }
    let short = [
        ILogout::parse(iu).map(|unit| sent(|to| unit.emit(to))),
        CredRsp::parse(iu).map(|unit| sent(|to| unit.emit(to))),
        AerRsp::parse(iu).map(|unit| sent(|to| unit.emit(to))),
    ];
    for unit in short.into_iter().flatten() {
        assert_eq!(unit, only(&iu[..16], &[0..1, 8..16]));
        accepted += 1;
    }
    accepted += from_target(iu);
    assert!(accepted <= 1, "{accepted} kinds of unit in {iu:02x?}");
    assert!(accepted == 0 || Opcode::of(iu).is_ok(), "{iu:02x?} without an opcode");
}

/// Units that only a target sends. Returns how many kinds it is.
fn from_target(iu: &[u8]) -> u32 {
    let mut accepted = 0;
    if let Ok(rsp) = Rsp::parse(iu) {
        let again = sent(|to| rsp.emit(to));
        assert_eq!(Rsp::parse(&again), Ok(rsp));
        // Sense data that does not fit is cut off.
        let mut room = [0; 40];
        let len = rsp.emit(&mut room);
        assert!(Rsp::parse(&room[..len]).is_ok_and(|cut| rsp.sense.starts_with(cut.sense)));
        accepted += 1;
    }
    if let Ok(request) = AerReq::parse(iu) {
        assert_eq!(AerReq::parse(&sent(|to| request.emit(to))), Ok(request));
        accepted += 1;
    }
    if let Ok(request) = CredReq::parse(iu) {
        assert_eq!(CredReq::parse(&sent(|to| request.emit(to))), Ok(request));
        accepted += 1;
    }
    if let Ok(logout) = TLogout::parse(iu) {
        assert_eq!(TLogout::parse(&sent(|to| logout.emit(to))), Ok(logout));
        accepted += 1;
    }
    accepted
}

fn command(iu: &[u8], offset: Option<u32>) {
    let direct = DirectCmd::parse(iu);
    let immediate = offset.and_then(|offset| ImmediateCmd::parse(iu, offset));
    let cmd = match Cmd::parse(iu, offset) {
        Ok(cmd) => cmd,
        Err(error) => {
            assert_eq!((direct, immediate), (None, None), "{error}");
            if let CmdError::Invalid(invalid) = error {
                assert_eq!((&invalid.tag[..], &invalid.lun.0[..]), (&iu[8..16], &iu[20..28]));
            }
            return;
        }
    };
    if let Some(direct) = direct {
        assert_eq!(direct.as_cmd(iu), cmd);
    }
    if let Some(immediate) = immediate {
        assert_eq!(immediate.as_cmd(iu), cmd);
    }
    let mut again = vec![0xee; cmd.wire_len(offset)];
    let len = cmd.emit(offset, &mut again);
    assert_eq!(len, again.len());
    assert_eq!(again, significant(iu, &cmd, len), "{cmd:?}");
    assert_eq!(Cmd::parse(&again, offset), Ok(cmd));
    for (direction, desc) in [(Direction::Out, cmd.data_out), (Direction::In, cmd.data_in)] {
        if let DataDesc::Indirect(table) = desc {
            let entries = &iu[cmd.table_at(direction)..][..table.in_iu.as_flattened().len()];
            assert_eq!(entries, table.in_iu.as_flattened());
            assert!(table.in_iu.len() <= table.table_entries() && table.table_entries() > 0);
            assert_eq!(table.is_external(), table.segs().len() < table.table_entries());
        }
    }
}

/// A command without what is reserved in it, or behind it.
fn significant(iu: &[u8], cmd: &Cmd<'_>, len: usize) -> Vec<u8> {
    let indirect = |desc: &DataDesc<'_>| matches!(desc, DataDesc::Indirect(_));
    let bytes = |desc: &DataDesc<'_>| match desc {
        DataDesc::None => 0,
        DataDesc::Direct(_) => DESCRIPTOR_BYTES,
        DataDesc::Indirect(table) => INDIRECT_BYTES + table.in_iu.len() * DESCRIPTOR_BYTES,
        DataDesc::Immediate(_) => 4,
    };
    let end = 32 + cmd.cdb.len() + bytes(&cmd.data_out) + bytes(&cmd.data_in);
    let mut kept = vec![0..1, 5..6, 8..16, 20..28, 32..end];
    if indirect(&cmd.data_out) {
        kept.push(6..7);
    }
    if indirect(&cmd.data_in) {
        kept.push(7..8);
    }
    if let DataDesc::Immediate(data) = cmd.data_out {
        kept.push(len - data.len()..len);
    }
    let mut expected = only(&iu[..len], &kept);
    expected[1] = iu[1] & SOL_NOT;
    // Reserved attributes are SIMPLE.
    expected[29] = if matches!(iu[29] & 7, 1 | 2 | 4) { iu[29] & 7 } else { 0 };
    expected[31] = iu[31] & 0xfc;
    expected
}

/// The bytes in these ranges, zeros elsewhere.
fn only(bytes: &[u8], ranges: &[Range<usize>]) -> Vec<u8> {
    let mut kept = vec![0; bytes.len()];
    for range in ranges {
        kept[range.clone()].copy_from_slice(&bytes[range.clone()]);
    }
    kept
}

/// What an `emit` writes.
fn sent(emit: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut bytes = vec![0xee; 1 << 16];
    let len = emit(&mut bytes);
    bytes.truncate(len);
    bytes
}

/// A table as it is fetched from an initiator, with the length that its command told; then a LUN.
pub(super) fn descriptors(input: &[u8]) {
    let mut input = Input::new(input);
    let (total_len, form) = (input.u32(), input.array());
    let bytes = input.rest();
    let table = decode_table(bytes);
    assert_eq!(table.is_some(), bytes.len().is_multiple_of(DESCRIPTOR_BYTES));
    if let Some(segs) = table {
        let segs: Vec<Seg> = segs.collect();
        let sum: u128 = segs.iter().map(|seg| u128::from(seg.len)).sum();
        assert_eq!(covers(segs.iter().copied(), total_len), sum >= u128::from(total_len));
        let mut again = vec![0xee; bytes.len()];
        assert_eq!(encode_table(&segs, &mut again), bytes.len());
        assert_eq!(again, bytes);
    }
    let lun = Lun(form);
    assert_eq!(lun.number(), lun_of(form), "two readers of LUNs");
    if let Some(number) = lun.number() {
        let again = Lun::from_number(number).expect("a number that was read");
        assert_eq!(again.number(), Some(number));
    }
}

/// Private data: how it came, then its bytes.
pub(super) fn login(input: &[u8]) {
    let mut input = Input::new(input);
    let native = input.flag();
    let private = input.rest();
    let login = login_part(private, native);
    assert!(private.starts_with(login));
    let tag = login_tag(login);
    if let Ok(req) = LoginReq::parse(login) {
        assert_eq!(req.tag, tag);
        assert_eq!(req.form == LoginForm::Ib, login.len() == LoginReq::LEN_IB);
        let kept: &[Range<usize>] = match req.form {
            LoginForm::Ib => &[8..20, 24..27, 28..30, 32..64],
            LoginForm::RdmaCm => &[0..11, 12..50],
        };
        let again = sent(|to| req.emit(to));
        assert_eq!(again, only(&login[..again.len()], kept));
        assert!(req.immediate_data().is_none_or(|offset| offset == req.imm_data_offset));
    }
    if let Ok(rsp) = LoginRsp::parse(private) {
        assert_eq!(LoginRsp::parse(&sent(|to| rsp.emit(to))), Ok(rsp));
    }
    if let Ok(rej) = LoginRej::parse(private) {
        assert_eq!(LoginRej::parse(&sent(|to| rej.emit(to))), Ok(rej));
    }
}
