//! One core's whole target: connections, sessions, requests and logical units.

pub mod lun;
pub mod message;
