//! Bytes arrive where they belong.

use std::time::{Duration, Instant};

use serde_json::Value;
use srpt_tests::process::{Initiator, Options, Stamps, Target, cores, lun, perf_report};

const LIMIT: Duration = Duration::from_secs(30);

/// Bytes without a pattern that a misplaced block could fit.
fn image(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut image = Vec::with_capacity(bytes);
    while image.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        image.extend_from_slice(&state.to_le_bytes());
    }
    image
}

#[test]
fn an_image_goes_onto_a_file_and_comes_back() {
    let target = Target::start();
    let backing = target.file_bdev("File0", 8);
    target.export(&["File0"]);
    let image = image(5 << 20);
    let (from, to) = (target.path("image"), target.path("back"));
    std::fs::write(&from, &image).unwrap();
    let (from, to_shown) = (from.to_str().unwrap(), to.to_str().unwrap());
    let place = ["--lun", "0", "--bs", "128k"];
    let write = [&place[..], &["--if", from, "--seek", "16", "--conv", "fsync"]].concat();
    target.dd(&write).succeed(LIMIT);
    let stored = std::fs::read(&backing).unwrap();
    assert_eq!(stored.len(), 8 << 20);
    assert!(stored[2 << 20..7 << 20] == image, "the backing file differs from the image");
    assert!(stored[..2 << 20].iter().all(|byte| *byte == 0), "something was written before it");
    assert!(stored[7 << 20..].iter().all(|byte| *byte == 0), "something was written behind it");
    let read = [&place[..], &["--of", to_shown, "--skip", "16", "--count", "40"]].concat();
    target.dd(&read).succeed(LIMIT);
    assert!(std::fs::read(to).unwrap() == image, "what was read back differs from the image");
    target.wait_all_home();
}

fn verified_load(options: &Options, channels: &str, seconds: &str) {
    let target = Target::start_with(options);
    target.malloc_bdev("Malloc0", 32);
    target.file_bdev("File0", 32);
    target.export(&["Malloc0", "File0"]);
    let load = ["--verify", "-w", "randrw", "-o", "512-1m", "-q", "16", "-t", seconds];
    let report = perf_report(target.perf(&[&load[..], &["-c", channels]].concat()), LIMIT);
    assert!(report["read"]["ios"].as_u64() > Some(100), "{report:#}");
    assert!(report["write"]["ios"].as_u64() > Some(100), "{report:#}");
    assert!(report["blocks_swept"].as_u64() > Some(0), "{report:#}");
    target.wait_all_home();
}

#[test]
fn mixed_sizes_on_two_channels_are_verified() {
    verified_load(&Options { idle: "poll", ..Options::default() }, "2", "3");
}

#[test]
fn mixed_sizes_on_two_cores_are_verified() {
    let cores: Vec<usize> = cores().into_iter().take(2).collect();
    verified_load(&Options { cores, ..Options::default() }, "4", "3");
}

/// Times that the core's thread gave up its processor (proc(5), `status`).
fn sleeps(target: &Target) -> u64 {
    let reactors = target.rpc("framework_get_reactors", Value::Null);
    let (pid, tid) = (&reactors["pid"], &reactors["reactors"][0]["tid"]);
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

/// A core that has missed its wake-up sleeps on, at most this long.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// The core falls asleep after each command, so each command needs its wake-up. A busy machine may
/// be late a few times; wake-ups that are lost show all the time.
#[test]
fn a_sleeping_core_wakes_for_every_command() {
    let target = Target::start_with(&Options::with(&["--idle-spin-us", "1"]));
    target.null_bdev("Null0");
    target.file_bdev("File0", 8);
    target.export(&["Null0", "File0"]);
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 1);
    let mut scsi = initiator.ready(2);
    let (mut block, mut back) = ([0; 512], [0; 512]);
    let mut late = 0;
    let sleeps_before = sleeps(&target);
    for round in 1..=2000u64 {
        let start = Instant::now();
        scsi.read(lun(0), round, 1, &mut back).unwrap();
        if round % 4 == 0 {
            Stamps::fill(&mut block, round, round);
            scsi.write(lun(1), round, 1, &block, false).unwrap();
            scsi.read(lun(1), round, 1, &mut back).unwrap();
            assert_eq!(Stamps::generation(&back, round), Some(round));
        }
        late += u32::from(start.elapsed() > SLEEP_MAX * 3 / 4);
    }
    assert!(late < 5, "{late} of 2000 rounds took as long as a missed wake-up");
    let slept = sleeps(&target) - sleeps_before;
    assert!(slept > 500, "{slept} sleeps during 3000 commands: the test says little");
}

#[test]
fn eight_sessions_share_a_core() {
    let target = Target::start();
    let names: Vec<String> = (0..8).map(|number| format!("Malloc{number}")).collect();
    names.iter().for_each(|name| target.malloc_bdev(name, 4));
    target.export(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let started: Vec<_> = (0..8)
        .map(|number: u32| {
            let number = number.to_string();
            let load = ["--verify", "-w", "randrw", "-o", "512-128k", "-q", "4", "-t", "2"];
            target.perf(&[&load[..], &["-c", "2", "-l", &number, "--seed", &number]].concat())
        })
        .collect();
    let sessions = || (target.sessions().len() == 8).then_some(());
    target.process.until("eight sessions at once", Duration::from_secs(2), sessions);
    for perf in started {
        let report = perf_report(perf, LIMIT);
        assert!(report["total"]["ios"].as_u64() > Some(10), "{report:#}");
    }
    target.wait_all_home();
}
