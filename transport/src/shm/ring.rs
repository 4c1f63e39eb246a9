//! Information units in shared memory: one ring of slots per direction.
//!
//! A slot is 128 bytes: a header word (low half: length; high half: lap number) and up to 120 bytes
//! of the unit. A longer unit lies in the overflow area under the same number. The producer writes
//! the header last; the consumer looks at the next slot's header only. There are no shared indices,
//! so a small unit costs one transfer of its cache lines.
//!
//! The producer never asks whether a slot is free: credits keep a conforming initiator to less than
//! half of the slots, and one that ignores them overwrites its own units only.
//!
//! A consumer reads the header once, checks the length against the limit of the login, and copies
//! the unit before anybody looks at it. What a peer scribbles here can therefore only change the
//! bytes of its own units.

use std::sync::Arc;

use super::atomic::{Ordering, fence};
use super::sys::{Mapping, SLOT_BYTES, SlotArray};
use super::{CREDITS_MAX, IU_BYTES_MAX};

pub(super) use super::sys::INLINE_BYTES;

/// Bytes in front of the slots, for the word that says "the target sleeps".
const HEAD_BYTES: usize = 4096;
/// Where that word is.
const SLEEPS_AT: usize = 0;
/// Slots of one ring at most.
const SLOTS_MAX: u32 = 1 << 17;

const _: () = assert!(2 * CREDITS_MAX + 8 == SLOTS_MAX);

/// Sizes of a connection's two rings. Having one tells you that the sums below don't overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    slots: u32,
    to_target_bytes_max: u32,
    to_initiator_bytes_max: u32,
}

/// Bytes from one overflow unit to the next: an odd number of cache lines, so that the starts of
/// units spread over all cache sets.
pub(crate) fn overflow_stride(iu_bytes_max: u32) -> usize {
    ((iu_bytes_max as usize).div_ceil(64) | 1) * 64
}

impl Geometry {
    /// Rings for `credits` outstanding requests and units of at most the given bytes.
    pub(crate) fn for_credits(credits: u32, to_target: u32, to_initiator: u32) -> Option<Self> {
        if credits > CREDITS_MAX {
            return None;
        }
        Geometry::checked((2 * credits + 8).next_power_of_two(), to_target, to_initiator)
    }

    /// Rings as the other side describes them; `None` for sizes that can't be.
    pub(crate) fn checked(slots: u32, to_target: u32, to_initiator: u32) -> Option<Self> {
        let sizes = 1..=IU_BYTES_MAX;
        let good = slots.is_power_of_two()
            && slots <= SLOTS_MAX
            && sizes.contains(&to_target)
            && sizes.contains(&to_initiator);
        good.then_some(Geometry {
            slots,
            to_target_bytes_max: to_target,
            to_initiator_bytes_max: to_initiator,
        })
    }

    /// Slots of each ring.
    pub(crate) fn slots(&self) -> u32 {
        self.slots
    }

    /// Bytes of a unit from the initiator at most.
    pub(crate) fn to_target_bytes_max(self) -> u32 {
        self.to_target_bytes_max
    }

    /// Bytes of a unit from the target at most.
    pub(crate) fn to_initiator_bytes_max(self) -> u32 {
        self.to_initiator_bytes_max
    }

    /// Bytes of the whole file.
    pub(crate) fn bytes(&self) -> usize {
        let slots = self.slots as usize;
        let overflow = |max| if max as usize > INLINE_BYTES { overflow_stride(max) } else { 0 };
        HEAD_BYTES
            + slots * 2 * SLOT_BYTES
            + slots * overflow(self.to_target_bytes_max)
            + slots * overflow(self.to_initiator_bytes_max)
    }

    fn to_target(self) -> Lane {
        let slots = self.slots as usize;
        Lane {
            slots_at: HEAD_BYTES,
            overflow_at: HEAD_BYTES + slots * 2 * SLOT_BYTES,
            stride: overflow_stride(self.to_target_bytes_max),
            slots: self.slots,
            iu_bytes_max: self.to_target_bytes_max,
        }
    }

    fn to_initiator(self) -> Lane {
        let slots = self.slots as usize;
        let other = self.to_target();
        let skip = if self.to_target_bytes_max as usize > INLINE_BYTES { other.stride } else { 0 };
        Lane {
            slots_at: HEAD_BYTES + slots * SLOT_BYTES,
            overflow_at: other.overflow_at + slots * skip,
            stride: overflow_stride(self.to_initiator_bytes_max),
            slots: self.slots,
            iu_bytes_max: self.to_initiator_bytes_max,
        }
    }
}

/// One direction's place in the shared file.
#[derive(Debug, Clone, Copy)]
struct Lane {
    slots_at: usize,
    overflow_at: usize,
    stride: usize,
    slots: u32,
    iu_bytes_max: u32,
}

/// The next slot: its number and the lap that its header must show.
#[derive(Debug)]
struct Cursor {
    slots: SlotArray,
    slot: u32,
    lap: u32,
    lane: Lane,
    ring: Arc<Mapping>,
}

impl Cursor {
    fn new(lane: Lane, ring: Arc<Mapping>) -> Self {
        let slots = SlotArray::new(Arc::clone(&ring), lane.slots_at, lane.slots);
        Cursor { slots, slot: 0, lap: 1, lane, ring }
    }

    /// Where a unit that doesn't fit into the slot is.
    fn overflow_at(&self) -> usize {
        self.lane.overflow_at + self.slot as usize * self.lane.stride
    }

