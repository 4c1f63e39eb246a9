//! An initiator's end of one channel in the simulated world.
//!
//! The world polls every port once per step; a port keeps how each request ended. A second answer,
//! or an answer to nothing, is a protocol error that [`Port::protocol_errors`] counts.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;

use reactor::Tag;
use transport::CloseReason;
use transport::initiator::{
    Agreed, Channel, Command, Data, Event, Outcome, SubmitError, TaskRequest,
};
use transport::initiator::{DataMemory, Link};
use transport::sim::{SimLink, SimMemory};
use transport::srp::{LoginRsp, Lun, Tmf};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A command was answered.
    Answered(Outcome),
    /// A task management function took it away.
    Aborted,
    /// A task management function was answered, with this response code.
    Task(Option<u8>),
}

/// Sense key, additional sense code and qualifier.
pub type Code = (u8, u8, u8);

/// What a test sees of one channel.
pub struct Inner {
    /// The channel.
    pub channel: Channel<SimLink>,
    /// Login response.
    pub rsp: LoginRsp,
    ends: BTreeMap<Tag, End>,
    next: u64,
    /// Sense data of the asynchronous events.
    pub events: Vec<Code>,
    /// SRP_T_LOGOUT arrived.
    pub logout: bool,
    /// The connection is gone.
    pub closed: bool,
    /// The world does not poll: nothing of the target's is answered.
    pub deaf: bool,
}

/// One channel. Clones are the same channel; the last one to go disconnects it.
#[derive(Clone)]
pub struct Port {
    inner: Rc<RefCell<Inner>>,
    /// The data memory.
    pub memory: SimMemory,
    /// Core of the target that serves it.
    pub core: usize,
}

impl Port {
    /// A port on a link that is logged in.
    pub fn new(link: SimLink, memory: SimMemory, core: usize, rsp: LoginRsp, imm: u16) -> Port {
        let agreed = Agreed {
            req_lim: rsp.req_lim_delta,
            it_bytes_max: rsp.max_it_iu_len,
            ti_bytes_max: rsp.max_ti_iu_len,
            imm_data_offset: rsp.immediate_data.then_some(u32::from(imm)),
        };
        let channel = Channel::new(link, agreed, 1024, 0);
        let inner = Inner {
            channel,
            rsp,
            ends: BTreeMap::new(),
            next: 0,
            events: Vec::new(),
            logout: false,
            closed: false,
            deaf: false,
        };
        Port { inner: Rc::new(RefCell::new(inner)), memory, core }
    }

    pub(crate) fn weak(&self) -> std::rc::Weak<RefCell<Inner>> {
        Rc::downgrade(&self.inner)
    }

