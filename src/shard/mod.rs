//! One core's whole target: connections, sessions, requests and logical units.

mod admit;
mod connection;
mod execute;
pub mod limiter;
mod login;
pub mod lun;
pub mod mark;
pub mod message;
pub mod meter;
pub mod nexus;
pub mod outbox;
mod pass;
mod report;
mod request;
pub mod shard;
mod task;
mod throttle;
mod transfer;
pub mod unit;

pub use shard::Shard;
