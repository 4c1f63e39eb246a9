//! A target of four commands on a thread of its own, for tests of the rdma fabric.
//!
//! A command is an information unit of the test's own: operation, number of segments, length, tag,
//! segments. It is answered with the same tag and a checksum.
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use reactor::pool::{Buf, Pool, SizeClass};
use reactor::sleep::{Sleep, Woken, raise};
use reactor::sys::memory::Memory;
use reactor::{Batch, Instant, Tag};
use transport::rdma::{CoreDoor, FabricOptions, RdmaCounts, RdmaFabric, RdmaOptions};
use transport::{CloseReason, ConnId, DataIn, Event, Fabric, Recv, RemoteSeg};

pub(crate) const ECHO: u8 = 1;
pub(crate) const FETCH: u8 = 2;
pub(crate) const WRITE: u8 = 3;
pub(crate) const ZERO: u8 = 4;
pub(crate) const CLOSE: u8 = 5;
/// Answered, and its data fetched, only once the connection is seen to have closed.
pub(crate) const HOLD: u8 = 6;
/// Not answered: the peer is asked twice whether it is there.
pub(crate) const PROBE: u8 = 7;
/// First byte of a login that is turned away.
pub(crate) const REFUSE: u8 = 0xff;
/// First byte of a login whose connection is asked every turn, until its first command, whether its
/// peer is there.
pub(crate) const ASK: u8 = 0xfe;
pub(crate) const CREDITS: u32 = 64;
pub(crate) const IU_BYTES: u32 = 4096;
/// The target's longest sleep.
pub(crate) const SLEEP_MAX: Duration = Duration::from_secs(5);

/// The bytes of a command.
pub(crate) fn command(op: u8, tag: u64, len: u32, segs: &[RemoteSeg]) -> Vec<u8> {
    let mut iu = vec![op, segs.len() as u8, 0, 0];
    iu.extend(len.to_be_bytes());
    iu.extend(tag.to_be_bytes());
    for seg in segs {
        iu.extend(seg.addr.to_be_bytes());
        iu.extend(seg.key.to_be_bytes());
        iu.extend(seg.len.to_be_bytes());
    }
    iu
}

struct Command {
    op: u8,
    len: u32,
    tag: u64,
    segs: Vec<RemoteSeg>,
}

fn parse(iu: &[u8]) -> Command {
    let segs = iu[16..]
        .chunks_exact(16)
        .take(usize::from(iu[1]))
        .map(|seg| RemoteSeg {
            addr: u64::from_be_bytes(seg[..8].try_into().unwrap()),
            key: u32::from_be_bytes(seg[8..12].try_into().unwrap()),
            len: u32::from_be_bytes(seg[12..].try_into().unwrap()),
        })
        .collect();
    Command {
        op: iu[0],
        len: u32::from_be_bytes(iu[4..8].try_into().unwrap()),
        tag: u64::from_be_bytes(iu[8..16].try_into().unwrap()),
        segs,
    }
}

/// The byte at a place of the data that the target writes.
pub(crate) fn pattern(tag: u64, at: usize) -> u8 {
    (tag as usize).wrapping_mul(31).wrapping_add(at.wrapping_mul(7)).wrapping_add(at >> 8) as u8
}

pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// What the target saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub logins: u64,
    pub login_len: usize,
    pub peer: String,
    pub closed: Vec<CloseReason>,
    pub operations_failed: u64,
    pub held: u64,
    pub connections: usize,
    pub asleep: bool,
    /// Sleeps that work ended.
    pub woken: u64,
}

pub(crate) struct Host {
    pub seen: Arc<Mutex<Seen>>,
    pub counts: Arc<RdmaCounts>,
    stop: Arc<AtomicBool>,
    sleep: Arc<Sleep>,
    thread: Option<JoinHandle<()>>,
}

struct Target {
    fabric: RdmaFabric,
    pool: Pool,
    /// Commands that wait for a buffer.
    waiting: Vec<(ConnId, Recv)>,
    held: Vec<(ConnId, Recv)>,
    asked: Vec<ConnId>,
    fetching: HashMap<u64, (ConnId, u64)>,
    /// Closed, with operations that were begun too late.
    closing: HashMap<ConnId, CloseReason>,
    in_flight: HashMap<ConnId, usize>,
    next: u64,
    seen: Arc<Mutex<Seen>>,
}

