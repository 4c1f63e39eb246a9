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
pub mod service;
pub mod shard;
pub mod signals;

/// The version of this program and, where the build was told (`SRPT_COMMIT` in its environment, as
/// `scripts/package.sh` sets it), the commit it was built from.
pub fn version() -> &'static str {
    static VERSION: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let commit = option_env!("SRPT_COMMIT").unwrap_or("unknown");
        format!("{} (commit {commit})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}
