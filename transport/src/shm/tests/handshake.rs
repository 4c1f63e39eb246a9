use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::*;
use crate::initiator::DataMemory;
use crate::shm::wire::Datagram;
use crate::{CloseReason, PeerInfo, RemoteSeg};

/// A socket connected to the rig that has not said hello.
fn raw(rig: &Rig) -> OwnedFd {
    let socket = socket::seqpacket().unwrap();
    rustix::net::connect(&socket, &socket::address(&rig.path()).unwrap()).unwrap();
    socket
}

/// What the target answers to a raw hello; empty for a bare close.
fn answer(socket: &OwnedFd) -> Vec<u8> {
    let mut bytes = None;
    until("the target answers", || {
        bytes = socket::receive(socket).ok().map(|received| received.bytes);
        bytes.is_some()
    });
    bytes.unwrap()
}

fn refusal(rig: &Rig, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> String {
    let socket = raw(rig);
    socket::send(&socket, bytes, fds).unwrap();
    match Datagram::decode(&answer(&socket)).unwrap() {
        Datagram::Error(text) => text,
        other => panic!("{other:?}"),
    }
}

/// A hello with more descriptors than the target makes room for.
fn refusal_of_many(rig: &Rig, fd: &OwnedFd, count: usize) -> String {
    let socket = raw(rig);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(200))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = vec![fd.as_fd(); count];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let bytes = hello(count as u32);
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, flags).unwrap();
    match Datagram::decode(&answer(&socket)).unwrap() {
        Datagram::Error(text) => text,
        other => panic!("{other:?}"),
    }
}

fn hello(regions: u32) -> Vec<u8> {
    Datagram::Hello { regions, login: LOGIN.to_vec() }.encode()
}

fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("test", flags).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn logins_of_both_sizes_arrive_as_they_were_sent() {
    let mut rig = Rig::new();
    let (mut links, mut last) = (Vec::new(), 0);
    for bytes in [64usize, 56] {
        let login: Vec<u8> = (0..bytes as u8).collect();
        let dial = dial(&rig.path(), &login, &[&memory(4096)]);
        let conn = rig.login();
        assert_eq!(rig.fabric.login_data(conn), login);
        let expected = PeerInfo {
            trtype: "shm",
            traddr: rig.path().display().to_string(),
            peer: format!("pid {}", std::process::id()),
            target: "tgt0".into(),
            arrival: rig.fabric.peer(conn).arrival,
        };
        assert_eq!(rig.fabric.peer(conn), expected);
        assert!(expected.arrival > last, "later ones have larger numbers");
        last = expected.arrival;
        rig.fabric.accept(conn, &RSP, 8, 64, 64);
        let (link, rsp) = dial.join().unwrap().unwrap();
        assert_eq!(rsp, RSP);
        links.push(link);
    }
    until("both are counted", || rig.listener.counts().attached == 2);
}

#[test]
fn a_reject_carries_its_bytes_and_closes() {
    let mut rig = Rig::new();
    let dial = dial(&rig.path(), &LOGIN, &[&memory(4096)]);
    let conn = rig.login();
    rig.fabric.reject(conn, &[0xC2; 32]);
    match dial.join().unwrap() {
        Err(ConnectError::Rejected(bytes)) => assert_eq!(bytes, [0xC2; 32]),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.closed(), (conn, CloseReason::Local));
    rig.fabric.release(conn);
    assert_eq!(rig.fabric.connections(), 0);
}

#[test]
fn memory_that_could_fault_is_refused() {
    let rig = Rig::new();
    let unsealed = memfd(4096, SealFlags::GROW);
    assert!(refusal(&rig, &hello(1), &[unsealed.as_fd()]).contains("F_SEAL_SHRINK"));
    let empty = memfd(0, SealFlags::SHRINK);
    assert!(refusal(&rig, &hello(1), &[empty.as_fd()]).contains("empty"));
    let frozen = memfd(4096, SealFlags::SHRINK | SealFlags::WRITE);
    assert!(refusal(&rig, &hello(1), &[frozen.as_fd()]).contains("sealed against writing"));
    let huge = memfd(REGION_BYTES_MAX + 4096, SealFlags::SHRINK);
    assert!(refusal(&rig, &hello(1), &[huge.as_fd()]).contains("limit"));
    let half = memfd(REGION_BYTES_MAX / 2 + 4096, SealFlags::SHRINK);
    assert!(refusal(&rig, &hello(2), &[half.as_fd(), half.as_fd()]).contains("region 1"));
    let file = tempfile::tempfile_in(rig.dir.path()).unwrap();
    file.set_len(4096).unwrap();
    assert!(refusal(&rig, &hello(1), &[file.as_fd()]).contains("region 0"));
    let pipe = rustix::pipe::pipe().unwrap();
    assert!(refusal(&rig, &hello(1), &[pipe.0.as_fd()]).contains("not a memory file"));
}

