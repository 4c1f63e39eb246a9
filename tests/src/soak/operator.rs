//! Changes under way: the LUN map, devices, sizes, the target, sessions, cores and the clock.
//!
//! One change at a time is a script of a few steps, each of which waits for the one before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use reactor::Clock;
use srpt_tgt::shard::message::{Action, Token};
use srpt_tgt::shard::names::{SessionId, TargetSpec};
use srpt_tgt::shard::qos::rate::RateLimits;
use transport::sim::Rng;

use super::attentions::{Begun, Kind};
use super::plan::Fault;
use super::run::{Act, REPLACED_LUN, STRANGER, Shared};
use crate::note;
use crate::world::GUID;

/// A step of a script.
#[derive(Debug)]
enum Step {
    /// Asks all cores, and waits for all answers.
    Do(Action),
    /// The same, for something that raises an attention at LUNs.
    Tell(Action, Kind, u8),
    /// Waits so many steps.
    Pause(u64),
    /// From now on these LUNs may be away, or are there again.
    Away(u8, bool),
    /// A device has so many blocks.
    Size(usize, u64),
    /// From now on channels may end, or don't any more.
    EndsChannels(bool),
    /// Changes the rate limits of a device, and waits until all cores know.
    Limit(usize, RateLimits),
    /// All cores know.
    Limited(usize),
}

/// What the script waits for.
enum Wait {
    Nothing,
    Answers(Token, Option<Begun>),
    Steps(u64),
}

/// The operator.
pub struct Operator {
    rng: Rng,
    script: VecDeque<Step>,
    wait: Wait,
}

const TARGET: &str = "t";

impl Operator {
    /// One with nothing to do.
    pub fn new(rng: Rng) -> Operator {
        Operator { rng, script: VecDeque::new(), wait: Wait::Nothing }
    }

    /// Nothing is under way.
    pub fn rests(&self) -> bool {
        self.script.is_empty() && matches!(self.wait, Wait::Nothing)
    }

    /// The target is gone, and with it what was under way.
    pub fn forget(&mut self) {
        self.script.clear();
        self.wait = Wait::Nothing;
    }

    /// What it does in this step. True: all sessions' channels are about to end.
    pub fn tick(&mut self, shared: &mut Shared) -> bool {
        if shared.act == Act::Trouble {
            self.machine(shared);
        }
        match &mut self.wait {
            Wait::Nothing => {}
            Wait::Steps(0) => self.wait = Wait::Nothing,
            Wait::Steps(left) => *left -= 1,
            Wait::Answers(token, begun) => {
                if shared.world.answered(*token) {
                    let now = shared.now();
                    begun.iter().for_each(|begun| shared.attentions.end(*begun, now));
                    self.wait = Wait::Nothing;
                }
            }
        }
        if !matches!(self.wait, Wait::Nothing) {
            return false;
        }
        if self.script.is_empty() && shared.act == Act::Trouble {
            self.write_script(shared);
        }
        if self.script.is_empty()
            && shared.act == Act::Rest
            && let Some(disk) = shared.rates.limited()
        {
            self.script.push_back(Step::Pause(self.rng.below(1000)));
            self.limit(disk, RateLimits::default());
        }
        let Some(step) = self.script.pop_front() else { return false };
        note!(shared, "operator: {step:?}");
        self.play(shared, step)
    }

    fn play(&mut self, shared: &mut Shared, step: Step) -> bool {
        match step {
            Step::Do(action) => {
                self.wait = Wait::Answers(shared.world.begin(action), None);
            }
            Step::Tell(action, kind, luns) => {
                let begun = shared.attentions.begin(kind, luns, None);
                self.wait = Wait::Answers(shared.world.begin(action), Some(begun));
            }
            Step::Pause(steps) => self.wait = Wait::Steps(steps),
            Step::Away(luns, away) => shared.set_away(luns, away),
            Step::Size(disk, blocks) => shared.set_size(disk, blocks),
            Step::EndsChannels(ends) => {
                shared.ends_channels = ends;
                return ends;
            }
            Step::Limit(disk, limits) => {
                let (name, now) = (shared.disk_name(disk), shared.world.clock.now());
                shared.rates.tell(disk, limits, now);
                shared.world.unit(name).limiter.set(&limits);
                let (bdev, limited) = (name.to_owned(), limits.is_on());
                let action = Action::RateLimits { bdev, limited };
                self.wait = Wait::Answers(shared.world.begin(action), None);
            }
            Step::Limited(disk) => {
                let now = shared.now();
                shared.rates.confirm(disk, now);
            }
        }
        false
    }

