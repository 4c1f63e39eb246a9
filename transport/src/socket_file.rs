//! The file of a listening Unix socket: private from its first moment, taken over from the dead
//! only.
//!
//! Who listens at PATH holds a lock on the file PATH.lock from before the look at PATH until after
//! PATH has been removed. So of two who find what a dead process left, one takes it over, and
//! nobody removes the socket of another. The lock file can be opened by its owner only, and one
//! that belongs to somebody else is not relied upon: strangers can't keep a path locked.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Attempts to have a lock file of our own, while somebody else removes or replaces it.
const LOCK_TRIES: u32 = 16;

/// Why a socket can't be listened at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SocketFileError {
    /// A process listens there.
    #[error("a live process listens on this socket")]
    Live,
    /// Something else is there.
    #[error("the file exists and is not a socket")]
    NotSocket,
    /// The lock file is not ours, and can't be removed.
    #[error("the lock file {path:?} belongs to user {uid}: remove it, or take another path")]
    ForeignLock {
        /// The lock file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The operating system refused.
    #[error("{what}: {errno}")]
    Os {
        /// The step that failed.
        what: &'static str,
        /// The system's reason.
        errno: Errno,
    },
}

impl SocketFileError {
    fn os(what: &'static str) -> impl FnOnce(Errno) -> SocketFileError {
        move |errno| SocketFileError::Os { what, errno }
    }
}

/// Having one tells you that nobody else who goes by the lock listens at the path. Dropping it
/// removes the socket's file, if that is still the same one, and then the lock.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    lock_path: PathBuf,
    lock: File,
}

impl SocketFile {
    /// Listens at `path`, mode 0600, with a socket of that kind, which does not block. At most
    /// `backlog` connections wait to be accepted.
    pub fn listen(
        path: &Path,
        kind: SocketType,
        backlog: i32,
    ) -> Result<(OwnedFd, SocketFile), SocketFileError> {
        let os = SocketFileError::os;
        let address = SocketAddrUnix::new(path).map_err(os("address"))?;
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = lock(&lock_path)?;
        let mut file = SocketFile { path: path.to_owned(), identity: (0, 0), lock_path, lock };
        remove_stale(path, kind, &address)?;
        let socket = socket_of(kind)?;
        // Linux gives the file that bind makes the mode of the socket: never wider than this.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(os("mode"))?;
        rustix::net::bind(&socket, &address).map_err(|errno| match errno {
            Errno::ADDRINUSE => SocketFileError::Live,
            errno => SocketFileError::Os { what: "bind", errno },
        })?;
        file.identity = std::fs::symlink_metadata(path)
            .map(|found| identity(&found))
            .map_err(|error| SocketFileError::Os { what: "look", errno: errno(&error) })?;
        rustix::net::listen(&socket, backlog).map_err(os("listen"))?;
        Ok((socket, file))
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        remove_same(&self.path, self.identity);
        if let Ok(held) = self.lock.metadata() {
            remove_same(&self.lock_path, identity(&held));
        }
    }
}

/// Removes a name that stands for this file; who looks at the name holds the lock.
fn remove_same(path: &Path, wanted: (u64, u64)) {
    if std::fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == wanted) {
        // One that can't be removed will be found by the next who listens there.
        let _ = std::fs::remove_file(path);
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn socket_of(kind: SocketType) -> Result<OwnedFd, SocketFileError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
        .map_err(SocketFileError::os("socket"))
}

/// Locks the file of that name: one that is ours alone, and not one that was removed while it was
/// being opened.
fn lock(path: &Path) -> Result<File, SocketFileError> {
    let os = SocketFileError::os;
    for _ in 0..LOCK_TRIES {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = rustix::fs::open(path, flags | OFlags::NONBLOCK, Mode::RUSR | Mode::WUSR);
        let file = match opened {
            Ok(file) => File::from(file),
            // A file that is not ours, or no file: a link, a socket.
            Err(Errno::ACCESS | Errno::LOOP | Errno::NXIO) if path.symlink_metadata().is_ok() => {
                remove_foreign(path)?;
                continue;
            }
            Err(errno) => return Err(os("lock file")(errno)),
        };
        let held = file.metadata().map_err(|error| os("lock file")(errno(&error)))?;
        if !is_ours_alone(&held) {
            remove_foreign(path)?;
            continue;
        }
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(SocketFileError::Live),
            Err(errno) => return Err(os("lock file")(errno)),
        }
        match path.symlink_metadata() {
            Ok(named) if identity(&named) == identity(&held) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(os("lock file")(errno(&error))),
        }
    }
    Err(os("lock file: somebody removes or replaces it again and again")(Errno::AGAIN))
}

