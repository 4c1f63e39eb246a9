//! The Linux SCSI generic driver, interface version 3 (`scsi/sg.h`).

use std::mem::{offset_of, size_of};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::Arc;

use libc::{c_int, c_void};
use reactor::Buf;
use reactor::sys::memory::Memory;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::scsi::{CDB_BYTES_MAX, DataDirection, SENSE_BYTES_MAX};

/// `struct sg_io_hdr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    interface_id: c_int,
    dxfer_direction: c_int,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut c_void,
    cmdp: *mut u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: c_int,
    usr_ptr: *mut c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: c_int,
    duration: u32,
    info: u32,
}

#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Header>() == 88 && offset_of!(Header, status) == 64);

const INTERFACE_ID: c_int = b'S' as c_int;
const DXFER_NONE: c_int = -1;
const DXFER_TO_DEV: c_int = -2;
const DXFER_FROM_DEV: c_int = -3;
const FLAG_DIRECT_IO: u32 = 0x01;
const FLAG_Q_AT_TAIL: u32 = 0x10;

const SG_GET_SG_TABLESIZE: libc::Ioctl = 0x227f;
const SG_GET_VERSION_NUM: libc::Ioctl = 0x2282;
const SG_SET_COMMAND_Q: libc::Ioctl = 0x2271;
const SG_SCSI_RESET: libc::Ioctl = 0x2284;
const SG_IO: libc::Ioctl = 0x2285;
const BLKSECTGET: libc::Ioctl = 0x1267;
/// `SG_SCSI_RESET_DEVICE | SG_SCSI_RESET_NO_ESCALATE`: this logical unit and no other.
const RESET_DEVICE: c_int = 0x101;
/// The first driver with this interface.
const VERSION_MIN: c_int = 30_000;

/// Commands that one open file of the driver takes (`SG_MAX_QUEUE`).
pub(crate) const FILE_DEPTH: u32 = 16;
/// Bytes of zeros that one command can write.
pub(crate) const ZEROS_BYTES: u32 = 256 * 1024;

/// What the driver said of the end of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw {
    /// SCSI status.
    pub status: u8,
    /// `DID_` code of the host adapter's driver.
    pub host_status: u16,
    /// `DRIVER_` code of the SCSI stack.
    pub driver_status: u16,
    /// Bytes that were not moved.
    pub residual: u32,
    /// Sense data.
    pub sense: [u8; SENSE_BYTES_MAX],
    /// How many bytes of it there are.
    pub sense_len: u8,
}

impl Raw {
    fn of(header: &Header, sense: &[u8; SENSE_BYTES_MAX]) -> Raw {
        Raw {
            status: header.status,
            host_status: header.host_status,
            driver_status: header.driver_status,
            residual: u32::try_from(header.resid).unwrap_or(0).min(header.dxfer_len),
            sense: *sense,
            sense_len: header.sb_len_wr.min(SENSE_BYTES_MAX as u8),
        }
    }
}

/// The data of a command.
#[derive(Debug)]
pub(crate) enum Payload {
    /// None.
    None,
    /// A part of this buffer.
    Buf(Buf),
    /// Zeros for the device, at most [`ZEROS_BYTES`].
    Zeros,
}

/// A command on its way to a device.
#[derive(Debug)]
pub(crate) struct Flight {
    /// The caller's name for it.
    pub number: u32,
    /// The CDB.
    pub cdb: [u8; CDB_BYTES_MAX],
    /// Its bytes.
    pub cdb_len: u8,
    /// Which way the data goes.
    pub direction: DataDirection,
    /// The data.
    pub payload: Payload,
    /// First byte of the buffer that moves.
    pub offset: u32,
    /// Bytes that move.
    pub len: u32,
    /// When the host gives up, in ms.
    pub timeout_ms: u32,
}

fn header(flight: &Flight, data: *mut u8, cdb: *mut u8, sense: *mut u8) -> Header {
    let direction = match flight.direction {
        _ if flight.len == 0 => DXFER_NONE,
        DataDirection::None => DXFER_NONE,
        DataDirection::Out => DXFER_TO_DEV,
        DataDirection::In => DXFER_FROM_DEV,
    };
    Header {
        interface_id: INTERFACE_ID,
        dxfer_direction: direction,
        cmd_len: flight.cdb_len,
        mx_sb_len: SENSE_BYTES_MAX as u8,
        iovec_count: 0,
        dxfer_len: if direction == DXFER_NONE { 0 } else { flight.len },
        dxferp: if direction == DXFER_NONE { null_mut() } else { data.cast() },
        cmdp: cdb,
        sbp: sense,
        timeout: flight.timeout_ms,
        flags: FLAG_DIRECT_IO | FLAG_Q_AT_TAIL,
        pack_id: 0,
        usr_ptr: null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    }
}

