//! All connections of a core, and the fabric that carries them.
//!
//! [`Connections`] says what is the target's own to say (SRP_T_LOGOUT, SRP_CRED_REQ, SRP_AER_REQ,
//! answers to task management functions), keeps the list of connections with waiting commands, and
//! brings each connection to its end. What has ended is handed out by [`Connections::next_ended`].

use std::collections::VecDeque;
use std::time::Duration;

use reactor::{Batch, Instant, Tag};
use transport::srp::{AerReq, CredReq, LoginReq, Lun, Rsp, SolNot, TLogout, response_code};
use transport::{CloseReason, ConnId, DataIn, Event, Fabric, Recv};

use super::connection::{Connection, Ending, Idle};
use super::probe::Probes;
use crate::scsi::attention::Attention;
use crate::shard::coverage::{At, Mark, Met, mark, met};
use crate::shard::names::{SessionId, SrpTag};

/// How long a connection that was asked to leave may take to answer what runs.
const LEAVE_WAIT: Duration = Duration::from_secs(1);

/// Slot number in the tag of an information unit that belongs to no request.
const OWN: u32 = u32::MAX;

/// A connection of which nothing is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The fabric's name for it.
    pub conn: ConnId,
    /// Its session, if it had one.
    pub session: Option<SessionId>,
}

/// The connections of a core over a fabric.
pub(crate) struct Connections<F> {
    fabric: F,
    slots: Vec<Option<Connection>>,
    /// Connections with waiting commands, in the order in which they are served.
    ready: VecDeque<u32>,
    /// Connections that are leaving, whose deadlines are looked at every turn, and those that were
    /// released and have not been handed out.
    ending: u32,
    probes: Probes,
    ended: VecDeque<Ended>,
}

impl<F: Fabric> Connections<F> {
    /// No connections yet. All peers are asked `probe_every` so often whether they are there.
    pub(crate) fn new(fabric: F, probe_every: Duration) -> Connections<F> {
        let count = fabric.connections_max();
        Connections {
            slots: (0..count).map(|_| None).collect(),
            ready: VecDeque::with_capacity(count),
            ending: 0,
            probes: Probes::new(probe_every),
            ended: VecDeque::new(),
            fabric,
        }
    }

    /// The fabric.
    #[inline]
    pub(crate) fn fabric(&self) -> &F {
        &self.fabric
    }

    /// The fabric, to move data and information units.
    #[inline]
    pub(crate) fn fabric_mut(&mut self) -> &mut F {
        &mut self.fabric
    }

    /// See [`Fabric::poll`].
    #[inline]
    pub(crate) fn poll(&mut self, now: Instant, events: &mut Batch<Event>) {
        self.fabric.poll(now, events);
    }

    /// A connection and the fabric.
    #[inline(always)]
    pub(crate) fn split(&mut self, conn: ConnId) -> (&mut Connection, &mut F) {
        let slot = self.slots[conn.index as usize].as_mut();
        let connection = slot.expect("the fabric names connections that were not released");
        debug_assert_eq!(connection.id(), conn);
        (connection, &mut self.fabric)
    }

    /// A connection that was not released.
    #[inline]
    pub(crate) fn get(&self, conn: ConnId) -> &Connection {
        let slot = self.slots[conn.index as usize].as_ref();
        slot.expect("the fabric names connections that were not released")
    }

    /// See [`Connections::get`].
    #[inline]
    pub(crate) fn get_mut(&mut self, conn: ConnId) -> &mut Connection {
        self.split(conn).0
    }

    /// A connection that may have been released.
    pub(crate) fn find(&self, conn: ConnId) -> Option<&Connection> {
        self.slots[conn.index as usize].as_ref().filter(|connection| connection.id() == conn)
    }

    /// A connection, if its login is still under way.
    pub(crate) fn asking(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.slots[conn.index as usize].as_mut()?;
        (connection.id() == conn && connection.is_asking()).then_some(connection)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().flatten()
    }

    /// The names of those that are chosen.
    pub(crate) fn names(&self, chosen: impl Fn(&Connection) -> bool) -> Vec<ConnId> {
        self.iter().filter(|connection| chosen(connection)).map(Connection::id).collect()
    }

