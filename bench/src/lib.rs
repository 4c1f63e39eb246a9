//! The tools that drive a target from outside, a load generator and a copy tool, and a load
//! generator straight on block devices.
//!
//! [`load`] keeps commands in flight and times them, [`pattern`] says which, [`verify`] proves that
//! what was read is what was written, [`copy`] moves files. They know a target only as [`port`]s;
//! [`session`] makes ports of SRP channels. [`device`] does without a target.
#![forbid(unsafe_code)]

pub mod address;
pub mod copy;
pub mod device;
pub mod ideal;
pub mod interrupt;
pub mod load;
pub mod options;
pub mod pattern;
pub mod port;
pub mod report;
pub mod session;
pub mod size;
pub mod verify;
