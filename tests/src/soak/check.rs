//! Whether an answer is one that the command may have.

use reactor::Clock;
use transport::initiator::{DataMemory, Outcome};
use transport::sim::SimMemory;
use transport::srp::{Direction, Residual};

use super::attentions::{Heard, Kind, NO_LUN};
use super::blocks::{BLOCK, Done};
use super::command::{Code, Command, POISON, Shape, Work};
use super::run::Shared;
use super::tally::Seen;

/// A command was answered: looks at all of it, and says what became of its writes.
pub fn answer(
    shared: &mut Shared,
    session: u64,
    heard: &mut Heard,
    memory: &SimMemory,
    command: &Command,
    outcome: &Outcome,
) -> Done {
    shared.tally.seen(Seen::Answered);
    let data = gather(memory, command);
    let reads = command.draft.direction == Some(Direction::In);
    let hold = command.hold.filter(|hold| {
        hold.excludes(session) && shared.reservations.hold(command.disk) == Some(*hold)
    });
    let excluded = hold.is_some() && !command.draft.passes_reservations();
    match outcome.status {
        0 => {
            assert!(!excluded, "done though reserved: {hold:?} {command:?}");
            assert!(outcome.sense.as_bytes().is_empty(), "sense with GOOD: {command:?}");
            assert_eq!(command.draft.check, None, "GOOD for {command:?}");
            if !command.draft.made {
                assert_eq!(outcome.residual, command.good_residual(), "{command:?}");
            }
            good(shared, session, heard, command, &data);
            Done::Yes
        }
        2 => {
            let code = outcome.sense.code().expect("CHECK CONDITION has sense data");
            if reads {
                assert!(
                    data.iter().all(|byte| *byte == POISON),
                    "{code:x?} with data: {command:?}"
                );
            }
            let touched = matches!(code, (2 | 3 | 7 | 0xb | 0xe, ..));
            assert!(!excluded || !touched, "{code:x?} though reserved: {hold:?} {command:?}");
            if command.draft.work == Work::Reserve {
                shared.reservations.refused(session, command.sent);
            }
            let done = check_condition(shared, session, heard, command, code);
            command.check_residual(code, outcome.residual);
            done
        }
        0x18 => {
            let may_be = shared.reservations.may_exclude(session, command.disk, command.sent);
            assert!(may_be, "nobody has reserved the device: {command:?}");
            assert!(!command.draft.passes_reservations(), "a conflict for {command:?}");
            assert!(data.iter().all(|byte| *byte == POISON), "a conflict with data: {command:?}");
            assert_eq!(outcome.residual, command.under(command.draft.offered), "{command:?}");
            shared.tally.seen(Seen::Conflicts);
            if excluded {
                shared.tally.seen(Seen::Excluded);
            }
            if command.draft.work == Work::Reserve {
                shared.reservations.refused(session, command.sent);
            }
            Done::No
        }
        status => panic!("status {status:#x} for {command:?}"),
    }
}

fn gather(memory: &SimMemory, command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    if command.draft.direction == Some(Direction::In) {
        for seg in &command.segs {
            let at = bytes.len();
            bytes.resize(at + seg.len as usize, 0);
            memory.read_at(seg.addr as usize, &mut bytes[at..]);
        }
    }
    bytes
}

fn good(shared: &mut Shared, session: u64, heard: &mut Heard, command: &Command, data: &[u8]) {
    let draft = &command.draft;
    let now = shared.now();
    let disk = shared.disks[command.disk].clone();
    if let Some(writes) = draft.transfers() {
        let (bytes, time) = (u64::from(draft.wanted), shared.world.clock.now());
        if shared.rates.done(command.disk, command.sent, writes, bytes, time) {
            shared.tally.seen(Seen::Limited);
        }
    }
    match &draft.work {
        Work::Read => {
            let moved = draft.wanted.min(draft.offered) as usize;
            let (data, tail) = data.split_at(moved);
            assert!(tail.iter().all(|byte| *byte == POISON), "data beyond the end: {command:?}");
            let whole = &data[..data.len() / BLOCK * BLOCK];
            let tally = &mut shared.tally;
            let blocks = &mut shared.blocks[command.disk];
            let checked = blocks.check(draft.lba, whole, command.sent, now, |block| match block {
                Ok(()) => {
                    tally.seen(Seen::Either);
                    true
                }
                Err(lba) => {
                    let at = (lba - draft.lba) as usize * BLOCK;
                    let known = disk.was_wrong(lba, &whole[at..]);
                    tally.seen(if known { Seen::Corruptions } else { Seen::Either });
                    known
                }
            });
            if let Err(wrong) = checked {
                panic!("session {session} read {wrong:x?} with {command:?}");
            }
            if draft.reads_medium() {
                blocks.flushed(command.sent);
            }
        }
        Work::Verify(values) => {
            for (at, value) in values.iter().enumerate() {
                let lba = draft.lba + at as u64;
                let equal = shared.blocks[command.disk].may_be(lba, *value, command.sent);
                assert!(equal, "no miscompare at {lba}: {command:?}");
            }
        }
        Work::Compare(value, _) => {
            let equal = shared.blocks[command.disk].may_be(draft.lba, *value, command.sent);
            assert!(equal, "no miscompare: {command:?}");
        }
        Work::Flush => shared.blocks[command.disk].flushed(command.sent),
        Work::Sense => {
            if data[2] & 0x0f == 6 {
                let kind = Kind::of(data[12]).expect("a unit attention that is known");
                heard.tell(&shared.attentions, session, draft.lun, kind);
            }
        }
        Work::Release => {
            let (sent, disk) = (command.sent, command.disk);
            shared.reservations.released(Some(session), disk, sent, now);
        }
        Work::Reserve | Work::Write { .. } | Work::Nothing => {}
    }
}

