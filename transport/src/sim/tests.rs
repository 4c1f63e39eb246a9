use reactor::pool::SizeClass;
use reactor::sys::memory::Memory;
use reactor::{Batch, Instant, Pool, Tag};
use std::sync::Arc;

use super::*;
use crate::initiator::{DataMemory, Link};
use crate::{CloseReason, DataIn, Event, Fabric};

fn pool() -> Pool {
    let memory = Arc::new(Memory::ordinary(1 << 16).expect("memory"));
    Pool::new(memory, &[SizeClass { bytes: 4096, count: 8 }])
}

/// A fabric and a logged-in link with two receives of 128 bytes, at delay zero.
fn pair() -> (SimFabric, SimLink, SimMemory, crate::ConnId, Batch<Event>) {
    let net = Net::new(1, 1, NetOptions { delay_ns_max: 0, ..NetOptions::default() });
    let mut fabric = SimFabric::new(&net, 0);
    let memory = SimMemory::new(8192);
    let link = net.connect(0, "t", b"login", &memory).expect("room");
    let mut events = Batch::new(16);
    fabric.poll(Instant::from_ns(1), &mut events);
    let Some(Event::Login { conn }) = events.pop() else { panic!("no login") };
    assert_eq!(fabric.login_data(conn), b"login");
    fabric.accept(conn, b"yes", 2, 128, 64);
    assert_eq!(link.login_answer(), Some(LoginAnswer::Accepted(b"yes".to_vec())));
    (fabric, link, memory, conn, events)
}

#[test]
fn a_message_without_a_receive_waits_for_one() {
    let (mut fabric, mut link, _memory, conn, mut events) = pair();
    for number in 0..3u8 {
        link.send(&[number]).expect("open");
    }
    fabric.poll(Instant::from_ns(2), &mut events);
    assert_eq!(events.len(), 2);
    let Some(Event::Received { recv, .. }) = events.pop() else { panic!("no message") };
    assert_eq!(fabric.iu(conn, &recv), [0]);
    fabric.repost(conn, recv);
    fabric.poll(Instant::from_ns(3), &mut events);
    assert_eq!(events.len(), 2);
    while let Some(Event::Received { recv, .. }) = events.pop() {
        fabric.repost(conn, recv);
    }
}

#[test]
fn data_moves_both_ways_and_wrong_memory_ends_the_connection() {
    let (mut fabric, mut link, memory, conn, mut events) = pair();
    let mut pool = pool();
    memory.write_at(100, b"abc");
    let buf = pool.take(3).expect("free");
    fabric.fetch(conn, Tag::new(1, 0), buf, &[memory.seg(100, 2), memory.seg(102, 1)]);
    fabric.poll(Instant::from_ns(2), &mut events);
    let Some(Event::Fetched { buf, ok: true, .. }) = events.pop() else { panic!("no data") };
    assert_eq!(buf.private(), Some(&b"abc"[..]));

    let to = [memory.seg(0, 1), memory.seg(10, 2)];
    let tag = Tag::new(2, 0);
    fabric.reply(conn, tag, b"done", false, DataIn::Buf { buf, len: 3, to: &to });
    fabric.poll(Instant::from_ns(3), &mut events);
    let Some(Event::Replied { buf: Some(buf), ok: true, .. }) = events.pop() else { panic!() };
    pool.put(buf);
    let mut got = [0; 12];
    memory.read_at(0, &mut got);
    assert_eq!(got, *b"a\0\0\0\0\0\0\0\0\0bc");
    let mut said = Vec::new();
    assert_eq!(link.poll(&mut |iu| said.extend_from_slice(iu)).ok(), Some(1));
    assert_eq!(said, b"done");

    let bad = crate::RemoteSeg { addr: 8190, key: 1, len: 3 };
    fabric.fetch(conn, Tag::new(3, 0), pool.take(3).expect("free"), &[bad]);
    fabric.poll(Instant::from_ns(4), &mut events);
    let Some(Event::Fetched { buf, ok: false, .. }) = events.pop() else { panic!("no end") };
    pool.put(buf);
    let Some(Event::Closed { reason, .. }) = events.pop() else { panic!("not closed") };
    assert_eq!(reason, CloseReason::RemoteAccess);
    fabric.release(conn);
}

#[test]
fn an_operation_enqueued_after_the_end_was_reported_still_ends() {
    let (mut fabric, link, memory, conn, mut events) = pair();
    let mut pool = pool();
    drop(link);
    fabric.poll(Instant::from_ns(2), &mut events);
    assert!(matches!(events.pop(), Some(Event::Closed { .. })));
    let buf = pool.take(3).expect("free");
    fabric.fetch(conn, Tag::new(1, 0), buf, &[memory.seg(0, 3)]);
    fabric.reply(conn, Tag::new(2, 0), b"late", false, DataIn::None { buf: None });
    fabric.poll(Instant::from_ns(3), &mut events);
    let Some(Event::Fetched { buf, ok: false, .. }) = events.pop() else { panic!("no end") };
    pool.put(buf);
    assert!(matches!(events.pop(), Some(Event::Replied { buf: None, ok: false, .. })));
    assert!(events.is_empty());
    fabric.release(conn);
}

#[test]
fn a_probe_finds_a_peer_that_has_vanished_and_does_nothing_to_one_that_is_there() {
    let (mut fabric, mut link, _memory, conn, mut events) = pair();
    let mut poll = |fabric: &mut SimFabric, ns| {
        fabric.poll(Instant::from_ns(ns), &mut events);
        events.pop()
    };
    fabric.probe(conn);
    fabric.probe(conn);
    assert!(poll(&mut fabric, 2).is_none());
    link.send(&[1]).expect("open");
    let Some(Event::Received { recv, .. }) = poll(&mut fabric, 3) else { panic!("no message") };
    fabric.repost(conn, recv);

    link.vanish();
    drop(link);
    assert!(poll(&mut fabric, 4).is_none(), "nobody is told");
    fabric.probe(conn);
    fabric.probe(conn);
    let Some(Event::Closed { reason, .. }) = poll(&mut fabric, 5) else { panic!("not closed") };
    assert_eq!(reason, CloseReason::Link);
    fabric.probe(conn);
    assert!(poll(&mut fabric, 6).is_none());
    fabric.release(conn);
}