    /// Takes a connection whose login has just arrived.
    pub(crate) fn insert(&mut self, connection: Connection) {
        let index = connection.id().index as usize;
        self.slots[index] = Some(connection);
    }

    /// A received information unit.
    #[inline(always)]
    pub(crate) fn iu(&self, conn: ConnId, recv: &Recv) -> &[u8] {
        self.fabric.iu(conn, recv)
    }

    /// See [`Fabric::repost`].
    pub(crate) fn repost(&mut self, conn: ConnId, recv: Recv) {
        self.fabric.repost(conn, recv);
    }

    /// True when no connection has waiting commands.
    #[inline(always)]
    pub(crate) fn is_none_ready(&self) -> bool {
        self.ready.is_empty()
    }

    /// Connections with waiting commands.
    pub(crate) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// The connection at a place of those with waiting commands.
    pub(crate) fn ready_at(&self, place: usize) -> Option<ConnId> {
        let index = *self.ready.get(place)?;
        let connection = self.slots[index as usize].as_ref();
        Some(connection.expect("released connections have no waiting commands").id())
    }

    /// The connection at a place has been served: it goes behind all others.
    pub(crate) fn ready_last(&mut self, place: usize) {
        let index = self.ready.remove(place).expect("looked at before");
        self.ready.push_back(index);
    }

    /// The connection at a place has no waiting command any more.
    pub(crate) fn ready_off(&mut self, place: usize) {
        let index = self.ready.remove(place).expect("looked at before");
        let connection = self.slots[index as usize].as_mut();
        connection.expect("looked at before").queue_mut().delist();
    }

    /// A command waits for admission.
    pub(crate) fn enqueue(&mut self, conn: ConnId, recv: Recv) {
        self.get_mut(conn).queue_mut().push(recv);
        self.enlist(conn);
    }

    /// A command that has waited for a rate limit waits for admission.
    pub(crate) fn requeue(&mut self, conn: ConnId, recv: Recv) {
        self.get_mut(conn).queue_mut().release(recv);
        self.enlist(conn);
    }

    fn enlist(&mut self, conn: ConnId) {
        if self.get_mut(conn).queue_mut().enlist() {
            self.ready.push_back(conn.index);
        }
    }

    /// Drops the waiting commands of a connection that are hit; their credits are owed. Tells how
    /// many there were.
    pub(crate) fn abort_waiting(
        &mut self,
        conn: ConnId,
        mut hit: impl FnMut(&Connection, &[u8]) -> bool,
    ) -> u32 {
        let (connection, fabric) = self.split(conn);
        let mut queue = std::mem::take(connection.queue_mut());
        let count = queue.sift(|recv| {
            if !hit(connection, fabric.iu(conn, &recv)) {
                return Some(recv);
            }
            mark(Mark::AbortedWaiting);
            met(At::Waiting, Met::Abort);
            fabric.repost(conn, recv);
            connection.credits().owe();
            None
        });
        *connection.queue_mut() = queue;
        if count > 0 {
            self.settle(conn);
        }
        count
    }

    /// A command of a connection that a rate limit held is dropped; its credit is owed.
    pub(crate) fn abort_held(&mut self, conn: ConnId, recv: Recv) {
        let (held_by, fabric) = self.split(conn);
        fabric.repost(conn, recv);
        held_by.queue_mut().forget_held();
        held_by.credits().owe();
    }

    /// Something came to be owed by a connection, or its state has changed: if nothing of it runs,
    /// what is due is done.
    pub(crate) fn settle(&mut self, conn: ConnId) {
        if self.get(conn).is_idle() {
            self.on_idle(conn);
        }
    }

    /// A request of a connection has ended.
    #[inline]
    pub(crate) fn end_request(&mut self, conn: ConnId) {
        if self.get_mut(conn).end() {
            self.on_idle(conn);
        }
    }

    /// A task management function of a connection has ended.
    pub(crate) fn end_function(&mut self, conn: ConnId) {
        let connection = self.get_mut(conn);
        connection.end();
        if connection.is_idle() && !connection.is_live() {
            self.on_idle(conn);
        }
    }

