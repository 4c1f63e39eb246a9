//! Logins that have begun and wait for their peers, and which of them makes room for another one.
//!
//! Places are shared by peers (a user of this host, an address), and those of a peer by its
//! processes, where they can be told apart. When there is one login too many, the oldest of whoever
//! has the most ends: a peer that floods takes its own places away, and nobody else's.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// Whose login it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Who {
    /// The peer, as it is logged: "uid 1000", "10.0.0.2".
    pub(crate) peer: String,
    /// Its process, 0 for one that is not known.
    pub(crate) process: i32,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer)?;
        if self.process == 0 { Ok(()) } else { write!(f, ", process {}", self.process) }
    }
}

#[derive(Debug)]
struct Waiting {
    token: u64,
    who: Who,
    deadline: Instant,
}

/// The logins that wait, oldest first.
#[derive(Debug, Default)]
pub(crate) struct HalfOpen(Vec<Waiting>);

impl HalfOpen {
    /// Logins that wait.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A login begins, and waits until `deadline` at most. Deadlines come in order.
    pub(crate) fn begin(&mut self, token: u64, who: Who, deadline: Instant) {
        self.0.push(Waiting { token, who, deadline });
    }

    /// A login goes on waiting, until `deadline` at most, as if it had just begun.
    pub(crate) fn begin_anew(&mut self, token: u64, deadline: Instant) {
        if let Some(at) = self.0.iter().position(|waiting| waiting.token == token) {
            let waiting = self.0.remove(at);
            self.0.push(Waiting { deadline, ..waiting });
        }
    }

    /// A login waits no more. False for one that did not.
    pub(crate) fn end(&mut self, token: u64) -> bool {
        let at = self.0.iter().position(|waiting| waiting.token == token);
        at.map(|at| self.0.remove(at)).is_some()
    }

    /// The next deadline.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.0.first().map(|waiting| waiting.deadline)
    }

    /// The oldest login, if it waits in vain.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        self.0.first().filter(|waiting| waiting.deadline <= now).map(|waiting| waiting.token)
    }

    /// The login that makes room for another one, and whose it is: of those that `may` end, the
    /// oldest of the process with the most of the peer with the most. All count, also those that
    /// may not end.
    pub(crate) fn greediest(&self, may: impl Fn(u64) -> bool) -> Option<(u64, &Who)> {
        let mut peers = BTreeMap::<&str, usize>::new();
        let mut processes = BTreeMap::<&Who, usize>::new();
        for Waiting { who, .. } in &self.0 {
            *peers.entry(&who.peer).or_default() += 1;
            *processes.entry(who).or_default() += 1;
        }
        let has = |waiting: &Waiting| (peers[&*waiting.who.peer], processes[&waiting.who]);
        let candidates = self.0.iter().filter(|waiting| may(waiting.token)).rev();
        // Of equals the last one, which is the oldest.
        candidates.max_by_key(|waiting| has(waiting)).map(|waiting| (waiting.token, &waiting.who))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(logins: &[(u64, &str, i32)]) -> HalfOpen {
        let mut half_open = HalfOpen::default();
        let start = Instant::now();
        for (number, (token, peer, process)) in (0..).zip(logins) {
            let who = Who { peer: (*peer).into(), process: *process };
            half_open.begin(*token, who, start + Duration::from_secs(number));
        }
        half_open
    }

    #[test]
    fn the_oldest_of_the_greediest_makes_room() {
        let greediest = |logins: &[(u64, &str, i32)]| {
            of(logins).greediest(|_| true).map(|(token, who)| (token, who.to_string()))
        };
        let who = |token, who: &str| Some((token, who.to_owned()));
        assert_eq!(greediest(&[]), None);
        assert_eq!(greediest(&[(1, "a", 0), (2, "b", 0)]), who(1, "a"));
        assert_eq!(greediest(&[(1, "a", 0), (2, "b", 0), (3, "b", 0)]), who(2, "b"));
        // Of a peer's processes the one with the most, though another peer's has more.
        let many = [(1, "b", 7), (2, "b", 7), (3, "b", 7), (4, "a", 1)];
        let more = [(5, "a", 2), (6, "a", 3), (7, "a", 3)];
        assert_eq!(greediest(&[&many[..], &more[..]].concat()), who(6, "a, process 3"));
    }

    #[test]
    fn one_that_may_not_end_counts_and_stays() {
        let logins = of(&[(1, "a", 0), (2, "b", 0), (3, "b", 0)]);
        assert_eq!(logins.greediest(|token| token != 2).map(|found| found.0), Some(3));
        assert_eq!(logins.greediest(|token| token == 1).map(|found| found.0), Some(1));
        assert_eq!(logins.greediest(|_| false).map(|found| found.0), None);
    }

    #[test]
    fn a_login_that_ends_leaves_the_others_and_their_deadlines() {
        let mut logins = of(&[(1, "a", 0), (2, "b", 0)]);
        let first = logins.deadline().unwrap();
        assert_eq!(
            (logins.due(first), logins.due(first - Duration::from_nanos(1))),
            (Some(1), None)
        );
        assert!(logins.end(1) && !logins.end(1));
        assert_eq!((logins.len(), logins.due(first)), (1, None));
        logins.begin(3, Who { peer: "a".into(), process: 0 }, first + Duration::from_secs(2));
        logins.begin_anew(2, first + Duration::from_secs(3));
        logins.begin_anew(7, first + Duration::from_secs(4));
        assert_eq!(
            logins.greediest(|_| true).map(|found| found.0),
            Some(3),
            "it is the oldest now"
        );
        assert_eq!((logins.len(), logins.deadline()), (2, Some(first + Duration::from_secs(2))));
        assert!(logins.end(3) && logins.end(2) && logins.deadline().is_none());
    }
}
