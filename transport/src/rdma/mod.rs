//! The fabric over RDMA: soft-RoCE, RoCE, iWARP and InfiniBand through libibverbs and librdmacm.
//!
//! A control thread ([`Listener`]) owns the listeners and the connection identifiers; it makes and
//! destroys everything that takes the kernel's time: queue pairs, registrations, completion queues.
//! A core's [`RdmaFabric`] owns the queue pairs in use and posts and polls them. Queue pairs move
//! between the two through bounded rings, so neither ever touches one that the other may destroy.
//!
//! The libraries are opened at the first use: a process without RDMA listeners needs none, and is
//! told what is missing when it asks for one.
//!
//! Per I/O a core writes work requests into arrays made beforehand and rings at most one doorbell
//! per queue pair and turn for sends, and one for receives.

mod address;
mod connection;
mod connector;
mod door;
mod fabric;
mod listener;
mod options;
mod resources;
#[allow(unsafe_code)]
mod sys;

pub use address::{ListenAddress, login_part, login_tag};
pub use connector::{RdmaConnector, RdmaHalfOpen, RdmaLink, RdmaMemory};
pub use door::CoreDoor;
pub use fabric::{RdmaCounts, RdmaFabric};
pub use listener::{ListenError, Listener, ListenerCounts, ListenerOptions};
pub use options::{FabricOptions, OptionError, RdmaOptions, RdmaValues, range};
pub use sys::LibraryError;

/// RDMA devices of this machine can be used. The error says what is missing.
pub fn available() -> Result<(), ListenError> {
    sys::EventChannel::new().map(drop).map_err(ListenError::from)
}
