//! The network between simulated cores and simulated initiators.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use reactor::Tag;
use reactor::pool::Buf;

use super::rng::Rng;
use crate::initiator::{DataMemory, Link, LinkError};
use crate::shared::{Mapping, Regions, sealed_file};
use crate::{CloseReason, ConnId, RemoteSeg};

/// How a network behaves.
#[derive(Debug, Clone, Copy)]
pub struct NetOptions {
    /// Longest time that a message or data transfer takes, in nanoseconds.
    pub delay_ns_max: u64,
    /// Connections per core.
    pub connections_per_core: usize,
    /// Initiators share their memory, as those of one host do: it is lent as buffers, and a
    /// response without data is there at once.
    pub lends: bool,
}

impl Default for NetOptions {
    fn default() -> Self {
        NetOptions { delay_ns_max: 1000, connections_per_core: 64, lends: false }
    }
}

/// How often the network fails: one in so many operations, 0 for never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetFaults {
    /// A fetch ends without its data, and the link with it.
    pub fetch_fails_in: u64,
    /// A response does not arrive, with or without its data, and the link ends.
    pub send_fails_in: u64,
    /// A completion comes late, and with it all behind it.
    pub late_in: u64,
    /// The initiator has no receive posted: a response waits.
    pub no_receive_in: u64,
    /// A completion is lost: nothing on the connection ends any more, until the link does.
    pub lost_in: u64,
    /// Longest wait of the above, in nanoseconds.
    pub wait_ns_max: u64,
}

/// Faults that a network has had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetInjected {
    /// By [`NetFaults::fetch_fails_in`].
    pub fetches_failed: u64,
    /// By [`NetFaults::send_fails_in`].
    pub sends_failed: u64,
    /// By [`NetFaults::late_in`].
    pub late: u64,
    /// By [`NetFaults::no_receive_in`].
    pub without_receive: u64,
    /// By [`NetFaults::lost_in`].
    pub lost: u64,
}

/// How an operation goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Not at all.
    None,
    /// Nothing has moved.
    Whole,
    /// The data has moved, the response has not.
    Response,
}

/// Memory of a simulated initiator: registration key 1, addresses from 0.
#[derive(Debug, Clone)]
pub struct SimMemory(Rc<SimPages>);

#[derive(Debug)]
struct SimPages {
    file: OwnedFd,
    mapping: Mapping,
    bytes: usize,
}

/// R_Key of a [`SimMemory`].
pub(super) const MEMORY_KEY: u32 = 1;

impl SimMemory {
    /// Zeroed memory.
    pub fn new(bytes: usize) -> Self {
        let file = sealed_file("sim", bytes).expect("memory");
        let mapping = Mapping::of_sealed(&file, u64::MAX).expect("a sealed memory file");
        SimMemory(Rc::new(SimPages { file, mapping, bytes }))
    }

    /// The memory as a target of the same host maps it.
    fn regions(&self) -> Regions {
        let mapping = Mapping::of_sealed(&self.0.file, u64::MAX).expect("a sealed memory file");
        Regions::new(vec![mapping])
    }

    pub(super) fn check(&self, seg: &RemoteSeg) -> bool {
        let end = seg.addr.checked_add(u64::from(seg.len));
        seg.key == MEMORY_KEY && end.is_some_and(|end| end <= self.len() as u64)
    }

    /// Copies from an offset into a buffer, at an offset there.
    pub(super) fn fetch(&self, from: usize, buf: &mut Buf, at: usize, bytes: usize) {
        let mut copy = vec![0; bytes];
        self.read_at(from, &mut copy);
        buf.write_at(at, &copy);
    }

    /// Copies from a buffer's offset; zeros without a buffer.
    pub(super) fn store(&self, to: usize, buf: Option<&Buf>, at: usize, bytes: usize) {
        let mut copy = vec![0; bytes];
        if let Some(buf) = buf {
            buf.read_at(at, &mut copy);
        }
        self.write_at(to, &copy);
    }
}

impl DataMemory for SimMemory {
    fn len(&self) -> usize {
        self.0.bytes
    }

    fn seg(&self, offset: usize, len: u32) -> RemoteSeg {
        assert!(offset + len as usize <= self.len(), "descriptor outside the memory");
        RemoteSeg { addr: offset as u64, key: MEMORY_KEY, len }
    }

    fn read_at(&self, offset: usize, to: &mut [u8]) {
        assert!(offset + to.len() <= self.len(), "read outside the memory");
        self.0.mapping.read_at(offset, to);
    }

    fn write_at(&self, offset: usize, from: &[u8]) {
        assert!(offset + from.len() <= self.len(), "write outside the memory");
        self.0.mapping.write_at(offset, from);
    }
}

/// What became of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginAnswer {
    /// SRP_LOGIN_RSP.
    Accepted(Vec<u8>),
    /// SRP_LOGIN_REJ.
    Rejected(Vec<u8>),
}

