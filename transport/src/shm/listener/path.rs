//! A listening socket and its file.
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType};

use super::ListenError;
use crate::shm::socket;
use crate::socket_file::{SocketFile, SocketFileError};
use crate::undertaker::Undertakers;

/// Connections that the kernel holds for us to accept.
const BACKLOG: i32 = 128;

/// A listening socket and its file, which goes with it.
#[derive(Debug)]
pub(super) struct Bound {
    /// The listening socket, non-blocking.
    pub(super) socket: OwnedFd,
    file: SocketFile,
}

impl Bound {
    /// Binds and listens.
    pub(super) fn new(path: &Path) -> Result<Bound, ListenError> {
        let name = || path.display().to_string();
        socket::check_path(path).map_err(|reason| ListenError::BadPath { path: name(), reason })?;
        let listening = SocketFile::listen(path, SocketType::SEQPACKET, BACKLOG);
        let (socket, file) = listening.map_err(|error| match error {
            SocketFileError::Live => ListenError::InUse { path: name() },
            SocketFileError::NotSocket => ListenError::NotASocket { path: name() },
            SocketFileError::ForeignLock { .. } => {
                ListenError::System { what: error.to_string(), errno: Errno::PERM }
            }
            SocketFileError::Os { what, errno } => {
                ListenError::System { what: format!("listening on {}: {what}", name()), errno }
            }
        })?;
        Ok(Bound { socket, file })
    }

    /// Where it listens.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Removes the file, and has the socket closed with those who were not accepted.
    pub(super) fn bury(self, undertakers: &Undertakers) {
        let Bound { socket, file } = self;
        drop(file);
        undertakers.bury(move || {
            // Nobody arrives after this.
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            for _ in 0..=BACKLOG {
                let Ok(peer) = rustix::net::accept_with(&socket, flags) else { break };
                socket::bury(&peer);
            }
        });
    }
}
