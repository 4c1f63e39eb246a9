//! What a core tells the control plane, and what it does for it.

use transport::{CloseReason, Fabric};

use super::Shard;
use super::command::Requests;
use super::connections::table::Connections;
use super::coverage::Met;
use super::log::Log;
use super::message::{Action, ActionError, Answer, CoreMessage, Message, Report, Token};
use super::names::TargetSpec;
use super::sessions::registry::Registry;
use super::unit::LogicalUnit;
use super::units::device::Device;
use super::units::map::Luns;
use crate::scsi::attention::Attention;

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
                on_registry(&mut self.registry).on_login(ask, &mut self.out);
            }
            CoreMessage::LoginGranted { conn, session, others } => {
                self.on_login_granted(conn, session, others);
            }
            CoreMessage::LoginRefused { conn, reason } => self.on_login_refused(conn, reason),
            CoreMessage::CloseChannel { conn } => {
                if self.connections.find(conn).is_some() {
                    self.close(conn, CloseReason::Local);
                }
            }
            CoreMessage::LinkDead { channel } => {
                on_registry(&mut self.registry).on_link_dead(channel, &mut self.out);
            }
            CoreMessage::Probe { conn } => self.connections.probe(conn),
            CoreMessage::ChannelGone { channel } => {
                on_registry(&mut self.registry).on_channel_gone(channel, &mut self.out);
            }
            CoreMessage::Attention { at, bits, except } => {
                on_registry(&mut self.registry).on_attention(&at, bits, except);
            }
            CoreMessage::Abort { scope, from, task } => self.on_abort(scope, from, task),
            CoreMessage::Aborted { task, count } => self.on_aborted(task, count),
            CoreMessage::Home(message) => {
                self.homes.on_message(message, &mut self.luns, &mut self.out);
            }
            CoreMessage::Decided { key, verdict } => {
                let Shard { connections, commands, luns, .. } = self;
                commands.on_decided(connections, luns, key, verdict);
            }
            CoreMessage::NexusGone { session } => {
                on_registry(&mut self.registry).on_nexus_gone(session, &mut self.out);
            }
        }
    }

    fn on_action(&mut self, token: Token, action: Action) {
        match action {
            Action::CreateTarget(spec) => self.luns.create_target(spec),
            Action::DeleteTarget { target } => {
                let Some(index) = self.luns.target_index(&target) else {
                    return self.answer(token);
                };
                self.stops.delete(token, index);
                self.leave_where(|connection| connection.target() == index);
                return self.check_deletes();
            }
            Action::AnnounceLun { target, lun, lu } => self.on_announced(&target, lun, &lu),
            Action::MapLun { target, lun, lu, read_only } => {
                if let Err(error) = self.luns.map(&target, lun, lu, read_only) {
                    return self.refuse(token, error.to_string());
                }
            }
            Action::UnmapLun { target, lun } => return self.on_unmap(token, &target, lun),
            Action::LunsChanged { target } => self.on_luns_changed(target),
            Action::CapacityChanged { bdev } => {
                self.on_medium(&bdev, Some(Attention::CapacityChanged));
            }
            Action::MediumChanged { bdev, ready } => {
                self.on_medium(&bdev, ready.then_some(Attention::MediumChanged));
            }
            Action::CloseBdev { bdev } => {
                let report = close_bdev(&mut self.luns, bdev.name());
                return self.answer_with(token, report);
            }
            Action::RateLimits { bdev, limited } => {
                let units = self.luns.set_limited(&bdev, limited);
                self.queues.on_limits(&mut self.connections, units, limited, self.commands.now());
            }
            Action::Looked { bdev } => self.luns.devices_mut().looked(&bdev),
            Action::SetHistogram { bdev, enable, only } => {
                self.luns.devices_mut().set_histogram(&bdev, enable, only);
            }
            Action::Histogram { bdev } => {
                let histogram = self.luns.devices().histogram(&bdev);
                return self.answer_with(token, Report { histogram, ..Report::default() });
            }
            Action::Disconnect { session } => {
                if let Some(registry) = &mut self.registry {
                    registry.end(session);
                }
                self.leave_where(|connection| connection.session_id() == Some(session));
            }
            Action::SetIuSizes { iu_bytes_max, rsp_bytes_max } => {
                (self.limits.iu_bytes_max, self.limits.rsp_bytes_max) =
                    (iu_bytes_max, rsp_bytes_max);
                self.limits.check();
            }
            Action::ResetIoCounts { bdevs, sums } => {
                self.luns.devices_mut().reset_counts(&bdevs, sums)
            }
            Action::Report => {
                let requests = self.commands.requests();
                let (connections, credits) = (&self.connections, self.limits.credits);
                let report = report(connections, requests, &self.luns, &self.log, credits);
                return self.answer_with(token, report);
            }
            Action::Shutdown => {
                self.stops.shut_down(token);
                self.leave_where(|_| true);
                return self.check_shutdowns();
            }
            Action::End => self.stops.end(),
        }
        self.answer(token);
    }

    /// A unit is about to be mapped.
    fn on_announced(&mut self, target: &str, lun: u16, lu: &LogicalUnit) {
        let tell =
            |registry: &mut Registry, spec: &TargetSpec| registry.on_announced(spec, lun, lu);
        tell_registry(&mut self.registry, &self.luns, target, tell);
    }

    /// The LUN map of a target has changed on every core.
    fn on_luns_changed(&mut self, target: String) {
        tell_registry(&mut self.registry, &self.luns, &target, Registry::on_luns_changed);
        self.connections.report_event(&target);
    }

    /// A device is not what it was: looks again, and tells the sessions.
    fn on_medium(&mut self, bdev: &str, attention: Option<Attention>) {
        self.luns.refresh(bdev);
        // Every core is told; the registry's core alone tells the sessions, once.
        if let (Some(attention), Some(registry)) = (attention, &self.registry) {
            registry.on_attention(&self.luns.places_of_bdev(bdev), attention.bit(), None);
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
        self.commands.requests().meet(Met::Unmap, |request| request.lun() == Some(lun));
        let tell = |registry: &mut Registry, spec: &TargetSpec| registry.on_unmap(spec, lun);
        tell_registry(&mut self.registry, &self.luns, target, tell);
        let index = self.luns.target_index(target);
        let mapping = index.and_then(|index| self.luns.find(index, lun));
        let unit = mapping.map(|mapping| self.luns.mapping(mapping).unit());
        if let (Some(mapping), Some(unit)) = (mapping, unit) {
            self.queues.release_unmapped(&mut self.connections, mapping, unit, self.commands.now());
        }
        let is_done = self.luns.unmap(target, lun, token);
        if let Some(unit) = unit {
            self.homes.on_unmapped(unit, &self.luns, &mut self.out);
        }
        if is_done {
            self.answer(token);
        }
    }
}

