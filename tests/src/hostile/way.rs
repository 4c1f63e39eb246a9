//! Where a target can be met.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use transport::srp::Seg;

use super::rdma::RdmaPort;

/// A listener, and what a peer needs to go there.
#[derive(Debug, Clone)]
pub enum Way {
    /// Shared memory, met at a socket.
    Shm(PathBuf),
    /// RDMA/CM, with memory that all peers of the process share.
    Rdma(Rc<RdmaPort>),
}

impl Way {
    /// Reads what [`Way`] prints.
    pub fn parse(text: &str) -> Way {
        match text.split_once('/') {
            // A socket has an absolute path.
            Some((address, guid)) if !address.is_empty() => {
                let address: SocketAddr = address.parse().expect("an address");
                let guid = u64::from_str_radix(guid, 16).expect("a GUID");
                Way::Rdma(Rc::new(RdmaPort::new(address, guid)))
            }
            _ => Way::Shm(text.into()),
        }
    }

    /// The socket of shared memory. Panics over RDMA.
    pub fn path(&self) -> &Path {
        match self {
            Way::Shm(path) => path,
            Way::Rdma(port) => panic!("{port} has no socket"),
        }
    }

    /// The port of RDMA. Panics over shared memory.
    pub fn port(&self) -> &RdmaPort {
        match self {
            Way::Shm(path) => panic!("{} is a socket", path.display()),
            Way::Rdma(port) => port,
        }
    }

    /// The target port to log in at.
    pub fn target_port(&self) -> [u8; 16] {
        match self {
            Way::Shm(_) => [0; 16],
            Way::Rdma(port) => port.target_port(),
        }
    }

    /// A range of the registered memory, or of what lies around it.
    pub fn seg(&self, at: usize, len: u32) -> Seg {
        match self {
            Way::Shm(_) => Seg { addr: at as u64, key: 0, len },
            Way::Rdma(port) => port.seg(at, len),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Shm(path) => write!(f, "{}", path.display()),
            Way::Rdma(port) => write!(f, "{}", port),
        }
    }
}
