//! Which quiet connections of a core have rung.
//!
//! A bit per connection, set by the control thread and taken by the core. Peers reach none of this:
//! one that rings its bell sets its own bit through the control thread, and nobody else's.
//! A core that finds no bit has paid one load of a word that nobody has written.

use super::atomic::{AtomicU64, Ordering};

/// Connections of a word.
const PLACES: usize = u64::BITS as usize;

/// The bits of one core.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Bit `n`: there may be bits in the words `n`, `n + 64`, and so on.
    any: AtomicU64,
    words: Vec<AtomicU64>,
}

impl Ready {
    /// No bit is set.
    pub(crate) fn new(places: u32) -> Ready {
        let words = (places as usize).div_ceil(PLACES);
        Ready { any: AtomicU64::new(0), words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Control thread: the connection of that place wants to be looked at.
    pub(crate) fn set(&self, place: u32) {
        let word = place as usize / PLACES;
        // Both stores publish what the peer did before: the core may find the first without the
        // second, while it takes the bits of others.
        self.words[word].fetch_or(1 << (place as usize % PLACES), Ordering::Release);
        self.any.fetch_or(1 << (word % PLACES), Ordering::Release);
    }

    /// Core: whether there is a bit to take.
    #[inline(always)]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed) != 0
    }

    /// Core: takes all bits. What their peers did before is visible from then on.
    pub(crate) fn take(&self, mut each: impl FnMut(u32)) {
        let mut marks = self.any.swap(0, Ordering::Acquire);
        while marks != 0 {
            let mark = marks.trailing_zeros() as usize;
            marks &= marks - 1;
            for (word, bits) in self.words.iter().enumerate().skip(mark).step_by(PLACES) {
                let mut bits = bits.swap(0, Ordering::Acquire);
                while bits != 0 {
                    each((word * PLACES) as u32 + bits.trailing_zeros());
                    bits &= bits - 1;
                }
            }
        }
    }
}
