//! Commands as an initiator makes them, and what their answers must be.

use reactor::Tag;
use transport::RemoteSeg;
use transport::initiator::{Data, DataMemory, Table, cdb};
use transport::sim::{Rng, SimMemory};
use transport::srp::{Direction, encode_table};

use super::blocks::{BLOCK, Value, fill, word};
use super::reservations::Hold;

/// Data memory of a command: its data, then its table.
pub const SLOT_BYTES: usize = 1 << 14;

/// Blocks of a command, at most.
pub const BLOCKS_MAX: u64 = 24;

/// Bytes at the end of a slot that hold a table.
const TABLE_BYTES: usize = 96;

/// What memory holds before a read.
pub const POISON: u8 = 0xee;

/// What a command does to its blocks, or expects of them.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Reads.
    Read,
    /// Writes, all zeros or words of its own.
    Write {
        /// Durable when it is answered.
        fua: bool,
    },
    /// Compares with these.
    Verify(Vec<Value>),
    /// Writes if the one block holds this.
    Compare(Value, bool),
    /// Makes everything durable.
    Flush,
    /// Asks for pending sense data.
    Sense,
    /// Reserves the device.
    Reserve,
    /// Releases the device.
    Release,
    /// No blocks.
    Nothing,
}

/// Sense key, additional sense code, qualifier.
pub type Code = (u8, u8, u8);

/// A command before it is sent.
#[derive(Debug)]
pub struct Draft {
    /// Its LUN.
    pub lun: u16,
    /// The CDB.
    pub cdb: Vec<u8>,
    /// What it does.
    pub work: Work,
    /// First block.
    pub lba: u64,
    /// Blocks.
    pub blocks: u64,
    /// Which way the initiator's memory is used.
    pub direction: Option<Direction>,
    /// Its bytes.
    pub offered: u32,
    /// Bytes by the CDB.
    pub wanted: u32,
    /// The device makes data of a length of its own.
    pub made: bool,
    /// The only right answer, apart from unit attentions and missing LUNs.
    pub check: Option<Code>,
    /// How the memory is described.
    pub shape: Shape,
}

/// How a command's memory is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Descriptors in the information unit.
    Inside,
    /// A table in the initiator's memory.
    Table,
    /// Data in the information unit.
    Immediate,
    /// A table that covers less than it promises.
    ShortTable,
    /// Memory that is not registered.
    BadMemory,
}

impl Draft {
    fn new(lun: u16, cdb: &[u8], work: Work, lba: u64, blocks: u64) -> Draft {
        Draft {
            lun,
            cdb: cdb.to_vec(),
            work,
            lba,
            blocks,
            direction: None,
            offered: 0,
            wanted: 0,
            made: false,
            check: None,
            shape: Shape::Inside,
        }
    }

    fn data(mut self, direction: Direction, bytes: usize) -> Draft {
        self.direction = Some(direction);
        (self.offered, self.wanted) = (bytes as u32, bytes as u32);
        self
    }

    /// A read.
    pub fn read(lun: u16, lba: u64, blocks: u64, rng: &mut Rng) -> Draft {
        let mut cdb = match rng.below(2) {
            0 => cdb::read10(lba as u32, blocks as u16).to_vec(),
            _ => cdb::read16(lba, blocks as u32).to_vec(),
        };
        // FUA, now and then, without a draw that would change all seeds.
        cdb[1] = if (lba + blocks).is_multiple_of(5) { 0x08 } else { 0 };
        Draft::new(lun, &cdb, Work::Read, lba, blocks).data(Direction::In, blocks as usize * BLOCK)
    }

    /// A write of data.
    pub fn write(lun: u16, lba: u64, blocks: u64, rng: &mut Rng) -> Draft {
        let fua = rng.one(3);
        let cdb = match rng.below(2) {
            0 => cdb::write10(lba as u32, blocks as u16, fua).to_vec(),
            _ => cdb::write16(lba, blocks as u32, fua).to_vec(),
        };
        Draft::new(lun, &cdb, Work::Write { fua }, lba, blocks)
            .data(Direction::Out, blocks as usize * BLOCK)
    }

    /// A write of one block's data to all.
    pub fn write_same(lun: u16, lba: u64, blocks: u64) -> Draft {
        let cdb = cdb::write_same16(lba, blocks as u32, false);
        Draft::new(lun, &cdb, Work::Write { fua: false }, lba, blocks).data(Direction::Out, BLOCK)
    }

