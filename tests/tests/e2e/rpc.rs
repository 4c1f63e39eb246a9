//! Clients that misbehave on the RPC socket harm nobody else.

use std::collections::HashSet;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit};
use serde_json::Value;
use srpt_tests::process::{Rpc, Target};

/// How fast a client is served beside others, whatever they do.
const SERVED_WITHIN: Duration = Duration::from_secs(3);

fn is_served(target: &Target) {
    let start = Instant::now();
    target.rpc("spdk_get_version", Value::Null);
    assert!(start.elapsed() < SERVED_WITHIN, "served after {:?}", start.elapsed());
}

/// The most memory that the process has ever had, in KiB.
fn memory_peak_kib(target: &Target) -> u64 {
    let pid = target.process.pid().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Sends bytes to a target that may stop reading them.
fn send(client: &mut Rpc, bytes: &[u8]) -> Result<(), ErrorKind> {
    client.stream().write_all(bytes).map_err(|error| error.kind())
}

#[test]
fn garbage_is_answered_and_the_connection_closed() {
    let target = Target::start();
    for (garbage, code) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], -32700),
        (b"\x00\xFF\xFE garbage", -32700),
        (b"{\"jsonrpc\": \"2.0\", \"method\": }", -32700),
        (b"}", -32700),
    ] {
        let mut client = target.client();
        send(&mut client, garbage).unwrap();
        let answer = client.answer().expect("an answer");
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert_eq!(answer["id"], Value::Null);
        is_served(&target);
    }
    // Half a request, and then nothing more.
    let mut half = target.client();
    send(&mut half, b"{\"jsonrpc\": \"2.0\", ").unwrap();
    is_served(&target);
    half.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(half.answer().expect("an answer")["error"]["code"], -32700);
    assert_eq!(half.answer(), None);
}

#[test]
fn a_request_of_100_megabytes_takes_no_memory() {
    let target = Target::start();
    is_served(&target);
    let before = memory_peak_kib(&target);
    let mut client = target.client();
    send(&mut client, br#"{"jsonrpc": "2.0", "id": 1, "method": ""#).unwrap();
    let piece = vec![b'a'; 1 << 20];
    for _ in 0..100 {
        match send(&mut client, &piece) {
            Ok(()) => {}
            Err(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
            Err(kind) => panic!("{kind:?}"),
        }
    }
    let answer = client.answer().expect("an answer");
    assert_eq!(answer["error"]["code"], -32600, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("16777216"), "{answer}");
    is_served(&target);
    let grown = memory_peak_kib(&target) - before;
    assert!(grown < 40 * 1024, "{grown} KiB more memory for a request that was refused");
}

#[test]
fn clients_that_never_read_block_nobody() {
    let target = Target::start();
    let request = br#"{"jsonrpc": "2.0", "id": 1, "method": "rpc_get_methods"}"#.repeat(64);
    let mut silent: Vec<Rpc> = (0..4).map(|_| target.client()).collect();
    for client in &mut silent {
        // Until neither end can take any more: the target is stuck in a write to this client.
        client.stream().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while send(client, &request).is_ok() {
            assert!(Instant::now() < deadline, "the target takes requests without bound");
        }
        is_served(&target);
    }
    target.null_bdev("Null0");
    let (code, out, err) = target.rpc_py(&["bdev_get_bdevs", "--name", "Null0"]);
    assert!(code == 0 && out.contains("Null0"), "{err}");
}

#[test]
fn without_descriptors_an_idle_client_makes_room() {
    let target = Target::start();
    let mut idle = target.client();
    idle.call("spdk_get_version", &Value::Null).unwrap();
    let pid = target.process.pid();
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
    let open: HashSet<u64> =
        open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    // What is open stays so, and four more are to be had.
    let all = (0..).filter(|number| !open.contains(number)).nth(4);
    let limit = Rlimit { current: all, maximum: all };
    rustix::process::prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    let held: Vec<Rpc> = (0..8)
        .map(|_| {
            let mut client = target.client();
            client.call("spdk_get_version", &Value::Null).expect("served");
            client
        })
        .collect();
    assert!(idle.answer().is_none(), "the first to be idle has made room");
    drop(held);
    is_served(&target);
}
