//! Descriptors of memory that is not there, not enough, or twice.

use srpt_tests::hostile::{DATA_BYTES, Peer, command};
use transport::initiator::cdb;
use transport::srp::{DESCRIPTOR_BYTES, DataDesc, Indirect, Seg, encode_table};

use crate::rig::{Case, INVALID_FIELD, LUN, Rig, both, check, good, read, write};

pub(crate) const CASES: &[Case] = &[
    both("ranges at and beyond the end of the memory", outside),
    both("ranges of no bytes", nothing),
    both("ranges of 4294967295 bytes", huge),
    both("ranges that overlap", overlapping),
    both("tables that hold less than they say", short_sum),
    both("tables of wrong lengths, or nowhere", tables),
    both("descriptors beyond the end of the unit", cut),
    both("data both ways, formats that are none", formats),
    both("immediate data beyond the end of the unit", immediate),
    both("transfers at and above the longest", transfers),
];

const BLOCKS: u16 = 8;
const BYTES: u32 = 4096;

fn reading(desc: DataDesc<'_>) -> Vec<u8> {
    read(1, &cdb::read10(0, BLOCKS), desc)
}

fn writing(desc: DataDesc<'_>) -> Vec<u8> {
    write(1, &cdb::write10(0, BLOCKS, false), desc)
}

/// An indirect descriptor with entries in the unit.
fn table<'a>(entries: &'a [[u8; DESCRIPTOR_BYTES]], total_len: u32) -> DataDesc<'a> {
    let table = Seg { addr: 0, key: 0, len: (entries.len() * DESCRIPTOR_BYTES) as u32 };
    DataDesc::Indirect(Indirect { table, total_len, in_iu: entries })
}

fn entries(segs: &[Seg]) -> Vec<[u8; DESCRIPTOR_BYTES]> {
    segs.iter().map(|seg| seg.to_bytes()).collect()
}

fn outside(rig: &Rig) -> String {
    let last = DATA_BYTES - BYTES as usize;
    let mut peer = rig.peer();
    good(&peer.run(&reading(DataDesc::Direct(rig.seg(last, BYTES)))));
    good(&peer.run(&writing(DataDesc::Direct(rig.seg(last, BYTES)))));
    let wrong = [
        rig.seg(last + 1, BYTES),
        rig.seg(DATA_BYTES, BYTES),
        Seg { addr: u64::MAX - 100, key: 0, len: BYTES },
        Seg { addr: u64::MAX, key: 0, len: BYTES },
        Seg { addr: 0, key: 1, len: BYTES },
        Seg { addr: 0, key: u32::MAX, len: BYTES },
    ];
    for seg in wrong {
        let entries = entries(&[seg]);
        for desc in [DataDesc::Direct(seg), table(&entries, BYTES)] {
            rig.thrown_out("remote_access", "", |peer| peer.send(&reading(desc)));
            rig.thrown_out("remote_access", "", |peer| peer.send(&writing(desc)));
        }
    }
    "took the last bytes, closed it beyond: remote_access".into()
}

fn nothing(rig: &Rig) -> String {
    let mut peer = rig.peer();
    peer.put(0, &[0xEE; 512]);
    let reply = peer.run(&reading(DataDesc::Direct(rig.seg(0, 0))));
    good(&reply);
    assert!(reply.residual.is_some_and(|residual| residual.overflow && residual.count == BYTES));
    assert_eq!(peer.look(0, 512), [0xEE; 512]);
    check(&peer.run(&writing(DataDesc::Direct(rig.seg(0, 0)))), Some((5, 0x0e, 3)));
    // Entries of no bytes name nothing, wherever that is.
    let entries = entries(&[Seg { addr: u64::MAX, key: 9, len: 0 }, rig.seg(0, BYTES)]);
    good(&peer.run(&reading(table(&entries, BYTES))));
    "read nothing with a residual; write: CHECK CONDITION 5/0e".into()
}

