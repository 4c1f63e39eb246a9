//! What all connections may cost the process together, and who holds how much of that.
//!
//! The kernel refuses a mapping or a descriptor to whoever comes last, and that may be a thread of
//! ours. So connections are counted before, against less than what the process may have. No user
//! may hold more than three quarters of that, and no process of a user more than three quarters of
//! the user's part, so that others find some left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::half_open::Who;

/// Mappings of a connection besides its regions: its rings, and receives of long units.
const MAPPINGS: u64 = 2;
/// Descriptors of a connection: its socket, and its bell twice.
const DESCRIPTORS: u64 = 3;

/// An amount, and what allows no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// How much or how many.
    pub amount: u64,
    /// The limit that this comes from, as peers are told: "vm.max_map_count is 65530".
    pub limit: String,
}

impl Allowed {
    fn unlimited() -> Self {
        Allowed { amount: u64::MAX, limit: "no limit is set".into() }
    }
}

/// What all connections together may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Mappings: of a connection two, and one for each region.
    pub mappings: Allowed,
    /// Bytes of regions, whether their pages exist or not: a page that the target touches first is
    /// the target's, as far as limits of memory are concerned.
    pub bytes: Allowed,
    /// Descriptors: three of a connection.
    pub descriptors: Allowed,
}

impl Default for Allowance {
    /// No limits.
    fn default() -> Self {
        let unlimited = Allowed::unlimited;
        Allowance { mappings: unlimited(), bytes: unlimited(), descriptors: unlimited() }
    }
}

impl Allowance {
    /// How many connections with so many regions each all peers may have, and what allows no more.
    pub fn connections(&self, regions: u64) -> (u64, &Allowed) {
        let mappings = (self.mappings.amount / (MAPPINGS + regions), &self.mappings);
        let descriptors = (self.descriptors.amount / DESCRIPTORS, &self.descriptors);
        if descriptors.0 < mappings.0 { descriptors } else { mappings }
    }
}

/// Mappings, bytes, descriptors.
type Amounts = [u64; 3];

const NAMES: [&str; 3] = ["mappings", "bytes of mapped memory", "descriptors"];

/// What a connection with these regions costs.
pub(super) fn costs(region_bytes: impl ExactSizeIterator<Item = usize>) -> Amounts {
    let regions = region_bytes.len() as u64;
    [MAPPINGS + regions, region_bytes.map(|bytes| bytes as u64).sum(), DESCRIPTORS]
}

#[derive(Debug, Default)]
struct Held {
    all: Amounts,
    peers: BTreeMap<String, Amounts>,
    processes: BTreeMap<Who, Amounts>,
}

/// Who holds how much.
#[derive(Debug)]
pub(super) struct Ledger {
    allowance: [Allowed; 3],
    held: Mutex<Held>,
}

/// What one connection holds, until it is dropped: after all that it pays for.
#[derive(Debug)]
pub(super) struct Charge {
    ledger: Arc<Ledger>,
    who: Who,
    amounts: Amounts,
}

