//! A command that a device keeps, and an operator who changes what the command uses.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use srpt_tests::process::{Initiator, Target, lun, sense, until};
use transport::initiator::{Command, Data, DataMemory, Event, cdb};

/// Longer than an operation waits for a command.
const LIMIT: Duration = Duration::from_secs(30);

/// LOGICAL UNIT NOT SUPPORTED.
const NO_LUN: (u8, u8, u8) = (5, 0x25, 0);
/// REPORTED LUNS DATA HAS CHANGED.
const LUNS_CHANGED: (u8, u8, u8) = (6, 0x3f, 0x0e);

/// LUN 0 is an error bdev that has kept a read; LUN 1 is another bdev.
fn kept() -> (Target, Initiator) {
    let target = Target::start();
    target.malloc_bdev("M", 4);
    target.malloc_bdev("Other", 4);
    target.rpc("bdev_error_create", json!({ "base_name": "M" }));
    target.export(&["EE_M", "Other"]);
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 1);
    initiator.ready(2);
    let pending = json!({ "name": "EE_M", "io_type": "read", "error_type": "pending" });
    target.rpc("bdev_error_inject_error", pending);
    let session = &mut initiator.session;
    let segs = [session.memory.seg(0, 512)];
    let cdb = cdb::read10(0, 1);
    session.channels[0].submit(&Command::new(lun(0), &cdb, Data::In(&segs), 1)).unwrap();
    session.channels[0].flush().unwrap();
    target.process.until("the read is with the device", LIMIT, || {
        let sessions = target.rpc("srpt_get_sessions", Value::Null);
        (sessions[0]["channels"][0]["in_flight"] == 1).then_some(())
    });
    (target, initiator)
}

/// Methods that need nothing of what is sick here.
const OTHERS: [&str; 4] =
    ["spdk_get_version", "bdev_get_bdevs", "save_config", "srpt_get_sessions"];

/// Status of the kept read once it has ended.
fn end_of_read(initiator: &mut Initiator) -> u8 {
    until("the read ends", LIMIT, || {
        let mut status = None;
        let polled = initiator.session.channels[0].poll(|event| {
            if let Event::Done(completion) = event {
                status = Some(completion.status);
            }
        });
        polled.expect("the channel stays");
        status
    })
}

fn is_saved(target: &Target, words: &str) -> bool {
    target.rpc("save_config", Value::Null).to_string().contains(words)
}

#[test]
fn an_unmap_beside_a_kept_command_is_done_and_the_command_drains() {
    let (target, mut initiator) = kept();
    let mut other = Initiator::login(&target.srp_socket(), 2, 1);
    other.ready(2);
    let unmap = json!({ "target": "t0", "lun": 0 });
    let began = Instant::now();
    let mut client = target.client();
    let unmapping = std::thread::spawn(move || client.call("srpt_unmap_lun", &unmap));
    target
        .process
        .until("the LUN is gone", LIMIT, || (!is_saved(&target, r#""lun":0"#)).then_some(()));
    target.answers_at_once(&OTHERS);
    // Initiators are told at once, not when the command has ended.
    until("the other initiator is told", Duration::from_secs(4), || {
        let ended = other.scsi().read(lun(1), 0, 1, &mut [0; 512]);
        (ended.is_err() && sense(ended) == LUNS_CHANGED).then_some(())
    });
    assert_eq!(sense(other.scsi().read(lun(0), 0, 1, &mut [0; 512])), NO_LUN);
    assert_eq!(unmapping.join().unwrap(), Ok(json!(true)));
    println!("unmapped within {:?}", began.elapsed());
    let refusal = target.refused("bdev_error_delete", json!({ "name": "EE_M" }));
    let words = "bdev EE_M is busy: commands to LUN 0 of target t0 drain for ";
    assert!(refusal.code == -16 && refusal.message.contains(words), "{refusal:?}");

    target.rpc("bdev_error_resume_pending", json!({ "name": "EE_M" }));
    assert_eq!(end_of_read(&mut initiator), 0);
    target.process.until("the bdev is free", LIMIT, || {
        target.client().call("bdev_error_delete", &json!({ "name": "EE_M" })).ok()
    });
    target.rpc("srpt_map_lun", json!({ "target": "t0", "bdev_name": "M", "lun": 0 }));
}

#[test]
fn pending_commands_are_resumed_while_an_unmap_waits_for_them() {
    let (target, mut initiator) = kept();
    let mut client = target.client();
    let unmap = json!({ "target": "t0", "lun": 0 });
    let began = Instant::now();
    let unmapping = std::thread::spawn(move || client.call("srpt_unmap_lun", &unmap));
    target
        .process
        .until("the LUN is gone", LIMIT, || (!is_saved(&target, r#""lun":0"#)).then_some(()));
    target.rpc("bdev_error_resume_pending", json!({ "name": "EE_M" }));
    assert_eq!(unmapping.join().unwrap(), Ok(json!(true)));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(end_of_read(&mut initiator), 0);
    target.rpc("bdev_error_delete", json!({ "name": "EE_M" }));
}

#[test]
fn a_target_that_is_deleted_beside_a_kept_command_is_gone_and_its_name_comes_back() {
    let (mut target, _initiator) = kept();
    target.rpc("srpt_delete_target", json!({ "name": "t0" }));
    assert_eq!(target.rpc("srpt_get_targets", Value::Null), json!([]));
    assert!(!is_saved(&target, "t0"));
    target.answers_at_once(&OTHERS);
    let refusal = target.refused("srpt_create_target", json!({ "name": "t0" }));
    let words = "target t0 is busy: its last commands drain for ";
    assert!(refusal.code == -16 && refusal.message.contains(words), "{refusal:?}");
    target.rpc("bdev_error_resume_pending", json!({ "name": "EE_M" }));
    target.process.until("the name is free", LIMIT, || {
        target.client().call("srpt_create_target", &json!({ "name": "t0" })).ok()
    });
    target.wait_all_home();
    target.process.signal(Signal::TERM);
    target.process.succeed(Duration::from_secs(2));
}

#[test]
fn what_is_neither_a_file_nor_a_block_device_is_refused_without_being_opened() {
    let target = Target::start();
    let path = target.path("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let began = Instant::now();
    let refusal = target.refused("bdev_uring_create", json!({ "filename": path }));
    assert_eq!(refusal.code, -32602, "{refusal:?}");
    assert!(refusal.message.contains("not a regular file"), "{refusal:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
}
