//! Proof that what is read is what was written.
//!
//! Every block written carries a [`Stamp`]: magic, seed, LUN, its own address, its generation and a
//! checksum of its payload, which follows from the other fields. A [`Table`] per unit knows the
//! generation of every block of the tested range, so stale, foreign and torn blocks are all found.
//!
//! While a command is in flight its blocks are claimed, and no other command may claim them: what a
//! block holds is never in doubt. Costs 4 bytes and a bit per block; a multiplication per 8 bytes.

use std::fmt;

use crate::pattern::mix;

const MAGIC: [u8; 8] = *b"SRPTPERF";

/// Magic, seed, LUN, address, generation, checksum; then the payload.
const HEADER_BYTES: usize = 48;

/// Blocks in a unit's tested range, at most: the table then takes 1 GiB.
pub const BLOCKS_MAX: u64 = 1 << 28;

/// What a block says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Seed of the run: tells blocks of an earlier run apart.
    pub seed: u64,
    /// Logical unit.
    pub lun: u16,
    /// The block's own address.
    pub lba: u64,
    /// How often the run had written the block, this time included.
    pub generation: u32,
}

impl Stamp {
    /// Word `index` of the payload.
    #[inline]
    fn word(self, index: usize) -> u64 {
        let place = self.lba ^ u64::from(self.lun) << 48;
        let base = self.seed ^ mix(place ^ u64::from(self.generation) << 24);
        base.wrapping_add((index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)).rotate_left(29)
    }

    fn header(self, checksum: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&self.seed.to_be_bytes());
        header[16..20].copy_from_slice(&u32::from(self.lun).to_be_bytes());
        header[20..24].copy_from_slice(&self.generation.to_be_bytes());
        header[24..32].copy_from_slice(&self.lba.to_be_bytes());
        header[32..40].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    /// Fills a block, of at least 512 bytes.
    pub fn write(self, block: &mut [u8]) {
        let (header, payload) = block.split_at_mut(HEADER_BYTES);
        for (index, word) in payload.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&self.word(index).to_be_bytes());
        }
        header.copy_from_slice(&self.header(checksum(payload)));
    }

    /// Checks a block; `Err` tells the first byte that differs, and both sides from there.
    pub fn check(self, block: &[u8]) -> Result<(), Difference> {
        let (header, payload) = block.split_at(HEADER_BYTES);
        let expected = self.header(checksum(payload));
        // The payload follows from the stamp, so it is compared itself; a checksum alone would
        // accept a payload that was replaced together with its checksum.
        let wrong = payload.chunks_exact(8).enumerate().find_map(|(index, word)| {
            let expected = self.word(index).to_be_bytes();
            (word != expected).then_some((HEADER_BYTES + 8 * index, expected))
        });
        if header == expected && wrong.is_none() {
            return Ok(());
        }
        let header_wrong =
            header.chunks_exact(8).zip(expected.chunks_exact(8)).position(|(a, b)| a != b);
        let (offset, expected) = match (header_wrong, wrong) {
            (Some(index), _) => {
                (8 * index, expected[8 * index..][..8].try_into().expect("8 bytes"))
            }
            (None, Some(word)) => word,
            (None, None) => unreachable!("one side differs"),
        };
        let found: [u8; 8] = block[offset..offset + 8].try_into().expect("8 bytes");
        let byte = expected.iter().zip(&found).position(|(a, b)| a != b).unwrap_or(0);
        Err(Difference { offset: offset + byte, expected, found, header: Found::parse(header) })
    }
}

fn checksum(payload: &[u8]) -> u64 {
    payload.chunks_exact(8).fold(0, |sum: u64, word| {
        let word = u64::from_be_bytes(word.try_into().expect("8 bytes"));
        (sum.rotate_left(23) ^ word).wrapping_mul(0x9FB2_1C65_1E98_DF25)
    })
}

/// What a wrong block says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// No stamp at all.
    Foreign,
    /// Another stamp, or a damaged one.
    Stamp(Stamp),
}

