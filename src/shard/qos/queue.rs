//! Commands that wait for a rate limit.
//!
//! They wait in lanes, one per session and logical unit, and one each for reads and writes where
//! these have limits of their own. Only the first of a lane holds a grant of the [`Limiter`], so
//! sessions get equal shares whatever their depth, and commands to other logical units pass by.
//!
//! What waits is a received information unit: nothing was taken for it, and it can be dropped at
//! any time. There are no more of them than receives.
//!
//! Costs a comparison per turn while nothing waits; lanes are kept and used again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use reactor::{Instant, Tag};
use transport::srp::{Cmd, Direction};
use transport::{ConnId, Fabric, Recv};

use crate::shard::command::request::{Header, Job};
use crate::shard::coverage::{At, Mark, Met, mark, met};
use crate::shard::lun::Mapping;
use crate::shard::message::{AbortScope, ChannelAt};
use crate::shard::qos::rate::{Cost, Limiter};
use crate::shard::shard::Shard;
use crate::shard::task::Subject;

/// Whose commands wait in a lane, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    unit: u32,
    session: u64,
    writes: bool,
}

/// A command that waits.
struct Held {
    conn: ConnId,
    recv: Recv,
    /// What it was for when it came.
    mapping: Tag,
    cost: Cost,
}

struct Lane {
    name: Name,
    limiter: Arc<Limiter>,
    queue: VecDeque<Held>,
    /// When the first may start.
    due: Instant,
    /// Its earliest entry in [`Throttle::due`].
    listed: Option<Instant>,
}

/// The lanes of one core.
#[derive(Default)]
pub(crate) struct Throttle {
    lanes: Vec<Lane>,
    free: Vec<usize>,
    names: BTreeMap<Name, usize>,
    /// When lanes are to be looked at. A lane with commands has an entry not after its time; what
    /// else is there does no harm.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    held: u32,
}

impl Throttle {
    /// When the first command may start.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    /// Asks for a grant. A command that has to wait is to be put into the lane.
    fn ask(&mut self, name: Name, limiter: &Arc<Limiter>, now: Instant, cost: &Cost) -> Asked {
        let lane = self.names.get(&name).copied();
        if let Some(lane) = lane
            && !self.lanes[lane].queue.is_empty()
        {
            return Asked::Behind(lane);
        }
        let start = limiter.reserve(now, cost);
        if start <= now {
            return Asked::Granted;
        }
        let lane = lane.unwrap_or_else(|| self.lane(name, limiter));
        self.lanes[lane].due = start;
        Asked::First(lane)
    }

    fn lane(&mut self, name: Name, limiter: &Arc<Limiter>) -> usize {
        let limiter = Arc::clone(limiter);
        let (queue, due) = (VecDeque::new(), Instant::default());
        let mut lane = Lane { name, limiter, queue, due, listed: None };
        let index = match self.free.pop() {
            Some(index) => {
                lane.queue = std::mem::take(&mut self.lanes[index].queue);
                self.lanes[index] = lane;
                index
            }
            None => {
                self.lanes.push(lane);
                self.lanes.len() - 1
            }
        };
        self.names.insert(name, index);
        index
    }

    fn hold(&mut self, index: usize, held: Held) {
        self.lanes[index].queue.push_back(held);
        self.held += 1;
        self.list(index);
    }

    fn list(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        if lane.listed.is_none_or(|listed| lane.due < listed) {
            lane.listed = Some(lane.due);
            self.due.push(Reverse((lane.due, index)));
        }
    }

    /// A command whose time has come.
    fn next(&mut self, now: Instant) -> Option<Held> {
        loop {
            let Reverse((due, index)) = *self.due.peek()?;
            if due > now {
                return None;
            }
            self.due.pop();
            let lane = &mut self.lanes[index];
            if lane.listed == Some(due) {
                lane.listed = None;
            }
            // The entry may be older than the command that is first now.
            if lane.queue.is_empty() {
                continue;
            }
            if lane.due > now {
                self.list(index);
                continue;
            }
            let first = lane.queue.pop_front().expect("looked at above");
            self.held -= 1;
            if let Some(second) = lane.queue.front() {
                lane.due = lane.limiter.reserve(now, &second.cost);
                self.list(index);
            }
            return Some(first);
        }
    }

