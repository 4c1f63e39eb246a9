//! Where targets can be reached: one implementation per transport type.

use rustix::io::Errno;
use transport::rdma::RdmaOptions;

use super::refused::Refused;

/// Transport types that a listener can have.
pub const TRTYPES: [&str; 2] = ["shm", "rdma"];

/// Why a listener could not be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address has a wrong form.
    #[error("{parameter}: {reason}")]
    Address {
        /// `traddr` or `trsvcid`.
        parameter: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The operating system refused.
    #[error("{what}")]
    Os {
        /// The step that failed, with its subject.
        what: String,
        /// The system's reason.
        errno: Errno,
    },
}

impl From<ListenError> for Refused {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::Address { .. } => Refused::parameter(error.to_string()),
            ListenError::Os { what, errno } => Refused::new(errno, what),
        }
    }
}

/// The listeners of one transport type. Called on workers, because making and removing a socket may
/// sleep in the kernel.
pub trait Listeners: Send + Sync {
    /// Takes note of the parameters of `ib_srpt`, for what is made from now on. Refused when what
    /// exists is laid out for other ones; then nothing changes.
    fn configure(&self, _options: &RdmaOptions) -> Result<(), ListenError> {
        Ok(())
    }

    /// Lets initiators reach `target` at an address from now on.
    fn add(&self, target: &str, traddr: &str, trsvcid: Option<&str>) -> Result<(), ListenError>;

    /// The opposite of [`Listeners::add`]. Connections that came through the listener stay.
    fn remove(&self, target: &str, traddr: &str, trsvcid: Option<&str>) -> Result<(), ListenError>;
}

/// An address at which a target is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Transport type: "shm" or "rdma".
    pub trtype: &'static str,
    /// Socket path; IP address, `ib` or `ib:GID`.
    pub traddr: String,
    /// Port, for transports that have one.
    pub trsvcid: Option<String>,
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.trtype, self.traddr)?;
        match &self.trsvcid {
            Some(trsvcid) => write!(f, " port {trsvcid}"),
            None => Ok(()),
        }
    }
}
