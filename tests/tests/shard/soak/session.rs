//! One random initiator with several channels, and what it knows of its blocks.

use reactor::Tag;
use srpt_tests::gate::Gate;
use srpt_tests::port::{End, Port};
use srpt_tests::world::{Login, World};
use transport::RemoteSeg;
use transport::initiator::{Data, DataMemory, Outcome, Table, cdb};
use transport::sim::{Rng, SimMemory};
use transport::srp::{Tmf, encode_table};

use super::{REGION, Tally};
use crate::common::{CHECK, GOOD, code};

const BLOCK: usize = 512;
/// Blocks of a command, at most.
const BLOCKS_MAX: u64 = 24;
/// Data memory of a command: its data, then its table.
const SLOT_BYTES: usize = 1 << 15;
/// Commands in flight, at most.
const SLOTS: usize = 24;
/// Steps after which a command that nobody took away should have been answered.
const STALE: u64 = 12_000;

/// What a block holds: a generation, 0 for zeros.
type Value = u32;

/// What a command does to its blocks, or expects of them.
#[derive(Debug, Clone, PartialEq)]
enum Work {
    Read,
    Write { to: Value },
    Verify { value: Value, equal: bool },
    CompareAndWrite { equal: bool, to: Value },
    Nothing,
}

#[derive(Debug)]
struct Command {
    channel: usize,
    tag: Tag,
    slot: usize,
    work: Work,
    lba: u64,
    blocks: u64,
    segs: Vec<RemoteSeg>,
    sent: u64,
    /// A function of another channel may have taken it away.
    exposed: bool,
    /// ABORT TASK for it.
    abort: Option<Tag>,
}

/// One initiator.
pub struct Session {
    number: u64,
    base: u64,
    memory: SimMemory,
    ports: Vec<Port>,
    rng: Rng,
    /// Per block of the region: the values that it may hold.
    blocks: Vec<Vec<Value>>,
    /// Blocks that a command in flight may change or looks at.
    busy: Vec<bool>,
    commands: Vec<Command>,
    free: Vec<usize>,
    resets: Vec<(usize, Tag)>,
    last: Value,
    digest: u64,
}

fn fill(number: u64, lba: u64, value: Value, bytes: &mut [u8]) {
    let word = if value == 0 { 0 } else { number << 56 | lba << 32 | u64::from(value) };
    bytes.as_chunks_mut().0.iter_mut().for_each(|chunk| *chunk = word.to_be_bytes());
}

impl Session {
    pub fn new(world: &mut World, number: u64, channels: usize, seed: u64) -> Session {
        let mut session = Session {
            number,
            base: number * REGION,
            memory: SimMemory::new(SLOTS * SLOT_BYTES),
            ports: Vec::new(),
            rng: Rng::new(seed),
            blocks: vec![vec![0]; REGION as usize],
            busy: vec![false; REGION as usize],
            commands: Vec::new(),
            free: (0..SLOTS).collect(),
            resets: Vec::new(),
            last: 0,
            digest: 0,
        };
        session.login(world, channels);
        session
    }

    pub fn digest(&self) -> u64 {
        self.ports.iter().fold(self.digest, |digest, port| digest ^ port.inner().digest)
    }

    /// A new session: everything of the old one is over once the first login is answered.
    fn login(&mut self, world: &mut World, channels: usize) {
        let cores = world.shards.len() as u64;
        for number in 0..channels {
            let id = self.number + 1;
            let login = if number == 0 { Login::of(id) } else { Login::multi(id) };
            let core = self.rng.below(cores) as usize;
            let pending = world.connect(core, &login, &self.memory);
            let port = world.finish(pending).expect("accepted");
            self.ports.push(port);
            if number == 0 {
                self.forget_all();
            }
        }
    }

    /// The commands of the old channels have no end, but they are over.
    fn forget_all(&mut self) {
        for command in std::mem::take(&mut self.commands) {
            self.settle(&command, None);
        }
        self.resets.clear();
    }

    /// All commands in flight may be taken away by another's function.
    pub fn expose(&mut self) {
        self.commands.iter_mut().for_each(|command| command.exposed = true);
    }

    /// A function that takes commands of everybody is under way.
    pub fn is_resetting(&self) -> bool {
        !self.resets.is_empty()
    }

    /// Does something, or nothing. True: a function was sent that takes commands of everybody.
    pub fn act(&mut self, world: &mut World, tally: &mut Tally) -> bool {
        // A function may take away what is sent before its answer.
        let reset_under_way = !self.resets.is_empty();
        match self.rng.below(400) {
            0 => {
                tally.closes += 1;
                self.relogin(world);
            }
            1..8 => self.abort_one(world.steps, tally),
            8 | 9 => return self.reset(tally),
            10..180 => self.send(world.steps, tally),
            _ => {}
        }
        reset_under_way
    }

