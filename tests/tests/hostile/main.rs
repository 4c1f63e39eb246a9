//! Hostile initiators against the built target, beside a good session.
//!
//! Every case breaks rules as hard as it can for a while. Then: only the offender was closed or
//! answered, counters say why, the good session's commands all came out right, nothing of the
//! offender is left. `scripts/hostile.sh` prints the table: what the target did, the other
//! session's p99 before and meanwhile, and the longest turn of the target's core.
//!
//! The p99 that is compared is that of the target: a bound from the lengths of its core's turns
//! ([`rig::Core`]). The core has a processor of its own; the good session and the offenders share
//! another one, so what the good session sees itself is also what its processor gives to them. Over
//! RDMA (`RDMA_TEST_ADDRESS`, in a guest that is emulated) no times are compared.

mod descriptors;
mod logins;
mod memory;
mod rig;
mod secrets;
mod units;

use std::time::{Duration, Instant};

use rig::{Case, Core, Rig};
use srpt_tests::hostile::{Meter, Way, paced};
use srpt_tests::process::{PATIENCE, until};
use transport::rdma::RdmaConnector;
use transport::shm::ShmConnector;

/// Shortest time that a case goes on, again and again, so that there are windows to measure.
const CASE_TIME: Duration = Duration::from_millis(150);

/// Shortest time before it, in peace.
const PEACE_TIME: Duration = Duration::from_millis(100);

/// How often a case may be measured, and how often it may be unfair: what the target does to a
/// session it does every time, other work on the machine comes and goes.
const ROUNDS_MAX: usize = 8;
const UNFAIR_MAX: usize = 5;

/// Commands of the good session that its slowest hundredth can be told from.
const COMMANDS_MIN: u64 = 20_000;

/// The same in a case. More, because offenders that are processes of their own are not paced.
const CASE_COMMANDS_MIN: u64 = 80_000;

/// How often and when to look whether it has done so many.
const LOOKS_MAX: u32 = 40;
const LOOK_TIME: Duration = Duration::from_millis(20);

/// How much longer the good session's p99 may be beside an offender.
const SLOWER_MAX: u64 = 2;

/// Growth of the target's memory, in KiB, over passes over all cases that touch nothing for the
/// first time, that is no leak: its heap comes and goes by one or two thousand.
const GROWTH_KIB_MAX: u64 = 3 << 10;

fn cases() -> impl Iterator<Item = &'static Case> {
    let all = [units::CASES, descriptors::CASES, logins::CASES, memory::CASES, secrets::CASES];
    all.into_iter().flatten()
}

/// All cases, as fast as they go; returns the target's memory after them in KiB.
fn pass(rig: &Rig) -> u64 {
    for case in cases().filter(|case| case.over(rig).is_ok()) {
        (case.run)(rig);
        rig.only_the_good_session_is_left();
    }
    rig.resident_kib()
}

/// Fails if passes that touch nothing for the first time make the target larger.
fn memory_is_flat(rig: &Rig, began: u64, passes: usize) {
    let before = rig.resident_kib();
    let after: Vec<u64> = (0..passes).map(|_| pass(rig)).collect();
    println!(
        "resident memory, KiB: {began} at the start, {before} now, {after:?} after more passes"
    );
    let grown = after[passes - 1].saturating_sub(before);
    assert!(grown <= GROWTH_KIB_MAX, "memory grew by {grown} KiB in {passes} passes");
}

/// What a case was like for the target and the good session.
#[derive(Debug)]
struct Measured {
    did: String,
    times: u32,
    /// The good session's p99 in peace and in the case: at the target, and as it saw it itself.
    calm_ns: (u64, u64),
    calm_commands: u64,
    storm_ns: (u64, u64),
    /// The same at the target, in peace after the case.
    after_ns: u64,
    /// The longest turn in the case is shorter than this.
    turn_ns: u64,
    /// Commands of the good session in the case.
    commands: u64,
}

impl Measured {
    /// The good session did not wait, and there was enough peace to compare with.
    fn is_fair(&self) -> bool {
        self.storm_ns.0 <= SLOWER_MAX * self.calm_ns.0 && self.calm_commands >= COMMANDS_MIN
    }

    /// Nothing but the offender came and went, as far as can be seen, and the good session had a
    /// processor to work on.
    fn is_quiet(&self) -> bool {
        self.after_ns <= SLOWER_MAX * self.calm_ns.0
            && self.calm_commands >= COMMANDS_MIN
            && self.commands >= CASE_COMMANDS_MIN
    }
}

/// The good session's p99 in peace: at the target, and as it saw it itself. With its commands.
fn peace(rig: &Rig, meter: &Meter) -> ((u64, u64), u64) {
    let (began, before) = (Instant::now(), rig.core());
    while began.elapsed() < PEACE_TIME {
        std::thread::yield_now();
    }
    let after = enough(rig, &before, COMMANDS_MIN);
    let seen = until("windows", PATIENCE, || meter.pace(began));
    ((after.since(&before).0, seen.p99_ns), after.commands - before.commands)
}

