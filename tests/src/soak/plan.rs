//! What a seed draws: the world, its work, and which faults strike how often.
//!
//! Every part of a run has a source of chance of its own, so that leaving a part out ([`Cuts`])
//! changes the others as little as can be: that makes failing runs shrink.

use std::fmt;
use std::time::Duration;

use transport::sim::{NetFaults, Rng};

use crate::world::Options;

/// Where initiators are asked whether they are there: so often.
pub const PROBE_EVERY: Duration = Duration::from_micros(500);

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $rates:expr;)*) => {
        /// A kind of trouble.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// All of them.
            pub const ALL: &[Fault] = &[$(Fault::$name,)*];
            const NAMES: &[&str] = &[$($text,)*];
            /// One in so many: of steps, commands or operations.
            const RATES: &[[u64; 3]] = &[$($rates,)*];
        }
    };
}

faults! {
    /// A channel is dropped without a word.
    Disconnect = "disconnect", [150, 400, 900];
    /// A channel ends with SRP_I_LOGOUT.
    Logout = "logout", [150, 400, 900];
    /// A new login takes over the session.
    Takeover = "takeover", [200, 500, 900];
    /// A login whose initiator goes away before the answer.
    HalfOpen = "half-open", [100, 300, 900];
    /// ABORT TASK.
    Abort = "abort", [20, 60, 200];
    /// ABORT TASK SET.
    AbortSet = "abort-set", [80, 200, 500];
    /// CLEAR TASK SET.
    ClearSet = "clear-set", [80, 200, 500];
    /// LOGICAL UNIT RESET.
    Reset = "reset", [80, 200, 500];
    /// A task management function that there is not.
    BadTask = "bad-task", [50, 150, 400];
    /// An initiator does not look at what it is sent for a while.
    Deaf = "deaf", [60, 150, 400];
    /// A descriptor of memory that is not registered.
    BadMemory = "bad-memory", [60, 150, 400];
    /// A command with a mistake that has one right answer.
    Mistake = "mistake", [6, 15, 40];
    /// An initiator that breaks the protocol.
    Hostile = "hostile", [10, 30, 60];
    /// A fetch fails.
    FetchFails = "fetch-fails", [40, 150, 500];
    /// A response is not sent.
    SendFails = "send-fails", [60, 200, 600];
    /// A completion of the fabric is late.
    Late = "late", [4, 15, 60];
    /// An initiator has no receive posted.
    NoReceive = "no-receive", [6, 20, 60];
    /// A completion of the fabric is lost.
    Lost = "lost", [150, 400, 900];
    /// A device fails an operation, perhaps half-way.
    DeviceError = "device-error", [10, 40, 150];
    /// A device is slow.
    Slow = "slow", [4, 12, 40];
    /// An operation hangs until the device returns.
    Stuck = "stuck", [20, 80, 250];
    /// A device returns wrong data.
    Corrupt = "corrupt", [20, 60, 200];
    /// A LUN is taken out of the map and put back.
    Remap = "remap", [80, 200, 500];
    /// A device is deleted, and created again.
    DeleteBdev = "delete-bdev", [120, 300, 600];
    /// A device changes its size.
    Resize = "resize", [60, 200, 500];
    /// The target is deleted, and created again.
    DeleteTarget = "delete-target", [200, 400, 800];
    /// The operator ends a session.
    EndSession = "end-session", [100, 300, 700];
    /// The process dies; devices keep what was flushed.
    Crash = "crash", [150, 300, 600];
    /// The target is stopped in good order, and started again.
    Restart = "restart", [200, 400, 800];
    /// A core does not run for a while.
    Stall = "stall", [30, 100, 300];
    /// The clock jumps.
    ClockJump = "clock-jump", [60, 200, 500];
    /// Mailboxes hold one message.
    SmallMailbox = "small-mailbox", [1, 1, 1];
    /// As few buffers as the limits allow.
    FewBuffers = "few-buffers", [1, 1, 1];
    /// As few slots.
    FewSlots = "few-slots", [1, 1, 1];
    /// A device's rate limits are set, changed or removed.
    RateLimit = "rate-limit", [30, 90, 300];
    /// The machine of an initiator goes without a word.
    Vanish = "vanish", [200, 500, 900];
    /// Another device is under a LUN for a while.
    Replace = "replace", [60, 150, 400];
    /// A session reserves a device for itself, or releases it.
    Reserve = "reserve", [8, 25, 80];
}

impl Fault {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The one of a name.
    pub fn of_name(name: &str) -> Option<Fault> {
        Self::ALL.iter().copied().find(|fault| fault.name() == name)
    }
}

/// What is left out of a run, to make a failing one smaller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cuts {
    /// These do not strike.
    pub without: Vec<Fault>,
    /// Steps of the first act, at most.
    pub steps: Option<u64>,
    /// Sessions, at most.
    pub sessions: Option<u64>,
    /// Channels of a session, at most.
    pub channels: Option<u64>,
    /// Cores, at most.
    pub cores: Option<u64>,
    /// Commands, at most.
    pub commands: Option<u64>,
}

impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = [
            ("steps", self.steps),
            ("sessions", self.sessions),
            ("channels", self.channels),
            ("cores", self.cores),
            ("commands", self.commands),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                write!(f, " --{name} {number}")?;
            }
        }
        if !self.without.is_empty() {
            let names: Vec<_> = self.without.iter().map(|fault| fault.name()).collect();
            write!(f, " --without {}", names.join(","))?;
        }
        Ok(())
    }
}

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// The world.
    pub options: Options,
    /// Steps of the first act.
    pub steps: u64,
    /// Initiators that keep the rules.
    pub sessions: u64,
    /// Channels of a session, at most.
    pub channels: u64,
    /// Devices: LUN 0, LUN 1, and LUN 2 is LUN 0 again.
    pub disks: u64,
    /// Blocks of a device.
    pub blocks: u64,
    /// A session sends a command in one of so many steps.
    pub send_in: u64,
    /// Polls that an operation of a device takes, at most.
    pub polls: u64,
    /// Commands in all, at most.
    pub commands: u64,
    /// Before the second act everybody goes on sending, and nobody may starve.
    pub fair: bool,
    rates: Vec<u64>,
}

impl Plan {
    /// Draws a plan.
    pub fn new(seed: u64, cuts: &Cuts) -> Plan {
        let mut rng = Rng::new(seed);
        let mut one_of = |choices: &[u64]| choices[rng.below(choices.len() as u64) as usize];
        // Swarm: in some worlds few faults, in some many.
        let on_in = one_of(&[2, 3, 5, 12]);
        let sessions = one_of(&[1, 2, 2, 3, 4]);
        let channels = one_of(&[1, 2, 3]);
        let cores = one_of(&[1, 2, 2, 3]);
        let steps = one_of(&[100, 200, 300, 500]);
        let disks = one_of(&[1, 1, 2]);
        let blocks = one_of(&[16, 64, 256]);
        let send_in = one_of(&[1, 2, 4, 12]);
        let polls = one_of(&[1, 4, 12, 40]);
        let fair = one_of(&[0, 0, 0, 0, 0, 0, 0, 1]) == 1;
        let delay_ns_max = one_of(&[0, 700, 3000, 12_000]);
        let credits = one_of(&[2, 5, 32]);
        let mut rates = Vec::with_capacity(Fault::ALL.len());
        // A source of its own for what the first seeds of the corpus did not know.
        let mut later = Rng::new(seed ^ 0x6c61_7465_7221);
        for fault in Fault::ALL {
            let is_late =
                matches!(fault, Fault::RateLimit | Fault::Vanish | Fault::Replace | Fault::Reserve);
            let rng = if is_late { &mut later } else { &mut rng };
            let rate = Fault::RATES[*fault as usize][rng.below(3) as usize];
            let on = rng.one(on_in) && !cuts.without.contains(fault);
            rates.push(if on { rate } else { 0 });
        }
        // So has this one.
        let lends = Rng::new(seed ^ 0x6c65_6e64_7321).one(3);
        let cut = |value: u64, most: Option<u64>| most.map_or(value, |most| value.min(most));
        let mut plan = Plan {
            seed,
            options: Options::default(),
            steps: cut(steps, cuts.steps),
            sessions: cut(sessions, cuts.sessions),
            channels: cut(channels, cuts.channels).max(1),
            disks,
            blocks,
            send_in,
            polls,
            commands: cuts.commands.unwrap_or(u64::MAX),
            fair,
            rates,
        };
        plan.options = plan.world(rng.next_u64(), cut(cores, cuts.cores).max(1));
        plan.options.delay_ns_max = delay_ns_max;
        plan.options.lends = lends;
        plan.options.limits.credits = credits as u32;
        plan
    }

    fn world(&self, seed: u64, cores: u64) -> Options {
        let few_slots = self.has(Fault::FewSlots);
        let mut options = match (self.has(Fault::FewBuffers), few_slots) {
            (true, _) => Options::tight(32, &[(4096, 1), (1 << 20, 3)]),
            (false, true) => Options::tight(32, &[(4096, 8), (65536, 2), (1 << 20, 3)]),
            _ => Options::tight(32, &[(4096, 32), (65536, 8), (1 << 20, 4)]),
        };
        options.limits.slots = if few_slots { 1 + (seed % 3) as usize } else { 32 };
        if seed.is_multiple_of(4) {
            options.limits.turn_bytes = 4096;
        }
        // Otherwise a machine that is gone is missed only where something is sent to it.
        if self.has(Fault::Vanish) && seed.is_multiple_of(3) {
            options.limits.probe_every = PROBE_EVERY;
        }
        options.mailbox = if self.has(Fault::SmallMailbox) { 1 } else { usize::MAX };
        options.connections = 32;
        options.cores = cores as usize;
        options.seed = seed;
        options
    }

    /// One in so many; 0: never.
    pub fn rate(&self, fault: Fault) -> u64 {
        self.rates[fault as usize]
    }

    /// The fault is on.
    pub fn has(&self, fault: Fault) -> bool {
        self.rate(fault) > 0
    }

    /// Draws whether a fault strikes now.
    pub fn strikes(&self, fault: Fault, rng: &mut Rng) -> bool {
        let rate = self.rate(fault);
        rate > 0 && rng.one(rate)
    }

    /// A source of chance for one part of the run.
    pub fn rng(&self, part: u64) -> Rng {
        let mut rng = Rng::new(self.seed ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Rng::new(rng.next_u64())
    }

    /// The network's faults.
    pub fn net(&self) -> NetFaults {
        NetFaults {
            fetch_fails_in: self.rate(Fault::FetchFails),
            send_fails_in: self.rate(Fault::SendFails),
            late_in: self.rate(Fault::Late),
            no_receive_in: self.rate(Fault::NoReceive),
            lost_in: self.rate(Fault::Lost),
            wait_ns_max: 40_000,
        }
    }
}
