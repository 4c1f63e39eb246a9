//! A file or block device, opened and looked at.

use std::fs::read_to_string;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, SeekFrom, Statx, StatxFlags,
};
use rustix::io::Errno;

use super::options::{Direct, UringOptions};
use super::refusals::Refusals;
use crate::refused::{BdevError, check_block_bytes};
use crate::sys::{block, queue};

/// A medium and its open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub medium: Medium,
    pub fd: OwnedFd,
}

/// What was found out about a file or block device when it was opened.
#[derive(Debug)]
pub(super) struct Medium {
    pub is_block: bool,
    /// What tells a block device from another one that comes under its name, if it says so.
    pub identity: Option<String>,
    /// A loop device whose backing file goes with the last user.
    pub clears_itself: bool,
    pub block_bytes: u32,
    pub physical_bytes: u32,
    pub blocks: u64,
    /// Alignment in bytes of memory that is used in place.
    pub buf_align: u32,
    /// Why the page cache is used where `auto` would have gone without; `None`: it isn't used, or
    /// was asked for.
    pub buffered_because: Option<String>,
    pub direct: bool,
    /// A block device that takes no writes, however it was opened.
    pub read_only: bool,
    pub rotational: bool,
    /// How space is given up; `None`: it is not.
    pub unmap: Option<Unmap>,
    pub unmap_granularity: u32,
    /// The disk below has queues that can be polled; `None`: it does not say.
    pub polled_queues: Option<bool>,
    /// What the kernel has refused since the medium was opened.
    pub refusals: Arc<Refusals>,
}

/// How a medium gives up space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unmap {
    /// Its blocks are discarded and read as anything afterwards.
    Discard,
    /// A hole is made, which reads as zeros.
    Punch,
}

impl Unmap {
    /// What a block device does. Kernels before Linux 6.12 have no discard for a ring; a hole takes
    /// a disk that writes zeros by itself.
    pub(super) fn of_disk(
        discards: bool,
        ring_discards: impl FnOnce() -> bool,
        zeroes: bool,
    ) -> Option<Unmap> {
        match discards {
            true if ring_discards() => Some(Unmap::Discard),
            true if zeroes => Some(Unmap::Punch),
            _ => None,
        }
    }
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

/// What an open medium is now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// There, with so many bytes.
    There { bytes: u64 },
    /// Gone, and how that shows.
    Lost(String),
}

impl Medium {
    /// Opens, locks and looks. `name` is the bdev's, for messages. A file that another process has
    /// is waited for up to `lock_wait`.
    pub(super) fn open(
        name: &str,
        options: &UringOptions,
        lock_wait: Duration,
    ) -> Result<Opened, BdevError> {
        let path = options.filename.as_str();
        let (fd, is_block) = open_locked(options, lock_wait)?;
        let stat = rustix::fs::statx(
            &fd,
            "",
            AtFlags::EMPTY_PATH,
            StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN,
        )
        .map_err(os(format!("looking at {path}")))?;
        let block_bytes = block_bytes(name, &fd, is_block, options)?;
        let (blocks, rest) = blocks(path, &fd, is_block, block_bytes)?;
        if rest > 0 {
            tracing::warn!("bdev {name}: the last {rest} bytes of {path} are no block: left out");
        }
        let physical = match is_block {
            true => rustix::fs::ioctl_blkpbszget(&fd).unwrap_or(block_bytes),
            false => stat.stx_blksize,
        };
        let disk = Disk::of(&stat, is_block);
        let alignment = alignment(&stat, &disk, is_block.then_some(block_bytes));
        let refused = choose_direct(path, &fd, block_bytes, alignment, options.direct)?;
        let direct = options.direct != Direct::Off && refused.is_none();
        let read_only = is_block && block::read_only(&fd);
        let some = |attribute| disk.number(attribute).is_some_and(|bytes| bytes > 0);
        let unmap = match is_block {
            _ if options.read_only || read_only => None,
            true => Unmap::of_disk(
                some("discard_max_bytes"),
                || queue::discards(&fd),
                some("write_zeroes_max_bytes"),
            ),
            // The file goes on behind its last whole block.
            false => {
                punches_holes(&fd, blocks * u64::from(block_bytes) + rest).then_some(Unmap::Punch)
            }
        };
        let granularity = match is_block {
            true => disk.number("discard_granularity").unwrap_or(0),
            false => stat.stx_blksize,
        };
        let medium = Medium {
            is_block,
            identity: if is_block { disk.identity() } else { None },
            clears_itself: is_block && disk.clears_itself(),
            block_bytes,
            physical_bytes: physical_bytes(physical, block_bytes),
            blocks,
            buf_align: if direct { alignment.map_or(block_bytes, |dio| dio.memory) } else { 1 },
            buffered_because: refused,
            direct,
            read_only,
            rotational: options
                .rotational
                .unwrap_or_else(|| is_block && disk.number("rotational") == Some(1)),
            unmap,
            unmap_granularity: if unmap.is_some() { granularity } else { 0 },
            polled_queues: disk.number("io_poll").map(|number| number != 0),
            refusals: Arc::default(),
        };
        Ok(Opened { medium, fd })
    }

