//! Fixed arrays of values that stay built while their slots are free.
//!
//! A [`Slab`](crate::Slab) moves values in and out. Here whoever takes a slot sets the fields that
//! matter in place, so a large value costs only what is written of it.
//!
//! The generation of a slot is odd while it is taken and even while it is free, and a tag carries
//! an odd one: a late answer for a slot that has been freed or reused finds nothing.

use crate::Tag;

struct Slot<T> {
    generation: u32,
    value: T,
}

/// A fixed number of slots with a value each. Never allocates after construction.
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    /// `capacity` free slots with the values that `make` makes.
    pub fn new(capacity: usize, mut make: impl FnMut() -> T) -> Self {
        let count = u32::try_from(capacity).expect("the number of slots fits 32 bits");
        Slots {
            slots: (0..count).map(|_| Slot { generation: 0, value: make() }).collect(),
            free: (0..count).rev().collect(),
        }
    }

    /// Slots in all.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Slots taken.
    #[inline]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// True when no slot is taken.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when [`Slots::take`] would find none.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes a free slot. Its value is what the last user left.
    #[inline(always)]
    pub fn take(&mut self) -> Option<(Tag, &mut T)> {
        let index = self.free.pop()?;
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        Some((Tag::new(index, slot.generation), &mut slot.value))
    }

    /// The value of a live tag.
    #[inline]
    pub fn get(&self, tag: Tag) -> Option<&T> {
        let slot = self.slots.get(tag.index())?;
        (slot.generation == tag.generation() && taken(slot)).then_some(&slot.value)
    }

    /// The value of a live tag.
    #[inline]
    pub fn get_mut(&mut self, tag: Tag) -> Option<&mut T> {
        let slot = self.slots.get_mut(tag.index())?;
        (slot.generation == tag.generation() && taken(slot)).then_some(&mut slot.value)
    }

    /// Frees the slot of a live tag, which is dead from now on. False for a tag that is dead.
    #[inline]
    pub fn free(&mut self, tag: Tag) -> bool {
        let Some(slot) = self.slots.get_mut(tag.index()) else { return false };
        if slot.generation != tag.generation() || !taken(slot) {
            return false;
        }
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(tag.index() as u32);
        true
    }

    /// Live values in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Tag, &T)> {
        let taken = self.slots.iter().enumerate().filter(|(_, slot)| taken(slot));
        taken.map(|(index, slot)| (Tag::new(index as u32, slot.generation), &slot.value))
    }

    /// Live values in slot order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Tag, &mut T)> {
        let taken = self.slots.iter_mut().enumerate().filter(|(_, slot)| taken(slot));
        taken.map(|(index, slot)| (Tag::new(index as u32, slot.generation), &mut slot.value))
    }
}

#[inline]
fn taken<T>(slot: &Slot<T>) -> bool {
    slot.generation % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_does_not_answer_to_its_old_tag() {
        let mut slots = Slots::new(1, || 'a');
        let (first, value) = slots.take().unwrap();
        *value = 'b';
        assert!(slots.is_full() && slots.take().is_none());
        assert!(slots.free(first));
        assert!(!slots.free(first));
        let (second, value) = slots.take().unwrap();
        assert_eq!(*value, 'b', "stays built");
        assert_eq!((first.index(), slots.get(first)), (second.index(), None));
        assert_eq!(slots.get_mut(second), Some(&mut 'b'));
    }

    #[test]
    fn no_tag_names_a_free_slot() {
        let mut slots = Slots::new(2, || 0);
        assert_eq!(slots.get(Tag::new(0, 0)), None);
        assert!(!slots.free(Tag::new(0, 0)) && !slots.free(Tag::new(9, 1)));
        let (tag, value) = slots.take().unwrap();
        *value = 7;
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(tag, &7)]);
        assert_eq!(slots.iter_mut().count(), slots.len());
        slots.free(tag);
        assert!(slots.is_empty() && slots.iter().next().is_none());
    }
}