    /// All of it.
    pub fn inner(&self) -> Ref<'_, Inner> {
        self.inner.borrow()
    }

    /// All of it, for changes.
    pub fn inner_mut(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    /// Sends a command. Panics when the channel does not take it.
    pub fn submit(&self, lun: u16, cdb: &[u8], data: Data<'_>) -> Tag {
        self.try_submit(lun, cdb, data).expect("submitted")
    }

    /// Sends a command.
    pub fn try_submit(&self, lun: u16, cdb: &[u8], data: Data<'_>) -> Result<Tag, SubmitError> {
        let mut inner = self.inner_mut();
        inner.next += 1;
        let user = inner.next;
        inner.channel.submit(&Command::new(self::lun(lun), cdb, data, user))
    }

    /// Sends a task management function.
    pub fn task(&self, function: u8, lun: u16, task: Option<Tag>) -> Tag {
        let request = TaskRequest { function, lun: self::lun(lun), task, user: 0 };
        self.inner_mut().channel.task_mgmt(&request).expect("submitted")
    }

    /// Sends a task management function, if there is a credit and a link.
    pub fn try_task(&self, function: u8, lun: u16, task: Option<Tag>) -> Option<Tag> {
        let request = TaskRequest { function, lun: self::lun(lun), task, user: 0 };
        self.inner_mut().channel.task_mgmt(&request).ok()
    }

    /// Sends ABORT TASK for a command.
    pub fn abort(&self, lun: u16, task: Tag) -> Tag {
        self.task(Tmf::AbortTask as u8, lun, Some(task))
    }

    /// Sends bytes that no channel would.
    pub fn raw(&self, iu: &[u8]) {
        self.inner_mut().channel.link_mut().send(iu).expect("open");
    }

    /// Sends SRP_I_LOGOUT.
    pub fn logout(&self) {
        self.inner_mut().channel.logout().expect("open");
    }

    /// Sends SRP_I_LOGOUT, if there is a link.
    pub fn try_logout(&self) -> bool {
        self.inner_mut().channel.logout().is_ok()
    }

    /// Why the link ended, once it has begun to.
    pub fn ended(&self) -> Option<CloseReason> {
        self.inner_mut().channel.link_mut().ended()
    }

    /// The target has nothing of the channel any more.
    pub fn is_released(&self) -> bool {
        self.inner_mut().channel.link_mut().is_released()
    }

    /// How requests ended since the last time.
    pub fn take_ends(&self) -> BTreeMap<Tag, End> {
        std::mem::take(&mut self.inner_mut().ends)
    }

    /// Goes away, which the target's system is told.
    pub fn disconnect(&self) {
        self.inner_mut().channel.link_mut().disconnect();
    }

    /// Goes away without a word.
    pub fn vanish(&self) {
        self.inner_mut().channel.link_mut().vanish();
    }

    /// How a request ended, if it has.
    pub fn end(&self, tag: Tag) -> Option<End> {
        self.inner().ends.get(&tag).copied()
    }

    /// How a request ended, if it has; then that is forgotten.
    pub fn take_end(&self, tag: Tag) -> Option<End> {
        self.inner_mut().ends.remove(&tag)
    }

    /// The answer to a command, if there is one. Panics for one that was aborted.
    pub fn outcome(&self, tag: Tag) -> Option<Outcome> {
        match self.end(tag)? {
            End::Answered(outcome) => Some(outcome),
            other => panic!("{tag:?} ended as {other:?}"),
        }
    }

    /// Requests without an end.
    pub fn in_flight(&self) -> usize {
        self.inner().channel.in_flight()
    }

    /// Credits now.
    pub fn credits(&self) -> i32 {
        self.inner().channel.credits()
    }

    /// Credits of the login.
    pub fn credits_at_login(&self) -> i32 {
        self.inner().rsp.req_lim_delta
    }

    /// The connection is gone.
    pub fn closed(&self) -> bool {
        self.inner().closed
    }

    /// Times that the target broke the protocol.
    pub fn protocol_errors(&self) -> u64 {
        self.inner().channel.protocol_errors()
    }

    /// Forgets how requests ended.
    pub fn forget_ends(&self) {
        self.inner_mut().ends.clear();
    }

    /// Writes into the data memory.
    pub fn memory_write(&self, at: usize, bytes: &[u8]) {
        self.memory.write_at(at, bytes);
    }

    /// Bytes of the data memory.
    pub fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_at(at, &mut bytes);
        bytes
    }
}

impl Inner {
    /// Takes what has arrived.
    pub(crate) fn poll(&mut self) {
        if self.deaf || self.closed {
            return;
        }
        let Inner { channel, ends, events, logout, .. } = self;
        let polled = channel.poll(|event| match event {
            Event::Done(done) => {
                let old = ends.insert(done.tag, End::Answered(Outcome::new(&done)));
                assert!(old.is_none(), "{:?} ended twice", done.tag);
            }
            Event::Aborted { tag, .. } => {
                let old = ends.insert(tag, End::Aborted);
                assert!(old.is_none(), "{tag:?} ended twice");
            }
            Event::TaskMgmt { tag, response_code, .. } => {
                ends.insert(tag, End::Task(response_code));
            }
            Event::Aer { sense, .. } => {
                let sense = transport::initiator::Sense::new(sense);
                events.push(sense.code().expect("sense data"));
            }
            Event::Logout { .. } => *logout = true,
            Event::Protocol(_) => {}
        });
        self.closed = polled.is_err();
    }
}

/// The 8-byte form of a LUN.
pub fn lun(number: u16) -> Lun {
    Lun::from_number(number).expect("a LUN that exists")
}