    /// Takes commands out, wherever they wait; a grant that one of them had goes back.
    fn take(&mut self, now: Instant, mut wanted: impl FnMut(&Held) -> bool) -> Vec<Held> {
        let mut taken = Vec::new();
        if self.held == 0 {
            return taken;
        }
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            let Some(first) = lane.queue.front() else { continue };
            let (cost, had_grant) = (first.cost, wanted(first));
            for _ in 0..lane.queue.len() {
                let held = lane.queue.pop_front().expect("counted");
                if wanted(&held) { taken.push(held) } else { lane.queue.push_back(held) }
            }
            if had_grant {
                lane.limiter.refund(&cost);
                if let Some(first) = lane.queue.front() {
                    lane.due = lane.limiter.reserve(now, &first.cost);
                    self.list(index);
                }
            }
        }
        self.held -= taken.len() as u32;
        taken
    }

    /// The limits of a logical unit have changed: those who wait ask again.
    fn renew(&mut self, unit: u32, now: Instant) {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if lane.name.unit == unit
                && let Some(first) = lane.queue.front()
            {
                mark(Mark::LimitRenewed);
                lane.due = lane.limiter.reserve(now, &first.cost);
                self.list(index);
            }
        }
    }

    /// Drops empty lanes.
    fn forget(&mut self, gone: impl Fn(u32, u64) -> bool) {
        let lanes = &self.lanes;
        let free = &mut self.free;
        self.names.retain(|name, index| {
            let lane = &lanes[*index];
            let drop = gone(name.unit, name.session) && lane.queue.is_empty();
            if drop {
                free.push(*index);
            }
            !drop
        });
    }
}

/// What became of the question for a grant.
enum Asked {
    /// It may start.
    Granted,
    /// It is the first of a lane.
    First(usize),
    /// Others of its lane were there before.
    Behind(usize),
}

impl<F: Fabric> Shard<F> {
    /// Charges a command to a limited logical unit. Gives its receive back when it may start, and
    /// keeps it otherwise until its time comes.
    pub(crate) fn charge(
        &mut self,
        conn: ConnId,
        recv: Recv,
        header: &Header,
        job: &Job,
        moved: Option<(Direction, u32)>,
    ) -> Option<Recv> {
        let tag = header.mapping.expect("jobs have a logical unit");
        let mapping = self.luns.mapping(tag);
        let connection = self.connections[conn.index as usize].as_mut().expect("live channel");
        // Its time has come before, but then there was no slot or buffer.
        if connection.paid > 0 {
            return Some(recv);
        }
        let Some(cost) = cost_of(job, moved, mapping) else { return Some(recv) };
        let session = connection.session().expect("live channels have a session");
        let limiter = &mapping.lu.limiter;
        let writes = cost.writes && limiter.limits().is_split();
        let name = Name { unit: mapping.lu.id, session, writes };
        match self.throttle.ask(name, limiter, self.now, &cost) {
            Asked::Granted => {
                connection.paid += 1;
                Some(recv)
            }
            Asked::First(lane) | Asked::Behind(lane) => {
                connection.held += 1;
                self.throttle.hold(lane, Held { conn, recv, mapping: tag, cost });
                None
            }
        }
    }

    /// Hands commands whose time has come to their channels. True when there was one.
    pub(crate) fn release_due(&mut self) -> bool {
        let mut any = false;
        while let Some(held) = self.throttle.next(self.now) {
            met(At::Throttled, Met::Success);
            self.requeue(held);
            any = true;
        }
        any
    }

    /// In front of what has not been charged, behind what has.
    fn requeue(&mut self, held: Held) {
        let Held { conn, recv, .. } = held;
        let connection = self.connection(conn);
        connection.held -= 1;
        connection.waiting.insert(connection.paid as usize, recv);
        connection.paid += 1;
        if !connection.queued {
            connection.queued = true;
            self.ready.push_back(conn.index);
        }
    }

    /// The limits of a bdev have changed.
    pub(crate) fn on_rate_limits(&mut self, bdev: &str, limited: bool) {
        for unit in self.luns.set_limited(bdev, limited) {
            if limited {
                self.throttle.renew(unit, self.now);
                continue;
            }
            let luns = &self.luns;
            let of_unit = |held: &Held| luns.unit_of(held.mapping) == Some(unit);
            for held in self.throttle.take(self.now, of_unit) {
                mark(Mark::LimitLifted);
                self.requeue(held);
            }
        }
    }

