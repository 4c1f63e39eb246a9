//! Peers that lie, say nothing or vanish, beside one that works.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use srpt_tests::process::{Initiator, Neighbour, Target};

fn dial(path: &Path) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// HELLO of the handshake: magic, version, kind, regions, login length, login.
fn hello(version: u32, regions: u32, login: &[u8]) -> Vec<u8> {
    let mut bytes = b"SRPTSHM\n".to_vec();
    for word in [version, 1, regions, login.len() as u32] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(login);
    bytes
}

fn send(socket: &OwnedFd, bytes: &[u8], file: Option<&OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    }
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).unwrap();
}

/// What the target says; empty when it closes the connection.
fn answer(socket: &OwnedFd) -> Vec<u8> {
    let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&wait));
    assert_eq!(ready, Ok(1), "no answer");
    let mut bytes = vec![0; 4096];
    let (_, len) = rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()).unwrap_or((0, 0));
    bytes.truncate(len);
    bytes
}

fn unsealed(bytes: u64) -> OwnedFd {
    let file = rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .unwrap();
    rustix::fs::ftruncate(&file, bytes).unwrap();
    file
}

#[test]
fn hostile_peers_harm_themselves_only() {
    let target = Target::start();
    target.malloc_bdev("Malloc0", 8);
    target.export(&["Malloc0"]);
    let socket = target.srp_socket();
    let neighbour = Neighbour::start(socket.clone(), 0);
    target.process.until("the neighbour works", Duration::from_secs(10), || {
        (neighbour.rounds() > 100).then_some(())
    });
    // More than the target keeps half open: the oldest go, a good peer still gets in.
    let silent: Vec<OwnedFd> = (0..100).map(|_| dial(&socket)).collect();
    let file = unsealed(8192);
    let login = [0; 64];
    for (bytes, file, why) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), None, "handshake"),
        (vec![0xFF; 3000], None, "handshake"),
        (hello(99, 1, &login), Some(&file), "version"),
        (hello(1, 1, &login)[..30].to_vec(), Some(&file), "malformed"),
        (hello(1, 2, &login), Some(&file), ""),
        (hello(1, 1, &login), None, ""),
        (hello(1, 1, &login), Some(&file), "seal"),
    ] {
        let peer = dial(&socket);
        send(&peer, &bytes, file);
        let said = String::from_utf8_lossy(&answer(&peer)).into_owned();
        assert!(said.contains(why), "{why:?} in {said:?}");
        assert!(said.starts_with("SRPTSHM\n"), "{said:?}");
        assert_eq!(answer(&peer), b"", "the connection ends");
    }
    Initiator::login(&socket, 1, 2).ready(1);
    let mut gone = Initiator::login(&socket, 2, 1);
    // Not SRP at all: the connection ends, and only this one.
    transport::initiator::Link::send(gone.session.channels[0].link_mut(), &[0x77; 48]).unwrap();
    target.process.until("the liar is thrown out", Duration::from_secs(10), || {
        gone.session.channels[0].poll(|_| {}).is_err().then_some(())
    });
    let before = neighbour.rounds();
    target.process.until("the neighbour goes on", Duration::from_secs(10), || {
        (neighbour.rounds() > before + 100).then_some(())
    });
    drop(silent);
    neighbour.stop();
    drop(gone);
    target.wait_all_home();
    let stats = target.rpc("srpt_get_stats", serde_json::Value::Null);
    assert_eq!(stats["cores"][0]["closed"]["protocol"], 1, "{stats:#}");
}
