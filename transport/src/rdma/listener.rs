//! The control thread: takes logins, makes and destroys queue pairs, watches connections.
//!
//! Owns the listeners, the identifier of every connection and the control thread's part of every
//! device. It blocks in epoll on the CM's events and its own event counter; a sleeping core waits
//! for completions itself.
//!
//! Nothing that one peer or device does ends another's connection: an event concerns one
//! identifier, and a failure is answered by a reject or the end of that connection.

mod control;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;

use super::ListenAddress;
use super::door::CoreDoor;
use super::sys::cm::ChannelError;
use super::sys::{EventChannel, RdmaError};
use crate::control_thread::{AskError, Bell, ControlThread};
use control::{Command, Control, TOKEN_CM, TOKEN_COMMANDS};

/// Limits of the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Logins that are asked for and not established; one more ends the oldest that has been
    /// answered, of the address with the most, and is rejected if there is none.
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

impl From<AskError> for ListenError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Ended => ListenError::Stopped,
            AskError::Busy => {
                ListenError::System { what: error.to_string(), reason: Errno::BUSY.into() }
            }
        }
    }
}

impl From<ChannelError> for ListenError {
    fn from(error: ChannelError) -> Self {
        ListenError::Unavailable(error.to_string())
    }
}

impl ListenError {
    fn system(what: &str) -> impl FnOnce(Errno) -> ListenError {
        |errno| ListenError::System { what: what.into(), reason: errno.into() }
    }

    fn refused(address: ListenAddress, error: RdmaError) -> ListenError {
        let why = match error.reason.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => {
                " (no RDMA device has this address, or another listener has the port at all \
                 addresses)"
            }
            _ => "",
        };
        ListenError::System {
            what: format!("{address}: {}{why}", error.what),
            reason: error.reason,
        }
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
    /// Not established, and ended for another login.
    pub displaced: u64,
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
    displaced: AtomicU64,
    devices_removed: AtomicU64,
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The control thread of this process. Dropping it stops listening and lets go of the connections
/// that the cores have returned: stop the cores first.
#[derive(Debug)]
pub struct Listener {
    thread: ControlThread<Command>,
    counters: Arc<Counters>,
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
        let bell = Bell::new().map_err(failed())?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed())?;
        for (fd, token) in [(bell.as_fd(), TOKEN_COMMANDS), (channel.as_fd(), TOKEN_CM)] {
            let token = epoll::EventData::new_u64(token);
            epoll::add(&epoll, fd, token, epoll::EventFlags::IN).map_err(failed())?;
        }
        doors.iter().for_each(|door| door.join(&bell));
        let counters = Arc::new(Counters::default());
        let counts = Arc::clone(&counters);
        let control = Control::new(channel, epoll, bell.clone(), doors, options, counts);
        let thread = ControlThread::start("rdma-control", bell, move |inbox| control.run(&inbox));
        Ok(Listener { thread: thread.map_err(failed())?, counters })
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
        self.thread.ask(|answer| Command::Add { target: target.into(), address, answer })?
    }

    /// Stops listening. Connections stay.
    pub fn remove_listener(
        &self,
        target: &str,
        traddr: &str,
        trsvcid: &str,
    ) -> Result<(), ListenError> {
        let address = parse(traddr, trsvcid)?;
        self.thread.ask(|answer| Command::Remove { target: target.into(), address, answer })?
    }

    /// For logins from now on: see [`super::RdmaValues::channels_in_order`].
    pub fn set_channels_in_order(&self, in_order: bool) -> Result<(), ListenError> {
        Ok(self.thread.ask(|answer| Command::InOrder { in_order, answer })?)
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
            displaced: load(&self.counters.displaced),
            devices_removed: load(&self.counters.devices_removed),
        }
    }
}

fn parse(traddr: &str, trsvcid: &str) -> Result<ListenAddress, ListenError> {
    ListenAddress::parse(traddr, trsvcid)
        .ok_or_else(|| ListenError::BadAddress { address: format!("{traddr} port {trsvcid}") })
}
