//! Clients: one blocking thread each.
//!
//! There is room for [`CLIENTS_MAX`]. When it is taken, or descriptors run out, the client that has
//! been without a request for longest makes room for the new one, so that idle clients never lock
//! an operator out. A client whose request is being carried out stays.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::Shared;
use super::dispatch::{self, Then};
use super::documents::Documents;
use super::error::RpcError;
use super::socket::{BindError, Socket};
use crate::control::Refused;

/// Clients served at a time.
pub(super) const CLIENTS_MAX: usize = 64;

/// How long a client may leave an answer unread.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long what follows a refused request is thrown away before the connection closes.
const DISCARD_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a stop waits until those whose requests have no end are told so. Less than a second.
const REFUSAL_WAIT_MAX: Duration = Duration::from_millis(100);

/// How long a stop waits for requests in progress, and for their answers to be taken. Less than a
/// second.
const PARTING_WAIT_MAX: Duration = Duration::from_millis(300);

/// When accepting is tried again that failed with nobody to make room: others may have closed
/// descriptors, or a client has left, which ends the wait at once.
const RETRY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;

/// A running server. Dropping it ends all connections and removes the socket.
pub struct Server {
    clients: Arc<Clients>,
    thread: Option<JoinHandle<()>>,
}

struct Clients {
    shared: Arc<Shared>,
    write_wait_max: Duration,
    stopping: AtomicBool,
    /// An eventfd: a client has left, or the server stops.
    wake: OwnedFd,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// Rises whenever a client becomes idle.
    moment: u64,
    clients: BTreeMap<u64, Client>,
    threads: Vec<JoinHandle<()>>,
}

struct Client {
    stream: Arc<UnixStream>,
    /// When it became idle; `None` while a request is carried out.
    idle_since: Option<u64>,
}

impl Open {
    fn idle(&mut self, number: u64) {
        self.moment += 1;
        if let Some(client) = self.clients.get_mut(&number) {
            client.idle_since = Some(self.moment);
        }
    }

    /// Ends the client that has been idle for longest; false when none is.
    fn make_room(&mut self) -> bool {
        let idle = self.clients.iter().filter_map(|(number, c)| Some((c.idle_since?, *number)));
        let Some((_, number)) = idle.min() else { return false };
        if let Some(client) = self.clients.remove(&number) {
            tracing::debug!("RPC client {number}: idle for longest, makes room for another one");
            let _ = client.stream.shutdown(Shutdown::Both);
        }
        true
    }
}

impl Clients {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client has sent something: since when it was idle. `None`: it has made room for another
    /// one, and nothing of it is done.
    fn begin(&self, number: u64) -> Option<u64> {
        self.open().clients.get_mut(&number)?.idle_since.take()
    }

    /// Its requests have been answered; or there was none, and it is idle as before.
    fn end(&self, number: u64, idle_since: Option<u64>) {
        let mut open = self.open();
        open.idle(number);
        if let (Some(client), Some(moment)) = (open.clients.get_mut(&number), idle_since) {
            client.idle_since = Some(moment);
        }
    }

    /// Waits until all clients have left, for `wait_max` at most: not for those that don't take
    /// their answers.
    fn wait_until_gone(&self, wait_max: Duration) {
        let deadline = Instant::now() + wait_max;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.open().clients.is_empty() {
                return;
            }
            let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut ready = [PollFd::new(&self.wake, PollFlags::IN)];
            let _ = rustix::event::poll(&mut ready, Some(&wait));
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
    }

