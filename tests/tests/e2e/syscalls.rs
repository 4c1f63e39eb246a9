//! A polling core makes no system calls for its commands.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use srpt_tests::process::{Options, Process, Target, cores, perf_report};

const LIMIT: Duration = Duration::from_secs(20);

/// What login and logout of one initiator may cost.
const CALLS_MAX: u64 = 50;
const IOS_MIN: u64 = 100_000;

/// Calls in a summary of `strace -c`: the fourth column, and the fifth is there for errors only.
fn calls(summary: &str) -> u64 {
    let lines = summary.lines().filter(|line| !line.ends_with("total"));
    let numbers = lines.filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.first()?.parse::<f64>().ok()?;
        columns.get(3)?.parse::<u64>().ok()
    });
    numbers.sum()
}

#[test]
fn summaries_are_understood() {
    let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
                   ------ ----------- ----------- --------- --------- ----------------\n\
                   \x2061.54    0.000016           8         2           mmap\n\
                   \x2038.46    0.000010          10         1         1 read\n\
                   ------ ----------- ----------- --------- --------- ----------------\n\
                   100.00    0.000026           8         3         1 total\n";
    assert_eq!((calls(summary), calls("")), (3, 0));
}

#[test]
fn polling_costs_no_system_calls() {
    let target = Target::start_with(&Options { idle: "poll", ..Options::default() });
    target.null_bdev("Null0");
    target.malloc_bdev("Malloc0", 16);
    target.export(&["Null0", "Malloc0"]);
    let reactors = target.rpc("framework_get_reactors", Value::Null);
    let tid = reactors["reactors"][0]["tid"].as_u64().unwrap();
    let summary = target.path("summary");
    let mut strace = Command::new("strace");
    strace.args(["-c", "-p", &tid.to_string(), "-o"]).arg(&summary);
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("strace").is_file()));
    assert!(found, "strace is missing: scripts/setup.sh installs it");
    let mut strace = Process::spawn(strace, target.dir());
    strace.until("strace watches the core", LIMIT, || {
        strace.err().contains("attached").then_some(())
    });
    let cpu = cores().last().unwrap().to_string();
    let load = ["-l", "0-1", "-w", "randrw", "-q", "32", "-t", "2", "--cpu", &cpu];
    let report = perf_report(target.perf(&load), LIMIT);
    strace.signal(Signal::INT);
    strace.end(LIMIT);
    let summary = std::fs::read_to_string(summary).unwrap();
    let (ios, calls) = (report["total"]["ios"].as_u64().unwrap(), calls(&summary));
    println!("{ios} commands, {calls} system calls\n{summary}");
    assert!(ios > IOS_MIN, "only {ios} commands: the test says little");
    assert!(calls < CALLS_MAX, "{calls} system calls for {ios} commands\n{summary}");
}
