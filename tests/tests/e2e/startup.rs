//! A target that can't start says why, and leaves nothing behind.

use std::path::Path;
use std::time::Duration;

use srpt_tests::process::{Options, Process, script};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);

/// Exit code of a target that could not start.
const REFUSED: i32 = 1;
/// Exit code for a wrong command line.
const USAGE: i32 = 2;

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.ends_with(".out") && !name.ends_with(".err")).collect()
}

/// Starts a target that must refuse: exit code and reason. Nothing but `files` is left.
fn refused(dir: &TempDir, options: &[&str], files: &[&str]) -> (i32, String) {
    let command = Options::with(options).command(&dir.path().join("rpc.sock"));
    let mut process = Process::spawn(command, dir.path());
    let code = process.exit_code(LIMIT);
    assert_eq!(names(dir.path()), files, "{options:?}");
    assert!(!process.err().contains("panicked"), "{}", process.err());
    (code, process.err())
}

#[test]
fn wrong_options_are_named() {
    let dir = TempDir::new().unwrap();
    for (options, named) in [
        (&["--no-such-option"][..], "--no-such-option"),
        (&["--idle-spin-us", "0"], "--idle-spin-us"),
        (&["--mem-size", "1"], "--mem-size"),
        (&["--log-level", "LOUD"], "--log-level"),
        (&["left over"], "left over"),
    ] {
        let (code, reason) = refused(&dir, options, &[]);
        assert_eq!(code, USAGE, "{options:?}: {reason}");
        assert!(reason.contains(named), "{options:?}: {reason}");
    }
}

#[test]
fn cores_that_cannot_be_had_are_named() {
    let dir = TempDir::new().unwrap();
    let start = |mask: &str| {
        let mut command = std::process::Command::new(srpt_tests::process::binary("srpt_tgt"));
        command.args(["--no-huge", "-m", mask, "-r"]).arg(dir.path().join("rpc.sock"));
        let mut process = Process::spawn(command, dir.path());
        (process.exit_code(LIMIT), process.err())
    };
    for mask in ["0xZZ", "", "0x0", "[", "[]", "[1-]", "[3-1]", "[0,99999999999999999999]"] {
        let (code, reason) = start(mask);
        assert_eq!(code, USAGE, "{mask:?}: {reason}");
        assert!(reason.contains("--cpumask"), "{mask:?}: {reason}");
    }
    let (code, reason) = start("[500]");
    assert_eq!(code, REFUSED, "{reason}");
    assert!(reason.contains("500"), "{reason}");
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_missing_configuration_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("none.json");
    let (code, reason) = refused(&dir, &["--config", path.to_str().unwrap()], &[]);
    assert_eq!(code, REFUSED, "{reason}");
    assert!(reason.contains("none.json"), "{reason}");
}

/// Each wrong line comes after right ones, a listener among them: nothing of them may stay.
#[test]
fn a_configuration_with_one_wrong_line_starts_nothing() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().display();
    std::fs::write(dir.path().join("disk.img"), [0; 4096]).unwrap();
    // A syntax error shows at the next word, which is in the next line.
    for (wrong, named, lines_later) in [
        (r#"{ "method": "bdev_magic_create", "params": {} }"#, "bdev_magic_create", 0),
        (r#"{ "method": "bdev_null_create", "params": { "name": "n" } }"#, "num_blocks", 0),
        (
            r#"{ "method": "bdev_null_create",
                 "params": { "name": "File0", "num_blocks": 8, "block_size": 512 } }"#,
            "File0",
            0,
        ),
        (r#"{ "method": "srpt_map_lun", "params": { "target": "t0", "lun": 99999 } }"#, "99999", 0),
        (r#"{ "method" "#, "expected `:`", 1),
    ] {
        let of_bdev = wrong.contains("bdev_");
        let (in_bdev, in_srpt) = if of_bdev { (wrong, "") } else { ("", wrong) };
        let comma = |entry: &str| if entry.is_empty() { "" } else { "," };
        let (after_bdev, after_srpt) = (comma(in_bdev), comma(in_srpt));
        let text = format!(
            r#"{{ "subsystems": [
{{ "subsystem": "bdev", "config": [
{{ "method": "bdev_uring_create",
   "params": {{ "filename": "{at}/disk.img", "name": "File0" }} }}{after_bdev}
{in_bdev}
] }},
{{ "subsystem": "srpt", "config": [
{{ "method": "srpt_create_target", "params": {{ "name": "t0" }} }},
{{ "method": "srpt_map_lun", "params": {{ "target": "t0", "bdev_name": "File0" }} }},
{{ "method": "srpt_add_listener",
   "params": {{ "target": "t0", "trtype": "shm", "traddr": "{at}/srp.sock" }} }}{after_srpt}
{in_srpt}
] }} ] }}"#
        );
        let config = dir.path().join("config.json");
        std::fs::write(&config, &text).unwrap();
        let command = Options::with(&["--config", config.to_str().unwrap()])
            .command(&dir.path().join("rpc.sock"));
        let mut process = Process::spawn(command, dir.path());
        let (code, reason) = (process.exit_code(LIMIT), process.err());
        assert_eq!(code, REFUSED, "{wrong}: {reason}");
        assert!(reason.contains(named), "{wrong}: {reason}");
        let before = text.rfind(wrong).unwrap();
        let place = format!("config.json:{}:", text[..before].lines().count() + 1 + lines_later);
        assert!(reason.contains(&place), "{wrong} is at {place} {reason}");
        let mut left = names(dir.path());
        left.sort();
        assert_eq!(left, ["config.json", "disk.img"]);
    }
}

#[test]
fn the_script_waits_for_a_target_that_is_about_to_start() {
    let dir = TempDir::new().unwrap();
    let ask = |retries: &str| {
        let mut command = std::process::Command::new("python3");
        command.arg(script("rpc.py")).args(["-r", retries, "-s"]).arg(dir.path().join("rpc.sock"));
        command.arg("srpt_get_targets");
        Process::spawn(command, dir.path())
    };
    let mut hasty = ask("2");
    assert_eq!(hasty.exit_code(LIMIT), 1);
    assert!(hasty.err().contains("cannot connect"), "{}", hasty.err());
    let mut patient = ask("1000");
    // It has begun to wait: nothing else is there to wait for.
    assert!(!patient.wait_end(Duration::from_millis(500)), "{}", patient.shown());
    let socket = dir.path().join("rpc.sock");
    let target = Process::spawn(Options::default().command(&socket), dir.path());
    patient.succeed(LIMIT);
    assert_eq!(patient.out().trim(), "[]");
    target.stop(LIMIT);
}
