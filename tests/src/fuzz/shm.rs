//! A hostile process on the same host, against the listener and the fabric of production: its
//! handshake, and what it writes into the memory that both share.
//!
//! A listener, a fabric and a good peer live as long as the thread: each input is one connection
//! beside the good one, which must not notice.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use reactor::pool::{Buf, SizeClass};
use reactor::sys::memory::Memory;
use reactor::{Batch, Instant, Pool, Tag};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{RecvFlags, SendFlags};
use tempfile::TempDir;
use transport::initiator::{Connector, DataMemory, Link};
use transport::shm::{
    FabricOptions, Listener, ListenerOptions, ShmConnector, ShmFabric, ShmLink, ShmMemory,
};
use transport::{CloseReason, ConnId, DataIn, Event, Fabric, Recv, RemoteSeg};

use super::Input;
use crate::hostile as peer;

const LOGIN: [u8; 64] = [0xa5; 64];
const RSP: [u8; 52] = [0xc0; 52];
const REJ: [u8; 32] = [0xc2; 32];
/// Bytes of each registered region.
const REGION_BYTES: usize = 8192;
/// What the good peer's memory holds.
const GOOD: u8 = 0x5a;
const CREDITS: u32 = 4;
/// Bytes of the ring file in front of the slots, and of a slot.
const HEAD_BYTES: u64 = 4096;
const SLOT_BYTES: u64 = 128;

thread_local! {
    static RIG: RefCell<Option<Rig>> = const { RefCell::new(None) };
}

/// The target's side, and a good peer.
struct Rig {
    good: Good,
    fabric: ShmFabric,
    events: Batch<Event>,
    pool: Pool,
    wake: Arc<OwnedFd>,
    dir: TempDir,
    _listener: Listener,
}

struct Good {
    conn: ConnId,
    link: ShmLink,
    memory: ShmMemory,
}

