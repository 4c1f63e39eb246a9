//! Memory that is registered once with every device and fabric.
//!
//! A [`Memory`] is one mapping of a memfd: hugepages if they are wanted and there, else ordinary
//! pages, locked as far as the system allows. [`PageReport`] says what it became and why.
//!
//! Touching it never faults for want of a page: every page is there before [`Memory::new`] returns,
//! and the memfd is sealed, so that nobody who holds it can shrink it. The bytes themselves are
//! governed by the one owner of each [`crate::Buf`].

use std::fmt;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};

/// A mapping for one core's pool. Having one tells you that `len` bytes from `at(0)` are mapped
/// readable and writable, zero at first, until it is dropped.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    len: usize,
    fd: Option<OwnedFd>,
}

// SAFETY: a Memory is only addresses; access to the bytes is governed by `Buf`.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// A size of page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageKind {
    /// The system's default, usually 4 KiB.
    Ordinary,
    /// 2 MiB.
    Huge2M,
    /// 1 GiB.
    Huge1G,
}

/// What pages the operator wants. What can't be had becomes the next smaller kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PageWish {
    /// 1 GiB, else 2 MiB, else ordinary pages.
    Huge1G,
    /// 2 MiB, else ordinary pages.
    #[default]
    Huge2M,
    /// Ordinary pages.
    Ordinary,
}

/// Why memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The mapping failed.
    #[error("mapping {bytes} bytes: {errno}")]
    Map {
        /// Bytes asked for.
        bytes: usize,
        /// The system's reason.
        errno: Errno,
    },
    /// The system has not that much: filling it would end in the out-of-memory killer.
    #[error(
        "{bytes} bytes of memory wanted, {available} available (MemAvailable in /proc/meminfo)"
    )]
    TooMuch {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes there are.
        available: usize,
    },
}

/// Hugepages that could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRefusal {
    /// Which.
    pub kind: PageKind,
    /// How many it takes.
    pub needed: usize,
    /// How many are free and how many there are in all; `None`: the kernel has no such pages.
    pub free_and_total: Option<(usize, usize)>,
    /// The system's reason.
    pub errno: Errno,
}

/// What a [`Memory`] is made of. Prints as one notice for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageReport {
    /// Pages in use.
    pub kind: PageKind,
    /// Bytes mapped: what was asked for, rounded up to whole pages.
    pub bytes: usize,
    /// Wanted kinds that could not be had, largest first.
    pub refused: Vec<PageRefusal>,
    /// The pages stay in memory (hugepages always do), or why they may be swapped out.
    pub locked: Result<(), LockRefusal>,
}

/// Why pages could not be locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRefusal {
    /// The system's reason.
    pub errno: Errno,
    /// The process's limit of locked bytes (`RLIMIT_MEMLOCK`); `None`: no limit.
    pub limit_bytes: Option<u64>,
}

impl PageKind {
    /// Bytes of a page.
    pub fn bytes(self) -> usize {
        match self {
            PageKind::Ordinary => rustix::param::page_size(),
            PageKind::Huge2M => 2 << 20,
            PageKind::Huge1G => 1 << 30,
        }
    }

    fn memfd_flags(self) -> MemfdFlags {
        match self {
            PageKind::Ordinary => MemfdFlags::empty(),
            PageKind::Huge2M => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            PageKind::Huge1G => MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB,
        }
    }

    /// Where the kernel counts this kind. Not `/proc/sys/vm/nr_hugepages`: that one counts whatever
    /// size is the default.
    fn folder(self) -> String {
        format!("/sys/kernel/mm/hugepages/hugepages-{}kB", self.bytes() / 1024)
    }

    fn free_and_total(self) -> Option<(usize, usize)> {
        let count = |name| -> Option<usize> {
            fs::read_to_string(format!("{}/{name}", self.folder())).ok()?.trim().parse().ok()
        };
        // Reserved pages are counted as free until they are touched.
        let reserved = count("resv_hugepages").unwrap_or(0);
        Some((count("free_hugepages")?.saturating_sub(reserved), count("nr_hugepages")?))
    }
}

impl PageWish {
    /// Hugepages to try, in order.
    fn hugepages(self) -> &'static [PageKind] {
        match self {
            PageWish::Huge1G => &[PageKind::Huge1G, PageKind::Huge2M],
            PageWish::Huge2M => &[PageKind::Huge2M],
            PageWish::Ordinary => &[],
        }
    }
}

impl PageReport {
    /// True when the operator got less than wanted: other pages, or pages that may be swapped out.
    pub fn is_less_than_wanted(&self) -> bool {
        !self.refused.is_empty() || self.locked.is_err()
    }
}