    #[inline]
    fn advance(&mut self) {
        self.slot += 1;
        if self.slot == self.lane.slots {
            self.slot = 0;
            self.lap = self.lap.wrapping_add(1);
        }
    }
}

/// What a consumer finds in its next slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// No new unit.
    Nothing,
    /// A unit of this many bytes, at least one and at most the limit.
    Unit(u32),
    /// A unit of an impossible length.
    Bad(u32),
}

/// The reading end of one direction.
#[derive(Debug)]
pub(crate) struct Consumer(Cursor);

impl Consumer {
    /// Looks at the next slot.
    #[inline]
    pub(crate) fn peek(&self) -> Arrival {
        // What precedes the peer's store of the header is visible to `take`.
        let header = self.0.slots.header(self.0.slot).load(Ordering::Acquire);
        if (header >> 32) as u32 != self.0.lap {
            return Arrival::Nothing;
        }
        let len = header as u32;
        if len == 0 || len > self.0.lane.iu_bytes_max {
            return Arrival::Bad(len);
        }
        Arrival::Unit(len)
    }

    /// Copies the unit that [`Consumer::peek`] found, of `to.len()` bytes, and goes on.
    pub(crate) fn take(&mut self, to: &mut [u8]) {
        let cursor = &mut self.0;
        assert!(to.len() <= cursor.lane.iu_bytes_max as usize, "unit longer than the limit");
        if to.len() <= INLINE_BYTES {
            cursor.slots.read_unit(cursor.slot, to);
        } else {
            cursor.ring.read_at(cursor.overflow_at(), to);
        }
        cursor.advance();
    }

    /// Copies the slot of a unit of at most [`INLINE_BYTES`] that [`Consumer::peek`] found, and
    /// goes on. What is behind the unit is whatever the peer left there.
    #[inline]
    pub(crate) fn take_inline(&mut self, to: &mut [u8; INLINE_BYTES]) {
        self.0.slots.read(self.0.slot, to);
        self.0.advance();
    }
}

/// The writing end of one direction.
#[derive(Debug)]
pub(crate) struct Producer(Cursor);

impl Producer {
    /// Bytes of a unit at most.
    #[inline]
    pub(crate) fn iu_bytes_max(&self) -> usize {
        self.0.lane.iu_bytes_max as usize
    }

    /// Publishes a unit at once. Panics for one of no bytes or beyond the limit.
    #[inline]
    pub(crate) fn publish(&mut self, iu: &[u8]) {
        let cursor = &mut self.0;
        let fits = !iu.is_empty() && iu.len() <= cursor.lane.iu_bytes_max as usize;
        assert!(fits, "unit of {} bytes, limit {}", iu.len(), cursor.lane.iu_bytes_max);
        if iu.len() <= INLINE_BYTES {
            cursor.slots.write(cursor.slot, iu);
        } else {
            cursor.ring.write_at(cursor.overflow_at(), iu);
        }
        let header = u64::from(cursor.lap) << 32 | iu.len() as u64;
        // A peer that loads the header sees the unit.
        cursor.slots.header(cursor.slot).store(header, Ordering::Release);
        cursor.advance();
    }
}

/// The word that says "the target sleeps". The target sets it, passes [`before_last_look`], and
/// looks at its rings once more; the initiator publishes, passes a fence, and looks at the word:
/// one of them sees the other.
#[derive(Debug)]
pub(crate) struct SleepWord(Arc<Mapping>);

impl SleepWord {
    /// Target: tells the initiator whether to ring.
    #[inline]
    pub(crate) fn set(&self, sleeps: bool) {
        self.0.word(SLEEPS_AT).store(u64::from(sleeps), Ordering::Relaxed);
    }

    /// Initiator, after it has published: true when the target wants to be rung.
    #[inline]
    pub(crate) fn wants_bell(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.word(SLEEPS_AT).load(Ordering::Relaxed) != 0
    }
}

/// Orders everything that announces sleep before the look that decides about it.
#[inline]
pub(crate) fn before_last_look() {
    fence(Ordering::SeqCst);
}

/// One side's ends of both rings.
#[derive(Debug)]
pub(crate) struct Ends {
    /// Reads what the other side sends.
    pub consumer: Consumer,
    /// Sends to the other side.
    pub producer: Producer,
    /// Whether the target sleeps.
    pub sleep: SleepWord,
}

impl Ends {
    /// The target's ends. Panics when the file is smaller than the geometry.
    pub(crate) fn of_target(geometry: &Geometry, ring: Mapping) -> Ends {
        Ends::new(ring, geometry, geometry.to_target(), geometry.to_initiator())
    }

    /// The initiator's ends. Panics when the file is smaller than the geometry.
    pub(crate) fn of_initiator(geometry: &Geometry, ring: Mapping) -> Ends {
        Ends::new(ring, geometry, geometry.to_initiator(), geometry.to_target())
    }

    fn new(ring: Mapping, geometry: &Geometry, incoming: Lane, outgoing: Lane) -> Ends {
        assert!(ring.len() >= geometry.bytes(), "ring file too small");
        let ring = Arc::new(ring);
        Ends {
            consumer: Consumer(Cursor::new(incoming, Arc::clone(&ring))),
            producer: Producer(Cursor::new(outgoing, Arc::clone(&ring))),
            sleep: SleepWord(ring),
        }
    }
}

#[cfg(test)]
mod tests;
