//! The unsafe part of the shared-memory fabric: slots of rings, pages of receives, and who a peer
//! is.

mod credentials;
mod pages;
mod slots;

pub(super) use credentials::peer_credentials;
pub(super) use pages::Pages;
pub(super) use slots::{INLINE_BYTES, SLOT_BYTES, SlotArray};

pub(super) use crate::shared::{MapError, Mapping, Regions, Returned, sealed_file};
