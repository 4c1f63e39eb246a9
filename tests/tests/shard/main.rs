//! The production shard in the simulated world.

mod attention;
mod commands;
mod common;
mod crash;
mod credits;
mod data;
mod endings;
mod lending;
mod limits;
mod login;
mod pass;
mod rates;
mod replaced;
mod reserve;
mod resources;
mod soak;
mod stacked;
mod tasks;
mod violations;
