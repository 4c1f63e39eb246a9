//! Task management (SAM-5 clause 7; SRP 16A, 6.7).
//!
//! A function is carried out by the core that received it, on all cores: each marks the commands in
//! scope and answers when none of them can change data any more. Only then is the initiator
//! answered. Commands that wait are dropped at once; one that a device or the fabric holds is
//! dropped when it comes back, never cancelled under the hardware.

use std::collections::VecDeque;

use reactor::{Slab, Tag};
use transport::srp::{Cmd, Rsp, SolNot, Tmf, TskMgmt, response_code};
use transport::{ConnId, Fabric, Recv};

use super::command::request::{Header, Phase, Request};
use super::connections::connection::State;
use super::coverage::{At, Mark, Met, mark, met};
use super::message::{AbortScope, AttentionAt, ChannelAt, CoreMessage};
use super::nexus::REGISTRY_CORE;
use super::shard::Shard;
use crate::limits::TASK_MANAGEMENT_MAX;
use crate::scsi::attention::Attention;

/// Aborts under way on a core at a time: one bit each in [`Request::aborts`].
const ABORTS_MAX: usize = 64;

/// A function that this core received and all cores carry out.
struct Function {
    conn: ConnId,
    /// `None` once its channel is gone: then nobody is answered.
    recv: Option<Recv>,
    tag: [u8; 8],
    sol_not: SolNot,
    cores_left: usize,
}

/// This core's part of a function.
#[derive(Clone, Copy)]
struct Abort {
    from: usize,
    task: Tag,
    left: u32,
    count: u32,
}

/// Task management on one core.
pub(super) struct Tasks {
    functions: Slab<Function>,
    /// Received functions that wait until one of these has ended, oldest first.
    waiting: VecDeque<(ConnId, Recv)>,
    aborts: [Option<Abort>; ABORTS_MAX],
}

impl Tasks {
    /// Nothing under way.
    pub(super) fn new() -> Tasks {
        Tasks {
            functions: Slab::new(TASK_MANAGEMENT_MAX),
            waiting: VecDeque::new(),
            aborts: [None; ABORTS_MAX],
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Tasks::new()
    }
}

impl<F: Fabric> Shard<F> {
    /// SRP_TSK_MGMT arrived.
    pub(super) fn on_task_management(&mut self, conn: ConnId, recv: Recv) {
        if self.tasks.functions.is_full() {
            mark(Mark::FunctionWaits);
            self.connection(conn).in_flight += 1;
            return self.tasks.waiting.push_back((conn, recv));
        }
        self.start_function(conn, recv);
    }

    fn start_function(&mut self, conn: ConnId, recv: Recv) {
        let Ok(request) = TskMgmt::parse(self.fabric.iu(conn, &recv)) else {
            return self.violation(conn, Some(recv), "malformed_iu");
        };
        self.counters.count("task_management");
        let target = self.connection(conn).target;
        let session = self.connection(conn).session().expect("live channels have a session");
        let lun = request.lun.number().unwrap_or(u16::MAX);
        let mapping = request.lun.number().and_then(|lun| self.luns.find(target, lun));
        let unit = mapping.map(|mapping| self.luns.mapping(mapping).lu.id);
        let scope = match (request.tmf(), unit) {
            (Some(Tmf::AbortTask), _) => {
                let (tag, core) = (request.task_tag, self.out.core());
                let only = self.has_command(conn, tag).then_some(ChannelAt { core, conn });
                AbortScope::Task { session, tag, only }
            }
            (Some(Tmf::AbortTaskSet), Some(unit)) => AbortScope::TaskSet { session, lun, unit },
            (Some(Tmf::ClearTaskSet | Tmf::LunReset), Some(unit)) => {
                AbortScope::Unit { session, lun, unit }
            }
            (Some(Tmf::AbortTaskSet | Tmf::ClearTaskSet | Tmf::LunReset), None) => {
                return self.answer_function(conn, recv, &request, response_code::FAILED);
            }
            (Some(Tmf::ClearAca) | None, _) => {
                return self.answer_function(conn, recv, &request, response_code::NOT_SUPPORTED);
            }
        };
        let function = Function {
            conn,
            recv: Some(recv),
            tag: request.tag,
            sol_not: request.sol_not,
            cores_left: self.out.cores(),
        };
        let task = self.tasks.functions.insert(function);
        let task = task.unwrap_or_else(|_| unreachable!("there was room"));
        self.connection(conn).in_flight += 1;
        self.raise_for(request.tmf(), unit, session);
        if let (Some(Tmf::LunReset), Some(mapping)) = (request.tmf(), mapping) {
            self.reset_device(mapping);
        }
        let from = self.out.core();
        for core in 0..self.out.cores() {
            self.out.send(core, CoreMessage::Abort { scope, from, task });
        }
    }

