//! Devices and what they can do.
use std::fmt;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use super::abi::*;
use super::cm::{CmId, EventChannel};
use super::library::{Rdma, rdma};
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

    /// The device's context, which stays open as long as the device.
    pub(super) fn context(&self) -> *mut ibv_context {
        self.verbs.as_ptr()
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
