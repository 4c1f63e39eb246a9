use reactor::Tag;
use reactor::pool::Buf;

use super::*;
use crate::initiator::{DataMemory, Link};
use crate::{CloseReason, DataIn, RemoteSeg};

const TAG: Tag = Tag::new(7, 3);

fn fill(memory: &ShmMemory, salt: u8) -> Vec<u8> {
    let bytes: Vec<u8> = (0..memory.len()).map(|i| (i / 251) as u8 ^ i as u8 ^ salt).collect();
    memory.write_at(0, &bytes);
    bytes
}

fn contents(memory: &ShmMemory) -> Vec<u8> {
    let mut bytes = vec![0; memory.len()];
    memory.read_at(0, &mut bytes);
    bytes
}

fn seg(key: u32, addr: u64, len: u32) -> RemoteSeg {
    RemoteSeg { addr, key, len }
}

/// Descriptors that leave a first region of 8192 bytes and a second of 4096.
fn wrong() -> Vec<Vec<RemoteSeg>> {
    vec![
        vec![seg(2, 0, 512)],
        vec![seg(u32::MAX, 0, 512)],
        vec![seg(0, 8192, 512)],
        vec![seg(0, 7681, 512)],
        vec![seg(1, 4000, 512)],
        vec![seg(0, u64::MAX, 512)],
        vec![seg(0, u64::MAX - 511, 512)],
        vec![seg(0, 0, u32::MAX)],
        vec![seg(0, 0, 256), seg(1, 4096, 256)],
        vec![seg(0, 0, 511)],
        vec![seg(0, 0, 200), seg(1, 0, 200)],
        vec![],
    ]
}

impl Rig {
    fn fetched(&mut self) -> (Buf, bool) {
        match self.event() {
            Event::Fetched { tag: TAG, buf, ok } => (buf, ok),
            other => panic!("{other:?} instead of a fetch"),
        }
    }

    fn replied(&mut self) -> (Option<Buf>, bool) {
        match self.event() {
            Event::Replied { tag: TAG, buf, ok } => (buf, ok),
            other => panic!("{other:?} instead of a reply"),
        }
    }
}

#[test]
fn units_of_many_sizes_go_round() {
    let mut rig = Rig::new();
    let (conn, mut link) = rig.connect(&memory(4096), 2);
    for len in (1..=8276).step_by(7).chain([8276]) {
        let unit: Vec<u8> = (0..len).map(|i| (i ^ len) as u8).collect();
        link.send(&unit).unwrap();
        link.flush().unwrap();
        rig.consume(&unit);
        let back = &unit[..unit.len().min(512)];
        rig.fabric.reply(conn, TAG, back, false, DataIn::None { buf: None });
        rig.fabric.flush();
        assert_eq!(next(&mut link).unwrap(), back);
        assert!(rig.replied().1);
    }
    assert_eq!(rig.fabric.receives(conn), ReceiveCount { home: 10, total: 10 });
}

#[test]
fn a_unit_is_private_once_received() {
    let mut rig = Rig::new();
    let (conn, mut link) = rig.connect(&memory(4096), 20);
    let slots = 64;
    link.send(b"first").unwrap();
    let (_, first) = rig.received();
    for _ in 0..slots {
        link.send(b"other").unwrap();
        rig.consume(b"other");
        rig.fabric.reply(conn, TAG, b"ok", false, DataIn::None { buf: None });
        assert!(rig.replied().1);
        next(&mut link).unwrap();
    }
    assert_eq!(rig.fabric.iu(conn, &first), b"first", "its slot has been used again");
    rig.fabric.repost(conn, first);
}

