//! The network between simulated cores and simulated initiators.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;

use reactor::Tag;
use reactor::pool::Buf;

use super::rng::Rng;
use crate::initiator::{DataMemory, Link, LinkError};
use crate::{CloseReason, ConnId, RemoteSeg};

/// How a network behaves.
#[derive(Debug, Clone, Copy)]
pub struct NetOptions {
    /// Longest time that a message or data transfer takes, in nanoseconds.
    pub delay_ns_max: u64,
    /// Connections per core.
    pub connections_per_core: usize,
}

impl Default for NetOptions {
    fn default() -> Self {
        NetOptions { delay_ns_max: 1000, connections_per_core: 64 }
    }
}

/// Memory of a simulated initiator: registration key 1, addresses from 0.
#[derive(Debug, Clone)]
pub struct SimMemory(Rc<RefCell<Vec<u8>>>);

/// R_Key of a [`SimMemory`].
pub(super) const MEMORY_KEY: u32 = 1;

impl SimMemory {
    /// Zeroed memory.
    pub fn new(bytes: usize) -> Self {
        SimMemory(Rc::new(RefCell::new(vec![0; bytes])))
    }

    pub(super) fn check(&self, seg: &RemoteSeg) -> bool {
        let end = seg.addr.checked_add(u64::from(seg.len));
        seg.key == MEMORY_KEY && end.is_some_and(|end| end <= self.len() as u64)
    }
}

impl DataMemory for SimMemory {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn seg(&self, offset: usize, len: u32) -> RemoteSeg {
        assert!(offset + len as usize <= self.len(), "descriptor outside the memory");
        RemoteSeg { addr: offset as u64, key: MEMORY_KEY, len }
    }

    fn read_at(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0.borrow()[offset..offset + to.len()]);
    }

    fn write_at(&self, offset: usize, from: &[u8]) {
        self.0.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
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

/// An operation on a connection's send queue. Completes in order, not before its time.
#[derive(Debug)]
pub(super) enum Work {
    Fetch { tag: Tag, buf: Buf, from: Vec<RemoteSeg> },
    Reply { tag: Tag, buf: Option<Buf>, move_bytes: u32, to: Vec<RemoteSeg>, iu: Vec<u8> },
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
    pub target: String,
    pub phase: Phase,
    pub login: Vec<u8>,
    /// Shared with the initiator's end, which reads it after the connection is gone.
    pub answer: Rc<RefCell<Option<LoginAnswer>>>,
    pub memory: SimMemory,
    pub to_target: VecDeque<(u64, Vec<u8>)>,
    pub to_initiator: VecDeque<(u64, Vec<u8>)>,
    pub work: VecDeque<(u64, Work)>,
    pub receives: Vec<Vec<u8>>,
    pub receives_free: Vec<u32>,
    pub last_due: u64,
    pub initiator_gone: bool,
}

impl Conn {
    /// When something sent now is there: random, but never before what was sent earlier.
    pub fn due(&mut self, now: u64, delay_ns_max: u64, rng: &mut Rng) -> u64 {
        let due = now + if delay_ns_max == 0 { 0 } else { rng.below(delay_ns_max) };
        self.last_due = self.last_due.max(due);
        self.last_due
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    pub options: NetOptions,
    pub rng: Rng,
    pub now: u64,
    /// Per core, per connection index.
    pub cores: Vec<Vec<Option<Conn>>>,
    generations: Vec<Vec<u32>>,
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
            cores: (0..cores).map(|_| (0..connections).map(|_| None).collect()).collect(),
            generations: vec![vec![0; connections]; cores],
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
        let generation = inner.generations[core][index];
        let id = ConnId { index: index as u32, generation };
        let answer = Rc::default();
        inner.cores[core][index] = Some(Conn {
            id,
            target: target.to_owned(),
            phase: Phase::New,
            login: login_req.to_vec(),
            answer: Rc::clone(&answer),
            memory: memory.clone(),
            to_target: VecDeque::new(),
            to_initiator: VecDeque::new(),
            work: VecDeque::new(),
            receives: Vec::new(),
            receives_free: Vec::new(),
            last_due: 0,
            initiator_gone: false,
        });
        Some(SimLink { net: self.clone(), core, id, answer })
    }

    /// Connections of a core that have not been released.
    pub fn connections(&self, core: usize) -> usize {
        self.borrow().cores[core].iter().flatten().count()
    }
}

impl Inner {
    pub fn conn(&mut self, core: usize, id: ConnId) -> Option<&mut Conn> {
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
}

impl SimLink {
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

    /// The initiator goes away without a word.
    pub fn disconnect(&self) {
        let mut inner = self.net.borrow_mut();
        let Some(conn) = inner.conn(self.core, self.id) else { return };
        conn.initiator_gone = true;
        if !matches!(conn.phase, Phase::Closing(_) | Phase::Ended) {
            conn.phase = Phase::Closing(CloseReason::PeerGone);
        }
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
