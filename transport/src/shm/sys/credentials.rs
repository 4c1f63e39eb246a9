//! Who is at the other end of a Unix socket.
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// The process that connected `socket`, 0 for one outside our process-id namespace, and its user.
/// The typed call of `rustix` can't hold that zero.
pub(crate) fn peer_credentials(socket: impl AsFd) -> Result<(i32, u32), Errno> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open while borrowed; the option writes at most `len` bytes into a
    // structure of that size, which is valid for any bits.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        return Ok((credentials.pid, credentials.uid));
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}
