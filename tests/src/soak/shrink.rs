//! Makes a failing run smaller: every cut that leaves it failing stays.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::plan::{Cuts, Fault, Plan};
use super::{Tally, run};

/// How a run failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was left out.
    pub cuts: Cuts,
    /// What the panic said.
    pub what: String,
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics print nothing from now on, in the whole process; [`Failure`] tells of them.
pub fn quiet() {
    std::panic::set_hook(Box::new(|panic| {
        LAST_PANIC.with_borrow_mut(|last| *last = panic.to_string());
    }));
}

/// Runs a seed; the hash of its log, or what went wrong.
pub fn attempt(seed: u64, cuts: &Cuts, tally: &mut Tally) -> Result<u64, Box<Failure>> {
    catch_unwind(AssertUnwindSafe(|| run(seed, cuts, false, tally))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let told = LAST_PANIC.take();
        let what = if told.is_empty() { text.unwrap_or_default() } else { told };
        Box::new(Failure { seed, cuts: cuts.clone(), what })
    })
}

/// The smallest run found that fails, by whatever guard.
pub fn shrink(failure: &Failure) -> Failure {
    let mut smallest = failure.clone();
    let mut better = |cuts: Cuts| {
        let failed = attempt(failure.seed, &cuts, &mut Tally::default()).err();
        failed.map(|failed| smallest = *failed).is_some()
    };
    let mut cuts = failure.cuts.clone();
    let plan = Plan::new(failure.seed, &cuts);
    for fault in Fault::ALL.iter().copied().filter(|fault| plan.has(*fault)) {
        let mut fewer = cuts.clone();
        fewer.without.push(fault);
        if better(fewer.clone()) {
            cuts = fewer;
        }
    }
    type Field = fn(&mut Cuts) -> &mut Option<u64>;
    let fields: [(Field, u64, u64); 5] = [
        (|cuts| &mut cuts.cores, 1, plan.options.cores as u64),
        (|cuts| &mut cuts.sessions, 1, plan.sessions),
        (|cuts| &mut cuts.channels, 1, plan.channels),
        (|cuts| &mut cuts.steps, 0, plan.steps),
        (|cuts| &mut cuts.commands, 0, 1 << 12),
    ];
    for (field, least, most) in fields {
        let (mut fails, mut holds) = (most, least);
        while holds < fails {
            let middle = holds + (fails - holds) / 2;
            let mut fewer = cuts.clone();
            *field(&mut fewer) = Some(middle);
            if better(fewer.clone()) {
                cuts = fewer;
                fails = middle;
            } else {
                holds = middle + 1;
            }
        }
    }
    smallest
}
