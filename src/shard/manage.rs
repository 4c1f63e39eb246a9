//! Task management (SAM-5 clause 7; SRP 16A, 6.7).
//!
//! A function is carried out by the core that received it, on all cores: each marks the commands in
//! scope and answers when none of them can change data any more. Only then is the initiator
//! answered. Commands that wait are dropped at once; one that a device or the fabric holds is
//! dropped when it comes back, never cancelled under the hardware.

use std::sync::Arc;

use reactor::Tag;
use transport::srp::{Cmd, Tmf, TskMgmt, response_code};
use transport::{ConnId, Fabric, Recv};

use super::Shard;
use super::connections::connection::Connection;
use super::connections::table::Connections;
use super::coverage::{Mark, mark};
use super::message::{AbortScope, Asker, Change, ChannelAt, CoreMessage, Decide, Nexus};
use super::names::{CoreId, MappingKey, SessionId, SrpTag, UnitId};
use super::qos::queue::RateQueues;
use super::sessions::registry::REGISTRY_CORE;
use super::tasks::abort::{Abort, Subject};
use super::tasks::functions::Function;
use super::units::map::Luns;
use crate::scsi::attention::Attention;

impl<F: Fabric> Shard<F> {
    /// SRP_TSK_MGMT arrived.
    pub(super) fn on_task_management(&mut self, conn: ConnId, recv: Recv) {
        if self.tasks.is_full() {
            self.connections.get_mut(conn).begin();
            return self.tasks.wait(conn, recv);
        }
        self.start_function(conn, recv);
    }

    fn start_function(&mut self, conn: ConnId, recv: Recv) {
        let Ok(request) = TskMgmt::parse(self.connections.iu(conn, &recv)) else {
            return self.violation(conn, Some(recv), "malformed_iu");
        };
        self.log.count("task_management");
        let connection = self.connections.get(conn);
        let session = connection.session_id().expect("live connections have a session");
        let target = connection.target();
        let mapping = known(connection, &self.luns, request.lun.number());
        let unit = mapping.map(|mapping| self.luns.mapping(mapping).unit());
        let (lun, tag) = (request.lun.number(), request.task_tag);
        let is_here = request.tmf() == Some(Tmf::AbortTask)
            && (self.commands.requests().has(conn, lun, tag)
                || has_waiting(&self.connections, &self.queues, conn, (lun, tag)));
        let only = is_here.then_some(ChannelAt { core: self.out.core(), conn });
        let scope = match scope_of(&request, session, unit, only) {
            Ok(scope) => scope,
            Err(code) => return self.refuse_function(conn, recv, &request, code),
        };
        let (tag, sol_not) = (request.tag, request.sol_not);
        let reset = unit.filter(|_| request.tmf() == Some(Tmf::LunReset));
        let parts_left = self.out.cores().len() + usize::from(reset.is_some());
        let task = self.tasks.begin(Function { conn, recv: Some(recv), tag, sol_not, parts_left });
        self.connections.get_mut(conn).begin();
        if let (Some((bits, except)), Some(unit)) = (attention_of(request.tmf(), session), unit) {
            let at = self.luns.places_of(unit);
            self.out.send(REGISTRY_CORE, CoreMessage::Attention { at, bits, except });
        }
        let from = self.out.core();
        if let (Some(unit), Some(mapping)) = (reset, mapping) {
            self.luns.reset_unit(mapping);
            let target = Arc::clone(self.luns.target(target).spec());
            let (nexus, change) = (Nexus { session, target }, Change::Reset);
            let asker = Asker::Function { core: from, task };
            self.out.ask_home(Decide { unit, change, nexus, asker });
        }
        for core in self.out.cores() {
            self.out.send(core, CoreMessage::Abort { scope, from, task });
        }
    }

    /// Another core, or this one, wants commands ended here.
    pub(super) fn on_abort(&mut self, scope: AbortScope, from: CoreId, task: Tag) {
        let core = self.out.core();
        let Some(number) = self.commands.requests_mut().aborts().free() else {
            // All bits are in use: their commands come back first.
            return self.out.send(core, CoreMessage::Abort { scope, from, task });
        };
        let luns = &self.luns;
        let hit = |connection: &Connection, iu: &[u8]| {
            subject(core, luns, connection, iu).is_some_and(|subject| subject.is_in(scope))
        };
        let mut count = 0;
        let concerned = |connection: &Connection| scope.concerns(connection.session_id());
        for conn in self.connections.names(concerned) {
            count += self.connections.abort_waiting(conn, hit);
        }
        count += self.queues.abort(&mut self.connections, self.commands.now(), hit);
        let abort = Abort { from, task, left: 0, count };
        let parts = (&self.connections, luns);
        self.commands.requests_mut().abort(parts, core, scope, (number, abort));
    }

