//! The one place that knows all sessions.
//!
//! A [`Session`] is shared by the cores that have channels of it. The [`Registry`] lives on core 0
//! and decides logins: it is the only writer of the list of sessions, so no lock is needed.
//!
//! A session object exists only after every check of the login has passed, and goes with its last
//! channel: rejected logins leave nothing behind.

use std::sync::Arc;

use transport::srp::{OtherChannels, RejectReason};

use super::known::{Ends, Knowledge, Known};
use crate::limits::CHANNELS_PER_SESSION_MAX;
use crate::scsi::attention::ASK_FIRST;
use crate::shard::coverage::{Mark, mark};
use crate::shard::message::{CoreMessage, HomeMessage, LoginAsk};
use crate::shard::names::{ChannelAt, CoreId, SessionId, TargetSpec};
use crate::shard::outbox::Outbox;
use crate::shard::session::Session;
use crate::shard::unit::LogicalUnit;

/// Core of the registry.
pub const REGISTRY_CORE: CoreId = CoreId::new(0);

/// A session in the list.
struct Entry {
    session: Arc<Session>,
    /// What its initiator port knows of the target.
    knowledge: Knowledge,
    channels: Vec<ChannelAt>,
    /// Arrival of the latest login that was granted.
    arrival: u64,
    /// The session has ended, and so many cores have not released yet what it had reserved there.
    /// Who takes its place waits for them.
    releasing: usize,
}

/// A login that waits until nothing is left of the session of its port.
struct Takeover {
    ask: LoginAsk,
    old: SessionId,
}

/// All sessions of the process. Lives on [`REGISTRY_CORE`].
#[derive(Default)]
pub struct Registry {
    sessions: Vec<Entry>,
    takeovers: Vec<Takeover>,
    /// Logins that came when the session of their port had lost its last channel.
    latecomers: Vec<Takeover>,
    known: Known,
    sessions_made: u64,
}

impl Registry {
    /// Decides a login (SRP 16A, 5.2; multichannel action in req_flags).
    pub fn on_login(&mut self, ask: LoginAsk, out: &mut Outbox) {
        let refuse = |reason, out: &mut Outbox| {
            let conn = ask.channel.conn;
            out.send(ask.channel.core, CoreMessage::LoginRefused { conn, reason });
        };
        let ending: Vec<SessionId> = self.takeovers.iter().map(|takeover| takeover.old).collect();
        let Some(entry) = self.entry_of(&ask) else {
            let session = self.admit(&ask);
            let others = if ask.multichannel { OtherChannels::Kept } else { OtherChannels::None };
            return grant(&ask, session, others, out);
        };
        if entry.channels.is_empty() {
            mark(Mark::LoginAfterLoss);
            let old = entry.session.id;
            return self.latecomers.push(Takeover { ask, old });
        }
        if ask.multichannel {
            if ending.contains(&entry.session.id) || entry.session.has_ended() {
                return refuse(RejectReason::UnableToAssociate, out);
            }
            if entry.channels.len() >= CHANNELS_PER_SESSION_MAX {
                return refuse(RejectReason::ChannelLimit, out);
            }
            mark(Mark::ChannelAdded);
            entry.channels.push(ask.channel);
            entry.arrival = entry.arrival.max(ask.arrival);
            let session = Arc::clone(&entry.session);
            return grant(&ask, session, OtherChannels::Kept, out);
        }
        // A core was late with it: its initiator has moved on.
        if ask.arrival < entry.arrival {
            mark(Mark::LoginOvertaken);
            return refuse(RejectReason::UnableToAssociate, out);
        }
        // Commands of the old channels must not change data after the new login was answered.
        for channel in &entry.channels {
            out.send(channel.core, CoreMessage::CloseChannel { conn: channel.conn });
        }
        let old = entry.session.id;
        mark(Mark::Takeover);
        self.takeovers.push(Takeover { ask, old });
    }

    /// A channel ended, in a session or while its login waited.
    pub(crate) fn on_channel_gone(&mut self, channel: ChannelAt, out: &mut Outbox) {
        self.takeovers.retain(|takeover| takeover.ask.channel != channel);
        self.latecomers.retain(|late| late.ask.channel != channel);
        let Some(at) = self.sessions.iter().position(|s| s.channels.contains(&channel)) else {
            return;
        };
        let entry = &mut self.sessions[at];
        entry.channels.retain(|other| *other != channel);
        if !entry.channels.is_empty() {
            return;
        }
        let session = entry.session.id;
        if !entry.session.may_reserve() {
            return self.forget(at, out);
        }
        entry.releasing = out.cores().len();
        for core in out.cores() {
            out.send(core, CoreMessage::Home(HomeMessage::NexusLost { session }));
        }
    }

    /// A core has released what a session had reserved there.
    pub(crate) fn on_nexus_gone(&mut self, session: SessionId, out: &mut Outbox) {
        let at = self.sessions.iter().position(|entry| entry.session.id == session);
        let at = at.expect("kept until every core has answered");
        self.sessions[at].releasing -= 1;
        if self.sessions[at].releasing == 0 {
            self.forget(at, out);
        }
    }

