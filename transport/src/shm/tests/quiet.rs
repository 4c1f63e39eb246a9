//! Connections that send nothing for a while, and the order in which those that do are served.
use std::sync::atomic::{AtomicBool, Ordering};

use reactor::Tag;

use super::*;
use crate::DataIn;
use crate::initiator::Link;

/// A poll at this time finds everybody quiet who has not sent anything since the start.
const LATER: Instant = Instant::from_ns(2_000_000);

/// A rig with logged-in connections, each with the end of its initiator.
fn crowd(count: u32) -> (Rig, Vec<(ConnId, ShmLink)>) {
    let mut rig = Rig::with(count, ListenerOptions::default());
    let data = memory(4096);
    let peers = (0..count).map(|_| rig.connect(&data, 40)).collect();
    (rig, peers)
}

/// Polls without an event until as many connections are busy.
fn settle(rig: &mut Rig, busy: usize) {
    until("the others are quiet", || {
        rig.fabric.poll(LATER, &mut rig.events);
        assert!(rig.events.is_empty(), "{:?}", rig.events);
        rig.fabric.connections_busy() == busy
    });
}

/// One poll: how many units came from each connection.
fn poll(rig: &mut Rig, peers: &[(ConnId, ShmLink)]) -> Vec<usize> {
    rig.fabric.poll(LATER, &mut rig.events);
    let mut taken = vec![0; peers.len()];
    while let Some(event) = rig.events.pop() {
        let Event::Received { conn, recv } = event else { panic!("{event:?}") };
        let peer = peers.iter().position(|peer| peer.0 == conn).unwrap();
        taken[peer] += 1;
        rig.fabric.repost(conn, recv);
    }
    taken
}

#[test]
fn of_many_connections_those_that_send_nothing_are_not_polled() {
    let (mut rig, mut peers) = crowd(40);
    for _ in 0..1000 {
        rig.fabric.poll(Instant::from_ns(999_999), &mut rig.events);
    }
    assert_eq!(rig.fabric.connections_busy(), 40, "not so soon");
    settle(&mut rig, 8);
    assert_eq!(rig.fabric.connections_live(), 40);
    for (_, link) in &mut peers {
        link.send(b"unit").unwrap();
        link.flush().unwrap();
        rig.consume(b"unit");
    }
    assert!(rig.fabric.connections_busy() > 8, "who sends is polled");
    // A few are polled, whatever they do.
    let (mut rig, _peers) = crowd(8);
    for _ in 0..100 {
        rig.fabric.poll(LATER, &mut rig.events);
    }
    assert_eq!(rig.fabric.connections_busy(), 8);
}

#[test]
fn a_quiet_connection_is_looked_at_in_the_poll_after_its_bell() {
    let (mut rig, mut peers) = crowd(40);
    settle(&mut rig, 8);
    let mut looked = 0;
    for at in 0..40 {
        if !rig.fabric.is_quiet(peers[at].0) {
            continue;
        }
        peers[at].1.send(b"unit").unwrap();
        peers[at].1.flush().unwrap();
        until("the bell is heard", || rig.fabric.has_heard_bells());
        let taken = poll(&mut rig, &peers);
        assert_eq!((taken[at], taken.iter().sum::<usize>()), (1, 1));
        looked += 1;
    }
    assert!(looked >= 32 && rig.fabric.connections_busy() == 40, "looked at {looked}");
}

#[test]
fn a_quiet_connection_whose_peer_does_not_ring_is_found_by_rote() {
    let (mut rig, mut peers) = crowd(40);
    settle(&mut rig, 8);
    for (_, link) in &mut peers {
        link.send(b"unit").unwrap();
    }
    let mut taken = 0;
    // One in eight polls looks at one of 32.
    for _ in 0..8 * 40 {
        taken += poll(&mut rig, &peers).iter().sum::<usize>();
    }
    assert_eq!(taken, 40);
}

