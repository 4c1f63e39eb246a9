//! io_uring with owned buffers.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode};
use reactor::sys::memory::Memory;
use reactor::{Buf, Tag};
use rustix::fd::{AsRawFd, OwnedFd, RawFd};
use rustix::io::Errno;

/// Entries that a submission queue can have at most (kernel).
const ENTRIES_MAX: u32 = 32768;
/// Files in a ring's registered table; more work as well, with a look-up per operation.
const FILES_MAX: u32 = 256;
/// Bytes that one [`Step::Zeros`] can write.
pub(crate) const ZEROS_BYTES: u32 = 256 * 1024;
/// `BLOCK_URING_CMD_DISCARD` of `linux/blkdev.h`: `_IO(0x12, 0)`.
const BLOCK_URING_CMD_DISCARD: u32 = 0x12 << 8;

/// What one submission does to a file. Offsets and lengths are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Fills the buffer, except its first `skip` bytes.
    Read { offset: u64, skip: u32 },
    /// Writes the buffer, except its first `skip` bytes; `dsync`: to stable storage.
    Write { offset: u64, skip: u32, dsync: bool },
    /// Writes up to [`ZEROS_BYTES`] of zeros.
    Zeros { offset: u64, len: u32, dsync: bool },
    /// fdatasync.
    Sync,
    /// fallocate.
    Allocate { mode: i32, offset: u64, len: u64 },
    /// Discards blocks of a block device.
    Discard { offset: u64, len: u64 },
}

/// What came back for a tag.
#[derive(Debug)]
pub struct Reaped {
    /// The tag of the step.
    pub tag: Tag,
    /// Bytes moved, 0, or a negative errno.
    pub result: i32,
    /// The step's buffer.
    pub buf: Option<Buf>,
}

struct OpenFile {
    fd: Arc<OwnedFd>,
    registered: bool,
    /// Steps name buffers of the pool by their registration.
    fixed_buffers: bool,
}

/// One io_uring instance. Having one tells you that the kernel touches only memory that this value
/// owns: a buffer goes in with `push` and stays until its completion is reaped, and the pool's
/// registered memory is kept alive. Belongs to the thread that made it.
pub struct Queue {
    uring: IoUring,
    /// Buffers that the kernel may be using, by tag index.
    held: Vec<Option<Buf>>,
    /// Steps pushed and not reaped.
    in_kernel: u32,
    /// Nothing completes unless it is asked for.
    polls: bool,
    files: Vec<Option<OpenFile>>,
    table: bool,
    /// First and last address of each registered piece of the pool.
    chunks: Vec<(usize, usize)>,
    zeros: Memory,
    wake: Option<Arc<OwnedFd>>,
    armed: bool,
    _memory: Arc<Memory>,
}

/// The step of opening a queue that failed, and why.
pub(crate) type Refused = (&'static str, Errno);

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Fails when this process may not use io_uring at all.
pub(crate) fn probe() -> Result<(), Errno> {
    IoUring::new(2).map(drop).map_err(errno)
}

/// True when the kernel discards blocks of this block device for a ring (Linux 6.12). Nothing is
/// discarded: the range that is asked for has no blocks, which only a kernel that has the command
/// looks at.
pub(crate) fn discards(fd: &OwnedFd) -> bool {
    let Ok(mut uring) = IoUring::new(2) else { return false };
    // Offset and length are 0.
    let entry = opcode::UringCmd16::new(Fd(fd.as_raw_fd()), BLOCK_URING_CMD_DISCARD).build();
    // SAFETY: the entry names no memory; the file stays open until the completion has come.
    let pushed = unsafe { uring.submission().push(&entry) };
    let submitted = pushed.is_ok() && uring.submit_and_wait(1).is_ok();
    let result = uring.completion().next().map(|entry| entry.result());
    submitted && result.is_some_and(|result| result == 0 || result == -libc::EINVAL)
}

/// How the kernel delivers completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// When asked for (Linux 6.1).
    Asked,
    /// At the thread's next system call (Linux 5.19).
    NextCall,
    /// By interrupting the thread.
    Interrupt,
}

/// What a ring is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// How completions come. Without a meaning where a kernel thread submits.
    pub delivery: Delivery,
    /// A kernel thread takes submissions.
    pub sq_poll: bool,
    /// Devices are polled for completions; reads and writes with direct I/O only.
    pub io_poll: bool,
}

/// How long the kernel's thread looks for submissions before it sleeps.
const SQ_IDLE_MS: u32 = 1000;

