//! How a channel begins and ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use transport::srp::{
    AerReq, BUF_FMT_DIRECT, BUF_FMT_INDIRECT, CredReq, LoginRej, LoginReq, LoginRsp, Lun,
    Multichannel, OtherChannels, REQ_IT_IU_LEN_MIN, RejectReason, TLogout,
};
use transport::{CloseReason, ConnId, DataIn, Fabric};

use crate::limits::RECEIVES_EXTRA;
use crate::scsi::attention::Attention;
use crate::shard::connections::connection::{Connection, State};
use crate::shard::coverage::{At, Mark, Met, mark, met};
use crate::shard::message::{ChannelAt, CoreMessage, LoginAsk};
use crate::shard::nexus::{Nexus, REGISTRY_CORE};
use crate::shard::shard::Shard;

/// How long a channel that was asked to leave may take to answer what runs.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// Channels looked at in one turn of a round of probes.
const PROBES_PER_TURN: usize = 64;

/// Immediate data begins behind the shortest command.
const IMM_DATA_OFFSET_MIN: u16 = 48;

const BUF_FMT: u16 = BUF_FMT_DIRECT | BUF_FMT_INDIRECT;

impl<F: Fabric> Shard<F> {
    /// A peer asks for a channel (SRP 16A, 6.2). The session registry has the last word.
    #[cold]
    pub(crate) fn on_login(&mut self, conn: ConnId) {
        let peer = self.fabric.peer(conn);
        let login = match LoginReq::parse(self.fabric.login_data(conn)) {
            Ok(login) => login,
            Err(error) => {
                mark(Mark::LoginMalformed);
                if let Some(left_out) = self.faults.take(self.now.ns()) {
                    tracing::warn!(peer = peer.peer, %error, left_out, "malformed login");
                }
                let reason = RejectReason::UnableToEstablish;
                return self.turn_away(conn, [0; 8], reason);
            }
        };
        match self.check_login(&login, &peer.target, peer.trtype) {
            Err(reason) => self.turn_away(conn, login.tag, reason),
            Ok(target) => {
                let ask = LoginAsk {
                    channel: ChannelAt { core: self.out.core(), conn },
                    target: Arc::clone(&self.luns.target(target).spec),
                    initiator_port_id: login.initiator_port_id,
                    multichannel: login.multichannel() == Multichannel::Multi,
                    arrival: peer.arrival,
                };
                let connection = Connection::new(conn, peer, target, login);
                self.connections[conn.index as usize] = Some(connection);
                self.out.send(REGISTRY_CORE, CoreMessage::LoginAsk(ask));
            }
        }
    }

    /// What a core can check alone; the number of the target. In the order of the kernel targets.
    fn check_login(
        &self,
        login: &LoginReq,
        target: &str,
        trtype: &str,
    ) -> Result<usize, RejectReason> {
        if !(REQ_IT_IU_LEN_MIN..=self.limits.iu_bytes_max).contains(&login.req_it_iu_len) {
            return Err(RejectReason::ItIuTooLarge);
        }
        if self.stopping {
            return Err(RejectReason::InsufficientResources);
        }
        let index = self.luns.target_index(target).ok_or(RejectReason::UnableToAssociate)?;
        if self.deletes.iter().any(|(_, deleting)| *deleting == index) {
            return Err(RejectReason::UnableToAssociate);
        }
        let guid = self.luns.target(index).spec.service_guid.to_be_bytes();
        let (first, second) = login.target_port_id.split_at(8);
        // A listener on this host belongs to one target, so its initiators need not know the GUID.
        let any = trtype == "shm" && login.target_port_id == [0; 16];
        if !any && (first != guid || second != guid) {
            return Err(RejectReason::UnableToAssociate);
        }
        Ok(index)
    }

    /// Rejects a login that has left nothing behind.
    fn turn_away(&mut self, conn: ConnId, tag: [u8; 8], reason: RejectReason) {
        self.counters.count("login_rejected");
        let mut rej = [0; LoginRej::LEN];
        LoginRej { tag, reason, buf_fmt: BUF_FMT }.emit(&mut rej);
        self.fabric.reject(conn, &rej);
    }

