//! What a crash may take and what it may not: every acknowledged flush and FUA write survives, and
//! nothing else is promised.

use std::collections::BTreeSet;
use std::sync::Arc;

use bdev::contract::Random;
use bdev::uring::crash::{CrashOptions, Crashing};
use reactor::Tag;
use srpt_tests::port::Port;
use srpt_tests::world::{Login, Options, World};
use transport::initiator::{Data, DataMemory, cdb};

use crate::common::{GOOD, seg};

const BLOCK: usize = 512;
const BLOCKS: u64 = 512;
/// Most blocks of a command.
const RUN: u64 = 16;
/// Commands in flight at a time.
const BATCH: usize = 6;
const BATCHES: usize = 120;
/// Bytes of a port's memory for one command.
const ROOM: usize = 2 * RUN as usize * BLOCK;

/// A block of one stamp; 0 is a block of zeros.
fn stamped(stamp: u64) -> Vec<u8> {
    stamp.to_be_bytes().repeat(BLOCK / 8)
}

/// The stamp of a block that is all of one.
fn stamp_of(block: &[u8]) -> Option<u64> {
    let (words, rest) = block.as_chunks::<8>();
    assert!(rest.is_empty());
    let first = words[0];
    words.iter().all(|word| *word == first).then_some(u64::from_be_bytes(first))
}

/// What a block has been, in order; the last one may be under way.
struct History {
    stamps: Vec<u64>,
    /// The last of them that was answered.
    answered: usize,
    /// The first of them that may be found after a crash.
    kept: usize,
}

/// What a command does, and what it promises when it is answered.
struct Flight {
    port: usize,
    tag: Tag,
    lba: u64,
    blocks: u64,
    /// It has changed its blocks, and the answer says that they are kept.
    kept: bool,
    /// It is a flush: what was answered of these blocks before it was sent is kept.
    flushes: Option<Vec<usize>>,
}

struct Storm {
    world: World,
    ports: [Port; 2],
    device: Arc<Crashing>,
    blocks: Vec<History>,
    random: Random,
    write_cache: bool,
    stamp: u64,
    /// Blocks that a crash would have taken back, at any look.
    lost: u64,
    kinds: BTreeSet<&'static str>,
}

impl Storm {
    fn new(options: CrashOptions) -> (Storm, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let device = Crashing::create("crashing", folder.path(), BLOCKS, options);
        let device = Arc::new(device.expect("two small files"));
        let mut world = World::new(&Options { seed: options.seed, ..Options::cores(2) });
        world.add(0, Arc::<Crashing>::clone(&device));
        let ports = [world.ready(0, &Login::of(1), &[0]), world.ready(1, &Login::of(2), &[0])];
        let history = |_| History { stamps: vec![0], answered: 0, kept: 0 };
        let storm = Storm {
            world,
            ports,
            device,
            blocks: (0..BLOCKS).map(history).collect(),
            random: Random::new(options.seed),
            write_cache: options.write_cache,
            stamp: 0,
            lost: 0,
            kinds: BTreeSet::new(),
        };
        (storm, folder)
    }

    /// Sends a command to blocks that no other is at. `slot`: its place in the port's memory.
    fn send(&mut self, slot: usize, lba: u64, blocks: u64) -> Flight {
        let port = self.random.below(2) as usize;
        let fua = self.random.below(3) == 0;
        let at = slot * ROOM;
        let to = self.ports[port].clone();
        let (mut kept, mut flushes) = (!self.write_cache, None);
        self.stamp += 1;
        let stamp = self.stamp;
        let newest = |storm: &Storm, lba: u64| {
            storm.blocks[lba as usize].stamps.last().copied().expect("never empty")
        };
        let (kind, new, tag) = match self.random.below(10) {
            0..=3 => {
                kept |= fua;
                to.memory_write(at, &stamped(stamp).repeat(blocks as usize));
                let cdb = cdb::write16(lba, blocks as u32, fua);
                let data = seg(&to, at, blocks as usize * BLOCK);
                ("write", Some(stamp), to.submit(0, &cdb, Data::Out(&data)))
            }
            4 => {
                to.memory_write(at, &stamped(stamp));
                let cdb = cdb::write_same16(lba, blocks as u32, false);
                let data = seg(&to, at, BLOCK);
                ("write same", Some(stamp), to.submit(0, &cdb, Data::Out(&data)))
            }
            5 => {
                to.memory_write(at, &stamped(0));
                let cdb = cdb::write_same16(lba, blocks as u32, fua);
                let data = seg(&to, at, BLOCK);
                ("write same of zeros", Some(0), to.submit(0, &cdb, Data::Out(&data)))
            }
            6 => {
                let list = cdb::unmap_list(&[(lba, blocks as u32)]);
                to.memory_write(at, &list);
                let data = seg(&to, at, list.len());
                let cdb = cdb::unmap(list.len() as u16);
                ("unmap", Some(0), to.submit(0, &cdb, Data::Out(&data)))
            }
            7 => {
                kept |= fua;
                let both = (lba..lba + blocks).flat_map(|lba| stamped(newest(self, lba)));
                let mut both: Vec<u8> = both.collect();
                both.extend(stamped(stamp).repeat(blocks as usize));
                to.memory_write(at, &both);
                let mut cdb = cdb::compare_and_write(lba, blocks as u8);
                cdb[1] |= u8::from(fua) << 3;
                let data = seg(&to, at, both.len());
                ("compare and write", Some(stamp), to.submit(0, &cdb, Data::Out(&data)))
            }
            kind => {
                let (lba, blocks) = if kind == 8 { (0, BLOCKS) } else { (lba, blocks) };
                let mut cdb = cdb::synchronize_cache16(lba, blocks as u32);
                cdb[1] |= u8::from(fua) << 1;
                let range = lba as usize..(lba + blocks) as usize;
                flushes = Some(self.blocks[range].iter().map(|block| block.answered).collect());
                let tag = to.submit(0, &cdb, Data::None);
                let kind = if fua { "flush, immediate" } else { "flush" };
                return self.sent(kind, Flight { port, tag, lba, blocks, kept: false, flushes });
            }
        };
        if let Some(new) = new {
            for lba in lba..lba + blocks {
                self.blocks[lba as usize].stamps.push(new);
            }
        }
        self.sent(kind, Flight { port, tag, lba, blocks, kept, flushes })
    }

