//! One core's ring: the operations of all its file and block devices.
//!
//! An operation may take several steps: the rest of a short transfer, a slower way where the file
//! system lacks a faster one, a sync at the end. Its state lives in a fixed slot under its tag's
//! index, so nothing is allocated, and its buffer is either here or with the kernel.
//!
//! What the kernel took once and refuses later, polling or direct I/O, is done without from then
//! on: the operation that met the refusal goes on too.
//!
//! Steps wait in a list until `flush`, which makes one system call for all channels of the core.

use std::collections::VecDeque;
use std::sync::Arc;

use reactor::sys::memory::Memory;
use reactor::{Batch, Buf, Tag};
use rustix::fd::OwnedFd;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::kernel::Kernel;
use super::medium::Medium;
use super::refusals::{Extra, Refusals};
use crate::sys::queue::{Queue, Reaped, Refused, Setup, Step, ZEROS_BYTES};
use crate::{IoDone, IoStatus};

/// Into how many parts the operations of a busy device are divided.
const PARTS: usize = 8;

/// What an operation is doing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Filling the buffer.
    Read,
    /// Writing the buffer.
    Write,
    /// Syncing.
    Sync,
    /// Giving blocks of a block device up.
    Discard,
    /// Giving space up.
    Punch,
    /// Making a range zero that may give up its space.
    PunchZero,
    /// Making a range zero that keeps its space.
    ZeroRange,
    /// Writing zeros.
    Zeros,
}

/// An operation on a file. Offset and length are bytes; the length is not 0, except for a sync.
#[derive(Debug)]
pub(super) struct Op {
    pub tag: Tag,
    pub file: u32,
    pub work: Work,
    pub offset: u64,
    pub len: u64,
    /// Complete only on stable storage.
    pub fua: bool,
    pub buf: Option<Buf>,
}

struct Slot {
    op: Op,
    /// Bytes moved so far.
    moved: u64,
    /// What the operation was submitted with.
    with: With,
}

/// What transfers of a file are submitted with.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct With {
    registered_buffers: bool,
    direct: bool,
}

/// What a file was found to lack, so that it is asked once.
#[derive(Debug, Default)]
struct FileState {
    in_flight: u32,
    closing: bool,
    is_block: bool,
    /// A block device that is no longer there.
    gone: bool,
    no_discard: bool,
    no_punch: bool,
    no_zero_range: bool,
    with: With,
    refusals: Arc<Refusals>,
}

enum Outcome {
    Again,
    Done(IoStatus),
    /// The kernel does not do a transfer as it was submitted.
    Refused(Errno),
}

/// Completions that a turn takes of those that are `delivered`. What they lead to is submitted at
/// the end of the turn: a device that is still at work gets it in small parts, so that it never
/// runs dry; one that has nothing left has no use for that.
#[inline]
fn share((in_flight, delivered): (usize, usize)) -> usize {
    if delivered < in_flight { (in_flight / PARTS).max(1) } else { delivered }
}

/// One core's ring. See [`SharedRing`](super::SharedRing).
pub struct Ring<K = Queue> {
    queue: K,
    slots: Vec<Option<Slot>>,
    /// Tag indices of operations whose next step is not with the kernel yet.
    waiting: VecDeque<u32>,
    /// Operations that ended without the kernel.
    ready: VecDeque<IoDone>,
    files: Vec<FileState>,
    /// A ring of its own for what a device is polled for: what it can't do is for another ring.
    polled: bool,
    /// Operations that this ring was refused and another one must do.
    refused: VecDeque<Op>,
}

impl Ring {
    pub(super) fn open(
        depth: u32,
        memory: &Arc<Memory>,
        wake: Option<&Arc<OwnedFd>>,
        setups: &[Setup],
    ) -> Result<Ring, Refused> {
        let polled = setups.iter().any(|setup| setup.io_poll || setup.sq_poll);
        let queue = Queue::open(depth, memory, wake, setups)?;
        let mut ring = Ring::over(queue, depth);
        if polled {
            ring.set_polled();
        }
        Ok(ring)
    }
}