    /// The registry has taken the channel into a session.
    pub(crate) fn on_login_granted(
        &mut self,
        conn: ConnId,
        nexus: Arc<Nexus>,
        other_channels: OtherChannels,
    ) {
        let Some(connection) = self.asking(conn) else { return mark(Mark::GrantedLate) };
        let login = connection.login;
        let iu_bytes_max = self.limits.iu_bytes_max;
        let ti_bytes_max = self.limits.rsp_bytes_max;
        let credits = self.limits.credits;
        let connection = self.connection(conn);
        (connection.iu_bytes_max, connection.ti_bytes_max) = (iu_bytes_max, ti_bytes_max);
        let offset = login.immediate_data().filter(|offset| {
            (IMM_DATA_OFFSET_MIN..).contains(offset) && u32::from(*offset) < iu_bytes_max
        });
        connection.imm_data_offset = offset.map(u32::from);
        connection.nexus = Some(nexus);
        connection.state = State::Live;
        connection.req_lim = credits as i32;
        connection.waiting = VecDeque::with_capacity((credits + RECEIVES_EXTRA) as usize);
        let rsp = LoginRsp {
            tag: login.tag,
            req_lim_delta: credits as i32,
            max_it_iu_len: iu_bytes_max,
            max_ti_iu_len: ti_bytes_max,
            buf_fmt: BUF_FMT,
            other_channels,
            immediate_data: offset.is_some(),
        };
        let mut bytes = [0; LoginRsp::LEN];
        rsp.emit(&mut bytes);
        let receives = credits + RECEIVES_EXTRA;
        self.fabric.accept(conn, &bytes, receives, iu_bytes_max, ti_bytes_max);
        if let Some(left_out) = self.news.take(self.now.ns()) {
            let connection = self.connection(conn);
            tracing::info!(
                session = connection.session(),
                peer = connection.peer.peer,
                target = connection.peer.target,
                left_out,
                "login"
            );
        }
        let nexus = self.connection(conn).nexus.as_ref();
        let ended = nexus.is_some_and(|nexus| nexus.has_ended());
        if self.stopping || ended {
            self.leave(conn);
        }
    }

    /// The registry does not want the channel.
    pub(crate) fn on_login_refused(&mut self, conn: ConnId, reason: RejectReason) {
        let Some(connection) = self.asking(conn) else { return };
        let tag = connection.login.tag;
        mark(Mark::LoginRefused);
        connection.state = State::Closing;
        self.turn_away(conn, tag, reason);
    }

    /// The channel, if its login is still under way.
    fn asking(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.connections[conn.index as usize].as_mut()?;
        (connection.id == conn && connection.state == State::Asking).then_some(connection)
    }

    /// Ends a channel at once: the fabric returns what it holds, then says `Closed`.
    #[cold]
    pub(crate) fn close(&mut self, conn: ConnId, reason: CloseReason) {
        self.meet(conn, Met::Close);
        let connection = self.connection(conn);
        let was = std::mem::replace(&mut connection.state, State::Closing);
        match was {
            State::Closing | State::Gone => connection.state = was,
            State::Leaving { .. } => {
                self.leaving -= 1;
                self.fabric.close(conn, reason);
            }
            State::Asking | State::Live => self.fabric.close(conn, reason),
        }
    }

    /// Asks a channel to end in good order: what runs is answered, then SRP_T_LOGOUT.
    pub(crate) fn leave(&mut self, conn: ConnId) {
        let deadline = self.now.after(LEAVE_WAIT);
        let connection = self.connection(conn);
        match connection.state {
            State::Asking => return self.close(conn, CloseReason::Local),
            State::Live => {}
            State::Leaving { .. } | State::Closing | State::Gone => return,
        }
        connection.state = State::Leaving { deadline, said: false };
        mark(Mark::Leaves);
        self.meet(conn, Met::Leave);
        self.leaving += 1;
        self.drop_waiting(conn);
        if self.connection(conn).in_flight == 0 {
            self.on_idle(conn);
        }
    }

