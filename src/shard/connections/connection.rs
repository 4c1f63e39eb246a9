//! One SRP connection on its core: its login, and where it is in its life.
//!
//! A connection's life: *Asking* (login under way), *Live*, *Leaving* (no new commands; what runs
//! is answered, then SRP_T_LOGOUT), *Closing* (the fabric is told), *Gone* (the fabric has said
//! `Closed`; what still runs or was sent too late is dropped when it comes back). It is released
//! when nothing of it is left.

use std::sync::Arc;

use reactor::Instant;
use transport::srp::{Direction, LoginReq, Multichannel};
use transport::{ConnId, PeerInfo};

use super::credits::Credits;
use super::queue::Queue;
use crate::limits::RECEIVES_EXTRA;
use crate::shard::coverage::{At, Met, met};
use crate::shard::names::{PortId, SessionId};
use crate::shard::session::Session;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The login has not been answered.
    Asking,
    /// Commands are welcome.
    Live,
    /// Commands that run are answered; closed at `deadline` at the latest.
    Leaving {
        /// When patience ends.
        deadline: Instant,
        /// SRP_T_LOGOUT was sent.
        said: bool,
    },
    /// The fabric was told to close it.
    Closing,
    /// The fabric has closed it.
    Gone,
}

/// What a connection that was told to end does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It begins to leave.
    Leaves,
    /// The fabric has to be told.
    Close {
        /// It was leaving.
        was_leaving: bool,
    },
    /// Its end has begun before.
    Under,
}

/// What is due when nothing of a connection runs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Nothing.
    Nothing,
    /// Return credits that no response will carry.
    ReturnCredits,
    /// Say SRP_T_LOGOUT.
    SayLogout,
    /// Forget the connection.
    Release,
}

/// What the login of a connection agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Agreed {
    /// Credits of the initiator.
    pub credits: u32,
    /// Largest information unit from the initiator, in bytes.
    pub iu_bytes_max: u32,
    /// Largest information unit to the initiator, in bytes.
    pub ti_bytes_max: u32,
    /// Where immediate data begins in a command, if agreed.
    pub imm_data_offset: Option<u32>,
}

/// One SRP channel.
#[derive(Debug, Clone)]
pub struct ChannelReport {
    /// Session it belongs to; the same number on every core.
    pub session: SessionId,
    /// Target name.
    pub target: String,
    /// Who is at the other end, and how it came.
    pub peer: PeerInfo,
    /// Connection.
    pub conn: ConnId,
    /// Initiator port identifier.
    pub initiator_port_id: PortId,
    /// Target port identifier.
    pub target_port_id: PortId,
    /// Receives posted for this channel: its request limit.
    pub credits: u32,
    /// Credits the initiator holds now.
    pub req_lim: i32,
    /// Commands between arrival and response.
    pub in_flight: u32,
    /// Largest initiator-to-target information unit agreed, in bytes.
    pub iu_bytes_max: u32,
    /// Immediate data agreed.
    pub immediate_data: bool,
    /// Login asked for multichannel operation.
    pub multichannel: bool,
    /// Commands completed.
    pub commands: u64,
    /// Bytes read by the initiator.
    pub bytes_read: u64,
    /// Bytes written by the initiator.
    pub bytes_written: u64,
}

/// One connection. In the order of use: what a plain read or write touches comes first.
pub(crate) struct Connection {
    id: ConnId,
    state: State,
    /// Index of the target in this core's list.
    target: usize,
    /// The session, once granted.
    session: Option<Arc<Session>>,
    credits: Credits,
    /// Requests and task management functions that are not finished.
    in_flight: u32,
    /// Commands answered.
    commands: u64,
    bytes_read: u64,
    bytes_written: u64,
    agreed: Agreed,
    queue: Queue,
    /// Information units that belong to no request and are on their way.
    own_in_flight: u32,
    peer: PeerInfo,
    login: LoginReq,
}

impl Connection {
    /// A connection whose login has just arrived.
    pub(crate) fn new(id: ConnId, peer: PeerInfo, target: usize, login: LoginReq) -> Connection {
        Connection {
            id,
            state: State::Asking,
            target,
            session: None,
            credits: Credits::default(),
            in_flight: 0,
            commands: 0,
            bytes_read: 0,
            bytes_written: 0,
            agreed: Agreed::default(),
            queue: Queue::default(),
            own_in_flight: 0,
            peer,
            login,
        }
    }

    /// The login is granted: commands are welcome.
    pub(crate) fn grant(&mut self, session: Arc<Session>, agreed: Agreed) {
        self.session = Some(session);
        self.agreed = agreed;
        self.state = State::Live;
        self.credits = Credits::granted(agreed.credits);
        self.queue = Queue::with_room(agreed.credits + RECEIVES_EXTRA);
    }

