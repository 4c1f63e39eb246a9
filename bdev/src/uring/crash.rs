//! A file-backed device that can tell what would survive a crash.
//!
//! [`Crashing`] is a [`Uring`] with everything of it but the kernel: channel and ring are those of
//! production, and under them a model carries the steps out on two images. The file itself is what
//! readers see; the second one is what is on stable storage: a write with DSYNC reaches it with its
//! own range, a sync with all of it, and nothing else ever does.
//!
//! Steps in flight are carried out in any order, and transfers may be short: drawn from a seed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reactor::{Buf, Tag};
use rustix::fd::OwnedFd;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::channel::UringChannel;
use super::kernel::Kernel;
use super::medium::os;
use super::{Direct, OnOff, Ring, Uring, UringOptions};
use crate::contract::Random;
use crate::refused::BdevError;
use crate::sys::queue::{Reaped, Step};
use crate::{Bdev, CoreContext, Geometry, IoChannel, OpenError};

/// Bytes that a write never tears.
const SECTOR_BYTES: usize = 512;

/// What the device does and what it gets wrong.
#[derive(Debug, Clone, Copy)]
pub struct CrashOptions {
    /// Completed writes may be volatile until a flush.
    pub write_cache: bool,
    /// The file system can zero ranges; else zeros are written.
    pub zeroes_ranges: bool,
    /// Writes with FUA stay volatile: a broken device, which a test must notice.
    pub ignores_fua: bool,
    /// Flushes do nothing: a broken device, which a test must notice.
    pub ignores_flush: bool,
    /// Source of all chance.
    pub seed: u64,
}

/// The device.
#[derive(Debug)]
pub struct Crashing {
    uring: Uring,
    disk: Arc<Disk>,
}

#[derive(Debug)]
struct Disk {
    durable: OwnedFd,
    options: CrashOptions,
    random: Mutex<Random>,
}

impl Crashing {
    /// A device of `sectors` blocks of 512 bytes on two new files of a folder.
    pub fn create(
        name: &str,
        folder: &Path,
        sectors: u64,
        options: CrashOptions,
    ) -> Result<Crashing, BdevError> {
        let image = |name: &str| -> Result<(OwnedFd, String), BdevError> {
            let path = folder.join(name).to_string_lossy().into_owned();
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
                .map_err(os(format!("making {path}")))?;
            rustix::fs::ftruncate(&fd, sectors * SECTOR_BYTES as u64)
                .map_err(os(format!("sizing {path}")))?;
            Ok((fd, path))
        };
        let (_, live) = image("live.img")?;
        let (durable, _) = image("durable.img")?;
        let uring_options = UringOptions {
            direct: Direct::Off,
            write_cache: OnOff(options.write_cache),
            ..UringOptions::new(&live)
        };
        let uuid = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes());
        let uring = Uring::open(name.to_owned(), uuid, &uring_options, Duration::ZERO)?;
        let random = Mutex::new(Random::new(options.seed));
        Ok(Crashing { uring, disk: Arc::new(Disk { durable, options, random }) })
    }

    /// What would be found after a crash now.
    pub fn survivors(&self) -> Vec<u8> {
        let bytes = self.uring.geometry().blocks as usize * SECTOR_BYTES;
        let mut image = vec![0; bytes];
        read(&self.disk.durable, &mut image, 0);
        image
    }
}

impl Bdev for Crashing {
    fn name(&self) -> &str {
        self.uring.name()
    }

    fn product_name(&self) -> &'static str {
        "Crashing disk"
    }

    fn uuid(&self) -> Uuid {
        self.uring.uuid()
    }

    fn geometry(&self) -> Geometry {
        self.uring.geometry()
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        let model = Model {
            disk: Arc::clone(&self.disk),
            files: Vec::new(),
            room: core.depth as usize,
            queued: VecDeque::new(),
            started: Vec::new(),
            finished: VecDeque::new(),
        };
        let ring = Rc::new(RefCell::new(Ring::over(model, core.depth)));
        let state = Arc::clone(&self.uring.state);
        let write_cache = self.disk.options.write_cache;
        Ok(Box::new(UringChannel::new(state, ring, None, false, write_cache)))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        self.uring.driver_specific()
    }

    fn module(&self) -> &'static str {
        self.uring.module()
    }

    fn options(&self) -> Value {
        self.uring.options()
    }
}

struct Job {
    tag: Tag,
    file: u32,
    step: Step,
    buf: Option<Buf>,
}

/// Stands in for io_uring.
struct Model {
    disk: Arc<Disk>,
    files: Vec<Option<Arc<OwnedFd>>>,
    room: usize,
    queued: VecDeque<Job>,
    started: Vec<Job>,
    finished: VecDeque<Reaped>,
}