impl Found {
    fn parse(header: &[u8]) -> Self {
        if header[..8] != MAGIC {
            return Found::Foreign;
        }
        let be64 = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        Found::Stamp(Stamp {
            seed: be64(8),
            lun: (be64(16) >> 32) as u16,
            generation: be64(16) as u32,
            lba: be64(24),
        })
    }
}

/// Where a block differs from what it should hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// First wrong byte of the block.
    pub offset: usize,
    /// The 8 aligned bytes around it, as they should be.
    pub expected: [u8; 8],
    /// The same 8 bytes as they are.
    pub found: [u8; 8],
    header: Found,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: [u8; 8]| u64::from_be_bytes(bytes);
        write!(f, "expected {:016x}, found {:016x}", hex(self.expected), hex(self.found))?;
        match self.header {
            Found::Foreign => write!(f, " (the block carries no stamp)"),
            Found::Stamp(Stamp { seed, lun, lba, generation }) => write!(
                f,
                " (the block says: seed {seed:#x}, LUN {lun}, LBA {lba}, generation {generation})"
            ),
        }
    }
}

/// What every block of one unit's tested range holds.
#[derive(Debug)]
pub struct Table {
    seed: u64,
    lun: u16,
    block_bytes: usize,
    /// Generation of each block; 0: not written by this run, or by a write that failed.
    generations: Vec<u32>,
    /// Next generation of each block follows this, whatever became of the write.
    claimed: Vec<u64>,
    /// Generations never return, not even after failed writes.
    last: u32,
}

impl Table {
    /// A table for `blocks` blocks, at most [`BLOCKS_MAX`], of which nothing is known.
    pub fn new(seed: u64, lun: u16, block_bytes: u32, blocks: u64) -> Self {
        assert!(blocks <= BLOCKS_MAX, "{blocks} blocks: the table would be too large");
        Table {
            seed,
            lun,
            block_bytes: block_bytes as usize,
            generations: vec![0; blocks as usize],
            claimed: vec![0; blocks.div_ceil(64) as usize],
            last: 0,
        }
    }

    /// Claims blocks for a command. False: some are claimed already, and none was.
    pub fn claim(&mut self, lba: u64, blocks: u32) -> bool {
        let range = lba..lba + u64::from(blocks);
        if range.clone().any(|block| self.claimed[(block / 64) as usize] >> (block % 64) & 1 == 1) {
            return false;
        }
        range.for_each(|block| self.claimed[(block / 64) as usize] |= 1 << (block % 64));
        true
    }

    /// Ends a claim.
    pub fn release(&mut self, lba: u64, blocks: u32) {
        for block in lba..lba + u64::from(blocks) {
            self.claimed[(block / 64) as usize] &= !(1 << (block % 64));
        }
    }

    /// Stamps `data`, a new generation of the claimed blocks from `lba` on.
    pub fn stamp(&mut self, lba: u64, data: &mut [u8]) {
        self.last += 1;
        for (block, lba) in data.chunks_exact_mut(self.block_bytes).zip(lba..) {
            self.generations[lba as usize] = self.last;
            self.of(lba).write(block);
        }
    }

    /// The blocks may hold anything: their write failed.
    pub fn forget(&mut self, lba: u64, blocks: u32) {
        self.generations[lba as usize..][..blocks as usize].fill(0);
    }

    /// True when the run has written some of the blocks.
    pub fn knows(&self, lba: u64, blocks: u32) -> bool {
        self.generations[lba as usize..][..blocks as usize].iter().any(|number| *number != 0)
    }

    /// Checks what was read from `lba` on; blocks that the run has not written may hold anything.
    /// `Err`: LUN, byte offset on the unit, and what differs.
    pub fn check(&self, lba: u64, data: &[u8]) -> Result<(), String> {
        for (block, lba) in data.chunks_exact(self.block_bytes).zip(lba..) {
            if self.generations[lba as usize] == 0 {
                continue;
            }
            if let Err(difference) = self.of(lba).check(block) {
                let byte = lba * self.block_bytes as u64 + difference.offset as u64;
                let generation = self.generations[lba as usize];
                return Err(format!(
                    "LUN {}, byte {byte} (LBA {lba}, generation {generation}): {difference}",
                    self.lun
                ));
            }
        }
        Ok(())
    }

