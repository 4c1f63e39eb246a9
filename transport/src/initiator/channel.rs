//! One channel of a session: credits, commands in flight, task management.
//!
//! Owns its [`Link`] and a fixed table of requests. Calls enqueue, [`Channel::flush`] publishes,
//! results appear only in [`Channel::poll`].
//!
//! Every command ends once, as [`Event::Done`] or, when a task management function took it away,
//! as [`Event::Aborted`]; a tag of the wire names a use of a table slot, so a second answer finds
//! nothing and is reported. Credits move only by what the target grants.
//!
//! Per command: one information unit built in place, one table slot. Nothing is allocated.

use reactor::Tag;
use reactor::slab::Slab;

use super::{Link, LinkError};
use crate::srp::{
    AerReq, AerRsp, Cmd, CredReq, CredRsp, DESCRIPTOR_BYTES, DataDesc, ILogout, Indirect, Lun,
    Malformed, Opcode, Residual, Rsp, Seg, SolNot, TLogout, TaskAttr, Tmf, TskMgmt, response_code,
};

#[cfg(test)]
mod tests;

/// Table slots kept for task management when commands fill the rest.
const TASK_MGMT_SLOTS: usize = 1;

/// Table entries that the count field of SRP_CMD can tell.
const IN_IU_ENTRIES_MAX: usize = 255;

/// Answers to the target's own requests between two polls. A conforming target has one.
const ANSWERS_MAX: usize = 8;

/// Bytes of CRED_RSP and AER_RSP.
const ANSWER_BYTES: usize = 16;

/// `task_tag` of functions that are not for one command.
const NO_TASK: [u8; 8] = [0xFF; 8];

/// What the login settled for a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Initial credits.
    pub req_lim: i32,
    /// Largest IU to send, in bytes: the smaller of what was asked for and what was granted.
    pub it_bytes_max: u32,
    /// Largest IU to receive, in bytes.
    pub ti_bytes_max: u32,
    /// Where immediate data begins in an IU, if it may be used.
    pub imm_data_offset: Option<u32>,
}

/// A command to submit.
#[derive(Debug, Clone, Copy)]
pub struct Command<'a> {
    /// The logical unit.
    pub lun: Lun,
    /// The CDB, 6 to 268 bytes.
    pub cdb: &'a [u8],
    /// Its data.
    pub data: Data<'a>,
    /// Task attribute.
    pub task_attr: TaskAttr,
    /// Whether the response is to raise a solicited event.
    pub sol_not: SolNot,
    /// Comes back with the command's end.
    pub user: u64,
}

impl<'a> Command<'a> {
    /// A SIMPLE command without solicited events.
    #[inline]
    pub fn new(lun: Lun, cdb: &'a [u8], data: Data<'a>, user: u64) -> Self {
        let (task_attr, sol_not) = (TaskAttr::Simple, SolNot::default());
        Command { lun, cdb, data, task_attr, sol_not, user }
    }
}