/// Rule 4: a length is no reason to have so much memory.
fn huge(rig: &Rig) -> String {
    let all = rig.seg(0, DATA_BYTES as u32);
    let mut peer = rig.peer();
    let reply = peer.run(&reading(DataDesc::Direct(all)));
    good(&reply);
    let unused = DATA_BYTES as u32 - BYTES;
    assert!(reply.residual.is_some_and(|residual| !residual.overflow && residual.count == unused));
    good(&peer.run(&writing(DataDesc::Direct(all))));
    for len in [u32::MAX, DATA_BYTES as u32 + 1] {
        let desc = DataDesc::Direct(rig.seg(0, len));
        for unit in [reading(desc), writing(desc)] {
            if rig.is_rdma() {
                // The device looks at the bytes that move.
                good(&peer.run(&unit));
            } else {
                rig.thrown_out("remote_access", "", |peer| peer.send(&unit));
            }
        }
    }
    let entries = entries(&[rig.seg(0, BYTES)]);
    check(&peer.run(&reading(table(&entries, u32::MAX))), INVALID_FIELD);
    let beyond = if rig.is_rdma() { "moved 4096 bytes" } else { "closed it: remote_access" };
    format!("took all its memory; beyond: {beyond}")
}

fn overlapping(rig: &Rig) -> String {
    let mut peer = rig.peer();
    peer.put(0, &[1; 2048]);
    peer.put(2048, &[2; 2048]);
    good(&peer.run(&writing(DataDesc::Direct(rig.seg(0, BYTES)))));
    // The second range lies over the end of the first.
    let segs = entries(&[rig.seg(8192, 2048), rig.seg(8192 + 1024, 2048)]);
    good(&peer.run(&reading(table(&segs, BYTES))));
    assert_eq!(peer.look(8192, 1024), [1; 1024]);
    assert_eq!(peer.look(8192 + 1024, 2048), [2; 2048]);
    let twice = entries(&[rig.seg(0, 2048), rig.seg(0, 2048)]);
    good(&peer.run(&writing(table(&twice, BYTES))));
    good(&peer.run(&reading(DataDesc::Direct(rig.seg(16384, BYTES)))));
    assert_eq!(peer.look(16384, BYTES as usize), [1; BYTES as usize]);
    "did as told, in order".into()
}

/// Rule 8.
fn short_sum(rig: &Rig) -> String {
    let mut peer = rig.peer();
    for (last, allowed) in [(2048, true), (2047, false), (0, false)] {
        let segs = [rig.seg(0, 2048), rig.seg(4096, last)];
        let inside = entries(&segs);
        let mut bytes = [0; 2 * DESCRIPTOR_BYTES];
        encode_table(&segs, &mut bytes);
        peer.put(65536, &bytes);
        let outside = Indirect { table: rig.seg(65536, 32), total_len: BYTES, in_iu: &[] };
        for desc in [table(&inside, BYTES), DataDesc::Indirect(outside)] {
            for unit in [reading(desc), writing(desc)] {
                let reply = peer.run(&unit);
                if allowed { good(&reply) } else { check(&reply, INVALID_FIELD) }
            }
        }
    }
    "took the exact sum, a byte less: CHECK CONDITION 5/24".into()
}

fn tables(rig: &Rig) -> String {
    let mut peer = rig.peer();
    let external =
        |at: usize, len: u32| Indirect { table: rig.seg(at, len), total_len: BYTES, in_iu: &[] };
    for len in [0, 1, 15, 17, 2049 * 16, u32::MAX, u32::MAX - 15] {
        let desc = DataDesc::Indirect(external(0, len));
        check(&peer.run(&reading(desc)), INVALID_FIELD);
        check(&peer.run(&writing(desc)), INVALID_FIELD);
    }
    let segs: Vec<Seg> = (0..2048).map(|number| rig.seg(131_072 + number * 2, 2)).collect();
    let mut bytes = vec![0; 2048 * DESCRIPTOR_BYTES];
    encode_table(&segs, &mut bytes);
    peer.put(0, &bytes);
    good(&peer.run(&reading(DataDesc::Indirect(external(0, 2048 * 16)))));
    good(&peer.run(&writing(DataDesc::Indirect(external(0, 2048 * 16)))));
    for at in [DATA_BYTES - 16, DATA_BYTES, usize::MAX] {
        let desc = DataDesc::Indirect(external(at, 32));
        rig.thrown_out("remote_access", "", |peer| peer.send(&reading(desc)));
        rig.thrown_out("remote_access", "", |peer| peer.send(&writing(desc)));
    }
    "took 2048 entries; 2049: 5/24; elsewhere: remote_access".into()
}

