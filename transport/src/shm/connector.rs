//! The initiator's side of shared memory.
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::ring::{Arrival, Ends, Geometry};
use super::socket::{self, Received};
use super::sys::{Mapping, sealed_file};
use super::wire::{BODY_BYTES_MAX, Datagram, REGIONS_MAX};
use crate::RemoteSeg;
use crate::initiator::{ConnectError, Connector, DataMemory, Link, LinkError};

/// Empty polls between two looks at the socket, which is how a target's death is seen.
const POLLS_PER_LOOK: u32 = 1024;

/// Memory of this process that the target can reach: a memory file, sealed against change of size.
#[derive(Debug, Clone)]
pub struct ShmMemory {
    file: Arc<OwnedFd>,
    mapping: Arc<Mapping>,
    key: u32,
}

impl ShmMemory {
    /// Zeroed memory of at least `bytes`, in pages of 4096 bytes. `key` is its place in the list
    /// given to [`ShmConnector::connect_regions`].
    pub fn new(bytes: usize, key: u32) -> Result<Self, ConnectError> {
        let failed = |reason: String| ConnectError::Failed {
            what: format!("allocating {bytes} bytes of shared memory"),
            reason,
        };
        let file = sealed_file("srp-data", bytes).map_err(|errno| failed(errno.to_string()))?;
        let mapping =
            Mapping::of_sealed(&file, u64::MAX).map_err(|error| failed(error.to_string()))?;
        Ok(ShmMemory { file: Arc::new(file), mapping: Arc::new(mapping), key })
    }

    /// The memory file, for passing on.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl DataMemory for ShmMemory {
    fn len(&self) -> usize {
        self.mapping.len()
    }

    fn seg(&self, offset: usize, len: u32) -> RemoteSeg {
        let end = offset.checked_add(len as usize);
        assert!(end.is_some_and(|end| end <= self.len()), "{len} bytes at {offset}: outside");
        RemoteSeg { addr: offset as u64, key: self.key, len }
    }

    fn read_at(&self, offset: usize, to: &mut [u8]) {
        self.mapping.read_at(offset, to);
    }

    fn write_at(&self, offset: usize, from: &[u8]) {
        self.mapping.write_at(offset, from);
    }

    fn base(&self) -> Option<NonNull<u8>> {
        Some(self.mapping.base())
    }
}

/// Opens links to the listener at a socket path.
#[derive(Debug, Clone)]
pub struct ShmConnector {
    path: PathBuf,
}

impl ShmConnector {
    /// Nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        ShmConnector { path: path.into() }
    }

    /// [`Connector::connect`] with several regions, at most 16, whose keys are their places in the
    /// list.
    pub fn connect_regions(
        &self,
        login_req: &[u8],
        regions: &[&ShmMemory],
        timeout: Duration,
    ) -> Result<(ShmLink, Vec<u8>), ConnectError> {
        let fail = |reason: String| self.failed(reason);
        if regions.is_empty() || regions.len() > REGIONS_MAX || login_req.len() > BODY_BYTES_MAX {
            return Err(fail(format!(
                "{} regions and a login of {} bytes: \
                 1 to {REGIONS_MAX} and at most {BODY_BYTES_MAX}",
                regions.len(),
                login_req.len()
            )));
        }
        let deadline = Instant::now() + timeout;
        let socket = dial(&self.path, deadline).map_err(fail)?;
        let hello = Datagram::Hello { regions: regions.len() as u32, login: login_req.to_vec() };
        let files: Vec<BorrowedFd<'_>> = regions.iter().map(|region| region.file.as_fd()).collect();
        let sent = socket::send(&socket, &hello.encode(), &files);
        // A target that refuses closes at once; its reason may be there to read all the same.
        let Received { bytes, fds, cut } = match answer(&socket, deadline) {
            Ok(answer) => answer,
            Err(reason) => return Err(fail(sent.err().map_or(reason, |errno| errno.to_string()))),
        };
        if let Some(cut) = cut {
            return Err(fail(format!("an answer {cut}")));
        }
        match Datagram::decode(&bytes).map_err(|error| fail(error.to_string()))? {
            Datagram::Accept { slots, to_target_bytes_max, to_initiator_bytes_max, login_rsp } => {
                let geometry =
                    Geometry::checked(slots, to_target_bytes_max, to_initiator_bytes_max)
                        .ok_or_else(|| fail("impossible ring sizes".into()))?;
                let link = ShmLink::new(socket, fds, &geometry).map_err(fail)?;
                Ok((link, login_rsp))
            }
            Datagram::Reject(login_rej) => Err(ConnectError::Rejected(login_rej)),
            Datagram::Error(text) => Err(fail(text)),
            Datagram::Hello { .. } => Err(fail("the answer is a HELLO".into())),
        }
    }

    fn failed(&self, reason: String) -> ConnectError {
        ConnectError::Failed { what: format!("connecting to {}", self.path.display()), reason }
    }
}

