//! The memory behind a malloc device.

use std::ptr::NonNull;

use reactor::Buf;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Private anonymous memory that several cores copy into and out of. Having one tells you that
/// `len` bytes are mapped, zero until written, and that they are only ever copied: no reference to
/// them exists. Copies of overlapping ranges by different cores may mix byte by byte, as SBC allows
/// for commands in flight together.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
    page_bytes: usize,
}

// SAFETY: a Region is only addresses; the bytes are reached by raw copies alone.
unsafe impl Send for Region {}
// SAFETY: as above; concurrent copies touch plain bytes for which every value is valid.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes, not reserved in advance. Fails with the system's reason (`NOMEM`).
    pub(crate) fn new(len: usize) -> Result<Region, Errno> {
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        // SAFETY: the range is the new mapping; the advice changes no bytes. Without huge pages it
        // is refused, which costs only speed: they need a 512th of the page faults and TLB entries.
        let _ = unsafe { madvise(base, len, Advice::LinuxHugepage) };
        let base = NonNull::new(base.cast()).expect("mmap never maps at null");
        Ok(Region { base, len, page_bytes: rustix::param::page_size() })
    }

    /// Asks for pages of a memory node as long as it has some; pages that are there stay where they
    /// are. A kernel without memory nodes has only the one: nothing to do.
    pub(crate) fn prefer_node(&self, node: u32) -> Result<(), Errno> {
        const MPOL_PREFERRED: libc::c_ulong = 1;
        const MASK_WORDS: usize = 16;
        let mut mask = [0 as libc::c_ulong; MASK_WORDS];
        let bits = libc::c_ulong::BITS;
        *mask.get_mut((node / bits) as usize).ok_or(Errno::INVAL)? = 1 << (node % bits);
        // SAFETY: the range is this mapping's, and the mask has as many bits as is said; the call
        // changes where pages come from and nothing that is in them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.base.as_ptr(),
                self.len,
                MPOL_PREFERRED,
                mask.as_ptr(),
                libc::c_ulong::from(MASK_WORDS as u32 * bits),
                0,
            )
        };
        match result {
            0 => Ok(()),
            _ => match Errno::from_io_error(&std::io::Error::last_os_error()) {
                Some(Errno::NOSYS) | None => Ok(()),
                Some(errno) => Err(errno),
            },
        }
    }

    /// Fills `buf` from `offset` on. Panics outside the region.
    #[inline]
    pub(crate) fn read(&self, offset: usize, buf: &mut Buf) {
        let from = self.at(offset, buf.len());
        // SAFETY: both ranges are mapped for `buf.len()` bytes; a Buf is pool or peer memory, so it
        // never overlaps this mapping.
        unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) }
    }

    /// Copies `buf` in at `offset`. Panics outside the region.
    #[inline]
    pub(crate) fn write(&self, offset: usize, buf: &Buf) {
        let to = self.at(offset, buf.len());
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(buf.as_ptr(), to, buf.len()) }
    }

    /// Copies bytes in at `offset`. Panics outside the region.
    #[inline]
    pub(crate) fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: both ranges are valid for `bytes.len()` bytes; no slice is ever made of this
        // mapping, so they don't overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Makes a range read as zero and gives its whole pages back. Panics outside the region.
    pub(crate) fn discard(&self, offset: usize, len: usize) {
        let end = offset + len;
        let first = offset.next_multiple_of(self.page_bytes).min(end);
        let last = (end - end % self.page_bytes).max(first);
        self.zero(offset, first - offset);
        self.zero(last, end - last);
        if last > first {
            let pages = self.at(first, last - first);
            // SAFETY: whole pages of this mapping; to other cores it is a store of zeros.
            let given = unsafe { madvise(pages.cast(), last - first, Advice::LinuxDontNeed) };
            if given.is_err() {
                // Locked pages can't be given back.
                self.zero(first, last - first);
            }
        }
    }

    fn zero(&self, offset: usize, len: usize) {
        // SAFETY: in range by `at`.
        unsafe { std::ptr::write_bytes(self.at(offset, len), 0, len) }
    }

    #[inline]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len).expect("offset + length overflows");
        assert!(end <= self.len, "bytes {offset}..{end} of {}", self.len);
        // SAFETY: inside the mapping (or just past it for an empty range) by the assertion.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no copy runs while it is dropped: copies borrow `self`.
        let result = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reactor::Pool;
    use reactor::pool::SizeClass;
    use reactor::sys::memory::Memory;
    use std::sync::Arc;

    #[test]
    fn discard_zeroes_exactly_its_range() {
        let memory = Arc::new(Memory::ordinary(1 << 16).unwrap());
        let mut pool = Pool::new(memory, &[SizeClass { bytes: 1 << 16, count: 1 }]);
        let mut buf = pool.take(1 << 16).unwrap();
        let region = Region::new(1 << 16).unwrap();
        for (start, end) in [(0, 65536), (512, 1024), (4096, 8192), (3584, 12800), (9000, 9000)] {
            buf.fill(0..1 << 16, 0x5a);
            region.write(0, &buf);
            region.discard(start, end - start);
            region.read(0, &mut buf);
            for (at, byte) in buf.private().unwrap().iter().enumerate() {
                let expected = if (start..end).contains(&at) { 0 } else { 0x5a };
                assert_eq!(*byte, expected, "byte {at} after {start}..{end}");
            }
        }
        pool.put(buf);
    }
}
