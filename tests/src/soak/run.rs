//! A run: trouble, then rest.

use std::sync::Arc;
use std::time::Duration;

use reactor::Clock;
use srpt_tgt::shard::message::Action;
use transport::initiator::{Data, DataMemory, cdb};
use transport::sim::{NetFaults, Rng};
use transport::srp::Tmf;

use super::attentions::Attentions;
use super::blocks::{BLOCK, Blocks};
use super::disk::{Disk, Troubles};
use super::hostile::Hostile;
use super::log::Log;
use super::operator::Operator;
use super::plan::{Cuts, Fault, Plan};
use super::rates::Rates;
use super::reservations::Reservations;
use super::session::Session;
use super::tally::{Seen, Tally};
use crate::gate::Gate;
use crate::note;
use crate::port::End;
use crate::world::{Login, PATIENCE, World};

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Faults strike.
    Trouble,
    /// No more faults, but everybody goes on sending.
    Fair,
    /// What is under way ends.
    Rest,
}

/// What all parts of a run share.
pub struct Shared {
    /// What was drawn.
    pub plan: Plan,
    /// The world.
    pub world: World,
    /// The devices.
    pub disks: Vec<Disk>,
    /// What their blocks may hold.
    pub blocks: Vec<Blocks>,
    /// What was asked for that concerns everybody.
    pub attentions: Attentions,
    /// The limits of the devices.
    pub rates: Rates,
    /// The event log.
    pub log: Log,
    /// What happened.
    pub tally: Tally,
    /// What is going on.
    pub act: Act,
    /// The step in which that began.
    pub act_began: u64,
    /// Number of what was done last: the time of the oracle.
    pub seq: u64,
    /// Who has reserved which device.
    pub reservations: Reservations,
    /// When the oldest command in flight was sent.
    pub oldest: u64,
    /// Commands that may still be sent.
    pub commands_left: u64,
    /// The operator ends channels.
    pub ends_channels: bool,
    /// The device that appears under a LUN whose unit the sessions know.
    pub stranger: Gate,
    /// Sessions whose login this target has answered, as bits.
    pub logged_in: u64,
    serial: u64,
    /// Per LUN and per device: until when it was away or small; `u64::MAX`: it is.
    away: [u64; 3],
    small: [u64; 2],
}

const DISKS: [&str; 2] = ["disk0", "disk1"];

/// The device that nobody knows.
pub const STRANGER: &str = "stranger";

/// The LUN under which it appears.
pub const REPLACED_LUN: u16 = 2;

impl Shared {
    /// The next moment.
    pub fn now(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// A number that no write has had.
    pub fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        // 5 is what comparisons take that are to fail.
        self.serial + 16
    }

    /// Every session has logged in to this target at some time.
    pub fn all_have_logged_in(&self) -> bool {
        self.logged_in.count_ones() as u64 == self.plan.sessions
    }

    /// Device of a LUN.
    pub fn disk_of(&self, lun: u16) -> usize {
        usize::from(lun == 1 && self.disks.len() > 1)
    }

    /// Its name.
    pub fn disk_name(&self, disk: usize) -> &'static str {
        DISKS[disk]
    }

    /// LUNs of the same device, as bits.
    pub fn luns_of(&self, lun: u16) -> u8 {
        if self.disk_of(lun) == 1 { 0b010 } else { 0b101 }
    }

    /// The LUNs among some that this world has.
    pub fn mapped(&self, luns: u8) -> Vec<u16> {
        let all: &[u16] = if self.disks.len() > 1 { &[0, 1, 2] } else { &[0, 2] };
        all.iter().copied().filter(|lun| luns & (1 << lun) != 0).collect()
    }

    /// LUNs go, or are back.
    pub fn set_away(&mut self, luns: u8, away: bool) {
        let until = if away { u64::MAX } else { self.now() };
        for lun in self.mapped(luns) {
            self.away[usize::from(lun)] = until;
            // While another LUN shows the device, nobody loses what is reserved.
            if self.luns_of(lun) & !luns == 0 {
                let now = self.now();
                self.reservations.doubt(self.disk_of(lun), now);
            }
            // What waits for a limit when its LUN goes is let go, whatever it then meets.
            self.rates.doubt(self.disk_of(lun));
        }
    }

    /// A LUN was away for some time since then.
    pub fn was_away(&self, lun: u16, since: u64) -> bool {
        self.away.get(usize::from(lun)).is_none_or(|until| *until >= since)
    }

    /// A device changes its size; `u64::MAX`: everybody knows that it is whole again.
    pub fn set_size(&mut self, disk: usize, blocks: u64) {
        if blocks == u64::MAX {
            self.small[disk] = self.now();
        } else {
            self.disks[disk].resize(blocks);
            self.small[disk] = u64::MAX;
        }
    }

    /// A device was small for some time since then.
    pub fn was_small(&self, disk: usize, since: u64) -> bool {
        self.small[disk] >= since
    }

    /// Devices may have failed.
    pub fn devices_fail(&self) -> bool {
        self.plan.has(Fault::DeviceError)
    }

    /// A session ends only when its initiator or the operator wants that.
    pub fn sessions_stay(&self) -> bool {
        !self.links_fail() && !self.plan.has(Fault::BadMemory) && !self.plan.has(Fault::Hostile)
    }

    /// Links may have failed by themselves.
    pub fn links_fail(&self) -> bool {
        let faults = [Fault::FetchFails, Fault::SendFails, Fault::Lost];
        faults.iter().any(|fault| self.plan.has(*fault))
    }

    fn set_act(&mut self, act: Act) {
        (self.act, self.act_began) = (act, self.world.steps);
        let troubles = if act == Act::Trouble { self.troubles() } else { Troubles::default() };
        self.disks.iter().for_each(|disk| disk.set_troubles(troubles));
        let faults = if act == Act::Trouble { self.plan.net() } else { NetFaults::default() };
        self.world.net.set_faults(faults);
        let micros = if act == Act::Fair { 10_000 } else { 500 };
        self.world.step_time = Duration::from_nanos(micros);
        note!(self, "act: {act:?}");
    }

    fn troubles(&self) -> Troubles {
        Troubles {
            polls: self.plan.polls,
            error_in: self.plan.rate(Fault::DeviceError),
            slow_in: self.plan.rate(Fault::Slow),
            stuck_in: self.plan.rate(Fault::Stuck),
            corrupt_in: self.plan.rate(Fault::Corrupt),
        }
    }
}

