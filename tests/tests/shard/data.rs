//! How data moves.

use bdev::{IoOp, IoStatus};
use srpt_tests::port::{End, Port};
use srpt_tests::world::World;
use transport::CloseReason;
use transport::RemoteSeg;
use transport::initiator::{Data, DataMemory, Table, cdb};
use transport::srp::{Direction, Residual, encode_table};

use crate::common::{GOOD, INVALID_FIELD, TUR, code, pattern, seg, single};

/// Where segments begin that are not for a whole transfer.
const SCATTER: usize = 2 << 20;
/// Where tables are.
const TABLE: usize = (4 << 20) - 65536;

/// `bytes` in `count` pieces of odd lengths at odd places, which don't touch each other.
fn pieces(port: &Port, bytes: usize, count: usize) -> Vec<RemoteSeg> {
    let mut at = SCATTER + 1;
    (0..count)
        .map(|number| {
            let len = bytes * (number + 1) / count - bytes * number / count;
            let piece = port.memory.seg(at, len as u32);
            at += len + 3;
            piece
        })
        .collect()
}

fn scatter(port: &Port, segs: &[RemoteSeg], mut bytes: &[u8]) {
    for seg in segs {
        let (now, rest) = bytes.split_at(seg.len as usize);
        port.memory_write(seg.addr as usize, now);
        bytes = rest;
    }
}

fn gather(port: &Port, segs: &[RemoteSeg]) -> Vec<u8> {
    segs.iter().flat_map(|seg| port.bytes(seg.addr as usize, seg.len as usize)).collect()
}

/// A table of segments in the port's memory, with the first few in the information unit.
fn table<'a>(port: &Port, segs: &'a [RemoteSeg], in_iu: usize) -> Table<'a> {
    let mut bytes = vec![0; segs.len() * 16];
    let len = encode_table(segs, &mut bytes);
    port.memory_write(TABLE, &bytes);
    let total_len = segs.iter().map(|seg| seg.len).sum();
    Table { memory: port.memory.seg(TABLE, len as u32), total_len, in_iu: &segs[..in_iu] }
}

fn write_then_read(
    world: &mut World,
    port: &Port,
    bytes: usize,
    segs: &[RemoteSeg],
    external: bool,
) {
    let blocks = (bytes / 512) as u32;
    let expected = pattern(bytes as u64 + segs.len() as u64, bytes);
    scatter(port, segs, &expected);
    let out = if external {
        Data::OutTable(table(port, segs, segs.len().min(5)))
    } else {
        Data::Out(segs)
    };
    let outcome = world.run(port, 0, &cdb::write16(1, blocks, false), out);
    assert_eq!((code(&outcome), outcome.residual), (None, None));
    scatter(port, segs, &vec![0; bytes]);
    let into = if external { Data::InTable(table(port, segs, 0)) } else { Data::In(segs) };
    let outcome = world.run(port, 0, &cdb::read16(1, blocks), into);
    assert_eq!((code(&outcome), outcome.residual), (None, None));
    assert!(gather(port, segs) == expected, "{bytes} bytes in {} segments", segs.len());
}

#[test]
fn every_size_comes_back_in_one_piece_and_in_many() {
    let (mut world, gate, port) = single();
    for bytes in [512, 1024, 4096, 4608, 65536, 131072, 1 << 20] {
        write_then_read(&mut world, &port, bytes, &seg(&port, 77, bytes), false);
        for count in [2, 3, 16, 255] {
            let segs = pieces(&port, bytes, count);
            write_then_read(&mut world, &port, bytes, &segs, false);
        }
        for count in [1, 7, 256, 2048] {
            let segs = pieces(&port, bytes, count);
            write_then_read(&mut world, &port, bytes, &segs, true);
        }
        assert_eq!(gate.medium(1, 1)[..8], pattern(bytes as u64 + 2048, 8)[..]);
    }
    assert_eq!(gate.medium(0, 1), vec![0; 512]);
    world.assert_home();
    let report = &world.reports()[0].channels[0];
    assert_eq!(report.bytes_read, report.bytes_written);
}

#[test]
fn immediate_data_is_written() {
    let (mut world, gate, port) = single();
    for blocks in [1, 3, 16] {
        let bytes = pattern(blocks, 512 * blocks as usize);
        let cdb = cdb::write10(9, blocks as u16, true);
        let outcome = world.run(&port, 0, &cdb, Data::OutImmediate(&bytes));
        assert_eq!((code(&outcome), outcome.residual), (None, None));
        assert_eq!(gate.medium(9, blocks), bytes);
        assert_eq!(
            gate.seen().last(),
            Some(&IoOp::Write { lba: 9, blocks: blocks as u32, fua: true })
        );
    }
    world.assert_home();
}