    /// Closes leaving channels whose time is up.
    #[cold]
    pub(crate) fn check_leaving(&mut self) {
        for index in 0..self.connections.len() {
            if let Some(connection) = &self.connections[index]
                && let State::Leaving { deadline, .. } = connection.state
                && deadline <= self.now
            {
                let conn = connection.id;
                mark(Mark::LeaveOverdue);
                self.close(conn, CloseReason::Local);
            }
        }
    }

    /// Something happens to all commands of a channel.
    fn meet(&self, conn: ConnId, what: Met) {
        if !cfg!(debug_assertions) {
            return;
        }
        for (_, request) in self.requests.iter().filter(|(_, request)| request.conn == conn) {
            met(request.phase, what);
        }
        let connection = self.connections[conn.index as usize].as_ref();
        if connection.is_some_and(|connection| !connection.waiting.is_empty()) {
            met(At::Waiting, what);
        }
        if connection.is_some_and(|connection| connection.held > 0) {
            met(At::Throttled, what);
        }
    }

    /// The fabric has ended a channel: only the ends of what it was given too late may follow.
    #[cold]
    pub(crate) fn on_closed(&mut self, conn: ConnId, reason: CloseReason) {
        self.counters.closed(reason);
        if self.connections[conn.index as usize].as_ref().is_none_or(|c| c.id != conn) {
            // A login that was turned away before it became a channel.
            return self.fabric.release(conn);
        }
        self.meet(conn, Met::Gone);
        let connection = self.connection(conn);
        if matches!(connection.state, State::Leaving { .. }) {
            self.leaving -= 1;
        }
        self.connection(conn).state = State::Gone;
        if let Some(left_out) = self.news.take(self.now.ns()) {
            let connection = self.connection(conn);
            tracing::info!(
                session = connection.session(),
                peer = connection.peer.peer,
                ?reason,
                left_out,
                "channel closed"
            );
        }
        if reason == CloseReason::Link && self.connection(conn).session().is_some() {
            let channel = ChannelAt { core: self.out.core(), conn };
            self.out.send(REGISTRY_CORE, CoreMessage::LinkDead { channel });
        }
        self.drop_waiting(conn);
        self.drop_functions(conn);
        if self.connection(conn).in_flight == 0 {
            self.on_idle(conn);
        }
    }

    /// Another channel of the session has lost its link.
    #[cold]
    pub(crate) fn on_probe(&mut self, conn: ConnId) {
        if self.connections[conn.index as usize].as_ref().is_some_and(|c| c.id == conn) {
            self.probe(conn.index as usize);
        }
    }

    /// The peer of a session without traffic would not be missed: a part of the round in which all
    /// channels are asked.
    #[cold]
    pub(crate) fn probe_some(&mut self) {
        let end = self.connections.len().min(self.probe_next + PROBES_PER_TURN);
        for index in self.probe_next..end {
            self.probe(index);
        }
        self.probe_next = end;
        if end == self.connections.len() {
            self.probe_next = 0;
            self.probe_at = self.now.after(self.limits.probe_every);
        }
    }

    fn probe(&mut self, index: usize) {
        let connection = self.connections[index].as_ref().filter(|c| c.answers());
        if let Some(connection) = connection {
            mark(Mark::Probed);
            self.fabric.probe(connection.id);
        }
    }

    /// Nothing of a channel runs any more: the moment for what waited for that.
    #[cold]
    pub(crate) fn on_idle(&mut self, conn: ConnId) {
        let connection = self.connection(conn);
        match connection.state {
            State::Asking | State::Closing => {}
            State::Live => self.return_credits(conn),
            State::Leaving { said: true, .. } => {}
            State::Leaving { deadline, said: false } => {
                connection.state = State::Leaving { deadline, said: true };
                mark(Mark::LogoutSaid);
                let mut iu = [0; TLogout::LEN];
                let solicited = connection.login.req_flags & LoginReq::FLAG_LOGOUT_SOLICITED != 0;
                let reason = TLogout::NO_REASON;
                TLogout { tag: [0; 8], solicited, reason }.emit(&mut iu);
                self.say(conn, &iu, solicited);
            }
            // What was said to a channel whose end was not known yet comes back first.
            State::Gone if connection.own_in_flight > 0 => {}
            State::Gone => self.release(conn),
        }
    }

