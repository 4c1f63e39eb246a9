//! Both ends in one process, over real sockets and real shared memory.
mod data;
mod handshake;
mod hostile;
mod life;
mod quiet;
mod strangers;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant as StdInstant};

use reactor::pool::SizeClass;
use reactor::sys::memory::Memory;
use reactor::{Batch, Instant, Pool};
use rustix::event::EventfdFlags;

use super::*;
use crate::initiator::{ConnectError, Connector, LinkError};
use crate::{ConnId, Event, Fabric, Recv};

const WAIT: Duration = Duration::from_secs(10);
const LOGIN: [u8; 64] = [0xA5; 64];
const RSP: [u8; 52] = [0xC0; 52];

/// A listener, one core's fabric and a pool.
struct Rig {
    dir: tempfile::TempDir,
    listener: Listener,
    fabric: ShmFabric,
    wake: Arc<OwnedFd>,
    pool: Pool,
    events: Batch<Event>,
}

type Answer = Result<(ShmLink, Vec<u8>), ConnectError>;

fn eventfd() -> Arc<OwnedFd> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    Arc::new(rustix::event::eventfd(0, flags).unwrap())
}

impl Rig {
    fn new() -> Rig {
        Rig::with(4, ListenerOptions::default())
    }

    fn with(connections_max: u32, options: ListenerOptions) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let wake = eventfd();
        let (fabric, door) =
            ShmFabric::new(FabricOptions { connections_max, ops_max: 16 }, Arc::clone(&wake));
        let listener = Listener::with_options(vec![door], options).unwrap();
        listener.add_listener("tgt0", dir.path().join("sock")).unwrap();
        let memory = Arc::new(Memory::ordinary(1 << 20).unwrap());
        let pool = Pool::new(memory, &[SizeClass { bytes: 65536, count: 16 }]);
        Rig { dir, listener, fabric, wake, pool, events: Batch::new(64) }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// Polls until there is an event.
    fn event(&mut self) -> Event {
        let start = StdInstant::now();
        loop {
            if let Some(event) = self.events.pop() {
                return event;
            }
            self.fabric.poll(Instant::default(), &mut self.events);
            if self.events.is_empty() {
                assert!(start.elapsed() < WAIT, "no event in time");
                std::thread::yield_now();
            }
        }
    }

    /// One poll finds nothing.
    fn quiet(&mut self) {
        self.fabric.poll(Instant::default(), &mut self.events);
        assert!(self.events.is_empty(), "{:?}", self.events);
    }

    fn login(&mut self) -> ConnId {
        match self.event() {
            Event::Login { conn } => conn,
            other => panic!("{other:?} instead of a login"),
        }
    }

    fn received(&mut self) -> (ConnId, Recv) {
        match self.event() {
            Event::Received { conn, recv } => (conn, recv),
            other => panic!("{other:?} instead of a unit"),
        }
    }

    fn closed(&mut self) -> (ConnId, crate::CloseReason) {
        match self.event() {
            Event::Closed { conn, reason } => (conn, reason),
            other => panic!("{other:?} instead of a close"),
        }
    }

    /// A logged-in connection.
    fn connect(&mut self, memory: &ShmMemory, credits: u32) -> (ConnId, ShmLink) {
        self.connect_all(&[memory], credits)
    }

    fn connect_all(&mut self, regions: &[&ShmMemory], credits: u32) -> (ConnId, ShmLink) {
        let dial = dial(&self.path(), &LOGIN, regions);
        let conn = self.login();
        self.fabric.accept(conn, &RSP, credits, 8276, 512);
        let (link, rsp) = dial.join().unwrap().unwrap();
        assert_eq!(rsp, RSP);
        (conn, link)
    }

    /// Takes `recv` home and compares its bytes.
    fn consume(&mut self, expected: &[u8]) {
        let (conn, recv) = self.received();
        assert_eq!(self.fabric.iu(conn, &recv), expected);
        self.fabric.repost(conn, recv);
    }
}

fn memory(bytes: usize) -> ShmMemory {
    ShmConnector::new("unused").memory(bytes).unwrap()
}

/// Connects in a thread of its own.
fn dial(path: &Path, login: &[u8], regions: &[&ShmMemory]) -> JoinHandle<Answer> {
    let (path, login) = (path.to_path_buf(), login.to_vec());
    let regions: Vec<ShmMemory> = regions.iter().map(|region| (*region).clone()).collect();
    std::thread::spawn(move || {
        let regions: Vec<&ShmMemory> = regions.iter().collect();
        ShmConnector::new(path).connect_regions(&login, &regions, WAIT)
    })
}

/// Polls a link until a unit comes.
fn next(link: &mut ShmLink) -> Result<Vec<u8>, LinkError> {
    let start = StdInstant::now();
    let mut units = Vec::new();
    while crate::initiator::Link::poll(link, &mut |unit| units.push(unit.to_vec()))? == 0 {
        assert!(start.elapsed() < WAIT, "no unit in time");
    }
    assert_eq!(units.len(), 1);
    Ok(units.remove(0))
}

/// Waits until `condition` holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = StdInstant::now();
    while !condition() {
        assert!(start.elapsed() < WAIT, "waited too long until {what}");
        std::thread::yield_now();
    }
}

fn why(answer: Answer) -> String {
    match answer {
        Err(ConnectError::Failed { reason, .. }) => reason,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("connected"),
    }
}