    /// Blocks in the tested range.
    pub fn blocks(&self) -> u64 {
        self.generations.len() as u64
    }

    fn of(&self, lba: u64) -> Stamp {
        let generation = self.generations[lba as usize];
        Stamp { seed: self.seed, lun: self.lun, lba, generation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { seed: 7, lun: 3, lba: 41, generation: 2 };

    fn block(stamp: Stamp) -> Vec<u8> {
        let mut block = vec![0xAA; 512];
        stamp.write(&mut block);
        block
    }

    #[test]
    fn a_block_holds_what_its_stamp_says() {
        for bytes in [512, 4096] {
            let mut block = vec![0; bytes];
            STAMP.write(&mut block);
            assert_eq!(STAMP.check(&block), Ok(()));
        }
    }

    #[test]
    fn every_single_wrong_byte_is_found_where_it_is() {
        let good = block(STAMP);
        for offset in 0..512 {
            let mut bad = good.clone();
            bad[offset] ^= 0x10;
            let found = STAMP.check(&bad).expect_err("a planted error").offset;
            // A wrong payload byte makes the checksum field wrong as well, which comes first.
            let expected = if offset < HEADER_BYTES { offset..=offset } else { 32..=39 };
            assert!(expected.contains(&found), "planted at {offset}, found at {found}");
        }
    }

    #[test]
    fn stale_and_foreign_blocks_are_found() {
        for other in [
            Stamp { generation: 1, ..STAMP },
            Stamp { lba: 42, ..STAMP },
            Stamp { lun: 4, ..STAMP },
            Stamp { seed: 8, ..STAMP },
        ] {
            let difference = STAMP.check(&block(other)).expect_err("another block");
            assert_eq!(difference.header, Found::Stamp(other));
        }
        let difference = STAMP.check(&[0; 512]).expect_err("zeros");
        assert_eq!((difference.offset, difference.header), (0, Found::Foreign));
    }

    #[test]
    fn a_torn_block_is_found() {
        let mut torn = block(Stamp { generation: 1, ..STAMP });
        torn[..256].copy_from_slice(&block(STAMP)[..256]);
        assert!(STAMP.check(&torn).is_err());
    }

    #[test]
    fn the_table_tells_where_a_planted_block_is() {
        let mut table = Table::new(1, 5, 512, 100);
        let (mut old, mut new) = (vec![0; 2048], vec![0; 2048]);
        table.stamp(10, &mut old);
        table.stamp(10, &mut new);
        assert_eq!(table.check(10, &new), Ok(()));
        new[512..1024].copy_from_slice(&old[512..1024]);
        let text = table.check(10, &new).expect_err("a stale block");
        assert!(text.starts_with("LUN 5, byte 5655 (LBA 11, generation 2): expected "), "{text}");
        assert!(text.ends_with("seed 0x1, LUN 5, LBA 11, generation 1)"), "{text}");
        // Blocks 8 and 9 are unknown.
        let mut wider = vec![0; 1024];
        wider.extend(&new);
        assert!(table.check(8, &wider[..1536]).is_ok());
        table.forget(11, 1);
        assert!(table.check(8, &wider).is_ok());
        assert!(table.knows(11, 2) && !table.knows(11, 1));
    }

    #[test]
    fn claims_exclude_each_other() {
        let mut table = Table::new(1, 0, 512, 200);
        assert!(table.claim(60, 10));
        assert!(!table.claim(69, 5) && !table.claim(50, 11) && !table.claim(62, 1));
        assert!(table.claim(70, 5), "the refused claim took nothing");
        table.release(60, 10);
        assert!(table.claim(50, 20));
    }
}
