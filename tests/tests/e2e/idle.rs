//! A core without work.

use std::time::Duration;

use serde_json::Value;
use srpt_tests::process::{Options, Target};

const SPAN: Duration = Duration::from_secs(1);

/// Processor time of a process in clock ticks (proc(5), fields 14 and 15 of `stat`).
fn ticks(target: &Target) -> u64 {
    let pid = target.process.pid().as_raw_nonzero();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

fn reactor(target: &Target) -> Value {
    target.rpc("framework_get_reactors", Value::Null)["reactors"][0].clone()
}

/// Share of a processor in percent, over [`SPAN`].
fn load_percent(target: &Target) -> u64 {
    let before = ticks(target);
    assert!(!target.process.wait_end(SPAN), "the target ended");
    (ticks(target) - before) * 100 / rustix::param::clock_ticks_per_second()
}

#[test]
fn an_adaptive_core_without_work_sleeps() {
    let target = Target::start();
    target.null_bdev("Null0");
    target.file_bdev("File0", 8);
    target.export(&["Null0", "File0"]);
    // A session that says nothing must not keep the core awake.
    let mut initiator = srpt_tests::process::Initiator::login(&target.srp_socket(), 1, 2);
    initiator.ready(2);
    let before = reactor(&target);
    let percent = load_percent(&target);
    assert!(percent < 10, "{percent} % of a processor for nothing");
    let after = reactor(&target);
    let grown = after["idle"].as_u64().unwrap() - before["idle"].as_u64().unwrap();
    assert!(u128::from(grown) > SPAN.as_nanos() / 2, "{grown} ns idle: {after:#}");
    let asleep = || (reactor(&target)["in_interrupt"] == true).then_some(());
    target.process.until("the core is seen asleep", Duration::from_secs(5), asleep);
}

#[test]
fn a_polling_core_never_sleeps() {
    let target = Target::start_with(&Options { idle: "poll", ..Options::default() });
    let percent = load_percent(&target);
    // Others want the processor, too.
    assert!(percent > 30, "{percent} % of a processor is not polling");
    assert_eq!(reactor(&target)["in_interrupt"], false);
}
