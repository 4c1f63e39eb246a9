//! The unsafe part: mappings, and copies from and to them.

mod mapping;
mod regions;

#[cfg(test)]
pub use mapping::MapError;
pub use mapping::{Mapping, sealed_file};
pub use regions::{Regions, Returned};
