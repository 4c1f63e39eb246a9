//! The order in which a core looks at its live connections.
//!
//! Busy ones are looked at in every turn, quiet ones when they have rung, and now and then one
//! after the other by rote. So an idle connection costs a turn nothing, however many there are.

/// In the place of a slot: it is that among the quiet ones.
const QUIET: u32 = 1 << 31;

/// Live connections by their slots. Every change takes constant time.
#[derive(Debug)]
pub(super) struct Roster {
    busy: Vec<u32>,
    quiet: Vec<u32>,
    /// The place of each slot that is live: in `busy`, or in `quiet` with [`QUIET`].
    places: Vec<u32>,
    /// The busy one that a round begins with.
    first: usize,
    /// As many busy ones are no crowd.
    busy_min: usize,
    crowded: bool,
    /// The next ones that are looked at by rote.
    by_rote: [usize; 2],
}

impl Roster {
    /// Nobody, with room for slots below `slots`.
    pub(super) fn new(slots: u32, busy_min: usize) -> Roster {
        assert!(slots < QUIET, "{slots} connections");
        let slots = slots as usize;
        let (busy, quiet) = (Vec::with_capacity(slots), Vec::with_capacity(slots));
        Roster {
            busy,
            quiet,
            places: vec![0; slots],
            first: 0,
            busy_min,
            crowded: false,
            by_rote: [0; 2],
        }
    }

    /// Live connections.
    pub(super) fn len(&self) -> usize {
        self.busy.len() + self.quiet.len()
    }

    /// Those that are looked at in every turn.
    #[inline(always)]
    pub(super) fn busy(&self) -> &[u32] {
        &self.busy
    }

    /// True if there are quiet ones, or more than a few busy ones.
    #[inline(always)]
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded
    }

    fn count(&mut self) {
        self.crowded = !self.quiet.is_empty() || self.busy.len() > self.busy_min;
    }

    /// True for one that is live and quiet.
    pub(super) fn is_quiet(&self, slot: u32) -> bool {
        let place = self.places[slot as usize];
        place & QUIET != 0 && self.quiet.get((place & !QUIET) as usize) == Some(&slot)
    }

    fn is_busy(&self, slot: u32) -> bool {
        self.busy.get(self.places[slot as usize] as usize) == Some(&slot)
    }

    /// A new connection, which is busy.
    pub(super) fn join(&mut self, slot: u32) {
        self.places[slot as usize] = self.busy.len() as u32;
        self.busy.push(slot);
        self.count();
    }

    /// A quiet connection is busy now.
    pub(super) fn rouse(&mut self, slot: u32) {
        assert!(self.is_quiet(slot), "slot {slot} is not quiet");
        self.leave(slot);
        self.join(slot);
    }

    /// A busy connection is quiet now.
    pub(super) fn settle(&mut self, slot: u32) {
        assert!(self.is_busy(slot), "slot {slot} is not busy");
        self.leave(slot);
        self.places[slot as usize] = self.quiet.len() as u32 | QUIET;
        self.quiet.push(slot);
        self.count();
    }

    /// A connection ends. Does nothing for one that is not live.
    pub(super) fn leave(&mut self, slot: u32) {
        let place = self.places[slot as usize];
        let list = if self.is_quiet(slot) {
            &mut self.quiet
        } else if self.is_busy(slot) {
            &mut self.busy
        } else {
            return;
        };
        let at = (place & !QUIET) as usize;
        list.swap_remove(at);
        if let Some(moved) = list.get(at) {
            self.places[*moved as usize] = place;
        }
        self.count();
    }

    /// A round of turns of the busy connections. It begins where the last one was stopped, or one
    /// further than the last one.
    #[inline(always)]
    pub(super) fn turns(&mut self) -> Turns {
        let at = if self.first < self.busy.len() { self.first } else { 0 };
        self.first = at + 1;
        Turns { at, left: self.busy.len() }
    }

    /// The connection whose turn it is; `None` if there is none. Meanwhile connections may come and
    /// go: a round may then miss or revisit another one, once.
    #[inline(always)]
    pub(super) fn turn(&self, turns: &mut Turns) -> Option<u32> {
        turns.left -= 1;
        let at = if turns.at < self.busy.len() { turns.at } else { 0 };
        turns.at = at + 1;
        self.busy.get(at).copied()
    }

    /// Ends a round early: the next one goes on from there.
    pub(super) fn stop(&mut self, turns: Turns) {
        self.first = turns.at;
    }

    /// One of the busy connections. Within as many calls as there are each has its turn, if none
    /// comes or goes.
    pub(super) fn busy_by_rote(&mut self) -> Option<u32> {
        next(&self.busy, &mut self.by_rote[0])
    }

    /// One of the quiet connections, as in [`Roster::busy_by_rote`].
    pub(super) fn quiet_by_rote(&mut self) -> Option<u32> {
        next(&self.quiet, &mut self.by_rote[1])
    }
}