fn with_rig(run: impl FnOnce(&mut Rig)) {
    RIG.with_borrow_mut(|rig| {
        let rig = rig.get_or_insert_with(Rig::new);
        run(rig);
        rig.check();
    });
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().expect("a folder");
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags).expect("an event counter"));
        let options = FabricOptions { connections_max: 3, ops_max: 64 };
        let (mut fabric, door) = ShmFabric::new(options, Arc::clone(&wake));
        let hello = ListenerOptions {
            half_open_max: 8,
            hello_wait: Duration::from_secs(60),
            ..Default::default()
        };
        let listener = Listener::with_options(vec![door], hello).expect("a listener");
        let path = dir.path().join("sock");
        listener.add_listener("t", &path).expect("a fresh path");
        let region = ShmConnector::new(&path).memory(REGION_BYTES).expect("memory");
        region.write_at(0, &[GOOD; REGION_BYTES]);
        let dialed = region.clone();
        let dial = std::thread::spawn(move || {
            ShmConnector::new(path).connect(&LOGIN, &dialed, Duration::from_secs(60))
        });
        let mut events = Batch::new(64);
        let conn = loop {
            fabric.poll(Instant::default(), &mut events);
            match events.pop() {
                Some(Event::Login { conn }) => break conn,
                Some(other) => panic!("{other:?} in place of a login"),
                None => std::thread::yield_now(),
            }
        };
        fabric.accept(conn, &RSP, CREDITS, 300, 100);
        let (link, _) = dial.join().expect("no panic").expect("accepted");
        let memory = Arc::new(Memory::ordinary(1 << 20).expect("memory"));
        let pool = Pool::new(memory, &[SizeClass { bytes: 16384, count: 16 }]);
        let good = Good { conn, link, memory: region };
        Rig { good, fabric, events, pool, wake, dir, _listener: listener }
    }

    /// Nothing is left of the last input, and the good peer is well.
    fn check(&mut self) {
        assert_eq!(self.fabric.connections(), 1);
        assert!(self.pool.counts().all(|class| class.free == class.total), "buffers are missing");
        let mut bytes = [0; REGION_BYTES];
        self.good.memory.read_at(0, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == GOOD), "the good peer's memory has changed");
        self.good.link.send(b"well").expect("the link works");
        self.fabric.poll(Instant::default(), &mut self.events);
        let Some(Event::Received { conn, recv }) = self.events.pop() else {
            panic!("the good peer is not heard")
        };
        assert_eq!((conn, self.fabric.iu(conn, &recv)), (self.good.conn, &b"well"[..]));
        let answered = self.fabric.finish(conn, Tag::new(0, 0), recv, None, b"yes", false);
        assert!(answered, "the good peer's connection has ended");
        let mut heard = Vec::new();
        let polled = self.good.link.poll(&mut |iu| heard.push(iu.to_vec()));
        assert_eq!((polled.expect("the link works"), &heard[..]), (1, &[b"yes".to_vec()][..]));
    }

    /// Waits for what the target makes of a hello: a login, or `None` for a refusal.
    fn outcome(&mut self, socket: &OwnedFd) -> Option<ConnId> {
        for _ in 0..1000 {
            self.fabric.poll(Instant::default(), &mut self.events);
            match self.events.pop() {
                Some(Event::Login { conn }) => return Some(conn),
                Some(other) => panic!("{other:?} in place of a login"),
                None => {}
            }
            if self.fabric.arm() {
                let mut ready =
                    [PollFd::new(&self.wake, PollFlags::IN), PollFd::new(socket, PollFlags::IN)];
                let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
                // The fuzzer's own timer interrupts.
                let count =
                    rustix::io::retry_on_intr(|| rustix::event::poll(&mut ready, Some(&wait)))
                        .expect("poll");
                assert!(count > 0, "no answer to a hello");
                let answered = !ready[1].revents().is_empty();
                let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                if answered {
                    return None;
                }
            }
        }
        panic!("no answer to a hello");
    }

    /// Ends a connection; what the target holds of it is given back before.
    fn end(&mut self, conn: ConnId, mut held: Held) {
        self.fabric.close(conn, CloseReason::Local);
        loop {
            held.recvs.drain(..).for_each(|recv| self.fabric.repost(conn, recv));
            held.loans.drain(..).for_each(|loan| self.fabric.give_back(loan));
            self.fabric.poll(Instant::default(), &mut self.events);
            let mut closed = held.closed;
            while let Some(event) = self.events.pop() {
                closed |= matches!(event, Event::Closed { .. });
                self.on_event(conn, event, &mut held);
            }
            if closed && held.recvs.is_empty() && held.loans.is_empty() && held.ops == 0 {
                return self.fabric.release(conn);
            }
            held.closed = closed;
        }
    }

    fn on_event(&mut self, expected: ConnId, event: Event, held: &mut Held) {
        match event {
            Event::Received { conn, recv } => {
                assert_eq!(conn, expected, "a unit of the good peer");
                assert_eq!(self.fabric.iu(conn, &recv).len(), recv.len as usize);
                assert!((1..=held.iu_bytes_max).contains(&recv.len), "{recv:?}");
                held.recvs.push(recv);
            }
            Event::Fetched { buf, .. } => {
                held.ops -= 1;
                self.pool.put(buf);
            }
            Event::Replied { buf, .. } => {
                held.ops -= 1;
                match buf {
                    Some(buf) if buf.is_peer() => held.loans.push(buf),
                    Some(buf) => self.pool.put(buf),
                    None => {}
                }
            }
            Event::Closed { conn, .. } => {
                assert_eq!(conn, expected, "the good peer is closed");
                held.closed = true;
            }
            Event::Login { .. } => panic!("nobody knocks"),
        }
    }
}

/// What the target holds of a connection.
#[derive(Default)]
struct Held {
    iu_bytes_max: u32,
    recvs: Vec<Recv>,
    loans: Vec<Buf>,
    ops: usize,
    closed: bool,
}

/// A file that a peer sends along.
fn file(kind: u8) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = |bytes: u64, seals: SealFlags| {
        let file = rustix::fs::memfd_create("fuzz", flags).expect("a memory file");
        rustix::fs::ftruncate(&file, bytes).expect("its size");
        rustix::fs::fcntl_add_seals(&file, seals).expect("its seals");
        file
    };
    let sealed = SealFlags::SHRINK | SealFlags::GROW;
    match kind % 8 {
        0..=2 => memory(4096 * u64::from(kind >> 3), sealed),
        3 => memory(u64::from(kind >> 3) * 100, SealFlags::SHRINK),
        4 => memory(4096, SealFlags::empty()),
        5 => memory(4096, sealed | SealFlags::WRITE),
        6 => rustix::event::eventfd(0, EventfdFlags::CLOEXEC).expect("an event counter"),
        // More than a connection may register.
        _ => memory(u64::from(kind) << 32, sealed),
    }
}

