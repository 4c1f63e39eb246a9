//! Memory that devices reach.
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use reactor::pool::Buf;
use reactor::sys::memory::Memory;

use super::abi::*;
use super::device::Device;
use super::{RdmaError, last};

/// A registration. Having one tells you that the mapping under it stays, and that devices reach
/// nothing outside of it through its keys.
struct Mr {
    mr: NonNull<ibv_mr>,
    device: Arc<Device>,
    // Dropped last.
    _memory: Arc<Memory>,
}

// SAFETY: a registration is only keys; access to the bytes is its users' business.
unsafe impl Send for Mr {}
// SAFETY: as above.
unsafe impl Sync for Mr {}

impl Mr {
    fn new(
        device: &Arc<Device>,
        memory: &Arc<Memory>,
        base: NonNull<u8>,
        len: usize,
        access: i32,
    ) -> Result<Mr, RdmaError> {
        let address: *mut c_void = base.as_ptr().cast();
        // SAFETY: the range is part of `memory`, which the value keeps mapped.
        let mr = unsafe { (device.library().verbs.ibv_reg_mr)(device.pd(), address, len, access) };
        let mr = NonNull::new(mr)
            .ok_or_else(|| last("registering memory (is the limit of locked memory too low?)"))?;
        Ok(Mr { mr, device: Arc::clone(device), _memory: Arc::clone(memory) })
    }

    #[inline]
    fn lkey(&self) -> u32 {
        // SAFETY: the registration exists.
        unsafe { (*self.mr.as_ptr()).lkey }
    }

    fn rkey(&self) -> u32 {
        // SAFETY: the registration exists.
        unsafe { (*self.mr.as_ptr()).rkey }
    }
}

impl Drop for Mr {
    fn drop(&mut self) {
        // SAFETY: ours, and nobody else has the pointer.
        unsafe { (self.device.library().verbs.ibv_dereg_mr)(self.mr.as_ptr()) };
    }
}

/// A range of registered memory as work requests name it. Having one tells you that the range was
/// inside its registration when it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local(pub(super) ibv_sge);

/// Memory of our own, registered with one device.
pub(crate) struct Region {
    mr: Mr,
    memory: Arc<Memory>,
}

impl Region {
    /// Zeroed pages that the device reads and writes at our request only.
    pub(crate) fn private(device: &Arc<Device>, bytes: usize) -> Result<Region, RdmaError> {
        Self::new(device, bytes, IBV_ACCESS_LOCAL_WRITE)
    }

    /// Zeroed pages that a peer may read and write.
    pub(crate) fn shared(device: &Arc<Device>, bytes: usize) -> Result<Region, RdmaError> {
        let access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
        Self::new(device, bytes, access)
    }

    fn new(device: &Arc<Device>, bytes: usize, access: i32) -> Result<Region, RdmaError> {
        let bytes = bytes.max(1).next_multiple_of(4096);
        let memory = Memory::ordinary(bytes)
            .map_err(|error| RdmaError { what: "memory", reason: std::io::Error::other(error) })?;
        let memory = Arc::new(memory);
        let mr = Mr::new(device, &memory, memory.at(0), bytes, access)?;
        Ok(Region { mr, memory })
    }

    /// The address that a peer uses for a byte.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        self.memory.at(offset).as_ptr() as u64
    }

    /// The key that a peer uses.
    pub(crate) fn remote_key(&self) -> u32 {
        self.mr.rkey()
    }

    /// A range for a work request. Panics outside.
    #[inline]
    pub(crate) fn local(&self, offset: usize, len: u32) -> Local {
        let addr = self.checked(offset, len as usize).as_ptr() as u64;
        Local(ibv_sge { addr, length: len, lkey: self.mr.lkey() })
    }

    /// Copies bytes out, whatever a device does to them meanwhile. Panics outside.
    #[inline]
    pub(crate) fn read_at(&self, offset: usize, to: &mut [u8]) {
        let from = self.checked(offset, to.len());
        // SAFETY: inside the mapping by the check; `to` is elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) }
    }

    /// Copies bytes in, whatever a device does to them meanwhile. Panics outside.
    #[inline]
    pub(crate) fn write_at(&self, offset: usize, from: &[u8]) {
        let to = self.checked(offset, from.len());
        // SAFETY: inside the mapping by the check; `from` is elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) }
    }

    #[inline]
    fn checked(&self, offset: usize, len: usize) -> NonNull<u8> {
        let end = offset.checked_add(len).expect("offset + length overflows");
        assert!(end <= self.memory.len(), "bytes {offset}..{end} of {}", self.memory.len());
        self.memory.at(offset.min(self.memory.len() - 1))
    }
}