/// Waits for a while until the good session has done so many commands since `before`.
fn enough(rig: &Rig, before: &Core, commands: u64) -> Core {
    let (began, mut looks) = (Instant::now(), 0);
    loop {
        let core = rig.core();
        if core.commands - before.commands >= commands || looks == LOOKS_MAX {
            return core;
        }
        looks += 1;
        while began.elapsed() < looks * LOOK_TIME {
            std::thread::yield_now();
        }
    }
}

fn measure(rig: &Rig, meter: &Meter, case: &Case) -> Measured {
    let (calm_ns, calm_commands) = peace(rig, meter);
    let before = rig.core();
    let (began, mut times, mut did) = (Instant::now(), 0, String::new());
    while began.elapsed() < CASE_TIME {
        did = (case.run)(rig);
        times += 1;
    }
    let storm = until("windows", PATIENCE, || meter.pace(began));
    let after = enough(rig, &before, CASE_COMMANDS_MIN);
    let ((storm_ns, turn_ns), commands) = (after.since(&before), after.commands - before.commands);
    rig.only_the_good_session_is_left();
    let ((after_ns, _), _) = peace(rig, meter);
    Measured {
        did,
        times,
        calm_ns,
        calm_commands,
        storm_ns: (storm_ns, storm.p99_ns),
        after_ns,
        turn_ns,
        commands,
    }
}

/// Measures until the good session was treated well. Fails when it never was; the second answer
/// is false if the machine was too busy to tell.
fn measure_fair(rig: &Rig, meter: &Meter, case: &Case) -> (Measured, bool) {
    let (mut last, mut unfair) = (measure(rig, meter, case), 0);
    for _ in 1..ROUNDS_MAX {
        if last.is_fair() {
            return (last, true);
        }
        unfair += usize::from(last.is_quiet());
        assert!(unfair < UNFAIR_MAX, "{}: the good session waits: {last:?}", case.name);
        last = measure(rig, meter, case);
    }
    let is_fair = last.is_fair();
    (last, is_fair)
}

#[test]
fn every_hostile_peer_harms_itself_only() {
    if memory::is_child() {
        return;
    }
    let rig = Rig::start();
    let apart = rig.apart();
    let Way::Shm(path) = rig.way.clone() else { unreachable!("just made") };
    let meter = Meter::start(move || ShmConnector::new(&path), rig.way.target_port());
    let (began_kib, lines_before) = (rig.resident_kib(), rig.log_lines());
    pass(&rig);
    paced(true);
    println!(
        "{:<48} {:<58} {:>5} {:>16} {:>14} {:>12}",
        "case", "what the target did", "times", "p99, target, µs", "initiator, µs", "turns, µs"
    );
    let mut busy = 0;
    let us = |ns: u64| ns as f64 / 1000.0;
    let both = |(calm, storm)| format!("{:>7.1} {:>6.1}", us(calm), us(storm));
    for case in cases() {
        let name = case.name;
        if let Err(why) = case.over(&rig) {
            println!("{name:<48} not over shared memory: {why}");
            continue;
        }
        let (measured, known) = if apart {
            measure_fair(&rig, &meter, case)
        } else {
            (measure(&rig, &meter, case), false)
        };
        let Measured { did, times, calm_ns, storm_ns, turn_ns, .. } = measured;
        busy += u32::from(!known);
        let (target, initiator) = (both((calm_ns.0, storm_ns.0)), both((calm_ns.1, storm_ns.1)));
        let turn = us(turn_ns);
        let mark = if known { "" } else { "*" };
        println!("{name:<48} {did:<58} {times:>5} {target:>16} {initiator:>14} {turn:>12.1}{mark}");
    }
    println!("* {busy} cases: one processor, or one that is too busy to tell; not compared");
    println!("log: {} lines", rig.log_lines() - lines_before);
    paced(false);
    memory_is_flat(&rig, began_kib, 3);
    let commands = meter.stop();
    println!("the good session: {commands} commands, all right");
    rig.target.wait_all_home();
}

#[test]
#[ignore = "needs an RDMA device"]
fn every_hostile_peer_over_rdma_harms_itself_only() {
    if memory::is_child() {
        return;
    }
    let address = std::env::var("RDMA_TEST_ADDRESS").expect("RDMA_TEST_ADDRESS");
    let rig = Rig::start_rdma(&address);
    let peer = format!("{address}:5555").parse().expect("an address");
    let connector = move || RdmaConnector::new(peer, Duration::from_secs(20)).expect("a device");
    let meter = Meter::start(connector, rig.way.target_port());
    let began = Instant::now();
    until("the good session works", Duration::from_secs(30), || meter.pace(began));
    let began_kib = rig.resident_kib();
    println!("{:<48} what the target did", "case");
    let mut failed = Vec::new();
    for case in cases() {
        let name = case.name;
        let did = case.over(&rig).map(|()| {
            // One failure is not to hide the others: each look at them costs a guest.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let did = (case.run)(&rig);
                rig.only_the_good_session_is_left();
                did
            }))
        });
        match did {
            Ok(Ok(did)) => println!("{name:<48} {did}"),
            Ok(Err(_)) => failed.push(name),
            Err(why) => println!("{name:<48} not over RDMA: {why}"),
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    memory_is_flat(&rig, began_kib, 1);
    println!("counted: {:?}", rig.counts());
    let commands = meter.stop();
    println!("the good session: {commands} commands, all right");
    rig.target.wait_all_home();
}
