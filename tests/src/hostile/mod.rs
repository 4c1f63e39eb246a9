//! Peers that break every rule, and one that measures what it feels like beside them.
//!
//! A [`Peer`] puts its units together byte by byte and, over shared memory, speaks handshake and
//! rings by itself, so that it can say what no initiator of ours would. A [`Way`] leads it to a
//! listener. A [`Meter`] is a good session: it writes, reads, compares and keeps the time of each
//! command.

mod meter;
mod peer;
mod rdma;
mod shm;
mod step;
mod way;

pub use meter::{Meter, Pace};
pub use peer::{DATA_BYTES, Peer, Refused, Reply, command, login};
pub use shm::{ShmWire, connect, dial, hello, memory, say, told};
pub use step::paced;
pub use way::Way;
