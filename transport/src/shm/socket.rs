//! Datagrams with descriptors over a Unix socket, never waiting.
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::PATH_BYTES_MAX;
use super::wire::{DATAGRAM_BYTES_MAX, REGIONS_MAX};

/// Descriptors there is room for: one more than allowed, so that one too many is seen as such.
const FDS_MAX: usize = REGIONS_MAX + 1;

/// What was cut off a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Cut {
    /// Bytes beyond [`DATAGRAM_BYTES_MAX`].
    #[error("longer than {DATAGRAM_BYTES_MAX} bytes")]
    Bytes,
    /// Descriptors beyond [`REGIONS_MAX`].
    #[error("with more than {REGIONS_MAX} descriptors")]
    Descriptors,
    /// Descriptors that this process may not open: it has as many as it may have, or all processes
    /// together have.
    #[error("with descriptors that there is no room for: too many files are open")]
    OutOfDescriptors,
}

/// A datagram as it came in.
#[derive(Debug)]
pub(super) struct Received {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, closed when dropped.
    pub fds: Vec<OwnedFd>,
    /// Part of it is missing.
    pub cut: Option<Cut>,
}

/// Refuses a path that no socket can have.
pub(super) fn check_path(path: &Path) -> Result<(), String> {
    let len = path.as_os_str().len();
    if len == 0 || len > PATH_BYTES_MAX {
        return Err(format!("a socket path has 1 to {PATH_BYTES_MAX} bytes, this one {len}"));
    }
    Ok(())
}

/// The address of a socket path, or why there is none.
pub(super) fn address(path: &Path) -> Result<SocketAddrUnix, String> {
    check_path(path)?;
    SocketAddrUnix::new(path).map_err(|errno| errno.to_string())
}

/// A new socket of the kind this fabric uses, non-blocking.
pub(super) fn seqpacket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Sends one datagram; `WOULDBLOCK` when the peer doesn't read.
pub(super) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).map(|_| ())
}

/// Receives one datagram; `WOULDBLOCK` when there is none, no bytes and no descriptors when the
/// peer is gone.
pub(super) fn receive(socket: impl AsFd) -> Result<Received, Errno> {
    receive_with(socket, RecvFlags::empty())
}

/// [`receive`] from a peer whose descriptors can be slow to close. What is cut off a datagram is
/// closed by the kernel within the call, so a datagram that is cut stays in the socket, and goes
/// with it; and the first reference to each descriptor is ours before the datagram's own one goes.
pub(super) fn receive_of_stranger(socket: impl AsFd) -> Result<Received, Errno> {
    let received = receive_with(socket.as_fd(), RecvFlags::PEEK)?;
    if received.cut.is_none() {
        // Without room for descriptors: those that it has are ours already.
        let mut byte = [0; 1];
        rustix::net::recv(socket, &mut byte[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC)?;
    }
    Ok(received)
}

fn receive_with(socket: impl AsFd, more: RecvFlags) -> Result<Received, Errno> {
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC | more;
    let message =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    bytes.truncate(message.bytes);
    let cut = if message.flags.contains(ReturnFlags::TRUNC) {
        Some(Cut::Bytes)
    } else if !message.flags.contains(ReturnFlags::CTRUNC) {
        None
    } else if fds.len() < FDS_MAX {
        // There was room for one more in the buffer.
        Some(Cut::OutOfDescriptors)
    } else {
        Some(Cut::Descriptors)
    };
    Ok(Received { bytes, fds, cut })
}

/// Closes a peer's socket, after everything that it holds. Takes as long as the peer likes.
pub(super) fn bury(socket: &OwnedFd) {
    // Nothing arrives after this.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
    while let Ok(Received { bytes, fds, .. }) = receive(socket) {
        if bytes.is_empty() && fds.is_empty() {
            return;
        }
        fds.into_iter().for_each(bury_descriptor);
    }
}

/// Closes a descriptor that a peer passed. A socket among them does not linger.
pub(super) fn bury_descriptor(fd: OwnedFd) {
    // It fails for what is no socket.
    let _ = rustix::net::sockopt::set_socket_linger(&fd, None);
    drop(fd);
}

/// True when the other end is closed: nothing to read and never will be.
pub(super) fn is_closed(socket: impl AsFd) -> bool {
    let mut byte = [0u8; 1];
    match rustix::net::recv(socket, &mut byte[..], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
        Ok((_, len)) => len == 0,
        Err(Errno::AGAIN | Errno::INTR) => false,
        Err(_) => true,
    }
}
