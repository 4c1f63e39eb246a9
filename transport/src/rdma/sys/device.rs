//! Devices and the queues that belong to no connection.
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::abi::*;
use super::cm::{CmId, EventChannel};
use super::library::{Rdma, rdma};
use super::queue::{Completion, ReceiveChain};
use super::{RdmaError, errno, last};

/// What a device can do, from its attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceLimits {
    /// Work requests of one queue of a queue pair.
    pub work_requests: u32,
    /// Scatter-gather entries of a work request.
    pub segments: u32,
    /// Entries of a completion queue.
    pub completions: u32,
    /// Work requests of a shared receive queue, 0 without such queues.
    pub shared_receives: u32,
    /// RDMA READs that a queue pair may have in flight as the requester.
    pub reads_out: u8,
    /// RDMA READs that a queue pair answers at the same time.
    pub reads_in: u8,
}

/// An RDMA device with a protection domain. Having one tells you that its context stays open and
/// its protection domain allocated.
pub(crate) struct Device {
    library: &'static Rdma,
    verbs: NonNull<ibv_context>,
    pd: NonNull<ibv_pd>,
    limits: DeviceLimits,
    name: String,
    // Bound to the device: librdmacm closes the context when its last identifier goes. Dropped
    // after the protection domain.
    _anchor: CmId,
}

// SAFETY: verbs contexts and protection domains may be used from every thread.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// The device that `id` is bound to. Fails when it is bound to none. Its removal is reported
    /// through `channel` with `token`.
    pub(crate) fn of(
        id: &CmId,
        channel: &EventChannel,
        token: u64,
    ) -> Result<Arc<Device>, RdmaError> {
        let library = rdma().expect("an identifier comes from the library");
        let anchor = channel.bound(&id.local_address(), token)?;
        let verbs = anchor.verbs().ok_or(RdmaError {
            what: "finding the device of an address",
            reason: std::io::Error::from_raw_os_error(libc::ENODEV),
        })?;
        // SAFETY: all-zero is a value of this plain structure.
        let mut attr: ibv_device_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the anchor keeps the context open; `attr` is ours.
        let code = unsafe { (library.verbs.ibv_query_device)(verbs.as_ptr(), &mut attr) };
        if code != 0 {
            return Err(errno("ibv_query_device", code));
        }
        // SAFETY: the context is open.
        let pd = NonNull::new(unsafe { (library.verbs.ibv_alloc_pd)(verbs.as_ptr()) })
            .ok_or_else(|| last("ibv_alloc_pd"))?;
        // SAFETY: an open context has a device, whose name ends in a zero byte.
        let name = unsafe { &(*(*verbs.as_ptr()).device).name };
        let name = String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or(&[]));
        let count = |value: i32| u32::try_from(value).unwrap_or(0);
        let byte = |value: i32| u8::try_from(value.clamp(0, 255)).unwrap_or(0);
        let limits = DeviceLimits {
            work_requests: count(attr.max_qp_wr),
            segments: count(attr.max_sge).max(1),
            completions: count(attr.max_cqe),
            shared_receives: if attr.max_srq > 0 { count(attr.max_srq_wr) } else { 0 },
            reads_out: byte(attr.max_qp_init_rd_atom),
            reads_in: byte(attr.max_qp_rd_atom),
        };
        let name = name.into_owned();
        Ok(Arc::new(Device { library, verbs, pd, limits, name, _anchor: anchor }))
    }

    /// True for the device that `id` is bound to.
    pub(crate) fn is_of(&self, id: &CmId) -> bool {
        id.verbs() == Some(self.verbs)
    }

    /// True when both are one device context of the process.
    pub(crate) fn is(&self, other: &Device) -> bool {
        self.verbs == other.verbs
    }

    /// Gives the descriptors of a removed device back, so that the kernel can finish the removal:
    /// librdmacm keeps the context of its last device open for ever. The context stays, with
    /// descriptors that lead nowhere. To be called when nothing else of the process uses it.
    pub(crate) fn abandon(&self) {
        // SAFETY: the anchor keeps the context allocated.
        let (command, events) = unsafe {
            let context = self.verbs.as_ptr();
            ((*context).cmd_fd, (*context).async_fd)
        };
        let Ok(nowhere) = std::fs::File::open("/dev/null") else { return };
        for descriptor in [command, events] {
            // SAFETY: both descriptors are open and belong to the context, which has no user left;
            // the library closes the numbers when it drops the context.
            unsafe { libc::dup2(nowhere.as_raw_fd(), descriptor) };
        }
    }

    /// What it can do.
    pub(crate) fn limits(&self) -> DeviceLimits {
        self.limits
    }

    /// Its name: "rxe0", "mlx5_0".
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn library(&self) -> &'static Rdma {
        self.library
    }

    pub(super) fn pd(&self) -> *mut ibv_pd {
        self.pd.as_ptr()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.name).finish()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: whatever uses the protection domain holds an Arc of this Device.
        unsafe { (self.library.verbs.ibv_dealloc_pd)(self.pd.as_ptr()) };
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
        let channel =
            unsafe { (device.library.verbs.ibv_create_comp_channel)(device.verbs.as_ptr()) };
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
        let verbs = &self.device.library.verbs;
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
            (self.device.library.verbs.ibv_destroy_comp_channel)(self.channel.as_ptr());
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
        let vectors = unsafe { (*device.verbs.as_ptr()).num_comp_vectors };
        let vector = vector % usize::try_from(vectors).unwrap_or(0).max(1);
        let raw = channel.as_ref().map_or(ptr::null_mut(), |channel| channel.channel.as_ptr());
        // SAFETY: context and channel are open, and kept so by the new value.
        let cq = unsafe {
            (device.library.verbs.ibv_create_cq)(
                device.verbs.as_ptr(),
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
            unsafe { (self.device.library.verbs.ibv_ack_cq_events)(self.cq.as_ptr(), count) };
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
        unsafe { (self.device.library.verbs.ibv_destroy_cq)(self.cq.as_ptr()) };
    }
}

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
        let srq = unsafe { (device.library.verbs.ibv_create_srq)(device.pd(), &mut attr) };
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
        unsafe { (self.device.library.verbs.ibv_destroy_srq)(self.srq.as_ptr()) };
    }
}
