//! The unsafe part of the shared-memory fabric: slots of rings, pages of receives, and who a peer
//! is.

mod credentials;
mod pages;
mod slots;

pub(super) use credentials::peer_pid;
pub(super) use pages::Pages;
pub(super) use slots::{INLINE_BYTES, SLOT_BYTES, SlotArray};

#[cfg(test)]
pub(super) use crate::shared::MapError;
pub(super) use crate::shared::{Mapping, Regions, Returned, sealed_file};
