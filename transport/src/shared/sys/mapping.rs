//! Memory that two processes share.
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// File system type of a memory file with pages of the default size (`TMPFS_MAGIC`).
const TMPFS: i64 = 0x0102_1994;

/// A shared mapping of a memory file. Having one tells you that `len` bytes are mapped readable and
/// writable until it is dropped, and that touching them can't fault: the file is sealed against
/// shrinking. Another process may change any byte at any time, so bytes are only ever copied or
/// accessed atomically, and nothing read here can be trusted twice.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a Mapping owns addresses; all access goes through atomics and raw copies, which assume
// other writers anyway.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Why a descriptor can't be shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MapError {
    /// Not a memory file, so that it could shrink or fail under us.
    #[error("not a memory file (memfd_create)")]
    NotMemory,
    /// Huge pages: a hole punched into them gives up their reservation, and the next touch may
    /// raise SIGBUS.
    #[error("a memory file of huge pages, which can fault")]
    HugePages,
    /// The file may be truncated.
    #[error("not sealed against shrinking (F_SEAL_SHRINK)")]
    NotSealed,
    /// No bytes.
    #[error("empty")]
    Empty,
    /// More bytes than allowed.
    #[error("{bytes} bytes, more than the limit of {bytes_max}")]
    TooLarge {
        /// Bytes of the file.
        bytes: u64,
        /// Bytes allowed.
        bytes_max: u64,
    },
    /// Sealed against writing.
    #[error("sealed against writing")]
    ReadOnly,
    /// The system refused.
    #[error("mapping: {0}")]
    System(Errno),
}

/// A new memory file of zeros, sealed against change of its size. `bytes` is rounded up to pages
/// of 4096 bytes.
pub(crate) fn sealed_file(name: &str, bytes: usize) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let bytes = bytes.max(1).checked_next_multiple_of(4096).ok_or(Errno::NOMEM)?;
    rustix::fs::ftruncate(&fd, bytes as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(fd)
}

impl Mapping {
    /// Maps the whole of a memory file of at most `bytes_max` bytes, if its seals keep the promise
    /// of this type.
    pub(crate) fn of_sealed(fd: impl AsFd, bytes_max: u64) -> Result<Mapping, MapError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| MapError::NotMemory)?;
        let system = rustix::fs::fstatfs(&fd).map_err(MapError::System)?;
        if system.f_type as i64 != TMPFS {
            return Err(MapError::HugePages);
        }
        if !seals.contains(SealFlags::SHRINK) {
            return Err(MapError::NotSealed);
        }
        let bytes = rustix::fs::fstat(&fd).map_err(MapError::System)?.st_size as u64;
        if bytes == 0 {
            return Err(MapError::Empty);
        }
        if bytes > bytes_max {
            return Err(MapError::TooLarge { bytes, bytes_max });
        }
        let len = usize::try_from(bytes).map_err(|_| MapError::System(Errno::NOMEM))?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )
        };
        match base {
            Ok(base) => {
                let base = NonNull::new(base.cast()).expect("mmap never maps at null");
                Ok(Mapping { base, len })
            }
            Err(Errno::PERM | Errno::ACCESS) => Err(MapError::ReadOnly),
            Err(errno) => Err(MapError::System(errno)),
        }
    }

    /// Bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Address of the first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Address of a range, if all of it is inside.
    #[inline]
    pub(crate) fn range(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        if end > self.len as u64 {
            return None;
        }
        // SAFETY: `offset` is at most `len`, so the result is inside the mapping or one past it.
        Some(unsafe { self.base.add(offset as usize) })
    }

    /// True for an address range inside this mapping.
    pub(crate) fn holds(&self, address: usize, len: usize) -> bool {
        let base = self.base.as_ptr() as usize;
        address >= base && address - base <= self.len && len <= self.len - (address - base)
    }

    /// Copies bytes out. Panics beyond the end.
    #[inline]
    pub(crate) fn read_at(&self, offset: usize, to: &mut [u8]) {
        let from = self.range(offset as u64, to.len() as u64).expect("range inside the mapping");
        // SAFETY: the range is mapped; `to` is private memory that no mapping overlaps.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) }
    }

    /// Copies bytes in. Panics beyond the end.
    #[inline]
    pub(crate) fn write_at(&self, offset: usize, from: &[u8]) {
        let to = self.range(offset as u64, from.len() as u64).expect("range inside the mapping");
        // SAFETY: as in `read_at`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) }
    }

    /// An aligned word, which the other process may change at any time. Panics beyond the end.
    #[inline]
    pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "word at {offset}: not aligned");
        let at = self.range(offset as u64, 8).expect("word inside the mapping");
        // SAFETY: mapped, aligned (the base is page-aligned), valid for any bits, and lives as
        // long as the mapping.
        unsafe { AtomicU64::from_ptr(at.as_ptr().cast()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, and no reference to it outlives `self`.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok());
    }
}
