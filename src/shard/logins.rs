//! How a connection begins and ends: what of it concerns other parts of the core, and other cores.

use std::sync::Arc;

use transport::srp::{LoginReq, Multichannel, OtherChannels, RejectReason};
use transport::{CloseReason, ConnId, Fabric, PeerInfo, Recv};

use super::Shard;
use super::connections::connection::Connection;
use super::connections::login::{agree, check_port, check_sizes, granted, rejected};
use super::coverage::{Mark, Met, mark};
use super::message::{ChannelAt, CoreMessage, LoginAsk};
use super::names::SrpTag;
use super::session::Session;
use super::sessions::registry::REGISTRY_CORE;
use super::stops::Stops;
use super::units::map::Luns;
use crate::limits::{Limits, RECEIVES_EXTRA};

impl<F: Fabric> Shard<F> {
    /// A peer asks for a connection (SRP 16A, 6.2). The session registry has the last word.
    #[cold]
    pub(super) fn on_login(&mut self, conn: ConnId) {
        let peer = self.connections.fabric().peer(conn);
        let login = match LoginReq::parse(self.connections.fabric().login_data(conn)) {
            Ok(login) => login,
            Err(error) => {
                mark(Mark::LoginMalformed);
                self.log.malformed_login(self.commands.now(), &peer, &error);
                return self.turn_away(conn, [0; 8], RejectReason::UnableToEstablish);
            }
        };
        match check_login(&login, &peer, (&self.limits, &self.stops, &self.luns)) {
            Err(reason) => self.turn_away(conn, login.tag, reason),
            Ok(target) => {
                let ask = LoginAsk {
                    channel: ChannelAt { core: self.out.core(), conn },
                    target: Arc::clone(self.luns.target(target).spec()),
                    initiator_port_id: login.initiator_port_id,
                    multichannel: login.multichannel() == Multichannel::Multi,
                    arrival: peer.arrival,
                };
                self.connections.insert(Connection::new(conn, peer, target, login));
                self.out.send(REGISTRY_CORE, CoreMessage::LoginAsk(ask));
            }
        }
    }

    /// Rejects a login that has left nothing behind.
    fn turn_away(&mut self, conn: ConnId, tag: SrpTag, reason: RejectReason) {
        self.log.count("login_rejected");
        self.connections.fabric_mut().reject(conn, &rejected(tag, reason));
    }

    /// The registry has taken the connection into a session.
    pub(super) fn on_login_granted(
        &mut self,
        conn: ConnId,
        session: Arc<Session>,
        others: OtherChannels,
    ) {
        let Some(connection) = self.connections.asking(conn) else {
            return mark(Mark::GrantedLate);
        };
        let (id, ended) = (session.id, session.has_ended());
        let agreed = agree(connection.login(), &self.limits);
        connection.grant(session, agreed);
        let rsp = granted(connection.login().tag, &agreed, others);
        self.log.login(self.commands.now(), Some(id), connection.peer());
        let receives = agreed.credits + RECEIVES_EXTRA;
        let (iu_bytes_max, ti_bytes_max) = (agreed.iu_bytes_max, agreed.ti_bytes_max);
        let fabric = self.connections.fabric_mut();
        fabric.accept(conn, &rsp, receives, iu_bytes_max, ti_bytes_max);
        if self.stops.is_stopping() || ended {
            self.leave(conn);
        }
    }

    /// The registry does not want the connection.
    pub(super) fn on_login_refused(&mut self, conn: ConnId, reason: RejectReason) {
        let Some(connection) = self.connections.asking(conn) else { return };
        mark(Mark::LoginRefused);
        connection.refuse();
        let tag = connection.login().tag;
        self.turn_away(conn, tag, reason);
    }

    /// Ends a connection at once: the fabric returns what it holds, then says `Closed`.
    #[cold]
    pub(super) fn close(&mut self, conn: ConnId, reason: CloseReason) {
        self.commands.requests().close(&mut self.connections, conn, reason);
    }

