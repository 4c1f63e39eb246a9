//! The unsafe part of the shared-memory fabric: mappings, and copies from and to them.

mod credentials;
mod mapping;
mod pages;
mod regions;

pub use credentials::peer_pid;
#[cfg(test)]
pub use mapping::MapError;
pub use mapping::{INLINE_BYTES, Mapping, SLOT_BYTES, SlotArray, sealed_file};
pub use pages::Pages;
pub use regions::{Regions, Returned};