#[test]
fn a_peer_that_rings_and_sends_nothing_stays_quiet() {
    let (mut rig, mut peers) = crowd(40);
    settle(&mut rig, 8);
    for (_, link) in &mut peers {
        link.flush().unwrap();
    }
    let mut heard = 0;
    for _ in 0..1000 {
        heard += usize::from(rig.fabric.has_heard_bells());
        rig.fabric.poll(LATER, &mut rig.events);
        assert_eq!((rig.events.len(), rig.fabric.connections_busy()), (0, 8));
        std::thread::yield_now();
    }
    assert!(heard > 0, "nobody rang: the test proves nothing");
}

#[test]
fn bits_and_places_outlive_their_connection_and_harm_nobody() {
    let (mut rig, mut peers) = crowd(40);
    settle(&mut rig, 8);
    for (conn, mut link) in peers.drain(..) {
        link.flush().unwrap();
        rig.fabric.close(conn, crate::CloseReason::Local);
        while !matches!(rig.event(), Event::Closed { .. }) {}
        rig.fabric.release(conn);
    }
    assert_eq!((rig.fabric.connections_live(), rig.fabric.connections()), (0, 0));
    let data = memory(4096);
    let mut again: Vec<_> = (0..40).map(|_| rig.connect(&data, 40)).collect();
    until("all ends are seen", || rig.listener.counts().gone == 40);
    rig.quiet();
    for (_, link) in &mut again {
        link.send(b"unit").unwrap();
        rig.consume(b"unit");
    }
}

#[test]
fn a_poll_goes_on_behind_the_connection_that_the_last_batch_was_full_with() {
    let (mut rig, mut peers) = crowd(10);
    let burst = |link: &mut ShmLink| (0..32).for_each(|_| link.send(b"unit").unwrap());
    peers.iter_mut().for_each(|(_, link)| burst(link));
    let mut served = vec![0; 10];
    for _ in 0..5 {
        // Two bursts fit into a batch, and whoever was served has more to say.
        for (peer, taken) in poll(&mut rig, &peers).into_iter().enumerate() {
            assert!(taken == 0 || taken == 32, "{taken} units");
            served[peer] += taken;
            if taken > 0 {
                burst(&mut peers[peer].1);
            }
        }
    }
    assert_eq!(served, vec![32; 10], "each has had its turn once");
}

/// Two threads: connections of which some are always quiet, one after the other, through thousands
/// of round trips. A lost bell is a wait for the look by rote.
#[test]
fn no_bell_of_a_quiet_connection_is_lost() {
    let (mut rig, mut peers) = crowd(12);
    let rounds = 3000u32;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let initiator = std::thread::spawn(move || {
        for round in 0..rounds {
            let link = &mut peers[round as usize % 12].1;
            link.send(&round.to_ne_bytes()).unwrap();
            link.flush().unwrap();
            assert_eq!(next(link).unwrap(), round.to_ne_bytes());
        }
        stopped.store(true, Ordering::Release);
    });
    let (mut now, mut slept, mut quiet) = (LATER, 0, 0);
    while !stop.load(Ordering::Acquire) {
        now = now.after(Duration::from_millis(1));
        rig.fabric.poll(now, &mut rig.events);
        let mut idle = true;
        while let Some(event) = rig.events.pop() {
            let Event::Received { conn, recv } = event else { continue };
            idle = false;
            let unit = rig.fabric.iu(conn, &recv).to_vec();
            rig.fabric.repost(conn, recv);
            rig.fabric.reply(conn, Tag::new(0, 0), &unit, false, DataIn::None { buf: None });
        }
        quiet += 12 - rig.fabric.connections_busy();
        if idle && rig.fabric.arm() {
            slept += 1;
            let mut fds = [rustix::event::PollFd::new(&*rig.wake, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
            let woken = rustix::event::poll(&mut fds, Some(&limit)).unwrap();
            // The last reply ends the initiator, whose death then wakes us.
            assert!(woken == 1, "a bell was lost after {slept} sleeps");
            let _ = rustix::io::read(&*rig.wake, &mut [0; 8]);
        }
    }
    initiator.join().unwrap();
    assert!(slept > 0 && quiet > 100, "{slept} sleeps, {quiet} times quiet: proves nothing");
}