/// An open file of the driver. Having one tells you that it speaks interface version 3 and that no
/// other target has locked the device.
#[derive(Debug)]
pub(crate) struct SgFile {
    fd: OwnedFd,
}

impl SgFile {
    /// Opens a node of the driver; `lock` for this file alone among those that lock.
    ///
    /// Fails with `AGAIN` when somebody has the lock and with `NOTTY` when it is no such node.
    pub(crate) fn open(path: &Path, lock: bool) -> Result<SgFile, Errno> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        if lock {
            rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        }
        let file = SgFile { fd };
        if file.number(SG_GET_VERSION_NUM)? < VERSION_MIN {
            return Err(Errno::NOTTY);
        }
        file.set(SG_SET_COMMAND_Q, 1)?;
        Ok(file)
    }

    /// Most bytes that one command may move: the request queue's limit.
    pub(crate) fn transfer_bytes_max(&self) -> Option<u32> {
        self.number(BLKSECTGET).ok().and_then(|bytes| u32::try_from(bytes).ok())
    }

    /// Pieces of memory that the host adapter takes per command; `None`: no limit is known.
    pub(crate) fn pieces_max(&self) -> Option<u32> {
        let pieces = self.number(SG_GET_SG_TABLESIZE).ok()?;
        u32::try_from(pieces).ok().filter(|pieces| *pieces > 0)
    }

    fn number(&self, request: libc::Ioctl) -> Result<c_int, Errno> {
        let mut number = 0;
        // SAFETY: these requests write one int to the address given.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), request, &raw mut number) };
        if done < 0 { Err(last_errno()) } else { Ok(number) }
    }

    fn set(&self, request: libc::Ioctl, mut number: c_int) -> Result<(), Errno> {
        // SAFETY: these requests read, or read and write, one int at the address given.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), request, &raw mut number) };
        if done < 0 { Err(last_errno()) } else { Ok(()) }
    }

    /// Runs a command that reads into `data` and waits for its end.
    pub(crate) fn run(&self, cdb: &[u8], data: &mut [u8], timeout_ms: u32) -> Result<Raw, Errno> {
        let mut bytes = [0; CDB_BYTES_MAX];
        bytes[..cdb.len()].copy_from_slice(cdb);
        let flight = Flight {
            number: 0,
            cdb: bytes,
            cdb_len: cdb.len() as u8,
            direction: DataDirection::In,
            payload: Payload::None,
            offset: 0,
            len: data.len() as u32,
            timeout_ms,
        };
        let mut sense = [0; SENSE_BYTES_MAX];
        let mut header = header(&flight, data.as_mut_ptr(), bytes.as_mut_ptr(), sense.as_mut_ptr());
        header.flags = 0;
        // SAFETY: the header names `data`, `bytes` and `sense` with their lengths; the kernel is
        // done with all of them when the call returns.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), SG_IO, &raw mut header) };
        if done < 0 { Err(last_errno()) } else { Ok(Raw::of(&header, &sense)) }
    }

    /// Resets the logical unit and waits until it is done.
    pub(crate) fn reset(&self) -> Result<(), Errno> {
        self.set(SG_SCSI_RESET, RESET_DEVICE)
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A command that the kernel has, or a free place for one.
struct Slot {
    flight: Option<Flight>,
    file: usize,
    sense: [u8; SENSE_BYTES_MAX],
}

/// Several open files of one device, as one queue. Having one tells you that the kernel touches
/// only memory that this value owns: the data of a command goes in with `start` and stays until
/// `reap`.
pub(crate) struct SgQueue {
    files: Vec<(SgFile, u32)>,
    /// Never moved or resized: the kernel knows the addresses of the sense data.
    slots: Box<[Slot]>,
    free: Vec<u32>,
    zeros: Arc<Memory>,
}

impl SgQueue {
    /// A queue of [`FILE_DEPTH`] commands for each file of the same device.
    pub(crate) fn new(files: Vec<SgFile>, zeros: Arc<Memory>) -> SgQueue {
        assert!(zeros.len() >= ZEROS_BYTES as usize);
        let count = files.len() as u32 * FILE_DEPTH;
        let slot = |_| Slot { flight: None, file: 0, sense: [0; SENSE_BYTES_MAX] };
        SgQueue {
            files: files.into_iter().map(|file| (file, 0)).collect(),
            slots: (0..count).map(slot).collect(),
            free: (0..count).rev().collect(),
            zeros,
        }
    }

    /// The files, to wait for: readable when a command has ended, hung up when the device is gone.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files.iter().map(|(file, _)| file.fd.as_fd())
    }

    /// Hands a command to the kernel. Fails with the command, which nobody has seen. Panics
    /// without room, or for data outside its buffer: the caller's bugs.
    pub(crate) fn start(&mut self, flight: Flight) -> Result<(), (Errno, Flight)> {
        let number = self.free.pop().expect("room in the queue");
        let file = self.files.iter().position(|(_, running)| *running < FILE_DEPTH);
        let file = file.expect("as many places as the files have");
        let slot = &mut self.slots[number as usize];
        slot.file = file;
        slot.sense = [0; SENSE_BYTES_MAX];
        let flight = slot.flight.insert(flight);
        let end = flight.offset as usize + flight.len as usize;
        let data = match &mut flight.payload {
            Payload::None => {
                assert_eq!(flight.len, 0, "data without a buffer");
                null_mut()
            }
            Payload::Buf(buf) => {
                assert!(end <= buf.len(), "{end} of {} bytes", buf.len());
                buf.as_mut_ptr().wrapping_add(flight.offset as usize)
            }
            Payload::Zeros => {
                assert!(flight.direction == DataDirection::Out && flight.len <= ZEROS_BYTES);
                self.zeros.at(0).as_ptr()
            }
        };
        let cdb = flight.cdb.as_mut_ptr();
        let mut header = header(flight, data, cdb, slot.sense.as_mut_ptr());
        header.pack_id = number as c_int;
        let (fd, len) = (self.files[file].0.fd.as_raw_fd(), size_of::<Header>());
        // SAFETY: the header names memory of the slot and of the flight's buffer, which stay where
        // they are and untouched until `reap` has taken the command back.
        let done = unsafe { libc::write(fd, (&raw const header).cast(), len) };
        if done < 0 {
            let errno = last_errno();
            self.free.push(number);
            let flight = self.slots[number as usize].flight.take();
            return Err((errno, flight.expect("put there above")));
        }
        self.files[file].1 += 1;
        Ok(())
    }

    /// Takes back a command that has ended.
    pub(crate) fn reap(&mut self) -> Option<(Flight, Raw)> {
        for (file, running) in &mut self.files {
            if *running == 0 {
                continue;
            }
            // SAFETY: all zeros are a header: numbers and pointers.
            let mut header: Header = unsafe { std::mem::zeroed() };
            (header.interface_id, header.pack_id) = (INTERFACE_ID, -1);
            let (fd, len) = (file.fd.as_raw_fd(), size_of::<Header>());
            // SAFETY: the call fills the header, and with it the data and the sense data of the
            // slot that it names, which belong to this queue.
            let done = unsafe { libc::read(fd, (&raw mut header).cast(), len) };
            if done < 0 {
                continue;
            }
            *running -= 1;
            let number = header.pack_id as u32;
            let slot = &mut self.slots[number as usize];
            let flight = slot.flight.take().expect("the kernel returns what it was given");
            self.free.push(number);
            return Some((flight, Raw::of(&header, &slot.sense)));
        }
        None
    }

    /// True when the device has been taken away.
    pub(crate) fn is_gone(&self) -> bool {
        let Some((file, _)) = self.files.first() else { return true };
        let mut fds = [PollFd::new(&file.fd, PollFlags::empty())];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok()
            && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Resets the logical unit and waits until it is done.
    pub(crate) fn reset(&self) -> Result<(), Errno> {
        self.files.first().map_or(Err(Errno::NODEV), |(file, _)| file.reset())
    }
}

impl Drop for SgQueue {
    fn drop(&mut self) {
        // The kernel may still write to what has not come back: it stays out of its pool.
        for slot in &mut self.slots {
            std::mem::forget(slot.flight.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_laid_out_as_in_scsi_sg_h() {
        let offsets = [
            offset_of!(Header, dxfer_len),
            offset_of!(Header, dxferp),
            offset_of!(Header, sbp),
            offset_of!(Header, timeout),
            offset_of!(Header, pack_id),
            offset_of!(Header, usr_ptr),
            offset_of!(Header, host_status),
            offset_of!(Header, resid),
            offset_of!(Header, info),
        ];
        assert_eq!(offsets, [12, 16, 32, 40, 48, 56, 68, 72, 80]);
    }

    #[test]
    fn what_is_no_node_of_the_driver_is_refused() {
        let errno = SgFile::open(Path::new("/dev/null"), false).unwrap_err();
        assert_eq!(errno, Errno::NOTTY);
        assert_eq!(SgFile::open(Path::new("/nowhere"), true).unwrap_err(), Errno::NOENT);
    }
}
