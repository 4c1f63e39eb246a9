//! The production shard in the simulated world.

mod login;