/// What is on a connection's send queue. Completes in order, not before its time.
#[derive(Debug)]
pub(super) enum Work {
    Fetch {
        tag: Tag,
        buf: Buf,
        from: Vec<RemoteSeg>,
        failure: Failure,
    },
    Reply {
        tag: Tag,
        buf: Option<Buf>,
        move_bytes: u32,
        to: Vec<RemoteSeg>,
        iu: Vec<u8>,
        failure: Failure,
    },
    /// The initiator is asked whether it is there.
    Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Login not yet seen by the target.
    New,
    /// Login seen, not answered.
    Asked,
    /// Accepted.
    Live,
    /// Ending; what is on the send queue comes back first.
    Closing(CloseReason),
    /// The target has seen the end, or the reject was sent.
    Ended,
}

#[derive(Debug)]
pub(super) struct Conn {
    pub id: ConnId,
    pub arrival: u64,
    pub target: String,
    pub phase: Phase,
    pub login: Vec<u8>,
    /// Shared with the initiator's end, which reads it after the connection is gone.
    pub answer: Rc<RefCell<Option<LoginAnswer>>>,
    pub memory: SimMemory,
    /// What is lent, where memory is.
    pub regions: Option<Regions>,
    pub to_target: VecDeque<(u64, Vec<u8>)>,
    pub to_initiator: VecDeque<(u64, Vec<u8>)>,
    pub work: VecDeque<(u64, Work)>,
    pub receives: usize,
    pub receives_free: Vec<u32>,
    pub iu_bytes_max: usize,
    pub last_due: u64,
    /// The initiator's machine is gone, and nobody was told.
    pub vanished: bool,
    /// When a link that has lost a completion ends.
    pub fails_at: Option<u64>,
    /// Why it ended. Shared like the answer.
    pub ended: Rc<Cell<Option<CloseReason>>>,
}

impl Conn {
    /// When something sent now is there: random, but never before what was sent earlier.
    pub(super) fn due(&mut self, now: u64, delay_ns_max: u64, rng: &mut Rng) -> u64 {
        let due = now + if delay_ns_max == 0 { 0 } else { rng.below(delay_ns_max) };
        self.last_due = self.last_due.max(due);
        self.last_due
    }

    /// Begins to end, if it has not before.
    pub(super) fn end(&mut self, reason: CloseReason) {
        if !matches!(self.phase, Phase::Closing(_) | Phase::Ended) {
            self.phase = Phase::Closing(reason);
            self.ended.set(Some(reason));
        }
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    pub options: NetOptions,
    pub rng: Rng,
    pub now: u64,
    pub faults: NetFaults,
    pub injected: NetInjected,
    /// Per core, per connection index.
    pub cores: Vec<Vec<Option<Conn>>>,
    generations: Vec<Vec<u32>>,
    arrivals: u64,
}

/// The network. Clones are the same network.
#[derive(Debug, Clone)]
pub struct Net(Rc<RefCell<Inner>>);

impl Net {
    /// A network for so many cores.
    pub fn new(seed: u64, cores: usize, options: NetOptions) -> Self {
        let connections = options.connections_per_core;
        Net(Rc::new(RefCell::new(Inner {
            options,
            rng: Rng::new(seed),
            now: 0,
            faults: NetFaults::default(),
            injected: NetInjected::default(),
            cores: (0..cores).map(|_| (0..connections).map(|_| None).collect()).collect(),
            generations: vec![vec![0; connections]; cores],
            arrivals: 0,
        })))
    }

    pub(super) fn borrow(&self) -> Ref<'_, Inner> {
        self.0.borrow()
    }

    pub(super) fn borrow_mut(&self) -> RefMut<'_, Inner> {
        self.0.borrow_mut()
    }

    /// Sends a login to a target's listener on a core. `None`: the core has no connection free.
    pub fn connect(
        &self,
        core: usize,
        target: &str,
        login_req: &[u8],
        memory: &SimMemory,
    ) -> Option<SimLink> {
        let mut inner = self.borrow_mut();
        let index = inner.cores[core].iter().position(Option::is_none)?;
        inner.generations[core][index] += 1;
        inner.arrivals += 1;
        let arrival = inner.arrivals;
        let generation = inner.generations[core][index];
        let id = ConnId { index: index as u32, generation };
        let (answer, ended) = (Rc::default(), Rc::default());
        inner.cores[core][index] = Some(Conn {
            id,
            arrival,
            target: target.to_owned(),
            phase: Phase::New,
            login: login_req.to_vec(),
            answer: Rc::clone(&answer),
            memory: memory.clone(),
            regions: inner.options.lends.then(|| memory.regions()),
            to_target: VecDeque::new(),
            to_initiator: VecDeque::new(),
            work: VecDeque::new(),
            receives: 0,
            receives_free: Vec::new(),
            iu_bytes_max: 0,
            last_due: 0,
            vanished: false,
            fails_at: None,
            ended: Rc::clone(&ended),
        });
        Some(SimLink { net: self.clone(), core, id, answer, ended })
    }

    /// From now on it fails like this.
    pub fn set_faults(&self, faults: NetFaults) {
        self.borrow_mut().faults = faults;
    }

    /// Faults so far.
    pub fn injected(&self) -> NetInjected {
        self.borrow().injected
    }

    /// Every link ends.
    pub fn cut(&self) {
        let mut inner = self.borrow_mut();
        for conn in inner.cores.iter_mut().flatten().flatten() {
            conn.end(CloseReason::Link);
        }
    }

    /// Connections of a core that have not been released.
    pub fn connections(&self, core: usize) -> usize {
        self.borrow().cores[core].iter().flatten().count()
    }
}