    fn relogin(&mut self, world: &mut World) {
        self.digest = self.digest();
        let old = std::mem::take(&mut self.ports);
        for port in &old {
            match self.rng.below(3) {
                0 => port.disconnect(),
                1 => port.logout(),
                _ => {}
            }
        }
        let channels = 1 + self.rng.below(3) as usize;
        self.login(world, channels);
        let done = |_: &World| old.iter().all(Port::closed);
        world.until("the old channels to close", done);
    }

    fn abort_one(&mut self, now: u64, tally: &mut Tally) {
        let candidates = self.commands.len() as u64;
        if candidates == 0 {
            return;
        }
        let at = self.rng.below(candidates) as usize;
        self.abort(at, now, tally);
    }

    fn abort(&mut self, at: usize, _now: u64, tally: &mut Tally) {
        let command = &mut self.commands[at];
        let port = &self.ports[command.channel];
        if command.abort.is_none() && port.credits() > 0 {
            tally.aborts += 1;
            command.abort = Some(port.abort(0, command.tag));
        }
    }

    fn reset(&mut self, tally: &mut Tally) -> bool {
        let at = self.rng.below(self.ports.len() as u64) as usize;
        if self.ports[at].credits() == 0 || !self.resets.is_empty() {
            return false;
        }
        tally.resets += 1;
        let function = [Tmf::LunReset, Tmf::ClearTaskSet, Tmf::AbortTaskSet];
        let function = function[self.rng.below(3) as usize];
        self.resets.push((at, self.ports[at].task(function as u8, 0, None)));
        true
    }

    /// A range of blocks that nothing in flight touches.
    fn pick(&mut self) -> Option<(u64, u64)> {
        let blocks = 1 + self.rng.below(BLOCKS_MAX);
        let at = self.rng.below(REGION - blocks + 1);
        let range = at as usize..(at + blocks) as usize;
        (!self.busy[range].iter().any(|busy| *busy)).then_some((at, blocks))
    }

    /// The value of a block, if there is only one that it can hold.
    fn known(&self, at: u64) -> Option<Value> {
        match self.blocks[at as usize][..] {
            [value] => Some(value),
            _ => None,
        }
    }

    fn send(&mut self, now: u64, tally: &mut Tally) {
        let channel = self.rng.below(self.ports.len() as u64) as usize;
        let port = self.ports[channel].clone();
        if port.credits() == 0 || port.closed() {
            return;
        }
        let (Some((at, blocks)), Some(slot)) = (self.pick(), self.free.pop()) else { return };
        let (lba, count) = (self.base + at, blocks as u32);
        let bytes = blocks as usize * BLOCK;
        let segs = self.segs(slot, bytes);
        let kind = self.rng.below(12);
        let same = (at..at + blocks)
            .map(|at| self.known(at))
            .reduce(|one, other| if one == other { one } else { None });
        let sent = match (kind, same.flatten()) {
            (0..4, _) => {
                self.poison(&segs);
                (
                    Work::Read,
                    port.try_submit(0, &cdb::read16(lba, count), self.data(&segs, slot, false)),
                )
            }
            (4..7, _) => {
                let to = self.fresh();
                self.prepare(&segs, at, blocks, to);
                let cdb = cdb::write16(lba, count, self.rng.one(3));
                (Work::Write { to }, port.try_submit(0, &cdb, self.data(&segs, slot, true)))
            }
            (7, Some(value)) => {
                let equal = !self.rng.one(4);
                let value = if equal { value } else { self.fresh() };
                self.prepare(&segs, at, blocks, value);
                let mut cdb = cdb::read16(lba, count);
                (cdb[0], cdb[1]) = (0x8f, 0x02);
                let data = self.data(&segs, slot, true);
                (Work::Verify { value, equal }, port.try_submit(0, &cdb, data))
            }
            (8, Some(value)) => return self.compare_and_write(channel, slot, at, value, now),
            (9, _) => {
                let list = cdb::unmap_list(&[(lba, count)]);
                self.memory.write_at(slot * SLOT_BYTES, &list);
                let data = [self.memory.seg(slot * SLOT_BYTES, list.len() as u32)];
                let cdb = cdb::unmap(list.len() as u16);
                (Work::Write { to: 0 }, port.try_submit(0, &cdb, Data::Out(&data)))
            }
            (10, _) => {
                (Work::Nothing, port.try_submit(0, &cdb::synchronize_cache16(0, 0), Data::None))
            }
            _ if self.rng.one(2) => {
                let data = [self.memory.seg(slot * SLOT_BYTES, 96)];
                (Work::Nothing, port.try_submit(0, &cdb::inquiry(None, 96), Data::In(&data)))
            }
            _ => (Work::Nothing, port.try_submit(0, &[0; 6], Data::None)),
        };
        tally.commands += 1;
        let (work, tag) = sent;
        self.begin(channel, tag.ok(), slot, work, (at, blocks), segs, now);
    }

