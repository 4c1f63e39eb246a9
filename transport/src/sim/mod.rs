//! A deterministic network in one thread: both ends of every connection, seeded delays.
//!
//! [`Net`] is the world's network; each simulated core holds a [`SimFabric`] on it, each simulated
//! initiator a [`SimLink`] per channel. Everything happens when somebody polls, at the times drawn
//! from the seed: the same seed and the same calls give the same run.
//!
//! Modelled as RDMA does it: a connection's operations complete in order, a message for which no
//! receive is posted waits, and an operation that names memory which the initiator did not register
//! ends the connection. [`NetFaults`] adds what goes wrong by itself. With [`NetOptions::lends`],
//! initiators share their memory with the target, as those of one host do.

mod fabric;
mod net;
mod rng;

pub use fabric::SimFabric;
pub use net::{LoginAnswer, Net, NetFaults, NetInjected, NetOptions, SimLink, SimMemory};
pub use rng::Rng;

#[cfg(test)]
mod tests;
