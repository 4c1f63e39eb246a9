//! Ctrl-C at the tools: the first prints what there is so far, the second ends at once.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use srpt_tests::process::{Process, Target, binary};

const LIMIT: Duration = Duration::from_secs(20);
/// Exit code of a run that was ended early, as fio's.
const INTERRUPTED: i32 = 128;
/// Exit code of a tool that was told twice.
const AT_ONCE: i32 = 130;

/// Commands that the target has answered.
fn commands(target: &Target) -> u64 {
    let sessions = target.sessions();
    let channels = sessions.iter().flat_map(|session| session["channels"].as_array().unwrap());
    channels.map(|channel| channel["commands"].as_u64().unwrap()).sum()
}

#[test]
fn a_load_on_a_target_prints_its_results_so_far() {
    let target = Target::start();
    target.malloc_bdev("Malloc0", 8);
    target.export(&["Malloc0"]);
    for (signal, more) in [(Signal::INT, &[][..]), (Signal::TERM, &["--verify", "--range", "4m"])] {
        let mut perf = target.perf(&[&["-w", "randrw", "-t", "600"][..], more].concat());
        perf.until("a load", LIMIT, || (commands(&target) > 1000).then_some(()));
        perf.signal(signal);
        assert_eq!(perf.exit_code(LIMIT), INTERRUPTED, "{}", perf.err());
        let report: Value = serde_json::from_str(&perf.out()).expect("a report");
        assert_eq!((&report["interrupted"], &report["errors"]), (&true.into(), &0.into()));
        assert!(report["total"]["ios"].as_u64().unwrap() > 500, "{report:#}");
        assert!(report["job"]["elapsed_s"].as_f64().unwrap() < 60.0, "{report:#}");
        target.wait_all_home();
    }
}

#[test]
fn a_load_on_devices_prints_its_results_so_far() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut command = Command::new(binary("bdevperf"));
    command.args(["-b", "malloc:8m", "--no-huge", "-t", "600", "-S", "0.01", "--json"]);
    let mut perf = Process::spawn(command, dir.path());
    perf.until("a load", LIMIT, || perf.err().contains("IOPS").then_some(()));
    perf.signal(Signal::INT);
    assert_eq!(perf.exit_code(LIMIT), INTERRUPTED, "{}", perf.err());
    let report: Value = serde_json::from_str(&perf.out()).expect("a report");
    assert_eq!(report["interrupted"], true);
    assert!(report["total"]["ios"].as_u64().unwrap() > 0, "{report:#}");
}

#[test]
fn a_copy_out_of_a_silent_pipe_says_how_far_it_came() {
    let target = Target::start();
    target.malloc_bdev("Malloc0", 8);
    target.export(&["Malloc0"]);
    let pipe = target.path("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut dd = target.dd(&["--lun", "0", "--bs", "4k", "--if", pipe.to_str().unwrap()]);
    // Opening waits for the reader, which by then has its handlers.
    let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    std::io::Write::write_all(&mut writer, &[7; 3 * 4096]).unwrap();
    let pid = dd.pid();
    dd.until("three blocks are copied", LIMIT, || {
        let session = target.session_of(pid)?;
        (session["channels"][0]["bytes_written"].as_u64()? >= 3 * 4096).then_some(())
    });
    dd.signal(Signal::INT);
    assert_eq!(dd.exit_code(LIMIT), INTERRUPTED, "{}", dd.err());
    assert!(dd.err().contains("12288 bytes copied until interrupted"), "{}", dd.err());
}

#[test]
fn a_second_time_ends_a_load_whose_commands_are_never_answered() {
    let target = Target::start();
    target.malloc_bdev("Malloc0", 8);
    target.export(&["Malloc0"]);
    let mut perf = target.perf(&["-w", "randread", "-t", "600"]);
    perf.until("a load", LIMIT, || (commands(&target) > 1000).then_some(()));
    target.process.stop(LIMIT);
    perf.signal(Signal::INT);
    assert!(!perf.wait_end(Duration::from_millis(100)), "it waits for its commands");
    perf.signal(Signal::INT);
    assert_eq!(perf.exit_code(LIMIT), AT_ONCE, "{}", perf.err());
    target.process.signal(Signal::CONT);
    target.wait_all_home();
}