/// Nobody but us (and the superuser) can have opened it.
fn is_ours_alone(found: &Metadata) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    found.file_type().is_file() && found.uid() == uid && found.mode() & 0o077 == 0
}

/// Whoever listens at the path all the same is found by the look at the socket.
fn remove_foreign(path: &Path) -> Result<(), SocketFileError> {
    let uid = match path.symlink_metadata() {
        Ok(found) => found.uid(),
        Err(_) => return Ok(()),
    };
    match std::fs::remove_file(path) {
        Ok(()) => {
            tracing::warn!(?path, uid, "removed a lock file that is not ours alone");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => Err(SocketFileError::ForeignLock { path: path.to_owned(), uid }),
    }
}

/// Removes a socket file that nobody listens on.
fn remove_stale(
    path: &Path,
    kind: SocketType,
    address: &SocketAddrUnix,
) -> Result<(), SocketFileError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SocketFileError::os("look")(errno(&error))),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketFileError::NotSocket),
        Ok(_) => {}
    }
    let probe = socket_of(kind)?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            tracing::info!("{}: taken over from a dead process", path.display());
            match rustix::fs::unlink(path) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(SocketFileError::Os { what: "remove", errno }),
            }
        }
        Err(Errno::NOENT) => Ok(()),
        // Connected, its queue is full, or another kind of socket: somebody is there.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(SocketFileError::Live),
        Err(errno) => Err(SocketFileError::Os { what: "connect", errno }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Barrier};

    use super::*;

    fn listen(path: &Path) -> Result<(OwnedFd, SocketFile), SocketFileError> {
        SocketFile::listen(path, SocketType::SEQPACKET, 4)
    }

    fn connects(path: &Path) -> bool {
        let socket = socket_of(SocketType::SEQPACKET).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).is_ok()
    }

    /// What a process leaves that was killed.
    fn leave_stale(path: &Path) {
        let (socket, file) = listen(path).unwrap();
        drop(socket);
        let copy = path.with_extension("kept");
        std::fs::rename(path, &copy).unwrap();
        drop(file);
        std::fs::rename(copy, path).unwrap();
        assert!(path.exists() && !connects(path));
    }

    #[test]
    fn of_many_who_find_what_a_dead_process_left_one_takes_it_over() {
        const MANY: usize = 8;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for _ in 0..50 {
            leave_stale(&path);
            let start = Arc::new(Barrier::new(MANY));
            let threads: Vec<_> = (0..MANY)
                .map(|_| {
                    let (start, path) = (Arc::clone(&start), path.clone());
                    std::thread::spawn(move || {
                        start.wait();
                        listen(&path)
                    })
                })
                .collect();
            let ended: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
            let (good, bad): (Vec<_>, Vec<_>) = ended.into_iter().partition(Result::is_ok);
            assert_eq!(good.len(), 1, "{bad:?}");
            assert!(bad.iter().all(|error| matches!(error, Err(SocketFileError::Live))), "{bad:?}");
            assert!(connects(&path), "who got it is reached");
            drop(good);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
        }
    }

    #[test]
    fn a_lock_file_that_others_can_open_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let lock_path = dir.path().join("s.lock");
        let theirs = File::create(&lock_path).unwrap();
        theirs.set_permissions(std::fs::Permissions::from_mode(0o666)).unwrap();
        rustix::fs::flock(&theirs, FlockOperation::LockExclusive).unwrap();
        let (_socket, file) = listen(&path).unwrap();
        assert_eq!(lock_path.metadata().unwrap().mode() & 0o777, 0o600);
        drop(file);
        std::os::unix::fs::symlink("/dev/null", &lock_path).unwrap();
        let (_socket, file) = listen(&path).unwrap();
        assert!(lock_path.symlink_metadata().unwrap().is_file());
        assert_eq!(listen(&path).unwrap_err(), SocketFileError::Live, "ours does");
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn who_goes_by_another_rule_keeps_his_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_socket, file) = listen(&path).unwrap();
        for name in ["s", "s.lock"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name), "another's").unwrap();
        }
        drop(file);
        assert!(path.exists() && dir.path().join("s.lock").exists());
        assert_eq!(listen(&path).unwrap_err(), SocketFileError::NotSocket);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "another's");
    }
}
