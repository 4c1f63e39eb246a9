//! What a service manager is told, and what the programs tell of themselves.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use srpt_tests::process::{Options, Process, Rpc, binary, cores};
use srpt_tests::sys::Stopped;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);

/// The watchdog of the tests. The manager of a test is told several times in it.
const WATCHDOG: Duration = Duration::from_millis(800);

fn told(socket: &UnixDatagram) -> Option<String> {
    let mut bytes = [0; 64];
    let length = socket.recv(&mut bytes).ok()?;
    Some(String::from_utf8(bytes[..length].to_vec()).expect("words"))
}

#[test]
fn a_manager_hears_that_the_target_is_ready_goes_on_stands_still_and_stops() {
    let dir = TempDir::new().expect("a directory");
    let (path, rpc) = (dir.path().join("notify"), dir.path().join("rpc.sock"));
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(LIMIT)).expect("a time");
    let mut command = Options::default().command(&rpc);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let mut target = Process::spawn(command, dir.path());

    assert_eq!(told(&socket).as_deref(), Some("READY=1"));
    let mut client = Rpc::connect(&rpc).expect("a target that is ready listens");
    client.call("spdk_get_version", &Value::Null).expect("and answers");
    for _ in 0..3 {
        assert_eq!(told(&socket).as_deref(), Some("WATCHDOG=1"));
    }

    let core = target.thread(&format!("reactor_{}", cores()[0]));
    let stopped = Stopped::thread(core).expect("a thread to trace");
    target.until("the core is named", LIMIT, || {
        target.err().contains("has not gone on").then_some(())
    });
    socket.set_nonblocking(true).expect("no waiting");
    while told(&socket).is_some() {}
    socket.set_nonblocking(false).expect("waiting");
    socket.set_read_timeout(Some(WATCHDOG)).expect("a time");
    assert_eq!(told(&socket), None, "the watchdog of a core that stands still is answered");
    drop(stopped);
    socket.set_read_timeout(Some(LIMIT)).expect("a time");
    assert_eq!(told(&socket).as_deref(), Some("WATCHDOG=1"), "the core goes on");

    target.signal(Signal::TERM);
    target.until("the manager hears of the stop", LIMIT, || {
        (told(&socket).as_deref() == Some("STOPPING=1")).then_some(())
    });
    assert!(target.end(LIMIT).success());
}

#[test]
fn every_program_tells_its_version_and_commit() {
    for name in ["srpt_tgt", "srpt_perf", "srpt_dd", "bdevperf"] {
        for option in ["--version", "-V", "-v"] {
            let output = Command::new(binary(name)).arg(option).output().expect("a program");
            let said = String::from_utf8(output.stdout).expect("words");
            let wanted = format!("{name} {}\n", srpt_tgt::version());
            assert_eq!((output.status.code(), said), (Some(0), wanted), "{name} {option}");
        }
    }
    assert!(srpt_tgt::version().contains("(commit "));
}
