//! Queue pairs and shared receive queues.
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::abi::*;
use super::cm::{CmId, IdGuard};
use super::cq::Cq;
use super::device::Device;
use super::work::{ReceiveChain, SendChain};
use super::{RdmaError, errno, last};

/// A shared receive queue. Having one tells you that it exists.
pub(crate) struct Srq {
    srq: NonNull<ibv_srq>,
    device: Arc<Device>,
}

// SAFETY: providers guard a shared receive queue by a lock of its own.
unsafe impl Send for Srq {}
// SAFETY: as above.
unsafe impl Sync for Srq {}

impl Srq {
    /// A queue for `receives` work requests of one segment.
    pub(crate) fn new(device: &Arc<Device>, receives: u32) -> Result<Arc<Srq>, RdmaError> {
        let mut attr = ibv_srq_init_attr {
            srq_context: ptr::null_mut(),
            max_wr: receives,
            max_sge: 1,
            srq_limit: 0,
        };
        // SAFETY: the protection domain is kept by the new value.
        let srq = unsafe { (device.library().verbs.ibv_create_srq)(device.pd(), &mut attr) };
        let srq = NonNull::new(srq).ok_or_else(|| last("ibv_create_srq"))?;
        Ok(Arc::new(Srq { srq, device: Arc::clone(device) }))
    }

    /// Posts a chain of receives.
    #[inline]
    pub(crate) fn post(&self, chain: &mut ReceiveChain) -> Result<(), RdmaError> {
        let Some(first) = chain.link() else { return Ok(()) };
        let mut bad = ptr::null_mut();
        // SAFETY: the chain is linked and lives through the call; its memory is registered.
        let code = unsafe {
            let post = (*(*self.srq.as_ptr()).context).ops.post_srq_recv;
            post(self.srq.as_ptr(), first, &mut bad)
        };
        chain.clear();
        if code == 0 { Ok(()) } else { Err(errno("ibv_post_srq_recv", code)) }
    }

    pub(super) fn raw(&self) -> *mut ibv_srq {
        self.srq.as_ptr()
    }
}

impl Drop for Srq {
    fn drop(&mut self) {
        // SAFETY: queue pairs that use it hold an Arc of it.
        unsafe { (self.device.library().verbs.ibv_destroy_srq)(self.srq.as_ptr()) };
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
    /// Makes the queue pair of `id`, with the completion queues of its sends and of its receives.
    pub(crate) fn new(
        id: &CmId,
        device: &Device,
        sends: &Arc<Cq>,
        receives: &Arc<Cq>,
        srq: Option<&Arc<Srq>>,
        plan: QpPlan,
    ) -> Result<Qp, RdmaError> {
        let id = id.guard();
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
        let code = unsafe { (id.library().cm.rdma_create_qp)(id.raw(), device.pd(), &mut attr) };
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
