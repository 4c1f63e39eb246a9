//! Commands that go to a device as they are, from plan to response.
//!
//! The CDB stays in the received information unit until the response, so a request holds nothing
//! for it. Direction and length of the data are those of the SRP descriptors: what the CDB means
//! by them is between initiator and device.

use bdev::scsi::CDB_BYTES_MAX;
use bdev::{DataDirection, IoOp, IoStatus, ScsiIo};
use reactor::Tag;
use transport::Fabric;
use transport::srp::{Cmd, Direction, Residual};

use crate::limits::IO_BYTES_MAX;
use crate::scsi::pass::{self, IDENTIFICATION_BYTES, Pass};
use crate::scsi::{ScsiStatus, Sense};
use crate::shard::command::admit::offer;
use crate::shard::command::request::{Header, Job, Outcome, Plan, Planned};
use crate::shard::connections::connection::Connection;
use crate::shard::lun::Mapping;
use crate::shard::message::{AttentionAt, CoreMessage};
use crate::shard::nexus::REGISTRY_CORE;
use crate::shard::shard::Shard;

/// The plan of a command to a unit whose device takes commands; `None` for one that is answered as
/// for every logical unit. Unit attentions have been reported.
pub(crate) fn pass_plan(
    connection: &Connection,
    unit: &Mapping,
    cmd: &Cmd<'_>,
    header: Header,
) -> Option<Plan> {
    let direction = match (cmd.data_in.is_none(), cmd.data_out.is_none()) {
        (false, true) => Some(Direction::In),
        (true, false) => Some(Direction::Out),
        _ => None,
    };
    let Some(offered) = offer(cmd, direction) else {
        return Some(Plan::refuse(header, Sense::invalid_field_in_cdb(0)));
    };
    let end = |outcome| Some(Plan::end(header, Some(offered), outcome));
    let session = connection.session().expect("live channels have a session");
    if unit.lu.is_reserved_by_other(session) && !pass::allowed_while_reserved(cmd.cdb) {
        return end(Outcome { status: ScsiStatus::ReservationConflict, sense: None });
    }
    let run = |bytes| {
        let work = Planned::Run { job: Job::Pass, direction, bytes };
        Some(Plan { header, offered, work })
    };
    let pass = match pass::classify(cmd.cdb, CDB_BYTES_MAX) {
        Ok(pass) => pass,
        Err(sense) => return end(Outcome::check(sense)),
    };
    match pass {
        Pass::Here => None,
        Pass::RequestSense if is_attention_pending(connection, unit) => None,
        // Repeated when the plan is made again: the holder's own RESERVE changes nothing.
        Pass::Reserve if unit.lu.reserve(session) => {
            connection.nexus.as_ref().inspect(|nexus| nexus.note_reservation());
            end(Outcome::GOOD)
        }
        Pass::Reserve => end(Outcome { status: ScsiStatus::ReservationConflict, sense: None }),
        Pass::Release => {
            unit.lu.release(session);
            end(Outcome::GOOD)
        }
        Pass::Identification if direction == Some(Direction::In) => {
            run(u32::from(IDENTIFICATION_BYTES))
        }
        Pass::RequestSense | Pass::Identification | Pass::Forward(_) => {
            if unit.read_only && pass::writes(cmd.cdb, direction == Some(Direction::Out)) {
                return end(Outcome::check(Sense::WRITE_PROTECTED));
            }
            if offered.bytes > IO_BYTES_MAX {
                return end(Outcome::check(Sense::invalid_field_in_cdb(0)));
            }
            run(offered.bytes)
        }
    }
}

fn is_attention_pending(connection: &Connection, unit: &Mapping) -> bool {
    connection.nexus.as_ref().is_some_and(|nexus| nexus.attentions(unit.lun) != 0)
}

impl<F: Fabric> Shard<F> {
    /// The CDB of a request that passes its command on.
    fn passed_cdb(&self, tag: Tag) -> &[u8] {
        let request = self.requests.get(tag).expect("begun");
        let recv = request.recv.as_ref().expect("held until the response");
        let connection = self.connections[request.conn.index as usize].as_ref();
        let imm = connection.and_then(|connection| connection.imm_data_offset);
        Cmd::parse(self.fabric.iu(request.conn, recv), imm).expect("parsed before").cdb
    }

