//! What a session must be told before its commands are carried out, and what answers tell it.

use super::job::Outcome;
use crate::scsi::attention::Attention;
use crate::scsi::{Answer, LunSelect, Sense, attention, reserve};
use crate::shard::connections::connection::Connection;
use crate::shard::coverage::{Mark, mark};
use crate::shard::units::mapping::Mapping;

/// What ends a command to a unit before anything is done: a unit attention, which the command
/// takes; that another session has reserved the unit; or that the session knows another unit there.
/// Of the attentions only 29/00 goes before RESERVATION CONFLICT (SAM-5 5.3.3).
#[inline]
pub(super) fn first_told(
    connection: &Connection,
    unit: &Mapping,
    lun: u16,
    cdb: &[u8],
) -> Option<Outcome> {
    if attention::bypasses_attention(cdb[0]) {
        return None;
    }
    let session = connection.session()?;
    if unit.view().excludes(session.id)
        && !reserve::is_allowed(cdb)
        && session.attentions(lun) & Attention::PowerOn.bit() == 0
    {
        mark(Mark::Conflict);
        return Some(Outcome::CONFLICT);
    }
    if let Some(sense) = next_attention(connection, lun) {
        mark(Mark::Attention);
        return Some(Outcome::check(sense));
    }
    session.settle(lun);
    session.must_ask(lun).then(|| {
        mark(Mark::UnknownUnit);
        Outcome::check(Sense::LUN_NOT_SUPPORTED)
    })
}

/// Takes the unit attention to report at a LUN, if there is one.
#[inline]
fn next_attention(connection: &Connection, lun: u16) -> Option<Sense> {
    let session = connection.session()?;
    loop {
        let (bit, sense) = attention::highest(session.attentions(lun))?;
        if session.claim_attention(lun, bit) {
            return Some(sense);
        }
    }
}

/// What REQUEST SENSE reports of a unit (SPC-4 6.39): a unit attention, which it takes, or why the
/// unit is not ready; nothing when all is well.
pub(super) fn sense_to_report(connection: &Connection, unit: &Mapping) -> Option<Sense> {
    next_attention(connection, unit.lun()).or((!unit.is_ready()).then_some(Sense::NOT_READY))
}

/// An answer of the unit under a LUN, which INQUIRY may have asked for.
pub(super) fn told_answer(connection: &Connection, lun: u16, answer: &Answer) {
    if let (Answer::Inquiry(_) | Answer::Vpd(_), Some(session)) = (answer, connection.session()) {
        session.asked(lun);
    }
}

/// REPORT LUNS is answered with all LUNs of the map of this core, or with none of them.
pub(super) fn told_luns(
    connection: &Connection,
    select: LunSelect,
    luns: impl Iterator<Item = u16>,
) {
    let Some(session) = connection.session() else { return };
    session.told_luns();
    if select != LunSelect::WellKnown {
        session.asked_for(luns);
    }
}
