//! Devices in the making and in their end, in steps: the ones that may sleep in the kernel need no
//! [`Registry`] and can run on any thread.
//!
//! The name and the identity of a device that is being opened are taken already, and its base is
//! claimed.

use std::sync::Arc;

use uuid::Uuid;

use super::{Entry, Registry, wrong_kind};
use crate::Bdev;
use crate::options::{Options, Place};
use crate::refused::BdevError;

type Open = Box<dyn FnOnce() -> Result<Arc<dyn Bdev>, BdevError> + Send>;

/// A device that can be opened now.
pub struct Opening {
    name: String,
    /// Name of the base.
    base: Option<String>,
    filename: String,
    open: Open,
}

/// A device that is open, and not among the others yet.
pub struct Opened {
    bdev: Arc<dyn Bdev>,
    base: Option<String>,
}

/// A device that is no longer among the others, and still open.
pub struct Removed {
    bdev: Arc<dyn Bdev>,
}

impl Opening {
    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file or device that will be opened; empty for a device that has none.
    pub fn filename(&self) -> &str {
        &self.filename
    }

    /// Opens the device. May take as long as the file system or device wants.
    pub fn open(self) -> Result<Opened, BdevError> {
        Ok(Opened { bdev: (self.open)()?, base: self.base })
    }
}

impl Opened {
    /// Closes a device that nobody wants any more.
    pub fn close(self) {
        self.bdev.close();
    }
}

impl Removed {
    /// The device.
    pub fn bdev(&self) -> &Arc<dyn Bdev> {
        &self.bdev
    }

    /// Closes the file of a file-backed device, whoever still holds the device, and lets go of the
    /// device. May take its time where [`Bdev::close_may_sleep`] says so.
    pub fn close(self) -> Arc<dyn Bdev> {
        self.bdev.close();
        self.bdev
    }
}

impl Registry {
    /// Takes name and identity for a device, and claims its base, until [`Registry::adopt`] or
    /// [`Registry::abandon`].
    pub fn prepare<O: Options>(&mut self, options: O) -> Result<Opening, BdevError> {
        let at = options.base().map(|base| self.position(base)).transpose()?;
        let base = at.map(|at| Arc::clone(&self.entries[at].bdev));
        let base_name = base.as_ref().map(|base| base.name().to_owned());
        let given = options.name(base_name.as_deref().unwrap_or_default());
        let name = self.fresh_name(given, O::MODULE)?;
        let uuid = self.fresh_uuid(options.uuid(), O::MODULE, &name)?;
        if let Some(at) = at {
            self.claim_base(at, O::MODULE, &name)?;
        }
        self.entries.reserve(&name, uuid, base_name.clone());
        let place = Place { name: name.clone(), uuid, base, lock_wait: self.lock_wait };
        let filename = options.filename().unwrap_or_default().to_owned();
        Ok(Opening { name, base: base_name, filename, open: Box::new(|| options.make(place)) })
    }

    /// Takes in a device that has been prepared here and is open now.
    pub fn adopt(&mut self, opened: Opened) -> Arc<dyn Bdev> {
        let Opened { bdev, base } = opened;
        self.entries.unreserve(bdev.name());
        self.entries.push(Entry::new(Arc::clone(&bdev), base));
        bdev
    }

    /// Takes name and identity of a device that is being closed, until [`Registry::abandon`].
    pub fn reserve(&mut self, name: &str, uuid: Uuid) {
        self.entries.reserve(name, uuid, None);
    }

    /// Gives back what was taken for a device that was not opened, or is closed.
    pub fn abandon(&mut self, name: &str) {
        let base = self.entries.unreserve(name);
        self.release_base(base);
    }

    /// Removes a device that nobody uses, and releases its base; `module` must be the device's. The
    /// device is still open.
    pub fn remove(&mut self, name: &str, module: &str) -> Result<Removed, BdevError> {
        let at = self.position(name)?;
        let bdev = &self.entries[at].bdev;
        if bdev.module() != module {
            return Err(wrong_kind(bdev.as_ref(), &format!("bdev_{module}_delete")));
        }
        self.refuse_claimed(at)?;
        let entry = self.entries.remove(at);
        self.release_base(entry.base);
        Ok(Removed { bdev: entry.bdev })
    }
}
