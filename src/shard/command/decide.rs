//! Commands that change what all cores go by. The home core of the command's unit decides, and the
//! command waits for that in phase Deciding, without a buffer.
//!
//! An abort or the end of the channel marks such a command like one that a device holds. The
//! command comes back with the decision, which stands; the initiator is told nothing.

use transport::Fabric;

use super::Commands;
use super::job::{Job, Outcome};
use super::request::Phase;
use crate::scsi::{Reserve, Sense};
use crate::shard::connections::table::Connections;
use crate::shard::coverage::{At, Met, met};
use crate::shard::message::{Asker, Change, Decide, Nexus, Verdict};
use crate::shard::names::{RequestKey, UnitId};
use crate::shard::outbox::Outbox;
use crate::shard::units::map::Luns;

/// What the home core of a unit is asked for a command.
pub(super) struct Question {
    key: RequestKey,
    unit: UnitId,
    reserve: Reserve,
    nexus: Nexus,
}

impl Commands {
    /// A command waits for its unit's home core from now on.
    pub(super) fn decide(&mut self, luns: &Luns, key: RequestKey, nexus: Nexus) {
        let now = self.requests.now;
        let request = self.requests.request(key);
        let Job::Decide(reserve) = *request.job() else { unreachable!("planned as such") };
        request.enter(Phase::Deciding);
        request.submit(now);
        let unit = luns.mapping(request.unit()).unit();
        self.questions.push(Question { key, unit, reserve, nexus });
        self.requests.has_news = true;
    }

    /// Asks the home cores what commands of this turn want decided.
    pub(crate) fn ask_homes(&mut self, out: &mut Outbox) {
        for Question { key, unit, reserve, nexus } in self.questions.drain(..) {
            let (change, asker) =
                (Change::Reserve(reserve), Asker::Request { core: out.core(), key });
            out.ask_home(Decide { unit, change, nexus, asker });
        }
    }

    /// The home core has decided, and every core goes by that.
    pub(crate) fn on_decided<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        key: RequestKey,
        verdict: Verdict,
    ) {
        let requests = &mut self.requests;
        debug_assert_eq!(requests.request(key).phase(), Phase::Deciding);
        let (what, outcome) = match verdict {
            Verdict::Good => (Met::Success, Outcome::GOOD),
            Verdict::Conflict => (Met::Failure, Outcome::CONFLICT),
            Verdict::Absent => (Met::Failure, Outcome::check(Sense::LUN_NOT_SUPPORTED)),
        };
        met(At::Deciding, what);
        if requests.goes_on(connections, luns, key) {
            requests.respond(connections, luns, key, outcome, false);
        }
    }
}
