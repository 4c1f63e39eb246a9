//! A plan: what a command is going to do.

use transport::srp::Direction;

use super::job::{Header, Job, Offered, Outcome};
use crate::scsi::{Answer, LunSelect, Reserve, Sense};

/// What a command is going to do, from its information unit and the LUN map alone. Making a plan
/// takes nothing, so a command that finds no buffer is simply planned again later.
pub(crate) struct Plan {
    /// Names of the command.
    pub header: Header,
    /// The initiator's side of the data.
    pub offered: Offered,
    /// What to do.
    pub work: Planned,
}

impl Plan {
    /// A response without data.
    pub(crate) fn end(header: Header, offered: Option<Offered>, outcome: Outcome) -> Plan {
        let offered = offered.unwrap_or(Offered::NONE);
        Plan { header, offered, work: Planned::End(outcome) }
    }

    /// CHECK CONDITION for a command whose data descriptors can't be used.
    pub(crate) fn refuse(header: Header, sense: Sense) -> Plan {
        Plan::end(header, None, Outcome::check(sense))
    }
}

/// The work of a plan.
pub(crate) enum Planned {
    /// A response without data.
    End(Outcome),
    /// Data made here.
    Make {
        /// What it says.
        content: Content,
        /// Most bytes, by the CDB's allocation length.
        allocation: u64,
    },
    /// A change that the home core of the unit decides.
    Decide(Reserve),
    /// A job with data.
    Run {
        /// What to do.
        job: Job,
        /// Which way the data goes.
        direction: Option<Direction>,
        /// Bytes by the CDB.
        bytes: u32,
    },
}

/// Data that is made here.
pub(crate) enum Content {
    /// From the logical unit.
    Unit(Answer),
    /// From the LUN map.
    Luns(LunSelect),
    /// From the session's unit attentions.
    Sense {
        /// Descriptor format.
        descriptor: bool,
    },
}