impl Connector for ShmConnector {
    type Link = ShmLink;
    type Memory = ShmMemory;

    fn memory(&self, bytes: usize) -> Result<ShmMemory, ConnectError> {
        ShmMemory::new(bytes, 0)
    }

    fn connect(
        &self,
        login_req: &[u8],
        memory: &ShmMemory,
        timeout: Duration,
    ) -> Result<(ShmLink, Vec<u8>), ConnectError> {
        self.connect_regions(login_req, &[memory], timeout)
    }
}

/// Connects; a listener whose queue is full is tried again until the deadline.
fn dial(path: &Path, deadline: Instant) -> Result<OwnedFd, String> {
    let address = socket::address(path)?;
    let socket = socket::seqpacket().map_err(|errno| errno.to_string())?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err("the target accepts no connection in time".into()),
            Err(errno) => return Err(errno.to_string()),
        }
    }
}

/// Waits for the target's answer.
fn answer(socket: &OwnedFd, deadline: Instant) -> Result<Received, String> {
    loop {
        match socket::receive(socket) {
            Ok(received) if received.bytes.is_empty() => {
                return Err("the target closed the connection".into());
            }
            Ok(received) => return Ok(received),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.to_string()),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no answer to the login in time".into());
        }
        let wait = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.to_string()),
        }
    }
}

/// One connection to a target.
#[derive(Debug)]
pub struct ShmLink {
    ends: Ends,
    socket: OwnedFd,
    bell: OwnedFd,
    unit: Vec<u8>,
    /// Units sent minus units received: at least as many as the target has not taken yet.
    ahead: u64,
    slots: u64,
    polls_empty: u32,
    closed: bool,
}

impl ShmLink {
    fn new(socket: OwnedFd, fds: Vec<OwnedFd>, geometry: &Geometry) -> Result<Self, String> {
        let [ring, bell]: [OwnedFd; 2] =
            fds.try_into().map_err(|fds: Vec<OwnedFd>| format!("{} descriptors", fds.len()))?;
        let ring = Mapping::of_sealed(ring, u64::MAX).map_err(|error| error.to_string())?;
        if ring.len() < geometry.bytes() {
            return Err("ring file too small".into());
        }
        Ok(ShmLink {
            ends: Ends::of_initiator(geometry, ring),
            socket,
            bell,
            unit: vec![0; geometry.to_initiator_bytes_max() as usize],
            ahead: 0,
            slots: u64::from(geometry.slots()),
            polls_empty: 0,
            closed: false,
        })
    }

    fn drain(&mut self, each: &mut dyn FnMut(&[u8])) -> usize {
        let mut count = 0;
        // One lap at most, so that a fast target can't keep the caller here.
        while count < self.slots as usize {
            let len = match self.ends.consumer.peek() {
                Arrival::Nothing => break,
                Arrival::Unit(len) => len as usize,
                Arrival::Bad(_) => {
                    self.closed = true;
                    break;
                }
            };
            let unit = &mut self.unit[..len];
            self.ends.consumer.take(unit);
            each(unit);
            count += 1;
        }
        self.ahead = self.ahead.saturating_sub(count as u64);
        count
    }
}

impl Link for ShmLink {
    fn send(&mut self, iu: &[u8]) -> Result<(), LinkError> {
        if self.closed {
            return Err(LinkError::Closed);
        }
        if self.ahead >= self.slots {
            return Err(LinkError::Full);
        }
        let len_max = self.ends.producer.iu_bytes_max();
        if iu.len() > len_max {
            return Err(LinkError::TooLong { len: iu.len(), len_max });
        }
        self.ends.producer.publish(iu);
        self.ahead += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        if self.closed {
            return Err(LinkError::Closed);
        }
        if self.ends.sleep.wants_bell() {
            // A full counter is a counter that rings already.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
        Ok(())
    }

    fn poll(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<usize, LinkError> {
        if self.closed {
            return Err(LinkError::Closed);
        }
        let count = self.drain(each);
        if count > 0 {
            self.polls_empty = 0;
            return Ok(count);
        }
        self.polls_empty += 1;
        if self.closed || self.polls_empty < POLLS_PER_LOOK {
            return if self.closed { Err(LinkError::Closed) } else { Ok(0) };
        }
        self.polls_empty = 0;
        if !socket::is_closed(&self.socket) {
            return Ok(0);
        }
        // What the target sent before it closed still counts.
        let last = self.drain(each);
        self.closed = true;
        if last > 0 { Ok(last) } else { Err(LinkError::Closed) }
    }
}
