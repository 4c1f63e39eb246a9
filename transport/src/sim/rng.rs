//! The simulator's only source of chance.

/// SplitMix64: every seed gives an independent, reproducible sequence.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A sequence by its seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// True once in `in_` times on average.
    pub fn one(&mut self, in_: u64) -> bool {
        self.below(in_) == 0
    }
}
