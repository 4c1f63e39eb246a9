//! Logical units come and go under load.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use srpt_tests::process::{Initiator, PATIENCE, Target, lun, sense, until};
use transport::initiator::{Command, Data, DataMemory, Event, Sense, Session, cdb};

/// LOGICAL UNIT NOT SUPPORTED.
const GONE: (u8, u8, u8) = (5, 0x25, 0);
/// REPORTED LUNS DATA HAS CHANGED.
const MAP_CHANGED: (u8, u8, u8) = (6, 0x3F, 0x0E);

const DEPTH: u64 = 64;

/// Writes to LUN 1 at full depth until it is gone: the senses of all commands that failed.
fn write_until_gone(target: &Target, done: &AtomicU64) -> Vec<(u8, u8, u8)> {
    let mut initiator = Initiator::login(&target.srp_socket(), 2, 1);
    initiator.ready(2);
    let Session { channels, memory } = &mut initiator.session;
    let (mut senses, mut lba) = (Vec::new(), 0);
    let deadline = Instant::now() + PATIENCE;
    while senses.is_empty() || channels[0].in_flight() > 0 {
        while senses.is_empty() && (channels[0].in_flight() as u64) < DEPTH {
            lba = (lba + 8) % 4096;
            let segs = [memory.seg(lba as usize * 512, 4096)];
            let cdb = cdb::write16(lba, 8, false);
            let command = Command::new(lun(1), &cdb, Data::Out(&segs), 0);
            channels[0].submit(&command).unwrap();
        }
        assert!(Instant::now() < deadline, "the LUN is still there");
        channels[0].flush().unwrap();
        let polled = channels[0].poll(|event| match event {
            Event::Done(completion) if completion.status == 0 => {
                done.fetch_add(1, Ordering::Relaxed);
            }
            Event::Done(completion) => {
                senses.push(Sense::new(completion.sense).code().unwrap());
            }
            Event::Aer { .. } => {}
            other => panic!("{other:?}"),
        });
        polled.unwrap();
    }
    senses
}

#[test]
fn a_lun_in_use_is_unmapped_in_order() {
    let target = Target::start();
    target.malloc_bdev("Malloc0", 8);
    target.file_bdev("File0", 8);
    target.export(&["Malloc0", "File0"]);
    let mut bystander = Initiator::login(&target.srp_socket(), 1, 1);
    bystander.ready(2);
    let (done, senses) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let failed = write_until_gone(&target, &done);
            senses.store(true, Ordering::Release);
            failed
        });
        until("the LUN is in use", Duration::from_secs(10), || {
            (done.load(Ordering::Relaxed) > 2000).then_some(())
        });
        let refusal = target.refused("bdev_uring_delete", json!({ "name": "File0" }));
        assert!(refusal.message.contains("LUN 1 of target t0"), "{refusal:?}");
        assert!(!senses.load(Ordering::Acquire), "the refusal has touched the LUN");
        target.rpc("srpt_unmap_lun", json!({ "target": "t0", "lun": 1 }));
        let failed = writer.join().unwrap();
        assert!(failed.iter().all(|sense| [GONE, MAP_CHANGED].contains(sense)), "{failed:x?}");
        assert!(failed.contains(&GONE), "{failed:x?}");
    });
    let mut scsi = bystander.scsi();
    assert_eq!(sense(scsi.read(lun(0), 0, 1, &mut [0; 512])), MAP_CHANGED);
    assert_eq!(sense(scsi.read(lun(1), 0, 1, &mut [0; 512])), GONE);
    scsi.read(lun(0), 0, 1, &mut [0; 512]).expect("each session is told once");
    assert_eq!(scsi.report_luns().unwrap(), [lun(0)]);
    target.rpc("bdev_uring_delete", json!({ "name": "File0" }));

    // It comes back with another device behind it.
    target.null_bdev("Null0");
    target.rpc("srpt_map_lun", json!({ "target": "t0", "lun": 1, "bdev_name": "Null0" }));
    assert_eq!(sense(scsi.read(lun(0), 0, 1, &mut [0; 512])), MAP_CHANGED);
    assert_eq!(sense(scsi.read(lun(1), 0, 1, &mut [0; 512])), MAP_CHANGED);
    assert_eq!(sense(scsi.read(lun(1), 0, 1, &mut [0; 512])), GONE, "who knew File0 asks first");
    assert_eq!(scsi.report_luns().unwrap(), [lun(0), lun(1)]);
    scsi.test_unit_ready(lun(1)).unwrap();
    scsi.read(lun(1), 0, 1, &mut [1; 512]).unwrap();
    drop(bystander);
    target.wait_all_home();
}

#[test]
fn a_target_in_use_is_deleted_with_its_sessions() {
    let target = Target::start();
    target.malloc_bdev("Malloc0", 8);
    target.export(&["Malloc0"]);
    let load = ["-w", "randrw", "-q", "32", "-t", "60"];
    let mut perf = target.perf(&load);
    let pid = perf.pid();
    perf.until("load", Duration::from_secs(10), || {
        target
            .session_of(pid)
            .filter(|session| session["channels"][0]["commands"].as_u64() > Some(100))
    });
    target.rpc("srpt_delete_target", json!({ "name": "t0" }));
    assert_eq!(perf.exit_code(Duration::from_secs(5)), 1, "{}", perf.shown());
    assert!(!target.srp_socket().exists());
    target.wait_all_home();
    target.rpc("bdev_malloc_delete", json!({ "name": "Malloc0" }));
    target.malloc_bdev("Malloc0", 8);
    target.export(&["Malloc0"]);
    Initiator::login(&target.srp_socket(), 1, 1).ready(1);
}
