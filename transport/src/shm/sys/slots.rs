//! Slots of a ring in shared memory.
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::shared::Mapping;

/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = 128;
/// Bytes of a unit that fit into a slot, behind its header word.
pub(crate) const INLINE_BYTES: usize = SLOT_BYTES - 8;
/// Bytes of a unit that is copied without asking for its length: the shortest response of SRP.
const SHORT_BYTES: usize = 36;

/// Slots of a mapping, each a header word and the bytes of a unit. Having one tells you that all of
/// them are mapped and aligned, and that their number is a power of two: a number is taken modulo
/// that, so no access can leave them.
#[derive(Debug)]
pub(crate) struct SlotArray {
    base: NonNull<u8>,
    mask: u32,
    /// Keeps the bytes mapped.
    _mapping: Arc<Mapping>,
}

// SAFETY: as for Mapping, which is kept alive.
unsafe impl Send for SlotArray {}

impl SlotArray {
    /// `count` slots from `offset` on. Panics when they are not all inside, not aligned to a cache
    /// line, or no power of two.
    pub(crate) fn new(mapping: Arc<Mapping>, offset: usize, count: u32) -> SlotArray {
        assert!(count.is_power_of_two() && offset.is_multiple_of(64), "{count} slots at {offset}");
        let bytes = u64::from(count) * SLOT_BYTES as u64;
        let base = mapping.range(offset as u64, bytes).expect("slots inside the mapping");
        SlotArray { base, mask: count - 1, _mapping: mapping }
    }

    /// The header word, which the other process may change at any time.
    #[inline]
    pub(crate) fn header(&self, number: u32) -> &AtomicU64 {
        let slot = (number & self.mask) as usize * SLOT_BYTES;
        // SAFETY: below the number of slots, all of which are mapped as long as `self`; aligned to
        // a cache line, and valid for any bits.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(slot).cast()) }
    }

    #[inline]
    fn body(&self, number: u32) -> *mut u8 {
        let slot = (number & self.mask) as usize * SLOT_BYTES;
        // SAFETY: inside the mapping, as above; the slot is longer than its header.
        unsafe { self.base.as_ptr().add(slot + 8) }
    }

    /// Copies all of a slot but its header: a copy of known size needs no call.
    #[inline]
    pub(crate) fn read(&self, number: u32, to: &mut [u8; INLINE_BYTES]) {
        // SAFETY: `body` is INLINE_BYTES mapped bytes; `to` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(self.body(number), to.as_mut_ptr(), INLINE_BYTES) }
    }

    /// Copies a unit out from behind the header. Panics for one that is longer than
    /// [`INLINE_BYTES`].
    #[inline]
    pub(crate) fn read_unit(&self, number: u32, to: &mut [u8]) {
        assert!(to.len() <= INLINE_BYTES, "unit of {} bytes", to.len());
        // SAFETY: `body` is INLINE_BYTES mapped bytes; `to` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(self.body(number), to.as_mut_ptr(), to.len()) }
    }

    /// Copies a unit behind the header. Panics for one that is longer than [`INLINE_BYTES`].
    #[inline]
    pub(crate) fn write(&self, number: u32, unit: &[u8]) {
        let to = self.body(number);
        if unit.len() == SHORT_BYTES {
            // SAFETY: as below, with a length that is known here.
            return unsafe { std::ptr::copy_nonoverlapping(unit.as_ptr(), to, SHORT_BYTES) };
        }
        assert!(unit.len() <= INLINE_BYTES, "unit of {} bytes", unit.len());
        // SAFETY: `to` is INLINE_BYTES mapped bytes; `unit` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(unit.as_ptr(), to, unit.len()) }
    }
}