    /// True when a command of this channel has the tag and has not been answered.
    fn has_command(&self, conn: ConnId, tag: [u8; 8]) -> bool {
        let connection = self.connections[conn.index as usize].as_ref().expect("live channel");
        let waits = connection.waiting.iter().any(|recv| {
            let cmd = Cmd::parse(self.fabric.iu(conn, recv), connection.imm_data_offset);
            cmd.is_ok_and(|cmd| cmd.tag == tag)
        });
        let same = |request: &Request| {
            request.conn == conn && request.tag == tag && request.phase != Phase::Replying
        };
        waits || self.holds(conn, tag) || self.requests.iter().any(|(_, request)| same(request))
    }

    /// Unit attentions of a function (SAM-5 5.14): sent first, so that every core has them before
    /// the initiator is answered.
    fn raise_for(&mut self, function: Option<Tmf>, unit: Option<u32>, session: u64) {
        let (bits, except) = match function {
            Some(Tmf::LunReset) => (Attention::PowerOn.bit(), None),
            Some(Tmf::ClearTaskSet) => (Attention::CommandsCleared.bit(), Some(session)),
            _ => return,
        };
        let Some(unit) = unit else { return };
        let at = AttentionAt::Luns(self.luns.places_of(unit));
        self.out.send(REGISTRY_CORE, CoreMessage::Attention { at, bits, except });
    }

    /// Another core, or this one, wants commands ended here.
    pub(super) fn on_abort(&mut self, scope: AbortScope, from: usize, task: Tag) {
        let Some(number) = self.tasks.aborts.iter().position(Option::is_none) else {
            // All bits are in use: their commands come back first.
            let core = self.out.core();
            return self.out.send(core, CoreMessage::Abort { scope, from, task });
        };
        let mut abort = Abort { from, task, left: 0, count: 0 };
        for index in 0..self.connections.len() {
            abort.count += self.abort_waiting(index, scope);
        }
        abort.count += self.abort_held(scope);
        let (connections, luns, core) = (&self.connections, &self.luns, self.out.core());
        for (_, request) in self.requests.iter_mut() {
            let connection = connections[request.conn.index as usize].as_ref();
            let subject = Subject {
                channel: ChannelAt { core, conn: request.conn },
                session: connection.and_then(|connection| connection.session()),
                lun: request.lun,
                unit: request.mapping.map(|mapping| luns.mapping(mapping).lu.id),
                tag: request.tag,
            };
            if subject.is_in(scope) {
                met(request.phase, Met::Abort);
            }
            if request.phase != Phase::Replying && subject.is_in(scope) {
                request.aborts |= 1 << number;
                abort.left += 1;
                abort.count += 1;
            }
        }
        if abort.left == 0 {
            let (task, count) = (abort.task, abort.count);
            return self.out.send(from, CoreMessage::Aborted { task, count });
        }
        self.tasks.aborts[number] = Some(abort);
    }

    /// Drops a channel's waiting commands in scope; their credits are owed.
    fn abort_waiting(&mut self, index: usize, scope: AbortScope) -> u32 {
        let core = self.out.core();
        let Some(connection) = &mut self.connections[index] else { return 0 };
        let (conn, session, target) = (connection.id, connection.session(), connection.target);
        if !scope.concerns(session) {
            return 0;
        }
        let mut count = 0;
        let paid = connection.paid;
        for place in 0..connection.waiting.len() as u32 {
            let recv = connection.waiting.pop_front().expect("counted");
            let cmd = Cmd::parse(self.fabric.iu(conn, &recv), connection.imm_data_offset);
            let hit = cmd.is_ok_and(|cmd| {
                let mapping = cmd.lun.number().and_then(|lun| self.luns.find(target, lun));
                let unit = mapping.map(|mapping| self.luns.mapping(mapping).lu.id);
                let (lun, tag) = (cmd.lun.number(), cmd.tag);
                Subject { channel: ChannelAt { core, conn }, session, lun, unit, tag }.is_in(scope)
            });
            if hit {
                mark(Mark::AbortedWaiting);
                met(At::Waiting, Met::Abort);
                self.fabric.repost(conn, recv);
                connection.owed += 1;
                connection.short = None;
                connection.paid -= u32::from(place < paid);
                count += 1;
            } else {
                connection.waiting.push_back(recv);
            }
        }
        if count > 0 && self.connection(conn).in_flight == 0 {
            self.on_idle(conn);
        }
        count
    }