    /// A core has finished its part.
    pub(super) fn on_aborted(&mut self, task: Tag, count: u32) {
        self.log.add("commands_aborted", count.into());
        let Some(function) = self.tasks.end_part(task) else { return };
        let Function { conn, recv, tag, sol_not, .. } = function;
        if let Some(recv) = recv {
            let code = response_code::SUCCESS;
            self.connections.answer_function(conn, recv, tag, sol_not, code);
        }
        self.connections.end_function(conn);
        while let Some((conn, recv)) = self.tasks.next_waiting() {
            self.start_function(conn, recv);
            self.connections.end_function(conn);
        }
    }

    /// Answers a function that is not carried out.
    fn refuse_function(&mut self, conn: ConnId, recv: Recv, request: &TskMgmt, code: u8) {
        mark(Mark::FunctionRefused);
        let (tag, sol_not) = (request.tag, request.sol_not);
        self.connections.answer_function(conn, recv, tag, sol_not, code);
    }
}

/// What a function ends, or the response code of one that is not carried out. `only`: the channel
/// that asked, if it has the command that ABORT TASK names.
fn scope_of(
    request: &TskMgmt,
    session: SessionId,
    unit: Option<UnitId>,
    only: Option<ChannelAt>,
) -> Result<AbortScope, u8> {
    let (tag, named) = (request.task_tag, request.lun.number());
    let lun = named.unwrap_or(u16::MAX);
    match (request.tmf(), unit) {
        (Some(Tmf::AbortTask), _) => Ok(AbortScope::Task { session, lun: named, tag, only }),
        (Some(Tmf::AbortTaskSet), Some(unit)) => Ok(AbortScope::TaskSet { session, lun, unit }),
        (Some(Tmf::ClearTaskSet | Tmf::LunReset), Some(unit)) => {
            Ok(AbortScope::Unit { session, lun, unit })
        }
        (Some(Tmf::AbortTaskSet | Tmf::ClearTaskSet | Tmf::LunReset), None) => {
            Err(response_code::FAILED)
        }
        (Some(Tmf::ClearAca) | None, _) => Err(response_code::NOT_SUPPORTED),
    }
}

/// The mapping of a LUN, unless the session knows another unit there: then a function is not for
/// the unit that is there now.
fn known(connection: &Connection, luns: &Luns, lun: Option<u16>) -> Option<MappingKey> {
    let asks = |lun| connection.session().is_some_and(|session| session.must_ask(lun));
    lun.filter(|lun| !asks(*lun)).and_then(|lun| luns.find(connection.target(), lun))
}

/// Unit attentions of a function (SAM-5 5.14), and the session that is not told. They are sent
/// first, so that every core has them before the initiator is answered.
fn attention_of(function: Option<Tmf>, session: SessionId) -> Option<(u16, Option<SessionId>)> {
    match function {
        Some(Tmf::LunReset) => Some((Attention::PowerOn.bit(), None)),
        Some(Tmf::ClearTaskSet) => Some((Attention::CommandsCleared.bit(), Some(session))),
        _ => None,
    }
}

/// A command that waits, as scopes see it; `None` for one with wrong fields.
fn subject(core: CoreId, luns: &Luns, connection: &Connection, iu: &[u8]) -> Option<Subject> {
    let cmd = Cmd::parse(iu, connection.agreed().imm_data_offset).ok()?;
    let lun = cmd.lun.number();
    let mapping = lun.and_then(|lun| luns.find(connection.target(), lun));
    Some(Subject {
        channel: ChannelAt { core, conn: connection.id() },
        session: connection.session_id(),
        lun,
        unit: mapping.map(|mapping| luns.mapping(mapping).unit()),
        tag: cmd.tag,
    })
}

/// True when a command of a connection has the LUN and the tag and waits.
fn has_waiting<F: Fabric>(
    connections: &Connections<F>,
    queues: &RateQueues,
    conn: ConnId,
    (lun, tag): (Option<u16>, SrpTag),
) -> bool {
    let connection = connections.get(conn);
    let offset = connection.agreed().imm_data_offset;
    connection.queue().iter().chain(queues.of(conn)).any(|recv| {
        let cmd = Cmd::parse(connections.iu(conn, recv), offset);
        cmd.is_ok_and(|cmd| cmd.lun.number() == lun && cmd.tag == tag)
    })
}
