//! The entries of a registry in the order of their creation, found by name and by identity.
//!
//! Whatever is asked for takes a number of steps that grows with the logarithm of the number of
//! entries.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use uuid::Uuid;

use super::Entry;

/// Names an entry as long as it is there; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

/// What is taken for a device that is no entry.
struct Reserved {
    uuid: Uuid,
    /// Name of the device that is claimed as its base.
    base: Option<String>,
}

/// All entries.
#[derive(Default)]
pub(super) struct Entries {
    entries: BTreeMap<Key, Entry>,
    made: u64,
    names: BTreeMap<String, Key>,
    uuids: BTreeMap<Uuid, Key>,
    /// Devices that are being opened or closed, by name.
    reserved: BTreeMap<String, Reserved>,
    /// Of each prefix a number below which all names are taken.
    full_to: BTreeMap<String, u64>,
}

impl Entries {
    /// The entry of a name, or else of an identity in text form.
    pub(super) fn find(&self, name: &str) -> Option<Key> {
        let named = self.names.get(name).copied();
        named.or_else(|| self.owner(Uuid::try_parse(name).ok()?))
    }

    /// True when an entry has this name, or will have it.
    pub(super) fn has_name(&self, name: &str) -> bool {
        self.names.contains_key(name) || self.reserved.contains_key(name)
    }

    /// The entry of an identity.
    fn owner(&self, uuid: Uuid) -> Option<Key> {
        self.uuids.get(&uuid).copied()
    }

    /// The name of the entry that has an identity, or will have it.
    pub(super) fn owner_name(&self, uuid: Uuid) -> Option<&str> {
        match self.owner(uuid) {
            Some(owner) => Some(self[owner].bdev.name()),
            None => {
                let reserved = self.reserved.iter().find(|(_, reserved)| reserved.uuid == uuid);
                reserved.map(|(name, _)| name.as_str())
            }
        }
    }

    /// Takes a name and an identity for a device that is no entry yet, or no longer; `base` is
    /// claimed for it.
    pub(super) fn reserve(&mut self, name: &str, uuid: Uuid, base: Option<String>) {
        self.reserved.insert(name.to_owned(), Reserved { uuid, base });
    }

    /// Gives back what [`Entries::reserve`] took, but for the claim: the base's name.
    pub(super) fn unreserve(&mut self, name: &str) -> Option<String> {
        let reserved = self.reserved.remove(name)?;
        self.name_is_free(name);
        reserved.base
    }

    /// The name of `prefix` with the lowest number that is not taken.
    pub(super) fn free_name(&mut self, prefix: &str) -> String {
        let mut number = self.full_to.get(prefix).copied().unwrap_or(0);
        let mut name = format!("{prefix}{number}");
        while self.has_name(&name) {
            number += 1;
            name = format!("{prefix}{number}");
        }
        self.full_to.insert(prefix.to_owned(), number);
        name
    }

    /// Takes an entry in, behind all others.
    pub(super) fn push(&mut self, entry: Entry) {
        self.made += 1;
        let key = Key(self.made);
        self.names.insert(entry.bdev.name().to_owned(), key);
        self.uuids.entry(entry.bdev.uuid()).or_insert(key);
        self.entries.insert(key, entry);
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: Key) -> Entry {
        let entry = self.entries.remove(&key).expect("a key that was found");
        let (name, uuid) = (entry.bdev.name(), entry.bdev.uuid());
        self.names.remove(name);
        if self.uuids.get(&uuid) == Some(&key) {
            self.uuids.remove(&uuid);
        }
        self.name_is_free(name);
        entry
    }

    fn name_is_free(&mut self, name: &str) {
        for (prefix, full_to) in &mut self.full_to {
            let number = name.strip_prefix(prefix.as_str()).and_then(|rest| rest.parse().ok());
            *full_to = number.map_or(*full_to, |number| (*full_to).min(number));
        }
    }

    /// All entries in the order of creation.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }
}

impl Index<Key> for Entries {
    type Output = Entry;

    fn index(&self, key: Key) -> &Entry {
        &self.entries[&key]
    }
}

impl IndexMut<Key> for Entries {
    fn index_mut(&mut self, key: Key) -> &mut Entry {
        self.entries.get_mut(&key).expect("a key that was found")
    }
}
