//! Cores, network, devices and initiators in one thread, with one clock and one seed.
//!
//! The shards are the production ones; only network and clock differ. [`World::step`] moves the
//! time and turns every shard once: the same seed and the same calls give the same run.
//!
//! Nothing waits without bound: a world that does not get where a test wants it panics with what
//! was waited for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bdev::registry::Registry;
use bdev::{Bdev, CoreContext};
use reactor::pool::{Pool, SizeClass};
use reactor::sys::memory::Memory;
use reactor::time::Manual;
use reactor::{Batch, Clock, Service};
use srpt_tgt::limits::Limits;
use srpt_tgt::scsi::Identity;
use srpt_tgt::shard::Shard;
use srpt_tgt::shard::message::{Action, ActionError, Answer, Ask, Message, Report, Token, Up};
use srpt_tgt::shard::names::{CoreId, TargetSpec, UnitId};
use srpt_tgt::shard::outbox::{CoreDoor, Outbox};
use srpt_tgt::shard::qos::rate::RateLimits;
use srpt_tgt::shard::unit::LogicalUnit;
use transport::initiator::{Data, Outcome};
use transport::sim::{LoginAnswer, Net, NetOptions, SimFabric, SimLink, SimMemory};
use transport::srp::{
    BUF_FMT_DIRECT, BUF_FMT_INDIRECT, LoginForm, LoginRej, LoginReq, LoginRsp, RejectReason,
};

use crate::port::{End, Inner, Port};

/// Steps after which something that must happen has not happened.
pub const PATIENCE: usize = 20_000;

/// Messages that a shard takes per turn.
const INBOX: usize = 64;

/// Time of a step.
const STEP: Duration = Duration::from_nanos(500);

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Cores.
    pub cores: usize,
    /// Source of all chance.
    pub seed: u64,
    /// Longest delay of a message or transfer, in ns.
    pub delay_ns_max: u64,
    /// Connections per core.
    pub connections: usize,
    /// Initiators share their memory with the target.
    pub lends: bool,
    /// Messages that fit a mailbox; the rest waits at the sender.
    pub mailbox: usize,
    /// Capacities of each core.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        let mut limits = Limits::for_pool(Limits::POOL_BYTES_MIN);
        (limits.slots, limits.credits) = (64, 32);
        Options {
            cores: 1,
            seed: 1,
            delay_ns_max: 1000,
            connections: 16,
            lends: false,
            mailbox: usize::MAX,
            limits,
        }
    }
}

impl Options {
    /// So many cores, all else as usual.
    pub fn cores(cores: usize) -> Options {
        Options { cores, ..Options::default() }
    }

    /// Few slots and buffers.
    pub fn tight(slots: usize, classes: &[(u32, u32)]) -> Options {
        let mut options = Options::default();
        options.limits.slots = slots;
        options.limits.classes = classes
            .iter()
            .map(|(bytes, count)| SizeClass { bytes: *bytes, count: *count })
            .collect();
        options
    }
}

/// A login as the initiator wants it.
#[derive(Debug, Clone)]
pub struct Login {
    /// Listener's target.
    pub target: String,
    /// Second half of the initiator port identifier.
    pub initiator: u64,
    /// The request; port identifiers are filled in from the above unless `port_id` is set.
    pub req: LoginReq,
    /// Target port identifier, if not the target's own.
    pub port_id: Option<[u8; 16]>,
}

/// GUID of the targets.
pub const GUID: u64 = 0x0002_c903_0000_1234;

impl Login {
    /// A single-channel login to target "t" with immediate data from byte 68 on.
    pub fn of(initiator: u64) -> Login {
        let req = LoginReq {
            form: LoginForm::Ib,
            tag: *b"thelogin",
            req_it_iu_len: 8276,
            req_buf_fmt: BUF_FMT_DIRECT | BUF_FMT_INDIRECT,
            req_flags: LoginReq::FLAG_IMMEDIATE_DATA,
            imm_data_offset: 68,
            initiator_port_id: [0; 16],
            target_port_id: [0; 16],
        };
        Login { target: "t".to_owned(), initiator, req, port_id: None }
    }