fn check_condition(
    shared: &mut Shared,
    session: u64,
    heard: &mut Heard,
    command: &Command,
    code: Code,
) -> Done {
    let draft = &command.draft;
    let touches = draft.blocks > 0 || draft.work == Work::Flush;
    match code {
        (6, asc, _) if draft.lun != NO_LUN => {
            shared.tally.seen(Seen::Attentions);
            let kind = Kind::of(asc).unwrap_or_else(|| panic!("{code:x?} for {command:?}"));
            heard.tell(&shared.attentions, session, draft.lun, kind);
            Done::No
        }
        (5, 0x25, 0) if shared.was_away(draft.lun, command.sent) => {
            shared.tally.seen(Seen::Absent);
            Done::No
        }
        (5, 0x21, 0) if touches && shared.was_small(command.disk, command.sent) => {
            shared.tally.seen(Seen::Beyond);
            Done::No
        }
        _ if draft.check == Some(code) => Done::No,
        (2 | 3 | 7 | 0xb, ..) if touches && shared.devices_fail() => {
            shared.tally.seen(Seen::Errors);
            Done::Maybe
        }
        (0xe, 0x1d, 0) => {
            shared.tally.seen(Seen::Miscompares);
            miscompare(shared, command);
            Done::No
        }
        _ => panic!("{code:x?} for {command:?}"),
    }
}

/// A comparison has failed: rightly.
fn miscompare(shared: &mut Shared, command: &Command) {
    let draft = &command.draft;
    let blocks = &mut shared.blocks[command.disk];
    let differs = match &draft.work {
        Work::Verify(values) => values
            .iter()
            .enumerate()
            .any(|(at, value)| blocks.may_differ(draft.lba + at as u64, *value, command.sent)),
        Work::Compare(value, _) => {
            // Its own write is no reason.
            blocks.end(draft.lba, 1, command.sent, Done::No, false, 0);
            blocks.may_differ(draft.lba, *value, command.sent)
        }
        _ => false,
    };
    let wrong = !differs && shared.disks[command.disk].was_wrong_within(draft.lba, draft.blocks);
    if wrong {
        shared.tally.seen(Seen::Corruptions);
    }
    assert!(differs || wrong, "a miscompare for nothing: {command:?}");
}

impl Command {
    fn under(&self, count: u32) -> Option<Residual> {
        let direction = self.draft.direction?;
        (count > 0).then_some(Residual { direction, overflow: false, count })
    }

    /// The residual of an answer that did what it could.
    fn good_residual(&self) -> Option<Residual> {
        let (offered, wanted) = (self.draft.offered, self.draft.wanted);
        if wanted > offered {
            let direction = self.draft.direction?;
            return Some(Residual { direction, overflow: true, count: wanted - offered });
        }
        self.under(offered - wanted)
    }

    /// The residual of CHECK CONDITION.
    fn check_residual(&self, code: Code, found: Option<Residual>) {
        let whole = self.under(self.draft.offered);
        let reads = self.draft.direction == Some(Direction::In);
        let fits = match code {
            _ if reads => found == whole,
            // The device, or the code in front of it, looked at the range.
            (5, 0x21, _) => found == whole || found == self.good_residual(),
            (5, 0x24, _) if self.draft.shape == Shape::ShortTable => found == self.good_residual(),
            (5, 0x0e, _) => found == self.good_residual(),
            (5 | 6, ..) => found == whole,
            _ => found == self.good_residual(),
        };
        assert!(fits, "residual {found:?} with {code:x?} for {self:?}");
    }
}
