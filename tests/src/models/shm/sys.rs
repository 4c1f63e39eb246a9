//! Words that two sides share, in place of a mapping. Bytes of units are words, too, stored and
//! loaded without any order: whoever looks at them too early sees old ones.

use std::sync::Arc;

use crate::atomic::{AtomicU64, Ordering};

/// Bytes between the first word and the rings, which no model touches.
const HEAD_BYTES: usize = 4096;

/// As in `transport`. Clones are the same memory.
#[derive(Debug, Clone)]
pub struct Mapping {
    first: Arc<AtomicU64>,
    rings: Arc<Vec<AtomicU64>>,
}

impl Mapping {
    pub fn new(bytes: usize) -> Mapping {
        let words = (bytes - HEAD_BYTES).div_ceil(8);
        let rings = (0..words).map(|_| AtomicU64::new(0)).collect();
        Mapping { first: Arc::new(AtomicU64::new(0)), rings: Arc::new(rings) }
    }

    pub fn len(&self) -> usize {
        HEAD_BYTES + self.rings.len() * 8
    }

    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8));
        if offset == 0 { &self.first } else { &self.rings[(offset - HEAD_BYTES) / 8] }
    }

    /// Whole words only.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) {
        let (words, rest) = to.as_chunks_mut::<8>();
        assert!(rest.is_empty());
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.word(offset + index * 8).load(Ordering::Relaxed).to_ne_bytes();
        }
    }

    /// Whole words only.
    pub fn write_at(&self, offset: usize, from: &[u8]) {
        let (words, rest) = from.as_chunks::<8>();
        assert!(rest.is_empty());
        for (index, word) in words.iter().enumerate() {
            let at = self.word(offset + index * 8);
            at.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
    }
}
