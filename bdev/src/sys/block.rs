//! Questions to a block device that nobody waits for.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;

/// `BLKGETSIZE64` of `linux/fs.h`: `_IOR(0x12, 114, size_t)`.
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;

/// `BLKROGET` of `linux/fs.h`: `_IO(0x12, 94)`.
const BLKROGET: libc::Ioctl = 0x125e;

/// Whether a block device takes no writes. False when it does not say.
pub(crate) fn read_only(fd: &OwnedFd) -> bool {
    let mut read_only: libc::c_int = 0;
    // SAFETY: the request writes one int to the address given.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), BLKROGET, &raw mut read_only) };
    done == 0 && read_only != 0
}

/// Size of a block device in bytes; 0 when the device is gone. The kernel takes no lock for the
/// answer, where a seek to the end waits for whoever allocates or discards on the device.
///
/// Fails with `NOTTY` for what is no block device.
pub(crate) fn bytes(fd: &OwnedFd) -> Result<u64, Errno> {
    let mut bytes = 0u64;
    // SAFETY: the request writes one u64 to the address given.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) };
    if done < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(bytes)
}