/// The files that travel along, then the datagram, in the order of its words or as raw bytes.
pub(super) fn hello(input: &[u8]) {
    let mut input = Input::new(input);
    let files: Vec<OwnedFd> = (0..input.below(20)).map(|_| file(input.u8())).collect();
    let bytes = match input.u8() {
        0..0x80 => {
            let (change, regions) = (input.u8(), input.u8());
            let (version, regions) = match change {
                0 => (1, files.len() as u32),
                _ => (u32::from(change), u32::from(regions)),
            };
            let login = input.rest();
            peer::hello(version, regions, &login[..login.len().min(5000)])
        }
        _ => input.rest().to_vec(),
    };
    with_rig(|rig| {
        let socket = peer::dial(&rig.dir.path().join("sock"));
        let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        if !peer::say(&socket, &bytes, &files) {
            return;
        }
        let Some(conn) = rig.outcome(&socket) else {
            let (said, _) = peer::told(&socket);
            assert!(said.is_empty() || said[12] == 4, "{said:02x?}");
            return;
        };
        let login = rig.fabric.login_data(conn);
        assert!(!login.is_empty() && bytes.ends_with(login));
        rig.fabric.reject(conn, &REJ);
        let (said, _) = peer::told(&socket);
        assert!(said.ends_with(&REJ));
        rig.end(conn, Held::default());
    });
}

/// What the peer writes and the target does, in turn.
pub(super) fn memory(input: &[u8]) {
    let mut input = Input::new(input);
    let iu_bytes_max = if input.flag() { 300 } else { 1 + u32::from(input.u8()) };
    with_rig(|rig| {
        let socket = peer::dial(&rig.dir.path().join("sock"));
        let data = [file(2 << 3), file(1 << 3)];
        let sent =
            peer::say(&socket, &peer::hello(1, 2, &LOGIN), &data.each_ref().map(AsFd::as_fd));
        assert!(sent, "the listener listens");
        let conn = rig.outcome(&socket).expect("a login");
        rig.fabric.accept(conn, &RSP, CREDITS, iu_bytes_max, 100);
        let (said, files) = peer::told(&socket);
        let slots = u32::from_ne_bytes(said[16..20].try_into().expect("a word"));
        let [ring, bell]: [OwnedFd; 2] = files.try_into().expect("ring and bell");
        let mut scene = Scene { socket, ring, bell, data, slots: u64::from(slots), conn };
        let mut held = Held { iu_bytes_max, ..Held::default() };
        for _ in 0..64 {
            if input.is_empty() {
                break;
            }
            scene.act(rig, &mut held, &mut input);
        }
        rig.end(conn, held);
    });
}

/// One connection from the hostile side.
struct Scene {
    socket: OwnedFd,
    ring: OwnedFd,
    bell: OwnedFd,
    data: [OwnedFd; 2],
    slots: u64,
    conn: ConnId,
}

/// Writes what fits: past its end, a sealed file refuses a part or all of a write.
fn scribble(file: &OwnedFd, at: usize, bytes: &[u8]) {
    let file_bytes = rustix::fs::fstat(file).expect("a file").st_size as usize;
    let fits = bytes.len().min(file_bytes - at);
    rustix::io::pwrite(file, &bytes[..fits], at as u64).expect("a write");
}

impl Scene {
    fn act(&mut self, rig: &mut Rig, held: &mut Held, input: &mut Input<'_>) {
        match input.u8() % 12 {
            0..=2 => self.unit(input),
            3 => {
                let ring_bytes = rustix::fs::fstat(&self.ring).expect("a file").st_size as usize;
                let at = input.below(ring_bytes);
                scribble(&self.ring, at, input.bytes(32));
            }
            4 => self.pester(input),
            5 => {
                let (region, at) = (usize::from(input.u8() & 1), input.below(4096));
                scribble(&self.data[region], at, input.bytes(64));
            }
            6 => self.fetch(rig, held, input),
            7 => self.reply(rig, held, input),
            8 => self.place(rig, held, input),
            9 => {
                if let Some(recv) = held.recvs.pop() {
                    rig.fabric.repost(self.conn, recv);
                }
            }
            _ => {
                rig.fabric.poll(Instant::default(), &mut rig.events);
                while let Some(event) = rig.events.pop() {
                    rig.on_event(self.conn, event, held);
                }
            }
        }
    }

