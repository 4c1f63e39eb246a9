//! What initiator ports know of the logical units under the LUNs of a target.
//!
//! An initiator that has found a unit under a LUN goes on reading and writing there without asking
//! who it is. When another unit comes under that LUN, every initiator port that may know the one
//! before must ask first ([`attention::ASK_FIRST`]): with INQUIRY of that LUN, or with REPORT LUNS.
//! A unit of the same name is the same unit, and nobody has to ask.
//!
//! A port keeps what it knows when its session ends, because initiators log in again without
//! asking who is there: the last [`GONE_MAX`] ports are remembered.
//!
//! [`attention::ASK_FIRST`]: crate::scsi::attention::ASK_FIRST

use crate::shard::names::{MAPPINGS_MAX, SessionId};
use crate::shard::unit::UnitName;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// An initiator port and the service GUID of a target: the names by which both know each other.
pub(crate) type Ends = ([u8; 16], u64);

/// Ports without a session that are remembered; beyond that the one that ended first is forgotten.
const GONE_MAX: usize = 1024;
/// LUNs of a port for which is kept which unit it knows there. At more LUNs a port must ask even
/// when the unit that it knows has come back.
const STALE_MAX: usize = 64;
/// LUNs of all targets that are remembered: twice as many as can be mapped.
pub(crate) const UNITS_MAX: usize = 2 * MAPPINGS_MAX;

/// The unit that was the last one under a LUN.
#[derive(Debug)]
struct Last {
    name: Arc<UnitName>,
    /// It was taken away: ports that came with a session of a higher number have not seen it.
    gone_after: Option<SessionId>,
}

/// What one initiator port knows of one target.
#[derive(Debug)]
pub(crate) struct Knowledge {
    /// Number of its first session.
    since: SessionId,
    /// LUNs with another unit than the port knows, and the one that it knows.
    stale: Vec<(u16, Arc<UnitName>)>,
    /// There are more such LUNs.
    more: bool,
}

impl Knowledge {
    /// True when a port whose session begins must ask at a LUN.
    pub(crate) fn must_ask(&self, lun: u16) -> bool {
        self.more || self.stale.iter().any(|(of, _)| *of == lun)
    }

    /// True when such a port must ask at some LUN.
    pub(crate) fn is_stale(&self) -> bool {
        self.more || !self.stale.is_empty()
    }

    /// A unit comes under a LUN. `asks`: the port had to ask there before already. True when it
    /// must ask now.
    pub(crate) fn replace(&mut self, change: &Change, asks: bool) -> bool {
        let Change { lun, last, new } = change;
        let lun = *lun;
        let place = self.stale.iter().position(|(of, _)| *of == lun);
        let noted = place.map(|place| self.stale.swap_remove(place).1);
        let knows = match (asks, noted) {
            (true, None) => return true,
            (true, Some(name)) => name,
            // It has asked since.
            (false, _) if last.gone_after.is_none_or(|gone| self.since <= gone) => {
                Arc::clone(&last.name)
            }
            (false, _) => return false,
        };
        if knows == *new {
            return false;
        }
        if self.stale.len() < STALE_MAX {
            self.stale.push((lun, knows));
        } else {
            self.more = true;
        }
        true
    }
}

/// A unit comes under a LUN where there was one before.
#[derive(Debug)]
pub(crate) struct Change {
    lun: u16,
    last: Last,
    new: Arc<UnitName>,
}

/// The units under all LUNs, and the ports without a session that may know them. Targets are named
/// by their service GUID, as initiators do.
#[derive(Debug, Default)]
pub(crate) struct Known {
    units: BTreeMap<(u64, u16), Last>,
    /// LUNs whose units some cores may still show.
    leaving: Vec<(u64, u16)>,
    gone: VecDeque<(Ends, Knowledge)>,
}

impl Known {
    /// A unit is about to come under a LUN where nothing is mapped. What has changed for the ports
    /// with a session: see [`Knowledge::replace`].
    pub(crate) fn announce(&mut self, guid: u64, lun: u16, unit: UnitName) -> Option<Change> {
        self.leaving.retain(|place| *place != (guid, lun));
        if self.units.len() >= UNITS_MAX {
            self.units.retain(|_, last| last.gone_after.is_none());
        }
        let new = Arc::new(unit);
        let now = Last { name: Arc::clone(&new), gone_after: None };
        let last = self.units.insert((guid, lun), now)?;
        let change = Change { lun, last, new };
        for (_, knowledge) in self.gone.iter_mut().filter(|((_, of), _)| *of == guid) {
            let asks = knowledge.must_ask(lun);
            knowledge.replace(&change, asks);
        }
        Some(change)
    }

    /// A LUN is being taken out of the map.
    pub(crate) fn unmap(&mut self, guid: u64, lun: u16) {
        if self.units.contains_key(&(guid, lun)) && !self.leaving.contains(&(guid, lun)) {
            self.leaving.push((guid, lun));
        }
    }

    /// No core shows the LUNs of a target any more that were taken out of the map. `session`: the
    /// number of the latest session.
    pub(crate) fn unmapped(&mut self, guid: u64, session: SessionId) {
        for place in self.leaving.extract_if(.., |(of, _)| *of == guid) {
            if let Some(last) = self.units.get_mut(&place) {
                last.gone_after = Some(session);
            }
        }
    }

    /// The LUNs of a target at which there is or was a unit.
    pub(crate) fn luns_of(&self, guid: u64) -> impl Iterator<Item = u16> + '_ {
        self.units.range((guid, 0)..=(guid, u16::MAX)).map(|((_, lun), _)| *lun)
    }

    /// A session begins, of this number: what its port knows.
    pub(crate) fn begin(&mut self, ends: Ends, session: SessionId) -> Knowledge {
        let place = self.gone.iter().position(|(other, _)| *other == ends);
        let back = place.and_then(|place| self.gone.remove(place));
        let new = || Knowledge { since: session, stale: Vec::new(), more: false };
        back.map_or_else(new, |(_, knowledge)| knowledge)
    }

    /// A session has ended. `asks`: whether its port still had to ask at a LUN.
    pub(crate) fn end(&mut self, ends: Ends, mut knowledge: Knowledge, asks: impl Fn(u16) -> bool) {
        knowledge.stale.retain(|(lun, _)| asks(*lun));
        if self.gone.len() >= GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back((ends, knowledge));
    }
}

#[cfg(test)]
mod tests;
