//! Memory that two processes share.
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
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
pub struct Mapping {
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
pub enum MapError {
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
pub fn sealed_file(name: &str, bytes: usize) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let bytes = bytes.max(1).checked_next_multiple_of(4096).ok_or(Errno::NOMEM)?;
    rustix::fs::ftruncate(&fd, bytes as u64)?;
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(fd)
}

impl Mapping {
    /// Maps the whole of a memory file of at most `bytes_max` bytes, if its seals keep the promise
    /// of this type.
    pub fn of_sealed(fd: impl AsFd, bytes_max: u64) -> Result<Mapping, MapError> {
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
    pub fn len(&self) -> usize {
        self.len
    }

    /// Address of the first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Address of a range, if all of it is inside.
    #[inline]
    pub(super) fn range(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        if end > self.len as u64 {
            return None;
        }
        // SAFETY: `offset` is at most `len`, so the result is inside the mapping or one past it.
        Some(unsafe { self.base.add(offset as usize) })
    }

    /// True for an address range inside this mapping.
    pub(super) fn holds(&self, address: usize, len: usize) -> bool {
        let base = self.base.as_ptr() as usize;
        address >= base && address - base <= self.len && len <= self.len - (address - base)
    }

    /// Copies bytes out. Panics beyond the end.
    #[inline]
    pub fn read_at(&self, offset: usize, to: &mut [u8]) {
        let from = self.range(offset as u64, to.len() as u64).expect("range inside the mapping");
        // SAFETY: the range is mapped; `to` is private memory that no mapping overlaps.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) }
    }

    /// Copies bytes in. Panics beyond the end.
    #[inline]
    pub fn write_at(&self, offset: usize, from: &[u8]) {
        let to = self.range(offset as u64, from.len() as u64).expect("range inside the mapping");
        // SAFETY: as in `read_at`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) }
    }

    /// An aligned word, which the other process may change at any time. Panics beyond the end.
    #[inline]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8), "word at {offset}: not aligned");
        let at = self.range(offset as u64, 8).expect("word inside the mapping");
        // SAFETY: mapped, aligned (the base is page-aligned), valid for any bits, and lives as
        // long as the mapping.
        unsafe { AtomicU64::from_ptr(at.as_ptr().cast()) }
    }
}

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 128;
/// Bytes of a unit that fit into a slot, behind its header word.
pub const INLINE_BYTES: usize = SLOT_BYTES - 8;
/// Bytes of a unit that is copied without asking for its length: the shortest response of SRP.
const SHORT_BYTES: usize = 36;

/// Slots of a mapping, each a header word and the bytes of a unit. Having one tells you that all of
/// them are mapped and aligned, and that their number is a power of two: a number is taken modulo
/// that, so no access can leave them.
#[derive(Debug)]
pub struct SlotArray {
    base: NonNull<u8>,
    mask: u32,
    /// Keeps the bytes mapped.
    _mapping: Arc<Mapping>,
}

// SAFETY: as for Mapping, which is kept alive.
unsafe impl Send for SlotArray {}

impl SlotArray {
    /// `count` slots from `offset` on. Panics when they are not all inside, not aligned to a cache
    /// line, or no power of two.
    pub fn new(mapping: Arc<Mapping>, offset: usize, count: u32) -> SlotArray {
        assert!(count.is_power_of_two() && offset.is_multiple_of(64), "{count} slots at {offset}");
        let bytes = u64::from(count) * SLOT_BYTES as u64;
        let base = mapping.range(offset as u64, bytes).expect("slots inside the mapping");
        SlotArray { base, mask: count - 1, _mapping: mapping }
    }

    /// The header word, which the other process may change at any time.
    #[inline]
    pub fn header(&self, number: u32) -> &AtomicU64 {
        let slot = (number & self.mask) as usize * SLOT_BYTES;
        // SAFETY: below the number of slots, all of which are mapped as long as `self`; aligned to
        // a cache line, and valid for any bits.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(slot).cast()) }
    }

    #[inline]
    fn body(&self, number: u32) -> *mut u8 {
        let slot = (number & self.mask) as usize * SLOT_BYTES;
        // SAFETY: inside the mapping, as above; the slot is longer than its header.
        unsafe { self.base.as_ptr().add(slot + 8) }
    }

    /// Copies all of a slot but its header: a copy of known size needs no call.
    #[inline]
    pub fn read(&self, number: u32, to: &mut [u8; INLINE_BYTES]) {
        // SAFETY: `body` is INLINE_BYTES mapped bytes; `to` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(self.body(number), to.as_mut_ptr(), INLINE_BYTES) }
    }

    /// Copies a unit out from behind the header. Panics for one that is longer than
    /// [`INLINE_BYTES`].
    #[inline]
    pub fn read_unit(&self, number: u32, to: &mut [u8]) {
        assert!(to.len() <= INLINE_BYTES, "unit of {} bytes", to.len());
        // SAFETY: `body` is INLINE_BYTES mapped bytes; `to` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(self.body(number), to.as_mut_ptr(), to.len()) }
    }

    /// Copies a unit behind the header. Panics for one that is longer than [`INLINE_BYTES`].
    #[inline]
    pub fn write(&self, number: u32, unit: &[u8]) {
        let to = self.body(number);
        if unit.len() == SHORT_BYTES {
            // SAFETY: as below, with a length that is known here.
            return unsafe { std::ptr::copy_nonoverlapping(unit.as_ptr(), to, SHORT_BYTES) };
        }
        assert!(unit.len() <= INLINE_BYTES, "unit of {} bytes", unit.len());
        // SAFETY: `to` is INLINE_BYTES mapped bytes; `unit` is private memory.
        unsafe { std::ptr::copy_nonoverlapping(unit.as_ptr(), to, unit.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, and no reference to it outlives `self`.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok());
    }
}