    fn compare_and_write(&mut self, channel: usize, slot: usize, at: u64, value: Value, now: u64) {
        let equal = !self.rng.one(3);
        let (compare, to) = (if equal { value } else { self.fresh() }, self.fresh());
        let mut bytes = [0; 2 * BLOCK];
        let (one, other) = bytes.split_at_mut(BLOCK);
        fill(self.number, at, compare, one);
        fill(self.number, at, to, other);
        self.memory.write_at(slot * SLOT_BYTES, &bytes);
        let data = [self.memory.seg(slot * SLOT_BYTES, 2 * BLOCK as u32)];
        let cdb = cdb::compare_and_write(self.base + at, 1);
        let tag = self.ports[channel].try_submit(0, &cdb, Data::Out(&data)).ok();
        let work = Work::CompareAndWrite { equal, to };
        self.begin(channel, tag, slot, work, (at, 1), Vec::new(), now);
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a command")]
    fn begin(
        &mut self,
        channel: usize,
        tag: Option<Tag>,
        slot: usize,
        work: Work,
        (lba, blocks): (u64, u64),
        segs: Vec<RemoteSeg>,
        sent: u64,
    ) {
        let Some(tag) = tag else { return self.free.push(slot) };
        if work != Work::Nothing {
            self.busy[lba as usize..(lba + blocks) as usize].fill(true);
        }
        let exposed = !self.resets.is_empty();
        let command =
            Command { channel, tag, slot, work, lba, blocks, segs, sent, exposed, abort: None };
        self.commands.push(command);
    }

    fn fresh(&mut self) -> Value {
        self.last += 1;
        self.last
    }

    /// One to five segments in a slot of the memory.
    fn segs(&mut self, slot: usize, bytes: usize) -> Vec<RemoteSeg> {
        let count = 1 + self.rng.below(5) as usize;
        let base = slot * SLOT_BYTES;
        let cut = |number: usize| bytes * number / count;
        let seg = |n: usize| self.memory.seg(base + cut(n) + n * 8, (cut(n + 1) - cut(n)) as u32);
        (0..count).map(seg).collect()
    }

    /// The descriptor of a command: its segments in the unit, or in a table outside.
    fn data<'a>(&mut self, segs: &'a [RemoteSeg], slot: usize, out: bool) -> Data<'a> {
        if self.rng.one(2) {
            return if out { Data::Out(segs) } else { Data::In(segs) };
        }
        let mut bytes = [0; 80];
        let len = encode_table(segs, &mut bytes);
        let at = (slot + 1) * SLOT_BYTES - 80;
        self.memory.write_at(at, &bytes);
        let total_len = segs.iter().map(|seg| seg.len).sum();
        let in_iu = &segs[..self.rng.below(segs.len() as u64 + 1) as usize];
        let table = Table { memory: self.memory.seg(at, len as u32), total_len, in_iu };
        if out { Data::OutTable(table) } else { Data::InTable(table) }
    }

    fn poison(&self, segs: &[RemoteSeg]) {
        for seg in segs {
            self.memory.write_at(seg.addr as usize, &vec![0xee; seg.len as usize]);
        }
    }

    fn prepare(&self, segs: &[RemoteSeg], at: u64, blocks: u64, value: Value) {
        let mut bytes = vec![0; blocks as usize * BLOCK];
        for (block, bytes) in bytes.chunks_mut(BLOCK).enumerate() {
            fill(self.number, at + block as u64, value, bytes);
        }
        let mut rest = &bytes[..];
        for seg in segs {
            let (now, later) = rest.split_at(seg.len as usize);
            self.memory.write_at(seg.addr as usize, now);
            rest = later;
        }
    }

    /// Looks at what has ended.
    pub fn look(&mut self, world: &mut World, tally: &mut Tally) {
        for port in &self.ports {
            assert!(!port.closed(), "a channel of session {} ended by itself", self.number);
            assert_eq!(port.protocol_errors(), 0, "session {}", self.number);
        }
        self.resets.retain(|(channel, tag)| self.ports[*channel].end(*tag).is_none());
        self.expose_namesakes();
        for at in (0..self.commands.len()).rev() {
            let command = &self.commands[at];
            let port = &self.ports[command.channel];
            let end = port.end(command.tag);
            let over = command.abort.is_none_or(|abort| port.end(abort).is_some());
            match end {
                Some(end) if over => {
                    let command = self.commands.swap_remove(at);
                    match end {
                        End::Answered(outcome) => self.on_answer(&command, &outcome, tally),
                        End::Aborted => {
                            tally.aborted += 1;
                            self.settle(&command, None);
                        }
                        End::Task(_) => unreachable!("a command"),
                    }
                }
                None if world.steps - command.sent > STALE && command.abort.is_none() => {
                    assert!(command.exposed, "never answered: {command:?}");
                    tally.lost += 1;
                    self.abort(at, world.steps, tally);
                }
                _ => {}
            }
        }
    }

    /// ABORT TASK is for the session, but tags are the channels' own: it may hit a namesake.
    fn expose_namesakes(&mut self) {
        let aborting = self.commands.iter().filter(|command| command.abort.is_some());
        let tags: Vec<_> = aborting.map(|command| command.tag).collect();
        for command in &mut self.commands {
            command.exposed |= tags.contains(&command.tag);
        }
    }

    fn on_answer(&mut self, command: &Command, outcome: &Outcome, tally: &mut Tally) {
        if outcome.status == CHECK {
            let (key, asc, _) = code(outcome).expect("CHECK CONDITION");
            match (key, asc) {
                (6, _) => tally.attentions += 1,
                (5, 0x25) => tally.absent += 1,
                (3, _) => tally.errors += 1,
                (0xe, 0x1d) => {
                    tally.miscompares += 1;
                    let fits = matches!(
                        command.work,
                        Work::Verify { equal: false, .. }
                            | Work::CompareAndWrite { equal: false, .. }
                    );
                    assert!(fits, "{outcome:?} for {command:?}");
                }
                _ => panic!("{outcome:?} for {command:?}"),
            }
            return self.settle(command, Some(false));
        }
        assert_eq!((outcome.status, outcome.residual.is_some()), (GOOD, false), "{command:?}");
        match command.work {
            Work::Read => self.check(command, tally),
            Work::Verify { equal, .. } | Work::CompareAndWrite { equal, .. } => {
                assert!(equal, "no miscompare for {command:?}");
            }
            Work::Write { .. } | Work::Nothing => {}
        }
        self.settle(command, Some(true));
    }

    /// A command is over. `done`: its blocks have changed or not; `None`: who knows.
    fn settle(&mut self, command: &Command, done: Option<bool>) {
        self.free.push(command.slot);
        if command.work == Work::Nothing {
            return;
        }
        let range = command.lba as usize..(command.lba + command.blocks) as usize;
        self.busy[range.clone()].fill(false);
        let to = match command.work {
            Work::Write { to } => to,
            Work::CompareAndWrite { equal: true, to } => to,
            _ => return,
        };
        for values in &mut self.blocks[range] {
            match done {
                Some(true) => *values = vec![to],
                Some(false) => {}
                None => values.push(to),
            }
        }
    }

    /// What was read is what the blocks may hold; from now on they hold just that.
    fn check(&mut self, command: &Command, tally: &mut Tally) {
        let mut bytes = Vec::new();
        for seg in &command.segs {
            let at = bytes.len();
            bytes.resize(at + seg.len as usize, 0);
            self.memory.read_at(seg.addr as usize, &mut bytes[at..]);
        }
        for (number, bytes) in bytes.chunks(BLOCK).enumerate() {
            self.check_block(command.lba + number as u64, bytes, tally);
        }
    }

    fn check_block(&mut self, at: u64, bytes: &[u8], tally: &mut Tally) {
        let mut expected = [0; BLOCK];
        let values = &mut self.blocks[at as usize];
        let found = values.iter().copied().find(|value| {
            fill(self.number, at, *value, &mut expected);
            expected == bytes
        });
        let Some(found) = found else {
            panic!("block {at} of session {}: not in {values:?}: {:x?}", self.number, &bytes[..16]);
        };
        tally.either += u64::from(values.len() > 1);
        *values = vec![found];
    }

    /// No more trouble: every command ends.
    pub fn rest(&mut self, world: &mut World, tally: &mut Tally) {
        for _ in 0..2 * STALE {
            self.look(world, tally);
            let left = self.ports.iter().map(Port::in_flight).sum::<usize>();
            if left == 0 {
                assert!(self.commands.is_empty());
                return;
            }
            world.step();
        }
        panic!("session {} does not come to rest: {:?}", self.number, self.commands);
    }

    /// Every block of the medium holds what it may.
    pub fn check_all(&mut self, world: &mut World, gate: &Gate, tally: &mut Tally) {
        for port in &self.ports {
            world.until("all credits", |_| port.credits() == port.credits_at_login());
        }
        for at in 0..REGION {
            self.check_block(at, &gate.medium(self.base + at, 1), tally);
        }
    }
}
