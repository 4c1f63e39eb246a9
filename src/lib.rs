//! `srpt_tgt`: a SCSI RDMA Protocol target in user space.
//!
//! [`target`] is one core's whole target, [`scsi`] the pure command set, [`control`] the state that
//! an operator sees and changes, [`rpc`] how they do it, [`app`] where everything is put together.
#![forbid(unsafe_code)]

pub mod limits;
pub mod scsi;
pub mod target;
