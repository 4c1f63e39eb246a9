use super::super::channel::Agreed;
use super::super::fake::{FakeLink, FakeMemory, Script};
use super::*;
use crate::srp::{Cmd, DataDesc, Direction, Opcode, Rsp, TskMgmt};

const LUN: Lun = Lun([0, 1, 0, 0, 0, 0, 0, 0]);
const AT: usize = 512;

/// What the target does with one command.
#[derive(Clone)]
enum Reply {
    Data(Vec<u8>),
    Check(&'static [u8]),
    Silence,
}

/// A target that gives these replies in order and checks where data goes.
fn target(memory: &FakeMemory, replies: Vec<Reply>) -> Channel<FakeLink> {
    let memory = memory.clone();
    let mut replies = replies.into_iter();
    let script: Script = Box::new(move |iu| {
        let mut rsp = Rsp {
            tag: [0; 8],
            req_lim_delta: 1,
            solicited: false,
            status: GOOD,
            residual: None,
            sense: &[],
            response_code: None,
        };
        let mut answer = vec![0; 200];
        if Opcode::of(iu) == Ok(Opcode::TskMgmt) {
            rsp.tag = TskMgmt::parse(iu).unwrap().tag;
            rsp.response_code = Some(4);
        } else {
            let cmd = Cmd::parse(iu, None).unwrap();
            rsp.tag = cmd.tag;
            match (replies.next().expect("a reply"), cmd.data_in) {
                (Reply::Silence, _) => return vec![],
                (Reply::Check(sense), _) => (rsp.status, rsp.sense) = (2, sense),
                (Reply::Data(data), DataDesc::Direct(seg)) => {
                    let count = seg.len - data.len() as u32;
                    memory.write_at(seg.addr as usize, &data);
                    let direction = Direction::In;
                    rsp.residual =
                        (count > 0).then_some(Residual { direction, overflow: false, count });
                }
                (Reply::Data(_), _) => {}
            }
        }
        let len = rsp.emit(&mut answer);
        answer.truncate(len);
        vec![answer]
    });
    let link = FakeLink { script: Some(script), ..FakeLink::default() };
    let agreed = Agreed { req_lim: 4, it_bytes_max: 276, ti_bytes_max: 276, imm_data_offset: None };
    Channel::new(link, agreed, 4, 1)
}

fn with<T>(replies: Vec<Reply>, run: impl FnOnce(&mut Scsi<'_, FakeLink, FakeMemory>) -> T) -> T {
    let memory = FakeMemory::new(AT + 8192);
    let mut channel = target(&memory, replies);
    let timeout = Duration::from_millis(5);
    run(&mut Scsi::new(&mut channel, &memory, AT..AT + 8192, timeout))
}

#[test]
fn unit_attentions_are_cleared_by_asking_again() {
    let attention = Reply::Check(&[0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0]);
    let ready = Reply::Data(vec![]);
    with(vec![attention.clone(), attention.clone(), ready], |scsi| scsi.test_unit_ready(LUN))
        .unwrap();
    let not_ready = Reply::Check(&[0x72, 2, 4, 1, 0, 0, 0, 0]);
    let error = with(vec![not_ready], |scsi| scsi.test_unit_ready(LUN)).unwrap_err();
    assert!(matches!(error, ExecError::Status(outcome) if outcome.sense.code() == Some((2, 4, 1))));
    let stuck = vec![attention; UNIT_ATTENTIONS_MAX + 1];
    let error = with(stuck, |scsi| scsi.test_unit_ready(LUN)).unwrap_err();
    assert!(
        matches!(error, ExecError::Status(outcome) if outcome.sense.code() == Some((6, 0x29, 0)))
    );
}

#[test]
fn data_is_as_long_as_the_residual_says() {
    assert_eq!(with(vec![Reply::Data(vec![9; 36])], |scsi| scsi.inquiry(LUN)).unwrap(), [9; 36]);
    assert_eq!(with(vec![Reply::Data(vec![0; 4])], |scsi| scsi.vpd(LUN, 0)).unwrap().len(), 4);
    let mut list = vec![0, 0, 0, 16, 0, 0, 0, 0];
    list.extend(Lun::default().0);
    list.extend(LUN.0);
    let luns = with(vec![Reply::Data(list.clone())], |scsi| scsi.report_luns()).unwrap();
    assert_eq!(luns, [Lun::default(), LUN]);
    list.truncate(7);
    let short = with(vec![Reply::Data(list)], |scsi| scsi.report_luns());
    assert!(matches!(short, Err(ExecError::Short(_, 7))));
}

#[test]
fn capacity() {
    let mut data = vec![0; 32];
    data[7] = 99;
    data[10] = 2;
    data[13] = 3;
    data[14] = 0x80;
    data[15] = 1;
    let expected = Capacity {
        blocks: 100,
        block_bytes: 512,
        physical_exponent: 3,
        thin: true,
        lowest_aligned_lba: 1,
    };
    let replies = vec![Reply::Data(data), Reply::Data(vec![0; 15])];
    with(replies, |scsi| {
        assert_eq!(scsi.read_capacity16(LUN).unwrap(), expected);
        assert!(matches!(scsi.read_capacity16(LUN), Err(ExecError::Short(_, 15))));
    });
}

#[test]
fn reads_and_writes_go_through_the_buffer() {
    let replies = vec![Reply::Data(vec![5; 1024]), Reply::Data(vec![]), Reply::Data(vec![5; 512])];
    with(replies, |scsi| {
        let mut data = [0; 1024];
        scsi.read(LUN, 7, 2, &mut data).unwrap();
        assert_eq!(data, [5; 1024]);
        scsi.write(LUN, 7, 2, &[6; 1024], true).unwrap();
        assert_eq!(scsi.memory.0.borrow()[AT..AT + 1024], [6; 1024]);
        let sent = &scsi.channel.link_mut().sent[1];
        let cmd = Cmd::parse(sent, None).unwrap();
        assert_eq!((cmd.cdb[0], cmd.cdb[1], cmd.data_out.data_len()), (0x8A, 8, 1024));
        assert!(matches!(scsi.read(LUN, 7, 2, &mut data), Err(ExecError::Short(_, 512))));
        assert!(matches!(scsi.write(LUN, 0, 1, &[0; 8193], false), Err(ExecError::Buffer(8193))));
    });
}

#[test]
fn waiting_ends() {
    let error = with(vec![Reply::Silence], |scsi| scsi.synchronize_cache(LUN)).unwrap_err();
    assert!(matches!(error, ExecError::Timeout(_)));
    with(vec![], |scsi| {
        assert_eq!(scsi.task_mgmt(0x10, LUN, None).unwrap(), Some(4));
        scsi.channel.link_mut().closed = true;
        scsi.channel.link_mut().script = None;
        let error = scsi.unmap(LUN, &[(0, 8)]).unwrap_err();
        assert!(matches!(error, ExecError::Link(LinkError::Closed)));
    });
}

#[test]
fn long_sense_is_cut_off() {
    let sense = Sense::new(&[0x72; 200]);
    assert_eq!(sense.as_bytes().len(), 96);
    assert_eq!(Sense::new(&[]).code(), None);
    assert_eq!(Sense::new(&[0x70, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x24]).code(), None);
}
