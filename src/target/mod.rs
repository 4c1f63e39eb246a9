//! One core's whole target: connections, sessions, requests and logical units.

mod admit;
mod connection;
mod execute;
mod login;
pub mod lun;
pub mod message;
pub mod nexus;
pub mod outbox;
mod pass;
mod report;
mod request;
pub mod shard;
mod task;

pub use shard::Shard;