    fn wake(&self) {
        // It can only fail when it is readable already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Server {
    /// Listens at `path` and serves from now on.
    pub fn start(path: &Path, shared: Arc<Shared>) -> Result<Self, BindError> {
        Server::start_with(path, shared, WRITE_WAIT_MAX)
    }

    /// The same with another patience for clients that don't read.
    pub fn start_with(
        path: &Path,
        shared: Arc<Shared>,
        write_wait_max: Duration,
    ) -> Result<Self, BindError> {
        let socket = Socket::bind(path)?;
        let failed =
            |what: &'static str, errno: Errno| BindError::Os { path: path.to_owned(), what, errno };
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed("eventfd", errno))?;
        let clients = Arc::new(Clients {
            shared,
            write_wait_max,
            stopping: AtomicBool::new(false),
            wake,
            open: Mutex::default(),
        });
        let acceptor = Arc::clone(&clients);
        let thread = std::thread::Builder::new()
            .name("rpc".to_owned())
            .spawn(move || accept(&socket, &acceptor))
            .map_err(|error| {
                failed("thread", Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
            })?;
        tracing::info!("RPC socket {}: listening", path.display());
        Ok(Server { clients, thread: Some(thread) })
    }

    /// Ends all connections and removes the socket. A request in progress is finished first, if
    /// that takes no longer than `PARTING_WAIT_MAX`.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.clients.stopping.store(true, Ordering::Release);
        self.clients.shared.stop_waiting();
        self.clients.wake();
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported by the panic hook.
            let _ = thread.join();
        }
        for client in self.clients.open().clients.values() {
            // Who has asked gets the answer.
            let how = if client.idle_since.is_some() { Shutdown::Both } else { Shutdown::Read };
            let _ = client.stream.shutdown(how);
        }
        self.clients.wait_until_gone(PARTING_WAIT_MAX);
        self.clients.shared.give_up();
        self.clients.wait_until_gone(REFUSAL_WAIT_MAX);
        let threads = {
            let mut open = self.clients.open();
            for client in open.clients.values() {
                let _ = client.stream.shutdown(Shutdown::Both);
            }
            std::mem::take(&mut open.threads)
        };
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn accept(socket: &Socket, clients: &Arc<Clients>) {
    let mut starved = false;
    loop {
        let wake = PollFd::new(&clients.wake, PollFlags::IN);
        let mut ready = [wake, PollFd::new(&socket.listener, PollFlags::IN)];
        let polled = match starved {
            true => rustix::event::poll(&mut ready[..1], Some(&RETRY)),
            false => rustix::event::poll(&mut ready, None),
        };
        match polled {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::error!("RPC socket: no more clients: {errno}");
                return;
            }
        }
        if clients.stopping.load(Ordering::Acquire) {
            return;
        }
        let _ = rustix::io::read(&clients.wake, &mut [0; 8]);
        match socket.listener.accept() {
            Ok((stream, _)) => {
                starved = false;
                welcome(stream, clients);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => starved = false,
            Err(error) => {
                // Out of descriptors, most likely: the client stays in the backlog until one that
                // makes room has left.
                if !starved {
                    tracing::warn!("RPC socket: {error}");
                    clients.open().make_room();
                }
                starved = true;
            }
        }
    }
}

fn welcome(stream: UnixStream, clients: &Arc<Clients>) {
    let mut open = clients.open();
    open.threads.retain(|thread| !thread.is_finished());
    if open.clients.len() >= CLIENTS_MAX && !open.make_room() {
        drop(open);
        let what = format!("{CLIENTS_MAX} clients have requests in progress, the limit");
        let refused = RpcError::from(Refused::busy(what));
        // The answer is smaller than any socket buffer, so this does not block.
        let _ = (&stream).write_all(&dispatch::refuse_document(&refused));
        return;
    }
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_write_timeout(Some(clients.write_wait_max)));
    if let Err(error) = ready {
        return tracing::warn!("RPC client: {error}");
    }
    let stream = Arc::new(stream);
    let number = open.next;
    open.next += 1;
    open.clients.insert(number, Client { stream: Arc::clone(&stream), idle_since: None });
    open.idle(number);
    let mine = Arc::clone(clients);
    let spawned =
        std::thread::Builder::new().name(format!("rpc client {number}")).spawn(move || {
            let leaving = Leaving { clients: &mine, number };
            // Closed before room is announced.
            let stream = stream;
            if let Err(error) = serve(&stream, &leaving) {
                tracing::debug!("RPC client {number}: {error}");
            }
        });
    match spawned {
        Ok(thread) => open.threads.push(thread),
        Err(error) => {
            open.clients.remove(&number);
            tracing::warn!("RPC client: {error}");
        }
    }
}

/// Makes room for another client, also when the thread panics.
struct Leaving<'a> {
    clients: &'a Clients,
    number: u64,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(client) = self.clients.open().clients.remove(&self.number) {
            let _ = client.stream.shutdown(Shutdown::Both);
        }
        self.clients.wake();
    }
}

fn serve(mut stream: &UnixStream, client: &Leaving<'_>) -> io::Result<()> {
    let mut documents = Documents::default();
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let len = match stream.read(&mut bytes) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if len == 0 {
            if documents.is_inside() {
                let error = RpcError::parse_error("the document is not complete");
                stream.write_all(&dispatch::refuse_document(&error))?;
            }
            return Ok(());
        }
        let Some(idle_since) = client.clients.begin(client.number) else { return Ok(()) };
        let before = documents.count();
        let mut write = |answer: &[u8]| stream.write_all(answer);
        let shared = &client.clients.shared;
        let then = dispatch::received(shared, &mut documents, &bytes[..len], &mut write);
        // Bytes that make no request are no reason to stay.
        let idle_since = (documents.count() == before).then_some(idle_since);
        client.clients.end(client.number, idle_since);
        if then? == Then::Close {
            return discard(stream, &mut bytes);
        }
    }
}

/// Ends the answers and reads on for a while: a client that is still sending could otherwise lose
/// the answer to a connection reset.
fn discard(mut stream: &UnixStream, bytes: &mut [u8]) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let deadline = Instant::now() + DISCARD_WAIT_MAX;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(bytes) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
