//! This core's part of the task management functions under way: which commands are meant, and how
//! many of them have not come back yet.

use std::collections::VecDeque;

use reactor::Tag;

use crate::shard::message::AbortScope;
use crate::shard::names::{ChannelAt, CoreId, SessionId, SrpTag, UnitId};

/// Aborts under way on a core at a time: one bit each in a request.
const ABORTS_MAX: usize = 64;

/// This core's part of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abort {
    /// Core that carries out the function.
    pub from: CoreId,
    /// Its name for the function.
    pub task: Tag,
    /// Commands that have not come back yet.
    pub left: u32,
    /// Commands that are ended.
    pub count: u32,
}

/// The aborts under way on a core.
#[derive(Debug)]
pub(crate) struct Aborts {
    slots: [Option<Abort>; ABORTS_MAX],
    ended: VecDeque<Abort>,
}

impl Aborts {
    /// Nothing under way.
    pub(crate) fn new() -> Aborts {
        Aborts { slots: [None; ABORTS_MAX], ended: VecDeque::new() }
    }

    /// The number of a place for one more; `None`: commands of others must come back first.
    pub(crate) fn free(&self) -> Option<usize> {
        self.slots.iter().position(Option::is_none)
    }

    /// Begins an abort at a free place. It ends when all commands that are left have come back.
    pub(crate) fn begin(&mut self, number: usize, abort: Abort) {
        if abort.left == 0 {
            self.ended.push_back(abort);
        } else {
            self.slots[number] = Some(abort);
        }
    }

    /// A command has come back and is gone, which the aborts of these bits waited for.
    pub(crate) fn settle(&mut self, mut bits: u64) {
        while bits != 0 {
            let number = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let slot = &mut self.slots[number];
            let abort = slot.as_mut().expect("its commands have not all come back");
            abort.left -= 1;
            if abort.left == 0 {
                self.ended.extend(slot.take());
            }
        }
    }

    /// An abort whose commands have all come back.
    pub(crate) fn next_ended(&mut self) -> Option<Abort> {
        self.ended.pop_front()
    }
}

/// What a scope is compared with: a command that waits or runs.
pub(crate) struct Subject {
    /// Where the command came.
    pub channel: ChannelAt,
    /// Its session.
    pub session: Option<SessionId>,
    /// Its LUN, if it has the form of one.
    pub lun: Option<u16>,
    /// The number of its logical unit.
    pub unit: Option<UnitId>,
    /// SRP tag.
    pub tag: SrpTag,
}

impl Subject {
    /// True when the command is meant.
    pub(crate) fn is_in(&self, scope: AbortScope) -> bool {
        match scope {
            AbortScope::Task { session, lun, tag, only } => {
                self.session == Some(session)
                    && self.lun == lun
                    && self.tag == tag
                    && only.is_none_or(|channel| channel == self.channel)
            }
            AbortScope::TaskSet { session, lun, unit } => {
                self.session == Some(session) && (self.unit == Some(unit) || self.lun == Some(lun))
            }
            AbortScope::Unit { session, lun, unit } => {
                self.unit == Some(unit) || (self.session == Some(session) && self.lun == Some(lun))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_ends_with_the_last_command_that_it_waits_for() {
        let mut aborts = Aborts::new();
        let abort = |left| Abort { from: CoreId::new(1), task: Tag::new(3, 0), left, count: 2 };
        aborts.begin(0, abort(0));
        assert_eq!(aborts.next_ended(), Some(abort(0)), "nothing to wait for");
        aborts.begin(0, abort(2));
        aborts.begin(1, abort(1));
        assert_eq!(aborts.free(), Some(2));
        aborts.settle(0b01);
        assert_eq!(aborts.next_ended(), None);
        aborts.settle(0b11);
        assert_eq!((aborts.next_ended(), aborts.next_ended()), (Some(abort(0)), Some(abort(0))));
        assert_eq!((aborts.next_ended(), aborts.free()), (None, Some(0)));
    }
}
