//! Queue pairs, and chains of work requests for them.
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::abi::*;
use super::cm::IdGuard;
use super::device::{Cq, Srq};
use super::memory::Local;
use super::{RdmaError, errno, last};

/// Finished work.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Completion(ibv_wc);

/// How work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done.
    Success,
    /// Not done, because the queue pair had failed or was being closed.
    Flushed,
    /// A peer's message did not fit the receive.
    TooLong,
    /// The peer's memory could not be reached with the address and key given.
    RemoteAccess,
    /// The path, the device or the peer failed: the verbs status.
    Failed(i32),
}

impl Completion {
    /// The number of the work request.
    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.0.wr_id
    }

    /// Bytes received. Undefined for other work.
    #[inline]
    pub(crate) fn bytes(&self) -> u32 {
        self.0.byte_len
    }

    /// Number of the queue pair.
    #[inline]
    pub(crate) fn queue_pair(&self) -> u32 {
        self.0.qp_num
    }

    /// How it ended.
    #[inline]
    pub(crate) fn outcome(&self) -> Outcome {
        match self.0.status {
            IBV_WC_SUCCESS => Outcome::Success,
            IBV_WC_WR_FLUSH_ERR => Outcome::Flushed,
            IBV_WC_LOC_LEN_ERR => Outcome::TooLong,
            IBV_WC_REM_ACCESS_ERR | IBV_WC_REM_INV_REQ_ERR | IBV_WC_REM_OP_ERR => {
                Outcome::RemoteAccess
            }
            other => Outcome::Failed(other),
        }
    }
}

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
    /// saves the device a look at memory; the queue pair must admit as many ([`Qp::inline_max`]).
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
    fn link(&mut self) -> Option<*mut ibv_send_wr> {
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

    fn clear(&mut self) {
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

/// What a queue pair is made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QpPlan {
    /// Send work requests.
    pub sends: u32,
    /// Receive work requests, unless they are shared.
    pub receives: u32,
    /// Segments of a send work request.
    pub segments: u32,
    /// Bytes that a SEND can carry in its request.
    pub inline: u32,
}

/// A reliable connected queue pair of a connection identifier. Having one tells you that the queue
/// pair and its completion queues exist; dropping it ends all its work, and returns only when the
/// device touches none of its memory any more.
pub(crate) struct Qp {
    qp: NonNull<ibv_qp>,
    inline_max: u32,
    _cqs: [Arc<Cq>; 2],
    _srq: Option<Arc<Srq>>,
    id: IdGuard,
}

// SAFETY: a queue pair may be used from every thread; posting takes it exclusively.
unsafe impl Send for Qp {}

impl Qp {
    pub(super) fn new(
        id: IdGuard,
        sends: &Arc<Cq>,
        receives: &Arc<Cq>,
        srq: Option<&Arc<Srq>>,
        pd: *mut ibv_pd,
        plan: QpPlan,
    ) -> Result<Qp, RdmaError> {
        let mut attr = ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: sends.raw(),
            recv_cq: receives.raw(),
            srq: srq.map_or(ptr::null_mut(), |srq| srq.raw()),
            cap: ibv_qp_cap {
                max_send_wr: plan.sends,
                max_recv_wr: if srq.is_some() { 0 } else { plan.receives },
                max_send_sge: plan.segments,
                max_recv_sge: if srq.is_some() { 0 } else { 1 },
                max_inline_data: plan.inline,
            },
            qp_type: IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: identifier, protection domain and queues exist and are kept by the new value.
        let code = unsafe { (id.library().cm.rdma_create_qp)(id.raw(), pd, &mut attr) };
        if code != 0 {
            return Err(last("rdma_create_qp"));
        }
        // SAFETY: a successful call has set the field.
        let qp = NonNull::new(unsafe { (*id.raw()).qp }).expect("a queue pair was created");
        let _cqs = [Arc::clone(sends), Arc::clone(receives)];
        let inline_max = attr.cap.max_inline_data.min(plan.inline);
        Ok(Qp { qp, inline_max, _cqs, _srq: srq.map(Arc::clone), id })
    }

    /// Bytes that a SEND can carry in its request.
    #[inline]
    pub(crate) fn inline_max(&self) -> u32 {
        self.inline_max
    }

    /// The number that completions carry.
    pub(crate) fn number(&self) -> u32 {
        // SAFETY: the queue pair exists.
        unsafe { (*self.qp.as_ptr()).qp_num }
    }

    /// Posts a chain with one doorbell and empties it. After an error the connection is of no use.
    #[inline]
    pub(crate) fn post_send(&mut self, chain: &mut SendChain) -> Result<(), RdmaError> {
        let Some(first) = chain.link() else { return Ok(()) };
        let mut bad = ptr::null_mut();
        // SAFETY: the chain is linked and lives through the call; its memory is registered.
        let code = unsafe {
            let post = (*(*self.qp.as_ptr()).context).ops.post_send;
            post(self.qp.as_ptr(), first, &mut bad)
        };
        chain.clear();
        if code == 0 { Ok(()) } else { Err(errno("ibv_post_send", code)) }
    }

    /// Posts a chain of receives and empties it.
    #[inline]
    pub(crate) fn post_receive(&mut self, chain: &mut ReceiveChain) -> Result<(), RdmaError> {
        let Some(first) = chain.link() else { return Ok(()) };
        let mut bad = ptr::null_mut();
        // SAFETY: as in `post_send`.
        let code = unsafe {
            let post = (*(*self.qp.as_ptr()).context).ops.post_recv;
            post(self.qp.as_ptr(), first, &mut bad)
        };
        chain.clear();
        if code == 0 { Ok(()) } else { Err(errno("ibv_post_recv", code)) }
    }
}

impl Drop for Qp {
    fn drop(&mut self) {
        self.id.destroy_qp();
    }
}