    /// The same with other channels kept.
    pub fn multi(initiator: u64) -> Login {
        Login::of(initiator).flags(LoginReq::FLAG_MULTI)
    }

    /// More request flags.
    pub fn flags(mut self, flags: u8) -> Login {
        self.req.req_flags |= flags;
        self
    }

    /// To another target.
    pub fn to(mut self, target: &str) -> Login {
        self.target = target.to_owned();
        self
    }

    /// The login on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut req = self.req;
        req.initiator_port_id[8..].copy_from_slice(&self.initiator.to_be_bytes());
        req.target_port_id = self.port_id.unwrap_or_else(|| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&GUID.to_be_bytes());
            id[8..].copy_from_slice(&GUID.to_be_bytes());
            id
        });
        let mut bytes = [0; LoginReq::LEN_IB];
        let len = req.emit(&mut bytes);
        bytes[..len].to_vec()
    }
}

/// A login that has not been answered.
pub struct Pending {
    link: SimLink,
    memory: SimMemory,
    core: usize,
    imm: u16,
}

impl Pending {
    /// The answer is there.
    pub fn answered(&self) -> bool {
        self.link.login_answer().is_some()
    }

    /// The initiator changes its mind.
    pub fn disconnect(&self) {
        self.link.disconnect();
    }

    /// The link has ended.
    pub fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// The answer, which is there.
    pub fn take(self) -> Result<Port, RejectReason> {
        let Pending { link, memory, core, imm } = self;
        match link.login_answer().expect("waited for") {
            LoginAnswer::Rejected(rej) => {
                let rej = LoginRej::parse(&rej).expect("a reject");
                assert_eq!(rej.buf_fmt, BUF_FMT_DIRECT | BUF_FMT_INDIRECT);
                Err(rej.reason)
            }
            LoginAnswer::Accepted(rsp) => {
                let rsp = LoginRsp::parse(&rsp).expect("a response");
                Ok(Port::new(link, memory, core, rsp, imm))
            }
        }
    }
}

/// Names the answers to what cores have asked: nobody waits for them.
const LOOKED: Token = 0;
/// Steps between two looks at what cores doubt.
const LOOK_EVERY: u64 = 64;

type Mailbox = Rc<RefCell<VecDeque<Message>>>;

/// The world.
pub struct World {
    /// The network.
    pub net: Net,
    /// The time.
    pub clock: Manual,
    /// One per core.
    pub shards: Vec<Shard<SimFabric>>,
    /// The devices.
    pub bdevs: Registry,
    /// Steps so far.
    pub steps: u64,
    /// Time of a step.
    pub step_time: Duration,
    /// Looks at devices that cores have asked for.
    pub asks: u64,
    /// Steps that each core does not run for.
    stalls: Vec<u64>,
    mailboxes: Vec<Mailbox>,
    inboxes: Vec<Batch<Message>>,
    receiver: mpsc::Receiver<Up>,
    /// Devices that cores want looked at.
    doubted: BTreeSet<(CoreId, String)>,
    answers: BTreeMap<Token, Vec<Answer>>,
    ports: Vec<Weak<RefCell<Inner>>>,
    units: BTreeMap<String, Arc<LogicalUnit>>,
    token: Token,
}