fn open(plan: &Plan, disks: &[Disk], stranger: &Gate) -> World {
    let mut world = World::new(&plan.options);
    world.bdevs.insert(Arc::new(stranger.clone())).expect("a new device");
    for (number, disk) in disks.iter().enumerate() {
        world.add(number as u16, Arc::new(disk.clone()));
    }
    world.map("t", 2, DISKS[0]);
    world
}

/// All parts of a run.
struct Run {
    shared: Shared,
    sessions: Vec<Session>,
    hostile: Hostile,
    operator: Operator,
    rng: Rng,
}

/// Runs a seed. Returns the hash of its event log; panics when a promise was broken.
pub fn run(seed: u64, cuts: &Cuts, print: bool, tally: &mut Tally) -> u64 {
    let mut run = Run::new(seed, cuts, print);
    run.trouble();
    if run.shared.plan.fair {
        run.fair();
    }
    run.rest();
    run.count_faults();
    let Run { mut shared, .. } = run;
    (shared.tally.runs, shared.tally.lines) = (1, shared.log.lines());
    tally.add(&shared.tally);
    shared.log.hash()
}

impl Run {
    fn new(seed: u64, cuts: &Cuts, print: bool) -> Run {
        let plan = Plan::new(seed, cuts);
        let disk = |n: u64| Disk::new(DISKS[n as usize], plan.blocks, plan.rng(100 + n));
        let disks: Vec<_> = (0..plan.disks).map(disk).collect();
        let sessions = (0..plan.sessions).map(|n| Session::new(n, plan.rng(n))).collect();
        let (hostile, operator) = (Hostile::new(plan.rng(50)), Operator::new(plan.rng(51)));
        let rng = plan.rng(52);
        let stranger = Gate::new(STRANGER, plan.blocks);
        let shared = Shared {
            world: open(&plan, &disks, &stranger),
            blocks: disks.iter().map(|_| Blocks::new(plan.blocks)).collect(),
            disks,
            attentions: Attentions::default(),
            rates: Rates::default(),
            reservations: Reservations::default(),
            log: Log::new(print),
            tally: Tally::default(),
            act: Act::Trouble,
            act_began: 0,
            seq: 1,
            oldest: 0,
            commands_left: plan.commands,
            ends_channels: false,
            stranger,
            logged_in: 0,
            serial: 0,
            away: [0; 3],
            small: [0; 2],
            plan,
        };
        let mut run = Run { shared, sessions, hostile, operator, rng };
        for session in &mut run.sessions {
            session.login(&mut run.shared, false, None);
        }
        run.shared.set_act(Act::Trouble);
        run
    }

    fn step(&mut self) {
        let Run { shared, sessions, hostile, operator, .. } = self;
        shared.oldest = sessions.iter().map(Session::oldest).min().unwrap_or(0);
        sessions.iter_mut().for_each(|session| session.tick(shared));
        hostile.tick(shared);
        if operator.tick(shared) {
            let now = shared.now();
            shared.reservations.doubt_all(now);
            sessions.iter_mut().for_each(Session::doom);
        }
        shared.world.step();
    }