impl Inner {
    /// Draws whether a fetch or a reply goes wrong, and by how much it is late, in ns; `u64::MAX`
    /// for ever.
    pub(super) fn misfortune(&mut self, reply: bool) -> (Failure, u64) {
        let Inner { rng, faults, injected, .. } = self;
        let mut strikes = |in_: u64| in_ > 0 && rng.one(in_);
        let fails_in = if reply { faults.send_fails_in } else { faults.fetch_fails_in };
        let fails = strikes(fails_in);
        let (lost, late) = (strikes(faults.lost_in), strikes(faults.late_in));
        let without_receive = reply && strikes(faults.no_receive_in);
        injected.sends_failed += u64::from(fails && reply);
        injected.fetches_failed += u64::from(fails && !reply);
        injected.lost += u64::from(lost);
        injected.late += u64::from(late);
        injected.without_receive += u64::from(without_receive);
        let failure = match (fails, reply && fails && rng.one(2)) {
            (false, _) => Failure::None,
            (true, false) => Failure::Whole,
            (true, true) => Failure::Response,
        };
        let wait =
            if late || without_receive { 1 + rng.below(faults.wait_ns_max.max(1)) } else { 0 };
        (failure, if lost { u64::MAX } else { wait })
    }

    pub(super) fn conn(&mut self, core: usize, id: ConnId) -> Option<&mut Conn> {
        self.cores[core].get_mut(id.index as usize)?.as_mut().filter(|conn| conn.id == id)
    }
}

/// The initiator's end of a connection.
#[derive(Debug)]
pub struct SimLink {
    net: Net,
    core: usize,
    id: ConnId,
    answer: Rc<RefCell<Option<LoginAnswer>>>,
    ended: Rc<Cell<Option<CloseReason>>>,
}

impl SimLink {
    /// Why the link ended, once it has begun to.
    pub fn ended(&self) -> Option<CloseReason> {
        self.ended.get()
    }

    /// The target has nothing of the connection any more.
    pub fn is_released(&self) -> bool {
        self.net.borrow_mut().conn(self.core, self.id).is_none()
    }

    /// The answer to the login, when there is one.
    pub fn login_answer(&self) -> Option<LoginAnswer> {
        self.answer.borrow().clone()
    }

    /// True when the connection has ended or never was.
    pub fn is_closed(&self) -> bool {
        let mut inner = self.net.borrow_mut();
        inner
            .conn(self.core, self.id)
            .is_none_or(|conn| matches!(conn.phase, Phase::Closing(_) | Phase::Ended))
    }

    /// The initiator goes away, and its system says so.
    pub fn disconnect(&self) {
        let mut inner = self.net.borrow_mut();
        let Some(conn) = inner.conn(self.core, self.id) else { return };
        if !conn.vanished {
            conn.end(CloseReason::PeerGone);
        }
    }

    /// The initiator's machine goes: nobody is told, and what is sent to it is not acknowledged.
    /// Where memory is shared its end is seen.
    pub fn vanish(&self) {
        let mut inner = self.net.borrow_mut();
        let Some(conn) = inner.conn(self.core, self.id) else { return };
        if conn.regions.is_some() {
            return conn.end(CloseReason::PeerGone);
        }
        conn.vanished = true;
        conn.to_target.clear();
        conn.to_initiator.clear();
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        self.disconnect();
    }
}

impl Link for SimLink {
    fn send(&mut self, iu: &[u8]) -> Result<(), LinkError> {
        let mut inner = self.net.borrow_mut();
        let inner = &mut *inner;
        let (now, delay) = (inner.now, inner.options.delay_ns_max);
        let slot = &mut inner.cores[self.core][self.id.index as usize];
        let Some(conn) = slot.as_mut().filter(|c| c.id == self.id && c.phase == Phase::Live) else {
            return Err(LinkError::Closed);
        };
        let due = conn.due(now, delay, &mut inner.rng);
        conn.to_target.push_back((due, iu.to_vec()));
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        Ok(())
    }

    fn poll(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<usize, LinkError> {
        let mut count = 0;
        loop {
            let message = {
                let mut inner = self.net.borrow_mut();
                let now = inner.now;
                let Some(conn) = inner.conn(self.core, self.id) else {
                    return Err(LinkError::Closed);
                };
                match conn.to_initiator.front() {
                    Some((due, _)) if *due <= now => conn.to_initiator.pop_front(),
                    Some(_) => None,
                    None if matches!(conn.phase, Phase::Closing(_) | Phase::Ended) => {
                        return Err(LinkError::Closed);
                    }
                    None => None,
                }
            };
            let Some((_, iu)) = message else { return Ok(count) };
            each(&iu);
            count += 1;
        }
    }
}
