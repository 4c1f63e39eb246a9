//! A SCSI device, found by the name of any of its nodes and looked at.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reactor::sys::memory::Memory;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, major, minor};
use rustix::io::Errno;

use super::command::{Code, Learned, learn, peripheral};
use super::worker::Device;
use crate::refused::BdevError;
use crate::sys::sg::{FILE_DEPTH, Flight, Raw, SgFile, SgQueue, ZEROS_BYTES};

/// Commands that a device is given at most, whatever it says.
const DEPTH_MAX: u32 = 128;
/// When a look at the device gives up, in ms.
const LOOK_MS: u32 = 10_000;
/// Bytes that the host is believed to move in one command when it does not say.
const TRANSFER_BYTES_USUAL: u32 = 128 * 1024;
/// Unit attentions that a look at the medium may find.
const ATTENTIONS_MAX: usize = 8;

/// Who a device is (SPC-4 6.6, 7.8.15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inquiry {
    pub peripheral_type: u8,
    pub removable: bool,
    pub vendor: String,
    pub product: String,
    pub revision: String,
    /// Unit serial number; empty for none.
    pub serial: String,
}

impl Inquiry {
    /// Disks and what is read and written like one.
    pub(super) fn is_disk(&self) -> bool {
        matches!(
            self.peripheral_type,
            peripheral::DISK | peripheral::OPTICAL | peripheral::SIMPLIFIED_DISK
        )
    }

    pub(super) fn is_tape(&self) -> bool {
        self.peripheral_type == peripheral::TAPE
    }

    /// Reads what a device answered.
    pub(super) fn of(standard: &[u8], serial: &[u8]) -> Inquiry {
        let text = |bytes: Option<&[u8]>| {
            let printable = |byte: &u8| match byte {
                0x20..0x7f => char::from(*byte),
                _ => ' ',
            };
            let text: String = bytes.unwrap_or(&[]).iter().map(printable).collect();
            text.trim().to_owned()
        };
        Inquiry {
            peripheral_type: standard.first().copied().unwrap_or(0x1f) & 0x1f,
            removable: standard.get(1).is_some_and(|byte| byte & 0x80 != 0),
            vendor: text(standard.get(8..16)),
            product: text(standard.get(16..32)),
            revision: text(standard.get(32..36)),
            serial: match serial {
                [_, 0x80, _, len, rest @ ..] => text(rest.get(..usize::from(*len))),
                _ => String::new(),
            },
        }
    }
}

/// A device that is open and locked.
pub(super) struct Opened {
    queue: SgQueue,
    depth: u32,
    transfer_bytes_max: u32,
    /// The node of the driver.
    pub node: PathBuf,
    pub inquiry: Inquiry,
    /// Keeps the host from using a disk meanwhile.
    _exclusive: Option<OwnedFd>,
}

impl Device for Opened {
    fn start(&mut self, flight: Flight) -> Result<(), (Errno, Flight)> {
        self.queue.start(flight)
    }

    fn reap(&mut self) -> Option<(Flight, Raw)> {
        self.queue.reap()
    }

    fn reset(&mut self) -> Result<(), Errno> {
        self.queue.reset()
    }

    fn is_gone(&self) -> bool {
        self.queue.is_gone()
    }

    fn depth(&self) -> u32 {
        self.depth
    }

    fn transfer_bytes_max(&self) -> u32 {
        self.transfer_bytes_max
    }
}

impl Opened {
    /// What to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queue.fds()
    }
}

fn os(what: String) -> impl FnOnce(Errno) -> BdevError {
    move |errno| BdevError::Os { what, errno }
}

fn invalid(filename: &str, what: &str) -> BdevError {
    BdevError::Invalid(format!("{filename} is {what}, not a SCSI device"))
}

/// Finds the node of the sg driver for the device behind any of its nodes: sg, sd, st, sr, sch.
fn node_of(filename: &str) -> Result<PathBuf, BdevError> {
    let stat = rustix::fs::stat(filename).map_err(os(format!("opening {filename}")))?;
    let class = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => "char",
        FileType::BlockDevice => "block",
        FileType::RegularFile => return Err(invalid(filename, "a regular file")),
        FileType::Directory => return Err(invalid(filename, "a directory")),
        FileType::Fifo => return Err(invalid(filename, "a pipe")),
        _ => return Err(invalid(filename, "a socket")),
    };
    let folder = format!("/sys/dev/{class}/{}:{}", major(stat.st_rdev), minor(stat.st_rdev));
    let folder = Path::new(&folder);
    if folder.join("partition").exists() {
        return Err(invalid(filename, "a partition"));
    }
    let generic = std::fs::read_dir(folder.join("device/scsi_generic"));
    let name = generic.ok().and_then(|mut entries| entries.next()?.ok()).map(|e| e.file_name());
    let Some(name) = name else {
        return Err(match folder.join("device/vendor").exists() && class == "block" {
            true => BdevError::Invalid(format!(
                "{filename} has no sg node: is the kernel module sg loaded?"
            )),
            false => invalid(filename, "another kind of device"),
        });
    };
    // A node that was given under another name, as in a container, is as good.
    let usual = Path::new("/dev").join(&name);
    let own =
        folder.file_name().is_some() && folder.join("device/scsi_generic").join(&name) != usual;
    match usual.exists() || !own {
        true => Ok(usual),
        false => Ok(PathBuf::from(filename)),
    }
}

