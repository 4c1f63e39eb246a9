//! The built binaries as processes, for end-to-end tests.
//!
//! A [`Target`] is a running `srpt_tgt` in a directory of its own; it is reached like operators
//! reach it ([`Rpc`], `scripts/rpc.py`) and like initiators do ([`Initiator`], [`Process`] of a
//! tool). Whatever a test starts, ends with it: processes are killed by their number when dropped,
//! and a failing test shows what they wrote.
//!
//! Waiting is for conditions. Between two looks at one, a test waits for the end of the process
//! that it is about, so a death is never waited out.

mod binaries;
mod child;
mod initiator;
mod rpc;
mod target;

pub use binaries::{binary, cores, script};
pub use child::{Process, until};
pub use initiator::{Initiator, Neighbour, PATIENCE, Stamps, lun, sense};
pub use rpc::{Refusal, Rpc};
pub use target::{Options, Target, perf_report};
