//! Devices whose opening and closing may sleep in the kernel: in steps, of which the one that may
//! sleep needs no [`Registry`] and can run on any thread.
//!
//! The name and the identity of a device that is being opened are taken already.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{Kind, Registry, refuse_other, wrong_kind};
use crate::Bdev;
use crate::refused::BdevError;
use crate::sg::{Sg, SgOptions};
use crate::uring::{self, Uring, UringOptions};

/// A device that can be opened now.
#[derive(Debug)]
pub struct Opening {
    name: String,
    uuid: Uuid,
    options: Options,
}

#[derive(Debug)]
enum Options {
    Uring(UringOptions, Duration),
    Sg(SgOptions),
}

/// A device that is open, and not among the others yet.
pub struct Opened(Kind);

/// A device that is no longer among the others, and still open.
pub struct Removed {
    bdev: Arc<dyn Bdev>,
    uring: Option<Arc<Uring>>,
}

impl Opening {
    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file or device that will be opened.
    pub fn filename(&self) -> &str {
        match &self.options {
            Options::Uring(options, _) => &options.filename,
            Options::Sg(options) => &options.filename,
        }
    }

    /// Opens the device. May take as long as the file system or device wants.
    pub fn open(self) -> Result<Opened, BdevError> {
        let Opening { name, uuid, options } = self;
        Ok(Opened(match options {
            Options::Uring(options, lock_wait) => {
                Kind::Uring(Arc::new(Uring::open(name, uuid, &options, lock_wait)?))
            }
            Options::Sg(options) => Kind::Other(Arc::new(Sg::open(name, uuid, &options)?)),
        }))
    }
}

impl Opened {
    /// Closes a device that nobody wants any more.
    pub fn close(self) {
        if let Kind::Uring(uring) = &self.0 {
            uring.close();
        }
    }
}

impl Removed {
    /// The device.
    pub fn bdev(&self) -> &Arc<dyn Bdev> {
        &self.bdev
    }

    /// True when [`Removed::close`] may take as long as the file system or device wants.
    pub fn may_sleep(&self) -> bool {
        self.uring.is_some() || self.bdev.scsi().is_some()
    }

    /// Closes the file of a file-backed device, whoever still holds the device, and lets go of the
    /// device.
    pub fn close(self) -> Arc<dyn Bdev> {
        if let Some(uring) = &self.uring {
            uring.close();
        }
        self.bdev
    }
}

impl Registry {
    /// Takes name and identity for a device of a file or block device, until
    /// [`Registry::adopt`] or [`Registry::abandon`].
    pub fn prepare_uring(&mut self, options: UringOptions) -> Result<Opening, BdevError> {
        let name = self.fresh_name(options.name.clone(), "Uring")?;
        refuse_other(&name, &options.other, uring::neutral)?;
        let uuid = self.fresh_uuid(options.uuid, "uring", &name)?;
        self.entries.reserve(&name, uuid);
        Ok(Opening { name, uuid, options: Options::Uring(options, self.lock_wait) })
    }

    /// The same for a SCSI device that is passed through.
    pub fn prepare_sg(&mut self, options: SgOptions) -> Result<Opening, BdevError> {
        let name = self.fresh_name(options.name.clone(), "Sg")?;
        let uuid = self.fresh_uuid(options.uuid, "sg", &name)?;
        self.entries.reserve(&name, uuid);
        Ok(Opening { name, uuid, options: Options::Sg(options) })
    }

    /// Takes in a device that has been prepared here and is open now.
    pub fn adopt(&mut self, opened: Opened) -> Arc<dyn Bdev> {
        self.abandon(opened.0.bdev().name());
        self.keep(opened.0)
    }

    /// Takes name and identity of a device that is being closed, until [`Registry::abandon`].
    pub fn reserve(&mut self, name: &str, uuid: Uuid) {
        self.entries.reserve(name, uuid);
    }

    /// Gives back what was taken for a device that was not opened, or is closed.
    pub fn abandon(&mut self, name: &str) {
        self.entries.unreserve(name);
    }

    /// A device of a file or block device, for [`Uring::rescan`].
    pub fn uring(&self, name: &str, method: &str) -> Result<Arc<Uring>, BdevError> {
        let entry = self.entry(name)?;
        match &entry.kind {
            Kind::Uring(uring) => Ok(Arc::clone(uring)),
            _ => Err(wrong_kind(entry.bdev.as_ref(), method)),
        }
    }

    /// Removes a device that nobody uses, and releases its base; `method` must be the one for its
    /// kind. The device is still open.
    pub fn remove(&mut self, name: &str, method: &str) -> Result<Removed, BdevError> {
        let at = self.position(name)?;
        let bdev = &self.entries[at].bdev;
        if bdev.delete_method() != method {
            return Err(wrong_kind(bdev.as_ref(), method));
        }
        self.refuse_claimed(at)?;
        let entry = self.entries.remove(at);
        if let Some(base) = &entry.base {
            let below = self.position(base)?;
            self.entries[below].over = None;
            self.release(base)?;
        }
        let uring = match entry.kind {
            Kind::Uring(uring) => Some(uring),
            _ => None,
        };
        Ok(Removed { bdev: entry.bdev, uring })
    }

    pub(super) fn open_now(
        &mut self,
        opening: Result<Opening, BdevError>,
    ) -> Result<Arc<dyn Bdev>, BdevError> {
        let opening = opening?;
        let name = opening.name.clone();
        match opening.open() {
            Ok(opened) => Ok(self.adopt(opened)),
            Err(error) => {
                self.abandon(&name);
                Err(error)
            }
        }
    }
}