impl Host {
    /// A target core whose login policy is: accept, unless the first byte of the login is
    /// [`REFUSE`].
    pub(crate) fn start(rdma: RdmaOptions) -> (Host, CoreDoor) {
        let sleep = Arc::new(Sleep::new().unwrap());
        let memory = Arc::new(Memory::ordinary(40 << 20).unwrap());
        let options = FabricOptions { connections_max: 8, operations_max: 1024, rdma };
        let (fabric, door) = RdmaFabric::new(
            options,
            &memory,
            Arc::clone(sleep.eventfd()),
            sleep.wake_set().clone(),
        );
        let classes =
            [SizeClass { bytes: 65536, count: 64 }, SizeClass { bytes: 1 << 20, count: 32 }];
        let pool = Pool::new(memory, &classes);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::clone(fabric.counts());
        let mut target = Target {
            fabric,
            pool,
            waiting: Vec::new(),
            held: Vec::new(),
            asked: Vec::new(),
            fetching: HashMap::new(),
            closing: HashMap::new(),
            in_flight: HashMap::new(),
            next: 0,
            seen: Arc::clone(&seen),
        };
        let (stopping, sleeping) = (Arc::clone(&stop), Arc::clone(&sleep));
        let thread = std::thread::spawn(move || target.run(&stopping, &sleeping));
        (Host { seen, counts, stop, sleep, thread: Some(thread) }, door)
    }

