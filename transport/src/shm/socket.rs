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

/// A datagram as it came in.
#[derive(Debug)]
pub(super) struct Received {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, closed when dropped.
    pub fds: Vec<OwnedFd>,
    /// Bytes or descriptors were cut off.
    pub truncated: bool,
}

/// A socket path that fits, or why it doesn't.
pub(super) fn address(path: &Path) -> Result<SocketAddrUnix, String> {
    let len = path.as_os_str().len();
    if len == 0 || len > PATH_BYTES_MAX {
        return Err(format!("a socket path has 1 to {PATH_BYTES_MAX} bytes, this one {len}"));
    }
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
    let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    bytes.truncate(message.bytes);
    let truncated = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received { bytes, fds, truncated })
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
