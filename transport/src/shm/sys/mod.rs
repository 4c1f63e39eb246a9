//! The unsafe part of the shared-memory fabric: slots of rings, pages of receives, and who a peer
//! is.

mod credentials;
mod pages;
mod slots;

pub use credentials::peer_pid;
pub use pages::Pages;
pub use slots::{INLINE_BYTES, SLOT_BYTES, SlotArray};

#[cfg(test)]
pub use crate::shared::MapError;
pub use crate::shared::{Mapping, Regions, Returned, sealed_file};
