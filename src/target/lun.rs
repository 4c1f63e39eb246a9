//! Logical units and the LUN map as values shared by the cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use bdev::Bdev;

use crate::scsi::Identity;

/// Highest LUN of the flat space addressing method (SAM-5 4.7.7.1).
pub const LUN_MAX: u16 = 16383;

/// A logical unit: one bdev with its SCSI identity. The same for every target that maps the bdev.
#[derive(Debug)]
pub struct LogicalUnit {
    /// Number among all logical units of the process, never reused.
    pub id: u32,
    /// The device.
    pub bdev: Arc<dyn Bdev>,
    /// Vendor, product, serial number and designators.
    pub identity: Identity,
    /// A COMPARE AND WRITE is between its read and its write, on any core.
    pub compare_and_write: AtomicBool,
    /// Blocks at the last look: a difference means unit attention 2A/09.
    pub blocks_seen: AtomicU64,
}

/// An SRP target as the cores see it: its service GUID is both halves of the target port ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSpec {
    /// Unique name.
    pub name: String,
    /// Service GUID (SRP I/O controller GUID).
    pub service_guid: u64,
    /// Relative target port identifier, from 1.
    pub relative_port: u16,
}
