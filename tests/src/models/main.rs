//! Model tests: what two threads or two processes share, run in every order of their steps and
//! stores that the memory model allows.
//!
//! The files under test are the production ones, included here with `loom`'s atomics under the
//! same names. A model that finds nothing proves little unless it can find something: every order
//! that the code asks for is weakened once, and the model must notice.
//!
//! `cargo run -p srpt_tests --bin models [NAME..]` runs them; so does `tests/tests/models.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use atomic::{Side, Weak};
use reactor::Batch;

mod atomic;
mod mailboxes;
mod rings;
mod shm;
mod sleep;

// A production file. It finds the others here under their names.
#[path = "../../../reactor/src/mailbox.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "a part of it is used, by a model instead of other crates"
)]
mod mailbox;
mod queues;

/// The models by name, and what is weakened in them: a weakened one must fail.
/// `tests/tests/models.rs` has a test for each.
const MODELS: &[(&str, Weak, fn())] = &[
    ("mailbox", Weak::Nothing, mailboxes::two_messages),
    ("mailbox_without_release", Weak::Release, mailboxes::two_messages),
    ("mailbox_without_acquire", Weak::Acquire, mailboxes::two_messages),
    ("mailbox_of_two_sources", Weak::Nothing, mailboxes::two_sources),
    ("ring", Weak::Nothing, rings::conversation),
    ("ring_without_release", Weak::Release, rings::conversation),
    ("ring_without_acquire", Weak::Acquire, rings::conversation),
    ("bell", Weak::Nothing, rings::a_unit_for_a_sleeper),
    ("bell_without_fence_of_initiator", Weak::Fence(Side::Initiator), rings::a_unit_for_a_sleeper),
    ("bell_without_fence_of_core", Weak::Fence(Side::Core), rings::a_unit_for_a_sleeper),
    ("quiet", Weak::Nothing, rings::a_unit_of_a_quiet_connection),
    ("quiet_without_release", Weak::Release, rings::a_unit_of_a_quiet_connection),
    ("quiet_without_acquire", Weak::Acquire, rings::a_unit_of_a_quiet_connection),
    (
        "quiet_without_fence_of_initiator",
        Weak::Fence(Side::Initiator),
        rings::a_unit_of_a_quiet_connection,
    ),
    (
        "quiet_without_fence_of_control",
        Weak::Fence(Side::Control),
        rings::a_unit_of_a_quiet_connection,
    ),
    ("quiet_without_fence_of_core", Weak::Fence(Side::Core), rings::a_unit_of_a_quiet_connection),
    ("message", Weak::Nothing, rings::a_message_for_a_sleeper),
    (
        "message_without_fence_of_control",
        Weak::Fence(Side::Control),
        rings::a_message_for_a_sleeper,
    ),
    ("message_without_fence_of_core", Weak::Fence(Side::Core), rings::a_message_for_a_sleeper),
];

/// Preemptions of a thread that is not at its end or waiting. Bounds the search, which would not
/// end otherwise; what needs more of them in a row has not been seen.
const PREEMPTIONS: usize = 3;

/// Runs the models that the arguments name; all that are not weakened, if there are none.
fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let chosen = |(name, weak, _): &&(&str, Weak, fn())| match &wanted[..] {
        [] => *weak == Weak::Nothing,
        names => names.iter().any(|wanted| wanted == name),
    };
    for (name, weak, model) in MODELS.iter().filter(chosen) {
        atomic::weaken(*weak);
        let start = Instant::now();
        let orders = check(*model);
        println!("{name}: {orders} orders in {:.1} s", start.elapsed().as_secs_f64());
    }
}

/// Runs a model in every order, and counts them.
fn check(model: fn()) -> u64 {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.max_branches = 100_000;
    let orders = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&orders);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    orders.load(Ordering::Relaxed)
}