    /// UNMAP of a range.
    pub fn unmap(lun: u16, lba: u64, blocks: u64) -> Draft {
        let work = Work::Write { fua: false };
        Draft::new(lun, &cdb::unmap(24), work, lba, blocks).data(Direction::Out, 24)
    }

    /// VERIFY with data.
    pub fn verify(lun: u16, lba: u64, values: Vec<Value>) -> Draft {
        let blocks = values.len() as u64;
        let mut cdb = cdb::read16(lba, blocks as u32);
        (cdb[0], cdb[1]) = (0x8f, 0x02);
        let bytes = values.len() * BLOCK;
        Draft::new(lun, &cdb, Work::Verify(values), lba, blocks).data(Direction::Out, bytes)
    }

    /// COMPARE AND WRITE of a block.
    pub fn compare(lun: u16, lba: u64, value: Value, fua: bool) -> Draft {
        let mut cdb = cdb::compare_and_write(lba, 1);
        cdb[1] = if fua { 0x08 } else { 0 };
        Draft::new(lun, &cdb, Work::Compare(value, fua), lba, 1).data(Direction::Out, 2 * BLOCK)
    }

    /// SYNCHRONIZE CACHE.
    pub fn flush(lun: u16) -> Draft {
        Draft::new(lun, &cdb::synchronize_cache16(0, 0), Work::Flush, 0, 0)
    }

    /// RESERVE or RELEASE, in one of its two forms.
    pub fn reserve(lun: u16, rng: &mut Rng) -> Draft {
        let (reserves, long) = (!rng.one(3), rng.one(2));
        let work = if reserves { Work::Reserve } else { Work::Release };
        let code = if reserves { 0x16 } else { 0x17 };
        let cdb: &[u8] =
            if long { &[code | 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0] } else { &[code, 0, 0, 0, 0, 0] };
        Draft::new(lun, cdb, work, 0, 0)
    }

    /// It is carried out whoever has reserved the device.
    pub fn passes_reservations(&self) -> bool {
        matches!(self.cdb[0], 0x03 | 0x12 | 0xa0) || self.work == Work::Release
    }

    /// A command without blocks.
    pub fn small(lun: u16, rng: &mut Rng) -> Draft {
        let (cdb, work, bytes) = match rng.below(5) {
            0 => (cdb::inquiry(None, 96).to_vec(), Work::Nothing, 96),
            1 => (cdb::report_luns(64).to_vec(), Work::Nothing, 64),
            2 => (cdb::read_capacity16(32).to_vec(), Work::Nothing, 32),
            3 => (vec![0x03, 0, 0, 0, 32, 0], Work::Sense, 32),
            _ => return Draft::new(lun, &[0; 6], Work::Nothing, 0, 0),
        };
        let mut draft = Draft::new(lun, &cdb, work, 0, 0).data(Direction::In, bytes);
        draft.made = true;
        draft
    }

    /// Its answer says which unit is under a LUN.
    pub fn asks_who_is_at(&self, lun: u16) -> bool {
        match self.cdb[0] {
            0x12 => self.lun == lun,
            0xa0 => true,
            _ => false,
        }
    }

    /// A read of the medium, which is flushed first.
    pub fn reads_medium(&self) -> bool {
        self.work == Work::Read && self.cdb[1] & 0x08 != 0
    }

    /// True for a write and false for a read of blocks, which rate limits are for.
    pub fn transfers(&self) -> Option<bool> {
        match self.cdb[0] {
            0x28 | 0x88 => Some(false),
            0x2a | 0x8a => Some(true),
            _ => None,
        }
    }

    /// Puts in a mistake that has one right answer.
    pub fn mistaken(mut self, blocks_max: u64, rng: &mut Rng) -> Draft {
        let reads = self.work == Work::Read;
        let writes = matches!(self.work, Work::Write { .. }) && self.wanted >= BLOCK as u32;
        match rng.below(6) {
            0 => {
                self = Draft::read(self.lun, blocks_max, 1, rng);
                (self.work, self.check) = (Work::Nothing, Some((5, 0x21, 0)));
            }
            1 if writes => (self.offered, self.check) = (self.offered - 4, Some((5, 0x0e, 3))),
            1 if reads => self.offered -= 8,
            2 if writes || reads => self.offered += 32,
            3 => {
                let lun = super::attentions::NO_LUN;
                self = Draft::new(lun, &[0; 6], Work::Nothing, 0, 0);
                self.check = Some((5, 0x25, 0));
            }
            4 => {
                self = Draft::new(self.lun, &[0x1f; 6], Work::Nothing, 0, 0);
                self.check = Some((5, 0x20, 0));
            }
            _ if writes || reads => {
                (self.shape, self.check) = (Shape::ShortTable, Some((5, 0x24, 0)));
            }
            _ => {}
        }
        self
    }

