//! Private memory that goes back to the system as a whole.
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// Zeroed bytes of this process alone. Having one tells you that `len` bytes are mapped readable
/// and writable until it is dropped. A page exists from its first touch on, and all of them are
/// the system's again after the drop: an allocator would keep them, and clear used ones by hand.
#[derive(Debug)]
pub(crate) struct Pages {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes belong to the one owner of the value, as those of a Box do.
unsafe impl Send for Pages {}

impl Pages {
    /// `len` bytes of zeros; none of them cost nothing. Fails when the system has no room for the
    /// mapping.
    pub(crate) fn zeroed(len: usize) -> Result<Pages, Errno> {
        if len == 0 {
            return Ok(Pages::default());
        }
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        Ok(Pages { base: NonNull::new(base.cast()).expect("mmap never maps at null"), len })
    }
}

impl Default for Pages {
    /// No bytes.
    fn default() -> Self {
        Pages { base: NonNull::dangling(), len: 0 }
    }
}

impl Deref for Pages {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: mapped and initialised by the kernel; borrowed as long as `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl DerefMut for Pages {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: this mapping is ours, and no reference to it outlives `self`.
            let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
            debug_assert!(result.is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeros_and_take_writes() {
        let mut pages = Pages::zeroed(5000).unwrap();
        assert_eq!(&pages[..], [0; 5000]);
        pages[4999] = 7;
        assert_eq!(pages[4998..], [0, 7]);
        assert!(Pages::zeroed(0).unwrap().is_empty() && Pages::default().is_empty());
    }

    #[test]
    fn more_than_there_are_addresses_is_refused() {
        assert_eq!(Pages::zeroed(usize::MAX / 2).err(), Some(Errno::NOMEM));
    }
}
