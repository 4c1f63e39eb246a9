//! A core that stands still for longer than the control plane waits.

use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::{Value, json};
use srpt_tests::process::{Initiator, Options, Target, cores};
use srpt_tests::sys::Stopped;

/// What an RPC that needs no stalled core may take.
const OTHERS_WAIT_MAX: Duration = Duration::from_millis(50);

/// Number of the thread with this name.
pub(crate) fn thread(process: Pid, name: &str) -> Pid {
    let threads = format!("/proc/{}/task", process.as_raw_nonzero());
    let found = std::fs::read_dir(threads).expect("threads").find_map(|entry| {
        let entry = entry.expect("a thread");
        let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        (comm.trim_end() == name).then(|| entry.file_name().into_string().expect("a number"))
    });
    let number = found.unwrap_or_else(|| panic!("no thread {name}"));
    Pid::from_raw(number.parse().expect("a number")).expect("not 0")
}

/// The fastest of a few calls: one that waits for the core is slow each time.
fn others_are_answered(target: &Target) {
    for method in ["spdk_get_version", "bdev_get_bdevs", "srpt_get_targets", "save_config"] {
        let times = (0..5).map(|_| {
            let began = Instant::now();
            target.rpc(method, Value::Null);
            began.elapsed()
        });
        let fastest = times.min().expect("a few");
        assert!(fastest < OTHERS_WAIT_MAX, "{method}: {fastest:?}");
    }
}

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
    let stopped = Stopped::thread(thread(target.process.pid(), &name)).expect("a thread to trace");
    others_are_answered(&target);
    let late = json!({ "target": "t0", "bdev_name": "Late", "lun": 1 });
    let refusal = target.refused("srpt_map_lun", late.clone());
    assert_eq!(refusal.code, -110, "{refusal:?}");
    assert!(refusal.message.contains("core 1 does not answer"), "{refusal:?}");
    assert_eq!(target.rpc("save_config", Value::Null), saved);
    others_are_answered(&target);

    drop(stopped);
    // The core first does what it was asked, and then what undoes that.
    target.rpc("srpt_map_lun", late);
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 2);
    initiator.ready(2);
    assert_ne!(target.rpc("save_config", Value::Null), saved);
}
