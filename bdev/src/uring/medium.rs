//! A file or block device, opened and looked at.

use std::fs::read_to_string;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, Statx, StatxFlags,
};
use rustix::io::Errno;

use super::{Direct, UringOptions};
use crate::registry::{BdevError, check_block_bytes};

/// What was found out about a file or block device when it was opened.
#[derive(Debug)]
pub(super) struct Medium {
    pub fd: Arc<OwnedFd>,
    pub is_block: bool,
    pub block_bytes: u32,
    pub physical_bytes: u32,
    pub blocks: u64,
    /// Alignment in bytes of memory that is used in place.
    pub buf_align: u32,
    /// Why the page cache is used where `auto` would have gone without; `None`: it isn't used, or
    /// was asked for.
    pub buffered_because: Option<String>,
    pub direct: bool,
    pub rotational: bool,
    pub unmap: bool,
    pub unmap_zeroes: bool,
    pub unmap_granularity: u32,
}

/// What direct I/O wants, in bytes.
#[derive(Debug, Clone, Copy)]
struct Alignment {
    memory: u32,
    offset: u32,
}

pub(super) fn os(what: impl Into<String>) -> impl FnOnce(Errno) -> BdevError {
    let what = what.into();
    move |errno| BdevError::Os { what, errno }
}

impl Medium {
    /// Opens, locks and looks. `name` is the bdev's, for messages.
    pub(super) fn open(name: &str, options: &UringOptions) -> Result<Medium, BdevError> {
        let path = options.filename.as_str();
        let (fd, is_block) = open_locked(path, options.read_only)?;
        let stat = rustix::fs::statx(
            &fd,
            "",
            AtFlags::EMPTY_PATH,
            StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN,
        )
        .map_err(os(format!("looking at {path}")))?;
        let block_bytes = block_bytes(name, &fd, is_block, options)?;
        let blocks = blocks(path, &fd, block_bytes)?;
        let physical = match is_block {
            true => rustix::fs::ioctl_blkpbszget(&fd).unwrap_or(block_bytes),
            false => stat.stx_blksize,
        };
        let disk = Disk::of(&stat, is_block);
        let alignment = alignment(&stat, &disk, is_block.then_some(block_bytes));
        let refused = choose_direct(path, &fd, block_bytes, alignment, options.direct)?;
        let direct = options.direct != Direct::Off && refused.is_none();
        let unmap = !options.read_only
            && match is_block {
                true => disk.number("discard_max_bytes").is_some_and(|bytes| bytes > 0),
                false => punches_holes(&fd, blocks * u64::from(block_bytes)),
            };
        let granularity = match is_block {
            true => disk.number("discard_granularity").unwrap_or(0),
            false => stat.stx_blksize,
        };
        Ok(Medium {
            is_block,
            block_bytes,
            physical_bytes: physical_bytes(physical, block_bytes),
            blocks,
            buf_align: if direct { alignment.map_or(block_bytes, |dio| dio.memory) } else { 1 },
            buffered_because: refused,
            direct,
            rotational: options
                .rotational
                .unwrap_or_else(|| is_block && disk.number("rotational") == Some(1)),
            unmap,
            // A discarded block of a disk reads as anything.
            unmap_zeroes: unmap && !is_block,
            unmap_granularity: if unmap { granularity } else { 0 },
            fd: Arc::new(fd),
        })
    }
}

/// How long a lock is waited for: a process that was killed holds its files until the kernel has
/// put away its ring, some 50 ms after its end.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(500);

/// Pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Opens for this process alone, waiting a while for one that has just died.
fn open_locked(path: &str, read_only: bool) -> Result<(OwnedFd, bool), BdevError> {
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match try_open_locked(path, read_only) {
            Err(BdevError::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
}

/// Opens for this process alone: files by a lock, block devices by the kernel's own exclusion.
fn try_open_locked(path: &str, read_only: bool) -> Result<(OwnedFd, bool), BdevError> {
    // Looked at before it is opened: opening some devices does something.
    let stat = rustix::fs::stat(path).map_err(os(format!("opening {path}")))?;
    let is_block = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => false,
        FileType::BlockDevice => true,
        FileType::Directory => return Err(not_a_disk(path, "a directory")),
        FileType::Fifo => return Err(not_a_disk(path, "a pipe")),
        FileType::CharacterDevice => return Err(not_a_disk(path, "a character device")),
        _ => return Err(not_a_disk(path, "a socket")),
    };
    let access = if read_only { OFlags::RDONLY } else { OFlags::RDWR };
    let exclusive = if is_block { OFlags::EXCL } else { OFlags::empty() };
    let locked = || BdevError::Locked { filename: path.to_owned() };
    let fd = match rustix::fs::open(path, access | exclusive | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::BUSY) => return Err(locked()),
        Err(errno @ (Errno::ROFS | Errno::ACCESS | Errno::PERM)) if !read_only => {
            return Err(os(format!("opening {path} for writing (read_only was not set)"))(errno));
        }
        other => other.map_err(os(format!("opening {path}")))?,
    };
    if !is_block {
        // Saves the inode a write now and then; only the owner may, and it doesn't matter.
        let _ = rustix::fs::fcntl_getfl(&fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(&fd, flags | OFlags::NOATIME));
        let operation = match read_only {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&fd, operation) {
            Err(Errno::WOULDBLOCK) => return Err(locked()),
            other => other.map_err(os(format!("locking {path}")))?,
        }
    }
    Ok((fd, is_block))
}