    /// Nothing is left of a session: logins that waited for that go on.
    fn forget(&mut self, at: usize, out: &mut Outbox) {
        let Entry { session, knowledge, .. } = self.sessions.swap_remove(at);
        self.known.end(ends(&session), knowledge, |lun| session.must_ask(lun));
        let ended = session.id;
        let mut ready: Vec<_> = self.takeovers.extract_if(.., |t| t.old == ended).collect();
        // Of several logins that wait for the same session the last one holds.
        ready.sort_unstable_by_key(|takeover| takeover.ask.arrival);
        let count = ready.len();
        for (number, Takeover { ask, .. }) in ready.into_iter().enumerate() {
            if number + 1 == count {
                let session = self.admit(&ask);
                grant(&ask, session, OtherChannels::Terminated, out);
            } else {
                mark(Mark::TakeoverLost);
                let (conn, reason) = (ask.channel.conn, RejectReason::UnableToAssociate);
                out.send(ask.channel.core, CoreMessage::LoginRefused { conn, reason });
            }
        }
        let mut late: Vec<_> = self.latecomers.extract_if(.., |t| t.old == ended).collect();
        late.sort_unstable_by_key(|late| late.ask.arrival);
        late.into_iter().for_each(|Takeover { ask, .. }| self.on_login(ask, out));
    }

    /// The link of a channel is dead. The peer of one without traffic would not be missed: all of
    /// the session are asked whether they are there.
    pub fn on_link_dead(&self, channel: ChannelAt, out: &mut Outbox) {
        let Some(entry) = self.sessions.iter().find(|s| s.channels.contains(&channel)) else {
            return;
        };
        for other in entry.channels.iter().filter(|other| **other != channel) {
            out.send(other.core, CoreMessage::Probe { conn: other.conn });
        }
    }

    /// A session is to end: no channel joins it any more.
    pub fn end(&mut self, session: SessionId) {
        if let Some(entry) = self.sessions.iter().find(|s| s.session.id == session) {
            entry.session.end();
        }
    }

    /// A unit is about to be mapped: sessions that know another one under the LUN must ask before
    /// any core shows the new one.
    pub fn on_announced(&mut self, target: &TargetSpec, lun: u16, lu: &LogicalUnit) {
        let guid = target.service_guid;
        let Some(change) = self.known.announce(guid, lun, lu.name()) else { return };
        for Entry { session, knowledge, .. } in &mut self.sessions {
            if session.target.service_guid != guid {
                continue;
            }
            match knowledge.replace(&change, session.must_ask(lun)) {
                true => session.raise(lun, ASK_FIRST),
                false => session.asked(lun),
            }
        }
    }

    /// This core shows a LUN no more; others may.
    pub fn on_unmap(&mut self, target: &TargetSpec, lun: u16) {
        self.known.unmap(target.service_guid, lun);
    }

    /// The map of a target has changed on every core: 3F/0E at all LUNs of its sessions.
    pub(crate) fn on_luns_changed(&mut self, target: &TargetSpec) {
        self.known.unmapped(target.service_guid, SessionId::new(self.sessions_made));
        let sessions = self.sessions.iter().map(|entry| &entry.session);
        sessions.filter(|s| s.target.name == target.name).for_each(|s| s.map_changed());
    }

    /// Raises unit attentions at LUNs of targets, in all sessions but one.
    pub(crate) fn on_attention(&self, at: &[(String, u16)], bits: u16, except: Option<SessionId>) {
        for Entry { session, .. } in &self.sessions {
            if Some(session.id) == except {
                continue;
            }
            let here = at.iter().filter(|(target, _)| *target == session.target.name);
            here.for_each(|(_, lun)| session.raise(*lun, bits));
        }
    }

    fn entry_of(&mut self, ask: &LoginAsk) -> Option<&mut Entry> {
        self.sessions.iter_mut().find(|entry| {
            entry.session.initiator_port_id == ask.initiator_port_id
                && entry.session.target.name == ask.target.name
        })
    }

    fn admit(&mut self, ask: &LoginAsk) -> Arc<Session> {
        self.sessions_made += 1;
        let id = SessionId::new(self.sessions_made);
        let target = Arc::clone(&ask.target);
        let session = Arc::new(Session::new(id, target, ask.initiator_port_id));
        let knowledge = self.known.begin(ends(&session), session.id);
        if knowledge.is_stale() {
            let luns = self.known.luns_of(session.target.service_guid);
            let asks = luns.filter(|lun| knowledge.must_ask(*lun));
            asks.for_each(|lun| session.raise(lun, ASK_FIRST));
        }
        let (channels, arrival) = (vec![ask.channel], ask.arrival);
        let (entry, releasing) = (Arc::clone(&session), 0);
        self.sessions.push(Entry { session: entry, knowledge, channels, arrival, releasing });
        session
    }
}

/// By what the initiator and the target of a session know each other.
fn ends(session: &Session) -> Ends {
    (session.initiator_port_id, session.target.service_guid)
}

fn grant(ask: &LoginAsk, session: Arc<Session>, others: OtherChannels, out: &mut Outbox) {
    let conn = ask.channel.conn;
    out.send(ask.channel.core, CoreMessage::LoginGranted { conn, session, others });
}