#[test]
fn aligned_memory_is_lent_and_shared() {
    let mut rig = Rig::new();
    let (data, other) = (memory(8192), ShmMemory::new(4096, 1).unwrap());
    let expected = fill(&data, 1);
    let (conn, mut link) = rig.connect_all(&[&data, &other], 4);
    let mut buf = rig.fabric.place(conn, data.seg(512, 1024), 512).unwrap();
    assert_eq!((rig.fabric.loans(conn), buf.len(), buf.is_peer()), (1, 1024, true));
    let mut seen = vec![0; 1024];
    buf.read_at(0, &mut seen);
    assert_eq!(seen, expected[512..1536]);

    buf.fill(0..1024, 0xEE);
    let to = [data.seg(512, 1024)];
    rig.fabric.reply(conn, TAG, b"done", true, DataIn::Buf { buf, len: 1024, to: &to });
    assert_eq!(next(&mut link).unwrap(), b"done");
    let (Some(buf), true) = rig.replied() else { panic!("the buffer comes back") };
    rig.fabric.give_back(buf);
    assert_eq!(rig.fabric.loans(conn), 0);
    let mut wanted = expected;
    wanted[512..1536].fill(0xEE);
    assert_eq!(contents(&data), wanted);
}

#[test]
fn memory_is_lent_only_where_it_can_be() {
    let mut rig = Rig::new();
    let (data, other) = (memory(8192), ShmMemory::new(4096, 1).unwrap());
    let (conn, _link) = rig.connect_all(&[&data, &other], 4);
    let unaligned = [
        (seg(0, 256, 512), 512),
        (seg(0, 0, 500), 512),
        (seg(0, 512, 512), 4096),
        (seg(0, 3, 0), 1),
    ];
    let leaving = wrong().into_iter().filter(|segs| segs.len() == 1 && segs[0].len != 511);
    for (seg, align) in unaligned.into_iter().chain(leaving.map(|segs| (segs[0], 1))) {
        assert!(rig.fabric.place(conn, seg, align).is_none(), "{seg:?} by {align}");
    }
    for (seg, align) in [(seg(0, 7680, 512), 512), (seg(1, 0, 4096), 4096), (seg(0, 3, 5), 1)] {
        let buf = rig.fabric.place(conn, seg, align).unwrap_or_else(|| panic!("{seg:?}"));
        rig.fabric.give_back(buf);
    }
    assert_eq!(rig.fabric.loans(conn), 0);
    rig.quiet();
}

#[test]
fn a_fetch_gathers_from_many_segments() {
    let mut rig = Rig::new();
    let (data, other) = (memory(8192), ShmMemory::new(4096, 1).unwrap());
    let (first, second) = (fill(&data, 2), fill(&other, 77));
    let (conn, _link) = rig.connect_all(&[&data, &other], 4);
    let from: Vec<RemoteSeg> = (0..50)
        .flat_map(|i| [seg(0, 8192 - 7 - i * 11, 7), seg(9, 9, 0), seg(1, i * 13 + 1, 13)])
        .collect();
    let wanted: Vec<u8> = (0..50usize)
        .flat_map(|i| {
            let at = 8192 - 7 - i * 11;
            [&first[at..at + 7], &second[i * 13 + 1..i * 13 + 14]].concat()
        })
        .collect();
    // The last segment is longer than needed.
    let buf = rig.pool.take(wanted.len() - 3).unwrap();
    rig.fabric.fetch(conn, TAG, buf, &from);
    let (buf, true) = rig.fetched() else { panic!("fetch failed") };
    assert_eq!(buf.private().unwrap(), &wanted[..wanted.len() - 3]);
    rig.pool.put(buf);
}

