//! Names of things on a core: each kind has a type of its own.

use reactor::Tag;

pub(crate) use transport::srp::Tag as SrpTag;

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