impl World {
    /// Cores with nothing but the target "t".
    pub fn new(options: &Options) -> World {
        options.limits.check();
        let net_options = NetOptions {
            delay_ns_max: options.delay_ns_max,
            connections_per_core: options.connections,
            lends: options.lends,
        };
        let net = Net::new(options.seed, options.cores, net_options);
        let mailboxes: Vec<Mailbox> = (0..options.cores).map(|_| Mailbox::default()).collect();
        let (sender, receiver) = mpsc::channel();
        let shards = (0..options.cores).map(|core| {
            let limits = options.limits.clone();
            let memory = Memory::ordinary(limits.pool_bytes()).expect("memory");
            let memory = Arc::new(memory);
            let pool = Pool::new(Arc::clone(&memory), &limits.classes);
            let depth = limits.slots as u32;
            let context = CoreContext { memory, ring: None, depth, wake: None };
            let doors = mailboxes.iter().map(|mailbox| door(mailbox, options.mailbox)).collect();
            let out = Outbox::new(CoreId::new(core), doors, sender.clone());
            Shard::new(SimFabric::new(&net, core), pool, limits, context, out)
        });
        let shards = shards.collect();
        let mut world = World {
            net,
            clock: Manual::default(),
            shards,
            bdevs: Registry::with_host("world"),
            steps: 0,
            step_time: STEP,
            asks: 0,
            stalls: vec![0; options.cores],
            inboxes: (0..options.cores).map(|_| Batch::new(INBOX)).collect(),
            mailboxes,
            receiver,
            doubted: BTreeSet::new(),
            answers: BTreeMap::new(),
            ports: Vec::new(),
            units: BTreeMap::new(),
            token: 0,
        };
        world.create_target("t");
        world
    }

    /// Adds a target of the usual GUID.
    pub fn create_target(&mut self, name: &str) {
        let name = name.to_owned();
        let spec = TargetSpec { name, service_guid: GUID, relative_port: 1 };
        self.control(Action::CreateTarget(Arc::new(spec)));
    }

    /// Moves the time and turns every shard and every initiator once.
    pub fn step(&mut self) {
        self.steps += 1;
        self.clock.advance(self.step_time);
        for (core, shard) in self.shards.iter_mut().enumerate() {
            if self.stalls[core] > 0 {
                self.stalls[core] -= 1;
                continue;
            }
            // A core that has ended has no thread any more.
            if shard.stopped() {
                continue;
            }
            let inbox = &mut self.inboxes[core];
            let mut mailbox = self.mailboxes[core].borrow_mut();
            while !inbox.is_full() {
                let Some(message) = mailbox.pop_front() else { break };
                inbox.push(message);
            }
            drop(mailbox);
            shard.turn(self.clock.now(), inbox);
        }
        self.ports.retain(|port| port.strong_count() > 0);
        for port in self.ports.iter().filter_map(Weak::upgrade) {
            port.borrow_mut().poll();
        }
        while let Ok(up) = self.receiver.try_recv() {
            match up {
                Up::Answer(answer) if answer.token == LOOKED => {}
                Up::Answer(answer) => self.answers.entry(answer.token).or_default().push(answer),
                Up::Ask(core, Ask::LookAt { bdev }) => {
                    self.asks += 1;
                    assert!(self.doubted.insert((core, bdev)), "asked before it was answered");
                }
            }
        }
        if self.steps.is_multiple_of(LOOK_EVERY) {
            self.look();
        }
    }

    /// The control plane has looked at what cores doubt.
    fn look(&mut self) {
        for (core, bdev) in std::mem::take(&mut self.doubted) {
            let message = Message::Control { token: LOOKED, action: Action::Looked { bdev } };
            self.mailboxes[core.index()].borrow_mut().push_back(message);
        }
    }

    /// A core does not run for so many steps.
    pub fn stall(&mut self, core: usize, steps: u64) {
        self.stalls[core] = steps;
    }

