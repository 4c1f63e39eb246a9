//! What a core sees of logical units: which one is under a LUN of a target, and the devices behind
//! them.

pub(crate) mod device;
pub(crate) mod map;
pub(crate) mod mapping;
