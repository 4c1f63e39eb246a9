//! Devices over other devices: each claims its base from its making to its end.

use super::{Key, Registry};
use crate::refused::BdevError;

impl Registry {
    /// The names of the virtual devices over a device, from the lowest to the highest.
    pub fn names_over(&self, name: &str) -> Vec<String> {
        let over = |name: &str| self.entry(name).ok()?.over.clone();
        std::iter::successors(over(name), |name| over(name)).collect()
    }

    /// The device that a virtual device is over.
    pub fn base_of(&self, name: &str) -> Option<&str> {
        self.entry(name).ok()?.base.as_deref()
    }

    /// Claims a base for the device of a name.
    pub(super) fn claim_base(
        &mut self,
        at: Key,
        module: &str,
        name: &str,
    ) -> Result<(), BdevError> {
        self.refuse_claimed(at)?;
        let base = &mut self.entries[at];
        if base.bdev.scsi().is_some() && base.bdev.geometry().blocks == 0 {
            return Err(BdevError::Invalid(format!(
                "bdev {} is a SCSI device without blocks: only a disk can be below another bdev",
                base.bdev.name()
            )));
        }
        base.over = Some(name.to_owned());
        base.claimed_by = Some(format!("{module} bdev {name}"));
        Ok(())
    }

    /// Ends the claim of the device over a base.
    pub(super) fn release_base(&mut self, base: Option<String>) {
        if let Some(at) = base.and_then(|base| self.entries.find(&base)) {
            self.entries[at].over = None;
            self.entries[at].claimed_by = None;
        }
    }
}
