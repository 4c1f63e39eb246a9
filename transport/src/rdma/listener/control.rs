//! The control thread's loop.
mod commands;
mod placement;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{Timespec, epoll};

use super::super::ListenAddress;
use super::super::address::{login_part, login_tag};
use super::super::door::{Accept, CoreDoor, DEVICES_MAX, Login, ToControl, ToCore};
use super::super::resources::{Claim, CoreDevice, DeviceControl, open_device, prepare};
use super::super::sys::abi::*;
use super::super::sys::cm::forget_dead_devices;
use super::super::sys::{CmEvent, CmId, Device, EventChannel, RdmaError};
use super::{Counters, ListenerOptions, bump};
use crate::control_thread::{Bell, Inbox};
use crate::half_open::{HalfOpen, Who};
use crate::peer_lines::{PeerLines, peer_line};
use crate::srp::{LoginRej, RejectReason};
use crate::{CloseReason, ConnId, PeerInfo};
pub(super) use commands::Command;
use placement::Seat;

pub(super) const TOKEN_COMMANDS: u64 = 0;
pub(super) const TOKEN_CM: u64 = 1;
/// A CM event's token: this for a listener, [`DEVICE`] for a device, otherwise a connection.
const LISTENER: u64 = 1 << 63;
/// With the core in bits 8 and up and the device's place below.
const DEVICE: u64 = 1 << 62;
/// Receives taken from the CM at a time, so that the cores' messages have their turn.
const EVENTS_MAX: usize = 64;

struct Listening {
    number: u64,
    target: String,
    address: ListenAddress,
    /// None while its device is away.
    id: Option<CmId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The core has the login.
    Offered,
    /// Answered, not established.
    Accepted,
    Established,
}

struct Connection {
    id: Option<CmId>,
    device: usize,
    phase: Phase,
    /// Of the device's completion queues.
    claim: Claim,
    /// The core knows that the peer is gone.
    told: bool,
    seat: Option<Seat>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

struct Core {
    door: CoreDoor,
    slots: Vec<Slot>,
    free: Vec<u32>,
    devices: Vec<Option<DeviceControl>>,
}

pub(super) struct Control {
    channel: EventChannel,
    epoll: OwnedFd,
    bell: Bell,
    cores: Vec<Core>,
    listeners: Vec<Listening>,
    listener_number: u64,
    /// Removed devices that cores have given back, until the last has.
    departed: Vec<Arc<Device>>,
    /// Logins that are not established and whose peers may still be there.
    half_open: HalfOpen,
    again: Option<Instant>,
    options: ListenerOptions,
    channels_in_order: bool,
    counters: Arc<Counters>,
    lines: PeerLines,
}

fn token(core: usize, conn: ConnId) -> u64 {
    (core as u64) << 48 | u64::from(conn.generation & 0xffff) << 32 | u64::from(conn.index)
}

impl Control {
    pub(super) fn new(
        channel: EventChannel,
        epoll: OwnedFd,
        bell: Bell,
        doors: Vec<CoreDoor>,
        options: ListenerOptions,
        counters: Arc<Counters>,
    ) -> Self {
        let in_order = |door: &CoreDoor| door.options.rdma.channels_in_order;
        let channels_in_order = doors.first().is_some_and(in_order);
        let cores = doors
            .into_iter()
            .map(|door| {
                let connections = door.options.connections_max;
                Core {
                    door,
                    slots: (0..connections).map(|_| Slot::default()).collect(),
                    free: (0..connections as u32).rev().collect(),
                    devices: Vec::new(),
                }
            })
            .collect();
        Control {
            channel,
            epoll,
            bell,
            cores,
            listeners: Vec::new(),
            listener_number: 0,
            departed: Vec::new(),
            half_open: HalfOpen::default(),
            again: None,
            options,
            channels_in_order,
            counters,
            lines: PeerLines::default(),
        }
    }