#[test]
fn tables_that_promise_too_much_or_have_no_length_are_invalid_fields() {
    let (mut world, gate, port) = single();
    let segs = pieces(&port, 1024, 4);
    let good = table(&port, &segs, 4);
    let seen = gate.seen().len();
    let memory = |len| RemoteSeg { len, ..good.memory };
    let wrong = [
        ("short in the IU", Table { total_len: 1025, ..good }),
        ("short outside", Table { total_len: 1536, in_iu: &[], ..good }),
        ("not whole entries", Table { memory: memory(65), ..good }),
        ("no entries", Table { memory: memory(0), in_iu: &[], ..good }),
        ("fewer than in the IU", Table { memory: memory(48), ..good }),
        ("huge", Table { memory: memory(!15), ..good }),
        ("one too many", Table { memory: memory(2049 * 16), in_iu: &[], ..good }),
    ];
    for (what, table) in wrong {
        let blocks = table.total_len.div_ceil(512).max(2);
        let outcome = world.run(&port, 0, &cdb::write16(0, blocks, false), Data::OutTable(table));
        assert!(code(&outcome).is_some_and(|code| code.0 == 5), "{what}: {outcome:?}");
        if what != "short in the IU" {
            assert_eq!(code(&outcome), Some(INVALID_FIELD), "{what}, out");
        }
        let outcome = world.run(&port, 0, &cdb::read16(0, blocks), Data::InTable(table));
        assert_eq!(code(&outcome), Some(INVALID_FIELD), "{what}, in");
        assert!(!port.closed(), "{what}");
    }
    let reads = |op: &&IoOp| matches!(op, IoOp::Write { .. });
    assert_eq!(gate.seen()[seen..].iter().filter(reads).count(), 0);
    world.assert_home();
}

#[test]
fn data_in_both_directions_is_an_invalid_field() {
    let (mut world, gate, port) = single();
    let seen = gate.seen().len();
    let [one] = seg(&port, 0, 512);
    let mut iu = [0; 48 + 32];
    iu[0] = 0x02;
    iu[5] = 0x11;
    iu[8..16].copy_from_slice(b"bothways");
    iu[32..42].copy_from_slice(&cdb::read10(0, 1));
    iu[48..64].copy_from_slice(&one.to_bytes());
    iu[64..80].copy_from_slice(&one.to_bytes());
    port.inner_mut().deaf = true;
    port.raw(&iu);
    world.steps(50);
    let mut answer = Vec::new();
    let mut inner = port.inner_mut();
    let link = inner.channel.link_mut();
    transport::initiator::Link::poll(link, &mut |iu| answer = iu.to_vec()).expect("open");
    let rsp = transport::srp::Rsp::parse(&answer).expect("a response");
    assert_eq!(rsp.tag, *b"bothways");
    let sense = transport::initiator::Sense::new(rsp.sense);
    assert_eq!(sense.code(), Some(INVALID_FIELD));
    drop(inner);
    assert_eq!(gate.seen().len(), seen);
    world.assert_home();
}

#[test]
fn residuals_tell_what_did_not_move() {
    let (mut world, gate, port) = single();
    let residual = |direction, overflow, count| Some(Residual { direction, overflow, count });
    let (read, write) = (cdb::read10(0, 2), cdb::write10(0, 2, false));
    port.memory_write(0, &[0xaa; 4096]);

    let less = world.run(&port, 0, &read, Data::In(&seg(&port, 0, 512)));
    assert_eq!((code(&less), less.residual), (None, residual(Direction::In, true, 512)));
    assert_eq!((port.bytes(0, 512), port.bytes(512, 1)), (vec![0; 512], vec![0xaa]));

    let more = world.run(&port, 0, &read, Data::In(&seg(&port, 0, 1536)));
    assert_eq!((code(&more), more.residual), (None, residual(Direction::In, false, 512)));
    assert_eq!(port.bytes(1024, 512), vec![0xaa; 512]);

    let none = world.run(&port, 0, &read, Data::None);
    assert_eq!((code(&none), none.residual), (None, residual(Direction::In, true, 1024)));

    let idle = world.run(&port, 0, &TUR, Data::In(&seg(&port, 0, 100)));
    assert_eq!((code(&idle), idle.residual), (None, residual(Direction::In, false, 100)));

    let more = world.run(&port, 0, &write, Data::Out(&seg(&port, 2048, 1536)));
    assert_eq!((code(&more), more.residual), (None, residual(Direction::Out, false, 512)));
    assert_eq!(gate.medium(0, 3), [vec![0xaa; 1024], vec![0; 512]].concat());

    let seen = gate.seen().len();
    for data in [Data::Out(&seg(&port, 0, 1023)), Data::None, Data::In(&seg(&port, 0, 1024))] {
        let less = world.run(&port, 0, &write, data);
        assert_eq!(code(&less), Some((5, 0x0e, 3)), "{data:?}");
    }
    assert_eq!(gate.seen().len(), seen, "nothing was written");
    world.assert_home();
}

