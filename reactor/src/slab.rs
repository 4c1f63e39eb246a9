//! Fixed arrays of slots named by handles.
//!
//! A handle carries the slot's generation, so a late answer for a slot that has been reused finds
//! nothing instead of somebody else's request. The same 64 bits travel to the hardware and back.

/// Names an operation across a seam: slot index and generation. Comes back exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(u64);

impl Tag {
    /// A tag of its two halves.
    #[inline]
    pub const fn new(index: u32, generation: u32) -> Self {
        Tag((generation as u64) << 32 | index as u64)
    }

    /// The slot.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as u32 as usize
    }

    /// How often the slot had been used before.
    #[inline]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The form that travels through hardware queues (`user_data`, `wr_id`).
    #[inline]
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The inverse of [`Tag::to_u64`].
    #[inline]
    pub const fn from_u64(raw: u64) -> Self {
        Tag(raw)
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// A fixed number of slots. Never allocates after construction.
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// A slab of `capacity` free slots.
    pub fn new(capacity: usize) -> Self {
        let count = u32::try_from(capacity).expect("slab capacity fits 32 bits");
        Slab {
            slots: (0..count).map(|_| Slot { generation: 0, value: None }).collect(),
            free: (0..count).rev().collect(),
        }
    }

    /// Slots in all.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Slots in use.
    #[inline]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True when no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when [`Slab::insert`] would fail.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Puts a value into a free slot; gives it back when there is none.
    #[inline]
    pub fn insert(&mut self, value: T) -> Result<Tag, T> {
        let Some(index) = self.free.pop() else { return Err(value) };
        let slot = &mut self.slots[index as usize];
        // Also spares the store a look at whether there is something to drop.
        assert!(slot.value.is_none(), "a free slot in use");
        slot.value = Some(value);
        Ok(Tag::new(index, slot.generation))
    }

    /// The value of a live tag.
    #[inline]
    pub fn get(&self, tag: Tag) -> Option<&T> {
        let slot = self.slots.get(tag.index())?;
        if slot.generation == tag.generation() { slot.value.as_ref() } else { None }
    }

    /// The value of a live tag.
    #[inline]
    pub fn get_mut(&mut self, tag: Tag) -> Option<&mut T> {
        let slot = self.slots.get_mut(tag.index())?;
        if slot.generation == tag.generation() { slot.value.as_mut() } else { None }
    }

    /// Frees the slot of a live tag; the tag is dead from now on.
    #[inline]
    pub fn remove(&mut self, tag: Tag) -> Option<T> {
        let slot = self.slots.get_mut(tag.index())?;
        if slot.generation != tag.generation() {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(tag.index() as u32);
        Some(value)
    }

    /// The live tag of a slot index, if the slot is in use.
    pub fn tag_at(&self, index: usize) -> Option<Tag> {
        let slot = self.slots.get(index)?;
        slot.value.as_ref().map(|_| Tag::new(index as u32, slot.generation))
    }

    /// Live values in slot order. Looks at no slot behind the last of them: the slot used last is
    /// the first to be used again, so a few values are near the front.
    pub fn iter(&self) -> impl Iterator<Item = (Tag, &T)> {
        let live = self.slots.iter().enumerate().filter_map(|(index, slot)| {
            slot.value.as_ref().map(|value| (Tag::new(index as u32, slot.generation), value))
        });
        live.take(self.len())
    }

    /// The same, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Tag, &mut T)> {
        let count = self.len();
        let live = self.slots.iter_mut().enumerate().filter_map(|(index, slot)| {
            let generation = slot.generation;
            slot.value.as_mut().map(|value| (Tag::new(index as u32, generation), value))
        });
        live.take(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_does_not_answer_to_its_old_tag() {
        let mut slab = Slab::new(1);
        let first = slab.insert('a').unwrap();
        assert_eq!(slab.insert('b'), Err('b'));
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('c').unwrap();
        assert_eq!(first.index(), second.index());
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&'c'));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn tags_survive_the_round_trip_through_hardware() {
        let tag = Tag::new(7, u32::MAX);
        assert_eq!(Tag::from_u64(tag.to_u64()), tag);
        assert_eq!((tag.index(), tag.generation()), (7, u32::MAX));
    }
}