/// Rule 2.
fn cut(rig: &Rig) -> String {
    let mut peer = rig.peer();
    let segs = entries(&[rig.seg(0, 2048), rig.seg(4096, 1024), rig.seg(8192, 1024)]);
    for whole in [
        reading(table(&segs, BYTES)),
        writing(table(&segs, BYTES)),
        reading(DataDesc::Direct(rig.seg(0, BYTES))),
        writing(DataDesc::Direct(rig.seg(0, BYTES))),
    ] {
        good(&peer.run(&whole));
        for len in [whole.len() - 1, 49, 48] {
            check(&peer.run(&whole[..len]), INVALID_FIELD);
        }
    }
    let mut many = reading(table(&segs, BYTES));
    many[7] = 255;
    check(&peer.run(&many), INVALID_FIELD);
    "took whole ones, a byte less: CHECK CONDITION 5/24".into()
}

fn formats(rig: &Rig) -> String {
    let mut peer = rig.peer();
    let direct = DataDesc::Direct(rig.seg(0, BYTES));
    check(&peer.run(&command(1, LUN, &cdb::read10(0, BLOCKS), direct, direct)), INVALID_FIELD);
    for format in 4..16 {
        for byte in [format, format << 4] {
            let mut unit = reading(direct);
            unit[5] = byte;
            check(&peer.run(&unit), INVALID_FIELD);
        }
    }
    let mut unit = reading(direct);
    unit[5] = 0x03;
    check(&peer.run(&unit), INVALID_FIELD);
    "CHECK CONDITION 5/24".into()
}

/// Rule 1: the length is added in more than 32 bits.
fn immediate(rig: &Rig) -> String {
    let mut peer = rig.peer();
    let data = vec![0x5A; BYTES as usize];
    let unit = writing(DataDesc::Immediate(&data));
    good(&peer.run(&unit));
    check(&peer.run(&unit[..unit.len() - 1]), INVALID_FIELD);
    for len in [BYTES + 1, u32::MAX, u32::MAX - 67, u32::MAX - 68] {
        let mut unit = unit.clone();
        unit[48..52].copy_from_slice(&len.to_be_bytes());
        check(&peer.run(&unit), INVALID_FIELD);
    }
    let mut plain = rig.login();
    (plain.req_flags, plain.imm_data_offset) = (0, 0);
    let mut peer = Peer::login(&rig.way, &plain).expect("a login without immediate data");
    peer.run(&crate::rig::ready(1));
    check(&peer.run(&unit), INVALID_FIELD);
    "took the exact length, a byte more: CHECK CONDITION 5/24".into()
}

/// Rule 4: the CDB's length is checked before anything is taken.
fn transfers(rig: &Rig) -> String {
    let mut peer = rig.peer();
    let desc = DataDesc::Direct(rig.seg(0, DATA_BYTES as u32));
    good(&peer.run(&read(1, &cdb::read16(0, 2048), desc)));
    good(&peer.run(&write(1, &cdb::write16(0, 2048, false), desc)));
    for blocks in [2049, 4096, u32::MAX] {
        for unit in [
            read(1, &cdb::read16(0, blocks), desc),
            write(1, &cdb::write16(0, blocks, false), desc),
        ] {
            let reply = peer.run(&unit);
            assert_eq!((reply.status, reply.sense.map(|sense| sense.0)), (2, Some(5)), "{reply:?}");
        }
    }
    "took 1 MiB, a block more: CHECK CONDITION 5".into()
}
