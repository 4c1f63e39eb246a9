//! Where targets can be reached: one implementation per transport type.

use rustix::io::Errno;
use transport::shm;

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
            ListenError::Address { .. } => Refused::invalid(error.to_string()),
            ListenError::Os { what, errno } => Refused::new(errno, what),
        }
    }
}

/// The listeners of one transport type.
pub trait Listeners: Send {
    /// Lets initiators reach `target` at an address from now on.
    fn add(&mut self, target: &str, traddr: &str, trsvcid: Option<&str>)
    -> Result<(), ListenError>;

    /// The opposite of [`Listeners::add`]. Connections that came through the listener stay.
    fn remove(
        &mut self,
        target: &str,
        traddr: &str,
        trsvcid: Option<&str>,
    ) -> Result<(), ListenError>;
}

impl From<shm::ListenError> for ListenError {
    fn from(error: shm::ListenError) -> Self {
        use shm::ListenError as Shm;
        let errno = match &error {
            Shm::BadPath { reason, .. } => {
                return ListenError::Address { parameter: "traddr", reason: reason.clone() };
            }
            Shm::InUse { .. } => Errno::ADDRINUSE,
            Shm::NotASocket { .. } => Errno::EXIST,
            Shm::NotFound { .. } => Errno::NODEV,
            Shm::System { errno, .. } => *errno,
            Shm::Stopped => Errno::SRCH,
        };
        let what = match error {
            Shm::System { what, .. } => what,
            other => other.to_string(),
        };
        ListenError::Os { what, errno }
    }
}

/// The listeners of the shared-memory fabric: `traddr` is the path of a Unix socket.
impl Listeners for shm::Listener {
    fn add(
        &mut self,
        target: &str,
        traddr: &str,
        trsvcid: Option<&str>,
    ) -> Result<(), ListenError> {
        no_port(trsvcid)?;
        Ok(self.add_listener(target, traddr)?)
    }

    fn remove(
        &mut self,
        target: &str,
        traddr: &str,
        trsvcid: Option<&str>,
    ) -> Result<(), ListenError> {
        no_port(trsvcid)?;
        Ok(self.remove_listener(target, traddr)?)
    }
}

fn no_port(trsvcid: Option<&str>) -> Result<(), ListenError> {
    match trsvcid {
        None => Ok(()),
        Some(_) => Err(ListenError::Address {
            parameter: "trsvcid",
            reason: "a socket path has no port".to_owned(),
        }),
    }
}

/// An address at which a target is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Transport type: "shm" or "rdma".
    pub trtype: &'static str,
    /// Socket path or IP address.
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
