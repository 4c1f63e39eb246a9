//! Clients: one blocking thread each.

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

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::Shared;
use super::dispatch::{self, Then};
use super::documents::Documents;
use super::error::RpcError;
use super::socket::{BindError, Socket};
use crate::control::Refused;

/// Clients served at a time.
pub const CLIENTS_MAX: usize = 64;

/// How long a client may leave an answer unread.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long what follows a refused request is thrown away before the connection closes.
const DISCARD_WAIT_MAX: Duration = Duration::from_secs(5);

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;

/// A running server. Dropping it ends all connections and removes the socket.
pub struct Server {
    clients: Arc<Clients>,
    wake: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

struct Clients {
    shared: Arc<Shared>,
    write_wait_max: Duration,
    stopping: AtomicBool,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    streams: BTreeMap<u64, UnixStream>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (woken, wake) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| failed("pipe", errno))?;
        let clients = Arc::new(Clients {
            shared,
            write_wait_max,
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let acceptor = Arc::clone(&clients);
        let thread = std::thread::Builder::new()
            .name("rpc".to_owned())
            .spawn(move || accept(&socket, &woken, &acceptor))
            .map_err(|error| {
                failed("thread", Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))
            })?;
        tracing::info!("RPC socket {}: listening", path.display());
        Ok(Server { clients, wake: Some(wake), thread: Some(thread) })
    }

    /// Ends all connections and removes the socket. A request in progress is finished first.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.clients.stopping.store(true, Ordering::Release);
        self.clients.shared.stop_waiting();
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported by the panic hook.
            let _ = thread.join();
        }
        let threads = {
            let mut open = self.clients.open();
            for stream in open.streams.values() {
                let _ = stream.shutdown(Shutdown::Both);
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

fn accept(socket: &Socket, woken: &OwnedFd, clients: &Arc<Clients>) {
    loop {
        let mut ready =
            [PollFd::new(&socket.listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN)];
        match rustix::event::poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::error!("RPC socket: no more clients: {errno}");
                return;
            }
        }
        if clients.stopping.load(Ordering::Acquire) {
            return;
        }
        match socket.listener.accept() {
            Ok((stream, _)) => welcome(stream, clients),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Out of descriptors, most likely: the client stays in the backlog meanwhile.
                tracing::warn!("RPC socket: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn welcome(stream: UnixStream, clients: &Arc<Clients>) {
    let mut open = clients.open();
    open.threads.retain(|thread| !thread.is_finished());
    if open.streams.len() >= CLIENTS_MAX {
        drop(open);
        let refused = Refused::busy(format!("{CLIENTS_MAX} clients are connected, the limit"));
        // The answer is smaller than any socket buffer, so this does not block.
        let _ = (&stream).write_all(&dispatch::refuse_document(&RpcError::from(refused)));
        return;
    }
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_write_timeout(Some(clients.write_wait_max)))
        .and_then(|()| stream.try_clone());
    let twin = match ready {
        Ok(twin) => twin,
        Err(error) => return tracing::warn!("RPC client: {error}"),
    };
    let number = open.next;
    open.next += 1;
    open.streams.insert(number, twin);
    let mine = Arc::clone(clients);
    let spawned =
        std::thread::Builder::new().name(format!("rpc client {number}")).spawn(move || {
            let _leaving = Leaving { clients: &mine, number };
            if let Err(error) = serve(&stream, &mine.shared) {
                tracing::debug!("RPC client {number}: {error}");
            }
        });
    match spawned {
        Ok(thread) => open.threads.push(thread),
        Err(error) => {
            open.streams.remove(&number);
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
        if let Some(stream) = self.clients.open().streams.remove(&self.number) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn serve(mut stream: &UnixStream, shared: &Shared) -> io::Result<()> {
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
        let mut write = |answer: &[u8]| stream.write_all(answer);
        if dispatch::received(shared, &mut documents, &bytes[..len], &mut write)? == Then::Close {
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
