//! The C libraries, wrapped into owned values.
//!
//! Memory safety rests on one rule: a device reaches only memory that is registered, and a
//! registration ([`memory::Region`], [`memory::PoolKeys`]) keeps its mapping alive. What the bytes
//! mean while a device works on them is the caller's business: it keeps a buffer's owner inside the
//! operation until the completion has been polled or the queue pair destroyed.
//!
//! Values keep what they need alive: a queue pair its completion queue, all of them their device,
//! the device the library's reference to it.
pub(super) mod abi;
pub(super) mod cm;
mod cq;
pub(super) mod device;
#[cfg(test)]
mod layout;
pub(super) mod library;
pub(super) mod memory;
pub(super) mod queue;
mod work;

pub(super) use cm::{CmEvent, CmId, EventChannel};
pub(super) use cq::{Completion, CompletionChannel, Cq, Outcome};
pub(super) use device::Device;
pub use library::LibraryError;
pub(super) use memory::{Local, PoolKeys, ReceiveArea, Region};
pub(super) use queue::{Qp, Srq};
pub(super) use work::{ReceiveChain, SendChain};

/// The device or the operating system refused.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct RdmaError {
    /// What was tried.
    pub what: &'static str,
    /// The system's reason.
    pub reason: std::io::Error,
}

/// The error of a call that has set `errno`.
fn last(what: &'static str) -> RdmaError {
    RdmaError { what, reason: std::io::Error::last_os_error() }
}

/// The error of a verbs call that returns an `errno`.
fn errno(what: &'static str, code: i32) -> RdmaError {
    RdmaError { what, reason: std::io::Error::from_raw_os_error(code.abs()) }
}
