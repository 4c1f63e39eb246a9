//! A thread with rings: the part of every device whose driver or library may block.
//!
//! A channel has a [`Line`]: a ring of operations to the thread and a ring of their ends back, each
//! with room for all that the channel's core can have in flight, so neither side waits for the
//! other. The thread has the other ends, the [`Ports`]. It takes operations from the ports in turn,
//! and decides for itself how many it begins before the first has ended.
//!
//! Whoever sleeps is woken: the thread by the first flush after it said that it would sleep, a core
//! by the first end after it armed its line. When the device is dropped the thread has some time to
//! end; a thread that its driver holds longer goes on by itself.
//!
//! One operation costs a push and a pop on either side, and a system call more for each side that
//! slept.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use reactor::sleep::raise;
use reactor::sys::memory::Memory;
use reactor::{Buf, Tag};
use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;

use crate::{CoreContext, IoStatus};

/// How long the end of the thread is waited for.
const STOP_WAIT: Duration = Duration::from_millis(500);

/// An operation on its way from a core to the thread ...
pub(crate) struct Asked<A> {
    /// The operation's tag.
    pub(crate) tag: Tag,
    /// What to do.
    pub(crate) ask: A,
    /// Where the data is or goes.
    pub(crate) buf: Option<Buf>,
}

/// ... and back.
pub(crate) struct Ended<E> {
    /// The operation's tag.
    pub(crate) tag: Tag,
    /// How it ended.
    pub(crate) status: IoStatus,
    /// What else there is to say of that.
    pub(crate) end: E,
    /// The operation's buffer.
    pub(crate) buf: Option<Buf>,
}

/// The thread's ends of one channel.
struct Port<A, E> {
    asked: Consumer<Asked<A>>,
    ended: Producer<Ended<E>>,
    wake: Option<Arc<OwnedFd>>,
    /// The core sleeps, or is about to: raise its descriptor.
    armed: Arc<AtomicBool>,
    /// Keeps the buffers mapped that the kernel may use.
    _memory: Arc<Memory>,
    /// Operations that the thread has taken and not ended.
    running: u32,
}

/// Where channels and thread find each other.
pub(crate) struct Hub<A, E> {
    /// Ends the thread's sleep.
    kick: OwnedFd,
    asleep: AtomicBool,
    stop: AtomicBool,
    fresh: Mutex<Vec<Port<A, E>>>,
    has_fresh: AtomicBool,
}

impl<A, E> fmt::Debug for Hub<A, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl<A, E> Hub<A, E> {
    /// Fails when there is no descriptor left.
    pub(crate) fn new() -> Result<Hub<A, E>, Errno> {
        Ok(Hub {
            kick: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            fresh: Mutex::default(),
            has_fresh: AtomicBool::new(false),
        })
    }

    /// A channel's way to the thread.
    pub(crate) fn open(self: &Arc<Self>, core: &CoreContext) -> Line<A, E> {
        let depth = core.depth as usize;
        let (asked, taken) = RingBuffer::new(depth);
        let (given, ended) = RingBuffer::new(depth);
        let armed = Arc::new(AtomicBool::new(false));
        self.fresh().push(Port {
            asked: taken,
            ended: given,
            wake: core.wake.clone(),
            armed: Arc::clone(&armed),
            _memory: Arc::clone(&core.memory),
            running: 0,
        });
        self.has_fresh.store(true, Ordering::Release);
        self.wake();
        Line { hub: Arc::clone(self), asked, ended, armed, pushed: false }
    }

    /// Something was pushed or asked for: one system call if the thread sleeps.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            raise(&self.kick);
        }
    }

    /// The thread is to end when it has nothing more with its driver.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// True from [`Hub::stop`] on.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn fresh(&self) -> MutexGuard<'_, Vec<Port<A, E>>> {
        self.fresh.lock().expect("nothing panics with the lock held")
    }
}

/// A core's ends of its channel's rings.
pub(crate) struct Line<A, E> {
    hub: Arc<Hub<A, E>>,
    asked: Producer<Asked<A>>,
    ended: Consumer<Ended<E>>,
    armed: Arc<AtomicBool>,
    /// Something was pushed since the last flush.
    pushed: bool,
}

impl<A, E> Line<A, E> {
    /// Takes an operation. Panics when more are under way than the core has slots: the caller's
    /// bug.
    pub(crate) fn push(&mut self, asked: Asked<A>) {
        let pushed = self.asked.push(asked);
        assert!(pushed.is_ok(), "more operations than the core has slots");
        self.pushed = true;
    }

    /// Tells the thread of what was pushed.
    pub(crate) fn flush(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.hub.wake();
        }
    }

    /// What has ended.
    pub(crate) fn pop(&mut self) -> Option<Ended<E>> {
        self.ended.pop().ok()
    }

    /// As [`IoChannel::arm`](crate::IoChannel::arm), for what is in the rings.
    pub(crate) fn arm(&mut self) -> bool {
        // The thread may sleep and know nothing of what was pushed since the last flush.
        if self.pushed {
            return false;
        }
        self.armed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.ended.is_empty()
    }
}