#[test]
fn a_device_that_fails_is_looked_at_and_no_core_asks_twice() {
    let (mut world, gate, port) = single();
    let fail = |world: &mut World| {
        gate.fail_next(bdev::IoStatus::ReadError);
        let outcome = world.run(&port, 0, &cdb::read10(7, 2), Data::In(&seg(&port, 0, 1024)));
        assert_eq!(code(&outcome), Some((3, 0x11, 0)));
    };
    fail(&mut world);
    assert_eq!(world.asks, 1);
    (0..3).for_each(|_| fail(&mut world));
    assert_eq!(world.asks, 1, "the control plane has not looked yet");
    world.steps(100);
    fail(&mut world);
    assert_eq!(world.asks, 2, "and then it may be asked again");
}

#[test]
fn a_failed_read_moves_nothing_and_says_so() {
    let (mut world, gate, port) = single();
    port.memory_write(0, &[0xaa; 2048]);
    for room in [512, 1024, 2048] {
        gate.fail_next(bdev::IoStatus::ReadError);
        let outcome = world.run(&port, 0, &cdb::read10(7, 2), Data::In(&seg(&port, 0, room)));
        assert_eq!(code(&outcome), Some((3, 0x11, 0)));
        let all = Residual { direction: Direction::In, overflow: false, count: room as u32 };
        assert_eq!(outcome.residual, Some(all));
        assert_eq!(port.bytes(0, room), vec![0xaa; room]);
    }
    gate.fail_next(bdev::IoStatus::NoSpace);
    let outcome = world.run(&port, 0, &cdb::write10(7, 1, false), Data::Out(&seg(&port, 0, 512)));
    assert_eq!(code(&outcome), Some((7, 0x27, 7)));
    world.assert_home();
}

#[test]
fn wrong_memory_closes_the_offender_alone() {
    let (mut world, gate, good) = single();
    let size = good.memory.len() as u64;
    let wrong = [
        RemoteSeg { addr: 0, key: 2, len: 512 },
        RemoteSeg { addr: size - 511, key: 1, len: 512 },
        RemoteSeg { addr: u64::MAX - 10, key: 1, len: 512 },
    ];
    let mut expected = 0;
    for seg in wrong {
        for (cdb, data) in [
            (cdb::read10(0, 1), Data::In(&[seg])),
            (cdb::write10(0, 1, false), Data::Out(&[seg])),
            (cdb::read10(0, 1), {
                let memory = RemoteSeg { len: 16, ..seg };
                let addr = if seg.key == 2 { 0 } else { seg.addr.saturating_add(500) };
                let memory = RemoteSeg { addr, ..memory };
                Data::InTable(Table { memory, total_len: 512, in_iu: &[] })
            }),
        ] {
            let bad = world.ready(0, &srpt_tests::world::Login::of(9), &[0]);
            let before = good.submit(0, &cdb::read10(0, 1), Data::In(&self::seg(&good, 0, 512)));
            bad.submit(0, &cdb, data);
            world.until("the end of the offender", |_| bad.closed());
            expected += 1;
            assert_eq!(world.closed(CloseReason::RemoteAccess), expected);
            world.wait(&good, before);
        }
    }
    assert!(!gate.seen().iter().any(|op| matches!(op, IoOp::Write { .. })));
    assert!(!good.closed());
    world.assert_home();
}

#[test]
fn a_read_with_fua_flushes_the_device_first() {
    let (mut world, gate, port) = single();
    let memory = seg(&port, 0, 2 * 512);
    for cdb in [&cdb::read10(3, 2)[..], &cdb::read16(3, 2)] {
        let mut cdb = cdb.to_vec();
        let before = gate.seen().len();
        assert_eq!(world.run(&port, 0, &cdb, Data::In(&memory)).status, GOOD);
        assert_eq!(gate.seen()[before..], [IoOp::Read { lba: 3, blocks: 2 }]);
        let before = gate.seen().len();
        cdb[1] = 0x08;
        assert_eq!(world.run(&port, 0, &cdb, Data::In(&memory)).status, GOOD);
        assert_eq!(gate.seen()[before..], [IoOp::Flush, IoOp::Read { lba: 3, blocks: 2 }]);
        let before = gate.seen().len();
        gate.fail_next(IoStatus::WriteError);
        let outcome = world.run(&port, 0, &cdb, Data::In(&memory));
        assert_eq!(code(&outcome), Some((3, 0x0c, 0)), "the cache could not be written");
        assert_eq!(gate.seen()[before..], [IoOp::Flush]);
    }
    let mut cdb = cdb::read10(3, 2);
    cdb[1] = 0x08;
    gate.shut();
    let tag = port.submit(0, &cdb, Data::In(&memory));
    world.until("the flush at the device", |_| gate.held() == 1);
    let abort = port.abort(0, tag);
    world.steps(50);
    let before = gate.seen().len();
    gate.open();
    assert_eq!(world.wait(&port, abort), End::Task(Some(0)));
    assert_eq!(gate.seen().len(), before, "an aborted command reads nothing more");
    world.assert_home();
}