    /// A LUN is no longer mapped: its commands need not wait to be told so.
    pub(crate) fn release_unmapped(&mut self, mapping: Tag) {
        let unit = self.luns.unit_of(mapping);
        for held in self.throttle.take(self.now, |held| held.mapping == mapping) {
            met(At::Throttled, Met::Unmap);
            self.requeue(held);
        }
        self.throttle.forget(|other, _| Some(other) == unit);
    }

    /// Drops a channel's commands that wait for a rate limit.
    pub(crate) fn drop_held(&mut self, conn: ConnId) {
        if self.connection(conn).held == 0 {
            return;
        }
        for held in self.throttle.take(self.now, |held| held.conn == conn) {
            self.fabric.repost(conn, held.recv);
        }
        self.connection(conn).held = 0;
    }

    /// A channel of a session has gone.
    pub(crate) fn forget_lanes(&mut self, session: Option<u64>) {
        self.throttle.forget(|_, other| Some(other) == session);
    }

    /// Drops held commands in scope; their credits are owed.
    pub(crate) fn abort_held(&mut self, scope: AbortScope) -> u32 {
        let core = self.out.core();
        let Shard { throttle, fabric, connections, luns, now, .. } = self;
        let taken = throttle.take(*now, |held| {
            let connection = connections[held.conn.index as usize].as_ref();
            let connection = connection.expect("a channel is released without commands");
            let iu = fabric.iu(held.conn, &held.recv);
            Cmd::parse(iu, connection.imm_data_offset).is_ok_and(|cmd| {
                let lun = cmd.lun.number();
                let mapping = lun.and_then(|lun| luns.find(connection.target, lun));
                let unit = mapping.map(|mapping| luns.mapping(mapping).lu.id);
                let (channel, session) =
                    (ChannelAt { core, conn: held.conn }, connection.session());
                Subject { channel, session, lun, unit, tag: cmd.tag }.is_in(scope)
            })
        });
        let conns: Vec<ConnId> = taken.iter().map(|held| held.conn).collect();
        for Held { conn, recv, .. } in taken {
            met(At::Throttled, Met::Abort);
            self.fabric.repost(conn, recv);
            let connection = self.connection(conn);
            connection.held -= 1;
            connection.owed += 1;
        }
        for conn in &conns {
            if self.connection(*conn).in_flight == 0 {
                self.on_idle(*conn);
            }
        }
        conns.len() as u32
    }

    /// True when a command of this channel has the tag and waits for a rate limit.
    pub(crate) fn holds(&self, conn: ConnId, tag: [u8; 8]) -> bool {
        let connection = self.connections[conn.index as usize].as_ref().expect("live channel");
        connection.held > 0
            && self.throttle.lanes.iter().flat_map(|lane| &lane.queue).any(|held| {
                let iu = self.fabric.iu(held.conn, &held.recv);
                held.conn == conn
                    && Cmd::parse(iu, connection.imm_data_offset).is_ok_and(|cmd| cmd.tag == tag)
            })
    }
}

/// What a job takes from the limits; `None` for what neither reads nor writes blocks.
fn cost_of(job: &Job, moved: Option<(Direction, u32)>, mapping: &Mapping) -> Option<Cost> {
    use bdev::IoOp;
    let block_bytes = u64::from(mapping.geometry.block_bytes);
    match job {
        Job::Io(IoOp::Read { blocks, .. }) => {
            Some(Cost { writes: false, bytes: u64::from(*blocks) * block_bytes })
        }
        Job::Io(IoOp::Write { blocks, .. }) => {
            Some(Cost { writes: true, bytes: u64::from(*blocks) * block_bytes })
        }
        Job::Io(_) | Job::Reply => None,
        // What is passed through is known by its data only.
        Job::Pass => moved.map(|(direction, bytes)| Cost {
            writes: direction == Direction::Out,
            bytes: u64::from(bytes),
        }),
        Job::Steps(steps) => {
            let (writes, bytes) = steps.moves()?;
            Some(Cost { writes, bytes })
        }
    }
}
