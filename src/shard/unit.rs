//! Logical units, shared by cores and targets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    /// The session that has reserved the unit, or [`NOBODY`].
    reserved_by: AtomicU64,
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

/// No session: their numbers begin with 1.
const NOBODY: u64 = 0;

impl LogicalUnit {
    /// A logical unit for a device.
    pub fn new(id: UnitId, bdev: Arc<dyn Bdev>, identity: Identity) -> LogicalUnit {
        LogicalUnit {
            id,
            bdev,
            identity,
            exclusive: AtomicBool::new(false),
            reserved_by: AtomicU64::new(NOBODY),
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

    /// Reserves the unit for a session (SPC-2 7.21); again is fine. False: another one has it.
    pub fn reserve(&self, session: SessionId) -> bool {
        let order = (Ordering::AcqRel, Ordering::Acquire);
        match self.reserved_by.compare_exchange(NOBODY, session.number(), order.0, order.1) {
            Ok(_) => true,
            Err(holder) => holder == session.number(),
        }
    }

    /// Ends a session's reservation, if it has one.
    pub fn release(&self, session: SessionId) {
        let order = (Ordering::AcqRel, Ordering::Relaxed);
        let _ = self.reserved_by.compare_exchange(session.number(), NOBODY, order.0, order.1);
    }

    /// Ends whatever reservation there is: after a reset.
    pub fn release_all(&self) {
        self.reserved_by.store(NOBODY, Ordering::Release);
    }

    /// True when another session than this one has reserved the unit.
    #[inline]
    pub fn is_reserved_by_other(&self, session: SessionId) -> bool {
        let holder = self.reserved_by.load(Ordering::Acquire);
        holder != NOBODY && holder != session.number()
    }
}
