//! One SRP channel on its core: login, credits, and how it ends.
//!
//! A channel's life: *Asking* (login under way), *Live*, *Leaving* (no new commands; what runs is
//! answered, then SRP_T_LOGOUT), *Closing* (the fabric is told), *Gone* (the fabric has said
//! `Closed`; what still runs or was sent too late is dropped when it comes back). It is released
//! when nothing of it is left.

use std::collections::VecDeque;
use std::sync::Arc;

use reactor::Instant;
use transport::srp::LoginReq;
use transport::{ConnId, PeerInfo, Recv};

use crate::shard::message::ChannelReport;
use crate::shard::nexus::Nexus;

/// Where a channel is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
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

/// One channel.
pub(crate) struct Connection {
    /// The fabric's name for it.
    pub id: ConnId,
    /// Where it is in its life.
    pub state: State,
    /// Who is at the other end.
    pub peer: PeerInfo,
    /// Index of the target in this core's list.
    pub target: usize,
    /// What the login asked for.
    pub login: LoginReq,
    /// The session, once granted.
    pub nexus: Option<Arc<Nexus>>,
    /// Largest information units agreed on, in bytes: from the initiator, and to it.
    pub iu_bytes_max: u32,
    /// See [`Connection::iu_bytes_max`].
    pub ti_bytes_max: u32,
    /// Where immediate data begins in a command, if agreed.
    pub imm_data_offset: Option<u32>,
    /// Received commands that have not been admitted, oldest first.
    pub waiting: VecDeque<Recv>,
    /// So many of them, the oldest, have been charged to the limits of their logical units.
    pub paid: u32,
    /// Received commands that wait for a rate limit, elsewhere.
    pub held: u32,
    /// Since when the oldest waiting command has found too few buffers, and the bytes of the
    /// smallest one that it needs.
    pub short: Option<(Instant, usize)>,
    /// In the shard's list of channels with waiting commands.
    pub queued: bool,
    /// Credits the initiator holds (SRP request limit).
    pub req_lim: i32,
    /// Credits of commands that ended without a response, to be returned with the next one.
    pub owed: u32,
    /// Requests and task management functions that are not finished.
    pub in_flight: u32,
    /// A request of ours (SRP_CRED_REQ, SRP_AER_REQ) is unanswered; SRP allows one at a time.
    pub asking: bool,
    /// Information units that belong to no request and are on their way.
    pub own_in_flight: u32,
    /// Commands answered.
    pub commands: u64,
    /// Bytes the initiator read.
    pub bytes_read: u64,
    /// Bytes the initiator wrote.
    pub bytes_written: u64,
}

impl Connection {
    /// A channel whose login has just arrived.
    pub(crate) fn new(id: ConnId, peer: PeerInfo, target: usize, login: LoginReq) -> Connection {
        Connection {
            id,
            state: State::Asking,
            peer,
            target,
            login,
            nexus: None,
            iu_bytes_max: 0,
            ti_bytes_max: 0,
            imm_data_offset: None,
            waiting: VecDeque::new(),
            paid: 0,
            held: 0,
            short: None,
            queued: false,
            req_lim: 0,
            owed: 0,
            in_flight: 0,
            asking: false,
            own_in_flight: 0,
            commands: 0,
            bytes_read: 0,
            bytes_written: 0,
        }
    }

    /// True while responses may still be sent.
    #[inline]
    pub(crate) fn answers(&self) -> bool {
        matches!(self.state, State::Live | State::Leaving { .. })
    }

    /// The session's number; a channel that answers has one.
    pub(crate) fn session(&self) -> Option<u64> {
        self.nexus.as_ref().map(|nexus| nexus.id)
    }

    /// A command begins that spends so many credits.
    #[inline]
    pub(crate) fn begin(&mut self, credits: i32) {
        self.req_lim -= credits;
        self.in_flight += 1;
    }

    /// Counts a request against the request limit. False: the initiator had no credit for it.
    #[inline]
    pub(crate) fn spend_credit(&mut self) -> bool {
        self.req_lim -= 1;
        self.req_lim >= 0
    }

    /// Takes the credits that the next response returns: its own and what is owed.
    #[inline]
    pub(crate) fn grant(&mut self) -> i32 {
        let delta = 1 + std::mem::take(&mut self.owed) as i32;
        self.req_lim += delta;
        delta
    }

    /// The channel for reports; `None` before it has a session.
    pub(crate) fn report(&self, credits: u32) -> Option<ChannelReport> {
        let nexus = self.nexus.as_ref()?;
        Some(ChannelReport {
            session: nexus.id,
            target: nexus.target.name.clone(),
            peer: self.peer.clone(),
            conn: self.id,
            initiator_port_id: nexus.initiator_port_id,
            target_port_id: self.login.target_port_id,
            credits,
            req_lim: self.req_lim,
            in_flight: self.in_flight + self.waiting.len() as u32 + self.held,
            iu_bytes_max: self.iu_bytes_max,
            immediate_data: self.imm_data_offset.is_some(),
            multichannel: self.login.multichannel() == transport::srp::Multichannel::Multi,
            commands: self.commands,
            bytes_read: self.bytes_read,
            bytes_written: self.bytes_written,
        })
    }
}