#[test]
fn a_reply_scatters_then_sends() {
    let mut rig = Rig::new();
    let (data, other) = (memory(8192), ShmMemory::new(4096, 1).unwrap());
    let (mut first, mut second) = (fill(&data, 3), fill(&other, 4));
    let (conn, mut link) = rig.connect_all(&[&data, &other], 4);
    let mut buf = rig.pool.take(1000).unwrap();
    let source: Vec<u8> = (0..1000).map(|i| (i * 7) as u8).collect();
    buf.write_at(0, &source);
    let to = [seg(0, 1, 300), seg(1, 3796, 300), seg(0, 5, 0), seg(0, 4000, 1000)];
    rig.fabric.reply(conn, TAG, b"rsp", false, DataIn::Buf { buf, len: 900, to: &to });
    assert_eq!(next(&mut link).unwrap(), b"rsp");
    let (Some(buf), true) = rig.replied() else { panic!("reply failed") };
    rig.pool.put(buf);
    first[1..301].copy_from_slice(&source[..300]);
    second[3796..4096].copy_from_slice(&source[300..600]);
    first[4000..4300].copy_from_slice(&source[600..900]);
    assert_eq!((contents(&data), contents(&other)), (first, second));
}

#[test]
fn a_lent_buffer_can_be_answered_elsewhere_even_overlapping() {
    let mut rig = Rig::new();
    let data = memory(8192);
    let mut wanted = fill(&data, 5);
    let (conn, _link) = rig.connect(&data, 4);
    let buf = rig.fabric.place(conn, data.seg(0, 4096), 4096).unwrap();
    let to = [data.seg(100, 4096)];
    rig.fabric.reply(conn, TAG, b"rsp", false, DataIn::Buf { buf, len: 4096, to: &to });
    let (Some(buf), true) = rig.replied() else { panic!("reply failed") };
    rig.fabric.fetch(conn, TAG, buf, &[data.seg(0, 4096)]);
    let (buf, true) = rig.fetched() else { panic!("fetch in place failed") };
    rig.fabric.give_back(buf);
    wanted.copy_within(0..4096, 100);
    assert_eq!(contents(&data), wanted);
}

#[test]
fn no_data_leaves_the_memory_alone() {
    let mut rig = Rig::new();
    let data = memory(8192);
    let before = fill(&data, 6);
    let (conn, mut link) = rig.connect(&data, 4);
    let to = [data.seg(0, 8192)];
    rig.fabric.reply(conn, TAG, b"zero", false, DataIn::NoData { buf: None, len: 8192, to: &to });
    assert_eq!(next(&mut link).unwrap(), b"zero");
    assert!(matches!(rig.replied(), (None, true)));
    assert_eq!(contents(&data), before);
}

#[test]
fn wrong_descriptors_move_nothing_and_close() {
    let mut rig = Rig::new();
    for segs in wrong() {
        for how in 0..3 {
            let (data, other) = (memory(8192), ShmMemory::new(4096, 1).unwrap());
            let before = fill(&data, 8);
            let (conn, mut link) = rig.connect_all(&[&data, &other], 4);
            let mut buf = rig.pool.take(512).unwrap();
            buf.fill(0..512, 0x11);
            let to = &segs[..];
            let (buf, ok) = match how {
                0 => {
                    rig.fabric.fetch(conn, TAG, buf, to);
                    rig.fetched()
                }
                1 => {
                    let data = DataIn::Buf { buf, len: 512, to };
                    rig.fabric.reply(conn, TAG, b"never", false, data);
                    let (buf, ok) = rig.replied();
                    (buf.unwrap(), ok)
                }
                _ => {
                    let data = DataIn::NoData { buf: Some(buf), len: 512, to };
                    rig.fabric.reply(conn, TAG, b"never", false, data);
                    let (buf, ok) = rig.replied();
                    (buf.unwrap(), ok)
                }
            };
            assert!(!ok, "{segs:?}");
            assert!(buf.private().unwrap().iter().all(|byte| *byte == 0x11), "{segs:?}");
            rig.pool.put(buf);
            assert_eq!(rig.closed(), (conn, CloseReason::RemoteAccess), "{segs:?}");
            rig.fabric.release(conn);
            assert!(matches!(next(&mut link), Err(LinkError::Closed)));
            assert_eq!(contents(&data), before);
        }
    }
}
