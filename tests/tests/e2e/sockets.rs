//! Sockets: taken over from the dead, refused while their owner lives.

use std::time::Duration;

use serde_json::{Value, json};
use srpt_tests::process::{Initiator, Options, Process, Target, lun};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn sockets_of_a_killed_target_are_taken_over() {
    let target = Target::start();
    target.null_bdev("Null0");
    target.export(&["Null0"]);
    let dir = target.killed();
    for socket in ["rpc.sock", "srp.sock"] {
        assert!(dir.path().join(socket).exists(), "a killed target can't remove {socket}");
    }
    let target = Target::start_in(dir, &Options::default());
    assert_eq!(target.rpc("srpt_get_targets", Value::Null), json!([]));
    target.null_bdev("Null0");
    target.export(&["Null0"]);
    Initiator::login(&target.srp_socket(), 1, 1).ready(1);
}

#[test]
fn the_rpc_socket_of_a_live_target_is_refused() {
    let target = Target::start();
    let command = Options::default().command(&target.path("rpc.sock"));
    let mut second = Process::spawn(command, target.dir());
    assert_eq!(second.exit_code(LIMIT), 1, "{}", second.err());
    assert!(second.err().contains("rpc.sock"), "{}", second.err());
    assert!(second.err().contains("another target"), "{}", second.err());
    target.null_bdev("Null0");
}

#[test]
fn a_file_that_is_no_socket_stays() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("rpc.sock");
    std::fs::write(&path, "precious").unwrap();
    let mut process = Process::spawn(Options::default().command(&path), dir.path());
    assert_eq!(process.exit_code(LIMIT), 1, "{}", process.err());
    assert!(process.err().contains("not a socket"), "{}", process.err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_listener_of_a_live_target_is_refused() {
    let (first, second) = (Target::start(), Target::start());
    first.null_bdev("Null0");
    first.export(&["Null0"]);
    second.rpc("srpt_create_target", json!({ "name": "t0" }));
    let at = |path: std::path::PathBuf| json!({ "target": "t0", "trtype": "shm", "traddr": path });
    let refusal = second.refused("srpt_add_listener", at(first.srp_socket()));
    assert!(
        refusal.message.contains("srp.sock") && refusal.message.contains("live"),
        "{refusal:?}"
    );
    // Another kind of socket, and no socket at all.
    let rpc = second.refused("srpt_add_listener", at(first.path("rpc.sock")));
    assert!(rpc.message.contains("rpc.sock"), "{rpc:?}");
    std::fs::write(first.path("file"), "precious").unwrap();
    let file = second.refused("srpt_add_listener", at(first.path("file")));
    assert!(file.message.contains("not a socket"), "{file:?}");
    assert_eq!(std::fs::read_to_string(first.path("file")).unwrap(), "precious");

    let mut initiator = Initiator::login(&first.srp_socket(), 1, 1);
    initiator.ready(1).read(lun(0), 0, 1, &mut [0; 512]).expect("the live one is unharmed");
    first.rpc("spdk_get_version", Value::Null);
}

#[test]
fn a_listener_that_is_removed_leaves_its_sessions() {
    let target = Target::start();
    target.null_bdev("Null0");
    target.export(&["Null0"]);
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 1);
    initiator.ready(1);
    let at = json!({ "target": "t0", "trtype": "shm", "traddr": target.srp_socket() });
    target.rpc("srpt_remove_listener", at.clone());
    assert!(!target.srp_socket().exists());
    initiator.scsi().read(lun(0), 0, 1, &mut [0; 512]).expect("sessions stay");
    target.rpc("srpt_add_listener", at);
    Initiator::login(&target.srp_socket(), 2, 1).ready(1);
}