/// The registry, on its core: nobody else is sent what is for the registry.
fn on_registry(registry: &mut Option<Registry>) -> &mut Registry {
    registry.as_mut().expect("sent to the registry's core")
}

/// On the registry's core: tells the registry of something at a target.
fn tell_registry(
    registry: &mut Option<Registry>,
    luns: &Luns,
    target: &str,
    tell: impl FnOnce(&mut Registry, &TargetSpec),
) {
    if let (Some(registry), Some(index)) = (registry, luns.target_index(target)) {
        tell(registry, luns.target(index).spec());
    }
}

/// A core's state for reports.
fn report<F: Fabric>(
    connections: &Connections<F>,
    requests: &Requests,
    luns: &Luns,
    log: &Log,
    credits: u32,
) -> Report {
    let (slots_total, slots_used) = requests.counts();
    Report {
        channels: connections.iter().filter_map(|c| c.report(credits)).collect(),
        buffers: requests.buffer_counts(),
        slots_total: slots_total as u32,
        slots_used: slots_used as u32,
        waiting: connections.iter().map(|c| c.queue().len()).sum(),
        bdevs: luns.devices().iter().map(Device::named_counts).collect(),
        histogram: None,
        closed: log.closed(),
        counters: log.counters(),
    }
}

/// Closes a core's channel of a bdev; what the channel did.
fn close_bdev(luns: &mut Luns, bdev: &str) -> Report {
    let mut report = Report::default();
    if let Some((counts, histogram)) = luns.devices_mut().close(bdev) {
        report.bdevs.push((bdev.to_owned(), counts));
        report.histogram = histogram;
    }
    report
}