/// A round of turns.
#[derive(Debug)]
pub(super) struct Turns {
    at: usize,
    left: usize,
}

impl Turns {
    /// Not all have had theirs.
    #[inline(always)]
    pub(super) fn are_left(&self) -> bool {
        self.left > 0
    }
}

/// Goes on in a list, and round.
fn next(list: &[u32], next: &mut usize) -> Option<u32> {
    let at = if *next < list.len() { *next } else { 0 };
    let slot = *list.get(at)?;
    *next = at + 1;
    Some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round of at most so many turns.
    fn round(roster: &mut Roster, most: usize) -> Vec<u32> {
        let mut turns = roster.turns();
        let mut had = Vec::new();
        while turns.are_left() {
            if had.len() == most {
                roster.stop(turns);
                break;
            }
            had.extend(roster.turn(&mut turns));
        }
        had
    }

    fn of(slots: u32) -> Roster {
        let mut roster = Roster::new(8, 2);
        (0..slots).for_each(|slot| roster.join(slot));
        roster
    }

    #[test]
    fn a_round_that_is_stopped_goes_on_and_one_that_is_not_begins_one_further() {
        let mut roster = of(4);
        assert_eq!(round(&mut roster, 9), [0, 1, 2, 3]);
        assert_eq!(round(&mut roster, 9), [1, 2, 3, 0]);
        assert_eq!(round(&mut roster, 3), [2, 3, 0]);
        assert_eq!(round(&mut roster, 3), [1, 2, 3]);
        assert_eq!(round(&mut roster, 1), [0]);
        roster.settle(1);
        assert_eq!((roster.busy(), roster.len()), (&[0, 3, 2][..], 4));
        assert_eq!(round(&mut roster, 9), [3, 2, 0]);
        roster.rouse(1);
        assert_eq!(roster.busy(), [0, 3, 2, 1]);
        assert_eq!(round(&mut of(0), 9), []);
        let mut one = of(1);
        assert_eq!(
            (round(&mut one, 9), round(&mut one, 1), round(&mut one, 9)),
            (vec![0], vec![0], vec![0])
        );
    }

    #[test]
    fn every_connection_is_looked_at_by_rote() {
        let mut roster = of(5);
        assert_eq!(roster.quiet_by_rote(), None);
        [0, 2, 4].into_iter().for_each(|slot| roster.settle(slot));
        let looks = |mut look: Box<dyn FnMut() -> Option<u32> + '_>| {
            let mut slots: Vec<u32> = (0..6).filter_map(|_| look()).collect();
            slots.sort_unstable();
            slots
        };
        assert_eq!(looks(Box::new(|| roster.quiet_by_rote())), [0, 0, 2, 2, 4, 4]);
        assert_eq!(looks(Box::new(|| roster.busy_by_rote())), [1, 1, 1, 3, 3, 3]);
    }

    #[test]
    fn a_few_busy_ones_are_no_crowd() {
        let mut roster = of(2);
        assert!(!roster.is_crowded());
        roster.join(2);
        assert!(roster.is_crowded());
        roster.settle(0);
        assert!(roster.is_crowded(), "a quiet one is there");
        roster.leave(0);
        assert!(!roster.is_crowded());
    }

    #[test]
    fn whoever_leaves_is_gone_and_the_others_stay_what_they_were() {
        let mut roster = of(6);
        [1, 3].into_iter().for_each(|slot| roster.settle(slot));
        [1, 0, 0, 7].into_iter().for_each(|slot| roster.leave(slot));
        let mut busy = roster.busy().to_vec();
        busy.sort_unstable();
        assert_eq!((busy, roster.len()), (vec![2, 4, 5], 4));
        assert!(roster.is_quiet(3) && !roster.is_quiet(1) && !roster.is_quiet(0));
        roster.join(0);
        assert!(!roster.is_quiet(0) && roster.is_quiet(3));
        assert_eq!(round(&mut roster, 9).len(), 4);
    }
}
