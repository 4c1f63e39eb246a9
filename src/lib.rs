//! `srpt_tgt`: a SCSI RDMA Protocol target in user space.
//!
//! [`shard`] is one core's whole target, [`scsi`] the pure command set, [`control`] the state that
//! an operator sees and changes, [`rpc`] how they do it, [`app`] where everything is put together.
#![forbid(unsafe_code)]

pub mod app;
mod capacity;
pub mod cli;
pub mod config;
pub mod control;
pub mod limits;
pub mod logs;
pub mod rpc;
pub mod scsi;
pub mod shard;
pub mod signals;
