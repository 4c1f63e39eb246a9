//! The control thread: takes logins, makes and destroys queue pairs, watches connections.
//!
//! Owns the listeners, the identifier of every connection and the control thread's part of every
//! device. It blocks in epoll on the CM's events and its own event counter; a sleeping core waits
//! for completions itself.
//!
//! Nothing that one peer or device does ends another's connection: an event concerns one
//! identifier, and a failure is answered by a reject or the end of that connection.

mod control;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll};

use super::ListenAddress;
use super::door::{CoreDoor, raise};
use super::sys::cm::ChannelError;
use super::sys::{EventChannel, RdmaError};
use control::{Command, Control, TOKEN_CM, TOKEN_COMMANDS};

/// Limits of the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Logins that are asked for and not established; more are rejected at once.
    pub half_open_max: usize,
    /// Time from the answer to a login until the connection is established.
    pub establish_wait: Duration,
    /// Time between attempts to listen again at an address whose device went away.
    pub listen_again: Duration,
}

impl Default for ListenerOptions {
    /// 64 logins, 30 seconds, 1 second.
    fn default() -> Self {
        ListenerOptions {
            half_open_max: 64,
            establish_wait: Duration::from_secs(30),
            listen_again: Duration::from_secs(1),
        }
    }
}

/// Why a listener could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// There is no RDMA here; what is missing.
    #[error("{0}")]
    Unavailable(String),
    /// The address does not parse: see [`ListenAddress::parse`].
    #[error("{address}: neither an IP address nor ib:GID nor ib, with a port")]
    BadAddress {
        /// The address.
        address: String,
    },
    /// The target listens there already.
    #[error("{address}: target {target} listens there already")]
    Exists {
        /// The target.
        target: String,
        /// The address.
        address: ListenAddress,
    },
    /// No such listener.
    #[error("{address}: no listener of target {target} here")]
    NotFound {
        /// The target asked for.
        target: String,
        /// The address.
        address: ListenAddress,
    },
    /// The system refused.
    #[error("{what}: {reason}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        reason: std::io::Error,
    },
    /// The control thread has ended.
    #[error("the control thread has ended")]
    Stopped,
}

impl From<ChannelError> for ListenError {
    fn from(error: ChannelError) -> Self {
        ListenError::Unavailable(error.to_string())
    }
}

impl ListenError {
    fn system(what: &str) -> impl FnOnce(rustix::io::Errno) -> ListenError {
        |errno| ListenError::System { what: what.into(), reason: errno.into() }
    }

    fn refused(address: ListenAddress, error: RdmaError) -> ListenError {
        ListenError::System { what: format!("{address}: {}", error.what), reason: error.reason }
    }
}

/// What became of those who connected, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListenerCounts {
    /// Connection requests.
    pub requests: u64,
    /// Handed to a core.
    pub offered: u64,
    /// Rejected here: too many half-open, no room, no memory, no queue pair.
    pub refused: u64,
    /// Established.
    pub established: u64,
    /// Disconnects and failures of accepted connections that the CM reported.
    pub gone: u64,
    /// Accepted but not established in time.
    pub late: u64,
    /// Devices removed.
    pub devices_removed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    offered: AtomicU64,
    refused: AtomicU64,
    established: AtomicU64,
    gone: AtomicU64,
    late: AtomicU64,
    devices_removed: AtomicU64,
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The control thread of this process. Dropping it stops listening and lets go of the connections
/// that the cores have returned: stop the cores first.
#[derive(Debug)]
pub struct Listener {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts the thread with the default limits. `doors`: the cores to spread connections over,
    /// the one with the fewest first, or as [`super::RdmaValues::channels_in_order`] says. Fails
    /// when there is no RDMA, and says what is missing.
    pub fn start(doors: Vec<CoreDoor>) -> Result<Listener, ListenError> {
        Listener::with_options(doors, ListenerOptions::default())
    }

    /// Starts the thread with limits of the caller's.
    pub fn with_options(
        doors: Vec<CoreDoor>,
        options: ListenerOptions,
    ) -> Result<Listener, ListenError> {
        let channel = EventChannel::new()?;
        let failed = || ListenError::system("starting the control thread of the rdma fabric");
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags).map_err(failed())?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed())?;
        for (fd, token) in [(wake.as_fd(), TOKEN_COMMANDS), (channel.as_fd(), TOKEN_CM)] {
            let token = epoll::EventData::new_u64(token);
            epoll::add(&epoll, fd, token, epoll::EventFlags::IN).map_err(failed())?;
        }
        doors.iter().for_each(|door| door.join(&wake));
        let (commands, inbox) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let counts = Arc::clone(&counters);
        let control =
            Control::new(channel, epoll, Arc::clone(&wake), inbox, doors, options, counts);
        let thread = std::thread::Builder::new()
            .name("rdma-control".into())
            .spawn(move || control.run())
            .map_err(|reason| ListenError::System { what: "starting a thread".into(), reason })?;
        Ok(Listener { commands, wake, counters, thread: Some(thread) })
    }

    /// Listens for logins to `target` at an address of [`ListenAddress`]. An address whose device
    /// is removed is listened at again once the device is back.
    pub fn add_listener(
        &self,
        target: &str,
        traddr: &str,
        trsvcid: &str,
    ) -> Result<(), ListenError> {
        let address = parse(traddr, trsvcid)?;
        self.ask(|answer| Command::Add { target: target.into(), address, answer })?
    }

    /// Stops listening. Connections stay.
    pub fn remove_listener(
        &self,
        target: &str,
        traddr: &str,
        trsvcid: &str,
    ) -> Result<(), ListenError> {
        let address = parse(traddr, trsvcid)?;
        self.ask(|answer| Command::Remove { target: target.into(), address, answer })?
    }

    /// For logins from now on: see [`super::RdmaValues::channels_in_order`].
    pub fn set_channels_in_order(&self, in_order: bool) -> Result<(), ListenError> {
        self.ask(|answer| Command::InOrder { in_order, answer })
    }

    /// Counts since the start.
    pub fn counts(&self) -> ListenerCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ListenerCounts {
            requests: load(&self.counters.requests),
            offered: load(&self.counters.offered),
            refused: load(&self.counters.refused),
            established: load(&self.counters.established),
            gone: load(&self.counters.gone),
            late: load(&self.counters.late),
            devices_removed: load(&self.counters.devices_removed),
        }
    }

    fn ask<T>(&self, command: impl FnOnce(mpsc::Sender<T>) -> Command) -> Result<T, ListenError> {
        let (answer, wait) = mpsc::channel();
        self.commands.send(command(answer)).map_err(|_| ListenError::Stopped)?;
        raise(&self.wake);
        wait.recv().map_err(|_| ListenError::Stopped)
    }
}

fn parse(traddr: &str, trsvcid: &str) -> Result<ListenAddress, ListenError> {
    ListenAddress::parse(traddr, trsvcid)
        .ok_or_else(|| ListenError::BadAddress { address: format!("{traddr} port {trsvcid}") })
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        raise(&self.wake);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread of the rdma fabric panicked");
        }
    }
}
