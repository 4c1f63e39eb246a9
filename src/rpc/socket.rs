//! The listening socket.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::SocketType;
use transport::socket_file::{SocketFile, SocketFileError};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A running target has it.
    #[error("RPC socket {}: another target is listening there", path.display())]
    Live {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else than a socket.
    #[error("RPC socket {}: the file exists and is not a socket", path.display())]
    NotSocket {
        /// The file.
        path: PathBuf,
    },
    /// Its lock file belongs to somebody else.
    #[error("RPC socket {}: {reason}", path.display())]
    Locked {
        /// The socket.
        path: PathBuf,
        /// Which file, and whose.
        reason: String,
    },
    /// The operating system refused.
    #[error("RPC socket {}: {what}: {}", path.display(), crate::control::strerror(*errno))]
    Os {
        /// The socket.
        path: PathBuf,
        /// The step that failed.
        what: &'static str,
        /// The system's reason.
        errno: Errno,
    },
}

/// Having one tells you that this process alone listens at the path. Removes the socket when
/// dropped.
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    _file: SocketFile,
}

impl Socket {
    /// Listens at `path`, mode 0600.
    pub(super) fn bind(path: &Path) -> Result<Self, BindError> {
        let listening = SocketFile::listen(path, SocketType::STREAM, BACKLOG);
        let path = path.to_owned();
        let (socket, file) = listening.map_err(|error| match error {
            SocketFileError::Live => BindError::Live { path },
            SocketFileError::NotSocket => BindError::NotSocket { path },
            SocketFileError::ForeignLock { .. } => {
                BindError::Locked { path, reason: error.to_string() }
            }
            SocketFileError::Os { what, errno } => BindError::Os { path, what, errno },
        })?;
        Ok(Socket { listener: UnixListener::from(socket), _file: file })
    }
}
