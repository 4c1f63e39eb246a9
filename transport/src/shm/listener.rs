//! The control thread: accepts peers, checks what they register, and watches them live.
//!
//! Owns the listening sockets, the handshakes that are not finished, and one watch per connection.
//! It blocks in epoll, so no core ever makes a system call to find out that a peer is new or dead.
//! Closing what a peer has passed can take as long as the peer likes, so undertakers do that: for
//! the control thread and, through it, for the cores.
//!
//! A peer that connects and says nothing is dropped at a deadline, or sooner when others want its
//! place: the oldest of the process with the most of the user with the most. One whose hello has
//! come is never dropped. Every descriptor a peer sends is owned from the moment it arrives, so
//! that every refusal closes it.

mod control;
mod path;

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;

use super::allowance::Allowance;
use super::door::CoreDoor;
use crate::control_thread::{AskError, Bell, ControlThread};
use control::{Command, Control, TOKEN_COMMANDS};
use path::Bound;

/// Limits of the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Peers that have connected but not said hello; one more drops the oldest of the process with
    /// the most of the user with the most. At least 1.
    pub half_open_max: usize,
    /// Time from connect to hello.
    pub hello_wait: Duration,
    /// What all connections together may cost the process.
    pub allowance: Allowance,
}

impl Default for ListenerOptions {
    /// 256 peers, 5 seconds, no limit of the costs. So many peers come in more time than one needs
    /// to say hello.
    fn default() -> Self {
        let (half_open_max, hello_wait) = (256, Duration::from_secs(5));
        ListenerOptions { half_open_max, hello_wait, allowance: Allowance::default() }
    }
}

/// Why a listener could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path can't name a socket.
    #[error("{path}: {reason}")]
    BadPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A process listens there.
    #[error("{path}: a live process listens on this socket")]
    InUse {
        /// The path.
        path: String,
    },
    /// Something that is not a socket is there.
    #[error("{path}: exists and is not a socket")]
    NotASocket {
        /// The path.
        path: String,
    },
    /// No such listener.
    #[error("{path}: no listener of target {target} here")]
    NotFound {
        /// The target asked for.
        target: String,
        /// The path.
        path: String,
    },
    /// The system refused.
    #[error("{what}: {errno}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        errno: Errno,
    },
    /// The control thread has ended.
    #[error("the control thread has ended")]
    Stopped,
}

impl From<AskError> for ListenError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Ended => ListenError::Stopped,
            AskError::Busy => ListenError::System { what: error.to_string(), errno: Errno::BUSY },
        }
    }
}

impl ListenError {
    fn system(what: impl Into<String>) -> impl FnOnce(Errno) -> ListenError {
        |errno| ListenError::System { what: what.into(), errno }
    }
}

/// What became of those who connected, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListenerCounts {
    /// Sockets accepted.
    pub connected: u64,
    /// Handed to a core.
    pub attached: u64,
    /// Answered with an error: malformed, not sealed, too many regions, no room.
    pub refused: u64,
    /// Closed by the peer before its hello.
    pub left: u64,
    /// Dropped at the deadline of the hello, or for a newer peer.
    pub silent: u64,
    /// Deaths and disconnects of attached peers.
    pub gone: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connected: AtomicU64,
    attached: AtomicU64,
    refused: AtomicU64,
    left: AtomicU64,
    silent: AtomicU64,
    gone: AtomicU64,
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The control thread of this process. Dropping it stops listening and removes the socket files;
/// connections go on, but the death of their peers is no longer seen: stop the cores first.
#[derive(Debug)]
pub struct Listener {
    thread: ControlThread<Command>,
    counters: Arc<Counters>,
}

impl Listener {
    /// Starts the thread with the default limits. `doors`: the cores to spread connections over,
    /// the one with the fewest first. Fails when the system gives no descriptor or thread.
    pub fn start(doors: Vec<CoreDoor>) -> Result<Listener, ListenError> {
        Listener::with_options(doors, ListenerOptions::default())
    }

    /// Starts the thread with limits of the caller's.
    pub fn with_options(
        doors: Vec<CoreDoor>,
        options: ListenerOptions,
    ) -> Result<Listener, ListenError> {
        let failed = || ListenError::system("starting the control thread of the shm fabric");
        let bell = Bell::new().map_err(failed())?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed())?;
        let token = epoll::EventData::new_u64(TOKEN_COMMANDS);
        epoll::add(&epoll, bell.as_fd(), token, epoll::EventFlags::IN).map_err(failed())?;
        doors.iter().for_each(|door| door.join(&bell));
        let counters = Arc::new(Counters::default());
        let control = Control::new(epoll, bell.clone(), doors, options, Arc::clone(&counters));
        let thread = ControlThread::start("shm-control", bell, move |inbox| control.run(&inbox));
        Ok(Listener { thread: thread.map_err(failed())?, counters })
    }

    /// Listens at `path` for peers of `target`. The socket file has mode 0600. One that a dead
    /// process left is replaced; one of a live process is refused.
    pub fn add_listener(&self, target: &str, path: impl AsRef<Path>) -> Result<(), ListenError> {
        let bound = Bound::new(path.as_ref())?;
        self.thread.ask(|answer| Command::Add { target: target.into(), bound, answer })?
    }

    /// Stops listening at `path` for `target`, drops unfinished handshakes there, and removes the
    /// socket file if it is still ours. Connections stay.
    pub fn remove_listener(&self, target: &str, path: impl AsRef<Path>) -> Result<(), ListenError> {
        let path = path.as_ref().to_path_buf();
        self.thread.ask(|answer| Command::Remove { target: target.into(), path, answer })?
    }

    /// Counts since the start.
    pub fn counts(&self) -> ListenerCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ListenerCounts {
            connected: load(&self.counters.connected),
            attached: load(&self.counters.attached),
            refused: load(&self.counters.refused),
            left: load(&self.counters.left),
            silent: load(&self.counters.silent),
            gone: load(&self.counters.gone),
        }
    }
}
