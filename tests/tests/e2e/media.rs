//! Files that change under a running target.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use srpt_tests::process::{Initiator, Target, lun, sense, until};

/// NOT READY.
const NOT_READY: (u8, u8, u8) = (2, 0x04, 0);
/// NOT READY TO READY CHANGE, MEDIUM MAY HAVE CHANGED.
const MEDIUM_CHANGED: (u8, u8, u8) = (6, 0x28, 0);
/// CAPACITY DATA HAS CHANGED.
const CAPACITY_CHANGED: (u8, u8, u8) = (6, 0x2a, 0x09);

/// A device is looked at every second.
const NOTICED: Duration = Duration::from_secs(20);

fn set_len(path: &Path, bytes: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

/// Reads the first block until it ends with some sense data.
fn until_told(initiator: &mut Initiator, expected: (u8, u8, u8)) {
    until(&format!("sense {expected:02x?}"), NOTICED, || {
        let mut scsi = initiator.scsi();
        let ended = scsi.read(lun(0), 0, 1, &mut [0; 512]);
        (ended.is_err() && sense(ended) == expected).then_some(())
    });
}

#[test]
fn a_file_that_grows_is_a_larger_disk_to_every_initiator() {
    let target = Target::start();
    let file = target.file_bdev("File0", 8);
    target.export(&["File0"]);
    let mut initiators = [1, 2].map(|number| Initiator::login(&target.srp_socket(), number, 1));
    for initiator in &mut initiators {
        assert_eq!(initiator.ready(1).read_capacity16(lun(0)).unwrap().blocks, 16384);
    }
    set_len(&file, 16 << 20);
    for initiator in &mut initiators {
        until_told(initiator, CAPACITY_CHANGED);
        let mut scsi = initiator.scsi();
        assert_eq!(scsi.read_capacity16(lun(0)).unwrap().blocks, 32768);
        scsi.write(lun(0), 32767, 1, &[7; 512], false).expect("the new last block");
    }
}

#[test]
fn a_lost_file_keeps_its_lun_and_comes_back() {
    let target = Target::start();
    let file = target.file_bdev("File0", 8);
    target.malloc_bdev("Malloc0", 8);
    target.export(&["File0", "Malloc0"]);
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 1);
    initiator.ready(2);
    set_len(&file, 0);
    until_told(&mut initiator, NOT_READY);
    let bdevs = target.rpc("bdev_get_bdevs", json!({ "name": "File0" }));
    let lost = &bdevs[0]["driver_specific"]["uring"]["lost"];
    assert!(lost.as_str().is_some_and(|why| why.contains("0 bytes")), "{bdevs}");
    let refusal = target.refused("bdev_uring_rescan", json!({ "name": "File0" }));
    assert!(refusal.message.contains("empty"), "{refusal:?}");
    let mut scsi = initiator.scsi();
    assert_eq!(scsi.report_luns().unwrap(), [lun(0), lun(1)]);
    scsi.read(lun(1), 0, 1, &mut [0; 512]).expect("another LUN is not touched");
    set_len(&file, 8 << 20);
    until_told(&mut initiator, MEDIUM_CHANGED);
    let mut scsi = initiator.scsi();
    scsi.write(lun(0), 16383, 1, &[7; 512], true).expect("it serves again");
    // What is lost can be unmapped and deleted too.
    set_len(&file, 0);
    until_told(&mut initiator, NOT_READY);
    target.rpc("srpt_unmap_lun", json!({ "target": "t0", "lun": 0 }));
    target.rpc("bdev_uring_delete", json!({ "name": "File0" }));
}
