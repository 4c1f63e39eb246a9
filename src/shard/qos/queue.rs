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

use reactor::Instant;
use transport::{ConnId, Fabric, Recv};

use super::rate::{Cost, Limiter};
use crate::shard::connections::connection::Connection;
use crate::shard::connections::table::Connections;
use crate::shard::coverage::{At, Mark, Met, mark, met};
use crate::shard::names::{MappingKey, SessionId, UnitId};

/// Whose commands wait in a lane, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    unit: UnitId,
    session: SessionId,
    writes: bool,
}

/// A command that waits.
struct Held {
    conn: ConnId,
    recv: Recv,
    /// What it was for when it came.
    mapping: MappingKey,
    unit: UnitId,
    cost: Cost,
}

/// What a command to a limited logical unit is charged.
pub(crate) struct Charge<'a> {
    /// The mapping of the unit.
    pub mapping: MappingKey,
    /// The unit's number.
    pub unit: UnitId,
    /// The unit's limits.
    pub limiter: &'a Arc<Limiter>,
    /// What the command takes from them.
    pub cost: Cost,
}

struct Lane {
    name: Name,
    limiter: Arc<Limiter>,
    queue: VecDeque<Held>,
    /// When the first may start.
    due: Instant,
    /// Its earliest entry in [`RateQueues::due`].
    listed: Option<Instant>,
}

/// The lanes of one core.
#[derive(Default)]
pub(crate) struct RateQueues {
    lanes: Vec<Lane>,
    free: Vec<usize>,
    names: BTreeMap<Name, usize>,
    /// When lanes are to be looked at. A lane with commands has an entry not after its time; what
    /// else is there does no harm.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    held: u32,
}

impl RateQueues {
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
    fn renew(&mut self, unit: UnitId, now: Instant) {
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
    fn forget(&mut self, gone: impl Fn(UnitId, SessionId) -> bool) {
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

impl RateQueues {
    /// Charges a command to a limited logical unit. Gives its receive back when it may start, and
    /// keeps it otherwise until its time comes.
    pub(crate) fn charge(
        &mut self,
        connection: &mut Connection,
        recv: Recv,
        charge: &Charge<'_>,
        now: Instant,
    ) -> Option<Recv> {
        // Its time has come before, but then there was no slot or buffer.
        if connection.queue().is_charged() {
            return Some(recv);
        }
        let Charge { mapping, unit, limiter, cost } = *charge;
        let session = connection.session_id().expect("live connections have a session");
        let writes = cost.writes && limiter.limits().is_split();
        let name = Name { unit, session, writes };
        match self.ask(name, limiter, now, &cost) {
            Asked::Granted => {
                connection.queue_mut().charge();
                Some(recv)
            }
            Asked::First(lane) | Asked::Behind(lane) => {
                connection.queue_mut().hold();
                self.hold(lane, Held { conn: connection.id(), recv, mapping, unit, cost });
                None
            }
        }
    }

    /// Hands commands whose time has come to their connections. True when there was one.
    pub(crate) fn release_due<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        now: Instant,
    ) -> bool {
        let mut any = false;
        while let Some(held) = self.next(now) {
            met(At::Throttled, Met::Success);
            connections.requeue(held.conn, held.recv);
            any = true;
        }
        any
    }

    /// The limits of a bdev have changed, which these logical units show.
    pub(crate) fn on_limits<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        units: Vec<UnitId>,
        limited: bool,
        now: Instant,
    ) {
        for unit in units {
            if limited {
                self.renew(unit, now);
                continue;
            }
            for held in self.take(now, |held| held.unit == unit) {
                mark(Mark::LimitLifted);
                connections.requeue(held.conn, held.recv);
            }
        }
    }

    /// A LUN is no longer mapped: its commands need not wait to be told so.
    pub(crate) fn release_unmapped<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        mapping: MappingKey,
        unit: UnitId,
        now: Instant,
    ) {
        for held in self.take(now, |held| held.mapping == mapping) {
            met(At::Throttled, Met::Unmap);
            connections.requeue(held.conn, held.recv);
        }
        self.forget(|other, _| other == unit);
    }

    /// Drops a connection's commands.
    pub(crate) fn drop_of<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        conn: ConnId,
        now: Instant,
    ) {
        if !connections.get(conn).queue().holds() {
            return;
        }
        for held in self.take(now, |held| held.conn == conn) {
            let (connection, fabric) = connections.split(conn);
            connection.queue_mut().forget_held();
            fabric.repost(conn, held.recv);
        }
    }

    /// A connection of a session has gone.
    pub(crate) fn forget_session(&mut self, session: Option<SessionId>) {
        self.forget(|_, other| Some(other) == session);
    }

    /// Drops the commands that are hit; their credits are owed. Tells how many there were.
    pub(crate) fn abort<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        now: Instant,
        hit: impl Fn(&Connection, &[u8]) -> bool,
    ) -> u32 {
        let taken = self.take(now, |held| {
            hit(connections.get(held.conn), connections.iu(held.conn, &held.recv))
        });
        let conns: Vec<ConnId> = taken.iter().map(|held| held.conn).collect();
        for Held { conn, recv, .. } in taken {
            met(At::Throttled, Met::Abort);
            connections.abort_held(conn, recv);
        }
        for conn in &conns {
            connections.settle(*conn);
        }
        conns.len() as u32
    }

    /// The commands of a connection.
    pub(crate) fn of(&self, conn: ConnId) -> impl Iterator<Item = &Recv> {
        let held = self.lanes.iter().flat_map(|lane| &lane.queue);
        held.filter(move |held| held.conn == conn).map(|held| &held.recv)
    }
}
