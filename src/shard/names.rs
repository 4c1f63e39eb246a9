//! Names of things on a core: each kind has a type of its own.

use reactor::Tag;
use transport::ConnId;

pub(crate) use transport::srp::Tag as SrpTag;

/// Highest LUN of the flat space addressing method (SAM-5 4.7.7.1).
pub const LUN_MAX: u16 = 16383;

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

/// Where a channel is: its core and the fabric's number for it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelAt {
    /// Core.
    pub core: usize,
    /// Connection on that core.
    pub conn: ConnId,
}

/// A request of this core. The fabric and the devices know it as the tag of its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestKey(Tag);

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