fn read(fd: &OwnedFd, bytes: &mut [u8], offset: u64) {
    let got = rustix::io::pread(fd, &mut *bytes, offset).expect("an image of a test");
    assert_eq!(got, bytes.len(), "an image of a test is short");
}

fn write(fd: &OwnedFd, bytes: &[u8], offset: u64) {
    let put = rustix::io::pwrite(fd, bytes, offset).expect("an image of a test");
    assert_eq!(put, bytes.len(), "room for a small image");
}

impl Model {
    fn random(&self) -> MutexGuard<'_, Random> {
        self.disk.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of a transfer is made: often all of it, at least a sector.
    fn part(&self, len: usize) -> usize {
        let sectors = (len / SECTOR_BYTES) as u64;
        let mut random = self.random();
        match random.below(4) {
            0 if sectors > 1 => (1 + random.below(sectors)) as usize * SECTOR_BYTES,
            _ => len,
        }
    }

    /// Carries a step out; its result.
    fn run(&self, job: &mut Job) -> i32 {
        let file = self.files[job.file as usize].as_ref().expect("an open file");
        let options = &self.disk.options;
        match job.step {
            Step::Read { offset, skip } => {
                let buf = job.buf.as_mut().expect("a buffer to fill");
                let mut bytes = vec![0; self.part(buf.len() - skip as usize)];
                read(file, &mut bytes, offset);
                buf.write_at(skip as usize, &bytes);
                bytes.len() as i32
            }
            Step::Write { offset, skip, dsync } => {
                let buf = job.buf.as_ref().expect("a buffer to write");
                let mut bytes = vec![0; self.part(buf.len() - skip as usize)];
                buf.read_at(skip as usize, &mut bytes);
                self.put(file, offset, &bytes, dsync)
            }
            Step::Zeros { offset, len, dsync } => {
                let bytes = vec![0; self.part(len as usize)];
                self.put(file, offset, &bytes, dsync)
            }
            Step::Sync => {
                if !options.ignores_flush {
                    let bytes = rustix::fs::fstat(file).expect("a file").st_size as usize;
                    let mut image = vec![0; bytes];
                    read(file, &mut image, 0);
                    write(&self.disk.durable, &image, 0);
                }
                0
            }
            Step::Allocate { mode, offset, len } => {
                let flags = FallocateFlags::from_bits_retain(mode as u32);
                assert!(flags.contains(FallocateFlags::KEEP_SIZE));
                if flags.contains(FallocateFlags::ZERO_RANGE) && !options.zeroes_ranges {
                    return -Errno::OPNOTSUPP.raw_os_error();
                }
                write(file, &vec![0; len as usize], offset);
                0
            }
            Step::Discard { .. } => -Errno::OPNOTSUPP.raw_os_error(),
        }
    }

    fn put(&self, file: &OwnedFd, offset: u64, bytes: &[u8], dsync: bool) -> i32 {
        write(file, bytes, offset);
        if dsync && !self.disk.options.ignores_fua {
            write(&self.disk.durable, bytes, offset);
        }
        bytes.len() as i32
    }
}

impl Kernel for Model {
    fn add_file(&mut self, fd: Arc<OwnedFd>) -> u32 {
        self.files.push(Some(fd));
        self.files.len() as u32 - 1
    }

    fn remove_file(&mut self, number: u32) {
        self.files[number as usize] = None;
    }

    fn without_registered_buffers(&mut self, _number: u32) {}

    fn without_direct(&mut self, _number: u32) {}

    fn is_gone(&self, _number: u32) -> bool {
        false
    }

    fn has_room(&mut self) -> bool {
        self.queued.len() < self.room
    }

    fn push(&mut self, tag: Tag, file: u32, step: Step, buf: Option<Buf>) {
        self.queued.push_back(Job { tag, file, step, buf });
    }

    fn enter(&mut self) {
        self.started.extend(self.queued.drain(..));
    }

    fn collect(&mut self) {
        for _ in 0..self.started.len() {
            let (ends, which) = {
                let mut random = self.random();
                (random.below(3) == 0, random.below(self.started.len() as u64) as usize)
            };
            if ends {
                let mut job = self.started.swap_remove(which);
                let result = self.run(&mut job);
                self.finished.push_back(Reaped { tag: job.tag, result, buf: job.buf });
            }
        }
    }

    fn in_flight(&mut self) -> (usize, usize) {
        (self.queued.len() + self.started.len() + self.finished.len(), self.finished.len())
    }

    fn reap(&mut self) -> Option<Reaped> {
        self.finished.pop_front()
    }

    fn arm(&mut self) -> bool {
        self.queued.is_empty() && self.started.is_empty() && self.finished.is_empty()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // Nobody is left to take their buffers home.
        self.queued.drain(..).chain(self.started.drain(..)).for_each(|j| std::mem::forget(j.buf));
        self.finished.drain(..).for_each(|reaped| std::mem::forget(reaped.buf));
    }
}
