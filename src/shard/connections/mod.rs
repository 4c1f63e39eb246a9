//! SRP channels: how they begin and end, and what they hold meanwhile.

pub(crate) mod connection;
mod login;
