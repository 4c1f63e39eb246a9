//! Names of things on a core: each kind has a type of its own.

use std::fmt;

use reactor::Tag;
use transport::ConnId;

pub(crate) use transport::srp::Tag as SrpTag;

/// Highest LUN of the flat space addressing method (SAM-5 4.7.7.1).
pub const LUN_MAX: u16 = 16383;

/// LUNs that are found by index instead of by search. A core's map and a session's unit attentions
/// have the same bound, so that the short way of a command compares with the bound once.
pub(crate) const LOW_LUNS: usize = 256;

/// Mappings of all targets together: every core has a place for each.
pub const MAPPINGS_MAX: usize = 16384;

/// Names a change or question of the control plane; every core answers it once.
pub type Token = u64;

/// A SRP port identifier (initiator_port_id or target_port_id).
pub type PortId = [u8; 16];

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

/// Number of a session among all of the process, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// The session of this number.
    pub const fn new(number: u64) -> SessionId {
        SessionId(number)
    }

    /// The number, as operators see it.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a logical unit among all of the process, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(u32);

impl UnitId {
    /// The logical unit of this number.
    pub const fn new(number: u32) -> UnitId {
        UnitId(number)
    }

    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Number of a core, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId(u16);

impl CoreId {
    /// The core of this number. Panics above 65535: there are not so many.
    pub const fn new(number: usize) -> CoreId {
        assert!(number <= u16::MAX as usize, "a core's number");
        CoreId(number as u16)
    }

    /// The number, as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a channel is: its core and the fabric's number for it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelAt {
    /// Core.
    pub core: CoreId,
    /// Connection on that core.
    pub conn: ConnId,
}

/// A request of this core. The fabric and the devices know it as the tag of its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKey(Tag);

impl RequestKey {
    /// The request that an operation with this tag belongs to.
    #[inline]
    pub(crate) const fn of(tag: Tag) -> RequestKey {
        RequestKey(tag)
    }

    /// The tag of its operations.
    #[inline]
    pub(crate) const fn tag(self) -> Tag {
        self.0
    }
}

/// A mapping of this core: a logical unit under a LUN of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappingKey(Tag);

impl MappingKey {
    /// The mapping at a place of the core's map.
    #[inline]
    pub(super) const fn of(place: Tag) -> MappingKey {
        MappingKey(place)
    }

    /// Its place in the core's map.
    #[inline]
    pub(super) const fn place(self) -> Tag {
        self.0
    }
}
