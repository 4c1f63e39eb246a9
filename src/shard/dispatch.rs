//! What a core tells the control plane, and what it does for it.

use std::collections::BTreeMap;

use transport::{CloseReason, Fabric};

use super::coverage::{Met, met};
use super::lun::Device;
use super::message::{
    Action, ActionError, Answer, AttentionAt, CoreMessage, Message, Report, Token,
};
use super::nexus::REGISTRY_CORE;
use super::shard::Shard;
use crate::scsi::attention::Attention;

/// Rare events since the start, by name.
#[derive(Default)]
pub(super) struct Counters {
    named: BTreeMap<&'static str, u64>,
    closed: BTreeMap<CloseReason, u64>,
}

impl Counters {
    /// One more.
    pub(super) fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// Some more.
    pub(super) fn add(&mut self, name: &'static str, by: u64) {
        *self.named.entry(name).or_default() += by;
    }

    /// A channel ended.
    pub(super) fn closed(&mut self, reason: CloseReason) {
        *self.closed.entry(reason).or_default() += 1;
    }
}

impl<F: Fabric> Shard<F> {
    #[inline(never)]
    pub(super) fn on_message(&mut self, message: Message) {
        match message {
            Message::Control { token, action } => self.on_action(token, action),
            Message::Core(message) => self.on_core_message(message),
        }
    }

    fn on_core_message(&mut self, message: CoreMessage) {
        match message {
            CoreMessage::LoginAsk(ask) => {
                let registry = self.registry.as_mut().expect("asked on the registry's core");
                registry.on_login(ask, &mut self.out);
            }
            CoreMessage::LoginGranted { conn, nexus, others } => {
                self.on_login_granted(conn, nexus, others);
            }
            CoreMessage::LoginRefused { conn, reason } => self.on_login_refused(conn, reason),
            CoreMessage::CloseChannel { conn } => {
                if self.connections[conn.index as usize].as_ref().is_some_and(|c| c.id == conn) {
                    self.close(conn, CloseReason::Local);
                }
            }
            CoreMessage::LinkDead { channel } => {
                let registry = self.registry.as_ref().expect("told to the registry's core");
                registry.on_link_dead(channel, &mut self.out);
            }
            CoreMessage::Probe { conn } => self.on_probe(conn),
            CoreMessage::ChannelGone { channel } => {
                let registry = self.registry.as_mut().expect("told to the registry's core");
                if let Some(session) = registry.on_channel_gone(channel, &mut self.out) {
                    self.luns.release_reservations(session);
                }
            }
            CoreMessage::Attention { at, bits, except } => {
                let registry = self.registry.as_mut().expect("told to the registry's core");
                registry.on_attention(&at, bits, except);
            }
            CoreMessage::Abort { scope, from, task } => self.on_abort(scope, from, task),
            CoreMessage::Aborted { task, count } => self.on_aborted(task, count),
        }
    }

    fn on_action(&mut self, token: Token, action: Action) {
        match action {
            Action::CreateTarget(spec) => self.luns.create_target(spec),
            Action::DeleteTarget { target } => {
                let Some(index) = self.luns.target_index(&target) else {
                    return self.answer(token);
                };
                self.deletes.push((token, index));
                self.leave_where(|connection| connection.target == index);
                return self.check_deletes();
            }
            Action::MapLun { target, lun, lu, read_only } => {
                if let Err(error) = self.luns.map(&target, lun, lu, read_only) {
                    return self.refuse(token, error.to_string());
                }
            }
            Action::UnmapLun { target, lun } => return self.on_unmap(token, &target, lun),
            Action::LunsChanged { target } => {
                self.report_event(&target);
                self.raise(AttentionAt::Target(target), Attention::LunsChanged);
            }
            Action::CapacityChanged { bdev } => {
                self.on_medium(&bdev, Some(Attention::CapacityChanged));
            }
            Action::MediumChanged { bdev, ready } => {
                self.on_medium(&bdev, ready.then_some(Attention::MediumChanged));
            }
            Action::CloseBdev { bdev } => {
                let report = self.luns.close(bdev.name());
                return self.answer_with(token, report);
            }
            Action::RateLimits { bdev, limited } => self.on_rate_limits(&bdev, limited),
            Action::SetHistogram { bdev, enable, only } => {
                self.luns.set_histogram(&bdev, enable, only);
            }
            Action::Histogram { bdev } => {
                let histogram = self.luns.histogram(&bdev);
                return self.answer_with(token, Report { histogram, ..Report::default() });
            }
            Action::Disconnect { session } => {
                if let Some(registry) = &mut self.registry {
                    registry.end(session);
                }
                self.leave_where(|connection| connection.session() == Some(session));
            }
            Action::SetIuSizes { iu_bytes_max, rsp_bytes_max } => {
                (self.limits.iu_bytes_max, self.limits.rsp_bytes_max) =
                    (iu_bytes_max, rsp_bytes_max);
                self.limits.check();
            }
            Action::ResetIoCounts { bdevs, sums } => self.luns.reset_counts(&bdevs, sums),
            Action::Report => {
                let report = self.report();
                return self.answer_with(token, report);
            }
            Action::Shutdown => {
                self.stopping = true;
                self.leave_where(|_| true);
                self.shutdowns.push(token);
                return self.check_shutdowns();
            }
            Action::End => self.ended = true,
        }
        self.answer(token);
    }