    /// A header in a slot, and bytes behind it.
    fn unit(&self, input: &mut Input<'_>) {
        let at = HEAD_BYTES + u64::from(input.u8()) % (2 * self.slots) * SLOT_BYTES;
        let (lap, len) = (u64::from(input.u8()), u64::from(input.u16()));
        let body = input.bytes(16);
        rustix::io::pwrite(&self.ring, body, at + 8).expect("a write");
        let header = (lap << 32 | len).to_ne_bytes();
        rustix::io::pwrite(&self.ring, &header, at).expect("a write");
    }

    /// What else a peer can do to the files that it has.
    fn pester(&self, input: &mut Input<'_>) {
        let number = input.u64();
        match number % 4 {
            0 | 1 => {
                let file = if number & 1 == 0 { &self.ring } else { &self.data[0] };
                let size = || rustix::fs::fstat(file).expect("a file").st_size;
                let before = size();
                let _ = rustix::fs::ftruncate(file, number % 65536);
                assert_eq!(size(), before, "a sealed file has another size");
            }
            2 => {
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                let _ = rustix::net::send(&self.socket, &number.to_ne_bytes(), flags);
                let _ = rustix::net::recv(&self.socket, &mut [0; 8][..], RecvFlags::DONTWAIT);
            }
            _ => {
                let _ = rustix::io::write(&self.bell, &number.to_ne_bytes());
            }
        }
    }

    fn fetch(&self, rig: &mut Rig, held: &mut Held, input: &mut Input<'_>) {
        let len = 1 + input.below(16384);
        let segs = segments(input);
        let Some(buf) = rig.pool.take(len) else { return };
        held.ops += 1;
        rig.fabric.fetch(self.conn, Tag::new(0, 0), buf, &segs);
    }

    fn reply(&self, rig: &mut Rig, held: &mut Held, input: &mut Input<'_>) {
        let unit = [0xc1; 100];
        let unit = &unit[..1 + input.below(100)];
        let (kind, len, to) = (input.u8(), input.below(16384), segments(input));
        let data = match kind % 4 {
            0 => {
                let Some(buf) = rig.pool.take(len.max(1)) else { return };
                DataIn::Buf { buf, len: len as u32, to: &to }
            }
            1 => match held.loans.pop() {
                Some(loan) => DataIn::Buf { len: loan.len().min(len) as u32, buf: loan, to: &to },
                None => DataIn::None { buf: None },
            },
            2 => DataIn::NoData { buf: held.loans.pop(), len: len as u32, to: &to },
            _ => DataIn::None { buf: held.loans.pop() },
        };
        held.ops += 1;
        rig.fabric.reply(self.conn, Tag::new(0, 0), unit, false, data);
    }

    /// Memory of the peer's as a buffer, of which every byte is there.
    fn place(&self, rig: &mut Rig, held: &mut Held, input: &mut Input<'_>) {
        let align = 1 << (input.u8() % 13);
        let seg = segment(input);
        let Some(mut loan) = rig.fabric.place(self.conn, seg, align) else { return };
        assert_eq!(loan.len(), seg.len as usize);
        assert!((loan.as_ptr() as usize | loan.len()).is_multiple_of(align as usize));
        let mut bytes = vec![0; loan.len()];
        loan.read_at(0, &mut bytes);
        loan.write_at(0, &bytes);
        held.loans.push(loan);
    }
}

/// Memory that may be there, overlap, be empty, or be nearly endless.
fn segment(input: &mut Input<'_>) -> RemoteSeg {
    let (kind, addr, len) = (input.u8(), input.u16(), input.u16());
    let addr = match kind >> 2 & 3 {
        0 | 1 => u64::from(addr) % (2 * REGION_BYTES as u64),
        2 => u64::MAX - u64::from(addr),
        _ => REGION_BYTES as u64 - u64::from(addr) % 16,
    };
    let len = match kind >> 4 & 3 {
        0 | 1 => u32::from(len) % (REGION_BYTES as u32 + 16),
        2 => u32::MAX - u32::from(len),
        _ => u32::from(len) % 16,
    };
    RemoteSeg { addr, key: u32::from(kind & 3), len }
}

fn segments(input: &mut Input<'_>) -> Vec<RemoteSeg> {
    (0..input.below(5)).map(|_| segment(input)).collect()
}
