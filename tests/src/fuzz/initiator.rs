//! What a target sends to this project's initiator: the answer to a login, responses, requests of
//! its own, and data. The target may do all that a protocol forbids.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use reactor::Tag;
use transport::RemoteSeg;
use transport::initiator::{
    Channel, Command, ConnectError, Connector, Data, DataMemory, Event, ExecError, Link, LinkError,
    LoginOptions, Scsi, TaskRequest, Transfer, login,
};
use transport::srp::{LoginRsp, Lun, OtherChannels, Residual, Rsp};

use super::Input;

const MEMORY_BYTES: usize = 8192;

/// A link whose other end is the input.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    arriving: VecDeque<Vec<u8>>,
    /// What answers each unit that is sent.
    answer: Option<(u8, Residual)>,
    sent: usize,
}

impl Link for Wire {
    fn send(&mut self, iu: &[u8]) -> Result<(), LinkError> {
        let mut state = self.0.borrow_mut();
        state.sent += 1;
        if state.sent > 64 {
            return Err(LinkError::Full);
        }
        if let Some((status, residual)) = state.answer {
            let tag = iu[8..16].try_into().expect("every unit has a tag");
            let rsp = Rsp { status, residual: Some(residual), ..Rsp::good(tag, 1, false) };
            let mut bytes = vec![0; Rsp::LEN_MIN];
            rsp.emit(&mut bytes);
            state.arriving.push_back(bytes);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        Ok(())
    }

    fn poll(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<usize, LinkError> {
        let arrived = std::mem::take(&mut self.0.borrow_mut().arriving);
        arrived.iter().for_each(|iu| each(iu));
        Ok(arrived.len())
    }
}

/// Data memory that holds what the target has put there.
struct Memory(RefCell<Vec<u8>>);

impl DataMemory for Memory {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn seg(&self, offset: usize, len: u32) -> RemoteSeg {
        assert!(offset + len as usize <= self.len(), "outside the memory");
        RemoteSeg { addr: offset as u64, key: 1, len }
    }

    fn read_at(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0.borrow()[offset..offset + to.len()]);
    }

    fn write_at(&self, offset: usize, from: &[u8]) {
        self.0.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
    }
}

/// Answers a login with bytes of the input.
struct Answering<'a> {
    answer: &'a [u8],
    rejects: bool,
    wire: Wire,
}

impl Connector for Answering<'_> {
    type Link = Wire;
    type Memory = Memory;

    fn memory(&self, bytes: usize) -> Result<Memory, ConnectError> {
        Ok(Memory(RefCell::new(vec![0; bytes])))
    }

    fn connect(&self, _: &[u8], _: &Memory, _: Duration) -> Result<(Wire, Vec<u8>), ConnectError> {
        match self.rejects {
            true => Err(ConnectError::Rejected(self.answer.to_vec())),
            false => Ok((self.wire.clone(), self.answer.to_vec())),
        }
    }
}

/// A login response that is in order.
fn accepted(credits: i32) -> Vec<u8> {
    let rsp = LoginRsp {
        tag: [0; 8],
        req_lim_delta: credits,
        max_it_iu_len: 8276,
        max_ti_iu_len: 256,
        buf_fmt: 6,
        other_channels: OtherChannels::None,
        immediate_data: true,
    };
    let mut bytes = vec![0; LoginRsp::LEN];
    rsp.emit(&mut bytes);
    bytes
}

/// How the login is answered, then what both sides do.
pub(super) fn answers(input: &[u8]) {
    let mut input = Input::new(input);
    let kind = input.u8();
    let own = accepted(i32::from(kind >> 2));
    let answer = if kind & 1 == 0 { &own } else { input.run() };
    let connector = Answering { answer, rejects: kind & 3 == 3, wire: Wire::default() };
    let memory = connector.memory(MEMORY_BYTES).expect("memory");
    let mut options = LoginOptions::new([1; 16], [2; 16]);
    (options.queue_size, options.timeout) = (8, Duration::ZERO);
    let Ok(mut channel) = login(&connector, &memory, &options) else { return };
    let mut requests = Requests::default();
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        match input.u8() % 8 {
            0 | 1 => requests.submit(&mut channel, &mut input),
            2 => requests.task(&mut channel, &mut input),
            3 => connector.wire.0.borrow_mut().arriving.push_back(input.run().to_vec()),
            4 | 5 => requests.answer(&connector.wire, &mut input),
            6 => single(&mut channel, &connector.wire, &memory, &mut input, &mut requests),
            _ => requests.poll(&mut channel),
        }
        assert_eq!(channel.in_flight(), requests.open.len());
        assert!(channel.room() <= 8);
    }
}

