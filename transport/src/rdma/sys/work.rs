//! Chains of work requests.
use std::ptr;

use super::abi::*;
use super::memory::Local;

/// Send work requests that go to a queue pair with one doorbell.
pub(crate) struct SendChain {
    requests: Vec<ibv_send_wr>,
    segments: Vec<ibv_sge>,
    segments_max: usize,
}

// SAFETY: the pointers inside are set by `link` right before each use.
unsafe impl Send for SendChain {}

impl SendChain {
    /// Room for `requests_max` requests of up to `segments_max` segments. Never allocates again.
    pub(crate) fn new(requests_max: usize, segments_max: usize) -> Self {
        SendChain {
            requests: Vec::with_capacity(requests_max),
            segments: Vec::with_capacity(requests_max * segments_max),
            segments_max,
        }
    }

    /// Requests in the chain.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// How many more requests fit.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.requests.capacity() - self.requests.len()
    }

    /// Appends an RDMA READ of the peer's bytes at `address` into `to`.
    #[inline]
    pub(crate) fn read(&mut self, id: u64, to: Local, address: u64, key: u32) {
        self.push(id, IBV_WR_RDMA_READ, &[to], address, key);
    }

    /// Appends an RDMA WRITE of `from`, one after the other, to the peer's `address`.
    #[inline]
    pub(crate) fn write(&mut self, id: u64, from: &[Local], address: u64, key: u32) {
        self.push(id, IBV_WR_RDMA_WRITE, from, address, key);
    }

    /// Appends a SEND. `inline`: its bytes are copied into the request when it is posted, which
    /// saves the device a look at memory; the queue pair must admit as many (`Qp::inline_max`).
    #[inline]
    pub(crate) fn send(&mut self, id: u64, from: Local, solicited: bool, inline: bool) {
        self.push(id, IBV_WR_SEND, &[from], 0, 0);
        if let Some(request) = self.requests.last_mut() {
            request.send_flags |= if solicited { IBV_SEND_SOLICITED } else { 0 };
            request.send_flags |= if inline { IBV_SEND_INLINE } else { 0 };
        }
    }

    /// The last request reports its completion.
    #[inline]
    pub(crate) fn signal_last(&mut self) {
        if let Some(request) = self.requests.last_mut() {
            request.send_flags |= IBV_SEND_SIGNALED;
        }
    }

    #[inline]
    fn push(&mut self, id: u64, opcode: i32, locals: &[Local], address: u64, key: u32) {
        assert!(self.room() > 0 && locals.len() <= self.segments_max, "send chain overflow");
        self.segments.extend(locals.iter().map(|local| local.0));
        self.requests.push(ibv_send_wr {
            wr_id: id,
            next: ptr::null_mut(),
            sg_list: ptr::null_mut(),
            num_sge: locals.len() as i32,
            opcode,
            send_flags: 0,
            imm_data: 0,
            remote_addr: address,
            rkey: key,
            rest: [0; 9],
        });
    }

    /// Sets the pointers between requests and segments; the first request.
    pub(super) fn link(&mut self) -> Option<*mut ibv_send_wr> {
        let mut segment = self.segments.as_mut_ptr();
        let mut next = ptr::null_mut();
        let first = self.requests.as_mut_ptr();
        for request in &mut self.requests {
            request.sg_list = segment;
            segment = segment.wrapping_add(request.num_sge as usize);
        }
        for index in (0..self.requests.len()).rev() {
            self.requests[index].next = next;
            next = first.wrapping_add(index);
        }
        if self.requests.is_empty() { None } else { Some(first) }
    }

    pub(super) fn clear(&mut self) {
        self.requests.clear();
        self.segments.clear();
    }
}

/// Receives that go to a queue with one doorbell.
pub(crate) struct ReceiveChain {
    requests: Vec<ibv_recv_wr>,
    segments: Vec<ibv_sge>,
}

// SAFETY: the pointers inside are set by `link` right before each use.
unsafe impl Send for ReceiveChain {}

impl ReceiveChain {
    /// Room for `requests_max` receives. Never allocates again.
    pub(crate) fn new(requests_max: usize) -> Self {
        ReceiveChain {
            requests: Vec::with_capacity(requests_max),
            segments: Vec::with_capacity(requests_max),
        }
    }

    /// True when nothing more fits.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.requests.len() == self.requests.capacity()
    }

    /// Appends a receive into `to`.
    #[inline]
    pub(crate) fn push(&mut self, id: u64, to: Local) {
        assert!(!self.is_full(), "receive chain overflow");
        self.segments.push(to.0);
        self.requests.push(ibv_recv_wr {
            wr_id: id,
            next: ptr::null_mut(),
            sg_list: ptr::null_mut(),
            num_sge: 1,
        });
    }

    pub(super) fn link(&mut self) -> Option<*mut ibv_recv_wr> {
        let segments = self.segments.as_mut_ptr();
        let first = self.requests.as_mut_ptr();
        let count = self.requests.len();
        for (index, request) in self.requests.iter_mut().enumerate() {
            request.sg_list = segments.wrapping_add(index);
            request.next =
                if index + 1 < count { first.wrapping_add(index + 1) } else { ptr::null_mut() };
        }
        if count == 0 { None } else { Some(first) }
    }

    pub(super) fn clear(&mut self) {
        self.requests.clear();
        self.segments.clear();
    }
}
