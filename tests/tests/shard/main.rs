//! The production shard in the simulated world.

mod attention;
mod common;
mod data;
mod login;