#[test]
fn malformed_hellos_are_refused_and_leave_nothing_open() {
    let rig = Rig::new();
    let good = memfd(4096, SealFlags::SHRINK);
    let fds = |count: usize| vec![good.as_fd(); count];
    assert!(refusal(&rig, &hello(17), &fds(17)).contains("17 regions"));
    assert!(refusal_of_many(&rig, &good, 40).contains("more than 16"));
    assert!(refusal_of_many(&rig, &good, 200).contains("more than 16"));
    assert!(refusal(&rig, &hello(2), &fds(1)).contains("1 descriptors"));
    assert!(refusal(&rig, &hello(1), &fds(2)).contains("2 descriptors"));
    assert!(refusal(&rig, &hello(0), &[]).contains("0 regions"));
    assert!(refusal(&rig, b"GET / HTTP/1.1\r\n", &fds(3)).contains("not a handshake"));
    assert!(refusal(&rig, &hello(1)[..30], &fds(1)).contains("malformed"));
    assert!(refusal(&rig, &[7; 5000], &fds(1)).contains("longer than 4096"));
    let empty = Datagram::Hello { regions: 1, login: vec![] }.encode();
    assert!(refusal(&rig, &empty, &fds(1)).contains("without a login"));
    let reject = Datagram::Reject(vec![1; 32]).encode();
    assert!(refusal(&rig, &reject, &fds(1)).contains("begins with HELLO"));
    assert_eq!(rig.listener.counts().refused, 11);
    assert_eq!(rig.listener.counts().attached, 0);
}

/// Runs alone in a process of its own, because other tests open descriptors too.
#[test]
fn descriptors_don_t_leak() {
    if std::env::var_os("SHM_TEST_ALONE").is_none() {
        let name = "shm::tests::handshake::descriptors_don_t_leak";
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1"])
            .env("SHM_TEST_ALONE", "1")
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
        return;
    }
    let mut rig = Rig::new();
    let before = open_fds();
    for _ in 0..10 {
        let good = memfd(4096, SealFlags::SHRINK);
        let bad = memfd(4096, SealFlags::GROW);
        refusal(&rig, &hello(3), &[good.as_fd(), good.as_fd(), bad.as_fd()]);
        refusal_of_many(&rig, &good, 100);
        refusal(&rig, b"garbage", &[good.as_fd(), bad.as_fd()]);
        let memory = memory(8192);
        let (conn, link) = rig.connect(&memory, 4);
        drop(link);
        assert_eq!(rig.closed(), (conn, CloseReason::PeerGone));
        rig.fabric.release(conn);
    }
    until("all descriptors are closed", || open_fds() == before);
}

#[test]
fn a_silent_peer_is_dropped_and_harms_nobody() {
    let options = ListenerOptions {
        half_open_max: 4,
        hello_wait: Duration::from_millis(50),
        ..Default::default()
    };
    let mut rig = Rig::with(4, options);
    let silent: Vec<OwnedFd> = (0..10).map(|_| raw(&rig)).collect();
    let (_, _link) = rig.connect(&memory(4096), 4);
    for socket in &silent {
        assert_eq!(answer(socket), b"", "closed without a word");
    }
    until("all are counted", || rig.listener.counts().silent == 10);
    assert_eq!(rig.fabric.connections_live(), 1, "the one that spoke stays");
}