    /// The peer broke the protocol: counts it, says so once, and ends the connection.
    #[cold]
    pub(super) fn violation(&mut self, conn: ConnId, recv: Option<Recv>, what: &'static str) {
        if let Some(recv) = recv {
            self.connections.repost(conn, recv);
        }
        self.log.violation(self.commands.now(), self.connections.get(conn).peer(), what);
        self.close(conn, CloseReason::Protocol);
    }

    /// Asks a connection to end in good order: what runs is answered, then SRP_T_LOGOUT.
    pub(super) fn leave(&mut self, conn: ConnId) {
        if self.connections.leave(conn, self.commands.now()) {
            self.commands.requests().meet(Met::Leave, |request| request.conn() == conn);
            self.queues.drop_of(&mut self.connections, conn, self.commands.now());
            self.connections.settle(conn);
        }
    }

    /// Asks the chosen connections to end in good order.
    pub(super) fn leave_where(&mut self, chosen: impl Fn(&Connection) -> bool) {
        for conn in self.connections.names(chosen) {
            self.leave(conn);
        }
    }

    /// Closes leaving connections whose time is up. Those of which nothing is left are forgotten,
    /// here and by the registry.
    #[cold]
    pub(super) fn check_ending(&mut self) {
        for conn in self.connections.overdue(self.commands.now()) {
            mark(Mark::LeaveOverdue);
            self.close(conn, CloseReason::Local);
        }
        let core = self.out.core();
        while let Some(ended) = self.connections.next_ended() {
            self.queues.forget_session(ended.session);
            let channel = ChannelAt { core, conn: ended.conn };
            self.out.send(REGISTRY_CORE, CoreMessage::ChannelGone { channel });
        }
        self.check_deletes();
        self.check_shutdowns();
    }

    /// The fabric has ended a connection: only the ends of what it was given too late may follow.
    #[cold]
    pub(super) fn on_closed(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(connection) = self.connections.find(conn) else {
            // A login that was turned away before it became a connection.
            self.log.channel_closed(self.commands.now(), None, None, reason);
            return self.connections.fabric_mut().release(conn);
        };
        let session = connection.session_id();
        self.log.channel_closed(self.commands.now(), session, Some(connection.peer()), reason);
        if reason == CloseReason::Link && session.is_some() {
            let channel = ChannelAt { core: self.out.core(), conn };
            self.out.send(REGISTRY_CORE, CoreMessage::LinkDead { channel });
        }
        self.commands.requests().meet(Met::Gone, |request| request.conn() == conn);
        self.connections.set_gone(conn);
        self.queues.drop_of(&mut self.connections, conn, self.commands.now());
        self.tasks.drop_of(&mut self.connections, conn);
        self.connections.settle(conn);
    }

    /// Answers those who wait for the last connection of a target.
    pub(super) fn check_deletes(&mut self) {
        let connections = &self.connections;
        let ended = |target| connections.iter().all(|connection| connection.target() != target);
        for (token, target) in self.stops.take_deleted(ended) {
            self.luns.delete_target(target);
            self.answer(token);
        }
    }

    /// Answers those who wait until nothing is left here.
    pub(super) fn check_shutdowns(&mut self) {
        if self.commands.requests().counts().1 == 0 && self.connections.iter().next().is_none() {
            for token in self.stops.take_shutdowns() {
                self.answer(token);
            }
        }
    }
}

/// What a core can check alone; the number of the target. In the order of the kernel targets.
fn check_login(
    login: &LoginReq,
    peer: &PeerInfo,
    (limits, stops, luns): (&Limits, &Stops, &Luns),
) -> Result<usize, RejectReason> {
    check_sizes(login, limits)?;
    if stops.is_stopping() {
        return Err(RejectReason::InsufficientResources);
    }
    let target = luns.target_index(&peer.target).ok_or(RejectReason::UnableToAssociate)?;
    if stops.deletes(target) {
        return Err(RejectReason::UnableToAssociate);
    }
    check_port(login, peer, luns.target(target).spec())?;
    Ok(target)
}