impl Ledger {
    pub(super) fn new(allowance: Allowance) -> Arc<Ledger> {
        let Allowance { mappings, bytes, descriptors } = allowance;
        let held = Mutex::default();
        Arc::new(Ledger { allowance: [mappings, bytes, descriptors], held })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Charges a connection of `who`. The error says to the peer which limit is in the way.
    pub(super) fn charge(self: &Arc<Self>, who: &Who, amounts: Amounts) -> Result<Charge, String> {
        let mut held = self.held();
        let of_peer = held.peers.get(&who.peer).copied().unwrap_or_default();
        let of_process = held.processes.get(who).copied().unwrap_or_default();
        for (kind, Allowed { amount, limit }) in self.allowance.iter().enumerate() {
            let of_user = amount / 4 * 3;
            let shares = [
                (held.all[kind], *amount, "all peers".to_owned()),
                (of_peer[kind], of_user, who.peer.clone()),
                (of_process[kind], of_user / 4 * 3, who.to_string()),
            ];
            for (in_use, most, whose) in shares {
                let wanted = amounts[kind];
                if in_use.saturating_add(wanted) > most {
                    let name = NAMES[kind];
                    return Err(format!(
                        "the target has too few {name} for {whose}: {wanted} more wanted, \
                         {in_use} of {most} in use ({limit})"
                    ));
                }
            }
        }
        let Held { all, peers, processes } = &mut *held;
        let sums = [all, peers.entry(who.peer.clone()).or_default()];
        for sum in sums.into_iter().chain([processes.entry(who.clone()).or_default()]) {
            sum.iter_mut().zip(amounts).for_each(|(sum, amount)| *sum += amount);
        }
        Ok(Charge { ledger: Arc::clone(self), who: who.clone(), amounts })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut held = self.ledger.held();
        let Held { all, peers, processes } = &mut *held;
        let sums = [Some(all), peers.get_mut(&self.who.peer), processes.get_mut(&self.who)];
        for sum in sums.into_iter().flatten() {
            sum.iter_mut().zip(self.amounts).for_each(|(sum, amount)| *sum -= amount);
        }
        peers.retain(|_, amounts| *amounts != Amounts::default());
        processes.retain(|_, amounts| *amounts != Amounts::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(peer: &str, process: i32) -> Who {
        Who { peer: peer.into(), process }
    }

    fn ledger(mappings: u64, bytes: u64, descriptors: u64) -> Arc<Ledger> {
        let allowed = |amount, limit: &str| Allowed { amount, limit: limit.into() };
        Ledger::new(Allowance {
            mappings: allowed(mappings, "vm.max_map_count is 7"),
            bytes: allowed(bytes, "the memory limit is 8"),
            descriptors: allowed(descriptors, "RLIMIT_NOFILE is 9"),
        })
    }

    #[test]
    fn a_process_and_a_user_leave_some_to_others() {
        let ledger = ledger(1600, u64::MAX, u64::MAX);
        let logins = |who: &Who| {
            let mut charges = Vec::new();
            loop {
                match ledger.charge(who, costs([4096; 3].into_iter())) {
                    Ok(charge) => charges.push(charge),
                    Err(why) => return (charges, why),
                }
            }
        };
        // Five mappings each: 900 of 1600 are those of a process, 1200 those of a user.
        let (first, why) = logins(&who("uid 1", 10));
        assert_eq!(first.len(), 180);
        let told = "too few mappings for uid 1, process 10: 5 more wanted, 900 of 900 in use \
                    (vm.max_map_count is 7)";
        assert!(why.ends_with(told), "{why}");
        let (second, why) = logins(&who("uid 1", 11));
        assert!(
            second.len() == 60 && why.contains("for uid 1: 5 more wanted, 1200 of 1200"),
            "{why}"
        );
        let (third, why) = logins(&who("uid 2", 12));
        assert!(third.len() == 80 && why.contains("for all peers: 5 more"), "{why}");
        drop((first, second, third));
        assert_eq!(logins(&who("uid 1", 11)).0.len(), 180, "what has ended is free again");
        let held = ledger.held();
        assert!(held.all == [0; 3] && held.peers.is_empty() && held.processes.is_empty());
    }

    #[test]
    fn each_limit_is_named() {
        let refused = |ledger: Arc<Ledger>| {
            ledger.charge(&who("uid 1", 1), costs([1 << 20].into_iter())).unwrap_err()
        };
        let many = u64::MAX;
        assert!(refused(ledger(4, many, many)).contains("vm.max_map_count is 7"));
        assert!(refused(ledger(many, 1 << 20, many)).contains("the memory limit is 8"));
        assert!(refused(ledger(many, many, 4)).contains("RLIMIT_NOFILE is 9"));
        let unlimited = Ledger::new(Allowance::default());
        let most = [usize::MAX >> 1];
        assert!(unlimited.charge(&who("uid 1", 1), costs(most.into_iter())).is_ok());
    }

    #[test]
    fn the_tightest_limit_says_how_many_connections_fit() {
        let allowed = |amount| Allowed { amount, limit: String::new() };
        let allowance = |mappings, descriptors| Allowance {
            mappings: allowed(mappings),
            descriptors: allowed(descriptors),
            ..Allowance::default()
        };
        assert_eq!(allowance(3600, 3000).connections(1), (1000, &allowed(3000)));
        assert_eq!(allowance(3600, 3000).connections(16), (200, &allowed(3600)));
    }
}