    /// The first act.
    fn trouble(&mut self) {
        for _ in 0..self.shared.plan.steps {
            self.step();
            if self.shared.plan.strikes(Fault::Crash, &mut self.rng) {
                self.crash();
            }
            if self.shared.plan.strikes(Fault::Restart, &mut self.rng) {
                self.restart();
            }
        }
    }

    /// Everybody goes on sending; what was under way ends, as nobody is overtaken for ever.
    fn fair(&mut self) {
        self.shared.tally.seen(Seen::Fair);
        self.shared.set_act(Act::Fair);
        let began = self.shared.now();
        for _ in 0..PATIENCE {
            self.step();
            if self.sessions.iter().all(|session| session.oldest() > began) {
                return;
            }
        }
        panic!("commands of before {began} have not ended: {}", self.describe());
    }

    /// The second act: no more faults, and everything ends.
    fn rest(&mut self) {
        self.shared.set_act(Act::Rest);
        self.hostile.forget();
        let rests = |run: &Run| {
            run.operator.rests()
                && run.shared.rates.limited().is_none()
                && run.sessions.iter().all(Session::rests)
        };
        for _ in 0..2 * PATIENCE {
            if rests(self) {
                break;
            }
            self.step();
        }
        assert!(rests(self), "it does not come to rest: {}", self.describe());
        let Run { shared, sessions, .. } = self;
        let all = |_: &World| sessions.iter().all(Session::has_all_credits);
        shared.world.until("all credits", all);
        shared.world.assert_home();
        let seen = self.shared.stranger.seen();
        // Hostile initiators may be its first friends.
        let alone = !self.shared.plan.has(Fault::Hostile);
        assert!(
            !alone || seen.is_empty(),
            "commands for another device reached the stranger: {seen:?}"
        );
        self.check_disks();
        self.check_attentions();
        self.sessions.clear();
        self.drain();
        let (steps, now) = (self.shared.world.steps, self.shared.world.clock.now());
        note!(self.shared, "the end: {steps} steps, {now:?}");
    }

    fn describe(&mut self) -> String {
        let sessions: Vec<_> = self.sessions.iter().map(Session::describe).collect();
        let reports = self.shared.world.reports();
        format!("operator {:?}, {sessions:#?}, {reports:#?}", self.operator.rests())
    }

    /// Every block holds what it may.
    fn check_disks(&mut self) {
        let Shared { disks, blocks, plan, .. } = &mut self.shared;
        for (disk, blocks) in disks.iter().zip(blocks) {
            for lba in 0..plan.blocks {
                let bytes = disk.block(lba);
                if let Err(wrong) = blocks.check(lba, &bytes, u64::MAX - 1, u64::MAX, |_| false) {
                    panic!("{disk:?} holds {wrong:x?}");
                }
            }
        }
    }

    /// A new session is told of its birth once per LUN, then of each change of the map once per LUN
    /// or with the list of the LUNs, even by the shortest way of a read.
    fn check_attentions(&mut self) {
        self.release_all();
        let world = &mut self.shared.world;
        let port = world.login(0, &Login::of(1));
        let luns = if self.shared.disks.len() > 1 { &[0, 1, 2][..] } else { &[0, 2] };
        let told = |world: &mut World, asc: u8| {
            let (block, read) = ([port.memory.seg(0, BLOCK as u32)], cdb::read10(0, 1));
            for lun in luns {
                let first = world.run(&port, *lun, &read, Data::In(&block));
                let code = first.sense.code();
                assert!(code.is_some_and(|code| code.1 == asc), "{asc:#x}: told of {code:x?}");
                let second = world.run(&port, *lun, &read, Data::In(&block));
                assert_eq!(second.status, 0, "told twice of {:?}", second.sense);
            }
        };
        told(world, 0x29);
        let changed = || Action::LunsChanged { target: "t".to_owned() };
        world.control(changed());
        told(world, 0x3f);
        // Who asks for the LUNs is told of what has changed until then.
        world.control(changed());
        let list = [port.memory.seg(0, 64)];
        assert_eq!(world.run(&port, 0, &cdb::report_luns(64), Data::In(&list)).status, 0);
        for lun in luns {
            let read = world.run(&port, *lun, &[0; 6], Data::None);
            assert_eq!(read.status, 0, "told of the LUNs, and of {:?}", read.sense);
        }
        world.control(changed());
        told(world, 0x3f);
    }

    /// A reset ends what sessions that still are have reserved.
    fn release_all(&mut self) {
        if !self.shared.plan.has(Fault::Reserve) {
            return;
        }
        let luns = self.shared.mapped(!0);
        let world = &mut self.shared.world;
        let port = world.login(0, &Login::of(77));
        for lun in luns {
            let reset = port.task(Tmf::LunReset as u8, lun, None);
            assert_eq!(world.wait(&port, reset), End::Task(Some(0)));
            let first = world.run(&port, lun, &[0; 6], Data::None);
            assert_eq!(first.sense.code(), Some((6, 0x29, 0)), "LUN {lun}");
            let second = world.run(&port, lun, &[0; 6], Data::None);
            assert_eq!(second.status, 0, "LUN {lun} is reserved after a reset");
        }
    }

