//! Descriptors that can be slow to close, as long as a peer likes.
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::*;
use crate::initiator::Link;
use crate::shm::sys::sealed_file;
use crate::shm::wire::Datagram;

/// How long a close waits for a peer that does not read.
const LINGER: Duration = Duration::from_secs(20);
/// What is not held up ends within this time, also on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// A socket that takes [`LINGER`] to close, and the other end, which must stay open meanwhile.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    // More than both sockets hold: nobody will ever read it.
    while near.write(&[7; 65536]).is_ok() {}
    near.set_nonblocking(false).unwrap();
    rustix::net::sockopt::set_socket_linger(&near, Some(LINGER)).unwrap();
    (near.into(), far)
}

fn connected(rig: &Rig) -> OwnedFd {
    let socket = socket::seqpacket().unwrap();
    rustix::net::connect(&socket, &socket::address(&rig.path()).unwrap()).unwrap();
    socket
}

fn hello(regions: u32) -> Vec<u8> {
    Datagram::Hello { regions, login: LOGIN.to_vec() }.encode()
}

fn said(socket: &OwnedFd) -> Datagram {
    let mut bytes = Vec::new();
    until("the target answers", || {
        bytes = socket::receive(socket).map(|received| received.bytes).unwrap_or_default();
        !bytes.is_empty()
    });
    Datagram::decode(&bytes).unwrap()
}

#[test]
fn a_close_that_lingers_does() {
    let (near, _far) = lingering();
    let (done, ends) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(near);
        let _ = done.send(());
    });
    let ended = ends.recv_timeout(Duration::from_millis(200));
    assert!(ended.is_err(), "the other tests here prove nothing");
}

#[test]
fn slow_descriptors_in_hellos_hold_up_no_login_and_no_stop() {
    let mut rig = Rig::new();
    let start = StdInstant::now();
    let mut far_ends = Vec::new();
    // Of the wrong kind; too many; with a hello that is too long.
    for (bytes, count) in [(hello(3), 3), (hello(17), 17), (vec![7; 5000], 2)] {
        let socket = connected(&rig);
        let (near, far): (Vec<_>, Vec<_>) = (0..count).map(|_| lingering()).unzip();
        let fds: Vec<_> = near.iter().map(AsFd::as_fd).collect();
        socket::send(&socket, &bytes, &fds).unwrap();
        drop(fds);
        drop(near);
        assert!(matches!(said(&socket), Datagram::Error(_)));
        far_ends.extend(far);
    }
    let (_, mut link) = rig.connect(&memory(4096), 4);
    link.send(b"goes on").unwrap();
    rig.consume(b"goes on");
    drop(rig.listener);
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
}

#[test]
fn slow_descriptors_that_nobody_reads_hold_up_no_core_and_no_login() {
    let mut rig = Rig::new();
    let start = StdInstant::now();
    let data = sealed_file("data", 8192).unwrap();
    let mut far_ends = Vec::new();
    for _ in 0..3 {
        let socket = connected(&rig);
        socket::send(&socket, &hello(1), &[data.as_fd()]).unwrap();
        let conn = rig.login();
        rig.fabric.accept(conn, &RSP, 4, 300, 100);
        assert!(matches!(said(&socket), Datagram::Accept { .. }));
        let (near, far) = lingering();
        socket::send(&socket, b"more", &[near.as_fd()]).unwrap();
        far_ends.push(far);
        drop((near, socket));
        assert_eq!(rig.closed().0, conn);
        rig.fabric.release(conn);
    }
    let (_, mut link) = rig.connect(&memory(4096), 4);
    link.send(b"goes on").unwrap();
    rig.consume(b"goes on");
    drop(rig.listener);
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
}

#[test]
fn slow_descriptors_of_peers_that_were_not_heard_hold_up_nothing() {
    let options = ListenerOptions { half_open_max: 1, ..ListenerOptions::default() };
    let mut rig = Rig::with(4, options);
    let start = StdInstant::now();
    let mut far_ends = Vec::new();
    for _ in 0..3 {
        // An empty datagram reads like an end, and what follows is never read.
        let socket = connected(&rig);
        let (near, far) = lingering();
        socket::send(&socket, &[], &[]).unwrap();
        if socket::send(&socket, b"more", &[near.as_fd()]).is_err() {
            // The target was quicker: there is nothing to close for it.
            rustix::net::sockopt::set_socket_linger(&near, None).unwrap();
        }
        far_ends.push(far);
    }
    until("all have left", || rig.listener.counts().left + rig.listener.counts().silent == 3);
    rig.connect(&memory(4096), 4);
    drop(rig.listener);
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
}
