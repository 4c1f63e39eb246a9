//! Task management (SAM-5 clause 7; SRP 16A, 6.7).

pub(crate) mod abort;
pub(crate) mod functions;