impl Setup {
    /// A ring that does not poll.
    pub const fn plain(delivery: Delivery) -> Setup {
        Setup { delivery, sq_poll: false, io_poll: false }
    }

    /// All rings that do not poll, the best first.
    pub const PLAIN: [Setup; 3] = [
        Setup::plain(Delivery::Asked),
        Setup::plain(Delivery::NextCall),
        Setup::plain(Delivery::Interrupt),
    ];
}

/// A ring with the first of `setups` that the kernel has.
fn build(entries: u32, setups: &[Setup]) -> Result<(IoUring, Setup), Errno> {
    for setup in setups {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp();
        if setup.io_poll {
            builder.setup_iopoll();
        }
        match setup.delivery {
            _ if setup.sq_poll => {
                builder.setup_submit_all().setup_sqpoll(SQ_IDLE_MS);
            }
            Delivery::Asked => {
                builder.setup_submit_all().setup_taskrun_flag();
                builder.setup_single_issuer().setup_defer_taskrun();
            }
            Delivery::NextCall => {
                builder.setup_submit_all().setup_taskrun_flag().setup_coop_taskrun();
            }
            Delivery::Interrupt => {}
        }
        match builder.build(entries).map_err(errno) {
            Err(Errno::INVAL) => {}
            other => return other.map(|uring| (uring, *setup)),
        }
    }
    Err(Errno::INVAL)
}

impl Queue {
    /// A ring for `depth` steps in flight with tags of index below `depth`. `wake` is raised by
    /// completions after [`Queue::arm`].
    pub fn open(
        depth: u32,
        memory: &Arc<Memory>,
        wake: Option<&Arc<OwnedFd>>,
        setups: &[Setup],
    ) -> Result<Queue, Refused> {
        let entries = depth.clamp(2, ENTRIES_MAX).next_power_of_two();
        let (mut uring, setup) =
            build(entries, setups).map_err(|errno| ("setting up io_uring", errno))?;
        if let Some(wake) = wake {
            let registered = uring.submitter().register_eventfd(wake.as_raw_fd());
            registered.map_err(|error| ("registering an eventfd with io_uring", errno(error)))?;
            uring.completion().disable_eventfd();
        }
        let zeros = Memory::ordinary(ZEROS_BYTES as usize)
            .map_err(|_| ("mapping a page of zeros", Errno::NOMEM))?;
        Ok(Queue {
            table: register_table(&uring),
            chunks: register_chunks(&uring, memory),
            uring,
            held: (0..depth).map(|_| None).collect(),
            in_kernel: 0,
            polls: setup.io_poll,
            files: Vec::new(),
            zeros,
            wake: wake.cloned(),
            armed: false,
            _memory: Arc::clone(memory),
        })
    }

    /// Makes a file known; its number is for [`Queue::push`].
    pub fn add_file(&mut self, fd: Arc<OwnedFd>) -> u32 {
        let free = self.files.iter().position(Option::is_none);
        let number = free.unwrap_or_else(|| {
            self.files.push(None);
            self.files.len() - 1
        });
        let slot = number as u32;
        let registered = self.table && slot < FILES_MAX && self.update_table(slot, fd.as_raw_fd());
        self.files[number] = Some(OpenFile { fd, registered, fixed_buffers: true });
        slot
    }

    /// Forgets a file. Steps that the kernel has keep their own reference.
    pub fn remove_file(&mut self, number: u32) {
        let file = self.files[number as usize].take();
        if file.is_some_and(|file| file.registered) {
            self.update_table(number, -1);
        }
    }

    /// Steps of a file name their buffers by address from now on.
    pub fn without_registered_buffers(&mut self, number: u32) {
        if let Some(file) = &mut self.files[number as usize] {
            file.fixed_buffers = false;
        }
    }

    /// An open file.
    pub fn file(&self, number: u32) -> Option<&OwnedFd> {
        Some(&self.files.get(number as usize)?.as_ref()?.fd)
    }

    fn update_table(&self, slot: u32, fd: RawFd) -> bool {
        self.uring.submitter().register_files_update(slot, &[fd]).is_ok()
    }

    /// True when another step fits before the next [`Queue::enter`].
    #[inline]
    pub fn has_room(&mut self) -> bool {
        !self.uring.submission().is_full()
    }