/// Connects again and again without a word, and keeps some of the sockets, until `stop` is set.
fn flood(path: &Path, stop: &AtomicBool) -> u64 {
    let address = socket::address(path).unwrap();
    let (mut silent, mut connected) = (VecDeque::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let socket = socket::seqpacket().unwrap();
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {
                connected += 1;
                silent.push_back(socket);
                if silent.len() > 200 {
                    silent.pop_front();
                }
            }
            Err(_) => std::thread::yield_now(),
        }
    }
    connected
}

#[test]
fn logins_get_through_beside_floods_of_silent_peers() {
    let mut rig = Rig::with(4, ListenerOptions { half_open_max: 64, ..Default::default() });
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..3)
        .map(|_| {
            let (path, stop) = (rig.path(), Arc::clone(&stop));
            std::thread::spawn(move || flood(&path, &stop))
        })
        .collect();
    until("they have the upper hand", || rig.listener.counts().silent > 200);
    let memory = memory(4096);
    let refused = (0..100).filter(|_| {
        let login = dial(&rig.path(), &LOGIN, &[&memory]);
        let conn = loop {
            rig.fabric.poll(Instant::default(), &mut rig.events);
            match rig.events.pop() {
                Some(Event::Login { conn }) => break Some(conn),
                Some(other) => panic!("{other:?}"),
                None if login.is_finished() => break None,
                None => std::thread::yield_now(),
            }
        };
        let Some(conn) = conn else { return true };
        rig.fabric.accept(conn, &RSP, 4, 64, 64);
        drop(login.join().unwrap().unwrap());
        rig.closed();
        rig.fabric.release(conn);
        false
    });
    let refused = refused.count();
    stop.store(true, Ordering::Relaxed);
    let silent: u64 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    assert_eq!(refused, 0, "of 100 logins, beside {silent} silent peers");
}

#[test]
fn a_hello_that_waits_is_read_before_its_peer_makes_room() {
    let mut rig = Rig::with(4, ListenerOptions { half_open_max: 1, ..Default::default() });
    let memory = memory(4096);
    // While the control thread is busy with them, all are there: only the silent one makes room.
    let silent: Vec<OwnedFd> = (0..50).map(|_| raw(&rig)).collect();
    let socket = raw(&rig);
    socket::send(&socket, &hello(1), &[memory.file()]).unwrap();
    let _more: Vec<OwnedFd> = (0..50).map(|_| raw(&rig)).collect();
    rig.login();
    drop(silent);
}

#[test]
fn a_limit_of_no_silent_peers_still_lets_one_say_hello() {
    let options = ListenerOptions { half_open_max: 0, ..ListenerOptions::default() };
    let mut rig = Rig::with(4, options);
    let (_, _link) = rig.connect(&memory(4096), 4);
    assert_eq!(rig.fabric.connections_live(), 1);
}

#[test]
fn a_peer_that_leaves_before_its_hello_is_forgotten() {
    let rig = Rig::new();
    drop(raw(&rig));
    until("it is counted", || rig.listener.counts().left == 1);
}

#[test]
fn a_full_core_refuses_and_takes_the_next_one_after_a_release() {
    let mut rig = Rig::with(1, ListenerOptions::default());
    let memory = memory(4096);
    let (conn, link) = rig.connect(&memory, 4);
    let refused = dial(&rig.path(), &LOGIN, &[&memory]).join().unwrap();
    assert!(why(refused).contains("no free connection"));
    drop(link);
    assert_eq!(rig.closed(), (conn, CloseReason::PeerGone));
    rig.fabric.release(conn);
    let (again, _link) = rig.connect(&memory, 4);
    assert_eq!((again.index, again.generation), (conn.index, conn.generation + 1));
}

