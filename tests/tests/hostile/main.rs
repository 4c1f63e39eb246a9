//! Hostile initiators against the built target, beside a good session.
//!
//! Every case breaks rules as hard as it can for a while. Then: only the offender was closed or
//! answered, counters say why, the good session's commands all came out right, nothing of the offender
//! is left. `scripts/hostile.sh` prints the table: what the target did, and the other session's p99
//! before and meanwhile.

mod descriptors;
mod logins;
mod memory;
mod rig;
mod secrets;
mod units;

use std::time::{Duration, Instant};

use rig::{Case, Rig};
use srpt_tests::hostile::Meter;
use srpt_tests::process::until;

/// Shortest time that a case goes on, again and again, so that there are windows to measure.
const CASE_TIME: Duration = Duration::from_millis(120);

/// Shortest time before it, in peace.
const PEACE_TIME: Duration = Duration::from_millis(60);

/// Growth of the target's memory over all cases, in KiB, that needs no explanation: pages of the
/// process that are touched for the first time.
const GROWTH_KIB_MAX: u64 = 8 << 10;

fn cases() -> impl Iterator<Item = &'static Case> {
    let all = [units::CASES, descriptors::CASES, logins::CASES, memory::CASES, secrets::CASES];
    all.into_iter().flatten()
}

#[test]
fn every_hostile_peer_harms_itself_only() {
    if memory::is_child() {
        return;
    }
    let rig = Rig::start();
    let meter = Meter::start(rig.socket.clone());
    // Offenders take what processor time the good session leaves.
    rustix::process::setpriority_process(None, 19).expect("less of the processor");
    let pace = |from: Instant| until("windows", Duration::from_secs(20), || meter.pace(from));
    pace(Instant::now());
    // The first round touches what is touched for the first time.
    for (_, case) in cases() {
        case(&rig);
    }
    rig.only_the_good_session_is_left();
    let (before, lines_before) = (rig.resident_kib(), rig.log_lines());
    println!(
        "{:<48} {:<58} {:>5} {:>15}",
        "case", "what the target did", "times", "p99 of another"
    );
    for (name, case) in cases() {
        let peace = Instant::now();
        while peace.elapsed() < PEACE_TIME {
            std::thread::yield_now();
        }
        let calm = pace(peace);
        let (began, mut times) = (Instant::now(), 0);
        let mut did = String::new();
        while began.elapsed() < CASE_TIME {
            did = case(&rig);
            times += 1;
        }
        let storm = pace(began);
        rig.only_the_good_session_is_left();
        let us = |ns: u64| ns as f64 / 1000.0;
        let (calm, storm) = (us(calm.p99_ns), us(storm.p99_ns));
        println!("{name:<48} {did:<58} {times:>5} {calm:>6.1} {storm:>5.1} µs");
    }
    let after = rig.resident_kib();
    println!("resident memory: {before} KiB before the cases, {after} KiB after them");
    println!("log: {} lines", rig.log_lines() - lines_before);
    assert!(after <= before + GROWTH_KIB_MAX, "memory grew from {before} to {after} KiB");
    let commands = meter.stop();
    println!("the good session: {commands} commands, all right");
    rig.target.wait_all_home();
}
