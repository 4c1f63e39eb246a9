//! Logical units, shared by cores and targets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bdev::Bdev;

use super::names::{SessionId, UnitId};
use super::qos::rate::Limiter;
use crate::scsi::Identity;

/// A logical unit: one bdev with its SCSI identity. The same for every target that maps the bdev.
#[derive(Debug)]
pub struct LogicalUnit {
    /// Number among all logical units of the process, never reused.
    pub id: UnitId,
    /// The device.
    pub bdev: Arc<dyn Bdev>,
    /// Vendor, product, serial number and designators.
    pub identity: Identity,
    /// A command that must not be interrupted (COMPARE AND WRITE) is under way, on any core.
    exclusive: AtomicBool,
    /// Rate limits of the device.
    pub limiter: Arc<Limiter>,
}

/// What makes a logical unit the same one for an initiator: the names that it shows, and the size
/// of its blocks, without which a block address means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitName {
    uuid: [u8; 16],
    serial: String,
    block_bytes: u32,
}

impl UnitName {
    /// Of a unit with this UUID, this serial number, and blocks of so many bytes.
    pub(crate) fn new(uuid: [u8; 16], serial: &str, block_bytes: u32) -> UnitName {
        UnitName { uuid, serial: serial.to_owned(), block_bytes }
    }
}

impl LogicalUnit {
    /// A logical unit for a device.
    pub fn new(id: UnitId, bdev: Arc<dyn Bdev>, identity: Identity) -> LogicalUnit {
        LogicalUnit {
            id,
            bdev,
            identity,
            exclusive: AtomicBool::new(false),
            limiter: Arc::default(),
        }
    }

    /// What makes it the same unit for initiators, whatever device is behind it.
    pub(crate) fn name(&self) -> UnitName {
        let Identity { uuid, serial, .. } = &self.identity;
        UnitName::new(*uuid, serial, self.bdev.geometry().block_bytes)
    }

    /// Begins an uninterrupted command; false while another one is under way.
    pub fn try_enter(&self) -> bool {
        self.exclusive.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Ends an uninterrupted command.
    pub fn leave(&self) {
        let was = self.exclusive.swap(false, Ordering::AcqRel);
        assert!(was, "left a logical unit that nobody had entered");
    }
}

/// What every core goes by of the state that the home core of a unit decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct View {
    reserved_by: Option<SessionId>,
}

impl View {
    /// Of a unit that is reserved for a session, or for nobody.
    pub(crate) const fn of(reserved_by: Option<SessionId>) -> View {
        View { reserved_by }
    }

    /// Every session may use the unit.
    #[inline]
    pub(crate) fn is_open(self) -> bool {
        self.reserved_by.is_none()
    }

    /// Another session has reserved the unit.
    #[inline]
    pub(crate) fn excludes(self, session: SessionId) -> bool {
        self.reserved_by.is_some_and(|holder| holder != session)
    }
}
