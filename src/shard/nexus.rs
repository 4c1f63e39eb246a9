//! Sessions: the I_T nexus and the one place that knows them all.
//!
//! A [`Nexus`] is shared by the cores that have channels of it. The [`Registry`] lives on core 0
//! and decides logins: it is the only writer of the list of sessions, so no lock is needed.
//!
//! A session object exists only after every check of the login has passed, and goes with its last
//! channel: rejected logins leave nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use transport::srp::{OtherChannels, RejectReason};

use super::coverage::{Mark, mark};
use super::lun::{LUN_MAX, TargetSpec};
use super::message::{AttentionAt, ChannelAt, CoreMessage, LoginAsk, PortId};
use super::outbox::Outbox;
use crate::limits::CHANNELS_PER_SESSION_MAX;
use crate::scsi::attention::Attention;

/// Core of the registry.
pub const REGISTRY_CORE: usize = 0;

/// An I_T nexus (SAM-5 4.3.4): one initiator port logged in to one target port.
#[derive(Debug)]
pub struct Nexus {
    /// Number of the session, never reused.
    pub id: u64,
    /// The target.
    pub target: Arc<TargetSpec>,
    /// Initiator port identifier.
    pub initiator_port_id: PortId,
    attentions: Box<[AtomicU8]>,
    /// Every bit that may be set at some LUN.
    raised: AtomicU8,
    /// The session may have reserved a logical unit.
    reserves: AtomicBool,
    /// An operator ends the session: channels that come to it leave at once.
    ended: AtomicBool,
}

