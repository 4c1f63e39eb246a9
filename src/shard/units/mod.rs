//! What a core sees of logical units: which one is under a LUN of a target, the devices behind
//! them, and what the home core of a unit decides for all cores.

pub(crate) mod device;
pub(crate) mod home;
pub(crate) mod map;
pub(crate) mod mapping;
