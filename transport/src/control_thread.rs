//! The handle of a thread that its owner gives orders: what the listeners of the fabrics and the
//! device management agent have in common.
//!
//! The thread waits on descriptors of its own and on its [`Bell`]. Commands go through a bounded
//! queue and are answered one by one; a stop needs no place in the queue. A thread that panics is
//! told of at once, and every question after that is refused. No owner waits for the end of its
//! thread for longer than [`STOP_WAIT`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::io::Errno;

/// Commands that may wait. Each is that of a caller who waits for the answer.
const COMMANDS_MAX: usize = 64;
/// How long dropping a handle waits for the end of the thread.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// An event counter that wakes a thread. Clones ring the same one.
#[derive(Debug, Clone)]
pub(crate) struct Bell(Arc<OwnedFd>);

impl Bell {
    /// A bell that does not ring. Fails when the system gives no descriptor.
    pub(crate) fn new() -> Result<Bell, Errno> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Bell(Arc::new(rustix::event::eventfd(0, flags)?)))
    }

    /// Makes the descriptor readable.
    pub(crate) fn ring(&self) {
        // It fails only while the counter is full, and a full counter is readable.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Ends the ringing. What rang the bell must be looked for after this call.
    pub(crate) fn hush(&self) {
        // It fails only while the counter is empty.
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why a question was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// The thread has ended.
    #[error("the control thread has ended")]
    Ended,
    /// The queue is full: the thread has not come to [`COMMANDS_MAX`] commands yet.
    #[error("the control thread has {COMMANDS_MAX} commands to do")]
    Busy,
}

/// What a thread finds in its inbox.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order<C> {
    /// To be done now.
    Command(C),
    /// To end.
    Stop,
}

/// The thread's end.
#[derive(Debug)]
pub(crate) struct Inbox<C> {
    commands: Receiver<C>,
    stopping: Arc<AtomicBool>,
}

impl<C> Inbox<C> {
    /// The next order; a stop goes before all commands. `None`: there is none.
    pub(crate) fn next(&self) -> Option<Order<C>> {
        if self.stopping.load(Ordering::Acquire) {
            return Some(Order::Stop);
        }
        match self.commands.try_recv() {
            Ok(command) => Some(Order::Command(command)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Order::Stop),
        }
    }
}

/// The owner's end. Dropping it stops the thread and waits for its end, for [`STOP_WAIT`] at most.
#[derive(Debug)]
pub(crate) struct ControlThread<C> {
    name: &'static str,
    commands: SyncSender<C>,
    stopping: Arc<AtomicBool>,
    bell: Bell,
    /// Disconnected once the thread's function has returned or panicked.
    ended: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl<C: Send + 'static> ControlThread<C> {
    /// Starts a thread of that name, which is to look at its inbox whenever `bell` rings. Fails
    /// when the system gives no thread.
    pub(crate) fn start(
        name: &'static str,
        bell: Bell,
        run: impl FnOnce(Inbox<C>) + Send + 'static,
    ) -> Result<Self, Errno> {
        let (commands, inbox) = mpsc::sync_channel(COMMANDS_MAX);
        let stopping = Arc::new(AtomicBool::new(false));
        let inbox = Inbox { commands: inbox, stopping: Arc::clone(&stopping) };
        let (alive, ended) = mpsc::channel();
        let watched = move || {
            let _alive = Alive { name, _sender: alive };
            run(inbox);
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(watched);
        let thread =
            thread.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        let ended = Mutex::new(ended);
        Ok(ControlThread { name, commands, stopping, bell, ended, thread: Some(thread) })
    }

    /// Gives the thread a command with a place for the answer, and waits for the answer.
    pub(crate) fn ask<T>(&self, command: impl FnOnce(mpsc::Sender<T>) -> C) -> Result<T, AskError> {
        let (answer, wait) = mpsc::channel();
        self.commands.try_send(command(answer)).map_err(|error| match error {
            TrySendError::Full(_) => AskError::Busy,
            TrySendError::Disconnected(_) => AskError::Ended,
        })?;
        self.bell.ring();
        wait.recv().map_err(|_| AskError::Ended)
    }
}

impl<C> Drop for ControlThread<C> {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.bell.ring();
        let Some(thread) = self.thread.take() else { return };
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        match ended.recv_timeout(STOP_WAIT) {
            // A panic has been told of.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => _ = thread.join(),
            Err(RecvTimeoutError::Timeout) => {
                tracing::error!(
                    thread = self.name,
                    "does not end within {STOP_WAIT:?}: left alone"
                );
            }
        }
    }
}

/// Lives as long as the thread's function.
struct Alive {
    name: &'static str,
    _sender: mpsc::Sender<()>,
}

impl Drop for Alive {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(thread = self.name, "panicked: nothing that it does happens any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    enum Say {
        Double(u32, mpsc::Sender<u32>),
        Panic(mpsc::Sender<()>),
        Block(mpsc::Sender<()>, Receiver<()>),
    }

    fn started() -> ControlThread<Say> {
        let bell = Bell::new().unwrap();
        let mine = bell.clone();
        let run = move |inbox: Inbox<Say>| {
            loop {
                poll(&mut [PollFd::new(&mine, PollFlags::IN)], None).unwrap();
                mine.hush();
                while let Some(order) = inbox.next() {
                    match order {
                        Order::Stop => return,
                        Order::Command(Say::Double(number, answer)) => {
                            answer.send(2 * number).unwrap();
                        }
                        Order::Command(Say::Panic(_answer)) => panic!("told to"),
                        Order::Command(Say::Block(begun, until)) => {
                            begun.send(()).unwrap();
                            let _ = until.recv();
                        }
                    }
                }
            }
        };
        ControlThread::start("test-control", bell, run).unwrap()
    }

    #[test]
    fn commands_are_answered_in_turn_and_the_end_is_waited_for() {
        let thread = started();
        assert_eq!(thread.ask(|answer| Say::Double(4, answer)), Ok(8));
        assert_eq!(thread.ask(|answer| Say::Double(5, answer)), Ok(10));
        let stopping = Arc::downgrade(&thread.stopping);
        drop(thread);
        assert!(stopping.upgrade().is_none(), "the thread has let go of everything");
    }

    #[test]
    fn a_panic_shows_to_those_who_ask() {
        let thread = started();
        assert_eq!(thread.ask(Say::Panic), Err(AskError::Ended));
        assert_eq!(thread.ask(|answer| Say::Double(4, answer)), Err(AskError::Ended));
    }

    #[test]
    fn a_stuck_thread_refuses_what_its_queue_cannot_hold_and_is_left_alone_at_the_end() {
        let thread = started();
        let (_go_on, until) = mpsc::channel();
        thread.ask(|begun| Say::Block(begun, until)).unwrap();
        let (answer, _answers) = mpsc::channel();
        let mut taken = 0;
        while thread.commands.try_send(Say::Double(1, answer.clone())).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, COMMANDS_MAX);
        assert_eq!(thread.ask(|answer| Say::Double(4, answer)), Err(AskError::Busy));
        let start = Instant::now();
        drop(thread);
        let took = start.elapsed();
        assert!((STOP_WAIT..10 * STOP_WAIT).contains(&took), "{took:?}");
    }
}