    pub(super) fn run(mut self, inbox: &Inbox<Command>) {
        let mut ready = Vec::with_capacity(64);
        loop {
            let timeout = self.timeout();
            ready.clear();
            let spare = rustix::buffer::spare_capacity(&mut ready);
            if let Err(errno) = epoll::wait(&self.epoll, spare, timeout.as_ref())
                && errno != rustix::io::Errno::INTR
            {
                tracing::error!(%errno, "the control thread of the rdma fabric can't wait");
                return;
            }
            for event in &ready {
                self.on_ready(event.data.u64());
            }
            self.on_core_messages();
            if !self.on_commands(inbox) {
                return;
            }
            self.on_time();
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let next = self.half_open.deadline().into_iter().chain(self.again).min()?;
        Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }

    fn on_ready(&mut self, source: u64) {
        match source {
            TOKEN_COMMANDS => self.bell.hush(),
            TOKEN_CM => {
                for _ in 0..EVENTS_MAX {
                    let Some(event) = self.channel.next() else { break };
                    self.on_event(event);
                }
            }
            _ => {}
        }
    }

    fn on_event(&mut self, event: CmEvent) {
        if event.token & LISTENER != 0 {
            let number = event.token & !LISTENER;
            match event.kind {
                RDMA_CM_EVENT_CONNECT_REQUEST => self.on_request(number, event),
                RDMA_CM_EVENT_DEVICE_REMOVAL => self.on_listener_gone(number),
                _ => {}
            }
            return;
        }
        if event.token & DEVICE != 0 {
            if event.kind == RDMA_CM_EVENT_DEVICE_REMOVAL {
                let (core, place) = ((event.token & !DEVICE) >> 8, event.token & 0xff);
                self.on_device_gone(core as usize, place as usize);
            }
            return;
        }
        self.on_connection_event(&event);
    }

    /// The connection that a token names, if there still is one.
    fn named(&self, token: u64) -> Option<(usize, ConnId)> {
        let (core, index) = ((token >> 48) as usize, token as u32);
        let slot = self.cores.get(core)?.slots.get(index as usize)?;
        let same = u64::from(slot.generation & 0xffff) == token >> 32 & 0xffff;
        let conn = ConnId { index, generation: slot.generation };
        (same && slot.connection.is_some()).then_some((core, conn))
    }

    fn on_connection_event(&mut self, event: &CmEvent) {
        let Some((core, conn)) = self.named(event.token) else { return };
        let connection = self.connection(core, conn);
        if connection.id.is_none() {
            return;
        }
        match event.kind {
            RDMA_CM_EVENT_ESTABLISHED if connection.phase == Phase::Accepted => {
                connection.phase = Phase::Established;
                self.half_open.end(event.token);
                bump(&self.counters.established);
            }
            RDMA_CM_EVENT_DISCONNECTED => self.tell_gone(core, conn, CloseReason::PeerGone),
            RDMA_CM_EVENT_CONNECT_ERROR | RDMA_CM_EVENT_UNREACHABLE | RDMA_CM_EVENT_REJECTED => {
                self.tell_gone(core, conn, CloseReason::Link)
            }
            RDMA_CM_EVENT_DEVICE_REMOVAL => {
                let place = connection.device;
                self.on_device_gone(core, place);
            }
            _ => {}
        }
    }

    fn tell_gone(&mut self, core: usize, conn: ConnId, reason: CloseReason) {
        let of_core = token(core, conn);
        let core = &mut self.cores[core];
        let Some(connection) = &mut core.slots[conn.index as usize].connection else { return };
        if !std::mem::replace(&mut connection.told, true) {
            bump(&self.counters.gone);
            core.door.send(ToCore::Gone(conn, reason));
        }
        self.half_open.end(of_core);
    }

    /// Ends all connections over a device that was removed.
    fn on_device_gone(&mut self, core: usize, place: usize) {
        let Core { door, devices, .. } = &mut self.cores[core];
        let Some(device) = &mut devices[place] else { return };
        if std::mem::replace(&mut device.dead, true) {
            return;
        }
        // It has nothing more to say, but may be readable for ever. It is in the set only once.
        let _ = door.wakes.unwatch(device.channel.as_fd());
        bump(&self.counters.devices_removed);
        tracing::warn!(device = device.device.name(), core, "RDMA device removed");
        for index in 0..self.cores[core].slots.len() {
            let slot = &self.cores[core].slots[index];
            let conn = ConnId { index: index as u32, generation: slot.generation };
            if slot.connection.as_ref().is_some_and(|connection| connection.device == place) {
                self.tell_gone(core, conn, CloseReason::Link);
            }
        }
        self.recall_device(core, place);
    }

    /// A dead device without connections comes home from its core.
    fn recall_device(&mut self, core: usize, place: usize) {
        let core = &mut self.cores[core];
        if let Some(device) = &core.devices[place]
            && device.dead
            && device.connections == 0
        {
            core.door.send(ToCore::DropDevice(place));
        }
    }

    fn on_listener_gone(&mut self, number: u64) {
        if let Some(listening) = self.listeners.iter_mut().find(|l| l.number == number) {
            tracing::warn!(address = %listening.address, "the listener's RDMA device was removed");
            listening.id = None;
            self.again = Some(Instant::now() + self.options.listen_again);
        }
    }

    // --- logins ---

    fn on_request(&mut self, number: u64, mut event: CmEvent) {
        bump(&self.counters.requests);
        let Some(id) = event.request.take() else { return };
        let data = event.private_data();
        let data = login_part(data, id.peer_address().socket().is_none()).to_vec();
        if let Err(why) = self.offer(number, id, data) {
            let (id, data, why) = *why;
            bump(&self.counters.refused);
            peer_line!(self.lines, WARN, peer = %id.peer_address(), why, "login refused");
            reject_for_want_of_resources(&id, &login_tag(&data), &mut self.lines);
        }
    }

    fn offer(
        &mut self,
        number: u64,
        mut id: CmId,
        data: Vec<u8>,
    ) -> Result<(), Box<(CmId, Vec<u8>, String)>> {
        if self.half_open.len() >= self.options.half_open_max && !self.make_room() {
            return Err(Box::new((id, data, "too many logins at once".into())));
        }
        let chosen = self.choose(&data);
        let listening = self.listeners.iter().find(|listening| listening.number == number);
        let (Some((core_index, seat)), Some(listening)) = (chosen, listening) else {
            return Err(Box::new((id, data, "no room for one more connection".into())));
        };
        let info = PeerInfo {
            trtype: "rdma",
            traddr: listening.address.to_string(),
            peer: id.peer_address().to_string(),
            target: listening.target.clone(),
            arrival: crate::next_arrival(),
        };
        let place = match self.device(core_index, &id) {
            Ok(place) => place,
            Err(error) => return Err(Box::new((id, data, error.to_string()))),
        };
        let core = &mut self.cores[core_index];
        let index = core.free.pop().expect("a core with room was chosen");
        let slot = &mut core.slots[index as usize];
        let conn = ConnId { index, generation: slot.generation };
        id.set_token(token(core_index, conn));
        slot.connection = Some(Connection {
            id: Some(id),
            device: place,
            phase: Phase::Offered,
            claim: Claim::default(),
            told: false,
            seat,
        });
        core.devices[place].as_mut().expect("just found").connections += 1;
        let who = Who { peer: info.peer.clone(), process: 0 };
        let deadline = Instant::now() + self.options.establish_wait;
        self.half_open.begin(token(core_index, conn), who, deadline);
        bump(&self.counters.offered);
        let login = Login { conn, device: place, data, peer: info };
        core.door.send(ToCore::Login(Box::new(login)));
        Ok(())
    }

    /// Ends the oldest login of the address with the most that has been answered and is not
    /// established. False: there is none.
    fn make_room(&mut self) -> bool {
        let waits = |token| {
            self.named(token).is_some_and(|(core, conn)| {
                let slot = &self.cores[core].slots[conn.index as usize];
                slot.connection.as_ref().is_some_and(|c| c.phase == Phase::Accepted)
            })
        };
        let Some((token, who)) = self.half_open.greediest(waits) else { return false };
        peer_line!(self.lines, WARN, peer = %who, "ended a login that is not established");
        let Some((core, conn)) = self.named(token) else { return false };
        bump(&self.counters.displaced);
        self.tell_gone(core, conn, CloseReason::Link);
        true
    }

    /// The place of the device of `id` among the core's, opened if need be.
    fn device(&mut self, core_index: usize, id: &CmId) -> Result<usize, RdmaError> {
        let core = &mut self.cores[core_index];
        let known = core.devices.iter().position(|device| {
            device.as_ref().is_some_and(|device| !device.dead && device.device.is_of(id))
        });
        if let Some(place) = known {
            return Ok(place);
        }
        let place = match core.devices.iter().position(Option::is_none) {
            Some(place) => place,
            None if core.devices.len() < DEVICES_MAX => {
                core.devices.push(None);
                core.devices.len() - 1
            }
            None => {
                return Err(RdmaError {
                    what: "one more RDMA device",
                    reason: std::io::Error::from_raw_os_error(libc::ENOSPC),
                });
            }
        };
        let source = (core_index as u64) << 8 | place as u64;
        let (options, pool) = (&core.door.options, &core.door.pool);
        let token = DEVICE | source;
        let (control, part) = open_device(id, &self.channel, token, options, pool, core_index)?;
        let watching = core.door.wakes.watch(control.channel.as_fd());
        watching.map_err(|errno| RdmaError { what: "watching a device", reason: errno.into() })?;
        tracing::info!(device = control.device.name(), core = core_index, "RDMA device in use");
        core.devices[place] = Some(control);
        core.door.send(ToCore::Device(place, part));
        Ok(place)
    }

    // --- what cores ask for ---

    fn on_core_messages(&mut self) {
        for core in 0..self.cores.len() {
            while let Some(message) = self.cores[core].door.receive() {
                match message {
                    ToControl::Accept(conn, accept) => self.on_accept(core, conn, *accept),
                    ToControl::Reject(conn, login_rej) => {
                        let connection = self.connection(core, conn);
                        if let Some(id) = connection.id.take()
                            && let Err(error) = id.reject(&login_rej)
                        {
                            peer_line!(self.lines, DEBUG, %error, "a reject was not sent");
                        }
                        self.on_ended(core, conn, CloseReason::Local);
                    }
                    ToControl::Disconnect(conn) => {
                        if let Some(id) = &self.connection(core, conn).id
                            && let Err(error) = id.disconnect()
                        {
                            peer_line!(self.lines, DEBUG, %error, "a disconnect was not sent");
                        }
                        self.cores[core].door.send(ToCore::Disconnected(conn));
                    }
                    ToControl::Destroy(conn, qp) => {
                        drop(qp);
                        self.connection(core, conn).id = None;
                        self.on_ended(core, conn, CloseReason::PeerGone);
                    }
                    ToControl::Release(conn, receives) => {
                        drop(receives);
                        self.on_release(core, conn);
                    }
                    ToControl::Device(place, part) => self.on_device_home(core, place, part),
                }
            }
        }
    }

    fn connection(&mut self, core: usize, conn: ConnId) -> &mut Connection {
        let slot = &mut self.cores[core].slots[conn.index as usize];
        assert_eq!(slot.generation, conn.generation, "a core named a connection that it released");
        slot.connection.as_mut().expect("a number in use has a connection")
    }

    /// The identifier is gone; the core hears of it last.
    fn on_ended(&mut self, core: usize, conn: ConnId, reason: CloseReason) {
        let connection = self.connection(core, conn);
        connection.told = true;
        connection.phase = Phase::Established;
        self.half_open.end(token(core, conn));
        self.cores[core].door.send(ToCore::Ended(conn, reason));
    }

    fn on_accept(&mut self, core: usize, conn: ConnId, accept: Accept) {
        if let Err(error) = self.accept(core, conn, &accept) {
            bump(&self.counters.refused);
            peer_line!(self.lines, WARN, %error, "no queue pair for a login");
            if let Some(id) = self.connection(core, conn).id.take() {
                let tag = accept.login_rsp.get(8..16).unwrap_or(&[0; 8]);
                reject_for_want_of_resources(&id, tag, &mut self.lines);
            }
            self.on_ended(core, conn, CloseReason::Link);
        }
    }

    /// Fails only before the core has been given the queue pair.
    fn accept(
        &mut self,
        core_index: usize,
        conn: ConnId,
        accept: &Accept,
    ) -> Result<(), RdmaError> {
        let core = &mut self.cores[core_index];
        let connection = core.slots[conn.index as usize].connection.as_mut();
        let connection = connection.expect("a login that was not answered has a connection");
        let id = connection.id.as_ref().expect("as above");
        let device = core.devices[connection.device].as_mut().expect("connections keep it");
        let sends = core.door.options.rdma.srpt_sq_size;
        let (ready, claim) = prepare(id, conn, device, sends, accept.credits, accept.iu_bytes_max)?;
        device.free.sends -= claim.sends;
        device.free.receives -= claim.receives;
        connection.claim = claim;
        connection.phase = Phase::Accepted;
        let deadline = Instant::now() + self.options.establish_wait;
        self.half_open.begin_anew(token(core_index, conn), deadline);
        // Before the peer can send: a completion finds its connection known.
        core.door.send(ToCore::Ready(conn, Box::new(ready)));
        let limits = device.device.limits();
        match id.accept(&accept.login_rsp, limits.reads_in, limits.reads_out) {
            Ok(()) => core.door.send(ToCore::Accepted(conn, claim.sends)),
            Err(error) => {
                peer_line!(self.lines, WARN, %error, "a login could not be accepted");
                if !std::mem::replace(&mut connection.told, true) {
                    core.door.send(ToCore::Gone(conn, CloseReason::Link));
                }
            }
        }
        Ok(())
    }

    fn on_release(&mut self, core_index: usize, conn: ConnId) {
        let core = &mut self.cores[core_index];
        let slot = &mut core.slots[conn.index as usize];
        let connection = slot.connection.take().expect("a number in use has a connection");
        slot.generation = slot.generation.wrapping_add(1);
        core.free.push(conn.index);
        let device = core.devices[connection.device].as_mut().expect("connections keep it");
        device.free.sends += connection.claim.sends;
        device.free.receives += connection.claim.receives;
        device.connections -= 1;
        self.recall_device(core_index, connection.device);
    }

    fn on_device_home(&mut self, core: usize, place: usize, part: Option<Box<CoreDevice>>) {
        drop(part);
        let Some(control) = self.cores[core].devices[place].take() else { return };
        let device = Arc::clone(&control.device);
        drop(control);
        let mut in_use = self.cores.iter().flat_map(|core| core.devices.iter().flatten());
        if in_use.any(|other| other.device.is(&device)) {
            self.departed.push(device);
        } else {
            device.abandon();
            self.departed.retain(|other| !other.is(&device));
            drop(device);
            forget_dead_devices();
            tracing::info!(core, "a removed RDMA device has been let go");
        }
    }

    // --- what time brings ---

    fn on_time(&mut self) {
        let now = Instant::now();
        if self.again.is_some_and(|at| at <= now) {
            self.listen_again(now);
        }
        while let Some(token) = self.half_open.due(now) {
            let Some((core, conn)) = self.named(token) else {
                self.half_open.end(token);
                continue;
            };
            if self.connection(core, conn).phase == Phase::Accepted {
                bump(&self.counters.late);
                self.tell_gone(core, conn, CloseReason::Link);
            } else {
                // It is the core that has not answered.
                self.half_open.begin_anew(token, now + self.options.establish_wait);
            }
        }
    }

    fn listen_again(&mut self, now: Instant) {
        forget_dead_devices();
        self.again = None;
        for listening in self.listeners.iter_mut().filter(|listening| listening.id.is_none()) {
            match self.channel.listen(listening.address, LISTENER | listening.number) {
                Ok(id) => {
                    tracing::info!(address = %listening.address, "listening again");
                    listening.id = Some(id);
                }
                Err(_) => self.again = Some(now + self.options.listen_again),
            }
        }
    }
}

fn reject_for_want_of_resources(id: &CmId, tag: &[u8], lines: &mut PeerLines) {
    let reason = RejectReason::InsufficientResources;
    let mut bytes = [0; LoginRej::LEN];
    let tag = tag.try_into().unwrap_or_default();
    LoginRej { tag, reason, buf_fmt: 0x0006 }.emit(&mut bytes);
    if let Err(error) = id.reject(&bytes) {
        peer_line!(lines, DEBUG, %error, "a reject was not sent");
    }
}
