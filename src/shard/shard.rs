//! One core's whole target.
//!
//! [`Shard::turn`] is the loop body: messages, what the fabric brought, new commands, what the
//! devices finished, and at the end one flush of everything. It owns the core's connections,
//! request slots, buffers and device channels, and shares nothing with other cores but values in
//! mailboxes and the unit attentions of sessions.
//!
//! The wait queue in front of admission can't overflow: each entry holds a posted receive. After
//! admission no step can fail for want of a resource.
//!
//! A command costs no allocation, no lock and no system call of its own.

use std::collections::VecDeque;

use bdev::{CoreContext, IoDone};
use reactor::pool::{Buf, Pool};
use reactor::{Batch, Instant, Lines, Progress, Service, Slots, Tag};
use transport::srp::{DirectCmd, Opcode, Rsp};
use transport::{CloseReason, ConnId, Event, Fabric, Recv, RemoteSeg};

use super::command::request::Request;
use super::connections::connection::{Connection, State};
use super::coverage::{Mark, mark};
use super::dispatch::Counters;
use super::lun::Luns;
use super::message::{Answer, Message, Report, Token};
use super::nexus::{REGISTRY_CORE, Registry};
use super::outbox::Outbox;
use super::qos::queue::Throttle;
use super::task::Tasks;
use crate::limits::{Limits, SEGMENTS_MAX, SENSE_BYTES_MAX};

/// Events taken per turn. With the slots, which bound completions, and [`Limits::turn_bytes`], it
/// bounds the work of a turn.
const BATCH: usize = 256;

/// One core's target over a fabric.
pub struct Shard<F: Fabric> {
    pub(super) fabric: F,
    pub(super) pool: Pool,
    pub(super) limits: Limits,
    pub(super) luns: Luns,
    pub(super) out: Outbox,
    pub(super) requests: Slots<Request>,
    pub(super) connections: Vec<Option<Connection>>,
    /// Channels with waiting commands, in the order in which they are served.
    pub(super) ready: VecDeque<u32>,
    /// Buffers of at least so many bytes are kept for the first of them this turn.
    pub(super) reserved: Option<usize>,
    /// On [`REGISTRY_CORE`] only.
    pub(super) registry: Option<Registry>,
    pub(super) tasks: Tasks,
    /// Commands that wait for rate limits.
    pub(super) throttle: Throttle,
    pub(super) counters: Counters,
    /// Log lines of logins and ends.
    pub(super) news: Lines,
    /// Log lines of broken rules.
    pub(super) faults: Lines,
    /// Segments of the reply being built.
    pub(super) segs: Vec<RemoteSeg>,
    /// Response being built; the longest.
    pub(super) rsp: Vec<u8>,
    /// Channels that are leaving: their deadlines are looked at every turn.
    pub(super) leaving: u32,
    /// The next round of probes, and where the one under way goes on.
    pub(super) probe_at: Instant,
    pub(super) probe_next: usize,
    /// DELETE TARGET answers that wait for the last channel.
    pub(super) deletes: Vec<(Token, usize)>,
    pub(super) stopping: bool,
    /// SHUTDOWN answers that wait until nothing is left.
    pub(super) shutdowns: Vec<Token>,
    /// Told to end.
    pub(super) ended: bool,
    pub(super) now: Instant,
    /// Bytes that the commands begun in this turn move.
    pub(super) turn_bytes: u64,
    events: Batch<Event>,
    done: Batch<IoDone>,
}

impl<F: Fabric> Shard<F> {
    /// A target without targets: the control plane sends them as messages.
    pub fn new(fabric: F, pool: Pool, limits: Limits, context: CoreContext, out: Outbox) -> Self {
        let connections = fabric.connections_max();
        Shard {
            pool,
            luns: Luns::new(context),
            registry: (out.core() == REGISTRY_CORE).then(Registry::default),
            out,
            requests: Slots::new(limits.slots, Request::vacant),
            connections: (0..connections).map(|_| None).collect(),
            ready: VecDeque::with_capacity(connections),
            reserved: None,
            tasks: Tasks::new(),
            throttle: Throttle::default(),
            counters: Counters::default(),
            news: Lines::default(),
            faults: Lines::default(),
            segs: Vec::with_capacity(SEGMENTS_MAX),
            rsp: vec![0; Rsp::LEN_MIN + SENSE_BYTES_MAX],
            leaving: 0,
            probe_at: Instant::default(),
            probe_next: 0,
            deletes: Vec::new(),
            stopping: false,
            shutdowns: Vec::new(),
            ended: false,
            now: Instant::default(),
            turn_bytes: 0,
            events: Batch::new(BATCH),
            done: Batch::new(limits.slots),
            limits,
            fabric,
        }
    }

    /// The fabric, for those who build and inspect the shard.
    pub fn fabric(&self) -> &F {
        &self.fabric
    }

