use std::sync::atomic::{AtomicBool, Ordering};

use reactor::Tag;

use super::*;
use crate::initiator::{DataMemory, Link};
use crate::{CloseReason, DataIn};

#[test]
fn more_units_than_credits_close_the_offender_only() {
    let mut rig = Rig::new();
    let memory = memory(4096);
    let (good, mut good_link) = rig.connect(&memory, 4);
    let (bad, mut bad_link) = rig.connect(&memory, 4);
    let allowed = 4 + RESPONSE_RECVS;
    for _ in 0..=allowed {
        bad_link.send(b"flood").unwrap();
    }
    let mut kept = Vec::new();
    for _ in 0..allowed {
        let (conn, recv) = rig.received();
        assert_eq!(conn, bad);
        kept.push(recv);
    }
    assert_eq!(rig.closed(), (bad, CloseReason::Protocol));
    for recv in kept {
        assert_eq!(rig.fabric.iu(bad, &recv), b"flood", "receives outlive the close");
        rig.fabric.repost(bad, recv);
    }
    rig.fabric.release(bad);
    good_link.send(b"fine").unwrap();
    let (conn, recv) = rig.received();
    assert_eq!(conn, good);
    rig.fabric.repost(good, recv);
}

#[test]
fn the_link_refuses_to_overrun_its_ring() {
    let mut rig = Rig::new();
    let (_, mut link) = rig.connect(&memory(4096), 4);
    for _ in 0..16 {
        link.send(b"unit").unwrap();
    }
    assert!(matches!(link.send(b"unit"), Err(LinkError::Full)));
}

#[test]
fn one_busy_connection_does_not_starve_another() {
    let mut rig = Rig::new();
    let memory = memory(4096);
    let (busy, mut busy_link) = rig.connect(&memory, 100);
    let (quiet, mut quiet_link) = rig.connect(&memory, 100);
    (0..100).for_each(|_| busy_link.send(b"busy").unwrap());
    quiet_link.send(b"quiet").unwrap();
    rig.fabric.poll(Instant::default(), &mut rig.events);
    let mut taken = [0, 0];
    while let Some(Event::Received { conn, recv }) = rig.events.pop() {
        taken[usize::from(conn == quiet)] += 1;
        rig.fabric.repost(conn, recv);
    }
    assert_eq!(taken, [32, 1]);
    assert_ne!(busy, quiet);
}

#[test]
fn a_small_batch_loses_nothing() {
    let mut rig = Rig::new();
    rig.events = Batch::new(1);
    let (conn, mut link) = rig.connect(&memory(4096), 10);
    for number in 0..10u8 {
        link.send(&[number]).unwrap();
        rig.fabric.reply(conn, Tag::new(number.into(), 0), b"x", false, DataIn::None { buf: None });
    }
    let (mut units, mut replies) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        match rig.event() {
            Event::Received { conn, recv } => {
                units.push(rig.fabric.iu(conn, &recv)[0]);
                rig.fabric.repost(conn, recv);
            }
            Event::Replied { tag, .. } => replies.push(tag.index() as u8),
            other => panic!("{other:?}"),
        }
    }
    let all: Vec<u8> = (0..10).collect();
    assert_eq!((units, replies), (all.clone(), all));
}