    /// Cores that stall, and the clock.
    fn machine(&mut self, shared: &mut Shared) {
        if shared.plan.strikes(Fault::Stall, &mut self.rng) {
            let core = self.rng.below(shared.world.shards.len() as u64) as usize;
            let steps = 1 + self.rng.below(60);
            note!(shared, "core {core} stalls for {steps} steps");
            shared.world.stall(core, steps);
            shared.tally.fault(Fault::Stall);
        }
        if shared.plan.strikes(Fault::ClockJump, &mut self.rng) {
            let jump =
                [Duration::from_micros(200), Duration::from_millis(5), Duration::from_secs(2)];
            let jump = jump[self.rng.below(3) as usize];
            note!(shared, "the clock jumps by {jump:?}");
            shared.world.clock.advance(jump);
            shared.tally.fault(Fault::ClockJump);
        }
    }

    fn write_script(&mut self, shared: &mut Shared) {
        let faults = [
            Fault::Remap,
            Fault::DeleteBdev,
            Fault::Resize,
            Fault::DeleteTarget,
            Fault::EndSession,
            Fault::RateLimit,
            Fault::Replace,
        ];
        for fault in faults {
            if !shared.plan.strikes(fault, &mut self.rng) {
                continue;
            }
            shared.tally.fault(fault);
            let pause = self.rng.below(60);
            match fault {
                Fault::Remap => {
                    let lun = self.rng.below(3) as u16;
                    if lun != 1 || shared.disks.len() > 1 {
                        self.remap(shared, 1 << lun, None, pause);
                    }
                }
                Fault::DeleteBdev => {
                    let disk = self.rng.below(shared.disks.len() as u64) as usize;
                    let luns = shared.luns_of(disk as u16);
                    self.remap(shared, luns, Some(disk), pause);
                }
                Fault::Resize => self.resize(shared, pause),
                // Who logs in for the first time meanwhile may use what is there.
                Fault::Replace if shared.all_have_logged_in() => self.replace(shared, pause),
                Fault::Replace => {}
                Fault::DeleteTarget => self.delete_target(shared, pause),
                Fault::RateLimit => {
                    let disk = self.rng.below(shared.disks.len() as u64) as usize;
                    let is_limited = shared.rates.limited() == Some(disk);
                    let off = is_limited && self.rng.one(3);
                    let limits = if off { RateLimits::default() } else { self.draw_limits() };
                    self.limit(disk, limits);
                }
                _ => self.end_session(shared),
            }
            return;
        }
    }

    /// Takes LUNs out of the map and puts them back; deletes their device meanwhile.
    fn remap(&mut self, shared: &mut Shared, luns: u8, close: Option<usize>, pause: u64) {
        self.script.push_back(Step::Away(luns, true));
        for lun in shared.mapped(luns) {
            let target = TARGET.to_owned();
            self.script.push_back(Step::Do(Action::UnmapLun { target, lun }));
        }
        self.tell_map();
        if let Some(disk) = close {
            let bdev = shared.world.device(shared.disk_name(disk));
            self.script.push_back(Step::Do(Action::CloseBdev { bdev }));
        }
        self.script.push_back(Step::Pause(pause));
        self.map(shared, luns);
        self.script.push_back(Step::Away(luns, false));
        self.tell_map();
    }

