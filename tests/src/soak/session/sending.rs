//! What a session sends.

use transport::initiator::DataMemory;
use transport::sim::SimMemory;

use super::Session;
use crate::note;
use crate::soak::command::{BLOCKS_MAX, Command, Draft, Shape, Work};
use crate::soak::plan::Fault;
use crate::soak::run::{Act, REPLACED_LUN, Shared};
use crate::soak::tally::Seen;

impl Session {
    fn draft(&mut self, shared: &Shared, lun: u16, disk: usize) -> Draft {
        let rng = &mut self.rng;
        let total = shared.plan.blocks;
        let blocks = 1 + rng.below(BLOCKS_MAX.min(total));
        let blocks = if rng.one(2) { 1 + rng.below(3) } else { blocks };
        let lba = rng.below(total - blocks + 1);
        let (now, known) = (shared.seq, &shared.blocks[disk]);
        if shared.act == Act::Trouble && shared.plan.strikes(Fault::Reserve, rng) {
            return Draft::reserve(lun, rng);
        }
        let draft = match rng.below(24) {
            0..8 => Draft::read(lun, lba, blocks, rng),
            8..15 => Draft::write(lun, lba, blocks, rng),
            15 => Draft::write_same(lun, lba, blocks),
            16 => Draft::unmap(lun, lba, blocks),
            17 | 18 => {
                let other = rng.one(4);
                let value = |at| if other { 5 } else { known.guess(at, now) };
                Draft::verify(lun, lba, (lba..lba + blocks.min(4)).map(value).collect())
            }
            19 | 20 => {
                let value = if rng.one(4) { 5 } else { known.guess(lba, now) };
                let fua = rng.one(2);
                Draft::compare(lun, lba, value, fua)
            }
            21 => Draft::flush(lun),
            _ => Draft::small(lun, rng),
        };
        // Who asks knows the stranger, and may use it.
        let draft = match shared.plan.has(Fault::Replace) && draft.asks_who_is_at(REPLACED_LUN) {
            true => Draft::flush(lun),
            false => draft,
        };
        if shared.act == Act::Trouble && shared.plan.strikes(Fault::Mistake, rng) {
            return draft.mistaken(total, rng);
        }
        draft
    }

    pub(super) fn send(&mut self, shared: &mut Shared) {
        if self.channels.is_empty() || self.free.is_empty() || shared.commands_left == 0 {
            return;
        }
        let at = self.rng.below(self.channels.len() as u64) as usize;
        let port = self.channels[at].port.clone();
        if port.credits() <= 0 || port.ended().is_some() {
            return;
        }
        let lun = [0, 0, 1, 2][self.rng.below(4) as usize];
        let lun = if lun == 1 && shared.disks.len() < 2 { 0 } else { lun };
        let disk = shared.disk_of(lun);
        let mut draft = self.draft(shared, lun, disk);
        let slot = self.free.pop().expect("looked at above");
        let serial = shared.next_serial();
        let bytes = draft.bytes(serial);
        if draft.direction.is_some() && draft.shape == Shape::Inside {
            let immediate = port.inner().rsp.immediate_data;
            let out = draft.direction == Some(transport::srp::Direction::Out);
            draft.shape = match self.rng.below(4) {
                0 => Shape::Table,
                1 if out && immediate && bytes.len() < 4096 => Shape::Immediate,
                _ => Shape::Inside,
            };
            let stray =
                shared.act == Act::Trouble && shared.plan.strikes(Fault::BadMemory, &mut self.rng);
            if stray {
                draft.shape = Shape::BadMemory;
                self.channels[at].strayed = true;
                shared.tally.fault(Fault::BadMemory);
            }
        }
        let mut segs = draft.segs(&self.memory, slot, &mut self.rng);
        put(&self.memory, &segs, &bytes);
        let sent = shared.now();
        let wanted = segs.clone();
        let table = self.rng.below(5) as usize;
        let data = draft.describe(&self.memory, slot, &mut segs, table, &bytes);
        let Ok(tag) = port.try_submit(draft.lun, &draft.cdb, data) else {
            self.free.push(slot);
            return;
        };
        self.on_sent(
            shared,
            Command {
                draft,
                channel: self.channels[at].number,
                tag,
                slot,
                segs: wanted,
                disk,
                sent,
                hold: shared.reservations.hold(disk),
                step: shared.world.steps,
                aborting: false,
            },
            serial,
        );
    }

    fn on_sent(&mut self, shared: &mut Shared, command: Command, serial: u64) {
        let draft = &command.draft;
        note!(
            shared,
            "s{} c{} {:?} LUN {} {:02x?} {:?} {} bytes",
            self.number,
            command.channel,
            command.tag,
            draft.lun,
            draft.cdb,
            draft.shape,
            draft.offered
        );
        shared.commands_left -= 1;
        shared.tally.seen(Seen::Commands);
        if draft.check.is_some() || draft.offered != draft.wanted {
            shared.tally.fault(Fault::Mistake);
        }
        if let Work::Reserve = draft.work {
            shared.tally.fault(Fault::Reserve);
            shared.reservations.claim(self.number, command.disk, command.sent);
        }
        if let Work::Release = draft.work {
            self.released = command.sent;
            shared.reservations.doubt_session(self.number);
        }
        if matches!(draft.work, Work::Write { .. } | Work::Compare(..)) {
            let (sent, oldest) = (command.sent, shared.oldest);
            let blocks = &mut shared.blocks[command.disk];
            blocks.begin(draft.lba, draft.blocks, draft.values(serial), sent, oldest);
        }
        self.commands.push(command);
    }
}

/// Spreads bytes over pieces of memory.
fn put(memory: &SimMemory, segs: &[transport::RemoteSeg], bytes: &[u8]) {
    let mut rest = bytes;
    for seg in segs {
        let (now, later) = rest.split_at(seg.len as usize);
        memory.write_at(seg.addr as usize, now);
        rest = later;
    }
}
