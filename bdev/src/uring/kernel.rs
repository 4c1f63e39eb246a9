//! What a [`Ring`](super::Ring) needs of io_uring: the seam at which a model can stand in.

use std::sync::Arc;

use reactor::{Buf, Tag};
use rustix::fd::OwnedFd;
use rustix::fs::OFlags;

use crate::sys::block;
use crate::sys::queue::{Queue, Reaped, Step};

/// Steps go in with `push`, start with `enter`, and come back with `reap`, each once.
pub(crate) trait Kernel {
    /// Makes a file known; its number is for [`Kernel::push`].
    fn add_file(&mut self, fd: Arc<OwnedFd>) -> u32;
    /// Forgets a file.
    fn remove_file(&mut self, number: u32);
    /// Steps of a file no longer use buffers as they were registered.
    fn without_registered_buffers(&mut self, number: u32);
    /// A file goes through the page cache from now on, in all rings: clears a flag of it, for which
    /// nobody waits.
    fn without_direct(&mut self, number: u32);
    /// True when the block device of a file is gone: it has no size any more. A system call that
    /// waits for nothing.
    fn is_gone(&self, number: u32) -> bool;
    /// True when another step fits before the next [`Kernel::enter`].
    fn has_room(&mut self) -> bool;
    /// Queues a step.
    fn push(&mut self, tag: Tag, file: u32, step: Step, buf: Option<Buf>);
    /// Starts all queued steps.
    fn enter(&mut self);
    /// Makes what has completed available to [`Kernel::reap`].
    fn collect(&mut self);
    /// Steps that have been pushed and not reaped, and those of them that can be reaped now.
    fn in_flight(&mut self) -> (usize, usize);
    /// Takes a completion.
    fn reap(&mut self) -> Option<Reaped>;
    /// Before the core sleeps; see [`IoChannel::arm`](crate::IoChannel::arm).
    fn arm(&mut self) -> bool;
}

impl Kernel for Queue {
    fn add_file(&mut self, fd: Arc<OwnedFd>) -> u32 {
        Queue::add_file(self, fd)
    }

    fn remove_file(&mut self, number: u32) {
        Queue::remove_file(self, number);
    }

    #[cold]
    fn without_registered_buffers(&mut self, number: u32) {
        Queue::without_registered_buffers(self, number);
    }

    #[cold]
    fn without_direct(&mut self, number: u32) {
        let Some(fd) = self.file(number) else { return };
        // Should it fail, the next try is refused too, and the operation ends.
        let _ = rustix::fs::fcntl_getfl(fd)
            .and_then(|flags| rustix::fs::fcntl_setfl(fd, flags - OFlags::DIRECT));
    }

    #[cold]
    fn is_gone(&self, number: u32) -> bool {
        self.file(number).is_some_and(|fd| block::bytes(fd) == Ok(0))
    }

    #[inline]
    fn has_room(&mut self) -> bool {
        Queue::has_room(self)
    }

    #[inline]
    fn push(&mut self, tag: Tag, file: u32, step: Step, buf: Option<Buf>) {
        Queue::push(self, tag, file, step, buf);
    }

    #[inline]
    fn enter(&mut self) {
        Queue::enter(self);
    }

    #[inline]
    fn collect(&mut self) {
        Queue::collect(self);
    }

    #[inline]
    fn in_flight(&mut self) -> (usize, usize) {
        Queue::in_flight(self)
    }

    #[inline]
    fn reap(&mut self) -> Option<Reaped> {
        Queue::reap(self)
    }

    fn arm(&mut self) -> bool {
        Queue::arm(self)
    }
}