/// Opens and locks the device behind a node. `zeros` are [`ZEROS_BYTES`] of them.
pub(super) fn open(filename: &str, zeros: &Arc<Memory>) -> Result<Opened, BdevError> {
    assert!(zeros.len() >= ZEROS_BYTES as usize);
    let node = node_of(filename)?;
    let shown = node.display().to_string();
    let locked = || BdevError::Locked { filename: filename.to_owned() };
    let first = match SgFile::open(&node, true) {
        Err(Errno::AGAIN | Errno::BUSY) => return Err(locked()),
        Err(Errno::NOTTY | Errno::INVAL) => return Err(invalid(filename, "no sg node")),
        other => other.map_err(os(format!("opening {shown} for reading and writing")))?,
    };
    let inquiry = look(&first).map_err(os(format!("asking {shown} what it is")))?;
    if inquiry.peripheral_type == 0x1f {
        return Err(invalid(filename, "a place without a device"));
    }
    let folder = Path::new("/sys/class/scsi_generic").join(node.file_name().unwrap_or_default());
    let exclusive = match inquiry.is_disk() {
        true => claim_disk(&folder).map_err(|_| locked())?,
        false => None,
    };
    let depth = read_to_string(folder.join("device/queue_depth")).ok();
    let depth = depth.and_then(|text| text.trim().parse().ok()).unwrap_or(1).clamp(1, DEPTH_MAX);
    let transfer_bytes_max = transfer_bytes_max(&first, &inquiry);
    let mut files = vec![first];
    while files.len() < depth.div_ceil(FILE_DEPTH) as usize {
        files.push(SgFile::open(&node, false).map_err(os(format!("opening {shown} again")))?);
    }
    let queue = SgQueue::new(files, Arc::clone(zeros));
    Ok(Opened { queue, depth, transfer_bytes_max, node, inquiry, _exclusive: exclusive })
}

/// Keeps the host from mounting a disk; an error means that it has. A disk without node or medium
/// can't be in use.
fn claim_disk(folder: &Path) -> Result<Option<OwnedFd>, Errno> {
    let block = std::fs::read_dir(folder.join("device/block"));
    let Some(name) = block.ok().and_then(|mut entries| Some(entries.next()?.ok()?.file_name()))
    else {
        return Ok(None);
    };
    let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(Path::new("/dev").join(name), flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::BUSY) => Err(Errno::BUSY),
        Err(_) => Ok(None),
    }
}

/// Bytes of one command. A disk's transfers can be done in parts, so that every host adapter can
/// take them; for others the request queue's limit is the only one that is looked at.
fn transfer_bytes_max(file: &SgFile, inquiry: &Inquiry) -> u32 {
    let queue = file.transfer_bytes_max().filter(|bytes| *bytes > 0);
    let queue = queue.unwrap_or(TRANSFER_BYTES_USUAL);
    match (inquiry.is_disk(), file.pieces_max()) {
        (true, Some(pieces)) => queue.min(pieces.saturating_mul(4096)),
        _ => queue,
    }
}

/// Runs a command that reads; `None` unless it ended GOOD. Unit attentions are passed over.
fn read(file: &SgFile, cdb: &[u8], data: &mut [u8]) -> Result<Option<usize>, Errno> {
    for _ in 0..ATTENTIONS_MAX {
        data.fill(0);
        let raw = file.run(cdb, data, LOOK_MS)?;
        let code = Code::of(&raw.sense[..usize::from(raw.sense_len)]);
        match (raw.status, raw.host_status) {
            (0, 0) => return Ok(Some(data.len() - raw.residual as usize)),
            (0x02, _) if matches!(code, Some(Code(0x6, _, _))) => {}
            (0, _) => return Err(Errno::IO),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Asks a device who it is. Clears no unit attention.
fn look(file: &SgFile) -> Result<Inquiry, Errno> {
    let mut standard = [0; 96];
    let len = read(file, &[0x12, 0, 0, 0, 96, 0], &mut standard)?.ok_or(Errno::IO)?;
    let mut serial = [0; 255];
    let serial_len = read(file, &[0x12, 1, 0x80, 0, 255, 0], &mut serial)?.unwrap_or(0);
    Ok(Inquiry::of(&standard[..len], &serial[..serial_len]))
}

/// Asks for the medium's blocks. Unit attentions that are pending get lost.
pub(super) fn look_at_medium(opened: &Opened) -> Option<Learned> {
    let file = SgFile::open(&opened.node, false).ok()?;
    let ask = |cdb: &[u8], len: usize| {
        let mut data = vec![0; len];
        let moved = read(&file, cdb, &mut data).ok()??;
        learn(cdb, &data[..moved], opened.inquiry.is_tape())
    };
    if opened.inquiry.is_tape() {
        return ask(&[0x1a, 0, 0, 0, 12, 0], 12);
    }
    let long = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    ask(&long, 32).or_else(|| ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inquiry_is_read_as_far_as_it_goes() {
        let mut standard = [0; 36];
        (standard[0], standard[1]) = (0x01, 0x80);
        standard[8..16].copy_from_slice(b"IBM     ");
        standard[16..32].copy_from_slice(b"ULT3580-TD9\0    ");
        standard[32..36].copy_from_slice(b"M9A0");
        let inquiry = Inquiry::of(&standard, &[1, 0x80, 0, 4, b' ', b'1', b'2', b'3', 0xff]);
        assert_eq!((inquiry.peripheral_type, inquiry.removable), (1, true));
        assert_eq!((&inquiry.vendor[..], &inquiry.product[..]), ("IBM", "ULT3580-TD9"));
        assert_eq!((&inquiry.revision[..], &inquiry.serial[..]), ("M9A0", "123"));
        assert!(inquiry.is_tape() && !inquiry.is_disk());
        for len in 0..36 {
            assert!(Inquiry::of(&standard[..len], &[1, 0x80, 0, 200]).serial.is_empty());
        }
    }
}
