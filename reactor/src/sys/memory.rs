//! Memory that is registered once with every device and fabric.
use std::ptr::NonNull;

/// A mapping for one core's pool. Having one tells you that `len` bytes from `at(0)` are mapped
/// readable and writable, zero at first, until it is dropped.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a Memory is only addresses; access to the bytes is governed by `Buf`.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Why memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The mapping failed.
    #[error("mapping {bytes} bytes: {errno}")]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// The system's reason.
        errno: rustix::io::Errno,
    },
}

impl Memory {
    /// Anonymous pages of the default size.
    pub fn ordinary(len: usize) -> Result<Memory, MemoryError> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .map_err(|errno| MemoryError::Map { bytes: len, errno })?;
        Ok(Memory { base: NonNull::new(base.cast()).expect("mmap never maps at null"), len })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for an empty mapping.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of a byte.
    #[inline]
    pub fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.len, "offset {offset} of {} bytes", self.len);
        // SAFETY: inside the mapping by the assertion.
        unsafe { self.base.add(offset) }
    }

    /// Bytes of one registration: no registration may be larger (io_uring's limit per buffer).
    pub const CHUNK_BYTES: usize = 1 << 30;

    /// The registration that covers `offset`.
    #[inline]
    pub fn chunk_of(&self, offset: usize) -> u16 {
        (offset / Self::CHUNK_BYTES) as u16
    }

    /// The pieces to register, in order.
    pub fn chunks(&self) -> impl Iterator<Item = (NonNull<u8>, usize)> + '_ {
        (0..self.len)
            .step_by(Self::CHUNK_BYTES)
            .map(|offset| (self.at(offset), Self::CHUNK_BYTES.min(self.len - offset)))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours; `Pool` keeps the Memory alive while a Buf is out.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok());
    }
}
