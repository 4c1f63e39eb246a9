//! A session that has reserved a device.

use super::{Function, Session};
use crate::soak::command::{Command, Work};
use crate::soak::run::Shared;

impl Session {
    /// RESERVE was answered with GOOD.
    pub(super) fn has_reserved(&self, shared: &mut Shared, command: &Command) {
        let (certain, now) = (self.holds(shared, command), shared.now());
        let (disk, sent) = (command.disk, command.sent);
        let other = shared.reservations.hold(disk).filter(|hold| hold.excludes(self.number));
        if self.released < sent && shared.reservations.undoubted(disk, sent) {
            assert_eq!(other, None, "session {} has reserved the device, too", self.number);
        }
        shared.reservations.reserved(self.number, disk, sent, now, certain);
    }

    /// The device is the session's for certain: nothing is under way that may end that.
    fn holds(&self, shared: &Shared, command: &Command) -> bool {
        let releases = |c: &Command| c.draft.work == Work::Release;
        let past = self.past.iter().flat_map(|past| &past.commands);
        shared.sessions_stay()
            && !self.doubted
            && self.tries.is_empty()
            && self.channels.iter().all(|channel| !channel.doomed && channel.port.ended().is_none())
            && !shared.ends_channels
            && self.released < command.sent
            && shared.reservations.undoubted(command.disk, command.sent)
            && !self.commands.iter().chain(past).any(releases)
            && !shared.attentions.takes_all(shared.luns_of(command.draft.lun))
            && !shared.was_away(command.draft.lun, command.sent)
    }
}

/// A function has ended with its channel: what it resets has been reset.
pub(super) fn end_function(shared: &mut Shared, function: &Function, now: u64) {
    shared.attentions.end(function.begun, now);
    if let Some((disk, _)) = function.resets {
        shared.reservations.doubt(disk, now);
    }
}
