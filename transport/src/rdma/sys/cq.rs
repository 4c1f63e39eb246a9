//! Completion queues, their entries and their notifications.
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::abi::*;
use super::device::Device;
use super::{RdmaError, last};

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

/// Wakes a sleeper when an armed completion queue gets an entry. Having one tells you that its
/// descriptor stays open.
pub(crate) struct CompletionChannel {
    channel: NonNull<ibv_comp_channel>,
    device: Arc<Device>,
}

// SAFETY: a completion channel may be used from every thread.
unsafe impl Send for CompletionChannel {}
// SAFETY: as above.
unsafe impl Sync for CompletionChannel {}

impl CompletionChannel {
    /// A channel without queues; its descriptor does not block.
    pub(crate) fn new(device: &Arc<Device>) -> Result<Arc<Self>, RdmaError> {
        // SAFETY: the context is open.
        let channel = unsafe { (device.library().verbs.ibv_create_comp_channel)(device.context()) };
        let channel = NonNull::new(channel).ok_or_else(|| last("ibv_create_comp_channel"))?;
        let channel = CompletionChannel { channel, device: Arc::clone(device) };
        rustix::io::ioctl_fionbio(channel.as_fd(), true).map_err(|reason| RdmaError {
            what: "completion channel without blocking",
            reason: reason.into(),
        })?;
        Ok(Arc::new(channel))
    }

    /// Takes one notification, if there is one: which of `queues`, all those of the channel, it
    /// is for.
    pub(crate) fn take(&self, queues: [&Cq; 2]) -> Option<usize> {
        let verbs = &self.device.library().verbs;
        let (mut cq, mut context) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the channel is open; the queue of an event exists until the event is
        // acknowledged, because its destruction waits for that.
        let code =
            unsafe { (verbs.ibv_get_cq_event)(self.channel.as_ptr(), &mut cq, &mut context) };
        if code != 0 {
            return None;
        }
        let at = queues.iter().position(|queue| queue.raw() == cq);
        let at = at.expect("the caller names all queues of the channel");
        queues[at].on_notified();
        Some(at)
    }
}

impl AsFd for CompletionChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the channel.
        unsafe { BorrowedFd::borrow_raw((*self.channel.as_ptr()).fd) }
    }
}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: queues that use it hold an Arc of it.
        unsafe {
            (self.device.library().verbs.ibv_destroy_comp_channel)(self.channel.as_ptr());
        }
    }
}

/// A completion queue. Having one tells you that it exists; its entries are bounded by the work
/// that its users may post.
pub(crate) struct Cq {
    cq: NonNull<ibv_cq>,
    /// Notifications taken and not acknowledged.
    notified: AtomicU32,
    _channel: Option<Arc<CompletionChannel>>,
    device: Arc<Device>,
}

/// Notifications acknowledged at a time: it takes a lock.
const NOTIFIED_MAX: u32 = 1024;

// SAFETY: providers guard a completion queue by a lock of its own.
unsafe impl Send for Cq {}
// SAFETY: as above.
unsafe impl Sync for Cq {}

impl Cq {
    /// A queue of at least `entries`, whose notifications come through `channel` by the device's
    /// completion vector of that number, counted round.
    pub(crate) fn new(
        device: &Arc<Device>,
        entries: u32,
        channel: Option<Arc<CompletionChannel>>,
        vector: usize,
    ) -> Result<Arc<Cq>, RdmaError> {
        // SAFETY: the context is open.
        let vectors = unsafe { (*device.context()).num_comp_vectors };
        let vector = vector % usize::try_from(vectors).unwrap_or(0).max(1);
        let raw = channel.as_ref().map_or(ptr::null_mut(), |channel| channel.channel.as_ptr());
        // SAFETY: context and channel are open, and kept so by the new value.
        let cq = unsafe {
            (device.library().verbs.ibv_create_cq)(
                device.context(),
                entries as i32,
                ptr::null_mut(),
                raw,
                vector as i32,
            )
        };
        let cq = NonNull::new(cq).ok_or_else(|| last("ibv_create_cq"))?;
        let notified = AtomicU32::new(0);
        Ok(Arc::new(Cq { cq, notified, _channel: channel, device: Arc::clone(device) }))
    }

    /// Takes finished work: how many entries of `completions` were filled. A queue that has broken
    /// has none.
    #[inline]
    pub(crate) fn poll(&self, completions: &mut [Completion]) -> usize {
        // SAFETY: the queue exists; `Completion` has the layout of `ibv_wc`, and at most as many
        // entries are written as there are.
        let count = unsafe {
            let poll = (*(*self.cq.as_ptr()).context).ops.poll_cq;
            poll(self.cq.as_ptr(), completions.len() as i32, completions.as_mut_ptr().cast())
        };
        usize::try_from(count).unwrap_or(0)
    }

    /// Asks for a notification at the next completion.
    #[inline]
    pub(crate) fn arm(&self) {
        // SAFETY: the queue exists. A device that refuses has failed, which its connections learn.
        unsafe {
            let arm = (*(*self.cq.as_ptr()).context).ops.req_notify_cq;
            arm(self.cq.as_ptr(), 0);
        }
    }

    fn on_notified(&self) {
        if self.notified.fetch_add(1, Ordering::Relaxed) + 1 >= NOTIFIED_MAX {
            self.acknowledge();
        }
    }

    fn acknowledge(&self) {
        let count = self.notified.swap(0, Ordering::Relaxed);
        if count > 0 {
            // SAFETY: the queue exists, and as many of its notifications were taken.
            unsafe { (self.device.library().verbs.ibv_ack_cq_events)(self.cq.as_ptr(), count) };
        }
    }

    pub(super) fn raw(&self) -> *mut ibv_cq {
        self.cq.as_ptr()
    }
}

impl Drop for Cq {
    fn drop(&mut self) {
        // Its destruction waits for that.
        self.acknowledge();
        // SAFETY: queue pairs that use it hold an Arc of it.
        unsafe { (self.device.library().verbs.ibv_destroy_cq)(self.cq.as_ptr()) };
    }
}