/// The data of a command. One segment becomes a direct descriptor, several an indirect one with
/// the whole table in the IU.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// None.
    None,
    /// To the initiator.
    In(&'a [Seg]),
    /// From the initiator.
    Out(&'a [Seg]),
    /// From the initiator, inside the IU. The login must have agreed on it.
    OutImmediate(&'a [u8]),
    /// To the initiator, by an indirect descriptor of the caller's making.
    InTable(Table<'a>),
    /// From the initiator, by an indirect descriptor of the caller's making.
    OutTable(Table<'a>),
}

/// An indirect descriptor as the caller wants it: with a table in data memory, or wrong.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// The whole table in data memory; see [`crate::srp::encode_table`].
    pub memory: Seg,
    /// Bytes of data in total.
    pub total_len: u32,
    /// The first entries, which go into the IU. At most 255.
    pub in_iu: &'a [Seg],
}

/// A task management function to request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskRequest {
    /// The function's code: [`Tmf`], or one that the target must refuse.
    pub function: u8,
    /// The logical unit.
    pub lun: Lun,
    /// The command that ABORT TASK is for.
    pub task: Option<Tag>,
    /// Comes back with the answer.
    pub user: u64,
}

/// Why a request was not sent. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// No credit, or no slot in the table: poll first.
    #[error("no credit")]
    NoCredit,
    /// The IU would be longer than agreed at login, or its table longer than 255 entries.
    #[error("the information unit is too long")]
    TooLong,
    /// Immediate data was not agreed on at login.
    #[error("the target takes no immediate data")]
    NoImmediateData,
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// The answer to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion<'a> {
    /// The command, as [`Channel::submit`] named it.
    pub tag: Tag,
    /// The caller's own name for it.
    pub user: u64,
    /// SCSI status.
    pub status: u8,
    /// Sense data; empty for none.
    pub sense: &'a [u8],
    /// Residual.
    pub residual: Option<Residual>,
    /// Code of the response data; a command has none as a rule.
    pub response_code: Option<u8>,
}

/// What happened on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A command was answered.
    Done(Completion<'a>),
    /// A task management function succeeded, so this command is never answered.
    Aborted {
        /// The command.
        tag: Tag,
        /// The caller's own name for it.
        user: u64,
    },
    /// A task management request was answered; after the [`Event::Aborted`] of what it took away.
    TaskMgmt {
        /// The request.
        tag: Tag,
        /// The caller's own name for it.
        user: u64,
        /// See [`response_code`]; `None` if the target left it out.
        response_code: Option<u8>,
    },
    /// An asynchronous event, which the channel has answered.
    Aer {
        /// The logical unit.
        lun: Lun,
        /// Sense data.
        sense: &'a [u8],
    },
    /// The target ends the channel.
    Logout {
        /// Code of the standard.
        reason: u32,
    },
    /// The target broke the protocol.
    Protocol(ProtocolError),
}

/// How the target broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A response to nothing in flight: a second answer, or the answer to an aborted command. Its
    /// credits count.
    #[error("response to an unknown tag {0:?}")]
    UnknownTag(Tag),
    /// Bytes that can't be understood.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// An IU that only an initiator may send, or only a login.
    #[error("{0:?} from a target")]
    Misplaced(Opcode),
    /// Requests of the target without waiting for the answers.
    #[error("too many unanswered requests of the target")]
    TooManyRequests,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Command,
    TaskMgmt { function: u8, task: Option<Tag> },
}

/// A request that the target has not answered.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    user: u64,
    lun: Lun,
    /// Place in the order of sending.
    sequence: u64,
    kind: Kind,
}

/// One channel; see the module.
pub struct Channel<L> {
    link: L,
    agreed: Agreed,
    state: State,
    /// The IU in the making.
    iu: Box<[u8]>,
    /// Its indirect table in the making.
    entries: Vec<[u8; DESCRIPTOR_BYTES]>,
}

/// What changes while the link is polled.
struct State {
    credits: i32,
    /// Credits that commands leave for task management.
    credits_reserved: i32,
    in_flight: Slab<InFlight>,
    sequence: u64,
    protocol_errors: u64,
    /// Answers to the target's requests, sent after the poll.
    answers: Vec<[u8; ANSWER_BYTES]>,
}

impl<L: Link> Channel<L> {
    /// A channel on a link that is logged in. `queue_size`: commands in flight at most;
    /// `credits_reserved`: credits that commands leave for task management.
    pub fn new(link: L, agreed: Agreed, queue_size: usize, credits_reserved: u32) -> Self {
        Channel {
            link,
            agreed,
            state: State {
                credits: agreed.req_lim,
                credits_reserved: i32::try_from(credits_reserved).unwrap_or(i32::MAX),
                in_flight: Slab::new(queue_size + TASK_MGMT_SLOTS),
                sequence: 0,
                protocol_errors: 0,
                answers: Vec::with_capacity(ANSWERS_MAX),
            },
            iu: vec![0; agreed.it_bytes_max as usize].into_boxed_slice(),
            entries: Vec::with_capacity(IN_IU_ENTRIES_MAX),
        }
    }

