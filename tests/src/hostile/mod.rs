//! Peers that break every rule, and one that measures what it feels like beside them.
//!
//! A [`Peer`] speaks the handshake and the rings of shared memory by itself, byte by byte, so that it
//! can say what no initiator of ours would. A [`Meter`] is a good session: it writes, reads, compares
//! and keeps the time of each command.

mod meter;
mod peer;

pub use meter::{Meter, Pace};
pub use peer::{DATA_BYTES, Peer, Refused, Reply, command, dial, hello, login, memory, say, told};
