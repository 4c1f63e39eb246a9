//! The unsafe part: mappings, and copies from and to them.

mod mapping;
mod regions;

pub(crate) use mapping::{MapError, Mapping, sealed_file};
pub(crate) use regions::{Regions, Returned};
