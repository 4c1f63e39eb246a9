//! An initiator that is killed takes nothing with it.

use std::time::{Duration, Instant};

use serde_json::Value;
use srpt_tests::process::{Neighbour, Options, Target};

const ROUNDS: u64 = 20;

fn commands(session: &Value) -> u64 {
    let channels = session["channels"].as_array().unwrap();
    channels.iter().map(|channel| channel["commands"].as_u64().unwrap()).sum()
}

#[test]
fn a_killed_initiator_leaves_nothing_behind() {
    let target = Target::start_with(&Options { idle: "poll", ..Options::default() });
    target.null_bdev("Null0");
    target.malloc_bdev("Malloc0", 32);
    target.file_bdev("File0", 32);
    target.malloc_bdev("Neighbour0", 8);
    target.export(&["Null0", "Malloc0", "File0", "Neighbour0"]);
    let neighbour = Neighbour::start(target.srp_socket(), 3);
    for round in 0..ROUNDS {
        let load = ["-w", "randrw", "-o", "4k-256k", "-q", "64", "-t", "60", "-c", "2"];
        let mut perf = target.perf(&[&load[..], &["-l", "0-2"]].concat());
        let pid = perf.pid();
        perf.until("full load", Duration::from_secs(10), || {
            target.session_of(pid).filter(|session| commands(session) > 500)
        });
        let before = neighbour.rounds();
        let start = Instant::now();
        perf.kill();
        target.process.until("the session is gone", Duration::from_secs(1), || {
            target.session_of(pid).is_none().then_some(())
        });
        // The neighbour's own command holds a slot and a buffer, or waits.
        target.process.until("everything is home", Duration::from_secs(1), || {
            (target.in_use() <= 2 * Neighbour::IN_FLIGHT_MAX).then_some(())
        });
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "round {round}: gone and home after {took:?}");
        target.process.until("the neighbour goes on", Duration::from_secs(2), || {
            (neighbour.rounds() > before).then_some(())
        });
    }
    neighbour.stop();
    target.wait_all_home();
    let stats = target.rpc("srpt_get_stats", Value::Null);
    let core = &stats["cores"][0];
    assert_eq!(core["channels"], 0, "{core:#}");
    // The neighbour goes without a logout, too.
    assert_eq!(core["closed"]["peer_gone"], 2 * ROUNDS + 1, "{core:#}");
}
