//! A core that stands still for longer than the control plane waits.

use std::time::Duration;

use serde_json::{Value, json};
use srpt_tests::process::{Initiator, Options, Target, cores, lun, sense, until};
use srpt_tests::sys::Stopped;

/// For what a core has to do once it runs again.
const LIMIT: Duration = Duration::from_secs(20);

/// LOGICAL UNIT NOT SUPPORTED.
const NO_LUN: (u8, u8, u8) = (5, 0x25, 0);

/// Methods that need nothing of what is sick here.
const OTHERS: [&str; 4] = ["spdk_get_version", "bdev_get_bdevs", "srpt_get_targets", "save_config"];

#[test]
fn a_core_that_stands_still_is_named_and_nothing_is_half_done() {
    let processors = cores();
    let options = Options { cores: vec![processors[0], processors[1]], ..Options::default() };
    let target = Target::start_with(&options);
    target.malloc_bdev("M", 4);
    target.malloc_bdev("Late", 4);
    target.export(&["M"]);
    let saved = target.rpc("save_config", Value::Null);

    let name = format!("reactor_{}", processors[1]);
    let stopped = Stopped::thread(target.process.thread(&name)).expect("a thread to trace");
    target.answers_at_once(&OTHERS);
    let late = json!({ "target": "t0", "bdev_name": "Late", "lun": 1 });
    let refusal = target.refused("srpt_map_lun", late.clone());
    assert_eq!(refusal.code, -110, "{refusal:?}");
    assert!(refusal.message.contains("core 1 does not answer"), "{refusal:?}");
    assert_eq!(target.rpc("save_config", Value::Null), saved);
    target.answers_at_once(&OTHERS);

    drop(stopped);
    // The core now reads what it was asked meanwhile, and no LUN comes of that. Two channels, one
    // on each core.
    for number in [3, 4] {
        let mut other = Initiator::login(&target.srp_socket(), number, 1);
        other.ready(1);
        until("no core shows the LUN", LIMIT, || {
            let ended = other.scsi().read(lun(1), 0, 1, &mut [0; 512]);
            (ended.is_err() && sense(ended) == NO_LUN).then_some(())
        });
    }
    target.rpc("srpt_map_lun", late);
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 2);
    initiator.ready(2);
    assert_ne!(target.rpc("save_config", Value::Null), saved);
}