#[test]
fn a_dead_peer_is_seen_and_its_memory_stays_while_lent() {
    let mut rig = Rig::new();
    let data = memory(4096);
    data.write_at(0, b"remains");
    let (conn, mut link) = rig.connect(&data, 4);
    link.send(b"held").unwrap();
    let (_, recv) = rig.received();
    let lent = rig.fabric.place(conn, data.seg(0, 4096), 512).unwrap();
    let buf = rig.pool.take(10).unwrap();
    rig.fabric.fetch(conn, Tag::new(1, 0), buf, &[data.seg(0, 10)]);
    drop((link, data));
    until("the death is seen", || rig.listener.counts().gone == 1);

    let mut before = Vec::new();
    let (_, reason) = loop {
        match rig.event() {
            Event::Fetched { buf, ok, .. } => {
                rig.pool.put(buf);
                before.push(ok);
            }
            Event::Closed { conn, reason } => break (conn, reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((reason, before), (CloseReason::PeerGone, vec![true]));

    let mut seen = [0; 7];
    lent.read_at(0, &mut seen);
    assert_eq!(&seen, b"remains");
    assert_eq!((rig.fabric.loans(conn), rig.fabric.connections()), (1, 1));
    assert_eq!(rig.fabric.iu(conn, &recv), b"held");
    rig.fabric.give_back(lent);
    rig.fabric.repost(conn, recv);
    rig.fabric.release(conn);
    assert_eq!(rig.fabric.connections(), 0);
}

/// The initiator's half of the next test, in a process of its own.
#[test]
#[ignore = "is a part of another test"]
fn initiator_process() {
    let path = std::env::var_os("SHM_TEST_PATH").expect("SHM_TEST_PATH");
    let (mut link, _) = ShmConnector::new(path).connect(&LOGIN, &memory(4096), WAIT).unwrap();
    link.send(b"alive").unwrap();
    // Ends by being killed, or with its target.
    while link.poll(&mut |_| {}).is_ok() {}
}

#[test]
fn a_killed_process_is_seen_within_a_second() {
    let mut rig = Rig::new();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--include-ignored", "--exact", "shm::tests::life::initiator_process"])
        .env("SHM_TEST_PATH", rig.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let conn = rig.login();
    assert_eq!(rig.fabric.peer(conn).peer, format!("pid {}", child.id()));
    rig.fabric.accept(conn, &RSP, 4, 64, 64);
    rig.consume(b"alive");
    rig.quiet();
    let start = StdInstant::now();
    child.kill().unwrap();
    assert_eq!(rig.closed(), (conn, CloseReason::PeerGone));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    child.wait().unwrap();
    rig.fabric.release(conn);
}

#[test]
fn operations_on_a_closing_connection_fail_before_its_closed() {
    let mut rig = Rig::new();
    let data = memory(4096);
    let (conn, mut link) = rig.connect(&data, 4);
    link.send(b"unseen").unwrap();
    rig.fabric.close(conn, CloseReason::Local);
    rig.fabric.close(conn, CloseReason::Link);
    assert!(rig.fabric.place(conn, data.seg(0, 4096), 512).is_none());
    let buf = rig.pool.take(10).unwrap();
    rig.fabric.fetch(conn, Tag::new(1, 1), buf, &[data.seg(0, 10)]);
    let buf = Some(rig.pool.take(10).unwrap());
    rig.fabric.reply(conn, Tag::new(2, 2), b"late", false, DataIn::None { buf });
    let Event::Fetched { buf, ok: false, .. } = rig.event() else { panic!("fetch first") };
    rig.pool.put(buf);
    let Event::Replied { buf: Some(buf), ok: false, .. } = rig.event() else { panic!("reply") };
    rig.pool.put(buf);
    assert_eq!(rig.closed(), (conn, CloseReason::Local));
    assert!(matches!(next(&mut link), Err(LinkError::Closed)));
    assert!(matches!(link.send(b"x"), Err(LinkError::Closed)));
    rig.fabric.release(conn);
    until("the watch ends", || rig.listener.counts().gone == 1);
    rig.quiet();
}

#[test]
fn an_operation_enqueued_after_the_end_was_reported_still_ends() {
    let mut rig = Rig::new();
    let data = memory(4096);
    let (conn, link) = rig.connect(&data, 4);
    drop(link);
    assert_eq!(rig.closed(), (conn, CloseReason::PeerGone));
    let buf = rig.pool.take(10).unwrap();
    rig.fabric.fetch(conn, Tag::new(1, 1), buf, &[data.seg(0, 10)]);
    rig.fabric.reply(conn, Tag::new(2, 2), b"late", false, DataIn::None { buf: None });
    let Event::Fetched { buf, ok: false, .. } = rig.event() else { panic!("fetch first") };
    rig.pool.put(buf);
    assert!(matches!(rig.event(), Event::Replied { buf: None, ok: false, .. }));
    rig.fabric.release(conn);
    rig.quiet();
}

#[test]
fn the_last_response_arrives_although_the_target_closed() {
    let mut rig = Rig::new();
    let (conn, mut link) = rig.connect(&memory(4096), 4);
    rig.fabric.reply(conn, Tag::new(1, 1), b"last words", false, DataIn::None { buf: None });
    rig.fabric.close(conn, CloseReason::Local);
    assert_eq!(next(&mut link).unwrap(), b"last words");
    assert!(matches!(next(&mut link), Err(LinkError::Closed)));
}

#[test]
fn a_peer_that_dies_before_its_login_is_answered() {
    let mut rig = Rig::new();
    let connector = ShmConnector::new(rig.path());
    assert!(connector.connect(&LOGIN, &memory(4096), Duration::from_millis(10)).is_err());
    let conn = rig.login();
    until("the death is seen", || rig.listener.counts().gone == 1);
    rig.fabric.accept(conn, &RSP, 4, 64, 64);
    let (closed, reason) = rig.closed();
    assert_eq!(closed, conn);
    assert!(matches!(reason, CloseReason::PeerGone | CloseReason::Link), "{reason:?}");
    rig.fabric.release(conn);
}

#[test]
#[should_panic(expected = "buffers lent out")]
fn release_with_a_loan_out_is_our_bug() {
    let mut rig = Rig::new();
    let data = memory(4096);
    let (conn, _link) = rig.connect(&data, 4);
    let lent = rig.fabric.place(conn, data.seg(0, 4096), 512).unwrap();
    rig.fabric.close(conn, CloseReason::Local);
    rig.closed();
    // A lent buffer may not be dropped, so the test keeps it for ever.
    std::mem::forget(lent);
    rig.fabric.release(conn);
}

#[test]
fn a_dropped_fabric_leaves_lent_memory_mapped() {
    let mut rig = Rig::new();
    let data = memory(4096);
    data.write_at(0, b"mine still");
    let (conn, link) = rig.connect(&data, 4);
    let lent = rig.fabric.place(conn, data.seg(0, 4096), 512).unwrap();
    drop((rig.fabric, rig.listener, link, data));
    let mut seen = [0; 10];
    lent.read_at(0, &mut seen);
    assert_eq!(&seen, b"mine still");
    std::mem::forget(lent);
}

#[test]
fn a_sleeping_core_is_woken_by_units_by_peers_and_by_death() {
    let mut rig = Rig::new();
    let data = memory(4096);
    let wake = Arc::clone(&rig.wake);
    let woken = move || {
        let mut count = [0; 8];
        until("the core is woken", || rustix::io::read(&*wake, &mut count).is_ok());
    };
    assert!(rig.fabric.arm());
    let dial = dial(&rig.path(), &LOGIN, &[&data]);
    woken();
    assert!(!rig.fabric.arm(), "a login waits");
    let conn = rig.login();
    rig.fabric.accept(conn, &RSP, 4, 64, 64);
    let (mut link, _) = dial.join().unwrap().unwrap();

    rig.quiet();
    assert!(rig.fabric.arm());
    link.send(b"wake up").unwrap();
    link.flush().unwrap();
    woken();
    assert!(!rig.fabric.arm(), "a unit waits");
    rig.consume(b"wake up");

    rig.quiet();
    link.send(b"awake").unwrap();
    link.flush().unwrap();
    rig.consume(b"awake");
    assert!(rustix::io::read(&*rig.wake, &mut [0; 8]).is_err(), "nobody rings one who is awake");

    assert!(rig.fabric.arm());
    drop(link);
    woken();
    assert_eq!(rig.closed(), (conn, CloseReason::PeerGone));
}

/// Two threads sleep and wake each other through thousands of round trips: a lost wake-up hangs.
#[test]
fn no_wake_up_is_lost() {
    let mut rig = Rig::new();
    let data = memory(4096);
    let (conn, mut link) = rig.connect(&data, 1);
    let rounds = 2000u32;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let initiator = std::thread::spawn(move || {
        for round in 0..rounds {
            link.send(&round.to_ne_bytes()).unwrap();
            link.flush().unwrap();
            assert_eq!(next(&mut link).unwrap(), round.to_ne_bytes());
        }
        stopped.store(true, Ordering::Release);
    });
    let wake = Arc::clone(&rig.wake);
    let mut slept = 0;
    while !stop.load(Ordering::Acquire) {
        rig.fabric.poll(Instant::default(), &mut rig.events);
        let mut idle = true;
        while let Some(event) = rig.events.pop() {
            let Event::Received { recv, .. } = event else { continue };
            idle = false;
            let unit = rig.fabric.iu(conn, &recv).to_vec();
            rig.fabric.repost(conn, recv);
            rig.fabric.reply(conn, Tag::new(0, 0), &unit, false, DataIn::None { buf: None });
        }
        if idle && rig.fabric.arm() {
            slept += 1;
            let mut fds = [rustix::event::PollFd::new(&*wake, rustix::event::PollFlags::IN)];
            let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
            let ready = rustix::event::poll(&mut fds, Some(&limit)).unwrap();
            // The last reply ends the initiator, whose death then wakes us.
            assert!(ready == 1, "a wake-up was lost after {slept} sleeps");
            let _ = rustix::io::read(&*wake, &mut [0; 8]);
        }
    }
    initiator.join().unwrap();
    assert!(slept > 0, "the core never slept: the test proves nothing");
}