    /// Queues a step. Panics without room, or when a step of the same tag index is in flight, or
    /// when `skip` is beyond the buffer.
    #[inline]
    pub fn push(&mut self, tag: Tag, file: u32, step: Step, buf: Option<Buf>) {
        let held = &mut self.held[tag.index()];
        assert!(held.is_none(), "two operations in flight under one tag");
        *held = buf;
        let open = self.files[file as usize].as_ref().expect("a file that was added");
        let (fd, flags) = match open.registered {
            true => (Fd(file as RawFd), Flags::FIXED_FILE),
            false => (Fd(open.fd.as_raw_fd()), Flags::empty()),
        };
        let fixed_buffers = open.fixed_buffers;
        let entry = self.entry(fd, step, tag, fixed_buffers).flags(flags).user_data(tag.to_u64());
        // SAFETY: the entry's memory is the Buf in `held`, which only `reap` gives out, or `zeros`.
        // Both outlive the step: dropping the queue waits for what is in flight.
        unsafe { self.uring.submission().push(&entry) }.expect("room in the submission queue");
        self.in_kernel += 1;
    }

    #[inline]
    fn entry(&mut self, fd: Fd, step: Step, tag: Tag, fixed_buffers: bool) -> Entry {
        let flags = |dsync: bool| if dsync { libc::RWF_DSYNC } else { 0 };
        match step {
            Step::Read { offset, skip } => {
                let (at, len, fixed) = self.window(tag, skip, fixed_buffers);
                match fixed {
                    Some(fixed) => {
                        opcode::ReadFixed::new(fd, at, len, fixed).offset(offset).build()
                    }
                    None => opcode::Read::new(fd, at, len).offset(offset).build(),
                }
            }
            Step::Write { offset, skip, dsync } => {
                let (at, len, fixed) = self.window(tag, skip, fixed_buffers);
                match fixed {
                    Some(fixed) => opcode::WriteFixed::new(fd, at, len, fixed)
                        .offset(offset)
                        .rw_flags(flags(dsync))
                        .build(),
                    None => {
                        let write = opcode::Write::new(fd, at, len);
                        write.offset(offset).rw_flags(flags(dsync)).build()
                    }
                }
            }
            Step::Zeros { offset, len, dsync } => {
                assert!(len <= ZEROS_BYTES, "{len} zeros");
                let write = opcode::Write::new(fd, self.zeros.at(0).as_ptr(), len);
                write.offset(offset).rw_flags(flags(dsync)).build()
            }
            Step::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Step::Allocate { mode, offset, len } => {
                opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build()
            }
            Step::Discard { offset, len } => {
                let mut cmd = [0; 16];
                cmd[..8].copy_from_slice(&len.to_ne_bytes());
                let discard = opcode::UringCmd16::new(fd, BLOCK_URING_CMD_DISCARD);
                discard.addr(Some(offset)).cmd(cmd).build()
            }
        }
    }

    /// Address, length and registration of what a step moves.
    #[inline]
    fn window(&mut self, tag: Tag, skip: u32, fixed_buffers: bool) -> (*mut u8, u32, Option<u16>) {
        let buf = self.held[tag.index()].as_mut().expect("a buffer to move");
        let len = (buf.len() as u32).checked_sub(skip).expect("bytes left to move");
        let at = buf.as_mut_ptr().wrapping_add(skip as usize);
        // A buffer can be another core's, or span two registrations.
        let fixed = buf.fixed().filter(|_| fixed_buffers).filter(|fixed| {
            self.chunks.get(usize::from(*fixed)).is_some_and(|(first, end)| {
                *first <= at as usize && at as usize + len as usize <= *end
            })
        });
        (at, len, fixed)
    }

    /// Hands all queued steps to the kernel: one system call, none when nothing is queued.
    #[inline]
    pub fn enter(&mut self) {
        self.disarm();
        if !self.uring.submission().is_empty() {
            self.call(0);
        }
    }

    /// Lets the kernel deliver completions that wait for a call; no call when none do.
    #[inline]
    pub fn collect(&mut self) {
        self.disarm();
        let asks = self.polls && self.in_kernel > 0;
        let submission = self.uring.submission();
        if asks || submission.taskrun() || submission.cq_overflow() {
            drop(submission);
            self.call(0);
        }
    }

    /// Steps that have not been reaped, and those of them that have been delivered.
    #[inline]
    pub fn in_flight(&mut self) -> (usize, usize) {
        (self.in_kernel as usize, self.uring.completion().len())
    }

    /// Takes a completion that has been delivered.
    #[inline]
    pub fn reap(&mut self) -> Option<Reaped> {
        let entry = self.uring.completion().next()?;
        let tag = Tag::from_u64(entry.user_data());
        self.in_kernel -= 1;
        Some(Reaped { tag, result: entry.result(), buf: self.held[tag.index()].take() })
    }

