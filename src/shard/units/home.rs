//! The home of logical units: where what cores share of a unit is decided, in order.
//!
//! Each unit has a home core (found by [`Outbox::ask_home`]). What changes the state that all cores
//! go by comes here as [`Decide`]. One decision of a unit is made at a time: the new [`View`] goes
//! to all cores, and who asked is answered when every core has it. So no core carries out a command
//! by an older view once the answer is with the initiator.
//!
//! A home keeps a unit only while the unit is reserved or somebody waits. Who waits is a command
//! with a slot, a task management function, or the end of a session: that bounds what waits.

use std::collections::{BTreeMap, VecDeque};

use super::map::Luns;
use crate::scsi::Reserve;
use crate::shard::coverage::{Mark, mark};
use crate::shard::message::{Asker, Change, CoreMessage, Decide, HomeMessage, Nexus, Verdict};
use crate::shard::names::{SessionId, UnitId};
use crate::shard::outbox::Outbox;
use crate::shard::sessions::registry::REGISTRY_CORE;
use crate::shard::unit::View;

/// The shared state of a unit.
#[derive(Default)]
struct Home {
    /// Who has reserved the unit.
    holder: Option<Nexus>,
    /// What comes next, oldest first.
    queue: VecDeque<Decide>,
    /// Who is answered when so many cores have said that they go by the new view.
    open: Option<(Asker, usize)>,
}

impl Home {
    /// What a decision leads to: the answer, and who has reserved the unit then.
    fn judge(&self, decide: &Decide, luns: &Luns) -> (Verdict, Option<Nexus>) {
        let Decide { unit, change, nexus, .. } = decide;
        let of_holder = |holder: &Nexus| holder.session == nexus.session;
        match change {
            Change::Reserve(Reserve::Reserve) => match &self.holder {
                Some(holder) if !of_holder(holder) => (Verdict::Conflict, self.holder.clone()),
                // The LUN has been taken out of the map since the command came.
                _ if !luns.shows(*unit, &nexus.target) => (Verdict::Absent, self.holder.clone()),
                _ => (Verdict::Good, Some(nexus.clone())),
            },
            Change::Reserve(Reserve::Release) => {
                (Verdict::Good, self.holder.clone().filter(|holder| !of_holder(holder)))
            }
            Change::Reset => (Verdict::Good, None),
        }
    }
}

/// The units whose home is this core.
#[derive(Default)]
pub(crate) struct Homes {
    units: BTreeMap<UnitId, Home>,
    /// Sessions that have ended, and how many of their units have not been released yet.
    lost: Vec<(SessionId, usize)>,
}

impl Homes {
    /// Something of what cores go by.
    pub(crate) fn on_message(&mut self, message: HomeMessage, luns: &mut Luns, out: &mut Outbox) {
        match message {
            HomeMessage::Decide(decide) => self.decide(decide, luns, out),
            HomeMessage::View { unit, view, home } => {
                luns.set_view(unit, view);
                out.send(home, CoreMessage::Home(HomeMessage::Viewed { unit }));
            }
            HomeMessage::Viewed { unit } => self.on_viewed(unit, luns, out),
            HomeMessage::NexusLost { session } => self.on_nexus_lost(session, luns, out),
        }
    }

    /// Somebody wants to change what is shared of a unit.
    fn decide(&mut self, decide: Decide, luns: &Luns, out: &mut Outbox) {
        let unit = decide.unit;
        let home = self.units.entry(unit).or_default();
        if home.open.is_some() {
            mark(Mark::DecisionWaits);
        }
        home.queue.push_back(decide);
        self.go_on(unit, luns, out);
    }

    /// A core goes by the view that it was sent last.
    fn on_viewed(&mut self, unit: UnitId, luns: &Luns, out: &mut Outbox) {
        let home = self.units.get_mut(&unit).expect("kept until all cores have answered");
        let (_, left) = home.open.as_mut().expect("every core answers once");
        *left -= 1;
        if *left > 0 {
            return;
        }
        let (asker, _) = home.open.take().expect("looked at above");
        self.answer(asker, Verdict::Good, out);
        self.go_on(unit, luns, out);
    }

    /// A session has ended, and none of its commands is left: what it had reserved is released.
    fn on_nexus_lost(&mut self, session: SessionId, luns: &Luns, out: &mut Outbox) {
        let held = |home: &Home| home.holder.as_ref().is_some_and(|h| h.session == session);
        let units: Vec<UnitId> =
            self.units.iter().filter(|(_, home)| held(home)).map(|(unit, _)| *unit).collect();
        if units.is_empty() {
            return out.send(REGISTRY_CORE, CoreMessage::NexusGone { session });
        }
        mark(Mark::ReleasedWithSession);
        self.lost.push((session, units.len()));
        for unit in units {
            self.release(unit, Asker::Nexus(session), luns, out);
        }
    }

    /// A LUN of a target is taken out of this core's map. A session that can't reach the unit any
    /// more can't release it either.
    pub(crate) fn on_unmapped(&mut self, unit: UnitId, luns: &Luns, out: &mut Outbox) {
        let Some(holder) = self.units.get(&unit).and_then(|home| home.holder.as_ref()) else {
            return;
        };
        if !luns.shows(unit, &holder.target) {
            mark(Mark::ReleasedWithLun);
            self.release(unit, Asker::Nobody, luns, out);
        }
    }

    /// Releases what a unit's holder has reserved.
    fn release(&mut self, unit: UnitId, asker: Asker, luns: &Luns, out: &mut Outbox) {
        let holder = self.units.get(&unit).and_then(|home| home.holder.clone());
        let nexus = holder.expect("a unit that is reserved");
        let change = Change::Reserve(Reserve::Release);
        self.decide(Decide { unit, change, nexus, asker }, luns, out);
    }

    /// Makes the next decisions of a unit, up to one that cores must know of.
    fn go_on(&mut self, unit: UnitId, luns: &Luns, out: &mut Outbox) {
        loop {
            let home = self.units.get_mut(&unit).expect("a unit with a decision to make");
            if home.open.is_some() {
                return;
            }
            let Some(decide) = home.queue.pop_front() else {
                if home.holder.is_none() {
                    self.units.remove(&unit);
                }
                return;
            };
            let (verdict, holder) = home.judge(&decide, luns);
            if holder.as_ref().map(|h| h.session) == home.holder.as_ref().map(|h| h.session) {
                self.answer(decide.asker, verdict, out);
                continue;
            }
            let view = View::of(holder.as_ref().map(|nexus| nexus.session));
            home.holder = holder;
            home.open = Some((decide.asker, out.cores().len()));
            let home = out.core();
            for core in out.cores() {
                out.send(core, CoreMessage::Home(HomeMessage::View { unit, view, home }));
            }
            return;
        }
    }

    fn answer(&mut self, asker: Asker, verdict: Verdict, out: &mut Outbox) {
        match asker {
            Asker::Request { core, key } => out.send(core, CoreMessage::Decided { key, verdict }),
            Asker::Function { core, task } => {
                out.send(core, CoreMessage::Aborted { task, count: 0 });
            }
            Asker::Nexus(session) => {
                let at = self.lost.iter().position(|(lost, _)| *lost == session);
                let at = at.expect("counted when the session ended");
                self.lost[at].1 -= 1;
                if self.lost[at].1 == 0 {
                    self.lost.swap_remove(at);
                    out.send(REGISTRY_CORE, CoreMessage::NexusGone { session });
                }
            }
            Asker::Nobody => {}
        }
    }
}