    fn sent(&mut self, kind: &'static str, flight: Flight) -> Flight {
        self.kinds.insert(kind);
        flight
    }

    /// A command has been answered.
    fn ended(&mut self, flight: &Flight) {
        let range = flight.lba as usize..(flight.lba + flight.blocks) as usize;
        for (at, block) in self.blocks[range].iter_mut().enumerate() {
            match &flight.flushes {
                Some(answered) => block.kept = block.kept.max(answered[at]),
                None => {
                    block.answered = block.stamps.len() - 1;
                    block.kept = if flight.kept { block.answered } else { block.kept };
                }
            }
        }
    }

    /// Looks at what a crash now would leave. An error names what it would have taken.
    fn crash(&mut self) -> Result<(), String> {
        for (lba, found) in self.device.survivors().chunks_exact(BLOCK).enumerate() {
            let block = &self.blocks[lba];
            let stamp = stamp_of(found).ok_or_else(|| format!("block {lba} is torn"))?;
            if !block.stamps[block.kept..].contains(&stamp) {
                return Err(format!(
                    "block {lba} would be {stamp}, of {:?} from {} on",
                    block.stamps, block.kept
                ));
            }
            self.lost += u64::from(block.stamps.last() != Some(&stamp));
        }
        Ok(())
    }

    /// Sends commands to different places and looks now and then until all are answered.
    fn batch(&mut self) -> Result<(), String> {
        let mut flights = Vec::new();
        let mut free: Vec<u64> = (0..BLOCKS / RUN).collect();
        for slot in 0..BATCH {
            let place = free.swap_remove(self.random.below(free.len() as u64) as usize);
            let first = self.random.below(RUN);
            let blocks = 1 + self.random.below(RUN - first);
            let flight = self.send(slot, place * RUN + first, blocks);
            flights.push(flight);
        }
        while !flights.is_empty() {
            self.world.step();
            if self.random.below(64) == 0 {
                self.crash()?;
            }
            let ports = &self.ports;
            let ended = flights.extract_if(.., |f| ports[f.port].outcome(f.tag).is_some());
            for flight in ended.collect::<Vec<_>>() {
                let outcome = self.ports[flight.port].outcome(flight.tag).expect("just seen");
                assert_eq!(outcome.status, GOOD, "{:?}", outcome.sense.code());
                self.ended(&flight);
                self.crash()?;
            }
        }
        self.ports.iter().for_each(Port::forget_ends);
        Ok(())
    }

    /// Every block is to its readers what was written last.
    fn check_readers(&mut self) {
        for lba in 0..BLOCKS {
            let port = self.ports[(lba % 2) as usize].clone();
            let data = seg(&port, 0, BLOCK);
            let outcome = self.world.run(&port, 0, &cdb::read16(lba, 1), Data::In(&data));
            assert_eq!(outcome.status, GOOD);
            let mut found = vec![0; BLOCK];
            port.memory.read_at(0, &mut found);
            assert_eq!(stamp_of(&found), self.blocks[lba as usize].stamps.last().copied());
        }
    }
}

const HONEST: CrashOptions = CrashOptions {
    write_cache: true,
    zeroes_ranges: true,
    ignores_fua: false,
    ignores_flush: false,
    seed: 1,
};

/// Runs batches; blocks that a crash would have taken back.
fn storm(options: CrashOptions) -> Result<u64, String> {
    let (mut storm, _folder) = Storm::new(options);
    for _ in 0..BATCHES {
        let batch = storm.batch();
        if batch.is_err() {
            storm.world.assert_home();
        }
        batch?;
    }
    storm.check_readers();
    storm.world.assert_home();
    assert_eq!(storm.kinds.len(), 7, "{:?}", storm.kinds);
    Ok(storm.lost)
}

#[test]
fn what_was_promised_survives_and_nothing_else_is_promised() {
    for (seed, write_cache, zeroes_ranges) in
        [(1, true, true), (2, true, false), (3, false, true), (4, false, false)]
    {
        let lost = storm(CrashOptions { seed, write_cache, zeroes_ranges, ..HONEST });
        let lost = lost.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        assert!(lost > 0, "seed {seed}: nothing was ever volatile: the test sees nothing");
    }
}

#[test]
fn a_device_that_breaks_its_promise_is_caught() {
    for broken in [
        CrashOptions { ignores_fua: true, ..HONEST },
        CrashOptions { ignores_flush: true, ..HONEST },
        CrashOptions { ignores_fua: true, write_cache: false, ..HONEST },
        CrashOptions { ignores_flush: true, write_cache: false, ..HONEST },
    ] {
        assert!(storm(broken).is_err(), "{broken:?}");
    }
}
