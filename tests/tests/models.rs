//! The model tests (`src/models`), each in a process of its own: a model owns its thread, and one
//! that fails may take it down.

use std::process::Command;

/// Runs a model: whether it came to its end, and what it said.
fn run(model: &str) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_models")).arg(model).output().expect("starts");
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said += &String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    (output.status.success(), said)
}

fn holds(model: &str) {
    let (good, said) = run(model);
    assert!(good && said.starts_with(model), "{said}");
}

/// The weakened model fails, for this reason.
fn notices(model: &str, why: &str) {
    let (good, said) = run(model);
    assert!(!good && said.contains(why), "{model}: not {why}: {said}");
}

#[test]
fn a_mailbox_loses_nothing() {
    holds("mailbox");
    holds("mailbox_of_two_sources");
}

#[test]
fn a_mailbox_needs_its_orders() {
    notices("mailbox_without_release", "deadlock");
    notices("mailbox_without_acquire", "deadlock");
}

#[test]
fn a_ring_keeps_units_whole() {
    holds("ring");
}

#[test]
fn a_ring_needs_its_orders() {
    notices("ring_without_release", "assertion `left == right` failed");
    notices("ring_without_acquire", "assertion `left == right` failed");
}

#[test]
fn a_sleeping_target_hears_of_units_and_peers() {
    holds("bell");
    holds("message");
}

#[test]
fn a_sleeping_target_needs_its_fences() {
    for side in ["initiator", "core"] {
        notices(&format!("bell_without_fence_of_{side}"), "deadlock");
    }
    for side in ["control", "core"] {
        notices(&format!("message_without_fence_of_{side}"), "deadlock");
    }
}

#[test]
fn a_quiet_connection_is_heard() {
    holds("quiet");
}

#[test]
fn a_quiet_connection_needs_its_orders_and_fences() {
    for order in ["release", "acquire"] {
        notices(&format!("quiet_without_{order}"), "deadlock");
    }
    for side in ["initiator", "control", "core"] {
        notices(&format!("quiet_without_fence_of_{side}"), "deadlock");
    }
}