    /// Enqueues a command. The tag names it in [`Event`] and [`TaskRequest`]. Panics on a CDB of
    /// more than 268 bytes.
    #[inline]
    pub fn submit(&mut self, command: &Command<'_>) -> Result<Tag, SubmitError> {
        if self.room() == 0 {
            return Err(SubmitError::NoCredit);
        }
        let Command { lun, cdb, task_attr, sol_not, user, .. } = *command;
        let (data_out, data_in) = describe(&mut self.entries, &command.data)?;
        let imm_data_offset = self.agreed.imm_data_offset;
        if matches!(data_out, DataDesc::Immediate(_)) && imm_data_offset.is_none() {
            return Err(SubmitError::NoImmediateData);
        }
        let mut cmd = Cmd { tag: [0; 8], lun, task_attr, sol_not, cdb, data_out, data_in };
        if cmd.wire_len(imm_data_offset) > self.iu.len() {
            return Err(SubmitError::TooLong);
        }
        let tag = self.state.begin(user, lun, Kind::Command);
        cmd.tag = tag.to_u64().to_be_bytes();
        let len = cmd.emit(imm_data_offset, &mut self.iu);
        self.send(tag, len)
    }

    /// Enqueues a task management request. On success of ABORT TASK its command ends with
    /// [`Event::Aborted`], if it has not ended before; on success of ABORT TASK SET, CLEAR TASK SET
    /// and LOGICAL UNIT RESET so do all commands that this channel had sent to the logical unit
    /// before the request. For the session's other channels, see [`Channel::forget`].
    pub fn task_mgmt(&mut self, request: &TaskRequest) -> Result<Tag, SubmitError> {
        if self.state.credits <= 0 || self.state.in_flight.is_full() {
            return Err(SubmitError::NoCredit);
        }
        let TaskRequest { function, lun, task, user } = *request;
        let tag = self.state.begin(user, lun, Kind::TaskMgmt { function, task });
        let iu = TskMgmt {
            tag: tag.to_u64().to_be_bytes(),
            lun,
            sol_not: SolNot::default(),
            function,
            task_tag: task.map_or(NO_TASK, |task| task.to_u64().to_be_bytes()),
        };
        let len = iu.emit(&mut self.iu);
        self.send(tag, len)
    }

    /// Tells the target that the channel ends, and publishes it. Uses no credit.
    pub fn logout(&mut self) -> Result<(), LinkError> {
        let mut iu = [0; ILogout::LEN];
        ILogout { tag: [0; 8] }.emit(&mut iu);
        self.link.send(&iu)?;
        self.link.flush()
    }

    /// Publishes what was enqueued.
    #[inline]
    pub fn flush(&mut self) -> Result<(), LinkError> {
        self.link.flush()
    }

