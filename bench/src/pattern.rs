//! Which command comes next: kind, unit, place and size, drawn from a seed.

use std::str::FromStr;

use crate::port::{Kind, Unit};
use crate::size::{ParseError, Sizes};

/// A workload by its usual name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Reads at random places.
    RandRead,
    /// Writes at random places.
    RandWrite,
    /// Sequential, mixed.
    Rw,
    /// At random places, mixed.
    RandRw,
}

const NAMES: [(&str, Workload); 6] = [
    ("read", Workload::Read),
    ("write", Workload::Write),
    ("randread", Workload::RandRead),
    ("randwrite", Workload::RandWrite),
    ("rw", Workload::Rw),
    ("randrw", Workload::RandRw),
];

impl Workload {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, workload)| *workload == self).map_or("", |(name, _)| name)
    }

    /// True for random places.
    pub fn is_random(self) -> bool {
        matches!(self, Workload::RandRead | Workload::RandWrite | Workload::RandRw)
    }

    /// Percentage of reads, where `mixed` is the one to use for mixed workloads.
    pub fn read_percent(self, mixed: u8) -> u8 {
        match self {
            Workload::Read | Workload::RandRead => 100,
            Workload::Write | Workload::RandWrite => 0,
            Workload::Rw | Workload::RandRw => mixed,
        }
    }
}

impl FromStr for Workload {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, workload)| *workload).ok_or_else(|| {
            ParseError::new(text, "read, write, randread, randwrite, rw or randrw is needed")
        })
    }
}

/// Pseudo-random numbers (splitmix64): the same from the same seed, one multiplication or two each.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Numbers from a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`, which is not zero.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// Spreads every bit of `bits` over all 64.
#[inline]
pub fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// A place on a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Index of the unit in the plan.
    pub unit: usize,
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u32,
}

/// The stream of commands. Units take turns; sequential places are one sequence per unit, shared by
/// all channels.
#[derive(Debug)]
pub struct Pattern {
    random: Random,
    units: Vec<Unit>,
    cursors: Vec<u64>,
    turn: usize,
    sizes: Sizes,
    is_random: bool,
    read_percent: u8,
}

impl Pattern {
    /// A stream over all blocks of every unit. Panics when a size is no whole number of blocks or
    /// larger than a unit: the caller has checked.
    pub fn new(
        units: &[Unit],
        sizes: &Sizes,
        workload: Workload,
        read_percent_mixed: u8,
        seed: u64,
    ) -> Self {
        for unit in units {
            assert!(sizes.fit(unit.block_bytes), "sizes are whole blocks");
            assert!(
                u64::from(sizes.max() / unit.block_bytes) <= unit.blocks,
                "sizes fit into the unit"
            );
        }
        Pattern {
            random: Random::new(seed),
            units: units.to_vec(),
            cursors: vec![0; units.len()],
            turn: 0,
            sizes: sizes.clone(),
            is_random: workload.is_random(),
            read_percent: workload.read_percent(read_percent_mixed),
        }
    }

    /// The next command's kind and place.
    #[inline]
    pub fn draw(&mut self) -> (Kind, Extent) {
        let index = self.turn;
        self.turn = if index + 1 == self.units.len() { 0 } else { index + 1 };
        let unit = self.units[index];
        let kind = match self.read_percent {
            100 => Kind::Read,
            0 => Kind::Write,
            percent if self.random.below(100) < u64::from(percent) => Kind::Read,
            _ => Kind::Write,
        };
        let blocks = self.blocks(unit.block_bytes);
        let lba = if !self.is_random {
            let first = self.cursors[index];
            let first = if first + u64::from(blocks) > unit.blocks { 0 } else { first };
            self.cursors[index] = first + u64::from(blocks);
            first
        } else if self.sizes.single().is_some() {
            self.random.below(unit.blocks / u64::from(blocks)) * u64::from(blocks)
        } else {
            self.random.below(unit.blocks - u64::from(blocks) + 1)
        };
        (kind, Extent { unit: index, lba, blocks })
    }

    #[inline]
    fn blocks(&mut self, block_bytes: u32) -> u32 {
        match &self.sizes {
            Sizes::List(sizes) if sizes.len() == 1 => sizes[0] / block_bytes,
            Sizes::List(sizes) => {
                sizes[self.random.below(sizes.len() as u64) as usize] / block_bytes
            }
            Sizes::Range { min, max } => {
                let (min, max) = (min / block_bytes, max / block_bytes);
                min + self.random.below(u64::from(max - min) + 1) as u32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(blocks: u64) -> Unit {
        Unit { lun: 0, block_bytes: 512, blocks }
    }

    fn pattern(units: &[Unit], sizes: &str, workload: Workload) -> Pattern {
        Pattern::new(units, &sizes.parse().unwrap(), workload, 70, 1)
    }

    #[test]
    fn sequences_wrap_and_units_take_turns() {
        let mut pattern = pattern(&[unit(20), unit(100)], "4k", Workload::Read);
        let places: Vec<(usize, u64)> =
            (0..6).map(|_| pattern.draw().1).map(|e| (e.unit, e.lba)).collect();
        assert_eq!(places, [(0, 0), (1, 0), (0, 8), (1, 8), (0, 0), (1, 16)]);
    }

    #[test]
    fn random_places_stay_inside_and_reach_both_ends() {
        for sizes in ["4k", "512-4k", "512,2k"] {
            let mut pattern = pattern(&[unit(65)], sizes, Workload::RandRw);
            let places: Vec<_> = (0..4000).map(|_| pattern.draw()).collect();
            assert!(places.iter().all(|(_, e)| e.lba + u64::from(e.blocks) <= 65), "{sizes}");
            assert!(places.iter().any(|(_, e)| e.lba == 0), "{sizes}");
            assert!(places.iter().any(|(_, e)| e.lba + u64::from(e.blocks) >= 64), "{sizes}");
            let reads = places.iter().filter(|(kind, _)| *kind == Kind::Read).count();
            assert!((2600..3000).contains(&reads), "{reads} reads of 4000 at 70 %");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_stream() {
        let draw = || {
            let mut pattern = pattern(&[unit(1000)], "512-8k", Workload::RandRw);
            (0..100).map(|_| pattern.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }

    #[test]
    fn workloads_have_names() {
        for (name, workload) in NAMES {
            assert_eq!(name.parse(), Ok(workload));
            assert_eq!(workload.name(), name);
        }
        assert!("trim".parse::<Workload>().is_err());
    }
}
