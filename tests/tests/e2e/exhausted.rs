//! Peers that take all of the kernel's resources that they can get.

use std::os::fd::AsFd;

use rustix::fs::SealFlags;
use serde_json::Value;
use srpt_tests::hostile::{Way, connect, hello, login, memory, say, told};
use srpt_tests::process::{PATIENCE, Target, perf_report, until};
use transport::srp::LoginReq;

/// Load of another process.
const LOAD: [&str; 8] = ["-q", "4", "-o", "4k", "-w", "randread", "-t", "1"];

/// Logs in again and again with these regions: the sockets, and why there are no more.
fn login_until_refused(target: &Target, regions: usize, bytes: usize) -> (Vec<impl AsFd>, String) {
    let way = Way::Shm(target.srp_socket());
    let file = memory(bytes, SealFlags::SHRINK);
    let files = vec![file.as_fd(); regions];
    let mut sockets = Vec::new();
    for number in 1.. {
        let mut request = [0; LoginReq::LEN_IB];
        login(&way, number).emit(&mut request);
        let socket = connect(way.path());
        say(&socket, &hello(1, regions as u32, &request), &files);
        let answer = told(&socket).0;
        // ACCEPT, or ERROR with its text.
        if answer.get(12) != Some(&2) {
            return (sockets, String::from_utf8_lossy(&answer[20..]).into_owned());
        }
        sockets.push(socket);
    }
    unreachable!("every target is full at some time");
}

fn target() -> Target {
    let target = Target::start();
    target.malloc_bdev("Malloc0", 16);
    target.export(&["Malloc0"]);
    target
}

#[test]
fn a_peer_that_takes_all_mappings_is_refused_and_harms_nobody() {
    let target = target();
    let (sockets, why) = login_until_refused(&target, 16, 4096);
    assert!(why.contains("mappings") && why.contains("vm.max_map_count"), "{why}");
    let log = target.process.err() + &target.process.out();
    assert!(log.contains("with 16 (vm.max_map_count is"), "{log}");
    assert!(sockets.len() > 1000, "{} logins", sockets.len());
    // Another process gets in and works; clients, each with a thread of the target, are served.
    perf_report(target.perf(&LOAD), PATIENCE);
    for _ in 0..20 {
        target.client().call("spdk_get_version", &Value::Null).unwrap();
    }
    drop(sockets);
    until("all have left", PATIENCE, || target.sessions().is_empty().then_some(()));
    perf_report(target.perf(&LOAD), PATIENCE);
}

#[test]
fn memory_that_does_not_exist_is_counted_and_refused_with_the_name_of_the_limit() {
    let target = target();
    let (sockets, why) = login_until_refused(&target, 1, 1 << 30);
    assert!(sockets.len() < 200 && why.contains("bytes of mapped memory"), "{why}");
    assert!(why.contains("memory"), "{why}");
    perf_report(target.perf(&LOAD), PATIENCE);
}
