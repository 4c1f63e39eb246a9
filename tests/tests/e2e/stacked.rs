//! Devices over devices, managed with the client while commands run.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use srpt_tests::process::{Initiator, Target, lun};
use transport::initiator::{Command, Data, DataMemory, Event, cdb};

const BYTES: usize = 512;

/// Starts a read of the first block of LUN 0.
fn begin_read(initiator: &mut Initiator, user: u64) {
    let session = &mut initiator.session;
    let segs = [session.memory.seg(0, BYTES as u32)];
    let cdb = cdb::read10(0, 1);
    session.channels[0].submit(&Command::new(lun(0), &cdb, Data::In(&segs), user)).unwrap();
    session.channels[0].flush().unwrap();
}

/// Status of the command that ended, if one did.
fn ended(initiator: &mut Initiator) -> Option<u8> {
    let mut status = None;
    initiator.session.channels[0]
        .poll(|event| {
            if let Event::Done(completion) = event {
                status = Some(completion.status);
            }
        })
        .unwrap();
    status
}

/// A file under a delay device under an error device that is LUN 0.
fn stack(delay_us: &str) -> (Target, Initiator) {
    let target = Target::start();
    target.file_bdev("File0", 4);
    let create = ["bdev_delay_create", "-b", "File0", "-d", "D"];
    let latencies = ["-r", delay_us, "-t", delay_us, "-w", delay_us, "-n", delay_us];
    let done = |(code, out, err): (i32, String, String)| assert_eq!(code, 0, "{out}{err}");
    done(target.rpc_py(&[&create[..], &latencies].concat()));
    done(target.rpc_py(&["bdev_error_create", "D"]));
    target.export(&["EE_D"]);
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 1);
    initiator.ready(1);
    (target, initiator)
}

fn inject_pending(target: &Target) {
    let params = json!({ "name": "EE_D", "io_type": "read", "error_type": "pending" });
    target.rpc("bdev_error_inject_error", params);
}

#[test]
fn a_pending_read_ends_when_it_is_resumed_and_takes_its_delay() {
    let (target, mut initiator) = stack("150000");
    inject_pending(&target);
    begin_read(&mut initiator, 1);
    // Longer than the delay: only the injection holds it.
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(300) {
        assert_eq!(ended(&mut initiator), None);
    }
    let resumed = Instant::now();
    target.rpc("bdev_error_resume_pending", json!({ "name": "EE_D" }));
    let status =
        target.process.until("the read ends", Duration::from_secs(5), || ended(&mut initiator));
    assert_eq!(status, 0);
    assert!(resumed.elapsed() >= Duration::from_millis(150));
    let refusal = target.refused("bdev_uring_delete", json!({ "name": "File0" }));
    assert_eq!(refusal.code, -16);
}

#[test]
fn a_target_stops_in_time_although_a_command_is_pending() {
    let (mut target, mut initiator) = stack("10");
    inject_pending(&target);
    begin_read(&mut initiator, 1);
    let taken = || {
        (target.rpc("srpt_get_sessions", Value::Null)[0]["channels"][0]["in_flight"] == 1)
            .then_some(())
    };
    target.process.until("the read is with the device", Duration::from_secs(5), taken);
    target.process.signal(Signal::TERM);
    // Less than a target waits for commands that are stuck in a device.
    target.process.succeed(Duration::from_millis(1500));
}