    /// The process dies, and another one starts.
    fn crash(&mut self) {
        self.shared.tally.fault(Fault::Crash);
        note!(self.shared, "crash");
        self.shared.world.net.cut();
        self.shared.disks.iter().for_each(Disk::die);
        self.hostile.forget();
        for session in &mut self.sessions {
            session.forget(&mut self.shared, false);
        }
        let certain = self.certain();
        self.drain();
        let now = self.shared.now();
        self.shared.blocks.iter_mut().for_each(|blocks| blocks.crashed(now));
        for (disk, lba, value) in certain {
            let word = self.shared.disks[disk].block(lba);
            if !word.starts_with(&value.to_be_bytes()) {
                self.shared.tally.seen(Seen::Undone);
            }
        }
        self.shared.disks.iter().for_each(Disk::revive);
        self.reopen();
    }

    /// Blocks whose content is certain.
    fn certain(&self) -> Vec<(usize, u64, u64)> {
        let blocks = self.shared.blocks.iter().enumerate();
        let all = blocks.flat_map(|(disk, blocks)| {
            let known = move |lba| Some((disk, lba, blocks.certain(lba)?));
            (0..self.shared.plan.blocks).filter_map(known)
        });
        all.collect()
    }

    /// The target stops in good order, and another one starts.
    fn restart(&mut self) {
        self.shared.tally.fault(Fault::Restart);
        note!(self.shared, "restart");
        self.sessions.iter_mut().for_each(Session::doom);
        let now = self.shared.now();
        self.shared.reservations.doubt_all(now);
        self.hostile.forget();
        self.shared.world.begin(Action::Shutdown);
        if self.rng.one(2) {
            // Some channels are busy for longer than the target waits.
            self.shared.world.steps(30);
            self.shared.world.clock.advance(Duration::from_secs(2));
        }
        self.drain();
        self.shared.world.end();
        for session in &mut self.sessions {
            session.forget(&mut self.shared, true);
        }
        self.reopen();
    }

    /// Until the target has nothing any more.
    fn drain(&mut self) {
        let Shared { world, disks, .. } = &mut self.shared;
        disks.iter().for_each(|disk| disk.set_troubles(Troubles::default()));
        world.net.set_faults(NetFaults::default());
        let cores = world.shards.len();
        let empty = |world: &World| (0..cores).all(|core| world.net.connections(core) == 0);
        for _ in 0..PATIENCE {
            if empty(world) {
                break;
            }
            world.step();
        }
        assert!(empty(world), "connections are left");
        world.steps(20);
        // Cores that have stopped report no more: they stop when everything is home.
        if !world.stopped() {
            world.assert_home();
        }
    }

    fn reopen(&mut self) {
        self.operator.forget();
        let shared = &mut self.shared;
        shared.attentions.clear();
        shared.reservations.clear();
        shared.rates = Rates::default();
        shared.ends_channels = false;
        (shared.away, shared.small) = ([0; 3], [0; 2]);
        for disk in &shared.disks {
            disk.resize(shared.plan.blocks);
        }
        let (steps, now) = (shared.world.steps, shared.world.clock.now());
        let injected = shared.world.net.injected();
        count_net(&mut shared.tally, injected);
        shared.world = open(&shared.plan, &shared.disks, &shared.stranger);
        shared.logged_in = 0;
        shared.world.steps = steps;
        shared.world.clock.set(now);
        shared.set_act(Act::Trouble);
    }

    fn count_faults(&mut self) {
        let Shared { world, disks, tally, plan, .. } = &mut self.shared;
        count_net(tally, world.net.injected());
        for disk in disks {
            let struck = disk.struck();
            tally.faults(Fault::DeviceError, struck.errors);
            tally.faults(Fault::Slow, struck.slow);
            tally.faults(Fault::Stuck, struck.stuck);
            tally.faults(Fault::Corrupt, struck.corrupt);
        }
        for fault in [Fault::SmallMailbox, Fault::FewBuffers, Fault::FewSlots] {
            tally.faults(fault, u64::from(plan.has(fault)));
        }
    }
}

fn count_net(tally: &mut Tally, injected: transport::sim::NetInjected) {
    tally.faults(Fault::FetchFails, injected.fetches_failed);
    tally.faults(Fault::SendFails, injected.sends_failed);
    tally.faults(Fault::Late, injected.late);
    tally.faults(Fault::NoReceive, injected.without_receive);
    tally.faults(Fault::Lost, injected.lost);
}