    /// Calls `each` for everything that has happened and returns the number of information units;
    /// never waits. Credit requests and asynchronous events of the target are answered. An error
    /// comes after the last event; what is still in flight then never ends.
    #[inline]
    pub fn poll(&mut self, mut each: impl FnMut(Event<'_>)) -> Result<usize, LinkError> {
        let state = &mut self.state;
        let arrived = self.link.poll(&mut |iu| state.on_iu(iu, &mut each))?;
        if !state.answers.is_empty() {
            for answer in state.answers.drain(..) {
                self.link.send(&answer)?;
            }
            self.link.flush()?;
        }
        Ok(arrived)
    }

    /// Ends every command in flight to a logical unit with [`Event::Aborted`]: after another
    /// channel of the session has learned that the logical unit was reset or its task set aborted.
    pub fn forget(&mut self, lun: Lun, mut each: impl FnMut(Event<'_>)) {
        self.state.abort_before(u64::MAX, lun, &mut each);
    }

    /// Commands that [`Channel::submit`] takes now.
    #[inline]
    pub fn room(&self) -> usize {
        let State { credits, credits_reserved, in_flight, .. } = &self.state;
        let credits = usize::try_from(credits.saturating_sub(*credits_reserved)).unwrap_or(0);
        let slots = in_flight.capacity() - TASK_MGMT_SLOTS;
        credits.min(slots.saturating_sub(in_flight.len()))
    }

    /// Credits now. Negative when the target withdrew more than there were.
    pub fn credits(&self) -> i32 {
        self.state.credits
    }

    /// Requests, commands and task management, that the target has not answered.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight.len()
    }

    /// Times that the target broke the protocol.
    pub fn protocol_errors(&self) -> u64 {
        self.state.protocol_errors
    }

    /// What the login settled.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// The link: to send what no channel would.
    pub fn link_mut(&mut self) -> &mut L {
        &mut self.link
    }

    /// Sends the IU in the making, of the request `tag`.
    #[inline]
    fn send(&mut self, tag: Tag, len: usize) -> Result<Tag, SubmitError> {
        if let Err(error) = self.link.send(&self.iu[..len]) {
            self.state.in_flight.remove(tag);
            self.state.credits += 1;
            return Err(error.into());
        }
        Ok(tag)
    }
}

impl State {
    /// Takes a credit and a slot, of which the caller has seen that there are.
    #[inline]
    fn begin(&mut self, user: u64, lun: Lun, kind: Kind) -> Tag {
        self.credits -= 1;
        self.sequence += 1;
        let request = InFlight { user, lun, sequence: self.sequence, kind };
        self.in_flight.insert(request).expect("a free slot")
    }

