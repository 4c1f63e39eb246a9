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
    std::fs::write(target.path("odd.img"), [0; 500]).unwrap();
    let odd = uring(&target, &target.path("odd.img"));
    assert!(odd.message.contains("500") && odd.message.contains("512"), "{odd:?}");
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
    assert_eq!((sizes("odd.img"), sizes("empty.img"), sizes("File0.img")), (500, 0, 4 << 20));
}

#[test]
fn what_is_no_disk_at_all() {
    let target = Target::start();
    let pipe = target.path("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let socket = target.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // To open a pipe must not wait for its other end.
    for (path, words) in [
        (pipe.as_path(), "not a regular file or block device"),
        (std::path::Path::new("/dev/null"), "not a regular file or block device"),
        (&socket, "socket"),
    ] {
        let refusal = uring(&target, path);
        assert!(refusal.message.contains(words), "{}: {refusal:?}", path.display());
        assert!(refusal.message.contains(path.to_str().unwrap()), "{refusal:?}");
    }
    // A file that not even root may write.
    let fixed = std::path::Path::new("/sys/kernel/notes");
    if fixed.exists() {
        let refusal = uring(&target, fixed);
        assert_eq!(refusal.code, code(Errno::ACCESS), "{refusal:?}");
        assert!(refusal.message.contains("/sys/kernel/notes"), "{refusal:?}");
    }
    let file = target.path("name.img");
    std::fs::write(&file, [0; 65536]).unwrap();
    for name in ["a\nb", "a\u{7f}", "\u{1b}[2J", "\u{0}", "", "\u{e4}", &"x".repeat(256)] {
        let params = json!({ "name": name, "filename": file });
        let refusal = target.refused("bdev_uring_create", params);
        assert_eq!(refusal.code, INVALID_PARAMS, "{name:?}: {refusal:?}");
        assert!(!refusal.message.contains(|c: char| c.is_control()), "{refusal:?}");
    }
    for filename in ["", "relative.img", "/a\u{0}b", "/dev"] {
        let params = json!({ "name": "Bad0", "filename": filename });
        target.refused("bdev_uring_create", params.clone());
        target.refused("bdev_sg_create", params);
    }
    for filename in [file.to_str().unwrap(), "/dev/null", "/dev/sg4711"] {
        let refusal = target.refused("bdev_sg_create", json!({ "filename": filename }));
        assert!(refusal.message.contains(filename), "{refusal:?}");
    }
    assert_eq!(target.rpc("bdev_get_bdevs", Value::Null), json!([]));
}

#[test]
fn limits_of_zero_are_none_or_refused() {
    let target = Target::start();
    target.malloc_bdev("Malloc0", 4);
    let blocks = |count: u64| json!({ "name": "Bad0", "num_blocks": count, "block_size": 512 });
    let over = |name: &str| json!({ "name": name, "new_size": 0, "timeout_ms": 0 });
    for (method, params, named) in [
        ("bdev_null_create", blocks(0), "num_blocks"),
        ("bdev_malloc_create", blocks(0), "num_blocks"),
        ("bdev_null_resize", json!({ "name": "Malloc0", "new_size": 0 }), "new_size"),
        ("bdev_sg_create", json!({ "filename": "/dev/sg0", "timeout_ms": 0 }), "timeout_ms"),
        ("bdev_set_qos_limit", json!({ "name": "Malloc0" }), "at least one"),
        ("bdev_set_qos_limit", over("Malloc0"), "unknown field"),
    ] {
        let refusal = target.refused(method, params);
        assert!(refusal.message.contains(named), "{method}: {refusal:?}");
    }
    // Of a rate, zero says that there is no limit.
    let limit = json!({ "name": "Malloc0", "rw_ios_per_sec": 0, "w_mbytes_per_sec": 0 });
    target.rpc("bdev_set_qos_limit", limit);
    target.export(&["Malloc0"]);
    Initiator::login(&target.srp_socket(), 1, 1).ready(1);
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