    /// Ends a connection at once: the fabric returns what it holds, then says `Closed`.
    #[cold]
    pub(crate) fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let (connection, fabric) = self.split(conn);
        connection.meet(Met::Close);
        if let Ending::Close { was_leaving } = connection.close() {
            fabric.close(conn, reason);
            self.ending -= u32::from(was_leaving);
        }
    }

    /// Asks a connection to end in good order: what runs is answered, then SRP_T_LOGOUT. True: it
    /// begins to, and none of its commands waits here any more.
    pub(crate) fn leave(&mut self, conn: ConnId, now: Instant) -> bool {
        let (connection, fabric) = self.split(conn);
        match connection.leave(now.after(LEAVE_WAIT)) {
            Ending::Leaves => {}
            Ending::Close { .. } => {
                connection.meet(Met::Close);
                fabric.close(conn, CloseReason::Local);
                return false;
            }
            Ending::Under => return false,
        }
        mark(Mark::Leaves);
        connection.meet(Met::Leave);
        self.ending += 1;
        self.drop_waiting(conn);
        true
    }

    /// True when a connection is leaving, or was released and has not been handed out.
    #[inline]
    pub(crate) fn is_any_ending(&self) -> bool {
        self.ending > 0
    }

    /// Connections that still leave though their time is up.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<ConnId> {
        self.names(|connection| connection.is_overdue(now))
    }

    /// The fabric has ended a connection: only the ends of what it was given too late may follow.
    pub(crate) fn set_gone(&mut self, conn: ConnId) {
        let connection = self.get_mut(conn);
        connection.meet(Met::Gone);
        let was_leaving = connection.set_gone();
        self.ending -= u32::from(was_leaving);
        self.drop_waiting(conn);
    }

    /// Forgets received commands that have not been admitted.
    fn drop_waiting(&mut self, conn: ConnId) {
        let (connection, fabric) = self.split(conn);
        while let Some(recv) = connection.queue_mut().drain() {
            fabric.repost(conn, recv);
        }
    }

    /// Nothing of a connection runs any more: the moment for what waited for that.
    #[cold]
    fn on_idle(&mut self, conn: ConnId) {
        let connection = self.get_mut(conn);
        match connection.on_idle() {
            Idle::Nothing => {}
            Idle::ReturnCredits => {
                mark(Mark::CreditsReturned);
                // SRP 16A, 6.10.
                let solicited =
                    connection.login().req_flags & LoginReq::FLAG_CRED_REQ_SOLICITED != 0;
                let req_lim_delta = connection.credits().ask();
                let mut iu = [0; CredReq::LEN];
                CredReq { tag: [0; 8], solicited, req_lim_delta }.emit(&mut iu);
                self.say(conn, &iu, solicited);
            }
            Idle::SayLogout => {
                mark(Mark::LogoutSaid);
                let solicited = connection.login().req_flags & LoginReq::FLAG_LOGOUT_SOLICITED != 0;
                let reason = TLogout::NO_REASON;
                let mut iu = [0; TLogout::LEN];
                TLogout { tag: [0; 8], solicited, reason }.emit(&mut iu);
                self.say(conn, &iu, solicited);
            }
            Idle::Release => {
                let session = connection.session_id();
                self.slots[conn.index as usize] = None;
                self.ready.retain(|index| *index != conn.index);
                self.fabric.release(conn);
                self.ended.push_back(Ended { conn, session });
                self.ending += 1;
            }
        }
    }

    /// A connection that was released and has not been handed out.
    pub(crate) fn next_ended(&mut self) -> Option<Ended> {
        let ended = self.ended.pop_front()?;
        self.ending -= 1;
        Some(ended)
    }

    /// Sends an information unit that belongs to no request: one of the target's own, or the answer
    /// to a task management function.
    fn say(&mut self, conn: ConnId, iu: &[u8], solicited: bool) {
        let (connection, fabric) = self.split(conn);
        connection.begin_own();
        fabric.reply(conn, own_tag(conn), iu, solicited, DataIn::None { buf: None });
    }

    /// An information unit that belongs to no request has been sent, or is lost. Tells which
    /// connection is to close for that, and why: SRP_T_LOGOUT is the last thing that is said.
    #[cold]
    pub(crate) fn on_own_sent(&mut self, tag: Tag, ok: bool) -> Option<(ConnId, CloseReason)> {
        if !ok {
            mark(Mark::OwnSendFailed);
        }
        let slot = self.slots[tag.generation() as usize].as_mut();
        let connection = slot.expect("a connection is released after all its replies have ended");
        connection.end_own();
        let conn = connection.id();
        if connection.is_gone() {
            if connection.has_sent_all() {
                self.settle(conn);
            }
            return None;
        }
        let is_last = connection.has_sent_all() && connection.has_said_logout();
        match (ok, is_last) {
            (false, _) => Some((conn, CloseReason::Link)),
            (true, true) => Some((conn, CloseReason::Local)),
            (true, false) => None,
        }
    }

    /// Reports a changed LUN map to initiators that asked to be notified of asynchronous events
    /// (SRP_AER_REQ; SRP 16A, 6.12), on one of each session's connections on this core.
    pub(crate) fn report_event(&mut self, target: &str) {
        let mut told = Vec::new();
        for index in 0..self.slots.len() {
            let Some(connection) = &mut self.slots[index] else { continue };
            let Some(session) = connection.session_id() else { continue };
            let wants = connection.login().req_flags & LoginReq::FLAG_AER_SOLICITED != 0;
            let eligible = connection.is_live()
                && connection.peer().target == target
                && wants
                && connection.credits().may_ask()
                && !told.contains(&session);
            if !eligible {
                continue;
            }
            told.push(session);
            mark(Mark::EventReported);
            let conn = connection.id();
            let req_lim_delta = connection.credits().ask();
            let mut sense = [0; 18];
            let len = Attention::LunsChanged.sense().emit(false, &mut sense);
            let mut iu = [0; AerReq::LEN_MIN + 18];
            let lun = Lun::default();
            let sense = &sense[..len];
            let aer = AerReq { tag: [0; 8], solicited: true, req_lim_delta, lun, sense };
            let len = aer.emit(&mut iu);
            self.say(conn, &iu[..len], true);
        }
    }

    /// Answers a task management function with a response code, if the connection still answers.
    pub(crate) fn answer_function(
        &mut self,
        conn: ConnId,
        recv: Recv,
        tag: SrpTag,
        sol_not: SolNot,
        code: u8,
    ) {
        let (connection, fabric) = self.split(conn);
        fabric.repost(conn, recv);
        if !connection.answers() {
            return;
        }
        let solicited = sol_not.solicits(code == response_code::SUCCESS);
        let rsp = Rsp {
            tag,
            req_lim_delta: connection.credits().grant(),
            solicited,
            status: 0,
            residual: None,
            sense: &[],
            response_code: Some(code),
        };
        let mut iu = [0; Rsp::LEN_MIN + 4];
        let len = rsp.emit(&mut iu);
        self.say(conn, &iu[..len], solicited);
    }

    /// A part of the round in which all peers are asked whether they are there is due.
    #[inline]
    pub(crate) fn is_probe_due(&self, now: Instant) -> bool {
        self.probes.is_due(now)
    }

    /// Asks some peers whether they are there.
    #[cold]
    pub(crate) fn probe_some(&mut self, now: Instant) {
        let Connections { fabric, slots, probes, .. } = self;
        let part = probes.part(now, slots.len());
        for connection in slots[part].iter().flatten().filter(|connection| connection.answers()) {
            mark(Mark::Probed);
            fabric.probe(connection.id());
        }
    }

    /// Asks a peer whether it is there.
    pub(crate) fn probe(&mut self, conn: ConnId) {
        if self.find(conn).is_some_and(Connection::answers) {
            mark(Mark::Probed);
            self.fabric.probe(conn);
        }
    }

    /// Publishes what has been enqueued.
    #[inline]
    pub(crate) fn flush(&mut self) {
        self.fabric.flush();
    }

    /// The core may sleep until an event. Leaving connections have deadlines, and commands wait for
    /// buffers that come back with events: neither raises a wake-up of its own.
    pub(crate) fn may_sleep(&self) -> bool {
        self.ending == 0 && self.ready.is_empty()
    }
}

/// The tag of an information unit that belongs to no request.
#[inline]
pub(crate) fn own_tag(conn: ConnId) -> Tag {
    Tag::new(OWN, conn.index)
}

/// The tag of an information unit that belongs to no request.
#[inline]
pub(crate) fn is_own(tag: Tag) -> bool {
    tag.index() == OWN as usize
}