    #[inline]
    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { conn, recv } => self.on_received(conn, recv),
            Event::Fetched { tag, buf, ok } => self.on_fetched(tag, buf, ok),
            Event::Replied { tag, buf, ok } => self.on_replied(tag, buf, ok),
            Event::Login { conn } => self.on_login(conn),
            Event::Closed { conn, reason } => self.on_closed(conn, reason),
        }
    }

    /// No more commands begin in this turn.
    #[inline]
    pub(super) fn is_sated(&self) -> bool {
        self.turn_bytes >= self.limits.turn_bytes
    }

    /// A command that has just come may begin: no other waits.
    #[inline(always)]
    fn may_begin(&self) -> bool {
        self.ready.is_empty() && !self.is_sated()
    }

    #[inline]
    fn on_received(&mut self, conn: ConnId, recv: Recv) {
        let cmd = DirectCmd::parse(self.fabric.iu(conn, &recv));
        let recv = match cmd {
            // Nobody waits: no need to stand in a queue of one.
            Some(cmd) if self.may_begin() => match self.begin_transfer(conn, recv, &cmd, 1) {
                Ok(()) => return,
                Err(recv) => recv,
            },
            None if self.may_begin() => match self.write_immediate(conn, recv, 1) {
                Ok(()) => return,
                Err(recv) => recv,
            },
            _ => recv,
        };
        self.on_received_any(conn, recv);
    }

    #[inline(never)]
    fn on_received_any(&mut self, conn: ConnId, recv: Recv) {
        let opcode = Opcode::of(self.fabric.iu(conn, &recv));
        let connection = self.connection(conn);
        if connection.state != State::Live {
            return self.on_received_late(conn, recv);
        }
        match opcode {
            Ok(Opcode::Cmd) => {
                if !connection.spend_credit() {
                    return self.violation(conn, Some(recv), "credit_overrun");
                }
                connection.waiting.push_back(recv);
                if !connection.queued {
                    connection.queued = true;
                    self.ready.push_back(conn.index);
                }
            }
            Ok(Opcode::TskMgmt) => {
                if !connection.spend_credit() {
                    return self.violation(conn, Some(recv), "credit_overrun");
                }
                self.on_task_management(conn, recv);
            }
            Ok(Opcode::ILogout) => {
                self.fabric.repost(conn, recv);
                self.counters.count("logout");
                self.close(conn, CloseReason::Local);
            }
            Ok(Opcode::CredRsp | Opcode::AerRsp) => {
                let was_asking = std::mem::take(&mut connection.asking);
                if !was_asking {
                    return self.violation(conn, Some(recv), "unasked_response");
                }
                self.fabric.repost(conn, recv);
                // What came to be owed meanwhile had to wait for this answer.
                if self.connection(conn).in_flight == 0 {
                    self.on_idle(conn);
                }
            }
            Ok(_) => self.violation(conn, Some(recv), "unexpected_opcode"),
            Err(_) => self.violation(conn, Some(recv), "malformed_iu"),
        }
    }

    /// What arrives while a channel ends: answers to our own requests are fine, the rest is void.
    #[cold]
    fn on_received_late(&mut self, conn: ConnId, recv: Recv) {
        mark(Mark::ReceivedLate);
        self.fabric.repost(conn, recv);
    }

    /// The peer broke the protocol: count it, say so once, and end the channel.
    #[cold]
    pub(super) fn violation(&mut self, conn: ConnId, recv: Option<Recv>, what: &'static str) {
        if let Some(recv) = recv {
            self.fabric.repost(conn, recv);
        }
        self.counters.count(what);
        if let Some(left_out) = self.faults.take(self.now.ns()) {
            let peer = &self.connection(conn).peer;
            let (peer, traddr) = (&*peer.peer, &*peer.traddr);
            tracing::warn!(peer, traddr, what, left_out, "protocol violation");
        }
        self.close(conn, CloseReason::Protocol);
    }

    #[inline]
    pub(super) fn connection(&mut self, conn: ConnId) -> &mut Connection {
        let slot = self.connections[conn.index as usize].as_mut();
        let connection = slot.expect("the fabric names connections that were not released");
        debug_assert_eq!(connection.id, conn);
        connection
    }

    /// Gives a buffer back to whoever owns it.
    #[inline]
    pub(super) fn home(&mut self, buf: Buf) {
        if buf.is_peer() {
            mark(Mark::LentReturned);
            self.fabric.give_back(buf)
        } else {
            self.pool.put(buf)
        }
    }

    pub(super) fn answer(&mut self, token: Token) {
        self.answer_with(token, Report::default());
    }

    pub(super) fn answer_with(&mut self, token: Token, report: Report) {
        let core = self.out.core();
        self.out.answer(Answer { core, token, result: Ok(report) });
    }

    /// The tag of an information unit that belongs to no request.
    pub(super) fn own_tag(conn: ConnId) -> Tag {
        Tag::new(u32::MAX, conn.index)
    }
}

impl<F: Fabric> Service for Shard<F> {
    type Message = Message;

    fn turn(&mut self, now: Instant, inbox: &mut Batch<Message>) -> Progress {
        self.now = now;
        self.turn_bytes = 0;
        let mut progress = Progress::Idle;
        while let Some(message) = inbox.pop() {
            self.on_message(message);
            progress = Progress::Busy;
        }
        self.fabric.poll(now, &mut self.events);
        while let Some(event) = self.events.pop() {
            self.on_event(event);
            progress = Progress::Busy;
        }
        if self.throttle.earliest().is_some_and(|due| due <= now) && self.release_due() {
            progress = Progress::Busy;
        }
        self.reserved = None;
        if !self.ready.is_empty() && self.admit_ready() {
            progress = Progress::Busy;
        }
        self.luns.flush();
        self.luns.poll(now, &mut self.done);
        if !self.done.is_empty() {
            while let Some(done) = self.done.pop() {
                self.on_done(done);
            }
            self.luns.settle();
            progress = Progress::Busy;
        }
        if self.leaving > 0 {
            self.check_leaving();
        }
        if self.probe_at <= now {
            self.probe_some();
        }
        self.fabric.flush();
        self.out.flush();
        progress
    }

    fn arm(&mut self) -> bool {
        // Leaving channels have deadlines, and blocked commands wait for buffers that come back
        // with events: neither raises a wake-up of its own.
        self.leaving == 0
            && self.ready.is_empty()
            && self.out.flush()
            && self.luns.arm()
            && self.fabric.arm()
    }

    fn deadline(&self) -> Option<Instant> {
        self.throttle.earliest()
    }

    fn stopped(&self) -> bool {
        self.ended
    }
}