    /// Makes the next completion raise the wake-up descriptor, until the next call of
    /// [`Queue::enter`] or [`Queue::collect`]. False when there is something to submit or reap, or
    /// completions have to be asked for.
    pub fn arm(&mut self) -> bool {
        if self.polls && self.in_kernel > 0 {
            return false;
        }
        if self.wake.is_some() && !self.armed {
            self.uring.completion().enable_eventfd();
            self.armed = true;
        }
        // The kernel publishes a completion and then looks whether to raise the descriptor.
        fence(Ordering::SeqCst);
        let submission = self.uring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        idle && self.uring.completion().is_empty()
    }

    #[inline]
    fn disarm(&mut self) {
        if self.armed {
            self.uring.completion().disable_eventfd();
            self.armed = false;
        }
    }

    fn call(&mut self, want: usize) {
        match self.uring.submit_and_wait(want).map_err(errno) {
            Ok(_) => {}
            // What was not taken stays queued for the next call.
            Err(Errno::INTR | Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => {}
            Err(errno) => panic!("io_uring_enter: {errno}"),
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        while self.in_kernel > 0 {
            // A buffer that nobody waits for any more stays out of its pool.
            match self.reap() {
                Some(reaped) => std::mem::forget(reaped.buf),
                None => self.call(1),
            }
        }
    }
}

/// True when the ring has a table of registered files, all free.
fn register_table(uring: &IoUring) -> bool {
    let submitter = uring.submitter();
    submitter.register_files_sparse(FILES_MAX).is_ok()
        || submitter.register_files(&[-1; FILES_MAX as usize]).is_ok()
}

/// Registers the pool's memory. Without it the kernel pins pages per operation, which costs time
/// but changes nothing else.
fn register_chunks(uring: &IoUring, memory: &Memory) -> Vec<(usize, usize)> {
    let pieces: Vec<_> = memory
        .chunks()
        .map(|(base, len)| libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len })
        .collect();
    if pieces.is_empty() {
        return Vec::new();
    }
    // SAFETY: the queue keeps the memory mapped longer than the ring.
    match unsafe { uring.submitter().register_buffers(&pieces) } {
        Ok(()) => pieces
            .iter()
            .map(|piece| (piece.iov_base as usize, piece.iov_base as usize + piece.iov_len))
            .collect(),
        Err(error) => {
            tracing::warn!(
                "io_uring can't register {} bytes of buffers ({error}); raise the limit on locked \
                 memory for full speed",
                memory.len()
            );
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs Linux 6.1"]
    fn a_completion_that_waits_to_be_asked_for_keeps_the_core_awake() {
        let memory = Arc::new(Memory::ordinary(4096).unwrap());
        let flags = rustix::event::EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags).unwrap());
        let asked = [Setup::plain(Delivery::Asked)];
        let mut queue = Queue::open(1, &memory, Some(&wake), &asked).unwrap();
        let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let file = queue.add_file(Arc::new(file.into()));
        queue.push(Tag::new(0, 0), file, Step::Sync, None);
        assert!(!queue.arm(), "a step waits to be submitted");
        queue.enter();
        while !queue.uring.submission().taskrun() {
            std::hint::spin_loop();
        }
        assert!(queue.reap().is_none());
        assert!(!queue.arm());
        queue.collect();
        assert_eq!(queue.reap().map(|reaped| reaped.result), Some(0));
        assert!(queue.arm());
    }

    #[test]
    fn more_files_than_the_table_holds_work() {
        let memory = Arc::new(Memory::ordinary(4096).unwrap());
        let mut queue = Queue::open(2, &memory, None, &Setup::PLAIN).unwrap();
        let exe = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
        let exe = Arc::new(OwnedFd::from(exe));
        let numbers: Vec<_> = (0..FILES_MAX + 2).map(|_| queue.add_file(exe.clone())).collect();
        for number in [numbers[0], numbers[FILES_MAX as usize + 1]] {
            queue.push(Tag::new(number % 2, 0), number, Step::Sync, None);
            queue.enter();
            let reaped = loop {
                queue.collect();
                if let Some(reaped) = queue.reap() {
                    break reaped;
                }
            };
            assert_eq!(reaped.result, 0);
        }
        numbers.into_iter().for_each(|number| queue.remove_file(number));
        assert_eq!(queue.add_file(exe), 0);
    }
}