    /// All data is here: the command goes to the device.
    pub(crate) fn pass(&mut self, tag: Tag) {
        let mut cdb = [0; CDB_BYTES_MAX];
        let from = self.passed_cdb(tag);
        let bytes = match pass::classify(from, CDB_BYTES_MAX) {
            Ok(Pass::Forward(bytes)) => bytes,
            _ => 6,
        };
        cdb[..bytes].copy_from_slice(&from[..bytes]);
        let request = self.requests.get_mut(tag).expect("begun");
        if pass::classify(&cdb, CDB_BYTES_MAX) == Ok(Pass::Identification) && request.reads() {
            cdb[3..5].copy_from_slice(&IDENTIFICATION_BYTES.to_be_bytes());
        }
        let buf = request.data.take();
        let direction = match request.direction {
            Some(Direction::In) if buf.is_some() => DataDirection::In,
            Some(Direction::Out) if buf.is_some() => DataDirection::Out,
            _ => DataDirection::None,
        };
        request.submitted = self.now;
        let device = self.luns.mapping(request.mapping.expect("jobs have a logical unit")).device;
        self.luns.submit_scsi(device, ScsiIo { tag, cdb: &cdb[..bytes], direction, buf });
    }

    /// The device has ended a command; its buffer is back in the request.
    pub(crate) fn on_passed(&mut self, tag: Tag, device: usize, took_ns: u64) {
        let end = *self.luns.scsi_end(device, tag);
        let good = end.status == ScsiStatus::Good as u8;
        let request = self.requests.get_mut(tag).expect("begun");
        let len = request.data.as_ref().map_or(0, |buf| buf.len() as u32);
        let moved = len.saturating_sub(end.residual);
        let status = if good { IoStatus::Good } else { IoStatus::Scsi };
        let op = match request.direction {
            Some(Direction::In) => IoOp::Read { lba: 0, blocks: moved },
            Some(Direction::Out) => IoOp::Write { lba: 0, blocks: moved, fua: false },
            None => IoOp::Flush,
        };
        let aborted = request.aborts != 0;
        self.luns.meter(device).count(&op, 1, status, took_ns);
        self.spread_attention(tag, end.sense(), aborted);
        if !self.goes_on(tag) {
            return;
        }
        self.settle_passed(tag, moved);
        self.respond_with(tag, end.status, end.sense(), false);
    }

    /// Patches what came, and makes bytes and residual of the response from what has moved.
    fn settle_passed(&mut self, tag: Tag, mut moved: u32) {
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&self.passed_cdb(tag)[..16]);
        let request = self.requests.get_mut(tag).expect("begun");
        let Some(direction) = request.direction else { return };
        let mapping = self.luns.mapping(request.mapping.expect("jobs have a logical unit"));
        if direction == Direction::In
            && let Some(data) = request.data.as_mut().and_then(|buf| buf.private_mut())
        {
            if pass::classify(&cdb, CDB_BYTES_MAX) == Ok(Pass::Identification) {
                let connection = self.connections[request.conn.index as usize].as_ref();
                let nexus = connection.and_then(|connection| connection.nexus.as_ref());
                let port = nexus.map_or(1, |nexus| nexus.target.relative_port);
                let allocation = u32::from(u16::from_be_bytes([cdb[3], cdb[4]]));
                moved = (pass::own_port(data, moved as usize, port) as u32).min(allocation);
            } else if mapping.read_only {
                pass::protect(&cdb, &mut data[..moved as usize]);
            }
        }
        let unused = request.residual.filter(|residual| !residual.overflow);
        let offered = request.bytes + unused.map_or(0, |residual| residual.count);
        request.bytes = moved.min(request.bytes);
        let count = offered - request.bytes;
        request.residual = (count > 0).then_some(Residual { direction, overflow: false, count });
    }

    /// A device reports a unit attention once, to one initiator as it believes. The other sessions
    /// get it from here, and the command's own one if nobody answers the command.
    fn spread_attention(&mut self, tag: Tag, sense: &[u8], aborted: bool) {
        let bits = pass::attentions_of(sense);
        if bits == 0 {
            return;
        }
        let request = self.request(tag);
        let (conn, mapping) = (request.conn, request.mapping.expect("jobs have a logical unit"));
        let session = self.connection(conn).session();
        let at = AttentionAt::Luns(self.luns.places_of(self.luns.mapping(mapping).lu.id));
        let except = session.filter(|_| !aborted);
        self.out.send(REGISTRY_CORE, CoreMessage::Attention { at, bits, except });
    }

    /// LOGICAL UNIT RESET: ends reservations and resets the device.
    pub(crate) fn reset_device(&mut self, mapping: Tag) {
        let unit = self.luns.mapping(mapping);
        unit.lu.release_all();
        if unit.passes {
            let device = unit.device;
            self.luns.reset(device);
        }
    }
}
