//! The short forms of commands against [`Cmd`].

use super::*;

#[test]
fn the_short_form_of_a_command_says_what_the_long_one_says() {
    let seg = Seg { addr: 0x0123_4567_89ab_cdef, key: 7, len: 4096 };
    let cdb: [u8; CDB_BYTES] = std::array::from_fn(|at| at as u8);
    let plain = Cmd {
        tag: *b"a tag!!!",
        lun: Lun::from_number(300).unwrap(),
        task_attr: TaskAttr::Simple,
        sol_not: SolNot { on_success: true, on_failure: false },
        cdb: &cdb,
        data_out: DataDesc::None,
        data_in: DataDesc::Direct(seg),
    };
    for direction in [Direction::In, Direction::Out] {
        let mut cmd = plain;
        if direction == Direction::Out {
            (cmd.data_out, cmd.data_in) = (cmd.data_in, DataDesc::None);
        }
        let iu = emitted(|to| cmd.emit(None, to));
        let Cmd { tag, lun, sol_not, .. } = cmd;
        let wanted = DirectCmd { tag, lun, sol_not, cdb, direction, seg };
        assert_eq!(DirectCmd::parse(&iu), Some(wanted));
        assert_eq!(wanted.as_cmd(&iu), cmd);
        assert_eq!(DirectCmd::parse(&iu[..iu.len() - 1]), None);
    }
    let both = Cmd { data_out: DataDesc::Direct(seg), ..plain };
    let none = Cmd { data_in: DataDesc::None, ..plain };
    let longer = Cmd { cdb: &[0; 20], ..plain };
    for other in [both, none, longer] {
        assert_eq!(DirectCmd::parse(&emitted(|to| other.emit(None, to))), None);
    }
}

#[test]
fn the_short_form_of_immediate_data_says_what_the_long_one_says() {
    let cdb: [u8; CDB_BYTES] = std::array::from_fn(|at| at as u8);
    let cmd = Cmd {
        tag: *b"a tag!!!",
        lun: Lun::from_number(300).unwrap(),
        task_attr: TaskAttr::Simple,
        sol_not: SolNot { on_success: true, on_failure: false },
        cdb: &cdb,
        data_out: DataDesc::Immediate(b"some data"),
        data_in: DataDesc::None,
    };
    let Cmd { tag, lun, sol_not, .. } = cmd;
    let iu = emitted(|to| cmd.emit(Some(68), to));
    let wanted = ImmediateCmd { tag, lun, sol_not, cdb: &cdb, data: b"some data" };
    assert_eq!(ImmediateCmd::parse(&iu, 68), Some(wanted));
    assert_eq!(wanted.as_cmd(&iu), cmd);
    assert_eq!(ImmediateCmd::parse(&iu[..iu.len() - 1], 68), None);
    assert_eq!(ImmediateCmd::parse(&iu, 51), None, "data begins inside the descriptor");
    assert_eq!(ImmediateCmd::parse(&iu, u32::MAX), None);
    let seg = Seg { addr: 1, key: 7, len: 4096 };
    let both = Cmd { data_in: DataDesc::Direct(seg), ..cmd };
    let other = Cmd { data_out: DataDesc::Direct(seg), ..cmd };
    let longer = Cmd { cdb: &[0; 20], ..cmd };
    for other in [both, other, longer] {
        assert_eq!(ImmediateCmd::parse(&emitted(|to| other.emit(Some(100), to)), 100), None);
    }
}