    /// Shows a stranger under the last LUN for a while. Nobody asks who is there, so nobody may
    /// reach the stranger.
    fn replace(&mut self, shared: &mut Shared, pause: u64) {
        let (lun, luns) = (REPLACED_LUN, 1 << REPLACED_LUN);
        let target = || TARGET.to_owned();
        let lu = shared.world.unit(STRANGER);
        let announced = Arc::clone(&lu);
        self.script.push_back(Step::Away(luns, true));
        self.script.push_back(Step::Do(Action::UnmapLun { target: target(), lun }));
        self.tell_map();
        self.script.extend([
            Step::Do(Action::AnnounceLun { target: target(), lun, lu: announced }),
            Step::Do(Action::MapLun { target: target(), lun, lu, read_only: false }),
        ]);
        self.tell_map();
        self.script.push_back(Step::Pause(pause));
        self.script.push_back(Step::Do(Action::UnmapLun { target: target(), lun }));
        self.tell_map();
        let bdev = shared.world.device(STRANGER);
        self.script.push_back(Step::Do(Action::CloseBdev { bdev }));
        self.map(shared, luns);
        self.script.push_back(Step::Away(luns, false));
        self.tell_map();
    }

    fn map(&mut self, shared: &mut Shared, luns: u8) {
        for lun in shared.mapped(luns) {
            let (target, read_only) = (TARGET.to_owned(), false);
            let lu = shared.world.unit(shared.disk_name(shared.disk_of(lun)));
            let (to, what) = (target.clone(), Arc::clone(&lu));
            self.script.push_back(Step::Do(Action::AnnounceLun { target: to, lun, lu: what }));
            self.script.push_back(Step::Do(Action::MapLun { target, lun, lu, read_only }));
        }
    }

    fn tell_map(&mut self) {
        let target = TARGET.to_owned();
        let action = Action::LunsChanged { target };
        self.script.push_back(Step::Tell(action, Kind::LunsChanged, !0));
    }

    fn resize(&mut self, shared: &mut Shared, pause: u64) {
        let disk = self.rng.below(shared.disks.len() as u64) as usize;
        let (whole, bdev) = (shared.plan.blocks, shared.disk_name(disk).to_owned());
        let luns = shared.luns_of(disk as u16);
        for (blocks, pause) in [(1 + self.rng.below(whole), pause), (whole, 0)] {
            let action = Action::CapacityChanged { bdev: bdev.clone() };
            self.script.push_back(Step::Size(disk, blocks));
            self.script.push_back(Step::Tell(action, Kind::Capacity, luns));
            self.script.push_back(Step::Pause(pause));
        }
        self.script.push_back(Step::Size(disk, u64::MAX));
    }

    fn delete_target(&mut self, shared: &mut Shared, pause: u64) {
        let (name, service_guid) = (TARGET.to_owned(), GUID);
        let spec = TargetSpec { name, service_guid, relative_port: 1 };
        self.script.extend([
            Step::EndsChannels(true),
            Step::Away(!0, true),
            Step::Do(Action::DeleteTarget { target: TARGET.to_owned() }),
            Step::Pause(pause),
            Step::Do(Action::CreateTarget(Arc::new(spec))),
        ]);
        self.map(shared, !0);
        self.script.extend([Step::Away(!0, false), Step::EndsChannels(false)]);
    }

    /// Ends a session by the number that reports show.
    fn end_session(&mut self, shared: &mut Shared) {
        let session = 1 + self.rng.below(shared.plan.sessions + 3);
        self.script.extend([
            Step::EndsChannels(true),
            Step::Do(Action::Disconnect { session: SessionId::new(session) }),
            Step::Pause(40),
            Step::EndsChannels(false),
        ]);
    }

    /// A command of a few blocks is worth some to some hundred steps.
    fn draw_limits(&mut self) -> RateLimits {
        let mut draw = |choices: [u64; 3]| match self.rng.below(2) {
            0 => 0,
            _ => choices[self.rng.below(3) as usize],
        };
        let mut bytes = || draw([1 << 26, 1 << 28, 1 << 30]);
        let (rw_bytes, r_bytes, w_bytes) = (bytes(), bytes(), bytes());
        let rw_ios = draw([20_000, 200_000, 2_000_000]);
        let limits = RateLimits { rw_ios, rw_bytes, r_bytes, w_bytes };
        if limits.is_on() { limits } else { RateLimits { rw_ios: 100_000, ..limits } }
    }

    fn limit(&mut self, disk: usize, limits: RateLimits) {
        self.script.extend([Step::Limit(disk, limits), Step::Limited(disk)]);
    }
}