#[test]
fn the_core_with_the_fewest_connections_gets_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let options = FabricOptions { connections_max: 2, ops_max: 4 };
    let (mut fabrics, doors): (Vec<_>, Vec<_>) =
        (0..3).map(|_| ShmFabric::new(options, eventfd())).unzip();
    let listener = Listener::start(doors).unwrap();
    listener.add_listener("t", dir.path().join("s")).unwrap();
    let dials: Vec<_> =
        (0..6).map(|_| dial(&dir.path().join("s"), &LOGIN, &[&memory(4096)])).collect();
    let mut logins = [0; 3];
    let mut events = Batch::new(16);
    until("all have logged in", || {
        for (core, fabric) in fabrics.iter_mut().enumerate() {
            fabric.poll(Instant::default(), &mut events);
            while let Some(event) = events.pop() {
                let Event::Login { conn } = event else { continue };
                logins[core] += 1;
                fabric.accept(conn, &RSP, 1, 64, 64);
            }
        }
        logins.iter().sum::<u32>() == 6
    });
    assert_eq!(logins, [2, 2, 2]);
    dials.into_iter().for_each(|dial| drop(dial.join().unwrap().unwrap()));
}

#[test]
fn nobody_there_and_no_answer_are_told_apart() {
    let rig = Rig::new();
    let nowhere = ShmConnector::new(rig.dir.path().join("nothing"));
    let memory = memory(4096);
    assert!(why(nowhere.connect(&LOGIN, &memory, WAIT)).contains("No such file"));
    // The control thread takes the hello, but no core ever answers.
    let connector = ShmConnector::new(rig.path());
    let silence = connector.connect(&LOGIN, &memory, Duration::from_millis(30));
    assert!(why(silence).contains("in time"));
}

#[test]
fn socket_files_are_private_taken_over_from_the_dead_and_refused_by_the_living() {
    let rig = Rig::new();
    let mode = std::fs::metadata(rig.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = rig.listener.add_listener("other", rig.path());
    assert!(matches!(again, Err(ListenError::InUse { .. })), "{again:?}");

    let stale = rig.dir.path().join("stale");
    let dead = socket::seqpacket().unwrap();
    rustix::net::bind(&dead, &socket::address(&stale).unwrap()).unwrap();
    rustix::net::listen(&dead, 1).unwrap();
    drop(dead);
    assert!(std::fs::metadata(&stale).unwrap().file_type().is_socket());
    rig.listener.add_listener("t", &stale).unwrap();
    let peer = socket::seqpacket().unwrap();
    rustix::net::connect(&peer, &socket::address(&stale).unwrap()).unwrap();

    let file = rig.dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let on_file = rig.listener.add_listener("t", &file);
    assert!(matches!(on_file, Err(ListenError::NotASocket { .. })), "{on_file:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");

    let long = rig.dir.path().join("x".repeat(120));
    let too_long = rig.listener.add_listener("t", long).unwrap_err();
    assert!(too_long.to_string().contains("107"), "{too_long}");
}

#[test]
fn removal_takes_the_file_only_while_it_is_ours() {
    let mut rig = Rig::new();
    let memory = memory(4096);
    let (_, mut link) = rig.connect(&memory, 4);
    let missing = rig.listener.remove_listener("nobody", rig.path());
    assert!(matches!(missing, Err(ListenError::NotFound { .. })), "{missing:?}");
    rig.listener.remove_listener("tgt0", rig.path()).unwrap();
    assert!(!rig.path().exists());
    crate::initiator::Link::send(&mut link, b"still there").unwrap();
    rig.consume(b"still there");

    rig.listener.add_listener("tgt0", rig.path()).unwrap();
    std::fs::remove_file(rig.path()).unwrap();
    std::fs::write(rig.path(), "somebody else's").unwrap();
    rig.listener.remove_listener("tgt0", rig.path()).unwrap();
    assert!(rig.path().exists());

    let second = rig.dir.path().join("second");
    rig.listener.add_listener("tgt0", &second).unwrap();
    drop(rig.listener);
    assert!(!second.exists(), "stopping removes the files");
    let mut left: Vec<_> =
        std::fs::read_dir(rig.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["sock"], "and the lock files");
}

#[test]
fn impossible_connects_are_refused_here() {
    let connector = ShmConnector::new("/nowhere");
    let memory = memory(1);
    assert_eq!(memory.len(), 4096);
    assert_eq!(memory.seg(4000, 96), RemoteSeg { addr: 4000, key: 0, len: 96 });
    let many = vec![&memory; 17];
    assert!(why(connector.connect_regions(&LOGIN, &many, WAIT)).contains("17 regions"));
    assert!(why(connector.connect(&[0; 2000], &memory, WAIT)).contains("2000 bytes"));
}
