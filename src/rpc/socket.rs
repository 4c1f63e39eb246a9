//! The listening socket: private from its first moment, taken over from the dead only.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

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
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Socket {
    /// Listens at `path`, mode 0600.
    pub(super) fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |what: &'static str| {
            move |errno: Errno| BindError::Os { path: path.to_owned(), what, errno }
        };
        let address = SocketAddrUnix::new(path).map_err(failed("address"))?;
        let lock_path = {
            let mut name = path.as_os_str().to_owned();
            name.push(".lock");
            PathBuf::from(name)
        };
        let lock = lock(&lock_path).map_err(|errno| match errno {
            Errno::WOULDBLOCK => BindError::Live { path: path.to_owned() },
            errno => BindError::Os { path: path.to_owned(), what: "lock file", errno },
        })?;
        remove_stale(path, &address)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(failed("socket"))?;
        // Linux gives the file that bind makes the mode of the socket: never wider than this.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed("mode"))?;
        rustix::net::bind(&socket, &address).map_err(failed("bind"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(failed("listen"))?;
        let listener = UnixListener::from(socket);
        Ok(Socket { listener, path: path.to_owned(), lock_path, _lock: lock })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Both go while the lock is still held; `lock` copes with a file that went meanwhile.
        let _ = std::fs::remove_file(&self.path);
        let _ = std::fs::remove_file(&self.lock_path);
    }
}

/// Locks the file of that name, not one that was removed while it was being opened.
fn lock(path: &Path) -> Result<File, Errno> {
    loop {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let held = file.metadata().map_err(errno)?;
        match std::fs::symlink_metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(errno(error)),
        }
    }
}

fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    let failed =
        |what: &'static str, errno: Errno| BindError::Os { path: path.to_owned(), what, errno };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(failed("look", Errno::from_io_error(&error).unwrap_or(Errno::IO)));
        }
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let probe = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|errno| failed("socket", errno))?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            tracing::info!("RPC socket {}: taken over from a dead target", path.display());
            rustix::fs::unlink(path).map_err(|errno| failed("remove", errno))
        }
        Err(Errno::NOENT) => Ok(()),
        // A full backlog is a live target too.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::Live { path: path.to_owned() }),
        Err(errno) => Err(failed("connect", errno)),
    }
}