    /// An aborted command has come back and is gone.
    pub(super) fn settle_aborts(&mut self, mut bits: u64) {
        while bits != 0 {
            let number = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let slot = &mut self.tasks.aborts[number];
            let abort = slot.as_mut().expect("its commands have not all come back");
            abort.left -= 1;
            if abort.left == 0 {
                let Abort { from, task, count, .. } = *abort;
                *slot = None;
                self.out.send(from, CoreMessage::Aborted { task, count });
            }
        }
    }

    /// A core has finished its part.
    pub(super) fn on_aborted(&mut self, task: Tag, count: u32) {
        self.counters.add("commands_aborted", u64::from(count));
        let function = self.tasks.functions.get_mut(task).expect("every core answers once");
        function.cores_left -= 1;
        if function.cores_left > 0 {
            return;
        }
        let function = self.tasks.functions.remove(task).expect("looked at above");
        let conn = function.conn;
        if let Some(recv) = function.recv {
            let header =
                Header { tag: function.tag, sol_not: function.sol_not, lun: None, mapping: None };
            self.send_response(conn, recv, header, response_code::SUCCESS);
        }
        self.end_function(conn);
        while !self.tasks.functions.is_full()
            && let Some((conn, recv)) = self.tasks.waiting.pop_front()
        {
            self.start_function(conn, recv);
            self.end_function(conn);
        }
    }

    fn end_function(&mut self, conn: ConnId) {
        let connection = self.connection(conn);
        connection.in_flight -= 1;
        if connection.in_flight == 0 && connection.state != State::Live {
            self.on_idle(conn);
        }
    }

    /// Answers a function that is not carried out.
    fn answer_function(&mut self, conn: ConnId, recv: Recv, request: &TskMgmt, code: u8) {
        mark(Mark::FunctionRefused);
        let header =
            Header { tag: request.tag, sol_not: request.sol_not, lun: None, mapping: None };
        self.send_response(conn, recv, header, code);
    }

    fn send_response(&mut self, conn: ConnId, recv: Recv, header: Header, code: u8) {
        self.fabric.repost(conn, recv);
        let connection = self.connection(conn);
        if !connection.answers() {
            return;
        }
        let solicited = header.sol_not.solicits(code == response_code::SUCCESS);
        let rsp = Rsp {
            tag: header.tag,
            req_lim_delta: connection.grant(),
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

    /// Functions of a channel that is gone are still carried out, but nobody is answered. Those
    /// that wait are dropped.
    pub(super) fn drop_functions(&mut self, conn: ConnId) {
        for (_, function) in self.tasks.functions.iter_mut() {
            if function.conn == conn
                && let Some(recv) = function.recv.take()
            {
                mark(Mark::FunctionDropped);
                self.fabric.repost(conn, recv);
            }
        }
        for _ in 0..self.tasks.waiting.len() {
            let (of, recv) = self.tasks.waiting.pop_front().expect("counted");
            if of != conn {
                self.tasks.waiting.push_back((of, recv));
                continue;
            }
            mark(Mark::FunctionDropped);
            self.fabric.repost(conn, recv);
            self.connection(conn).in_flight -= 1;
        }
    }
}

/// What a scope is compared with: a command that waits or runs.
pub(super) struct Subject {
    pub(super) channel: ChannelAt,
    pub(super) session: Option<u64>,
    pub(super) lun: Option<u16>,
    pub(super) unit: Option<u32>,
    pub(super) tag: [u8; 8],
}

impl Subject {
    pub(super) fn is_in(&self, scope: AbortScope) -> bool {
        match scope {
            AbortScope::Task { session, tag, only } => {
                self.session == Some(session)
                    && self.tag == tag
                    && only.is_none_or(|channel| channel == self.channel)
            }
            AbortScope::TaskSet { session, lun, unit } => {
                self.session == Some(session) && (self.unit == Some(unit) || self.lun == Some(lun))
            }
            AbortScope::Unit { session, lun, unit } => {
                self.unit == Some(unit) || (self.session == Some(session) && self.lun == Some(lun))
            }
        }
    }
}
