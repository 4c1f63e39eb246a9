//! The memory an initiator registered: checked copies and loans.
use reactor::pool::Buf;

use super::mapping::Mapping;
use crate::RemoteSeg;

/// All regions of one connection. A descriptor's key is the region's number, its address the byte
/// offset inside. Having one tells you that lent buffers stay mapped: with loans out, dropping it
/// leaks the mappings instead of unmapping them.
#[derive(Debug)]
pub(crate) struct Regions {
    maps: Vec<Mapping>,
    loans: u32,
}

/// A lent buffer on its way home. Having one tells you that nobody can reach its bytes any more.
#[derive(Debug)]
pub(crate) struct Returned {
    owner: u64,
    address: usize,
    len: usize,
}

impl Returned {
    /// Ends the use of a lent buffer. `Err` for a pool buffer.
    #[inline]
    pub(crate) fn of(buf: Buf) -> Result<Returned, Buf> {
        let (address, len) = (buf.as_ptr() as usize, buf.capacity());
        buf.into_peer().map(|owner| Returned { owner, address, len })
    }

    /// The mark given to [`Regions::lend`].
    #[inline]
    pub(crate) fn owner(&self) -> u64 {
        self.owner
    }
}

impl Regions {
    /// Takes over the mappings; their order is their keys.
    pub(crate) fn new(maps: Vec<Mapping>) -> Self {
        Regions { maps, loans: 0 }
    }

    /// Buffers lent out.
    pub(crate) fn loans(&self) -> u32 {
        self.loans
    }

    #[inline]
    fn resolve(&self, seg: &RemoteSeg) -> Option<std::ptr::NonNull<u8>> {
        self.maps.get(seg.key as usize)?.range(seg.addr, u64::from(seg.len))
    }

    /// All of `segs` are inside regions, and together they hold `len` bytes. A segment of no bytes
    /// names nothing, so nothing about it can be wrong.
    #[inline]
    fn cover(&self, segs: &[RemoteSeg], len: usize) -> bool {
        let mut total = 0u64;
        for seg in segs.iter().filter(|seg| seg.len > 0) {
            if self.resolve(seg).is_none() {
                return false;
            }
            total += u64::from(seg.len);
        }
        total >= len as u64
    }

    /// Lends one segment as a buffer, if all of it is inside one region and both its address here
    /// and its length are multiples of `align`, a power of two. `owner` comes back in [`Returned`].
    #[inline(always)]
    pub(crate) fn lend(&mut self, seg: &RemoteSeg, align: u32, owner: u64) -> Option<Buf> {
        let ptr = self.resolve(seg)?;
        debug_assert!(align <= 1 || align.is_power_of_two(), "alignment of {align} bytes");
        let low_bits = align.saturating_sub(1) as usize;
        let unaligned = (ptr.as_ptr() as usize | seg.len as usize) & low_bits;
        if seg.len == 0 || unaligned != 0 {
            return None;
        }
        self.loans += 1;
        // SAFETY: inside a mapping that stays until `loans` is zero again, which takes the
        // `Returned` of this very buffer.
        Some(unsafe { Buf::from_peer(ptr, seg.len, owner) })
    }

    /// Ends a loan. Panics for a buffer that these regions didn't lend.
    #[inline]
    pub(crate) fn take_back(&mut self, returned: Returned) {
        let ours = self.maps.iter().any(|map| map.holds(returned.address, returned.len));
        assert!(ours && self.loans > 0, "a buffer came back to regions that didn't lend it");
        self.loans -= 1;
    }

    /// Copies `buf.len()` bytes from the segments into `buf`. False, and nothing copied, when they
    /// leave the regions or are too short.
    #[inline]
    pub(crate) fn gather(&self, from: &[RemoteSeg], buf: &mut Buf) -> bool {
        if !self.cover(from, buf.len()) {
            return false;
        }
        let mut done = 0;
        for seg in from.iter().filter(|seg| seg.len > 0) {
            let len = (seg.len as usize).min(buf.len() - done);
            let source = self.resolve(seg).expect("checked above").as_ptr();
            // SAFETY: the source is mapped; `done + len` is within the buffer, which this call
            // owns. The two may be the same peer memory, which `copy` allows.
            unsafe { std::ptr::copy(source.cast_const(), buf.as_mut_ptr().add(done), len) };
            done += len;
        }
        true
    }

    /// Copies the first `len` bytes of `buf` to the segments, leaving out what is in place already.
    /// False, and nothing copied, when they leave the regions or are too short.
    #[inline]
    pub(crate) fn scatter(&self, buf: &Buf, len: usize, to: &[RemoteSeg]) -> bool {
        assert!(len <= buf.len(), "{len} bytes of a buffer of {}", buf.len());
        if !self.cover(to, len) {
            return false;
        }
        let mut done = 0;
        for seg in to.iter().filter(|seg| seg.len > 0) {
            let part = (seg.len as usize).min(len - done);
            let target = self.resolve(seg).expect("checked above").as_ptr();
            let source = buf.as_ptr().wrapping_add(done);
            if !std::ptr::eq(source, target) {
                // SAFETY: the target is mapped; `done + part` is within the buffer. The two may
                // overlap, which `copy` allows.
                unsafe { std::ptr::copy(source, target, part) };
            }
            done += part;
        }
        true
    }

    /// Checks the segments as [`Regions::scatter`] does, and copies nothing.
    #[inline]
    pub(crate) fn check(&self, to: &[RemoteSeg], len: usize) -> bool {
        self.cover(to, len)
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        if self.loans > 0 {
            // Memory that somebody still owns must never be unmapped.
            std::mem::forget(std::mem::take(&mut self.maps));
        }
    }
}