impl Nexus {
    fn new(id: u64, target: Arc<TargetSpec>, initiator_port_id: PortId) -> Nexus {
        let attentions = (0..=LUN_MAX).map(|_| AtomicU8::new(Attention::PowerOn.bit())).collect();
        Nexus {
            id,
            target,
            initiator_port_id,
            attentions,
            raised: AtomicU8::new(Attention::PowerOn.bit()),
            reserves: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// True once an operator ends the session.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Unit attentions pending at a LUN: bits of [`Attention`].
    #[inline]
    pub fn attentions(&self, lun: u16) -> u8 {
        self.attentions[usize::from(lun)].load(Ordering::Relaxed)
    }

    /// Takes one pending attention for reporting. True for exactly one caller on any core.
    pub fn claim_attention(&self, lun: u16, bit: u8) -> bool {
        self.attentions[usize::from(lun)].fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// Raises attentions at a LUN.
    pub fn raise(&self, lun: u16, bits: u8) {
        self.attentions[usize::from(lun)].fetch_or(bits, Ordering::AcqRel);
        self.raised.fetch_or(bits, Ordering::AcqRel);
    }

    /// Forgets attentions at all LUNs: they were reported in another way. Looks at the LUNs only if
    /// one was raised since the last time. True if so.
    pub fn clear_all(&self, bits: u8) -> bool {
        // What is raised meanwhile is looked at the next time.
        if self.raised.load(Ordering::Relaxed) & bits == 0
            || self.raised.fetch_and(!bits, Ordering::AcqRel) & bits == 0
        {
            return false;
        }
        for cell in &self.attentions {
            if cell.load(Ordering::Relaxed) & bits != 0 {
                cell.fetch_and(!bits, Ordering::AcqRel);
            }
        }
        true
    }

    fn raise_all(&self, bits: u8) {
        for cell in &self.attentions {
            cell.fetch_or(bits, Ordering::AcqRel);
        }
        self.raised.fetch_or(bits, Ordering::AcqRel);
    }

    /// The session reserves a logical unit.
    pub fn note_reservation(&self) {
        self.reserves.store(true, Ordering::Release);
    }
}

struct Session {
    nexus: Arc<Nexus>,
    channels: Vec<ChannelAt>,
    /// Arrival of the latest login that was granted.
    arrival: u64,
}

/// A login that waits until the commands of the session it takes over have ended.
struct Takeover {
    ask: LoginAsk,
    old: u64,
}

/// All sessions of the process. Lives on [`REGISTRY_CORE`].
#[derive(Default)]
pub struct Registry {
    sessions: Vec<Session>,
    takeovers: Vec<Takeover>,
    last_id: u64,
}

impl Registry {
    /// Decides a login (SRP 16A, 5.2; multichannel action in req_flags).
    pub fn on_login(&mut self, ask: LoginAsk, out: &mut Outbox) {
        let refuse = |reason, out: &mut Outbox| {
            let conn = ask.channel.conn;
            out.send(ask.channel.core, CoreMessage::LoginRefused { conn, reason });
        };
        let ending: Vec<u64> = self.takeovers.iter().map(|takeover| takeover.old).collect();
        let Some(session) = self.session_of(&ask) else {
            let nexus = self.admit(&ask);
            let others = if ask.multichannel { OtherChannels::Kept } else { OtherChannels::None };
            return grant(&ask, nexus, others, out);
        };
        if ask.multichannel {
            if ending.contains(&session.nexus.id) || session.nexus.has_ended() {
                return refuse(RejectReason::UnableToAssociate, out);
            }
            if session.channels.len() >= CHANNELS_PER_SESSION_MAX {
                return refuse(RejectReason::ChannelLimit, out);
            }
            mark(Mark::ChannelAdded);
            session.channels.push(ask.channel);
            session.arrival = session.arrival.max(ask.arrival);
            let nexus = Arc::clone(&session.nexus);
            return grant(&ask, nexus, OtherChannels::Kept, out);
        }
        // A core was late with it: its initiator has moved on.
        if ask.arrival < session.arrival {
            mark(Mark::LoginOvertaken);
            return refuse(RejectReason::UnableToAssociate, out);
        }
        // Commands of the old channels must not change data after the new login was answered.
        for channel in &session.channels {
            out.send(channel.core, CoreMessage::CloseChannel { conn: channel.conn });
        }
        let old = session.nexus.id;
        mark(Mark::Takeover);
        self.takeovers.push(Takeover { ask, old });
    }

    /// A channel ended, in a session or while its login waited. Answers the session's number if
    /// the session has ended with it and may have reserved something.
    pub fn on_channel_gone(&mut self, channel: ChannelAt, out: &mut Outbox) -> Option<u64> {
        self.takeovers.retain(|takeover| takeover.ask.channel != channel);
        let at = self.sessions.iter().position(|s| s.channels.contains(&channel))?;
        let session = &mut self.sessions[at];
        session.channels.retain(|other| *other != channel);
        if !session.channels.is_empty() {
            return None;
        }
        let nexus = self.sessions.swap_remove(at).nexus;
        let ended = nexus.id;
        let mut ready: Vec<_> = self.takeovers.extract_if(.., |t| t.old == ended).collect();
        // Of several logins that wait for the same session the last one holds.
        ready.sort_unstable_by_key(|takeover| takeover.ask.arrival);
        let count = ready.len();
        for (number, takeover) in ready.into_iter().enumerate() {
            let ask = takeover.ask;
            if number + 1 == count {
                let nexus = self.admit(&ask);
                grant(&ask, nexus, OtherChannels::Terminated, out);
            } else {
                mark(Mark::TakeoverLost);
                let (conn, reason) = (ask.channel.conn, RejectReason::UnableToAssociate);
                out.send(ask.channel.core, CoreMessage::LoginRefused { conn, reason });
            }
        }
        nexus.reserves.load(Ordering::Acquire).then_some(ended)
    }

    /// The link of a channel is dead. The peer of one without traffic would not be missed: all of
    /// the session are asked whether they are there.
    pub fn on_link_dead(&self, channel: ChannelAt, out: &mut Outbox) {
        let Some(session) = self.sessions.iter().find(|s| s.channels.contains(&channel)) else {
            return;
        };
        for other in session.channels.iter().filter(|other| **other != channel) {
            out.send(other.core, CoreMessage::Probe { conn: other.conn });
        }
    }

    /// A session is to end: no channel joins it any more.
    pub fn end(&mut self, session: u64) {
        if let Some(session) = self.sessions.iter().find(|s| s.nexus.id == session) {
            session.nexus.ended.store(true, Ordering::Release);
        }
    }

    /// Raises unit attentions in sessions.
    pub fn on_attention(&mut self, at: &AttentionAt, bits: u8, except: Option<u64>) {
        for session in self.sessions.iter().filter(|s| Some(s.nexus.id) != except) {
            match at {
                AttentionAt::Target(target) if *target == session.nexus.target.name => {
                    session.nexus.raise_all(bits);
                }
                AttentionAt::Target(_) => {}
                AttentionAt::Luns(luns) => luns
                    .iter()
                    .filter(|(target, _)| *target == session.nexus.target.name)
                    .for_each(|(_, lun)| session.nexus.raise(*lun, bits)),
            }
        }
    }

    fn session_of(&mut self, ask: &LoginAsk) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| {
            session.nexus.initiator_port_id == ask.initiator_port_id
                && session.nexus.target.name == ask.target.name
        })
    }

    fn admit(&mut self, ask: &LoginAsk) -> Arc<Nexus> {
        self.last_id += 1;
        let target = Arc::clone(&ask.target);
        let nexus = Arc::new(Nexus::new(self.last_id, target, ask.initiator_port_id));
        let (channels, arrival) = (vec![ask.channel], ask.arrival);
        self.sessions.push(Session { nexus: Arc::clone(&nexus), channels, arrival });
        nexus
    }
}

fn grant(ask: &LoginAsk, nexus: Arc<Nexus>, others: OtherChannels, out: &mut Outbox) {
    let conn = ask.channel.conn;
    out.send(ask.channel.core, CoreMessage::LoginGranted { conn, nexus, others });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nexus() -> Nexus {
        let spec = TargetSpec { name: "t".into(), service_guid: 1, relative_port: 1 };
        Nexus::new(1, Arc::new(spec), [0; 16])
    }

    #[test]
    fn the_luns_are_gone_through_once_for_what_was_raised() {
        let (nexus, changed) = (nexus(), Attention::LunsChanged.bit());
        assert!(!nexus.clear_all(changed), "nothing was raised");
        nexus.raise_all(changed);
        nexus.raise(9, Attention::CapacityChanged.bit());
        assert!(nexus.clear_all(changed));
        assert!((0..100).all(|_| !nexus.clear_all(changed)));
        assert_eq!(nexus.attentions(0), Attention::PowerOn.bit());
        assert_eq!(nexus.attentions(9) & changed, 0);
        assert_ne!(nexus.attentions(9) & Attention::CapacityChanged.bit(), 0);
        nexus.raise(LUN_MAX, changed);
        assert!(nexus.clear_all(changed));
        assert_eq!(nexus.attentions(LUN_MAX) & changed, 0);
    }
}