#[allow(private_bounds, reason = "rings are made here only")]
impl<K: Kernel> Ring<K> {
    pub(super) fn over(queue: K, depth: u32) -> Ring<K> {
        Ring {
            queue,
            slots: (0..depth).map(|_| None).collect(),
            waiting: VecDeque::with_capacity(depth as usize),
            ready: VecDeque::with_capacity(depth as usize),
            files: Vec::new(),
            polled: false,
            refused: VecDeque::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn kernel(&self) -> &K {
        &self.queue
    }

    /// What this ring is refused is for another one.
    pub(super) fn set_polled(&mut self) {
        self.polled = true;
    }

    /// Makes a medium's file known.
    pub(super) fn open_file(&mut self, fd: Arc<OwnedFd>, medium: &Medium) -> u32 {
        let number = self.queue.add_file(fd);
        if self.files.len() <= number as usize {
            self.files.resize_with(number as usize + 1, FileState::default);
        }
        self.files[number as usize] = FileState {
            is_block: medium.is_block,
            with: With { registered_buffers: true, direct: medium.direct },
            refusals: Arc::clone(&medium.refusals),
            ..FileState::default()
        };
        number
    }

    /// Forgets a file as soon as nothing of it is in flight.
    pub(super) fn close_file(&mut self, number: u32) {
        let file = &mut self.files[number as usize];
        file.closing = true;
        if file.in_flight == 0 {
            self.queue.remove_file(number);
        }
    }

    /// Takes an operation for the next flush.
    #[inline]
    pub(super) fn start(&mut self, mut op: Op) {
        let file = &mut self.files[op.file as usize];
        file.in_flight += 1;
        op.work = file.way(op.work);
        let with = file.with;
        let index = op.tag.index();
        let slot = &mut self.slots[index];
        assert!(slot.is_none(), "two operations in flight under one tag");
        *slot = Some(Slot { op, moved: 0, with });
        self.waiting.push_back(index as u32);
    }

    /// Takes back an operation that a polled ring was refused: it has changed nothing that doing it
    /// again does not.
    #[inline]
    pub(super) fn take_refused(&mut self) -> Option<Op> {
        self.refused.pop_front()
    }

    /// Takes an operation that has ended already.
    #[inline]
    pub(super) fn finish(&mut self, done: IoDone) {
        self.ready.push_back(done);
    }

    pub(super) fn flush(&mut self) {
        while !self.waiting.is_empty() && self.queue.has_room() {
            let Some(index) = self.waiting.pop_front() else { break };
            let slot = self.slots[index as usize].as_mut().expect("a waiting operation");
            let step = slot.step();
            self.queue.push(slot.op.tag, slot.op.file, step, slot.op.buf.take());
        }
        self.queue.enter();
    }

    pub(super) fn poll(&mut self, done: &mut Batch<IoDone>) {
        while !done.is_full() {
            let Some(item) = self.ready.pop_front() else { break };
            done.push(item);
        }
        if self.queue.in_flight().1 == 0 {
            self.queue.collect();
        }
        let mut share = share(self.queue.in_flight());
        while share > 0
            && !done.is_full()
            && let Some(reaped) = self.queue.reap()
        {
            share -= 1;
            if let Some(item) = self.on_reaped(reaped) {
                done.push(item);
            }
        }
    }

    pub(super) fn arm(&mut self) -> bool {
        self.ready.is_empty() && self.waiting.is_empty() && self.queue.arm()
    }

    #[inline]
    fn on_reaped(&mut self, reaped: Reaped) -> Option<IoDone> {
        let index = reaped.tag.index();
        let slot = self.slots[index].as_mut().expect("a completion of an operation in flight");
        assert_eq!(slot.op.tag, reaped.tag, "a completion of an older operation");
        slot.op.buf = reaped.buf;
        let number = slot.op.file;
        let file = &mut self.files[number as usize];
        let mut status = match slot.on_result(reaped.result, file) {
            Outcome::Done(status) => status,
            Outcome::Again => {
                self.waiting.push_back(index as u32);
                return None;
            }
            Outcome::Refused(errno) => self.on_refused(index, errno)?,
        };
        if reaped.result == -Errno::IO.raw_os_error() && self.is_gone(number) {
            status = IoStatus::NotReady;
        }
        let op = self.take_out(index);
        Some(IoDone { tag: op.tag, status, buf: op.buf })
    }

    /// True when an error of a file means that its device is gone. Nobody is asked about a file
    /// that is no device: its file system might take its time.
    #[cold]
    fn is_gone(&mut self, number: u32) -> bool {
        let file = &mut self.files[number as usize];
        if file.is_block && !file.gone {
            file.gone = self.queue.is_gone(number);
        }
        file.gone
    }

    /// Takes an operation out of its slot, and lets go of its file if that was the last one.
    #[inline]
    fn take_out(&mut self, index: usize) -> Op {
        let Slot { op, .. } = self.slots[index].take().expect("an operation in flight");
        let file = &mut self.files[op.file as usize];
        file.in_flight -= 1;
        if file.closing && file.in_flight == 0 {
            self.queue.remove_file(op.file);
        }
        op
    }

    /// Tries a refused transfer with less, or hands it to another ring. A status: nothing is left
    /// to try.
    #[cold]
    fn on_refused(&mut self, index: usize, errno: Errno) -> Option<IoStatus> {
        let slot = self.slots[index].as_mut().expect("an operation in flight");
        let number = slot.op.file;
        let file = &mut self.files[number as usize];
        if self.polled {
            file.refusals.note(Extra::Polling, errno);
            let op = self.take_out(index);
            self.refused.push_back(op);
            return None;
        }
        // Another operation may have met the refusal first.
        if slot.with == file.with {
            let extra = match file.with {
                With { registered_buffers: true, .. } => {
                    file.with.registered_buffers = false;
                    self.queue.without_registered_buffers(number);
                    Extra::RegisteredBuffers
                }
                With { direct: true, .. } => {
                    file.with.direct = false;
                    self.queue.without_direct(number);
                    Extra::Direct
                }
                _ => return Some(IoStatus::Unsupported),
            };
            file.refusals.note(extra, errno);
        }
        slot.with = file.with;
        self.waiting.push_back(index as u32);
        None
    }
}

impl<K> Drop for Ring<K> {
    fn drop(&mut self) {
        // Buffers of operations that never started: nobody is left to take them home.
        for slot in self.slots.drain(..).flatten() {
            std::mem::forget(slot.op.buf);
        }
        self.ready.drain(..).for_each(std::mem::forget);
        self.refused.drain(..).for_each(std::mem::forget);
    }
}

impl FileState {
    /// The best way that is not known to fail.
    fn way(&self, work: Work) -> Work {
        match work {
            Work::Discard if self.no_discard => Work::Punch,
            Work::PunchZero if self.no_punch => self.way(Work::ZeroRange),
            Work::ZeroRange if self.no_zero_range => Work::Zeros,
            work => work,
        }
    }

    /// The next way after one that the file refused with `errno`.
    fn other_way(&mut self, work: Work, errno: Errno) -> Option<Work> {
        match (work, errno) {
            (Work::Discard, Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
                self.no_discard = true
            }
            (Work::PunchZero, Errno::OPNOTSUPP | Errno::NOSYS) => self.no_punch = true,
            (Work::ZeroRange, Errno::OPNOTSUPP | Errno::NOSYS) => self.no_zero_range = true,
            _ => return None,
        }
        Some(self.way(work))
    }
}

impl Slot {
    #[inline]
    fn step(&self) -> Step {
        let Op { offset, len, fua, .. } = self.op;
        let allocate = |flags: FallocateFlags| {
            let mode = (flags | FallocateFlags::KEEP_SIZE).bits() as i32;
            Step::Allocate { mode, offset, len }
        };
        let (at, rest) = (offset + self.moved, len - self.moved);
        match self.op.work {
            Work::Read => Step::Read { offset: at, skip: self.moved as u32 },
            Work::Write => Step::Write { offset: at, skip: self.moved as u32, dsync: fua },
            Work::Sync => Step::Sync,
            Work::Discard => Step::Discard { offset, len },
            Work::Punch | Work::PunchZero => allocate(FallocateFlags::PUNCH_HOLE),
            Work::ZeroRange => allocate(FallocateFlags::ZERO_RANGE),
            Work::Zeros => {
                let len = rest.min(u64::from(ZEROS_BYTES)) as u32;
                Step::Zeros { offset: at, len, dsync: fua }
            }
        }
    }

    /// Bytes move to or from memory.
    #[inline]
    fn transfers(&self) -> bool {
        matches!(self.op.work, Work::Read | Work::Write | Work::Zeros)
    }

    #[inline]
    fn on_result(&mut self, result: i32, file: &mut FileState) -> Outcome {
        if result < 0 {
            return self.on_error(Errno::from_raw_os_error(-result), file);
        }
        if self.transfers() {
            if result == 0 {
                // The file ends here, though it did not when it was opened.
                return Outcome::Done(self.medium_error());
            }
            self.moved += u64::from(result.unsigned_abs());
            return match self.moved < self.op.len {
                true => Outcome::Again,
                false => Outcome::Done(IoStatus::Good),
            };
        }
        if self.op.fua && self.op.work != Work::Sync {
            self.op.work = Work::Sync;
            return Outcome::Again;
        }
        Outcome::Done(IoStatus::Good)
    }

    #[cold]
    fn on_error(&mut self, errno: Errno, file: &mut FileState) -> Outcome {
        if matches!(errno, Errno::INTR | Errno::AGAIN) {
            return Outcome::Again;
        }
        if let Some(work) = file.other_way(self.op.work, errno) {
            self.op.work = work;
            return Outcome::Again;
        }
        Outcome::Done(match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => IoStatus::NoSpace,
            Errno::ROFS | Errno::PERM if self.op.work != Work::Read => IoStatus::WriteProtected,
            Errno::NODEV | Errno::NXIO | Errno::BADF | Errno::TIMEDOUT => IoStatus::NotReady,
            // Of network and user-space file systems, and of remote disks.
            Errno::STALE | Errno::NOTCONN | Errno::NOLINK | Errno::HOSTDOWN => IoStatus::NotReady,
            // To be tried again: there was no memory just then.
            Errno::CANCELED | Errno::NOMEM => IoStatus::Aborted,
            // After a short transfer the rest starts at the end of a file that shrank.
            Errno::INVAL if self.moved > 0 => self.medium_error(),
            // Not this way; perhaps another.
            Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL if self.transfers() => {
                return Outcome::Refused(errno);
            }
            Errno::OPNOTSUPP | Errno::NOSYS => {
                if matches!(self.op.work, Work::Discard | Work::Punch) {
                    file.refusals.note(Extra::Unmap, errno);
                }
                IoStatus::Unsupported
            }
            Errno::INVAL => IoStatus::Unsupported,
            _ => self.medium_error(),
        })
    }

    fn medium_error(&self) -> IoStatus {
        match self.op.work {
            Work::Read => IoStatus::ReadError,
            _ => IoStatus::WriteError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(work: Work, moved: u64) -> Slot {
        let tag = Tag::new(0, 0);
        let op = Op { tag, file: 0, work, offset: 4096, len: 8192, fua: false, buf: None };
        Slot { op, moved, with: With::default() }
    }

    fn status(work: Work, moved: u64, errno: Errno) -> Option<IoStatus> {
        let mut file = FileState::default();
        match slot(work, moved).on_result(-errno.raw_os_error(), &mut file) {
            Outcome::Done(status) => Some(status),
            Outcome::Again | Outcome::Refused(_) => None,
        }
    }

    #[test]
    fn errors_become_statuses() {
        for (work, errno, expected) in [
            (Work::Read, Errno::IO, IoStatus::ReadError),
            (Work::Write, Errno::IO, IoStatus::WriteError),
            (Work::Sync, Errno::IO, IoStatus::WriteError),
            (Work::Write, Errno::NOSPC, IoStatus::NoSpace),
            (Work::Write, Errno::DQUOT, IoStatus::NoSpace),
            (Work::Zeros, Errno::NOSPC, IoStatus::NoSpace),
            (Work::Write, Errno::FBIG, IoStatus::NoSpace),
            (Work::Read, Errno::STALE, IoStatus::NotReady),
            (Work::Sync, Errno::NOTCONN, IoStatus::NotReady),
            (Work::Write, Errno::NOMEM, IoStatus::Aborted),
            (Work::Write, Errno::ROFS, IoStatus::WriteProtected),
            (Work::Punch, Errno::PERM, IoStatus::WriteProtected),
            (Work::Read, Errno::PERM, IoStatus::ReadError),
            (Work::Read, Errno::NODEV, IoStatus::NotReady),
            (Work::Read, Errno::NXIO, IoStatus::NotReady),
            (Work::Write, Errno::BADF, IoStatus::NotReady),
            (Work::Write, Errno::TIMEDOUT, IoStatus::NotReady),
            (Work::Read, Errno::CANCELED, IoStatus::Aborted),
            (Work::Punch, Errno::OPNOTSUPP, IoStatus::Unsupported),
            (Work::Read, Errno::FAULT, IoStatus::ReadError),
        ] {
            assert_eq!(status(work, 0, errno), Some(expected), "{work:?} {errno}");
        }
        assert_eq!(status(Work::Read, 512, Errno::INVAL), Some(IoStatus::ReadError));
        assert_eq!(status(Work::Write, 512, Errno::INVAL), Some(IoStatus::WriteError));
        assert_eq!(status(Work::Read, 0, Errno::INTR), None);
        assert_eq!(status(Work::Write, 0, Errno::AGAIN), None);
    }

    #[test]
    fn a_busy_device_gets_its_work_in_parts() {
        // Operations in flight, completions delivered, completions taken.
        for (in_flight, delivered, taken) in
            [(0, 0, 0), (1, 1, 1), (3, 1, 1), (32, 5, 4), (32, 31, 4), (32, 32, 32), (128, 40, 16)]
        {
            assert_eq!(share((in_flight, delivered)), taken, "{delivered} of {in_flight}");
        }
    }

    #[test]
    fn a_short_transfer_goes_on_where_it_stopped() {
        let mut file = FileState::default();
        let mut slot = slot(Work::Write, 0);
        assert!(matches!(slot.on_result(1000, &mut file), Outcome::Again));
        assert_eq!(slot.step(), Step::Write { offset: 5096, skip: 1000, dsync: false });
        assert!(matches!(slot.on_result(7192, &mut file), Outcome::Done(IoStatus::Good)));
        let mut slot = self::slot(Work::Read, 0);
        assert!(matches!(slot.on_result(0, &mut file), Outcome::Done(IoStatus::ReadError)));
    }

    #[test]
    fn a_missing_ability_is_asked_for_once() {
        let mut file = FileState::default();
        let refused = -Errno::OPNOTSUPP.raw_os_error();
        let mut zero = slot(Work::PunchZero, 0);
        for next in [Work::ZeroRange, Work::Zeros] {
            assert!(matches!(zero.on_result(refused, &mut file), Outcome::Again));
            assert_eq!(zero.op.work, next);
        }
        assert_eq!(file.way(Work::PunchZero), Work::Zeros);
        assert_eq!(file.way(Work::ZeroRange), Work::Zeros);
        let mut discard = slot(Work::Discard, 0);
        assert!(matches!(discard.on_result(refused, &mut file), Outcome::Again));
        assert_eq!(discard.op.work, Work::Punch);
        assert_eq!(file.way(Work::Discard), Work::Punch);
    }

    #[test]
    fn a_change_without_data_is_synced_when_asked() {
        let mut file = FileState::default();
        let mut zero = slot(Work::ZeroRange, 0);
        zero.op.fua = true;
        assert!(matches!(zero.on_result(0, &mut file), Outcome::Again));
        assert_eq!(zero.step(), Step::Sync);
        assert!(matches!(zero.on_result(0, &mut file), Outcome::Done(IoStatus::Good)));
    }
}
