//! One core's whole target: connections, sessions, requests and logical units.

mod command;
mod connections;
pub mod coverage;
mod dispatch;
pub mod lun;
pub mod message;
pub mod meter;
pub mod nexus;
pub mod outbox;
pub mod qos;
#[allow(clippy::module_inception)] // the folder and the file are named after the type
pub mod shard;
mod task;
pub mod unit;

pub use shard::Shard;
