//! Peers that pull the memory away, scribble on it, stop or die in the middle of everything.
//!
//! Some of them are processes of their own: this test binary again, told by a variable of the
//! environment what to be.

use std::process::Command;
use std::time::Instant;

use rustix::fs::{FallocateFlags, SealFlags};
use rustix::process::Signal;
use srpt_tests::hostile::{DATA_BYTES, Peer, Refused, Way, command, login, memory};
use srpt_tests::process::{PATIENCE, Process};
use transport::initiator::cdb;
use transport::sim::Rng;
use transport::srp::{DataDesc, Indirect};

use crate::rig::{A_WHILE, Case, HELD_LUN, LUN, LUNS, Rig, both, good, read, shm, write};

pub(crate) const CASES: &[Case] = &[
    shm("memory that may shrink, is empty or too large", unsealed, PINNED),
    shm("memory cut and punched under its commands", punched, PINNED),
    both("a table that changes while it is used", changing_table),
    shm("a process that scribbles on rings and bells", scribbler, "no memory is shared"),
    both("a process that stops with commands under way", stopped),
    both("a process that dies with commands under way", killed),
];

/// Why memory is no matter over RDMA.
const PINNED: &str = "the device pins what is registered";

/// What a child is: `KIND WAY NUMBER`.
const ROLE: &str = "HOSTILE_PEER";

/// Plays the role of a child, if this process is one.
pub(crate) fn is_child() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    let mut words = role.split(' ');
    let mut word = || words.next().expect("three words");
    let (kind, way, number) = (word(), Way::parse(word()), word().parse().expect("a number"));
    match kind {
        "scribble" => scribble(&way, number),
        "hang" => hang(&way, number),
        other => panic!("no role {other}"),
    }
    true
}

fn child(rig: &Rig, kind: &str, number: u64) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "every_hostile_peer_harms_itself_only", "--nocapture"]);
    command.env(ROLE, format!("{kind} {} {number}", rig.way));
    Process::spawn(command, rig.target.dir())
}

fn unsealed(rig: &Rig) -> String {
    let try_with = |file| match Peer::with_memory(&rig.way, &rig.login(), file) {
        Ok(_) => String::new(),
        Err(Refused::Error(why)) => why,
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(try_with(memory(4096, SealFlags::SHRINK)), "");
    for (file, why) in [
        (memory(4096, SealFlags::empty()), "not sealed"),
        (memory(4096, SealFlags::GROW), "not sealed"),
        (memory(0, SealFlags::SHRINK), "empty"),
        (memory(4096, SealFlags::SHRINK | SealFlags::WRITE), "sealed against writing"),
        (memory((64 << 30) + 4096, SealFlags::SHRINK), "more than the limit"),
    ] {
        let said = try_with(file);
        assert!(said.contains(why), "{why:?} in {said:?}");
    }
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, &[0; 4096]).expect("a page");
    assert!(try_with(file.into()).contains("not a memory file"));
    "told it what is wrong, closed it".into()
}

fn punched(rig: &Rig) -> String {
    let mut peer = rig.peer();
    let refused = rustix::fs::ftruncate(peer.shm().data(), 0);
    assert!(refused.is_err(), "the seal holds");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for round in 0..40 {
        let at = (round % 4) << 20;
        let desc = DataDesc::Direct(rig.seg(at, 1 << 20));
        peer.send(&read(1, &cdb::read10(0, 2048), desc));
        peer.send(&write(2, &cdb::write10(0, 2048, false), desc));
        rustix::fs::fallocate(peer.shm().data(), punch, 0, DATA_BYTES as u64).expect("a hole");
        good(&peer.reply());
        good(&peer.reply());
    }
    "answered: holes are zeros".into()
}

/// The table is checked in the target's own copy.
fn changing_table(rig: &Rig) -> String {
    let mut peer = rig.peer();
    let good_table = [rig.seg(65536, 2048).to_bytes(), rig.seg(131_072, 2048).to_bytes()].concat();
    let bad_table =
        [rig.seg(usize::MAX, u32::MAX).to_bytes(), rig.seg(0, 2048).to_bytes()].concat();
    let (mut answered, mut ended) = (0, 0);
    let desc = DataDesc::Indirect(Indirect { table: rig.seg(0, 32), total_len: 4096, in_iu: &[] });
    for _ in 0..60 {
        peer.put(0, &good_table);
        peer.send(&read(1, &cdb::read10(0, 8), desc));
        peer.put(0, &bad_table);
        peer.put(0, &good_table);
        peer.put(0, &bad_table);
        let outcome = srpt_tests::process::until("an end", PATIENCE, || {
            peer.take().map(|_| true).or_else(|| peer.ended().then_some(false))
        });
        if outcome {
            answered += 1;
        } else {
            ended += 1;
            peer = rig.peer();
        }
    }
    assert_eq!(answered + ended, 60);
    "answered by the one, closed it by the other: remote_access".into()
}

