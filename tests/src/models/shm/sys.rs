//! Words that two sides share, in place of a mapping. Bytes of units are words, too, stored and
//! loaded without any order: whoever looks at them too early sees old ones.

use std::sync::Arc;

use crate::atomic::{AtomicU64, Ordering};

/// Bytes between the first word and the rings, which no model touches.
const HEAD_BYTES: usize = 4096;

/// As in `transport`. Clones are the same memory.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    first: Arc<AtomicU64>,
    rings: Arc<Vec<AtomicU64>>,
}

impl Mapping {
    pub(crate) fn new(bytes: usize) -> Mapping {
        let words = (bytes - HEAD_BYTES).div_ceil(8);
        let rings = (0..words).map(|_| AtomicU64::new(0)).collect();
        Mapping { first: Arc::new(AtomicU64::new(0)), rings: Arc::new(rings) }
    }

    pub(crate) fn len(&self) -> usize {
        HEAD_BYTES + self.rings.len() * 8
    }

    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8));
        if offset == 0 { &self.first } else { &self.rings[(offset - HEAD_BYTES) / 8] }
    }

    /// Whole words only.
    pub(crate) fn read_at(&self, offset: usize, to: &mut [u8]) {
        let (words, rest) = to.as_chunks_mut::<8>();
        assert!(rest.is_empty());
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.word(offset + index * 8).load(Ordering::Relaxed).to_ne_bytes();
        }
    }

    /// Whole words only.
    pub(crate) fn write_at(&self, offset: usize, from: &[u8]) {
        let (words, rest) = from.as_chunks::<8>();
        assert!(rest.is_empty());
        for (index, word) in words.iter().enumerate() {
            let at = self.word(offset + index * 8);
            at.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
    }
}

/// As in `transport`.
pub(crate) const SLOT_BYTES: usize = 128;
/// As in `transport`.
pub(crate) const INLINE_BYTES: usize = SLOT_BYTES - 8;

/// As in `transport`.
#[derive(Debug)]
pub(crate) struct SlotArray {
    mapping: Arc<Mapping>,
    offset: usize,
    mask: u32,
}

impl SlotArray {
    pub(crate) fn new(mapping: Arc<Mapping>, offset: usize, count: u32) -> SlotArray {
        SlotArray { mapping, offset, mask: count - 1 }
    }

    fn at(&self, number: u32) -> usize {
        self.offset + (number & self.mask) as usize * SLOT_BYTES
    }

    pub(crate) fn header(&self, number: u32) -> &AtomicU64 {
        self.mapping.word(self.at(number))
    }

    pub(crate) fn read(&self, number: u32, to: &mut [u8; INLINE_BYTES]) {
        self.mapping.read_at(self.at(number) + 8, to);
    }

    pub(crate) fn read_unit(&self, number: u32, to: &mut [u8]) {
        self.mapping.read_at(self.at(number) + 8, to);
    }

    pub(crate) fn write(&self, number: u32, unit: &[u8]) {
        self.mapping.write_at(self.at(number) + 8, unit);
    }
}