    /// Refuses a medium that is another one than the operator has meant.
    pub(super) fn check_identity(&self, path: &str, wanted: Option<&str>) -> Result<(), BdevError> {
        let Some(wanted) = wanted else { return Ok(()) };
        let now = self.identity.as_deref();
        if now == Some(wanted) {
            return Ok(());
        }
        let now = now.unwrap_or("one that does not say what it is");
        Err(BdevError::Invalid(format!(
            "device_id: {path} is another device ({now}) than is meant ({wanted}): leave device_id \
             out to take it"
        )))
    }

    /// Opens what has been lost, if the same is there again.
    pub(super) fn open_again(
        name: &str,
        options: &UringOptions,
        before: &Medium,
    ) -> Result<Opened, BdevError> {
        let path = options.filename.as_str();
        let refused = |why: &str| Err(BdevError::Invalid(format!("{path} {why}")));
        let stat = rustix::fs::stat(path).map_err(os(format!("opening {path}")))?;
        let is_block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
        if is_block != before.is_block {
            return refused("is another kind of file than before");
        }
        // An exclusive open, however short, would get in the way of whoever sets it up.
        if is_block && Disk::at(stat.st_rdev).text("size").as_deref() == Some("0") {
            return refused("has no medium");
        }
        let options = UringOptions { block_size: Some(before.block_bytes), ..options.clone() };
        let opened = Medium::open(name, &options, Duration::ZERO)?;
        match (&before.identity, &opened.medium.identity) {
            (Some(before), Some(now)) if before != now => {
                refused(&format!("is another device ({now}) than before ({before})"))
            }
            (Some(_), Some(_)) => Ok(opened),
            _ if opened.medium.blocks != before.blocks => {
                refused("has another size than before and nothing else to know it by")
            }
            _ => Ok(opened),
        }
    }

    /// What has become of it.
    pub(super) fn fate(&self, path: &str, fd: &OwnedFd) -> Fate {
        let bytes = match bytes(fd, self.is_block) {
            Ok(0) if self.is_block => return Fate::Lost(format!("{path} is gone")),
            Ok(bytes) if bytes < u64::from(self.block_bytes) => {
                return Fate::Lost(format!("{path} has {bytes} bytes, less than a block"));
            }
            Ok(bytes) => bytes,
            Err(errno) => return Fate::Lost(format!("{path}: {errno}")),
        };
        let released = || {
            let stat = rustix::fs::fstat(fd);
            stat.is_ok_and(|stat| Disk::at(stat.st_rdev).clears_itself())
        };
        // A loop device that its operator has detached stays as long as somebody has it open.
        if self.is_block && !self.clears_itself && released() {
            return Fate::Lost(format!("{path} has been detached"));
        }
        Fate::There { bytes }
    }
}

/// Pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Opens for this process alone, waiting a while for one that has just died.
fn open_locked(options: &UringOptions, lock_wait: Duration) -> Result<(OwnedFd, bool), BdevError> {
    let deadline = Instant::now() + lock_wait;
    loop {
        match try_open_locked(options) {
            Err(BdevError::Locked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
}

/// Opens for this process alone, or for those that share: files by a lock, block devices by the
/// kernel's own exclusion.
fn try_open_locked(options: &UringOptions) -> Result<(OwnedFd, bool), BdevError> {
    let UringOptions { filename: path, read_only, shared, .. } = options;
    let (path, read_only, shared) = (path.as_str(), *read_only, *shared);
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
    let exclusive = if is_block && !shared { OFlags::EXCL } else { OFlags::empty() };
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
        let operation = match read_only || shared {
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

/// Size in bytes.
fn bytes(fd: &OwnedFd, is_block: bool) -> Result<u64, Errno> {
    match is_block {
        true => block::bytes(fd),
        false => rustix::fs::seek(fd, SeekFrom::End(0)),
    }
}

/// Size in whole blocks, and the bytes behind the last of them. Fails with [`BdevError::Invalid`]
/// when there is not a single block.
pub(super) fn blocks(
    path: &str,
    fd: &OwnedFd,
    is_block: bool,
    block_bytes: u32,
) -> Result<(u64, u64), BdevError> {
    let bytes = bytes(fd, is_block).map_err(os(format!("measuring {path}")))?;
    if bytes == 0 {
        return Err(BdevError::Invalid(format!(
            "{path} is empty: give it a size, for instance with truncate"
        )));
    }
    let block_bytes = u64::from(block_bytes);
    if bytes < block_bytes {
        return Err(BdevError::Invalid(format!(
            "{path} has {bytes} bytes, less than a block of block_size {block_bytes}: choose a \
             smaller block_size or a size of at least {block_bytes} bytes"
        )));
    }
    Ok((bytes / block_bytes, bytes % block_bytes))
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

    fn at(device: u64) -> Disk {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        Disk { folder: format!("/sys/dev/block/{major}:{minor}") }
    }

    /// An attribute without the white space around it; `None` when there is none or it is empty.
    fn text(&self, attribute: &str) -> Option<String> {
        let text = read_to_string(format!("{}/{attribute}", self.folder)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// What the device calls itself; of a partition what its disk does, and which one it is.
    fn identity(&self) -> Option<String> {
        let names = ["device/wwid", "wwid", "serial", "dm/uuid", "md/uuid", "loop/backing_file"];
        let Some(number) = self.text("partition") else {
            return names.into_iter().find_map(|name| self.text(name));
        };
        let disk = names.into_iter().find_map(|name| self.text(&format!("../{name}")))?;
        let events = self.text("uevent").unwrap_or_default();
        // Since Linux 6.12.
        let uuid = events.lines().find_map(|line| line.strip_prefix("PARTUUID="));
        match uuid {
            Some(uuid) => Some(format!("{disk} partition {uuid}")),
            None => Some(format!("{disk} partition {number} at {}", self.text("start")?)),
        }
    }

    /// A loop device that is detached with its last user.
    fn clears_itself(&self) -> bool {
        self.text("loop/autoclear").as_deref() == Some("1")
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

/// Asks the file system by punching a hole behind the end of the file, where nothing is. `bytes`:
/// of the whole file, also of what is no block of the device.
fn punches_holes(fd: &OwnedFd, bytes: u64) -> bool {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(fd, mode, bytes.next_multiple_of(4096), 4096).is_ok()
}

#[cfg(test)]
mod tests {
    use super::Disk;

    #[test]
    fn a_partition_is_known_by_its_disk_and_by_which_one_it_is() {
        let folder = std::env::temp_dir().join(format!("bdev-{}", uuid::Uuid::new_v4()));
        let partition = folder.join("sda/sda1");
        std::fs::create_dir_all(&partition).unwrap();
        std::fs::create_dir_all(folder.join("sda/device")).unwrap();
        let disk = Disk { folder: partition.to_str().unwrap().to_owned() };
        let write = |file: &str, text: &str| std::fs::write(partition.join(file), text).unwrap();
        write("partition", "1\n");
        write("start", "2048\n");
        assert_eq!(disk.identity(), None, "the disk does not say what it is");
        write("../device/wwid", "naa.5000c500a1b2c3d4\n");
        let identity = |disk: &Disk| disk.identity().unwrap();
        assert_eq!(identity(&disk), "naa.5000c500a1b2c3d4 partition 1 at 2048");
        write("uevent", "PARTN=1\nPARTUUID=8e9a2f10-01\n");
        assert_eq!(identity(&disk), "naa.5000c500a1b2c3d4 partition 8e9a2f10-01");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
