//! Memory of an initiator on the same host: sealed memory files, mapped by both sides, whose parts
//! are lent as buffers. The fabrics of one host and of the simulator stand on it.

#[allow(unsafe_code)]
mod sys;

pub(crate) use sys::{MapError, Mapping, Regions, Returned, sealed_file};
