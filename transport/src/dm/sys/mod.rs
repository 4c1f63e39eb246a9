//! Registering with the kernel's user MAD device.
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `struct ib_user_mad_reg_req`, ABI 5.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ib_user_mad_reg_req {
    pub id: u32,
    /// Longs of the host, aligned to 4 bytes; each as two words in the order of this machine.
    pub method_mask: [u32; 4],
    pub qpn: u8,
    pub mgmt_class: u8,
    pub mgmt_class_version: u8,
    pub oui: [u8; 3],
    pub rmpp_version: u8,
}

const MAGIC: u64 = 0x1b;
/// `IB_USER_MAD_REGISTER_AGENT`: _IOWR(0x1b, 1, struct ib_user_mad_reg_req).
pub(super) const REGISTER_AGENT: u64 =
    3 << 30 | (size_of::<ib_user_mad_reg_req>() as u64) << 16 | MAGIC << 8 | 1;
/// `IB_USER_MAD_ENABLE_PKEY`: _IO(0x1b, 3).
pub(super) const ENABLE_PKEY: u64 = MAGIC << 8 | 3;

/// Asks for the header with a P_Key index; before anything else on the descriptor.
pub(super) fn enable_pkey(umad: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the descriptor is open; this request takes no argument.
    check(unsafe { libc::ioctl(umad.as_raw_fd(), ENABLE_PKEY) })
}

/// Becomes the agent of a class on queue pair 1 that gets requests of the methods of a bit mask (of
/// methods below 32); the kernel's number for the agent.
pub(super) fn register(
    umad: BorrowedFd<'_>,
    class: u8,
    version: u8,
    methods: u32,
) -> Result<u32, Errno> {
    let first = if cfg!(target_endian = "big") { 1 } else { 0 };
    let mut request = ib_user_mad_reg_req {
        qpn: 1,
        mgmt_class: class,
        mgmt_class_version: version,
        ..Default::default()
    };
    request.method_mask[first] = methods;
    // SAFETY: the descriptor is open; the request's size is part of its number, and the structure
    // lives through the call.
    check(unsafe { libc::ioctl(umad.as_raw_fd(), REGISTER_AGENT, &raw mut request) })?;
    Ok(request.id)
}

fn check(code: libc::c_int) -> Result<(), Errno> {
    if code >= 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn requests_have_the_kernels_numbers() {
        assert_eq!((REGISTER_AGENT, ENABLE_PKEY), (0xc01c_1b01, 0x1b03));
        assert_eq!(size_of::<ib_user_mad_reg_req>(), 28);
        assert_eq!(offset_of!(ib_user_mad_reg_req, method_mask), 4);
        assert_eq!(offset_of!(ib_user_mad_reg_req, qpn), 20);
        assert_eq!(offset_of!(ib_user_mad_reg_req, rmpp_version), 26);
    }
}