    /// Waits until `what` holds of what the target saw.
    pub(crate) fn wait(&self, what: impl Fn(&Seen) -> bool) -> bool {
        let (sender, receiver) = mpsc::channel::<()>();
        for _ in 0..2000 {
            if what(&self.seen.lock().unwrap()) {
                return true;
            }
            // Nobody sends: a bounded wait.
            let _ = receiver.recv_timeout(Duration::from_millis(10));
        }
        drop(sender);
        false
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        raise(self.sleep.eventfd());
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

impl Target {
    fn run(&mut self, stop: &AtomicBool, sleep: &Sleep) {
        let mut events = Batch::new(16);
        let mut idle = 0;
        let mut stopped: Option<std::time::Instant> = None;
        // Replies may have ended without a look at them.
        let ended = |since: &std::time::Instant| since.elapsed() > SLEEP_MAX;
        while stopped.is_none_or(|since| !self.fetching.is_empty() && !ended(&since)) {
            if stopped.is_none() && stop.load(Ordering::Relaxed) {
                stopped = Some(std::time::Instant::now());
            }
            self.fabric.poll(Instant::from_ns(0), &mut events);
            idle = if events.is_empty() { idle + 1 } else { 0 };
            while let Some(event) = events.pop() {
                self.on_event(event);
            }
            for (conn, recv) in std::mem::take(&mut self.waiting) {
                self.on_command(conn, recv);
            }
            self.asked.iter().for_each(|conn| self.fabric.probe(*conn));
            self.fabric.flush();
            if stopped.is_none() && idle > 200 && self.waiting.is_empty() && self.fabric.arm() {
                self.seen.lock().unwrap().asleep = true;
                let woken = sleep.wait(Some(SLEEP_MAX));
                let mut seen = self.seen.lock().unwrap();
                seen.asleep = false;
                seen.woken += u64::from(woken == Woken::Raised);
                drop(seen);
                idle = 0;
            }
        }
        assert!(self.pool.counts().all(|class| class.free == class.total), "a buffer is missing");
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Login { conn } => self.on_login(conn),
            Event::Received { conn, recv } => self.on_command(conn, recv),
            Event::Fetched { tag, mut buf, ok } => {
                let (conn, tag) = self.operation_ended(tag, ok);
                let sum = checksum(buf.private_mut().unwrap());
                self.pool.put(buf);
                if ok {
                    self.reply(conn, tag, sum, DataIn::None { buf: None });
                }
                self.release_if_home(conn);
            }
            Event::Replied { tag, buf, ok } => {
                let (conn, _) = self.operation_ended(tag, ok);
                self.pool_put(buf);
                self.release_if_home(conn);
            }
            Event::Closed { conn, reason } => {
                self.asked.retain(|asked| *asked != conn);
                let in_flight = self.in_flight.entry(conn).or_default();
                assert_eq!(*in_flight, 0, "operations were in flight at the end");
                for (_, recv) in self.waiting.extract_if(.., |(of, _)| *of == conn) {
                    self.fabric.repost(conn, recv);
                }
                self.closing.insert(conn, reason);
                let held: Vec<_> = self.held.extract_if(.., |(of, _)| *of == conn).collect();
                for (_, recv) in held {
                    self.on_held(conn, recv);
                }
                self.release_if_home(conn);
            }
        }
    }

    /// As if the connection had closed between the look at its last event and this one.
    fn on_held(&mut self, conn: ConnId, recv: Recv) {
        let command = parse(self.fabric.iu(conn, &recv));
        self.fabric.repost(conn, recv);
        let buf = self.pool.take(command.len as usize).expect("a buffer for a held command");
        let tag = self.tag(conn, command.tag);
        self.fabric.fetch(conn, tag, buf, &command.segs);
        self.reply(conn, command.tag, 0, DataIn::None { buf: None });
    }

    /// The connection and the tag of the command.
    fn operation_ended(&mut self, tag: Tag, ok: bool) -> (ConnId, u64) {
        let (conn, tag) = self.fetching.remove(&tag.to_u64()).expect("it ends exactly once");
        *self.in_flight.get_mut(&conn).unwrap() -= 1;
        assert!(!ok || !self.closing.contains_key(&conn), "a late operation went well");
        self.seen.lock().unwrap().operations_failed += u64::from(!ok);
        (conn, tag)
    }

    fn release_if_home(&mut self, conn: ConnId) {
        if self.in_flight[&conn] > 0 {
            return;
        }
        if let Some(reason) = self.closing.remove(&conn) {
            self.in_flight.remove(&conn);
            self.fabric.release(conn);
            let mut seen = self.seen.lock().unwrap();
            seen.closed.push(reason);
            seen.connections = self.fabric.connections();
        }
    }

    fn on_login(&mut self, conn: ConnId) {
        let data = self.fabric.login_data(conn).to_vec();
        let mut seen = self.seen.lock().unwrap();
        seen.logins += 1;
        seen.login_len = data.len();
        seen.peer = self.fabric.peer(conn).peer;
        seen.connections = self.fabric.connections();
        self.in_flight.insert(conn, 0);
        if data[0] == REFUSE {
            self.fabric.reject(conn, &[0xc2; 32]);
        } else {
            if data[0] == ASK {
                self.asked.push(conn);
            }
            self.fabric.accept(conn, &[0xc0; 52], CREDITS, IU_BYTES, 64);
        }
    }

    fn on_command(&mut self, conn: ConnId, recv: Recv) {
        self.asked.retain(|asked| *asked != conn);
        let command = parse(self.fabric.iu(conn, &recv));
        if command.op == HOLD {
            self.held.push((conn, recv));
            self.seen.lock().unwrap().held += 1;
            return;
        }
        if command.op == PROBE {
            self.fabric.repost(conn, recv);
            self.fabric.probe(conn);
            return self.fabric.probe(conn);
        }
        let needs_buf = matches!(command.op, FETCH | WRITE);
        let buf = if needs_buf { self.pool.take(command.len as usize) } else { None };
        if needs_buf && buf.is_none() {
            self.waiting.push((conn, recv));
            return;
        }
        self.fabric.repost(conn, recv);
        match (command.op, buf) {
            (ECHO, _) => self.reply(conn, command.tag, 0, DataIn::None { buf: None }),
            (FETCH, Some(buf)) => {
                let tag = self.tag(conn, command.tag);
                self.fabric.fetch(conn, tag, buf, &command.segs);
            }
            (WRITE, Some(mut buf)) => {
                for (at, byte) in buf.private_mut().unwrap().iter_mut().enumerate() {
                    *byte = pattern(command.tag, at);
                }
                let len = command.len;
                self.reply(conn, command.tag, 0, DataIn::Buf { buf, len, to: &command.segs });
            }
            (ZERO, _) => {
                let data = DataIn::NoData { buf: None, len: command.len, to: &command.segs };
                self.reply(conn, command.tag, 0, data);
            }
            _ => self.fabric.close(conn, CloseReason::Local),
        }
    }

    fn reply(&mut self, conn: ConnId, tag: u64, sum: u64, data: DataIn<'_>) {
        let mut iu = tag.to_be_bytes().to_vec();
        iu.extend(sum.to_be_bytes());
        let tag = self.tag(conn, tag);
        self.fabric.reply(conn, tag, &iu, true, data);
    }

    fn tag(&mut self, conn: ConnId, tag: u64) -> Tag {
        self.next += 1;
        self.fetching.insert(self.next, (conn, tag));
        *self.in_flight.get_mut(&conn).unwrap() += 1;
        Tag::from_u64(self.next)
    }

    fn pool_put(&mut self, buf: Option<Buf>) {
        if let Some(buf) = buf {
            self.pool.put(buf);
        }
    }
}
