//! One session: the I_T nexus, shared by the cores that have connections of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::names::{LUN_MAX, PortId, SessionId, TargetSpec};
use crate::scsi::attention::{ASK_FIRST, Attention};

/// An I_T nexus (SAM-5 4.3.4): one initiator port logged in to one target port.
#[derive(Debug)]
pub struct Session {
    /// Number of the session, never reused.
    pub id: SessionId,
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

impl Session {
    pub(crate) fn new(
        id: SessionId,
        target: Arc<TargetSpec>,
        initiator_port_id: PortId,
    ) -> Session {
        let attentions = (0..=LUN_MAX).map(|_| AtomicU8::new(Attention::PowerOn.bit())).collect();
        Session {
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

    /// Unit attentions pending at a LUN, and [`ASK_FIRST`]: bits of [`Attention`].
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

    /// True when the session must ask who is under a LUN before it may use that unit.
    #[inline]
    pub fn must_ask(&self, lun: u16) -> bool {
        self.attentions(lun) & ASK_FIRST != 0
    }

    /// The session knows the unit under a LUN: it was told, or the one that it knows is back.
    pub(crate) fn asked(&self, lun: u16) {
        if self.must_ask(lun) {
            self.claim_attention(lun, ASK_FIRST);
        }
    }

    /// The session was told which LUNs have a unit. A LUN that the telling core does not show yet
    /// is not among them, so the session still asks for that one.
    pub(crate) fn asked_for(&self, luns: impl Iterator<Item = u16>) {
        if self.raised.load(Ordering::Relaxed) & ASK_FIRST != 0 {
            luns.for_each(|lun| self.asked(lun));
        }
    }

    /// Raises attentions at all LUNs.
    pub(crate) fn raise_all(&self, bits: u8) {
        for cell in &self.attentions {
            cell.fetch_or(bits, Ordering::AcqRel);
        }
        self.raised.fetch_or(bits, Ordering::AcqRel);
    }

    /// The session reserves a logical unit.
    pub fn note_reservation(&self) {
        self.reserves.store(true, Ordering::Release);
    }

    /// True when the session may have reserved a logical unit.
    pub(crate) fn may_reserve(&self) -> bool {
        self.reserves.load(Ordering::Acquire)
    }

    /// An operator ends the session.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        let spec = TargetSpec { name: "t".into(), service_guid: 1, relative_port: 1 };
        Session::new(SessionId::new(1), Arc::new(spec), [0; 16])
    }

    #[test]
    fn the_luns_are_gone_through_once_for_what_was_raised() {
        let (session, changed) = (session(), Attention::LunsChanged.bit());
        assert!(!session.clear_all(changed), "nothing was raised");
        session.raise_all(changed);
        session.raise(9, Attention::CapacityChanged.bit());
        assert!(session.clear_all(changed));
        assert!((0..100).all(|_| !session.clear_all(changed)));
        assert_eq!(session.attentions(0), Attention::PowerOn.bit());
        assert_eq!(session.attentions(9) & changed, 0);
        assert_ne!(session.attentions(9) & Attention::CapacityChanged.bit(), 0);
        session.raise(LUN_MAX, changed);
        assert!(session.clear_all(changed));
        assert_eq!(session.attentions(LUN_MAX) & changed, 0);
    }
}
