//! The unsafe part: mappings, and copies from and to them.

mod mapping;
mod regions;

#[cfg(test)]
pub(crate) use mapping::MapError;
pub(crate) use mapping::{Mapping, sealed_file};
pub(crate) use regions::{Regions, Returned};