    /// Nothing of a closed channel is left.
    fn release(&mut self, conn: ConnId) {
        let slot = self.connections[conn.index as usize].take();
        self.forget_lanes(slot.expect("released once").session());
        self.ready.retain(|index| *index != conn.index);
        self.fabric.release(conn);
        let channel = ChannelAt { core: self.out.core(), conn };
        self.out.send(REGISTRY_CORE, CoreMessage::ChannelGone { channel });
        self.check_deletes();
        if !self.shutdowns.is_empty() {
            self.check_shutdowns();
        }
    }

    /// Answers those who wait for the last channel of a target.
    pub(crate) fn check_deletes(&mut self) {
        let connections = &self.connections;
        let ended = |target: &usize| connections.iter().flatten().all(|c| c.target != *target);
        let ready: Vec<_> = self.deletes.extract_if(.., |(_, target)| ended(target)).collect();
        for (token, target) in ready {
            self.luns.delete_target(target);
            self.answer(token);
        }
    }

    /// Forgets received commands that have not been admitted.
    fn drop_waiting(&mut self, conn: ConnId) {
        while let Some(recv) = self.connection(conn).waiting.pop_front() {
            self.fabric.repost(conn, recv);
        }
        self.connection(conn).paid = 0;
        self.drop_held(conn);
    }

    /// Returns credits that no response will carry (SRP_CRED_REQ; SRP 16A, 6.10).
    fn return_credits(&mut self, conn: ConnId) {
        let connection = self.connection(conn);
        if connection.asking || connection.owed == 0 || !connection.waiting.is_empty() {
            return;
        }
        connection.asking = true;
        mark(Mark::CreditsReturned);
        let req_lim_delta = std::mem::take(&mut connection.owed) as i32;
        connection.req_lim += req_lim_delta;
        let solicited = connection.login.req_flags & LoginReq::FLAG_CRED_REQ_SOLICITED != 0;
        let mut iu = [0; CredReq::LEN];
        CredReq { tag: [0; 8], solicited, req_lim_delta }.emit(&mut iu);
        self.say(conn, &iu, solicited);
    }

    /// Reports a changed LUN map to initiators that asked to be notified of asynchronous events
    /// (SRP_AER_REQ; SRP 16A, 6.12), on one of each session's channels on this core.
    pub(crate) fn report_event(&mut self, target: &str) {
        let mut told = Vec::new();
        for index in 0..self.connections.len() {
            let Some(connection) = &mut self.connections[index] else { continue };
            let Some(session) = connection.session() else { continue };
            let wants = connection.login.req_flags & LoginReq::FLAG_AER_SOLICITED != 0;
            let eligible = connection.state == State::Live
                && connection.peer.target == target
                && wants
                && !connection.asking
                && !told.contains(&session);
            if !eligible {
                continue;
            }
            told.push(session);
            mark(Mark::EventReported);
            connection.asking = true;
            let req_lim_delta = std::mem::take(&mut connection.owed) as i32;
            connection.req_lim += req_lim_delta;
            let conn = connection.id;
            let mut sense = [0; 18];
            let len = Attention::LunsChanged.sense().emit(false, &mut sense);
            let mut iu = [0; AerReq::LEN_MIN + 18];
            let lun = Lun::default();
            let sense = &sense[..len];
            let aer = AerReq { tag: [0; 8], solicited: true, req_lim_delta, lun, sense };
            let len = aer.emit(&mut iu);
            self.say(conn, &iu[..len], true);
        }
    }

    /// Sends an information unit that belongs to no request: one of our own, or the answer to a
    /// task management function.
    pub(crate) fn say(&mut self, conn: ConnId, iu: &[u8], solicited: bool) {
        self.connection(conn).own_in_flight += 1;
        self.fabric.reply(conn, Self::own_tag(conn), iu, solicited, DataIn::None { buf: None });
    }
}
