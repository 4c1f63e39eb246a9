//! Socket files: taken over from the dead, refused by the living, removed only while ours.
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use super::ListenError;
use crate::shm::socket;

/// Connections that the kernel holds for us to accept.
const BACKLOG: i32 = 128;

/// A listening socket and its file. Dropping it removes the file, if it is still the same one.
#[derive(Debug)]
pub(super) struct Bound {
    /// The listening socket, non-blocking.
    pub socket: OwnedFd,
    /// Its file.
    pub path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

fn identity(path: &Path) -> Result<(u64, u64), Errno> {
    rustix::fs::lstat(path).map(|stat| (stat.st_dev, stat.st_ino))
}

impl Bound {
    /// Binds and listens.
    pub(super) fn new(path: &Path) -> Result<Bound, ListenError> {
        let name = || path.display().to_string();
        let address = socket::address(path)
            .map_err(|reason| ListenError::BadPath { path: name(), reason })?;
        let failed = || ListenError::system(format!("listening on {}", name()));
        let socket = socket::seqpacket().map_err(failed())?;
        // The mode of an unbound socket becomes the mode of its file: nobody else gets in between.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed())?;
        match rustix::net::bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path, &address)?;
                rustix::net::bind(&socket, &address).map_err(|errno| match errno {
                    Errno::ADDRINUSE => ListenError::InUse { path: name() },
                    errno => failed()(errno),
                })?;
            }
            result => result.map_err(failed())?,
        }
        let file = identity(path).map_err(failed())?;
        let bound = Bound { socket, path: path.to_path_buf(), file };
        rustix::net::listen(&bound.socket, BACKLOG).map_err(failed())?;
        Ok(bound)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if identity(&self.path) == Ok(self.file) {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

/// Removes a socket file that nobody listens on.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let name = || path.display().to_string();
    let failed = || ListenError::system(format!("taking over {}", name()));
    let stat = match rustix::fs::lstat(path) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(failed()(errno)),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(ListenError::NotASocket { path: name() });
    }
    let probe = socket::seqpacket().map_err(failed())?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => match rustix::fs::unlink(path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed()(errno)),
        },
        Err(Errno::NOENT) => Ok(()),
        // Connected, its queue is full, or another kind of socket: somebody is there.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(ListenError::InUse { path: name() }),
        Err(errno) => Err(failed()(errno)),
    }
}
