//! The mirror image: the initiator's side of SRP, for tools and tests.
//!
//! A [`Connector`] makes [`Link`]s (one per channel) and the [`DataMemory`] that all channels of a
//! session share. The protocol on top knows no fabric: [`Session`] logs in, a [`Channel`] keeps
//! credits, commands and task management, [`Scsi`] runs single commands and waits for them.
//!
//! A login and a read over any fabric; `srpt_bench::ideal` runs these lines without a target.
//!
//! ```
//! use std::time::Duration;
//!
//! use transport::initiator::{Connector, LoginOptions, Scsi, Session};
//! use transport::srp::Lun;
//!
//! fn first_block<C: Connector>(connector: &C) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
//!     // Port identifiers: whose session it is, and which target is meant.
//!     let options = LoginOptions::new([1; 16], [2; 16]);
//!     let Session { mut channels, memory } = Session::login(connector, &options, 1, 65536)?;
//!     let mut scsi = Scsi::new(&mut channels[0], &memory, 0..65536, Duration::from_secs(5));
//!     let lun = Lun::from_number(0).expect("LUNs up to 16383");
//!     // Takes the unit attentions that a login leaves.
//!     scsi.test_unit_ready(lun)?;
//!     let mut block = vec![0; scsi.read_capacity16(lun)?.block_bytes as usize];
//!     scsi.read(lun, 0, 1, &mut block)?;
//!     Ok(block)
//! }
//! ```

use std::ptr::NonNull;
use std::time::Duration;

use crate::RemoteSeg;

pub mod cdb;
mod channel;
mod scsi;
mod session;

#[cfg(test)]
mod fake;

pub use channel::{
    Agreed, Channel, Command, Completion, Data, Event, ProtocolError, SubmitError, Table,
    TaskRequest,
};
pub use scsi::{Capacity, ExecError, Outcome, Scsi, Sense, Transfer};
pub use session::{LoginError, LoginOptions, Session, login};

/// Memory of this initiator that the target reads and writes.
///
/// Copies go through raw memory, because the target may write at any time.
pub trait DataMemory {
    /// Bytes.
    fn len(&self) -> usize;
    /// True for no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The descriptor of a range. Panics outside the memory.
    fn seg(&self, offset: usize, len: u32) -> RemoteSeg;
    /// Copies bytes out. Panics outside the memory.
    fn read_at(&self, offset: usize, to: &mut [u8]);
    /// Copies bytes in. Panics outside the memory.
    fn write_at(&self, offset: usize, from: &[u8]);
    /// Address of the first byte in this process, for programs in another language that fill and
    /// read the memory in place. `None`: only copies reach it.
    fn base(&self) -> Option<NonNull<u8>> {
        None
    }
}

/// One channel's connection: carries information units both ways.
pub trait Link {
    /// Enqueues an information unit. At most as many as there are credits, plus answers to the
    /// target's own requests.
    fn send(&mut self, iu: &[u8]) -> Result<(), LinkError>;
    /// Publishes what was enqueued.
    fn flush(&mut self) -> Result<(), LinkError>;
    /// Calls `each` for every information unit that has arrived and returns their number; never
    /// waits. An error after the last one when the connection is gone.
    fn poll(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<usize, LinkError>;
}

/// Opens links of one fabric to one listener.
pub trait Connector {
    /// Its links.
    type Link: Link;
    /// Its data memory.
    type Memory: DataMemory;

    /// Zeroed memory of at least `bytes`, shared by all links that are connected with it.
    fn memory(&self, bytes: usize) -> Result<Self::Memory, ConnectError>;

    /// Sends a login request and waits for its answer: the link and the bytes of SRP_LOGIN_RSP.
    fn connect(
        &self,
        login_req: &[u8],
        memory: &Self::Memory,
        timeout: Duration,
    ) -> Result<(Self::Link, Vec<u8>), ConnectError>;
}

/// Why a link stopped working.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The target closed the connection or died.
    #[error("the target closed the connection")]
    Closed,
    /// More was sent than the target has receives for.
    #[error("no room to send: more information units than credits")]
    Full,
    /// The link carries shorter units only, though the target's login response says otherwise.
    #[error("an information unit of {len} bytes, the link takes at most {len_max}")]
    TooLong {
        /// Its bytes.
        len: usize,
        /// Bytes that the link carries.
        len_max: usize,
    },
}

/// Why a login failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The target answered SRP_LOGIN_REJ: its bytes.
    #[error("the target rejected the login")]
    Rejected(Vec<u8>),
    /// Nobody there, no answer in time, or an answer that can't be understood.
    #[error("{what}: {reason}")]
    Failed {
        /// The step that failed, with the address.
        what: String,
        /// Why.
        reason: String,
    },
}