/// A child: writes random words over everything it shares with the target, again and again.
fn scribble(way: &Way, seed: u64) {
    let mut rng = Rng::new(seed);
    let (began, mut logins, mut words) = (Instant::now(), 0u64, 0u64);
    while began.elapsed() < A_WHILE {
        let Ok(mut peer) = Peer::login(way, &login(way, 0xBAD0_0000 + seed)) else { continue };
        logins += 1;
        peer.send(&command(1, LUN, &cdb::read10(0, 8), DataDesc::None, DataDesc::None));
        let slots_end = peer.shm().slots_end();
        while !peer.ended() && began.elapsed() < A_WHILE {
            for _ in 0..64 {
                let random = rng.next_u64();
                // Half of the words fall on headers, and half of these look like units.
                let at = match random % 4 {
                    0 => rng.below(slots_end / 8) * 8,
                    1 => 0,
                    _ => 4096 + rng.below((slots_end - 4096) / 128) * 128,
                };
                let lap = (1 << 32) | (u64::from(random as u32 >> 8) % 400);
                peer.shm().scribble(at, if random & 64 == 0 { random } else { lap });
                words += 1;
            }
            peer.shm().ring_bell();
            peer.shm().chatter(&random_bytes(&mut rng));
        }
    }
    println!("seed {seed:#x}: {logins} logins, {words} words");
}

fn random_bytes(rng: &mut Rng) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&rng.next_u64().to_ne_bytes());
    bytes
}

fn scribbler(rig: &Rig) -> String {
    let seed = rig.number();
    let mut scribbler = child(rig, "scribble", seed);
    scribbler.succeed(PATIENCE);
    let said = scribbler.out();
    // The test's name may be in front.
    let begins = said.find("seed ").expect("its count");
    let said = said[begins..].lines().next().expect("a line").to_owned();
    rig.only_the_good_session_is_left();
    said
}

/// Commands that a process leaves under way.
const HUNG: u64 = 100;

/// A child: has reads and writes under way that are held, and takes their answers when they come.
fn hang(way: &Way, number: u64) {
    let mut peer = Peer::ready(way, number, LUNS);
    let desc = DataDesc::Direct(way.seg(0, 1 << 16));
    for tag in 0..HUNG {
        peer.send(&if tag % 2 == 0 {
            command(tag, HELD_LUN, &cdb::write10(0, 128, false), desc, DataDesc::None)
        } else {
            command(tag, HELD_LUN, &cdb::read10(0, 128), DataDesc::None, desc)
        });
    }
    println!("under way");
    (0..HUNG).for_each(|_| good(&peer.reply()));
    println!("all answered");
}

fn hanging(rig: &Rig) -> (Process, u64) {
    let number = rig.number();
    rig.hold();
    let child = child(rig, "hang", number);
    child.until("its commands are under way", PATIENCE, || {
        child.out().contains("under way").then_some(())
    });
    rig.in_flight(number, HUNG);
    (child, number)
}

/// Over shared memory a fetch is a copy that the peer can't hold up, and over RDMA its device
/// answers without it, so a peer that stops has all its commands answered.
fn stopped(rig: &Rig) -> String {
    let (mut child, number) = hanging(rig);
    child.stop(PATIENCE);
    rig.resume();
    let wanted = HUNG + u64::from(LUNS);
    rig.target.process.until("all are answered", PATIENCE, || {
        (rig.channel(number, "commands") == Some(wanted)).then_some(())
    });
    rig.counted(&[("closed peer_gone", 1)], || {
        child.signal(Signal::CONT);
        child.succeed(PATIENCE);
    });
    assert!(child.out().contains("all answered"));
    "answered all; nothing waits for it".into()
}

fn killed(rig: &Rig) -> String {
    let (mut child, _) = hanging(rig);
    rig.counted(&[("closed peer_gone", 1)], || child.kill());
    rig.resume();
    rig.only_the_good_session_is_left();
    "let its commands come home: peer_gone".into()
}