    /// A device is not what it was: looks again, and tells the sessions.
    fn on_medium(&mut self, bdev: &str, attention: Option<Attention>) {
        self.luns.refresh(bdev);
        if let Some(attention) = attention {
            self.raise(AttentionAt::Luns(self.luns.places_of_bdev(bdev)), attention);
        }
    }

    /// A device that this core can't use.
    fn refuse(&mut self, token: Token, reason: String) {
        let core = self.out.core();
        let result = Err(ActionError::OpenChannel { core, reason });
        self.out.answer(Answer { core, token, result });
    }

    /// Answered when no command uses the mapping any more.
    fn on_unmap(&mut self, token: Token, target: &str, lun: u16) {
        self.meet_unmap(lun);
        let index = self.luns.target_index(target);
        if let Some(mapping) = index.and_then(|index| self.luns.find(index, lun)) {
            self.release_unmapped(mapping);
        }
        if self.luns.unmap(target, lun, token) {
            self.answer(token);
        }
    }

    /// Answers those who wait until nothing is left here.
    pub(super) fn check_shutdowns(&mut self) {
        if self.requests.is_empty() && self.connections.iter().all(Option::is_none) {
            for token in std::mem::take(&mut self.shutdowns) {
                self.answer(token);
            }
        }
    }

    /// Every core is told of a change; the registry's core alone tells the sessions, once.
    fn raise(&mut self, at: AttentionAt, attention: Attention) {
        if let Some(registry) = &mut self.registry {
            registry.on_attention(&at, attention.bit(), None);
        }
        debug_assert!(self.out.core() != REGISTRY_CORE || self.registry.is_some());
    }

    /// A LUN is taken away from the commands that use it.
    fn meet_unmap(&self, lun: u16) {
        if cfg!(debug_assertions) {
            let users = self.requests.iter().filter(|(_, request)| request.lun == Some(lun));
            users.for_each(|(_, request)| met(request.phase, Met::Unmap));
        }
    }

    fn leave_where(
        &mut self,
        chosen: impl Fn(&super::connections::connection::Connection) -> bool,
    ) {
        for index in 0..self.connections.len() {
            if let Some(connection) = &self.connections[index]
                && chosen(connection)
            {
                let conn = connection.id;
                self.leave(conn);
            }
        }
    }

    fn report(&self) -> Report {
        let credits = self.limits.credits;
        let connections = || self.connections.iter().flatten();
        Report {
            channels: connections().filter_map(|c| c.report(credits)).collect(),
            buffers: self.pool.counts().collect(),
            slots_total: self.requests.capacity() as u32,
            slots_used: self.requests.len() as u32,
            waiting: connections().map(|c| c.waiting.len() as u32 + c.held).sum(),
            bdevs: self.luns.devices().map(Device::named_counts).collect(),
            histogram: None,
            closed: self.counters.closed.iter().map(|(reason, n)| (*reason, *n)).collect(),
            counters: self.counters.named.iter().map(|(name, n)| (*name, *n)).collect(),
        }
    }
}
