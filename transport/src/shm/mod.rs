//! The fabric of one host: initiator and target are two processes that share memory.
//!
//! The initiator passes its data memory (sealed memory files) over a Unix socket with its login;
//! the target answers with a file that holds two rings of information units. From then on the
//! socket only tells of death. [`Listener`] is the control thread that accepts and watches peers,
//! [`ShmFabric`] one core's connections, [`ShmConnector`] the initiator's side. A [`CoreDoor`]
//! joins the control thread to a core.
//!
//! A peer can harm only itself: its memory can't be truncated under us (seals), descriptors are
//! checked against the registered regions, information units are copied before they are parsed, no
//! lock, index or descriptor that the target relies on is shared with a peer.
//!
//! An information unit costs one copy and no system call; an idle connection costs a turn nothing.
//! Data is placed in the initiator's memory directly where alignment allows, and copied once
//! otherwise.

mod allowance;
mod connector;
mod door;
mod fabric;
mod listener;
mod nap;
mod ready;
mod receives;
mod ring;
mod roster;
mod socket;
#[allow(unsafe_code)]
mod sys;
mod wire;

use std::sync::atomic;

pub use allowance::{Allowance, Allowed};
pub use connector::{ShmConnector, ShmLink, ShmMemory};
pub use door::CoreDoor;
pub use fabric::{FabricOptions, ShmFabric};
pub use listener::{ListenError, Listener, ListenerCounts, ListenerOptions};
pub use receives::ReceiveCount;

/// Information units that a peer may send beyond its credits: answers to the target's own requests
/// (SRP_CRED_RSP, SRP_AER_RSP),
/// which use no credit.
pub const RESPONSE_RECVS: u32 = 8;
/// Credits that [`crate::Fabric::accept`] can be asked for, at most.
pub const CREDITS_MAX: u32 = (1 << 16) - 4;
/// Bytes of an information unit that [`crate::Fabric::accept`] can be asked for, at most; far above
/// SRP's largest. At least one.
pub const IU_BYTES_MAX: u32 = 1 << 20;
/// Bytes of memory that one connection may register, in all its regions together.
pub const REGION_BYTES_MAX: u64 = 64 << 30;
/// Bytes of a socket path at most: `sun_path` holds 108 with its terminating zero.
pub const PATH_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests;