    #[inline]
    fn on_iu(&mut self, iu: &[u8], each: &mut impl FnMut(Event<'_>)) {
        let handled = match Rsp::parse(iu) {
            Ok(rsp) => self.on_rsp(&rsp, each),
            Err(Malformed::Unexpected { found, .. }) => self.on_request(found, iu, each),
            Err(malformed) => Err(malformed.into()),
        };
        if let Err(error) = handled {
            self.protocol_errors += 1;
            each(Event::Protocol(error));
        }
    }

    #[inline]
    fn on_rsp(
        &mut self,
        rsp: &Rsp<'_>,
        each: &mut impl FnMut(Event<'_>),
    ) -> Result<(), ProtocolError> {
        self.credits = self.credits.saturating_add(rsp.req_lim_delta);
        let tag = Tag::from_u64(u64::from_be_bytes(rsp.tag));
        let request = self.in_flight.remove(tag).ok_or(ProtocolError::UnknownTag(tag))?;
        let Rsp { status, sense, residual, response_code, .. } = *rsp;
        let user = request.user;
        match request.kind {
            Kind::Command => {
                each(Event::Done(Completion { tag, user, status, sense, residual, response_code }));
            }
            Kind::TaskMgmt { function, task } => {
                if response_code == Some(response_code::SUCCESS) {
                    self.on_task_mgmt_success(&request, function, task, each);
                }
                each(Event::TaskMgmt { tag, user, response_code });
            }
        }
        Ok(())
    }

    /// Ends the commands that a function took away.
    fn on_task_mgmt_success(
        &mut self,
        request: &InFlight,
        function: u8,
        task: Option<Tag>,
        each: &mut impl FnMut(Event<'_>),
    ) {
        match Tmf::from_byte(function) {
            Some(Tmf::AbortTask) => {
                let aborted = task.and_then(|tag| Some((tag, self.in_flight.remove(tag)?)));
                if let Some((tag, command)) = aborted {
                    each(Event::Aborted { tag, user: command.user });
                }
            }
            Some(Tmf::AbortTaskSet | Tmf::ClearTaskSet | Tmf::LunReset) => {
                self.abort_before(request.sequence, request.lun, each);
            }
            Some(Tmf::ClearAca) | None => {}
        }
    }

    /// Ends the commands to `lun` that were sent before `sequence`.
    fn abort_before(&mut self, sequence: u64, lun: Lun, each: &mut impl FnMut(Event<'_>)) {
        for index in 0..self.in_flight.capacity() {
            let Some(tag) = self.in_flight.tag_at(index) else { continue };
            let taken = self.in_flight.get(tag).is_some_and(|request| {
                matches!(request.kind, Kind::Command)
                    && request.lun == lun
                    && request.sequence < sequence
            });
            if taken && let Some(command) = self.in_flight.remove(tag) {
                each(Event::Aborted { tag, user: command.user });
            }
        }
    }

    /// A request of the target's own.
    #[cold]
    fn on_request(
        &mut self,
        opcode: Opcode,
        iu: &[u8],
        each: &mut impl FnMut(Event<'_>),
    ) -> Result<(), ProtocolError> {
        let mut answer = [0; ANSWER_BYTES];
        match opcode {
            Opcode::CredReq => {
                let request = CredReq::parse(iu)?;
                self.credits = self.credits.saturating_add(request.req_lim_delta);
                CredRsp { tag: request.tag }.emit(&mut answer);
            }
            Opcode::AerReq => {
                let request = AerReq::parse(iu)?;
                self.credits = self.credits.saturating_add(request.req_lim_delta);
                AerRsp { tag: request.tag }.emit(&mut answer);
                each(Event::Aer { lun: request.lun, sense: request.sense });
            }
            Opcode::TLogout => {
                each(Event::Logout { reason: TLogout::parse(iu)?.reason });
                return Ok(());
            }
            misplaced => return Err(ProtocolError::Misplaced(misplaced)),
        }
        if self.answers.len() == ANSWERS_MAX {
            return Err(ProtocolError::TooManyRequests);
        }
        self.answers.push(answer);
        Ok(())
    }
}

/// The descriptors of both directions, DATA-OUT first. `entries` holds a table.
#[inline]
fn describe<'a>(
    entries: &'a mut Vec<[u8; DESCRIPTOR_BYTES]>,
    data: &Data<'a>,
) -> Result<(DataDesc<'a>, DataDesc<'a>), SubmitError> {
    Ok(match *data {
        Data::None => (DataDesc::None, DataDesc::None),
        Data::In([seg]) => (DataDesc::None, DataDesc::Direct(*seg)),
        Data::Out([seg]) => (DataDesc::Direct(*seg), DataDesc::None),
        Data::In(segs) => (DataDesc::None, list(entries, segs)?),
        Data::Out(segs) => (list(entries, segs)?, DataDesc::None),
        Data::OutImmediate(bytes) => (DataDesc::Immediate(bytes), DataDesc::None),
        Data::InTable(table) => (DataDesc::None, indirect(entries, &table)?),
        Data::OutTable(table) => (indirect(entries, &table)?, DataDesc::None),
    })
}

/// Any number of segments, all in the IU.
fn list<'a>(
    entries: &'a mut Vec<[u8; DESCRIPTOR_BYTES]>,
    segs: &'a [Seg],
) -> Result<DataDesc<'a>, SubmitError> {
    if segs.is_empty() {
        return Ok(DataDesc::None);
    }
    let sum = segs.iter().map(|seg| u64::from(seg.len)).sum::<u64>();
    let total_len = u32::try_from(sum).map_err(|_| SubmitError::TooLong)?;
    let len = u32::try_from(segs.len() * DESCRIPTOR_BYTES).map_err(|_| SubmitError::TooLong)?;
    let memory = Seg { addr: 0, key: 0, len };
    indirect(entries, &Table { memory, total_len, in_iu: segs })
}

fn indirect<'a>(
    entries: &'a mut Vec<[u8; DESCRIPTOR_BYTES]>,
    table: &Table<'a>,
) -> Result<DataDesc<'a>, SubmitError> {
    if table.in_iu.len() > IN_IU_ENTRIES_MAX {
        return Err(SubmitError::TooLong);
    }
    entries.clear();
    entries.extend(table.in_iu.iter().map(|seg| seg.to_bytes()));
    let Table { memory, total_len, .. } = *table;
    Ok(DataDesc::Indirect(Indirect { table: memory, total_len, in_iu: entries }))
}
