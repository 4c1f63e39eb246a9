use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use reactor::Tag;

use super::*;
use crate::initiator::{DataMemory, Link};
use crate::shm::sys::{MapError, Mapping, sealed_file};
use crate::shm::wire::Datagram;
use crate::{CloseReason, DataIn};

/// An initiator that speaks the handshake by hand and has the ring file to itself.
struct Intruder {
    socket: OwnedFd,
    ring: Mapping,
    bell: OwnedFd,
}

impl Rig {
    fn intruder(&mut self, credits: u32) -> (ConnId, Intruder) {
        let socket = socket::seqpacket().unwrap();
        rustix::net::connect(&socket, &socket::address(&self.path()).unwrap()).unwrap();
        let data = sealed_file("intruder", 8192).unwrap();
        let hello = Datagram::Hello { regions: 1, login: LOGIN.to_vec() }.encode();
        socket::send(&socket, &hello, &[data.as_fd()]).unwrap();
        let conn = self.login();
        self.fabric.accept(conn, &RSP, credits, 300, 100);
        let mut received = socket::receive(&socket).unwrap();
        assert_eq!(received.fds.len(), 2);
        let bell = received.fds.pop().unwrap();
        let ring = Mapping::of_sealed(&received.fds[0], u64::MAX).unwrap();
        (conn, Intruder { socket, ring, bell })
    }
}

/// The first lap, as a header shows it.
const LAP: u64 = 1 << 32;

/// Numbers that look random and are the same every time.
fn noise(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn scribbling_over_the_rings_hurts_the_scribbler_only() {
    let mut rig = Rig::new();
    let memory = memory(4096);
    let (good, mut link) = rig.connect(&memory, 4);
    let (mut state, mut units, mut closes) = (0x9E37_79B9_7F4A_7C15, 0, 0);
    for round in 0..300u64 {
        let (bad, intruder) = rig.intruder(4);
        for _ in 0..16 {
            for offset in (0..intruder.ring.len() - 8).step_by(128) {
                let random = noise(&mut state);
                // Half of the headers carry the right lap and a length that is often wrong.
                let header =
                    if random.is_multiple_of(2) { random } else { LAP | (random >> 32) & 0x3FF };
                let small = LAP | (random % 300);
                let value = if round.is_multiple_of(2) { small } else { header };
                intruder.ring.word(offset).store(value, Ordering::Release);
            }
            rig.fabric.poll(Instant::default(), &mut rig.events);
            while let Some(event) = rig.events.pop() {
                match event {
                    Event::Received { conn, recv } => {
                        assert_eq!(conn, bad);
                        assert_eq!(rig.fabric.iu(conn, &recv).len(), recv.len as usize);
                        assert!(recv.len >= 1 && recv.len <= 300);
                        rig.fabric.repost(conn, recv);
                        let none = DataIn::None { buf: None };
                        rig.fabric.reply(conn, Tag::new(1, 1), b"answer", false, none);
                        units += 1;
                    }
                    Event::Replied { .. } => {}
                    Event::Closed { conn, reason } => {
                        assert_eq!((conn, reason), (bad, CloseReason::Protocol));
                        closes += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        rig.fabric.close(bad, CloseReason::Local);
        while rig.fabric.connections() > 1 {
            rig.fabric.poll(Instant::default(), &mut rig.events);
            while rig.events.pop().is_some() {}
            rig.fabric.release(bad);
        }
    }
    assert!(units > 100 && closes > 100, "{units} units, {closes} closes");
    link.send(b"unharmed").unwrap();
    let (conn, recv) = rig.received();
    assert_eq!((conn, rig.fabric.iu(conn, &recv)), (good, &b"unharmed"[..]));
    rig.fabric.repost(conn, recv);
}

#[test]
fn a_bell_in_bad_hands_stops_nobody() {
    let mut rig = Rig::new();
    let memory = memory(4096);
    let (_, mut link) = rig.connect(&memory, 4);
    let (_, intruder) = rig.intruder(4);
    rustix::io::ioctl_fionbio(&intruder.bell, false).unwrap();
    assert!(rig.fabric.arm());
    rustix::io::write(&intruder.bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    until("its ring wakes the core", || rustix::io::read(&*rig.wake, &mut [0; 8]).is_ok());
    rustix::io::read(&intruder.bell, &mut [0; 8]).unwrap();
    intruder.ring.word(0).store(u64::MAX, Ordering::Release);

    rig.quiet();
    assert!(rig.fabric.arm());
    link.send(b"ring").unwrap();
    link.flush().unwrap();
    until("another's ring wakes the core", || rustix::io::read(&*rig.wake, &mut [0; 8]).is_ok());
    rig.consume(b"ring");
}

#[test]
fn chatter_on_the_socket_after_login_is_ignored() {
    let mut rig = Rig::new();
    let (conn, intruder) = rig.intruder(4);
    let fd = sealed_file("more", 4096).unwrap();
    while socket::send(&intruder.socket, &[1; 100], &[fd.as_fd()]).is_ok() {}
    rig.quiet();
    drop(intruder);
    assert_eq!(rig.closed(), (conn, CloseReason::PeerGone));
    rig.fabric.release(conn);
}

#[test]
#[ignore = "needs a kernel with huge pages"]
fn memory_of_huge_pages_is_refused() {
    let flags = rustix::fs::MemfdFlags::ALLOW_SEALING | rustix::fs::MemfdFlags::HUGETLB;
    let fd = rustix::fs::memfd_create("huge", flags).unwrap();
    assert_eq!(Mapping::of_sealed(&fd, u64::MAX).unwrap_err(), MapError::HugePages);
}

#[test]
fn a_hole_punched_under_a_loan_reads_as_zeros() {
    let mut rig = Rig::new();
    let data = memory(8192);
    data.write_at(0, &[7; 8192]);
    let (_, link) = rig.connect(&data, 4);
    let conn = ConnId { index: 0, generation: 0 };
    let mut lent = rig.fabric.place(conn, data.seg(0, 8192), 512).unwrap();
    let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(data.file(), mode, 0, 4096).unwrap();
    assert!(rustix::fs::ftruncate(data.file(), 0).is_err(), "the seal holds");
    let mut seen = [1; 8192];
    lent.read_at(0, &mut seen);
    assert!(seen[..4096].iter().all(|byte| *byte == 0) && seen[4096..].iter().all(|b| *b == 7));
    lent.fill(0..8192, 9);
    rig.fabric.give_back(lent);
    drop(link);
}
