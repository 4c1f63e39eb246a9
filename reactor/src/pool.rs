//! Buffers: registered memory in size classes, with one owner each.
//!
//! A [`Pool`] belongs to one core and carves a [`Memory`] into classes of equal buffers. A [`Buf`]
//! is a value that moves with the operation that uses it: into a device or a fabric, and back with
//! the completion. Whoever holds the `Buf` is the only one that may touch the bytes, so no code can
//! reach memory that hardware owns.
//!
//! A fabric may also lend a range of an initiator's own memory as a `Buf` (see [`Buf::from_peer`]).
//! Such bytes can change at any time, so they are only ever copied, never borrowed.
//!
//! Taking and putting cost one vector pop and push. Nothing allocates after construction.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::sys::memory::Memory;

/// Where a buffer belongs, in one word: it travels with every operation.
///
/// Of a peer's memory the top bit and the lending fabric's own mark. Of a pool's buffer the size
/// class, the registration and the number, 16 bits, 16 bits and 32 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Origin(u64);

const PEER: u64 = 1 << 63;

impl Origin {
    #[inline]
    fn pool(class: u8, fixed: u16, index: u32) -> Origin {
        Origin(u64::from(class) << 48 | u64::from(fixed) << 32 | u64::from(index))
    }

    #[inline]
    fn is_peer(self) -> bool {
        self.0 & PEER != 0
    }

    #[inline]
    fn class(self) -> usize {
        (self.0 >> 48) as usize
    }

    #[inline]
    fn fixed(self) -> u16 {
        (self.0 >> 32) as u16
    }

    #[inline]
    fn index(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_peer() {
            return write!(f, "Peer({:#x})", self.0 & !PEER);
        }
        write!(f, "Pool(class {}, number {})", self.class(), self.index())
    }
}

/// Contiguous memory with one owner. Neither `Clone` nor shareable; goes back to where it came from
/// through [`Pool::put`] or the fabric that lent it.
pub struct Buf {
    ptr: NonNull<u8>,
    len: u32,
    capacity: u32,
    origin: Origin,
}

const _: () = assert!(size_of::<Option<Buf>>() == 24);

// SAFETY: a Buf is the only owner of its bytes; moving it to another thread moves that ownership.
unsafe impl Send for Buf {}

impl Buf {
    /// A buffer in memory that a peer lends and may write at any time. `owner` is the lender's own
    /// mark, below 2^63.
    ///
    /// # Safety
    /// `ptr..ptr + len` stays mapped readable and writable until the lender takes the `Buf` back
    /// through [`Buf::into_peer`].
    #[inline]
    pub unsafe fn from_peer(ptr: NonNull<u8>, len: u32, owner: u64) -> Self {
        assert!(owner < PEER, "mark {owner:#x} is too large");
        Buf { ptr, len, capacity: len, origin: Origin(PEER | owner) }
    }

    /// Ends a loan: the mark that [`Buf::from_peer`] was given. `Err` for a pool buffer.
    #[inline]
    pub fn into_peer(self) -> Result<u64, Buf> {
        if !self.is_peer() {
            return Err(self);
        }
        let owner = self.origin.0 & !PEER;
        std::mem::forget(self);
        Ok(owner)
    }

    /// True for memory that a peer lent.
    #[inline]
    pub fn is_peer(&self) -> bool {
        self.origin.is_peer()
    }

    /// Bytes in use.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True when no byte is in use.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes there are.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Sets the bytes in use, at most the capacity.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity as usize, "length {len} beyond capacity {}", self.capacity);
        self.len = len as u32;
    }

    /// First byte. Reading through it obeys the ownership rule of this type.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// First byte, for a writer.
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The registration (io_uring fixed buffer) that covers this buffer, if one does.
    #[inline]
    pub fn fixed(&self) -> Option<u16> {
        (!self.is_peer()).then(|| self.origin.fixed())
    }

    /// The bytes, unless a peer can change them meanwhile.
    #[inline]
    pub fn private(&self) -> Option<&[u8]> {
        if self.is_peer() {
            return None;
        }
        // SAFETY: pool memory, mapped and initialised as long as the Buf lives; `&self` borrows the
        // only owner.
        Some(unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len as usize) })
    }

    /// The bytes for writing, unless a peer can change them meanwhile.
    #[inline]
    pub fn private_mut(&mut self) -> Option<&mut [u8]> {
        if self.is_peer() {
            return None;
        }
        // SAFETY: as in `private`; `&mut self` is exclusive.
        Some(unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len as usize) })
    }

    /// Copies bytes out, from `offset`. Panics beyond the length.
    #[inline]
    pub fn read_at(&self, offset: usize, to: &mut [u8]) {
        self.check(offset, to.len());
        // SAFETY: in range by the check; `to` is a distinct exclusive borrow.
        unsafe {
            std::ptr::copy_nonoverlapping(self.ptr.as_ptr().add(offset), to.as_mut_ptr(), to.len())
        }
    }

    /// Copies bytes in, at `offset`. Panics beyond the length.
    #[inline]
    pub fn write_at(&mut self, offset: usize, from: &[u8]) {
        self.check(offset, from.len());
        // SAFETY: in range by the check; `from` cannot overlap memory that `&mut self` owns.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.ptr.as_ptr().add(offset), from.len())
        }
    }

    /// Sets a range of bytes. Panics beyond the length.
    pub fn fill(&mut self, range: Range<usize>, byte: u8) {
        self.check(range.start, range.len());
        // SAFETY: in range by the check.
        unsafe { std::ptr::write_bytes(self.ptr.as_ptr().add(range.start), byte, range.len()) }
    }

    #[inline]
    fn check(&self, offset: usize, len: usize) {
        let end = offset.checked_add(len).expect("offset + length overflows");
        assert!(end <= self.len as usize, "bytes {offset}..{end} beyond length {}", self.len);
    }
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buf")
            .field("len", &self.len)
            .field("capacity", &self.capacity)
            .field("origin", &self.origin)
            .finish()
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        // Losing a buffer is safe but starves the pool: it is a bug of ours.
        debug_assert!(std::thread::panicking(), "a buffer was dropped instead of given back");
    }
}

