//! Commands that go to a device as they are, from plan to response.
//!
//! The CDB stays in the received information unit until the response, so a request holds nothing
//! for it. Direction and length of the data are those of the SRP descriptors: what the CDB means
//! by them is between initiator and device.

use bdev::scsi::CDB_BYTES_MAX;
use bdev::{IoOp, IoStatus, ScsiIo};
use transport::Fabric;
use transport::srp::{Cmd, Direction};

use super::Requests;
use super::job::{Header, Job, NO_CDB_BYTE, Offered, Outcome};
use super::planned::{Plan, Planned};
use super::request::Request;
use crate::limits::IO_BYTES_MAX;
use crate::scsi::opcodes::opcode;
use crate::scsi::pass::{self, IDENTIFICATION_BYTES, Pass};
use crate::scsi::reads::only_reads;
use crate::scsi::{ScsiStatus, Sense};
use crate::shard::connections::connection::Connection;
use crate::shard::connections::table::Connections;
use crate::shard::message::CoreMessage;
use crate::shard::names::RequestKey;
use crate::shard::outbox::Outbox;
use crate::shard::sessions::registry::REGISTRY_CORE;
use crate::shard::units::map::Luns;
use crate::shard::units::mapping::Mapping;

/// The plan of a command to a unit whose device takes commands; `None` for one that is answered as
/// for every logical unit. Unit attentions have been reported.
pub(super) fn pass_plan(
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
    let Some(offered) = Offered::of(cmd, direction) else {
        return Some(Plan::refuse(header, Sense::invalid_field_in_cdb(NO_CDB_BYTE)));
    };
    let end = |outcome| Some(Plan::end(header, Some(offered), outcome));
    let session = connection.session().expect("live connections have a session");
    let cdb_bytes = cmd.cdb.len() as u16;
    let run = |bytes| {
        let work = Planned::Run { job: Job::Pass { cdb_bytes }, direction, bytes };
        Some(Plan { header, offered, work })
    };
    let pass = match pass::classify(cmd.cdb, CDB_BYTES_MAX) {
        Ok(pass) => pass,
        Err(sense) => return end(Outcome::check(sense)),
    };
    match pass {
        Pass::Here => None,
        Pass::RequestSense if session.attentions(unit.lun()) != 0 => None,
        Pass::Identification if direction == Some(Direction::In) => {
            run(u32::from(IDENTIFICATION_BYTES))
        }
        Pass::RequestSense | Pass::Identification | Pass::Forward(_) => {
            if unit.is_read_only() && (direction == Some(Direction::Out) || !reads(unit, cmd.cdb)) {
                return end(Outcome::check(Sense::WRITE_PROTECTED));
            }
            if offered.bytes > IO_BYTES_MAX {
                return end(Outcome::check(Sense::invalid_field_in_cdb(NO_CDB_BYTE)));
            }
            run(offered.bytes)
        }
    }
}

/// True for a command that a read-only mapping lets through, unless it has data for the device.
fn reads(unit: &Mapping, cdb: &[u8]) -> bool {
    unit.lu().bdev.scsi().is_some_and(|device| only_reads(cdb, device.peripheral_type))
}

impl Requests {
    /// All data is here: the command goes to the device.
    pub(super) fn pass<F: Fabric>(
        &mut self,
        connections: &Connections<F>,
        luns: &mut Luns,
        key: RequestKey,
    ) {
        let now = self.now;
        let request = self.request(key);
        let mut cdb = [0; CDB_BYTES_MAX];
        let from = passed_cdb(connections, request);
        let bytes = match pass::classify(from, CDB_BYTES_MAX) {
            Ok(Pass::Forward(bytes)) => bytes,
            _ => 6,
        };
        cdb[..bytes].copy_from_slice(&from[..bytes]);
        if pass::classify(&cdb, CDB_BYTES_MAX) == Ok(Pass::Identification) && request.reads() {
            cdb[3..5].copy_from_slice(&IDENTIFICATION_BYTES.to_be_bytes());
        }
        let direction = request.passed_direction();
        let (tag, buf) = (key.tag(), request.take_data());
        request.submit(now);
        let device = luns.mapping(request.unit()).device();
        luns.devices_mut().submit_scsi(device, ScsiIo { tag, cdb: &cdb[..bytes], direction, buf });
    }

    /// The device has ended a command; its buffer is back in the request.
    pub(super) fn on_passed<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        out: &mut Outbox,
        key: RequestKey,
    ) {
        let now = self.now;
        let request = self.request(key);
        let device = luns.mapping(request.unit()).device();
        let end = *luns.devices().scsi_end(device, key.tag());
        let good = end.status == ScsiStatus::Good as u8;
        let len = request.data().map_or(0, |buf| buf.len() as u32);
        let moved = len.saturating_sub(end.residual);
        let status = if good { IoStatus::Good } else { IoStatus::Scsi };
        let op = match request.direction() {
            Some(Direction::In) => IoOp::Read { lba: 0, blocks: moved },
            Some(Direction::Out) => IoOp::Write { lba: 0, blocks: moved, fua: false },
            None => IoOp::Flush,
        };
        luns.devices_mut().meter(device).count(&op, 1, status, request.took_ns(now));
        spread_attention(request, connections, luns, out, end.sense());
        if !self.goes_on(connections, luns, key) {
            return;
        }
        settle_passed(self.request(key), connections, luns, moved, good);
        self.respond_with(connections, luns, key, end.status, end.sense(), false);
    }
}

/// The CDB of a request that passes its command on.
fn passed_cdb<'a, F: Fabric>(connections: &'a Connections<F>, request: &Request) -> &'a [u8] {
    let Job::Pass { cdb_bytes } = *request.job() else { unreachable!("planned as such") };
    &connections.iu(request.conn(), request.recv())[Cmd::CDB_AT..][..cdb_bytes.into()]
}

/// Patches what came, and makes bytes and residual of the response from what has moved. INQUIRY
/// that ends well tells the session who is under the LUN.
fn settle_passed<F: Fabric>(
    request: &mut Request,
    connections: &Connections<F>,
    luns: &Luns,
    mut moved: u32,
    good: bool,
) {
    let cdb = passed_cdb(connections, request);
    let mapping = luns.mapping(request.unit());
    let session = connections.get(request.conn()).session();
    if good && cdb[0] == opcode::INQUIRY {
        session.inspect(|session| session.asked(mapping.lun()));
    }
    if request.reads()
        && let Some(data) = request.data_mut().and_then(|buf| buf.private_mut())
    {
        if pass::classify(cdb, CDB_BYTES_MAX) == Ok(Pass::Identification) {
            let port = session.map_or(1, |session| session.target.relative_port);
            let allocation = u32::from(u16::from_be_bytes([cdb[3], cdb[4]]));
            moved = (pass::own_port(data, moved as usize, port) as u32).min(allocation);
        } else if mapping.is_read_only() {
            pass::protect(cdb, &mut data[..moved as usize]);
        }
    }
    request.settle(moved);
}

/// A device reports a unit attention once, to one initiator as it believes. The other sessions get
/// it from here, and the command's own one if nobody answers the command.
fn spread_attention<F: Fabric>(
    request: &Request,
    connections: &Connections<F>,
    luns: &Luns,
    out: &mut Outbox,
    sense: &[u8],
) {
    let bits = pass::attentions_of(sense);
    if bits == 0 {
        return;
    }
    let session = connections.get(request.conn()).session_id();
    let at = luns.places_of(luns.mapping(request.unit()).unit());
    let except = session.filter(|_| !request.is_aborted());
    out.send(REGISTRY_CORE, CoreMessage::Attention { at, bits, except });
}
