//! Data of one session in everything that another one can read.

use srpt_tests::hostile::{Peer, Reply, command, login};
use transport::initiator::cdb;
use transport::srp::{DESCRIPTOR_BYTES, DataDesc, Indirect, Seg};

use crate::rig::{BROKEN_LUN, Case, LUN, Rig, both};

pub(crate) const CASES: &[Case] =
    &[both("what another session wrote, looked for everywhere", secret)];

/// What nobody else may ever see.
const SECRET: [u8; 8] = *b"\xA5SECRET\x5A";

/// Bytes that the prying session fills its memory with.
const BLANK: u8 = 0xEE;

/// Memory behind the room of a command that is looked at.
const BEHIND_BYTES: usize = 64 << 10;

/// Fills buffers of every size with the secret: data in two pieces is never placed directly.
fn poison(rig: &Rig) {
    let mut owner = Peer::login(&rig.secret_way, &login(&rig.secret_way, 0x5EC0))
        .expect("a login to its own target");
    owner.run(&command(0, 0, &[0; 16], DataDesc::None, DataDesc::None));
    owner.put(0, &SECRET.repeat((1 << 20) / SECRET.len()));
    for (blocks, count) in [(2048u16, 8), (512, 16), (128, 32), (32, 64), (8, 120)] {
        let bytes = u32::from(blocks) * 512;
        let half = rig.secret_way.seg(0, bytes / 2);
        let (halves, table) = ([half.to_bytes(); 2], Seg { len: 32, ..half });
        let desc = DataDesc::Indirect(Indirect { table, total_len: bytes, in_iu: &halves });
        for (cdb, out) in [(cdb::write10(0, blocks, false), true), (cdb::read10(0, blocks), false)]
        {
            let (from, into) = if out { (desc, DataDesc::None) } else { (DataDesc::None, desc) };
            (0..count).for_each(|tag| owner.send(&command(tag, 0, &cdb, from, into)));
            (0..count).for_each(|_| assert_eq!(owner.reply().status, 0));
        }
    }
}

/// The session that looks.
struct Pry<'a> {
    rig: &'a Rig,
    peer: Peer,
    looked: usize,
}

impl Pry<'_> {
    fn look(&mut self, bytes: &[u8], what: &str) {
        self.looked += bytes.len();
        let part = |four: &[u8]| SECRET.contains(&four[0]) && SECRET.windows(4).any(|p| p == four);
        let found = bytes.windows(4).any(part);
        assert!(!found, "another session's data in {what}");
    }

    /// Runs a command with `offered` bytes of room in two pieces, which are copied through a
    /// buffer of the target's; then nothing behind what moved has changed.
    fn run(&mut self, lun: u16, cdb: &[u8], offered: u32, out: bool) -> Reply {
        let pried = offered as usize + BEHIND_BYTES;
        self.peer.put(0, &vec![BLANK; pried]);
        let first = offered / 2;
        let halves = [self.rig.seg(0, first), self.rig.seg(first as usize, offered - first)];
        let halves = halves.map(|seg| seg.to_bytes());
        let table = self.rig.seg(0, (2 * DESCRIPTOR_BYTES) as u32);
        let desc = DataDesc::Indirect(Indirect { table, total_len: offered, in_iu: &halves });
        let (from, into) = if out { (desc, DataDesc::None) } else { (DataDesc::None, desc) };
        let reply = self.peer.run(&command(1, lun, cdb, from, into));
        let memory = self.peer.look(0, pried);
        let behind = &memory[offered as usize..];
        assert!(behind.iter().all(|byte| *byte == BLANK), "bytes beyond the room of {cdb:02x?}");
        if out || reply.status != 0 {
            assert!(memory.iter().all(|byte| *byte == BLANK), "data with a failure of {cdb:02x?}");
        }
        self.look(&memory, &format!("the data of {cdb:02x?}"));
        self.look(&reply.bytes, &format!("the response to {cdb:02x?}"));
        reply
    }
}

/// Commands whose data the target makes, with an allocation length of their CDB.
fn made(allocation: u16) -> Vec<Vec<u8>> {
    let [high, low] = allocation.to_be_bytes();
    let byte = allocation.min(255) as u8;
    let mut all = vec![
        vec![0x12, 0, 0, high, low, 0],
        vec![0x03, 0, 0, 0, byte, 0],
        vec![0x03, 1, 0, 0, byte, 0],
        vec![0xA0, 0, 0, 0, 0, 0, 0, 0, high, low, 0, 0],
        vec![0x1A, 0, 0x3F, 0, byte, 0],
        vec![0x5A, 0, 0x3F, 0, 0, 0, 0, high, low, 0],
        vec![0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low, 0, 0],
        vec![0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        vec![0xA3, 0x0C, 0, 0, 0, 0, 0, 0, high, low, 0, 0],
        vec![0xA3, 0x0C, 0x80, 0, 0, 0, 0, 0, high, low, 0, 0],
    ];
    all.extend(
        [0x00, 0x80, 0x83, 0x86, 0xB0, 0xB1, 0xB2].map(|page| vec![0x12, 1, page, high, low, 0]),
    );
    all
}

fn secret(rig: &Rig) -> String {
    poison(rig);
    let mut pry = Pry { rig, peer: rig.peer(), looked: 0 };
    for allocation in [0, 5, 36, 255, 65535] {
        for cdb in made(allocation) {
            for offered in [3, 65536] {
                pry.run(LUN, &cdb, offered, false);
            }
            // No such logical unit.
            pry.run(99, &cdb, 4096, false);
        }
    }
    // Reads: whole, into too little and too much room, beyond the end, of a device that fails.
    for blocks in [1u16, 8, 128, 2048] {
        let bytes = u32::from(blocks) * 512;
        for offered in [bytes, bytes - 1, bytes / 2, 2] {
            pry.run(LUN, &cdb::read10(0, blocks), offered, false);
            pry.run(BROKEN_LUN, &cdb::read10(0, blocks), offered, false);
        }
        pry.run(LUN, &cdb::read10(u32::MAX, blocks), bytes, false);
        // Writes with less data than blocks, and lists that end too early.
        pry.run(LUN, &cdb::write10(0, blocks, false), bytes / 2, true);
        pry.run(LUN, &cdb::write10(0, blocks, false), bytes - 1, true);
    }
    for len in [2, 8, 24, 511, 512, 1023, 1024] {
        pry.run(LUN, &cdb::unmap(65535), len, true);
        pry.run(LUN, &cdb::unmap(24), len, true);
        pry.run(LUN, &cdb::write_same16(0, 8, false), len, true);
        pry.run(LUN, &cdb::compare_and_write(0, 1), len, true);
    }
    if !rig.is_rdma() {
        let ring = pry.peer.shm().ring_bytes();
        pry.look(&ring, "the ring file");
    }
    // Whatever was written came from this session.
    for lba in (0..8192).step_by(2048) {
        assert_eq!(pry.run(LUN, &cdb::read10(lba, 2048), 1 << 20, false).status, 0);
    }
    format!("showed nothing of it in {} MiB", pry.looked >> 20)
}
