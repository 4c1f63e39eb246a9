//! What the target refuses while it runs: the reason names the parameter, and nothing changes.

use std::time::Duration;

use rustix::io::Errno;
use serde_json::{Value, json};
use srpt_tests::process::{Initiator, Target, lun, sense, until};

const INVALID_PARAMS: i64 = -32602;

fn code(errno: Errno) -> i64 {
    -i64::from(errno.raw_os_error())
}

fn uring(target: &Target, filename: &std::path::Path) -> srpt_tests::process::Refusal {
    let params = json!({ "name": "Bad0", "filename": filename, "block_size": 512 });
    target.refused("bdev_uring_create", params)
}

#[test]
fn files_that_are_no_disks() {
    let target = Target::start();
    target.file_bdev("File0", 4);
    let missing = uring(&target, &target.path("missing.img"));
    assert_eq!(missing.code, code(Errno::NOENT), "{missing:?}");
    assert!(missing.message.contains("missing.img"), "{missing:?}");
    std::fs::write(target.path("odd.img"), [0; 1000]).unwrap();
    let odd = uring(&target, &target.path("odd.img"));
    assert!(odd.message.contains("1000") && odd.message.contains("512"), "{odd:?}");
    std::fs::write(target.path("empty.img"), []).unwrap();
    uring(&target, &target.path("empty.img"));
    let directory = uring(&target, target.dir());
    assert!(directory.message.contains("directory"), "{directory:?}");
    std::fs::write(target.path("good.img"), [0; 65536]).unwrap();
    for block_size in [1, 513, 256, 65536] {
        let file = target.path("good.img");
        let params = json!({ "name": "Bad0", "filename": file, "block_size": block_size });
        let refusal = target.refused("bdev_uring_create", params);
        assert_eq!(refusal.code, INVALID_PARAMS, "{refusal:?}");
        assert!(refusal.message.contains("block_size"), "{refusal:?}");
    }
    let sizes = |name: &str| std::fs::metadata(target.path(name)).unwrap().len();
    assert_eq!((sizes("odd.img"), sizes("empty.img"), sizes("File0.img")), (1000, 0, 4 << 20));
}

#[test]
fn a_file_belongs_to_one_bdev_of_one_target() {
    let (first, second) = (Target::start(), Target::start());
    let file = first.file_bdev("File0", 4);
    first.export(&["File0"]);
    for target in [&first, &second] {
        let refusal = uring(target, &file);
        assert!(refusal.message.contains("in use"), "{refusal:?}");
        assert!(refusal.message.contains("File0.img"), "{refusal:?}");
    }
    let mut initiator = Initiator::login(&first.srp_socket(), 1, 1);
    initiator.ready(1).write(lun(0), 0, 1, &[7; 512], true).unwrap();
    drop(initiator);
    // Its lock goes with the process, as soon as the kernel has put away its ring.
    let dir = first.killed();
    let params = json!({ "name": "File0", "filename": file, "block_size": 512 });
    until("the lock is free", Duration::from_secs(10), || {
        second.client().call("bdev_uring_create", &params).ok()
    });
    assert_eq!(std::fs::read(dir.path().join("File0.img")).unwrap()[..512], [7; 512]);
}

#[test]
fn names_are_taken_or_unknown() {
    let target = Target::start();
    target.malloc_bdev("Malloc0", 4);
    target.null_bdev("Null0");
    target.export(&["Malloc0"]);
    let uuid = target.rpc("bdev_get_bdevs", json!({ "name": "Null0" }))[0]["uuid"].clone();
    let (small, t0, none) = (json!(8), json!("t0"), json!("none"));
    let bdev = |name: &str| json!({ "name": name, "num_blocks": small, "block_size": 512 });
    let listen = |traddr: &str| json!({ "target": t0, "trtype": "shm", "traddr": traddr });
    let mut same_uuid = bdev("Other0");
    same_uuid["uuid"] = uuid;
    let (exists, missing) = (code(Errno::EXIST), code(Errno::NODEV));
    for (method, params, expected, named) in [
        ("bdev_malloc_create", bdev("Malloc0"), Some(exists), "Malloc0"),
        ("bdev_null_create", bdev("Malloc0"), Some(exists), "Malloc0"),
        ("bdev_null_create", same_uuid, Some(exists), "uuid"),
        ("bdev_malloc_create", bdev(""), Some(INVALID_PARAMS), "name"),
        ("bdev_malloc_delete", json!({ "name": "Malloc0" }), Some(code(Errno::BUSY)), "Malloc0"),
        ("bdev_null_delete", json!({ "name": none }), Some(missing), "none"),
        ("srpt_create_target", json!({ "name": t0 }), Some(exists), "t0"),
        ("srpt_delete_target", json!({ "name": none }), None, "none"),
        ("srpt_map_lun", json!({ "target": t0, "bdev_name": none }), Some(missing), "none"),
        ("srpt_map_lun", json!({ "target": none, "bdev_name": "Null0" }), None, "none"),
        ("srpt_map_lun", json!({ "target": t0, "bdev_name": "Malloc0" }), Some(exists), "LUN 0"),
        (
            "srpt_map_lun",
            json!({ "target": t0, "bdev_name": "Null0", "lun": 0 }),
            Some(exists),
            "LUN 0",
        ),
        (
            "srpt_map_lun",
            json!({ "target": t0, "bdev_name": "Null0", "lun": 16384 }),
            Some(INVALID_PARAMS),
            "16383",
        ),
        ("srpt_unmap_lun", json!({ "target": t0, "lun": 7 }), None, "LUN 7"),
        ("srpt_add_listener", listen("relative.sock"), Some(INVALID_PARAMS), "traddr"),
        ("srpt_add_listener", listen("/proc/none/s.sock"), None, "/proc/none"),
        ("srpt_remove_listener", listen("/proc/none/s.sock"), None, "/proc/none"),
        ("srpt_disconnect_session", json!({ "session": 4711 }), None, "4711"),
        ("no_such_method", Value::Null, Some(-32601), "no_such_method"),
    ] {
        let refusal = target.refused(method, params.clone());
        assert!(refusal.message.contains(named), "{method} {params}: {refusal:?}");
        if let Some(expected) = expected {
            assert_eq!(refusal.code, expected, "{method} {params}: {refusal:?}");
        }
    }
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 1);
    let mut scsi = initiator.ready(1);
    assert_eq!(sense(scsi.read(lun(7), 0, 1, &mut [0; 512])), (5, 0x25, 0));
    scsi.read(lun(0), 0, 1, &mut [0; 512]).expect("nothing has changed");
}

#[test]
fn the_script_reports_a_refusal() {
    let target = Target::start();
    target.malloc_bdev("Malloc0", 4);
    target.export(&["Malloc0"]);
    let (code, out, err) = target.rpc_py(&["bdev_malloc_delete", "Malloc0"]);
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("Malloc0") && err.contains("LUN 0 of target t0"), "{err}");
    let (code, _, err) = target.rpc_py(&["srpt_unmap_lun", "t0", "5"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("LUN 5"), "{err}");
    let (code, _, err) = target.rpc_py(&["srpt_unmap_lun", "t0", "five"]);
    assert_eq!(code, 2, "{err}");
    let (code, out, err) = target.rpc_py(&["srpt_get_targets"]);
    assert_eq!(code, 0, "{err}");
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown, target.rpc("srpt_get_targets", Value::Null));
}
