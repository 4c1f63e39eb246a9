//! SRP connections: how they begin and end, and what they hold meanwhile.

pub(crate) mod connection;
mod credits;
pub(crate) mod login;
mod probe;
mod queue;
pub(crate) mod table;