/// How many buffers of one size a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeClass {
    /// Bytes of each buffer, a multiple of 4096.
    pub bytes: u32,
    /// Buffers.
    pub count: u32,
}

/// Free and total buffers of one size class, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassCount {
    /// Bytes of each buffer.
    pub bytes: u32,
    /// Buffers in all.
    pub total: u32,
    /// Buffers at home.
    pub free: u32,
}

struct Class {
    bytes: u32,
    total: u32,
    base: usize,
    free: Vec<u32>,
}

/// One core's buffers, in ascending size classes over one piece of registered memory.
pub struct Pool {
    memory: Arc<Memory>,
    classes: Vec<Class>,
}

impl Pool {
    /// Carves `memory` into `classes` (ascending sizes). Panics when they don't fit: the plan is
    /// ours, made in `limits`.
    pub fn new(memory: Arc<Memory>, classes: &[SizeClass]) -> Self {
        assert!(classes.is_sorted_by(|a, b| a.bytes < b.bytes), "size classes must ascend");
        let mut offset = 0usize;
        let classes = classes
            .iter()
            .map(|class| {
                assert!(class.bytes % 4096 == 0, "class of {} bytes: not whole pages", class.bytes);
                let base = offset;
                offset += class.bytes as usize * class.count as usize;
                let free = (0..class.count).rev().collect();
                Class { bytes: class.bytes, total: class.count, base, free }
            })
            .collect();
        assert!(offset <= memory.len(), "classes need {offset} of {} bytes", memory.len());
        Pool { memory, classes }
    }

    /// A buffer of the smallest class that holds `len` bytes and has one free. `None` when every
    /// fitting class is empty; the caller keeps its command waiting.
    #[inline]
    pub fn take(&mut self, len: usize) -> Option<Buf> {
        for (number, class) in self.classes.iter_mut().enumerate() {
            if (class.bytes as usize) < len {
                continue;
            }
            if let Some(index) = class.free.pop() {
                let offset = class.base + index as usize * class.bytes as usize;
                return Some(Buf {
                    ptr: self.memory.at(offset),
                    len: len as u32,
                    capacity: class.bytes,
                    origin: Origin::pool(number as u8, self.memory.chunk_of(offset), index),
                });
            }
        }
        None
    }

    /// Takes a buffer home. Panics for one that is not this pool's.
    #[inline]
    pub fn put(&mut self, buf: Buf) {
        assert!(!buf.is_peer(), "a peer's memory was given to the pool");
        let index = buf.origin.index();
        let class = &mut self.classes[buf.origin.class()];
        debug_assert!(!class.free.contains(&index), "buffer given back twice");
        class.free.push(index);
        std::mem::forget(buf);
    }

    /// The memory to register with devices and fabrics.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Bytes of the largest buffer.
    pub fn buf_bytes_max(&self) -> usize {
        self.classes.last().map_or(0, |class| class.bytes as usize)
    }

    /// Buffers at home and in all, per class.
    pub fn counts(&self) -> impl Iterator<Item = ClassCount> {
        self.classes.iter().map(|class| ClassCount {
            bytes: class.bytes,
            total: class.total,
            free: class.free.len() as u32,
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Memory that somebody still owns must never be unmapped.
        if self.counts().any(|count| count.free != count.total) {
            std::mem::forget(Arc::clone(&self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        let memory = Memory::ordinary(64 * 1024).expect("ordinary memory");
        Pool::new(
            Arc::new(memory),
            &[SizeClass { bytes: 4096, count: 2 }, SizeClass { bytes: 16384, count: 1 }],
        )
    }

    #[test]
    fn small_requests_take_small_buffers_until_they_run_out() {
        let mut pool = pool();
        let a = pool.take(4096).unwrap();
        let b = pool.take(1).unwrap();
        assert_eq!((a.capacity(), b.capacity(), b.len()), (4096, 4096, 1));
        let c = pool.take(1).unwrap();
        assert_eq!(c.capacity(), 16384);
        assert!(pool.take(1).is_none());
        assert!(pool.take(16385).is_none());
        for buf in [a, b, c] {
            pool.put(buf);
        }
        assert!(pool.counts().all(|count| count.free == count.total));
    }

    #[test]
    fn buffers_do_not_overlap() {
        let mut pool = pool();
        let mut bufs: Vec<_> = (0..3).map(|_| pool.take(4096).unwrap()).collect();
        for (index, buf) in bufs.iter_mut().enumerate() {
            buf.fill(0..4096, index as u8 + 1);
        }
        for (index, buf) in bufs.iter().enumerate() {
            assert!(buf.private().unwrap().iter().all(|byte| *byte == index as u8 + 1));
        }
        bufs.into_iter().for_each(|buf| pool.put(buf));
    }

    #[test]
    #[should_panic(expected = "beyond length")]
    fn copies_stay_inside() {
        let mut pool = pool();
        let mut buf = pool.take(100).unwrap();
        buf.write_at(99, &[0, 0]);
    }
}