    /// The fabric's name for it.
    #[inline]
    pub(crate) fn id(&self) -> ConnId {
        self.id
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> &PeerInfo {
        &self.peer
    }

    /// Index of the target in this core's list.
    #[inline]
    pub(crate) fn target(&self) -> usize {
        self.target
    }

    /// What the login asked for.
    pub(crate) fn login(&self) -> &LoginReq {
        &self.login
    }

    /// What the login agreed on.
    #[inline]
    pub(crate) fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// The session; a connection that answers has one.
    #[inline]
    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    /// The session's number.
    pub(crate) fn session_id(&self) -> Option<SessionId> {
        self.session().map(|session| session.id)
    }

    /// The request limit.
    #[inline]
    pub(crate) fn credits(&mut self) -> &mut Credits {
        &mut self.credits
    }

    /// The commands that wait.
    #[inline]
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The commands that wait.
    #[inline]
    pub(crate) fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// The login has not been answered.
    pub(crate) fn is_asking(&self) -> bool {
        self.state == State::Asking
    }

    /// Commands are welcome.
    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// True while responses may still be sent.
    #[inline]
    pub(crate) fn answers(&self) -> bool {
        matches!(self.state, State::Live | State::Leaving { .. })
    }

    /// True when the connection still leaves at `now` though its time is up.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        matches!(self.state, State::Leaving { deadline, .. } if deadline <= now)
    }

    /// A command arrives: spends its credit. False: the connection ends, or the initiator had no
    /// credit.
    #[inline]
    pub(crate) fn welcomes(&mut self) -> bool {
        self.state == State::Live && self.credits.spend()
    }

    /// A request or function begins.
    #[inline]
    pub(crate) fn begin(&mut self) {
        self.in_flight += 1;
    }

    /// A request or function has ended. True: it was the last one, and something waited for that.
    #[inline]
    pub(crate) fn end(&mut self) -> bool {
        self.in_flight -= 1;
        self.in_flight == 0 && (self.credits.owes() || self.state != State::Live)
    }

    /// No request and no function is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// An information unit that belongs to no request is sent.
    pub(crate) fn begin_own(&mut self) {
        self.own_in_flight += 1;
    }

    /// An information unit that belongs to no request has been sent, or is lost.
    pub(crate) fn end_own(&mut self) {
        self.own_in_flight -= 1;
    }

    /// Of information units that belong to no request, none is on its way.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.own_in_flight == 0
    }

    /// SRP_T_LOGOUT was sent, or is on its way.
    pub(crate) fn has_said_logout(&self) -> bool {
        matches!(self.state, State::Leaving { said: true, .. })
    }

    /// The fabric has closed the connection.
    pub(crate) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// A command is answered that moved `bytes` bytes.
    #[inline]
    pub(crate) fn count(&mut self, direction: Option<Direction>, bytes: u32) {
        self.commands += 1;
        match direction {
            Some(Direction::In) => self.bytes_read += u64::from(bytes),
            Some(Direction::Out) => self.bytes_written += u64::from(bytes),
            None => {}
        }
    }

    /// The connection is to end in good order, by `deadline`.
    pub(crate) fn leave(&mut self, deadline: Instant) -> Ending {
        match self.state {
            State::Asking => self.close(),
            State::Live => {
                self.state = State::Leaving { deadline, said: false };
                Ending::Leaves
            }
            State::Leaving { .. } | State::Closing | State::Gone => Ending::Under,
        }
    }

    /// The connection is to end at once.
    pub(crate) fn close(&mut self) -> Ending {
        match self.state {
            State::Closing | State::Gone => return Ending::Under,
            State::Asking | State::Live | State::Leaving { .. } => {}
        }
        let was = std::mem::replace(&mut self.state, State::Closing);
        Ending::Close { was_leaving: matches!(was, State::Leaving { .. }) }
    }

    /// The registry does not want the connection: the reject of its login closes it.
    pub(crate) fn refuse(&mut self) {
        self.state = State::Closing;
    }

    /// The fabric has closed the connection. True: it was leaving.
    pub(crate) fn set_gone(&mut self) -> bool {
        let was = std::mem::replace(&mut self.state, State::Gone);
        matches!(was, State::Leaving { .. })
    }

    /// Nothing of the connection runs any more: what is due now.
    pub(crate) fn on_idle(&mut self) -> Idle {
        match self.state {
            State::Asking | State::Closing | State::Leaving { said: true, .. } => Idle::Nothing,
            State::Live => {
                let due = self.credits.may_ask() && self.credits.owes() && self.queue.is_empty();
                if due { Idle::ReturnCredits } else { Idle::Nothing }
            }
            State::Leaving { deadline, said: false } => {
                self.state = State::Leaving { deadline, said: true };
                Idle::SayLogout
            }
            // What was said to a connection whose end was not known yet comes back first.
            State::Gone if self.own_in_flight > 0 => Idle::Nothing,
            State::Gone => Idle::Release,
        }
    }

    /// Something happens to all commands that wait.
    pub(crate) fn meet(&self, what: Met) {
        if !self.queue.is_empty() {
            met(At::Waiting, what);
        }
        if self.queue.holds() {
            met(At::Throttled, what);
        }
    }

    /// The connection for reports; `None` before it has a session.
    pub(crate) fn report(&self, credits: u32) -> Option<ChannelReport> {
        let session = self.session.as_ref()?;
        Some(ChannelReport {
            session: session.id,
            target: session.target.name.clone(),
            peer: self.peer.clone(),
            conn: self.id,
            initiator_port_id: session.initiator_port_id,
            target_port_id: self.login.target_port_id,
            credits,
            req_lim: self.credits.limit(),
            in_flight: self.in_flight + self.queue.len(),
            iu_bytes_max: self.agreed.iu_bytes_max,
            immediate_data: self.agreed.imm_data_offset.is_some(),
            multichannel: self.login.multichannel() == Multichannel::Multi,
            commands: self.commands,
            bytes_read: self.bytes_read,
            bytes_written: self.bytes_written,
        })
    }
}