    /// Steps.
    pub fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| self.step());
    }

    /// Steps until `done`; panics after [`PATIENCE`] steps. `what` names what was waited for.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&World) -> bool) {
        for _ in 0..PATIENCE {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("{what}: not after {PATIENCE} steps");
    }

    /// Asks all cores for something; see [`World::answered`].
    pub fn begin(&mut self, action: Action) -> Token {
        self.begin_in_turn(action, |_, _| ())
    }

    /// The same, with something happening after each core was told.
    pub fn begin_in_turn(
        &mut self,
        action: Action,
        mut between: impl FnMut(&mut World, usize),
    ) -> Token {
        self.token += 1;
        let token = self.token;
        for core in 0..self.shards.len() {
            let action = action.clone();
            self.mailboxes[core].borrow_mut().push_back(Message::Control { token, action });
            between(self, core);
        }
        token
    }

    /// All cores have answered.
    pub fn answered(&self, token: Token) -> bool {
        self.answers.get(&token).is_some_and(|answers| answers.len() == self.shards.len())
    }

    /// Asks all cores and waits for their answers, in the order of the cores.
    pub fn try_control(&mut self, action: Action) -> Result<Vec<Report>, ActionError> {
        let what = format!("{action:?}");
        let token = self.begin(action);
        self.until(&what, |world| world.answered(token));
        let mut answers = self.answers.remove(&token).expect("just looked at");
        answers.sort_by_key(|answer| answer.core);
        answers.into_iter().map(|answer| answer.result).collect()
    }

    /// Asks all cores, none of which may refuse.
    pub fn control(&mut self, action: Action) -> Vec<Report> {
        self.try_control(action).expect("no core refuses")
    }

    /// Shows a device under a LUN and says so to the sessions.
    pub fn map(&mut self, target: &str, lun: u16, bdev: &str) {
        let (target, lu) = (target.to_owned(), self.unit(bdev));
        let announce = Action::AnnounceLun { target: target.clone(), lun, lu: Arc::clone(&lu) };
        self.control(announce);
        self.control(Action::MapLun { target: target.clone(), lun, lu, read_only: false });
        self.control(Action::LunsChanged { target });
    }

    /// A device by its name.
    pub fn device(&self, bdev: &str) -> Arc<dyn Bdev> {
        self.bdevs.find(bdev).expect("a device of that name")
    }

    /// The logical unit of a device.
    pub fn unit(&mut self, bdev: &str) -> Arc<LogicalUnit> {
        let (id, device) = (self.units.len() as u32, self.device(bdev));
        let unit = self.units.entry(bdev.to_owned()).or_insert_with(|| {
            let identity = Identity::new(device.product_name(), *device.uuid().as_bytes());
            Arc::new(LogicalUnit::new(UnitId::new(id), device, identity))
        });
        Arc::clone(unit)
    }

    /// Sets the rate limits of a device that is mapped.
    pub fn limit(&mut self, bdev: &str, limits: RateLimits) {
        self.units[bdev].limiter.set(&limits);
        let bdev = bdev.to_owned();
        self.control(Action::RateLimits { bdev, limited: limits.is_on() });
    }

    /// Takes a LUN out of the map and says so to the sessions.
    pub fn unmap(&mut self, target: &str, lun: u16) {
        self.control(Action::UnmapLun { target: target.to_owned(), lun });
        self.control(Action::LunsChanged { target: target.to_owned() });
    }

    /// Takes in a device and maps it to target "t".
    pub fn add(&mut self, lun: u16, bdev: Arc<dyn Bdev>) {
        let name = bdev.name().to_owned();
        self.bdevs.insert(bdev).expect("a new device");
        self.map("t", lun, &name);
    }

    /// Sends a login. Panics when the core has no connection free.
    pub fn connect(&mut self, core: usize, login: &Login, memory: &SimMemory) -> Pending {
        self.try_connect(core, login, memory).expect("a connection is free")
    }

    /// Sends a login; `None` when the core has no connection free.
    pub fn try_connect(
        &mut self,
        core: usize,
        login: &Login,
        memory: &SimMemory,
    ) -> Option<Pending> {
        let link = self.net.connect(core, &login.target, &login.bytes(), memory)?;
        let imm = login.req.imm_data_offset;
        Some(Pending { link, memory: memory.clone(), core, imm })
    }

    /// Waits for the answer to a login.
    pub fn finish(&mut self, pending: Pending) -> Result<Port, RejectReason> {
        self.until("the answer to a login", |_| pending.answered());
        let port = pending.take()?;
        self.watch(&port);
        Ok(port)
    }

    /// Polls a port in every step.
    pub fn watch(&mut self, port: &Port) {
        self.ports.push(port.weak());
    }

    /// Logs in with memory of its own: 4 MiB.
    pub fn try_login(&mut self, core: usize, login: &Login) -> Result<Port, RejectReason> {
        let pending = self.connect(core, login, &SimMemory::new(4 << 20));
        self.finish(pending)
    }

    /// Logs in; panics when the target refuses.
    pub fn login(&mut self, core: usize, login: &Login) -> Port {
        self.try_login(core, login).expect("accepted")
    }

    /// Logs in and clears the unit attentions of LUNs.
    pub fn ready(&mut self, core: usize, login: &Login, luns: &[u16]) -> Port {
        let port = self.login(core, login);
        for lun in luns {
            while self.run(&port, *lun, &[0; 6], Data::None).status != 0 {}
        }
        port
    }

    /// Waits for the end of a request.
    pub fn wait(&mut self, port: &Port, tag: reactor::Tag) -> End {
        self.until("the end of a request", |_| port.end(tag).is_some() || port.closed());
        port.end(tag).expect("the connection stays")
    }

    /// Runs one command.
    pub fn run(&mut self, port: &Port, lun: u16, cdb: &[u8], data: Data<'_>) -> Outcome {
        let tag = port.submit(lun, cdb, data);
        match self.wait(port, tag) {
            End::Answered(outcome) => outcome,
            other => panic!("{cdb:02x?} ended as {other:?}"),
        }
    }

    /// Reports of all cores.
    pub fn reports(&mut self) -> Vec<Report> {
        self.control(Action::Report)
    }

    /// A named counter, over all cores.
    pub fn counter(&mut self, name: &str) -> u64 {
        let reports = self.reports();
        let counters = reports.iter().flat_map(|report| &report.counters);
        counters.filter(|(other, _)| *other == name).map(|(_, count)| count).sum()
    }

    /// Connections closed for a reason, over all cores.
    pub fn closed(&mut self, reason: transport::CloseReason) -> u64 {
        let reports = self.reports();
        let closed = reports.iter().flat_map(|report| &report.closed);
        closed.filter(|(other, _)| *other == reason).map(|(_, count)| count).sum()
    }

    /// Waits until nothing runs, then asserts that every buffer, slot, receive and credit is home.
    pub fn assert_home(&mut self) {
        let mut last = String::new();
        for _ in 0..PATIENCE / 100 {
            match self.strays() {
                None => return,
                Some(stray) => last = stray,
            }
            self.steps(100);
        }
        panic!("not home: {last}");
    }

    /// Something that is not home.
    fn strays(&mut self) -> Option<String> {
        for (core, report) in self.reports().into_iter().enumerate() {
            if report.slots_used > 0 || report.waiting > 0 {
                return Some(format!(
                    "core {core}: {} slots, {} waiting",
                    report.slots_used, report.waiting
                ));
            }
            if let Some(class) = report.buffers.iter().find(|class| class.free != class.total) {
                return Some(format!("core {core}: {class:?}"));
            }
            if self.net.connections(core) != report.channels.len() {
                let (net, shard) = (self.net.connections(core), report.channels.len());
                return Some(format!("core {core}: {net} connections for {shard} channels"));
            }
            let busy = |channel: &&srpt_tgt::shard::message::ChannelReport| {
                channel.in_flight > 0 || channel.req_lim != channel.credits as i32
            };
            if let Some(channel) = report.channels.iter().find(busy) {
                return Some(format!("core {core}: {channel:?}"));
            }
        }
        None
    }

    /// Stops all cores as the control plane does.
    pub fn shut_down(&mut self) {
        self.control(Action::Shutdown);
        self.end();
    }

    /// Ends all cores, which have answered [`Action::Shutdown`].
    pub fn end(&mut self) {
        self.control(Action::End);
        self.until("the end of the cores", World::stopped);
    }

    /// Every shard has stopped.
    pub fn stopped(&self) -> bool {
        self.shards.iter().all(Service::stopped)
    }
}

fn door(mailbox: &Mailbox, capacity: usize) -> CoreDoor {
    let mailbox = Rc::clone(mailbox);
    Box::new(move |message| {
        let mut mailbox = mailbox.borrow_mut();
        if mailbox.len() >= capacity {
            return Err(message);
        }
        mailbox.push_back(message);
        Ok(())
    })
}