    /// A word for each block that it writes.
    pub fn values(&self, serial: u64) -> impl Fn(u64) -> Value + use<> {
        let (zeros, same) = (self.cdb[0] == 0x42, self.cdb[0] == 0x93);
        move |lba| match (zeros, same) {
            (true, _) => 0,
            (_, true) => word(None, serial),
            _ => word(Some(lba), serial),
        }
    }

    /// What its memory holds when it is sent.
    pub fn bytes(&self, serial: u64) -> Vec<u8> {
        let mut bytes = vec![POISON; self.offered as usize];
        let value = self.values(serial);
        match &self.work {
            _ if self.cdb[0] == 0x42 => {
                return cdb::unmap_list(&[(self.lba, self.blocks as u32)]);
            }
            Work::Write { .. } => {
                for (at, block) in bytes.chunks_exact_mut(BLOCK).enumerate() {
                    fill(value(self.lba + at as u64), block);
                }
            }
            Work::Verify(values) => {
                let blocks = bytes.chunks_exact_mut(BLOCK).zip(values);
                blocks.for_each(|(block, value)| fill(*value, block));
            }
            Work::Compare(old, _) => {
                fill(*old, &mut bytes[..BLOCK]);
                fill(value(self.lba), &mut bytes[BLOCK..]);
            }
            Work::Read | Work::Flush | Work::Sense | Work::Nothing => {}
            Work::Reserve | Work::Release => {}
        }
        bytes
    }

    /// One to five pieces of a slot of the memory, not next to each other.
    pub fn segs(&self, memory: &SimMemory, slot: usize, rng: &mut Rng) -> Vec<RemoteSeg> {
        if self.offered == 0 {
            return Vec::new();
        }
        let (bytes, base) = (self.offered as usize, slot * SLOT_BYTES);
        let count = if bytes < 64 { 1 } else { 1 + rng.below(5) as usize };
        let cut = |number: usize| bytes * number / count;
        (0..count)
            .map(|n| memory.seg(base + cut(n) + n * 8, (cut(n + 1) - cut(n)) as u32))
            .collect()
    }

    /// Its descriptors, by its shape. `table`: entries that go into the information unit.
    pub fn describe<'a>(
        &self,
        memory: &SimMemory,
        slot: usize,
        segs: &'a mut [RemoteSeg],
        table: usize,
        bytes: &'a [u8],
    ) -> Data<'a> {
        let Some(direction) = self.direction else { return Data::None };
        let reads = direction == Direction::In;
        match self.shape {
            Shape::Immediate => return Data::OutImmediate(bytes),
            Shape::BadMemory => segs.iter_mut().for_each(|seg| seg.key = 77),
            Shape::Table | Shape::ShortTable => {
                let mut entries = segs.to_vec();
                if self.shape == Shape::ShortTable {
                    entries.last_mut().expect("it has data").len -= 1;
                }
                let mut bytes = [0; TABLE_BYTES];
                let len = encode_table(&entries, &mut bytes);
                let at = (slot + 1) * SLOT_BYTES - TABLE_BYTES;
                memory.write_at(at, &bytes);
                let in_iu = &segs[..table.min(segs.len() - 1)];
                let memory = memory.seg(at, len as u32);
                let table = Table { memory, total_len: self.offered, in_iu };
                return if reads { Data::InTable(table) } else { Data::OutTable(table) };
            }
            Shape::Inside => {}
        }
        if reads { Data::In(segs) } else { Data::Out(segs) }
    }
}

/// A command in flight.
#[derive(Debug)]
pub struct Command {
    /// What was sent.
    pub draft: Draft,
    /// Number of its channel.
    pub channel: u64,
    /// Its tag there.
    pub tag: Tag,
    /// Its slot of the memory.
    pub slot: usize,
    /// Where its data is.
    pub segs: Vec<RemoteSeg>,
    /// Device of its LUN.
    pub disk: usize,
    /// When it was sent, among all that was done.
    pub sent: u64,
    /// Who had reserved the device for certain.
    pub hold: Option<Hold>,
    /// The step.
    pub step: u64,
    /// ABORT TASK was sent for it.
    pub aborting: bool,
}
