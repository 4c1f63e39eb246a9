//! What a core counts of rare events, and how many log lines its peers may cause.

use super::names::SessionId;
use std::collections::BTreeMap;

use reactor::{Instant, Lines};
use transport::{CloseReason, PeerInfo};

/// Rare events since the start, by name, and the budgets of log lines.
#[derive(Default)]
pub(crate) struct Log {
    named: BTreeMap<&'static str, u64>,
    closed: BTreeMap<CloseReason, u64>,
    /// Lines of logins and ends.
    news: Lines,
    /// Lines of broken rules.
    faults: Lines,
}

impl Log {
    /// Counts an event.
    pub(crate) fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// Counts some events.
    pub(crate) fn add(&mut self, name: &'static str, by: u64) {
        *self.named.entry(name).or_default() += by;
    }

    /// Named counters since the start.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        self.named.iter().map(|(name, count)| (*name, *count)).collect()
    }

    /// Connections closed, by reason, since the start.
    pub(crate) fn closed(&self) -> Vec<(CloseReason, u64)> {
        self.closed.iter().map(|(reason, count)| (*reason, *count)).collect()
    }

    /// A peer broke the protocol.
    pub(crate) fn violation(&mut self, now: Instant, peer: &PeerInfo, what: &'static str) {
        self.count(what);
        if let Some(left_out) = self.faults.take(now.ns()) {
            let (peer, traddr) = (&*peer.peer, &*peer.traddr);
            tracing::warn!(peer, traddr, what, left_out, "protocol violation");
        }
    }

    /// A peer has sent a login that makes no sense.
    pub(crate) fn malformed_login(
        &mut self,
        now: Instant,
        peer: &PeerInfo,
        error: &dyn std::error::Error,
    ) {
        if let Some(left_out) = self.faults.take(now.ns()) {
            let peer = &*peer.peer;
            tracing::warn!(peer, %error, left_out, "malformed login");
        }
    }

    /// A connection has joined a session.
    pub(crate) fn login(&mut self, now: Instant, session: Option<SessionId>, peer: &PeerInfo) {
        if let Some(left_out) = self.news.take(now.ns()) {
            let (peer, target) = (&*peer.peer, &*peer.target);
            let session = session.map(SessionId::number);
            tracing::info!(session, peer, target, left_out, "login");
        }
    }

    /// The fabric has closed a connection. Counts it; `peer` is of one that was more than a login.
    pub(crate) fn channel_closed(
        &mut self,
        now: Instant,
        session: Option<SessionId>,
        peer: Option<&PeerInfo>,
        reason: CloseReason,
    ) {
        *self.closed.entry(reason).or_default() += 1;
        let Some(peer) = peer else { return };
        if let Some(left_out) = self.news.take(now.ns()) {
            let (session, peer) = (session.map(SessionId::number), &*peer.peer);
            tracing::info!(session, peer, ?reason, left_out, "channel closed");
        }
    }
}