impl Memory {
    /// At least `len` bytes on the wanted pages or the next best, every page in place. Runs for as
    /// long as zeroing the bytes takes. The report is for the operator: one notice.
    pub fn new(len: usize, wanted: PageWish) -> Result<(Memory, PageReport), MemoryError> {
        let mut refused = Vec::new();
        for &kind in wanted.hugepages() {
            match map_memfd(len, kind) {
                Ok(memory) => {
                    let bytes = memory.len;
                    return Ok((memory, PageReport { kind, bytes, refused, locked: Ok(()) }));
                }
                Err(errno) => refused.push(PageRefusal {
                    kind,
                    needed: len.div_ceil(kind.bytes()),
                    free_and_total: kind.free_and_total(),
                    errno,
                }),
            }
        }
        if let Some(available) = available_bytes().filter(|available| *available < len) {
            return Err(MemoryError::TooMuch { bytes: len, available });
        }
        let kind = PageKind::Ordinary;
        let memory =
            map_memfd(len, kind).map_err(|errno| MemoryError::Map { bytes: len, errno })?;
        let report = PageReport { kind, bytes: memory.len, refused, locked: memory.lock() };
        Ok((memory, report))
    }

    /// Private anonymous pages of the default size, neither in place nor locked beforehand.
    pub fn ordinary(len: usize) -> Result<Memory, MemoryError> {
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .map_err(|errno| MemoryError::Map { bytes: len, errno })?;
        Ok(Memory::of(base, len, None))
    }

    fn of(base: *mut std::ffi::c_void, len: usize, fd: Option<OwnedFd>) -> Memory {
        Memory { base: NonNull::new(base.cast()).expect("mmap never maps at null"), len, fd }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for an empty mapping.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memfd behind the mapping, offset 0 at `at(0)`; `None` for anonymous memory. Whoever gets
    /// it can read and write every buffer.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
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

    /// Puts every page in place, so that no later touch can fail.
    fn populate(&self) -> Result<(), Errno> {
        // SAFETY: the range is this mapping; the advice changes no bytes.
        let result = unsafe {
            rustix::mm::madvise(self.base.as_ptr().cast(), self.len, Advice::LinuxPopulateWrite)
        };
        match (result, &self.fd) {
            // A kernel before 5.14: the file can be given its pages instead.
            (Err(Errno::INVAL), Some(fd)) => {
                rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, self.len as u64)
            }
            (result, _) => result,
        }
    }

    fn lock(&self) -> Result<(), LockRefusal> {
        // SAFETY: the range is this mapping; locking changes no bytes.
        let result = unsafe { rustix::mm::mlock(self.base.as_ptr().cast(), self.len) };
        result.map_err(|errno| LockRefusal {
            errno,
            limit_bytes: getrlimit(Resource::Memlock).current,
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours; `Pool` keeps the Memory alive while a Buf is out.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(result.is_ok());
    }
}

/// A shared mapping of a new memfd, every page in place.
fn map_memfd(len: usize, kind: PageKind) -> Result<Memory, Errno> {
    let len = len.checked_next_multiple_of(kind.bytes()).ok_or(Errno::NOMEM)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | kind.memfd_flags();
    let fd = rustix::fs::memfd_create("reactor_memory", flags)?;
    rustix::fs::ftruncate(&fd, len as u64)?;
    // A peer that shrank the file would make us fault on our own memory.
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    // SAFETY: a new mapping at an address of the kernel's choice. Without NORESERVE it takes the
    // hugepages now; memfd_create and ftruncate succeed even where there are none.
    let base = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &fd,
            0,
        )
    }?;
    let memory = Memory::of(base, len, Some(fd));
    // A reservation does not know of control groups and memory policies; a page in place does.
    memory.populate()?;
    Ok(memory)
}

/// Memory that can be had without swapping. `None` where the system does not say.
fn available_bytes() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

impl fmt::Display for PageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PageKind::Ordinary => "ordinary pages",
            PageKind::Huge2M => "2 MiB hugepages",
            PageKind::Huge1G => "1 GiB hugepages",
        })
    }
}

impl fmt::Display for PageRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PageRefusal { kind, needed, free_and_total, errno } = self;
        let Some((free, total)) = free_and_total else {
            return write!(f, "no {kind}: the kernel does not offer them ({errno})");
        };
        write!(f, "no {kind}: {needed} needed, {free} free ({errno})")?;
        let more = total + needed.saturating_sub(*free);
        write!(f, "; to get some: echo {more} > {}/nr_hugepages", kind.folder())
    }
}

impl fmt::Display for PageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB of memory on {}", self.bytes / 1024, self.kind)?;
        for refusal in &self.refused {
            write!(f, "; {refusal}")?;
        }
        let Err(LockRefusal { errno, limit_bytes }) = self.locked else { return Ok(()) };
        write!(f, "; not locked, may be swapped out ({errno}")?;
        match limit_bytes {
            Some(limit) => write!(f, ", limit {} KiB, see ulimit -l)", limit / 1024),
            None => f.write_str(")"),
        }
    }
}

#[cfg(test)]
mod tests;
