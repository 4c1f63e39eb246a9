//! The receives of a connection: private copies of the information units of a peer.
use rustix::io::Errno;

use super::ring::{Consumer, INLINE_BYTES, overflow_stride};
use super::sys::Pages;
use crate::Recv;

/// Receives of a connection, for reports and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveCount {
    /// Ready for an information unit.
    pub home: u32,
    /// In all: the login's credits and [`super::RESPONSE_RECVS`].
    pub total: u32,
}

/// A private copy of a small information unit, in cache lines of its own.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Small([u8; INLINE_BYTES]);

/// Private copies of information units: small ones close together, large ones in an area of which
/// only the touched pages exist, and none once the connection is gone.
#[derive(Debug, Default)]
pub(super) struct Receives {
    free: Vec<u32>,
    total: u32,
    small: Vec<Small>,
    large: Pages,
    stride: usize,
}

impl Receives {
    /// `count` receives, all of them home. Fails when the system has no room for the mapping.
    pub(super) fn new(count: u32, iu_bytes_max: u32) -> Result<Self, Errno> {
        let long = iu_bytes_max as usize > INLINE_BYTES;
        let stride = if long { overflow_stride(iu_bytes_max) } else { 0 };
        Ok(Receives {
            free: (0..count).rev().collect(),
            total: count,
            small: vec![Small([0; INLINE_BYTES]); count as usize],
            large: Pages::zeroed(count as usize * stride)?,
            stride,
        })
    }

    /// How many are home, and how many there are.
    pub(super) fn count(&self) -> ReceiveCount {
        ReceiveCount { home: self.free.len() as u32, total: self.total }
    }

    /// Takes one that is home.
    #[inline(always)]
    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// The bytes of a receive that is out.
    #[inline(always)]
    pub(super) fn iu(&self, recv: &Recv) -> &[u8] {
        let len = recv.len as usize;
        match self.small[recv.index as usize].0.get(..len) {
            Some(iu) => iu,
            None => &self.large[recv.index as usize * self.stride..][..len],
        }
    }

    /// A receive that is out comes home.
    #[inline]
    pub(super) fn put(&mut self, recv: Recv) {
        debug_assert!(!self.free.contains(&recv.index), "receive given back twice");
        assert!(self.free.len() < self.total as usize, "more receives than there are");
        self.free.push(recv.index);
    }

    /// Copies the unit of `len` bytes that a ring has into a receive.
    #[inline]
    pub(super) fn fill(&mut self, recv: &Recv, ring: &mut Consumer) {
        let (index, len) = (recv.index as usize, recv.len as usize);
        if len <= INLINE_BYTES {
            ring.take_inline(&mut self.small[index].0);
        } else {
            ring.take(&mut self.large[index * self.stride..][..len]);
        }
    }
}
