//! The C interface between the two halves. `engine.h` declares the same.
//!
//! Having a [`Job`] pointer tells the C side that it came from [`srpt_fio_open`] and has not been
//! through [`srpt_fio_close`]; one thread uses it at a time. A panic ends the process.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use srpt_bench::address::Address;
use srpt_bench::port::Kind;

use crate::{Broken, Job, Options, To};

/// `struct srpt_fio_options` of `engine.h`. Texts are null or end with a zero byte.
#[repr(C)]
pub struct RawOptions {
    /// Address of a target: `shm:PATH` or `rdma:IP:PORT`, or null.
    pub target: *const c_char,
    /// A device of this process instead: in words, or its name in `config`. Null: the target.
    pub bdev: *const c_char,
    /// Configuration file, or null.
    pub config: *const c_char,
    /// Logical unit number.
    pub lun: u32,
    /// Channels of the job.
    pub channels: u32,
    /// I/O units.
    pub depth: u32,
    /// Milliseconds without a completion after which a job fails; 0: never.
    pub timeout_ms: u32,
    /// Bytes of a block of a device in words.
    pub block_bytes: u32,
    /// Bytes of an I/O unit's buffer, a multiple of 4096.
    pub slot_bytes: u32,
}

/// # Safety
/// `text` is null or ends with a zero byte, and stays unchanged for the call.
unsafe fn text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: as promised by the caller.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}

/// # Safety
/// As [`srpt_fio_open`].
unsafe fn options(raw: *const RawOptions) -> Result<Options> {
    // SAFETY: as promised by the caller.
    let raw = unsafe { &*raw };
    // SAFETY: as promised by the caller.
    let (target, bdev, config) = unsafe { (text(raw.target), text(raw.bdev), text(raw.config)) };
    let to = match bdev {
        Some(name) => To::Bdev { name, config, block_bytes: raw.block_bytes },
        None => {
            let target = target.context("no target: give filename, target or bdev")?;
            let address: Address = target.parse()?;
            let lun = u16::try_from(raw.lun).ok().filter(|lun| *lun <= 16383);
            let lun = lun.with_context(|| format!("lun {} is not from 0 to 16383", raw.lun))?;
            let channels = raw.channels;
            ensure!((1..=64).contains(&channels), "channels {channels} is not from 1 to 64");
            To::Unit { address, lun, channels }
        }
    };
    let slot_bytes = raw.slot_bytes;
    ensure!(
        slot_bytes > 0 && slot_bytes.is_multiple_of(4096) && slot_bytes <= 1 << 30,
        "a block size of {slot_bytes} bytes is not from 1 byte to 1 GiB"
    );
    let timeout = Duration::from_millis(raw.timeout_ms.into());
    Ok(Options { to, depth: raw.depth, slot_bytes, timeout })
}

/// Opens a job. Null: it can't be opened; the reason is in `why`, cut to its `why_bytes` bytes.
///
/// # Safety
/// `raw` points to options whose texts are null or end with a zero byte; `why` to `why_bytes`
/// writable bytes, at least one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srpt_fio_open(
    raw: *const RawOptions,
    why: *mut c_char,
    why_bytes: usize,
) -> *mut Job {
    // SAFETY: as promised by the caller.
    match unsafe { options(raw) }.and_then(|options| Job::open(&options)) {
        Ok(job) => Box::into_raw(Box::new(job)),
        Err(error) => {
            let text = format!("{error:#}");
            let len = text.len().min(why_bytes.saturating_sub(1));
            // SAFETY: `len` bytes and a zero fit into what the caller promised.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), why.cast::<u8>(), len);
                *why.add(len) = 0;
            }
            std::ptr::null_mut()
        }
    }
}

/// Ends a job: logs out, or waits for what the device has.
///
/// # Safety
/// A job pointer (see the module), which ends here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srpt_fio_close(job: *mut Job) {
    // SAFETY: the pointer came from `Box::into_raw` and is not used again.
    drop(unsafe { Box::from_raw(job) });
}

/// Bytes of the unit or device.
///
/// # Safety
/// A job pointer (see the module).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srpt_fio_bytes(job: *const Job) -> u64 {
    // SAFETY: as promised by the caller.
    unsafe { &*job }.bytes()
}

/// First byte of the first slot's buffer; valid as long as the job is.
///
/// # Safety
/// A job pointer (see the module).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srpt_fio_memory(job: *const Job) -> *mut c_void {
    // SAFETY: as promised by the caller.
    unsafe { &*job }.memory().as_ptr().cast()
}

/// Takes an operation: kind 0 reads, 1 writes, 2 flushes, 3 unmaps. Returns 0 when taken, 1 when
/// there is no room now, or a negative errno.
///
/// # Safety
/// A job pointer (see the module); the slot's buffer is left alone until the operation has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srpt_fio_queue(
    job: *mut Job,
    slot: u32,
    kind: c_int,
    at: u64,
    bytes: u64,
) -> c_int {
    // SAFETY: as promised by the caller.
    let job = unsafe { &mut *job };
    let kind = match kind {
        0 => Kind::Read,
        1 => Kind::Write,
        2 => Kind::Flush,
        3 => Kind::Unmap,
        _ => return -libc::EOPNOTSUPP,
    };
    match job.queue(slot, kind, at, bytes) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(errno) => -errno,
    }
}

fn errno(broken: Broken) -> c_int {
    match broken {
        Broken::Link => -libc::EPIPE,
        Broken::Timeout => -libc::ETIMEDOUT,
    }
}

/// Hands over what was taken. Returns 0 or a negative errno.
///
/// # Safety
/// A job pointer (see the module).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srpt_fio_commit(job: *mut Job) -> c_int {
    // SAFETY: as promised by the caller.
    unsafe { &mut *job }.commit().map_or_else(errno, |()| 0)
}

/// Waits until `min` operations have ended, for `wait_ns` at most unless that is negative. Returns
/// how many have, or a negative errno.
///
/// # Safety
/// A job pointer (see the module).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srpt_fio_reap(job: *mut Job, min: u32, wait_ns: i64) -> c_int {
    let wait = u64::try_from(wait_ns).ok().map(Duration::from_nanos);
    // SAFETY: as promised by the caller.
    let ended = unsafe { &mut *job }.reap(min as usize, wait);
    ended.map_or_else(errno, |count| count as c_int)
}

/// Slot of one of the operations that the last reap returned; `error` becomes its errno or 0.
///
/// # Safety
/// A job pointer (see the module), an index below the last reap's result, and a writable `error`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn srpt_fio_event(job: *mut Job, index: u32, error: *mut c_int) -> u32 {
    // SAFETY: as promised by the caller.
    let (slot, errno) = unsafe { &mut *job }.ended(index as usize);
    // SAFETY: as promised by the caller.
    unsafe { *error = errno };
    slot
}