/// The registrations of a pool's memory with one device.
pub(crate) struct PoolKeys {
    chunks: Vec<Mr>,
    memory: Arc<Memory>,
}

impl PoolKeys {
    /// Registers all of `memory`.
    pub(crate) fn new(device: &Arc<Device>, memory: &Arc<Memory>) -> Result<PoolKeys, RdmaError> {
        let chunks = memory
            .chunks()
            .map(|(base, len)| Mr::new(device, memory, base, len, IBV_ACCESS_LOCAL_WRITE))
            .collect::<Result<_, _>>()?;
        Ok(PoolKeys { chunks, memory: Arc::clone(memory) })
    }

    /// Bytes from a place in a pool buffer to the end of the registration that it is in.
    #[inline]
    pub(crate) fn reach(&self, buf: &Buf, offset: usize) -> u32 {
        let from_base = buf.as_ptr() as usize + offset - self.memory.at(0).as_ptr() as usize;
        (Memory::CHUNK_BYTES - from_base % Memory::CHUNK_BYTES) as u32
    }

    /// A range of a pool buffer, not beyond [`PoolKeys::reach`]. Panics outside of the buffer's
    /// capacity and for a buffer of another pool.
    #[inline]
    pub(crate) fn local(&self, buf: &Buf, offset: usize, len: u32) -> Local {
        assert!(offset + len as usize <= buf.capacity(), "range beyond the buffer");
        let addr = buf.as_ptr() as usize + offset;
        let base = self.memory.at(0).as_ptr() as usize;
        let from_base = addr.wrapping_sub(base);
        assert!(from_base < self.memory.len(), "a buffer of another pool");
        let chunk = &self.chunks[usize::from(self.memory.chunk_of(from_base))];
        Local(ibv_sge { addr: addr as u64, length: len, lkey: chunk.lkey() })
    }
}

/// Receive slots of equal size in one region. Knows which slots hold an information unit that is
/// being read, and lends bytes of those only: the device writes the others.
pub(crate) struct ReceiveArea {
    region: Region,
    slot_bytes: u32,
    stride: usize,
    held: Vec<bool>,
}

impl ReceiveArea {
    /// `slots` slots of `slot_bytes` bytes; all of them are the device's to fill.
    pub(crate) fn new(
        device: &Arc<Device>,
        slots: u32,
        slot_bytes: u32,
    ) -> Result<Self, RdmaError> {
        let stride = (slot_bytes as usize).next_multiple_of(64);
        let region = Region::private(device, stride * slots as usize)?;
        Ok(ReceiveArea { region, slot_bytes, stride, held: vec![false; slots as usize] })
    }

    /// Slots.
    pub(crate) fn slots(&self) -> u32 {
        self.held.len() as u32
    }

    /// A slot for a receive. The slot is the device's until [`ReceiveArea::hold`].
    #[inline]
    pub(crate) fn local(&mut self, slot: u32) -> Local {
        self.held[slot as usize] = false;
        self.region.local(slot as usize * self.stride, self.slot_bytes)
    }

    /// The device has filled a slot. False for a slot that does not exist or was held already.
    #[inline]
    pub(crate) fn hold(&mut self, slot: u32) -> bool {
        match self.held.get_mut(slot as usize) {
            Some(held) => !std::mem::replace(held, true),
            None => false,
        }
    }

    /// The first `len` bytes of a held slot. Panics for one that is not.
    #[inline]
    pub(crate) fn bytes(&self, slot: u32, len: u32) -> &[u8] {
        assert!(self.held[slot as usize], "receive {slot} belongs to the device");
        assert!(len <= self.slot_bytes, "{len} bytes of a receive of {}", self.slot_bytes);
        let base = self.region.checked(slot as usize * self.stride, len as usize);
        // SAFETY: inside the mapping by the check; the device writes no held slot, and giving it
        // back (`local`) takes the area exclusively.
        unsafe { std::slice::from_raw_parts(base.as_ptr(), len as usize) }
    }
}