/// What has been asked and not been answered.
#[derive(Default)]
struct Requests {
    open: BTreeSet<Tag>,
}

impl Requests {
    fn pick(&self, input: &mut Input<'_>) -> Option<Tag> {
        self.open.iter().nth(input.below(self.open.len().max(1))).copied()
    }

    fn submit(&mut self, channel: &mut Channel<Wire>, input: &mut Input<'_>) {
        let kind = input.u8();
        let segs = vec![RemoteSeg { addr: 0, key: 1, len: input.u32() }; usize::from(kind >> 3)];
        let bytes = [0; 64];
        let data = match kind & 7 {
            0 | 1 => Data::In(&segs),
            2 | 3 => Data::Out(&segs),
            4 => Data::OutImmediate(&bytes),
            _ => Data::None,
        };
        let cdb = [input.u8(); 16];
        let lun = Lun::from_number(u16::from(kind & 1)).expect("a LUN");
        if let Ok(tag) = channel.submit(&Command::new(lun, &cdb, data, 0)) {
            assert!(self.open.insert(tag), "a tag is used twice");
        }
    }

    fn task(&mut self, channel: &mut Channel<Wire>, input: &mut Input<'_>) {
        let function = input.u8();
        let lun = Lun::from_number(u16::from(input.u8() & 1)).expect("a LUN");
        let task = self.pick(input);
        if let Ok(tag) = channel.task_mgmt(&TaskRequest { function, lun, task, user: 0 }) {
            assert!(self.open.insert(tag), "a tag is used twice");
        }
    }

    /// A response to something that was asked, right but for what the input says.
    fn answer(&mut self, wire: &Wire, input: &mut Input<'_>) {
        let Some(tag) = self.pick(input) else { return };
        let mut bytes = vec![0; Rsp::LEN_MIN + 24];
        Rsp::good(tag.to_u64().to_be_bytes(), 1, false).emit(&mut bytes);
        let from = input.below(bytes.len());
        if !(8..16).contains(&from) {
            let change = input.bytes(8);
            let to = (from + change.len()).min(bytes.len());
            bytes[from..to].copy_from_slice(&change[..to - from]);
        }
        wire.0.borrow_mut().arriving.push_back(bytes);
    }

    fn poll(&mut self, channel: &mut Channel<Wire>) {
        let open = &mut self.open;
        // A failed send is the link's end, which is no matter here.
        let _ = channel.poll(|event| match event {
            Event::Done(completion) => {
                assert!(open.remove(&completion.tag), "an answer to nothing");
            }
            Event::Aborted { tag, .. } | Event::TaskMgmt { tag, .. } => {
                assert!(open.remove(&tag), "an end of nothing");
            }
            Event::Aer { sense, .. } => {
                transport::initiator::Sense::new(sense).code();
            }
            Event::Logout { .. } | Event::Protocol(_) => {}
        });
    }
}

/// One command that waits, whose data is the input.
fn single(
    channel: &mut Channel<Wire>,
    wire: &Wire,
    memory: &Memory,
    input: &mut Input<'_>,
    requests: &mut Requests,
) {
    // Only what this command is answered shall arrive.
    requests.poll(channel);
    let (kind, status, overflow) = (input.u8(), input.u8() & 2, input.flag());
    let direction = transport::srp::Direction::In;
    let residual = Residual { direction, overflow, count: input.u32() };
    let data = input.run();
    memory.write_at(0, &data[..data.len().min(MEMORY_BYTES)]);
    wire.0.borrow_mut().answer = Some((status, residual));
    let mut scsi = Scsi::new(channel, memory, 0..MEMORY_BYTES, Duration::ZERO);
    let lun = Lun::default();
    let mut block = [0; 512];
    let ended = match kind % 7 {
        0 => scsi.report_luns().map(|luns| assert!(luns.len() < MEMORY_BYTES / 8)),
        1 => scsi.read_capacity16(lun).map(|_| ()),
        2 => scsi.vpd(lun, 0x83).map(|page| assert!(page.len() <= 4096)),
        3 => scsi.inquiry(lun).map(|data| assert!(data.len() <= 255)),
        4 => scsi.read(lun, 0, 1, &mut block),
        5 => scsi.execute(lun, &[0; 6], Transfer::In(kind.into())).map(|_| ()),
        _ => scsi.test_unit_ready(lun),
    };
    assert!(!matches!(ended, Err(ExecError::Timeout(_))), "the answer was there");
    wire.0.borrow_mut().answer = None;
}
