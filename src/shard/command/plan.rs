//! What a received command asks for: from its information unit, its session and the LUN map.

use bdev::IoOp;
use reactor::pool::Buf;
use transport::srp::{Cmd, CmdError, Direction};

use super::attend::{first_told, sense_to_report, told_answer, told_luns};
use super::buffers::Buffers;
use super::job::{Header, Job, NO_CDB_BYTE, Offered, Outcome};
use super::passed::pass_plan;
use super::planned::{Content, Plan, Planned};
use crate::limits::IO_BYTES_MAX;
use crate::scsi::{
    self, ANSWER_BYTES_MAX, LuView, Sense, Work, decode, decode_absent, report_luns, request_sense,
};
use crate::shard::connections::connection::Connection;
use crate::shard::coverage::{Mark, mark};
use crate::shard::names::MappingKey;
use crate::shard::units::map::Luns;
use crate::shard::units::mapping::Mapping;

/// What a received command asks for. Takes the unit attention that it is told.
#[inline]
pub(super) fn plan(connection: &Connection, luns: &Luns, cmd: Result<Cmd<'_>, CmdError>) -> Plan {
    let cmd = match cmd {
        Ok(cmd) => cmd,
        Err(CmdError::Malformed(fault)) => unreachable!("looked at on arrival: {fault}"),
        Err(CmdError::Invalid(bad)) => {
            mark(Mark::Refused);
            let (tag, sol_not, lun) = (bad.tag, bad.sol_not, bad.lun.number());
            let header = Header { tag, sol_not, lun, mapping: None };
            return Plan::refuse(header, Sense::invalid_field_in_cdb(NO_CDB_BYTE));
        }
    };
    let number = cmd.lun.number();
    let mapping = number.and_then(|lun| luns.find(connection.target(), lun));
    let header = Header { tag: cmd.tag, sol_not: cmd.sol_not, lun: number, mapping };
    let decoded = match (mapping, number) {
        (Some(mapping), Some(lun)) => {
            let unit = luns.mapping(mapping);
            if let Some(outcome) = first_told(connection, unit, lun, cmd.cdb) {
                return Plan::end(header, Offered::of(&cmd, None), outcome);
            }
            if unit.passes()
                && let Some(plan) = pass_plan(connection, unit, &cmd, header)
            {
                return plan;
            }
            decode(cmd.cdb, &view(unit, connection))
        }
        _ => decode_absent(cmd.cdb, number.unwrap_or(u16::MAX)),
    };
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(sense) => {
            return Plan::end(header, Offered::of(&cmd, None), Outcome::check(sense));
        }
    };
    let direction = match decoded.direction {
        scsi::Direction::None => None,
        scsi::Direction::In => Some(Direction::In),
        scsi::Direction::Out => Some(Direction::Out),
    };
    let Some(offered) = Offered::of(&cmd, direction) else {
        mark(Mark::Refused);
        return Plan::refuse(header, Sense::invalid_field_in_cdb(NO_CDB_BYTE));
    };
    let allocation = decoded.bytes;
    let work = match decoded.work {
        Work::Good => Planned::End(Outcome::GOOD),
        Work::Answer(answer) => Planned::Make { content: Content::Unit(answer), allocation },
        Work::Reserve(reserve) => Planned::Decide(reserve),
        Work::ReportLuns(select) => Planned::Make { content: Content::Luns(select), allocation },
        Work::RequestSense { descriptor } => {
            Planned::Make { content: Content::Sense { descriptor }, allocation }
        }
        Work::Io(op) => Planned::Run { job: Job::Io(op), direction, bytes: allocation as u32 },
        Work::ReadMedium { lba, blocks } => {
            let job = Job::FlushThen(IoOp::Read { lba, blocks });
            Planned::Run { job, direction, bytes: allocation as u32 }
        }
        Work::Steps(steps) => {
            Planned::Run { job: Job::Steps(steps), direction, bytes: allocation as u32 }
        }
    };
    Plan { header, offered, work }
}

/// Data that is made here, in a pool buffer; `None` when there is no buffer.
pub(super) fn make(
    buffers: &mut Buffers,
    connection: &Connection,
    luns: &Luns,
    mapping: Option<MappingKey>,
    content: &Content,
    allocation: u64,
) -> Option<Buf> {
    let whole = match content {
        Content::Luns(_) => 8 + 8 * luns.lun_list(connection.target()).len(),
        Content::Unit(_) | Content::Sense { .. } => ANSWER_BYTES_MAX,
    };
    let bytes = whole.min(usize::try_from(allocation).unwrap_or(usize::MAX));
    let mut buf = buffers.take(bytes)?;
    let out = buf.private_mut().expect("pool buffers are private");
    let made = match content {
        Content::Unit(answer) => match mapping {
            Some(mapping) => {
                let mapping = luns.mapping(mapping);
                told_answer(connection, mapping.lun(), answer);
                answer.fill(&view(mapping, connection), out)
            }
            None => answer.fill(&LuView::absent(), out),
        },
        Content::Luns(select) => {
            told_luns(connection, *select, luns.lun_list(connection.target()));
            report_luns(*select, luns.lun_list(connection.target()), out)
        }
        Content::Sense { descriptor } => {
            let unit = mapping.map(|mapping| luns.mapping(mapping));
            let pending = unit.and_then(|unit| sense_to_report(connection, unit));
            request_sense(pending, *descriptor, out)
        }
    };
    buf.set_len(made);
    Some(buf)
}

/// A mapping as the SCSI layer sees it.
#[inline]
fn view<'a>(mapping: &'a Mapping, connection: &Connection) -> LuView<'a> {
    LuView {
        geometry: *mapping.geometry(),
        identity: &mapping.lu().identity,
        read_only: mapping.is_read_only(),
        ready: mapping.is_ready(),
        placeholder: mapping.is_placeholder(),
        relative_port: connection.session().map_or(1, |session| session.target.relative_port),
        io_bytes_max: IO_BYTES_MAX,
    }
}