fn not_a_disk(path: &str, what: &str) -> BdevError {
    BdevError::Invalid(format!("{path} is {what}, not a regular file or block device"))
}

fn block_bytes(
    name: &str,
    fd: &OwnedFd,
    is_block: bool,
    options: &UringOptions,
) -> Result<u32, BdevError> {
    let path = &options.filename;
    let logical = match is_block {
        true => rustix::fs::ioctl_blksszget(fd)
            .map_err(os(format!("asking {path} for its block size")))?,
        false => 512,
    };
    let wanted = options.block_size.filter(|bytes| *bytes != 0).unwrap_or(logical);
    check_block_bytes(name, wanted)?;
    if wanted < logical {
        return Err(BdevError::Invalid(format!(
            "bdev {name}: block_size {wanted} is less than the {logical} bytes that {path} has"
        )));
    }
    Ok(wanted)
}

/// Size in blocks. Fails with [`BdevError::Invalid`] unless it is a multiple of the block size.
pub(super) fn blocks(path: &str, fd: &OwnedFd, block_bytes: u32) -> Result<u64, BdevError> {
    let bytes = rustix::fs::seek(fd, SeekFrom::End(0)).map_err(os(format!("measuring {path}")))?;
    if bytes == 0 {
        return Err(BdevError::Invalid(format!(
            "{path} is empty: give it a size, for instance with truncate"
        )));
    }
    if bytes % u64::from(block_bytes) != 0 {
        return Err(BdevError::Invalid(format!(
            "{path} has {bytes} bytes, which is not a multiple of block_size {block_bytes}: choose \
             another block_size or a size of {} bytes",
            bytes.next_multiple_of(u64::from(block_bytes))
        )));
    }
    Ok(bytes / u64::from(block_bytes))
}

/// A block that the medium writes as one, as a multiple of the logical block.
fn physical_bytes(physical: u32, block_bytes: u32) -> u32 {
    match physical.is_power_of_two() {
        // Network file systems name their transfer size here.
        true if physical <= 65536 => physical.max(block_bytes),
        _ => block_bytes,
    }
}

/// The block device under a file or behind a device node, as sysfs shows it.
struct Disk {
    folder: String,
}

impl Disk {
    fn of(stat: &Statx, is_block: bool) -> Disk {
        let (major, minor) = match is_block {
            true => (stat.stx_rdev_major, stat.stx_rdev_minor),
            false => (stat.stx_dev_major, stat.stx_dev_minor),
        };
        Disk { folder: format!("/sys/dev/block/{major}:{minor}") }
    }

    /// A number of the request queue; a partition's is its disk's.
    fn number(&self, attribute: &str) -> Option<u32> {
        let text = read_to_string(format!("{}/queue/{attribute}", self.folder))
            .or_else(|_| read_to_string(format!("{}/../queue/{attribute}", self.folder)))
            .ok()?;
        let number: u64 = text.trim().parse().ok()?;
        Some(u32::try_from(number).unwrap_or(u32::MAX))
    }
}

/// `None`: the file can't do direct I/O.
fn alignment(stat: &Statx, disk: &Disk, block_bytes: Option<u32>) -> Option<Alignment> {
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 {
        let (memory, offset) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
        return (memory != 0 && offset != 0).then_some(Alignment { memory, offset });
    }
    // Before Linux 6.1, or a file system that does not tell: the disk's block, or a page.
    let bytes = disk.number("logical_block_size").or(block_bytes).unwrap_or(4096);
    Some(Alignment { memory: bytes, offset: bytes })
}

/// Switches direct I/O on. `Some`: why not, when the page cache will do.
fn choose_direct(
    path: &str,
    fd: &OwnedFd,
    block_bytes: u32,
    alignment: Option<Alignment>,
    wanted: Direct,
) -> Result<Option<String>, BdevError> {
    if wanted == Direct::Off {
        return Ok(None);
    }
    let refused = match alignment {
        None => Some("the file system has no direct I/O".to_owned()),
        Some(dio) if dio.offset > block_bytes => {
            Some(format!("direct I/O works in units of {} bytes", dio.offset))
        }
        Some(_) => rustix::fs::fcntl_getfl(fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags | OFlags::DIRECT))
            .err()
            .map(|errno| format!("switching direct I/O on failed: {errno}")),
    };
    match (refused, wanted) {
        (Some(why), Direct::On) => {
            Err(BdevError::Invalid(format!("{path} can't be used with direct on: {why}")))
        }
        (refused, _) => Ok(refused),
    }
}

/// Asks the file system by punching a hole behind the end of the file, where nothing is.
fn punches_holes(fd: &OwnedFd, bytes: u64) -> bool {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(fd, mode, bytes.next_multiple_of(4096), 4096).is_ok()
}
