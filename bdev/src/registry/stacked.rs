//! Devices over other devices: each claims its base as long as it exists.

use std::sync::Arc;

use uuid::Uuid;

use super::{Entry, Kind, Registry, wrong_kind};
use crate::Bdev;
use crate::refused::BdevError;
use crate::stacked::delay::{Delay, DelayOptions, LatencyType, Slow};
use crate::stacked::fault::{ErrorInjection, ErrorOptions, Failing, Injection, IoType};
use crate::stacked::passthru::{PassOn, Passthru, PassthruOptions};

/// What a virtual device is made of: all checked, nothing claimed yet.
struct Parts {
    name: String,
    uuid: Uuid,
    base: Arc<dyn Bdev>,
}

impl Registry {
    /// Makes a device that hands everything on (`bdev_passthru_create`).
    pub fn create_passthru(
        &mut self,
        options: PassthruOptions,
    ) -> Result<Arc<dyn Bdev>, BdevError> {
        let Parts { name, uuid, base } =
            self.parts("passthru", &options.base, options.name, options.uuid)?;
        let passthru = Passthru::new(name, uuid, Arc::clone(&base), PassOn);
        Ok(self.stack(Kind::Other(Arc::new(passthru)), "passthru", base.as_ref()))
    }

    /// Makes a slow device (`bdev_delay_create`).
    pub fn create_delay(&mut self, options: DelayOptions) -> Result<Arc<dyn Bdev>, BdevError> {
        let Parts { name, uuid, base } =
            self.parts("delay", &options.base, options.name, options.uuid)?;
        let slow = Slow::new(&name, &options.latencies)?;
        let delay = Delay::new(name, uuid, Arc::clone(&base), slow);
        Ok(self.stack(Kind::Delay(Arc::new(delay)), "delay", base.as_ref()))
    }

    /// Makes a device that fails on demand (`bdev_error_create`), named `EE_` and its base's name.
    pub fn create_error(&mut self, options: ErrorOptions) -> Result<Arc<dyn Bdev>, BdevError> {
        let name = format!("EE_{}", self.find(&options.base)?.name());
        let Parts { name, uuid, base } = self.parts("error", &options.base, name, options.uuid)?;
        let error = ErrorInjection::new(name, uuid, Arc::clone(&base), Failing::default());
        Ok(self.stack(Kind::Error(Arc::new(error)), "error", base.as_ref()))
    }

    /// Changes one latency of a slow device, in microseconds (`bdev_delay_update_latency`).
    pub fn update_latency(&self, name: &str, which: LatencyType, us: u64) -> Result<(), BdevError> {
        let entry = self.entry(name)?;
        match &entry.kind {
            Kind::Delay(delay) => delay.update(which, us),
            _ => Err(wrong_kind(entry.bdev.as_ref(), "bdev_delay_update_latency")),
        }
    }

    /// Injects an error (`bdev_error_inject_error`), or with `None` ends all injections.
    pub fn inject_error(
        &self,
        name: &str,
        io_types: &[IoType],
        injection: Option<Injection>,
    ) -> Result<(), BdevError> {
        let error = self.error_injection(name, "bdev_error_inject_error")?;
        match injection {
            Some(injection) => error.inject(io_types, injection),
            None => error.clear(),
        }
        Ok(())
    }

    /// Lets pending operations go on (`bdev_error_resume_pending`). A core that sleeps must be
    /// woken to do so.
    pub fn resume_pending(&self, name: &str) -> Result<(), BdevError> {
        self.error_injection(name, "bdev_error_resume_pending")?.resume_pending();
        Ok(())
    }

    /// Ends all injections of all devices and lets pending operations go on.
    pub fn end_injections(&self) {
        for entry in self.entries.iter() {
            if let Kind::Error(error) = &entry.kind {
                error.clear();
                error.resume_pending();
            }
        }
    }

    /// The names of the virtual devices over a device, from the lowest to the highest.
    pub fn names_over(&self, name: &str) -> Vec<String> {
        let over = |name: &str| self.entry(name).ok()?.over.clone();
        std::iter::successors(over(name), |name| over(name)).collect()
    }

    /// The device that a virtual device is over.
    pub fn base_of(&self, name: &str) -> Option<&str> {
        self.entry(name).ok()?.base.as_deref()
    }

    fn error_injection(&self, name: &str, method: &str) -> Result<&ErrorInjection, BdevError> {
        let entry = self.entry(name)?;
        match &entry.kind {
            Kind::Error(error) => Ok(error),
            _ => Err(wrong_kind(entry.bdev.as_ref(), method)),
        }
    }

    fn parts(
        &self,
        module: &str,
        base: &str,
        name: String,
        uuid: Option<Uuid>,
    ) -> Result<Parts, BdevError> {
        let at = self.position(base)?;
        let name = self.checked_name(name)?;
        let uuid = self.fresh_uuid(uuid, module, &name)?;
        self.refuse_claimed(at)?;
        let below = &self.entries[at].bdev;
        if below.scsi().is_some() && below.geometry().blocks == 0 {
            return Err(BdevError::Invalid(format!(
                "bdev {} is a SCSI device without blocks: only a disk can be below another bdev",
                below.name()
            )));
        }
        Ok(Parts { name, uuid, base: Arc::clone(&self.entries[at].bdev) })
    }

    /// Claims the base and takes the device in.
    fn stack(&mut self, kind: Kind, module: &str, base: &dyn Bdev) -> Arc<dyn Bdev> {
        let entry = Entry::new(kind, Some(base.name().to_owned()));
        let bdev = Arc::clone(&entry.bdev);
        let below = self.position(base.name()).expect("found just now");
        self.entries[below].over = Some(bdev.name().to_owned());
        self.entries[below].claimed_by = Some(format!("{module} bdev {}", bdev.name()));
        self.entries.push(entry);
        bdev
    }
}
