//! A log that nobody reads: standard error is a full pipe.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use srpt_tests::process::{Initiator, Options, Target, lun};
use tempfile::TempDir;

/// Requests of one batch: pairs of a creation and a deletion, two log lines each pair.
const PAIRS: usize = 400;

/// More lines than the target keeps for its log.
const BATCHES: usize = 12;

/// What an orderly stop may take.
const STOP_WAIT_MAX: Duration = Duration::from_secs(2);

/// A target whose standard error is a small pipe, and the end of the pipe that nobody reads yet.
fn unread() -> (Target, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).expect("a small pipe");
    let options = Options::default();
    let dir = TempDir::new().expect("a directory");
    (Target::start_to(dir, &options, Some(Stdio::from(writer))), reader)
}

/// Writes more log lines than there is room for.
fn fill_the_log(target: &Target) {
    let pairs: Vec<Value> = (0..PAIRS)
        .flat_map(|number| {
            let name = format!("N{number}");
            let create = json!({ "name": name, "num_blocks": 8, "block_size": 512 });
            [
                json!({ "id": 1, "method": "bdev_null_create", "params": create }),
                json!({ "id": 2, "method": "bdev_null_delete", "params": { "name": name } }),
            ]
        })
        .collect();
    let mut client = target.client();
    for _ in 0..BATCHES {
        let batch = Value::Array(pairs.clone()).to_string();
        client.stream().write_all(batch.as_bytes()).expect("the target reads requests");
        let answers = client.answer().expect("a batch is answered");
        let mut answers = answers.as_array().expect("one answer a request").iter();
        assert!(answers.all(|answer| answer.get("error").is_none()), "{answers:?}");
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_login_no_command_and_no_stop() {
    let (mut target, mut reader) = unread();
    target.malloc_bdev("Malloc0", 8);
    target.export(&["Malloc0"]);
    fill_the_log(&target);
    // Logins are lines that cores write.
    for number in 1..=20 {
        let began = Instant::now();
        let mut initiator = Initiator::login(&target.srp_socket(), number, 1);
        let mut scsi = initiator.ready(1);
        scsi.write(lun(0), 0, 1, &[7; 512], false).expect("a write");
        let mut read = [0; 512];
        scsi.read(lun(0), 0, 1, &mut read).expect("a read");
        assert_eq!(read, [7; 512]);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    target.process.signal(Signal::TERM);
    target.process.succeed(STOP_WAIT_MAX);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("UTF-8");
    assert!(text.contains("RPC socket"), "{text}");
}

#[test]
fn dropped_lines_are_counted_and_told_when_the_log_is_read_again() {
    let (mut target, mut reader) = unread();
    fill_the_log(&target);
    // More than the pipe holds: there is room again, and what the target still says comes through.
    let mut first = vec![0; 1 << 16];
    reader.read_exact(&mut first).expect("more than the pipe holds");
    let log = std::thread::spawn(move || {
        let mut text = String::from_utf8(first).expect("UTF-8");
        reader.read_to_string(&mut text).map(|_| text)
    });
    target.process.signal(Signal::TERM);
    target.process.succeed(STOP_WAIT_MAX);
    let text = log.join().expect("a reader").expect("UTF-8");
    let told = |line: &str| -> Option<usize> {
        line.split_once("srpt_tgt::logs: ")?
            .1
            .strip_suffix(" log lines dropped: they were not read in time")?
            .parse()
            .ok()
    };
    let dropped: usize = text.lines().filter_map(told).sum();
    let made = text.lines().filter(|line| line.contains("bdev N")).count();
    assert_eq!(made + dropped, 2 * PAIRS * BATCHES, "{dropped} dropped, {made} there");
    assert!(dropped > 0 && text.lines().any(|line| line.ends_with("stopping")));
}