impl<A, E> Drop for Line<A, E> {
    fn drop(&mut self) {
        // A target that ends with operations in flight: nobody is left to take their buffers home.
        while let Some(ended) = self.pop() {
            std::mem::forget(ended.buf);
        }
    }
}

/// The thread's ends of all channels' rings.
pub(crate) struct Ports<A, E> {
    hub: Arc<Hub<A, E>>,
    ports: Vec<Option<Port<A, E>>>,
    /// Where the next round over the ports begins.
    turn: usize,
}

impl<A, E> Ports<A, E> {
    /// For the one thread that serves the channels of a hub.
    pub(crate) fn new(hub: Arc<Hub<A, E>>) -> Ports<A, E> {
        Ports { hub, ports: Vec::new(), turn: 0 }
    }

    /// Takes in the channels that have been opened, and forgets those that are closed and have
    /// nothing here.
    pub(crate) fn refresh(&mut self) {
        for slot in &mut self.ports {
            if let Some(port) = slot
                && port.running == 0
                && port.asked.is_abandoned()
                && port.asked.is_empty()
            {
                *slot = None;
            }
        }
        while self.ports.last().is_some_and(Option::is_none) {
            self.ports.pop();
        }
        if self.hub.has_fresh.swap(false, Ordering::Acquire) {
            let fresh = std::mem::take(&mut *self.hub.fresh());
            self.ports.extend(fresh.into_iter().map(Some));
        }
    }

    /// The next operation, from the ports in turn, and the number of its port, for
    /// [`Ports::end`].
    pub(crate) fn next(&mut self) -> Option<(u32, Asked<A>)> {
        for _ in 0..self.ports.len() {
            self.turn = (self.turn + 1) % self.ports.len();
            if let Some(port) = &mut self.ports[self.turn]
                && let Ok(asked) = port.asked.pop()
            {
                port.running += 1;
                return Some((self.turn as u32, asked));
            }
        }
        None
    }

    /// An operation of a port has ended: its core is told.
    pub(crate) fn end(&mut self, port: u32, ended: Ended<E>) {
        let port = self.ports[port as usize].as_mut().expect("it has operations here");
        port.running -= 1;
        if port.ended.is_abandoned() {
            // Nobody is left to take the buffer home.
            return std::mem::forget(ended.buf);
        }
        let pushed = port.ended.push(ended);
        assert!(pushed.is_ok(), "a channel has room for all it submits");
        if let Some(wake) = &port.wake {
            fence(Ordering::SeqCst);
            if port.armed.swap(false, Ordering::Relaxed) {
                raise(wake);
            }
        }
    }

    /// Before a sleep: true when nothing has come meanwhile; `takes_more` says whether operations
    /// that wait would be begun. What else the thread is asked for must be looked at afterwards,
    /// and [`Ports::awake`] must follow.
    pub(crate) fn may_sleep(&self, takes_more: bool) -> bool {
        self.hub.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let is_empty = |port: &Port<A, E>| port.asked.is_empty();
        let idle = !takes_more || self.ports.iter().flatten().all(is_empty);
        idle && !self.hub.has_fresh.load(Ordering::Acquire)
    }

    /// Sleeps until the hub or one of the driver's descriptors has something, for `longest` at
    /// most; true when a descriptor of the driver's has hung up.
    pub(crate) fn sleep<'a>(
        &self,
        driver: impl Iterator<Item = BorrowedFd<'a>>,
        longest: Option<Duration>,
    ) -> bool {
        let kick = &self.hub.kick;
        let mut fds = vec![PollFd::from_borrowed_fd(kick.as_fd(), PollFlags::IN)];
        fds.extend(driver.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        let polled = poll(&mut fds, longest.as_ref());
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        let hung_up = polled.is_ok() && fds[1..].iter().any(|fd| fd.revents().intersects(gone));
        // Not raised is fine.
        let _ = rustix::io::read(kick, &mut [0; 8]);
        hung_up
    }

    /// After a sleep.
    pub(crate) fn awake(&self) {
        self.hub.asleep.store(false, Ordering::Relaxed);
    }
}

/// The thread of a device, whose drop ends the thread.
pub(crate) struct Thread<A, E> {
    hub: Arc<Hub<A, E>>,
    ended: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl<A: 'static, E: 'static> Thread<A, E>
where
    Hub<A, E>: Send + Sync,
{
    /// Starts the thread, which `run` serves until [`Hub::is_stopping`].
    pub(crate) fn start(
        hub: &Arc<Hub<A, E>>,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<Thread<A, E>, Errno> {
        let (sender, ended) = sync_channel(1);
        let whole = move || {
            // Tells the owner by its drop, on a panic, too.
            let _ended: SyncSender<()> = sender;
            run();
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(whole);
        let thread = thread.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(Thread { hub: Arc::clone(hub), ended: Mutex::new(ended), thread: Some(thread) })
    }
}

impl<A, E> fmt::Debug for Thread<A, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").finish_non_exhaustive()
    }
}

impl<A, E> Drop for Thread<A, E> {
    fn drop(&mut self) {
        self.hub.stop();
        // The thread goes on by itself while the driver holds it.
        let ended = self.ended.get_mut().map(|ended| ended.recv_timeout(STOP_WAIT));
        if matches!(ended, Ok(Err(RecvTimeoutError::Disconnected)))
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
