//! Initiators that pass what nobody wants, and a target that has no room: others notice nothing,
//! and who is refused learns the true reason.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::SealFlags;
use rustix::net::Shutdown;
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::Value;
use srpt_tests::hostile::{self, Way, dial, hello, memory, say, told};
use srpt_tests::process::{Initiator, Options, Target, lun};
use transport::shm::{ShmConnector, ShmMemory};
use transport::srp::LoginReq;

/// How long a close waits for a peer that does not read.
const LINGER: Duration = Duration::from_secs(25);
/// What nobody holds up takes less, also on a busy machine.
const SOON: Duration = Duration::from_secs(2);

/// A socket that takes [`LINGER`] to close, and the other end, which must stay open meanwhile.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    while near.write(&[7; 65536]).is_ok() {}
    near.set_nonblocking(false).unwrap();
    rustix::net::sockopt::set_socket_linger(&near, Some(LINGER)).unwrap();
    (near.into(), far)
}

fn started() -> Target {
    let target = Target::start_with(&Options::default());
    target.null_bdev("Null0");
    target.export(&["Null0"]);
    target
}

/// The bytes of a hello with one region.
fn good_hello(target: &Target, number: u64) -> Vec<u8> {
    hello(1, 1, &login(target, number))
}

fn login(target: &Target, number: u64) -> Vec<u8> {
    let mut request = vec![0; LoginReq::LEN_IB];
    let len = hostile::login(&Way::Shm(target.srp_socket()), number).emit(&mut request);
    request.truncate(len);
    request
}

fn quick<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    assert!(start.elapsed() < SOON, "{what} took {:?}", start.elapsed());
    done
}

#[test]
fn descriptors_that_are_slow_to_close_hold_up_no_session_no_login_and_no_stop() {
    let mut target = started();
    let mut good = Initiator::login(&target.srp_socket(), 1, 1);
    good.ready(1);
    let mut far_ends = Vec::new();
    let mut peers = Vec::new();
    for number in 0..3 {
        // In a hello: refused. And in a datagram behind a good hello, which nobody reads.
        let (near, far) = lingering();
        let peer = dial(&target.srp_socket());
        assert!(say(&peer, &good_hello(&target, 100 + number), &[near.as_fd()]));
        drop(near);
        far_ends.push(far);
        peers.push(peer);
        let peer = dial(&target.srp_socket());
        let data = memory(8192, SealFlags::SHRINK);
        assert!(say(&peer, &good_hello(&target, 200 + number), &[data.as_fd()]));
        assert!(!told(&peer).0.is_empty(), "a login");
        let (near, far) = lingering();
        assert!(say(&peer, b"more", &[near.as_fd()]));
        drop((near, peer));
        far_ends.push(far);
        quick("a command", || good.scsi().test_unit_ready(lun(0)).unwrap());
        let mut other = quick("a login", || Initiator::login(&target.srp_socket(), 2, 1));
        other.ready(1);
        quick("a question", || target.rpc("bdev_get_bdevs", Value::Null));
    }
    target
        .process
        .until("the peers are gone", SOON, || (target.sessions().len() == 1).then_some(()));
    quick("a command", || good.scsi().test_unit_ready(lun(0)).unwrap());
    target.process.signal(Signal::TERM);
    target.process.succeed(SOON);
}

#[test]
fn a_peer_hears_that_the_target_is_out_of_descriptors() {
    let target = started();
    let pid = target.process.pid();
    let regions: Vec<ShmMemory> =
        (0..16).map(|key| ShmMemory::new(4096, key).expect("memory")).collect();
    let regions: Vec<&ShmMemory> = regions.iter().collect();
    let connect = || {
        let connector = ShmConnector::new(target.srp_socket());
        connector.connect_regions(&login(&target, 7), &regions, SOON).map(|_| ())
    };
    let open = || {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
        entries.count()
    };
    // The last RPC's connection may still be there, and go later.
    let before = open();
    let all_closed = || {
        let closed = || (open() <= before).then_some(());
        target.process.until("all that came is closed", SOON, closed);
    };
    connect().expect("there is room");
    all_closed();
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    for more in [1, 2, 9, 16] {
        // The peer's own socket takes one.
        let current = Some((before + more) as u64);
        prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).unwrap();
        let refused = connect().expect_err("no room for the socket and 16 files").to_string();
        let told = ["out of descriptors", "lacks descriptors", "Too many open files"];
        assert!(told.iter().any(|words| refused.contains(words)), "{more}: {refused}");
        all_closed();
    }
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    connect().expect("there is room again");
}

#[test]
fn peers_that_read_no_answers_fill_no_log() {
    const PEERS: u64 = 600;
    let target = started();
    let start = Instant::now();
    let data = memory(8192, SealFlags::SHRINK);
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    for number in 0..PEERS {
        let peer = dial(&target.srp_socket());
        rustix::net::shutdown(&peer, Shutdown::Read).unwrap();
        assert!(say(&peer, &good_hello(&target, number), &[data.as_fd()]));
        let mut closed = [PollFd::new(&peer, PollFlags::empty())];
        assert_eq!(poll(&mut closed, Some(&limit)), Ok(1), "peer {number} is thrown out");
    }
    let lines = target.process.err().matches("can't answer a login").count();
    let allowed = 64 + 10 * (start.elapsed().as_secs() as usize + 1);
    assert!((1..=allowed).contains(&lines), "{lines} lines of {PEERS} peers");
}
