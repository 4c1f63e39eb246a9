//! One session: the I_T nexus, shared by the cores that have connections of it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::names::{LOW_LUNS, LUN_MAX, PortId, SessionId, TargetSpec};
use crate::scsi::attention::{ASK_FIRST, Attention};

/// LUNs whose words are one piece of memory.
const CHUNK: usize = LOW_LUNS;
/// Pieces behind the first one.
const CHUNKS: usize = (LUN_MAX as usize + 1) / CHUNK - 1;

/// What is pending at one LUN: unit attentions and [`ASK_FIRST`] in the lower half. The upper half
/// has the generation of the LUN map up to which the session has been told there.
type Word = AtomicU64;

/// The word of a LUN at which nothing has happened yet.
const FRESH: u64 = Attention::PowerOn.bit() as u64;
/// One generation of the map.
const GENERATION: u64 = 1 << 32;

/// The generation of a word.
#[inline]
fn generation(word: u64) -> u32 {
    (word >> 32) as u32
}

fn chunk() -> [Word; CHUNK] {
    [const { AtomicU64::new(FRESH) }; CHUNK]
}

/// An I_T nexus (SAM-5 4.3.4): one initiator port logged in to one target port.
#[derive(Debug)]
pub struct Session {
    /// Number of the session, never reused.
    pub id: SessionId,
    /// The target.
    pub target: Arc<TargetSpec>,
    /// Initiator port identifier.
    pub initiator_port_id: PortId,
    /// The word of a LUN at which nothing is pending: the generation of the map alone.
    quiet: Word,
    /// The words of the first LUNs.
    low: [Word; CHUNK],
    /// The words of all others, by pieces. A piece is made when something happens at one of its
    /// LUNs.
    high: Box<[OnceLock<Box<[Word; CHUNK]>>]>,
    /// The generation of the map up to which REPORT LUNS has told the session, for all LUNs.
    told: AtomicU32,
    /// [`ASK_FIRST`] may be set at some LUN.
    asks: AtomicBool,
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
        Session {
            id,
            target,
            initiator_port_id,
            quiet: AtomicU64::new(0),
            low: chunk(),
            high: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            told: AtomicU32::new(0),
            asks: AtomicBool::new(false),
            reserves: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// True once an operator ends the session.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// True when nothing is pending at a LUN. It may be false for no reason once, after
    /// [`Session::attentions`] has been asked for the LUN no more.
    #[inline(always)]
    pub(crate) fn is_quiet(&self, lun: u16) -> bool {
        let quiet = self.quiet.load(Ordering::Relaxed);
        match self.low.get(usize::from(lun)) {
            Some(word) => word.load(Ordering::Relaxed) == quiet,
            None => self.high_value(lun) == quiet,
        }
    }

    /// Unit attentions pending at a LUN, and [`ASK_FIRST`]: bits of [`Attention`].
    pub fn attentions(&self, lun: u16) -> u16 {
        let value = match self.low.get(usize::from(lun)) {
            Some(word) => word.load(Ordering::Relaxed),
            None => self.high_value(lun),
        };
        let now = generation(self.quiet.load(Ordering::Acquire));
        let untold = generation(value) != now && self.told.load(Ordering::Acquire) != now;
        value as u16 | if untold { Attention::LunsChanged.bit() } else { 0 }
    }

    /// Nothing is pending at a LUN, as REPORT LUNS has told the session of the map's last change:
    /// the LUN's own word says so from now on.
    pub(crate) fn settle(&self, lun: u16) {
        if !self.is_quiet(lun) && self.attentions(lun) & Attention::LunsChanged.bit() == 0 {
            self.tell(lun);
        }
    }

    fn high_value(&self, lun: u16) -> u64 {
        let lun = usize::from(lun) - CHUNK;
        match self.high.get(lun / CHUNK).and_then(OnceLock::get) {
            Some(chunk) => chunk[lun % CHUNK].load(Ordering::Relaxed),
            None => FRESH,
        }
    }

    fn word(&self, lun: u16) -> &Word {
        let lun = usize::from(lun);
        match lun.checked_sub(CHUNK) {
            None => &self.low[lun],
            Some(high) => &self.high[high / CHUNK].get_or_init(|| Box::new(chunk()))[high % CHUNK],
        }
    }

    /// The session is told at a LUN that the map has changed. True: it was not yet.
    fn tell(&self, lun: u16) -> bool {
        let now = self.quiet.load(Ordering::Acquire);
        let of_now = |word: u64| {
            (generation(word) != generation(now)).then_some(now | u64::from(word as u32))
        };
        self.word(lun).fetch_update(Ordering::AcqRel, Ordering::Acquire, of_now).is_ok()
    }

    /// Takes one pending attention for reporting. True for exactly one caller on any core.
    pub fn claim_attention(&self, lun: u16, bit: u16) -> bool {
        if bit == Attention::LunsChanged.bit() {
            return self.tell(lun);
        }
        self.word(lun).fetch_and(!u64::from(bit), Ordering::AcqRel) & u64::from(bit) != 0
    }

    /// Raises attentions at a LUN, but no change of the map (`map_changed`).
    pub fn raise(&self, lun: u16, bits: u16) {
        debug_assert!(bits & Attention::LunsChanged.bit() == 0, "raised at all LUNs only");
        self.word(lun).fetch_or(u64::from(bits), Ordering::AcqRel);
        if bits & ASK_FIRST != 0 {
            self.asks.store(true, Ordering::Release);
        }
    }

    /// Raises 3F/0E at all LUNs: a new generation of the map, whatever the number of LUNs.
    pub(crate) fn map_changed(&self) {
        self.quiet.fetch_add(GENERATION, Ordering::AcqRel);
    }

    /// REPORT LUNS tells the session of the map: 3F/0E is pending at no LUN any more (SPC-4 6.33).
    pub(crate) fn told_luns(&self) {
        self.told.store(generation(self.quiet.load(Ordering::Acquire)), Ordering::Release);
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
        if self.asks.load(Ordering::Acquire) {
            luns.for_each(|lun| self.asked(lun));
        }
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

    const POWER_ON: u16 = Attention::PowerOn.bit();
    const CHANGED: u16 = Attention::LunsChanged.bit();
    const LUNS: [u16; 5] = [0, 63, 64, 300, LUN_MAX];

    fn session() -> Session {
        let spec = TargetSpec { name: "t".into(), service_guid: 1, relative_port: 1 };
        Session::new(SessionId::new(1), Arc::new(spec), [0; 16])
    }

    /// A session that has been told of the power on at some LUNs.
    fn quiet() -> Session {
        let session = session();
        for lun in LUNS {
            assert!(!session.is_quiet(lun));
            assert_eq!(session.attentions(lun), POWER_ON);
            assert!(session.claim_attention(lun, POWER_ON) && session.is_quiet(lun));
        }
        session
    }

    #[test]
    fn a_change_of_the_map_is_told_once_at_each_lun() {
        let session = quiet();
        session.map_changed();
        session.map_changed();
        for lun in LUNS {
            assert!(!session.is_quiet(lun));
            assert_eq!(session.attentions(lun), CHANGED);
            assert!(session.claim_attention(lun, CHANGED));
            assert!(!session.claim_attention(lun, CHANGED), "taken by the one before");
            assert!(session.is_quiet(lun));
        }
        assert_eq!(session.attentions(9), POWER_ON | CHANGED, "a LUN that nobody has used yet");
    }

    #[test]
    fn report_luns_tells_of_a_change_at_all_luns() {
        let session = quiet();
        session.raise(63, Attention::CapacityChanged.bit());
        session.map_changed();
        session.told_luns();
        assert_eq!(session.attentions(63), Attention::CapacityChanged.bit());
        assert_eq!(session.attentions(300), 0);
        session.settle(300);
        assert!(session.is_quiet(300), "the next command goes the short way");
        session.settle(63);
        assert!(!session.is_quiet(63));
        session.map_changed();
        session.settle(0);
        assert!(LUNS.iter().all(|lun| session.attentions(*lun) & CHANGED != 0));
    }

    #[test]
    fn luns_that_nobody_uses_take_no_memory() {
        let session = quiet();
        for _ in 0..1000 {
            session.map_changed();
        }
        assert_eq!(session.attentions(5000), POWER_ON | CHANGED);
        let made = session.high.iter().filter(|chunk| chunk.get().is_some()).count();
        assert_eq!(made, 2, "of LUNs 300 and {LUN_MAX}");
        assert!(size_of::<Session>() < 3072);
    }
}
