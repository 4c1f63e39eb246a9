//! Instructions of the target per command, counted by callgrind.
//!
//! One core's target over shared memory and an initiator run by hand in one thread. A turn of the
//! target under load is a function of its own, so that callgrind can be told to count nothing else:
//!
//! ```text
//! valgrind --tool=callgrind --collect-atstart=no '--toggle-collect=*loaded_turn*' \
//!     instructions read 32 20000 null
//! ```
//!
//! The arguments are `read` or `write`, the depth, the number of commands, and the device: `null`,
//! `malloc`, or `passthru` over null, which does nothing at once; then `on`, a rate limit that
//! holds nothing back, or `removed`, one that was set and taken away. A command moves 4 KiB; the
//! sum that callgrind prints, divided by the commands, is the cost of one.
//! `scripts/instructions.sh` compares it with the figures that are checked in.
//!
//! `idle SESSIONS TURNS` runs turns of a target whose sessions do nothing, and prints the time of
//! one, too.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, mpsc};

use bdev::malloc::MallocOptions;
use bdev::null::NullOptions;
use bdev::registry::Registry;
use bdev::stacked::passthru::PassthruOptions;
use bdev::{Bdev, CoreContext};
use reactor::sys::memory::Memory;
use reactor::{Batch, Instant, Pool, Service};
use rustix::event::EventfdFlags;
use srpt_tgt::limits::Limits;
use srpt_tgt::scsi::Identity;
use srpt_tgt::shard::Shard;
use srpt_tgt::shard::message::{Action, Message, Up};
use srpt_tgt::shard::names::{CoreId, TargetSpec, UnitId};
use srpt_tgt::shard::outbox::Outbox;
use srpt_tgt::shard::qos::rate::RateLimits;
use srpt_tgt::shard::unit::LogicalUnit;
use transport::initiator::{Command, Data, DataMemory, Event, LoginOptions, Session, cdb};
use transport::shm::{FabricOptions, Listener, ShmConnector, ShmFabric};
use transport::srp::Lun;

/// Bytes and 512-byte blocks of a command.
const IO_BYTES: u32 = 4096;
const IO_BLOCKS: u32 = IO_BYTES / 512;
/// A limit, per second, that a turn of 1 µs and at most 64 commands never reaches.
const IOS_UNREACHED: u64 = 1_000_000_000;
/// Blocks of the device: 16 MiB.
const BLOCKS: u64 = 1 << 15;

/// One core's target, and what it has said to itself.
struct Rig {
    shard: Shard<ShmFabric>,
    inbox: Batch<Message>,
    own: Rc<RefCell<VecDeque<Message>>>,
    now_ns: u64,
}

/// What callgrind counts.
#[inline(never)]
fn loaded_turn(rig: &mut Rig) {
    rig.turn();
}

impl Rig {
    fn turn(&mut self) {
        while let Some(message) = self.own.borrow_mut().pop_front() {
            self.inbox.push(message);
        }
        self.now_ns += 1000;
        self.shard.turn(Instant::from_ns(self.now_ns), &mut self.inbox);
    }

    fn order(&mut self, action: Action) {
        self.inbox.push(Message::Control { token: 0, action });
        self.turn();
    }
}

/// What the LUN shows.
#[derive(Clone, Copy)]
enum Device {
    Null,
    Malloc,
    Passthru,
}

impl Device {
    fn make(self) -> Arc<dyn Bdev> {
        let mut registry = Registry::new();
        let null = || NullOptions { num_blocks: BLOCKS, block_size: 512, ..NullOptions::default() };
        let made = match self {
            Device::Null => registry.create(null()),
            Device::Malloc => registry.create(MallocOptions {
                num_blocks: BLOCKS,
                block_size: 512,
                ..MallocOptions::default()
            }),
            Device::Passthru => {
                let base = registry.create(null()).expect("a null device");
                let base = base.name().to_owned();
                registry.create(PassthruOptions { name: "P".into(), base, uuid: None })
            }
        };
        made.expect("a device")
    }
}

fn rig(device: Device, limit: &str) -> (Rig, Listener, mpsc::Receiver<Up>) {
    let limits = Limits::for_pool(Limits::POOL_BYTES_MIN);
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let wake = Arc::new(rustix::event::eventfd(0, flags).expect("a descriptor"));
    let options = FabricOptions {
        connections_max: limits.shm_connections as u32,
        ops_max: limits.slots + limits.connections(),
    };
    let (fabric, door) = ShmFabric::new(options, wake);
    let listener = Listener::start(vec![door]).expect("a thread");
    let memory = Arc::new(Memory::ordinary(Limits::POOL_BYTES_MIN).expect("memory"));
    let pool = Pool::new(Arc::clone(&memory), &limits.classes);
    let context = CoreContext { memory, ring: None, depth: limits.slots as u32, wake: None };
    let own = Rc::new(RefCell::new(VecDeque::new()));
    let to_self = Rc::clone(&own);
    let (sender, answers) = mpsc::channel();
    let say = move |message| {
        to_self.borrow_mut().push_back(message);
        Ok(())
    };
    let outbox = Outbox::new(CoreId::new(0), vec![Box::new(say)], sender);
    let shard = Shard::new(fabric, pool, limits, context, outbox);
    let mut rig = Rig { shard, inbox: Batch::new(16), own, now_ns: 0 };
    let spec = TargetSpec { name: "t0".into(), service_guid: 1, relative_port: 1 };
    rig.order(Action::CreateTarget(Arc::new(spec)));
    let bdev = device.make();
    let identity = Identity::new(bdev.product_name(), *bdev.uuid().as_bytes());
    let lu = Arc::new(LogicalUnit::new(UnitId::new(1), bdev, identity));
    let (target, unit) = ("t0".into(), Arc::clone(&lu));
    rig.order(Action::MapLun { target, lun: 0, lu: unit, read_only: false });
    let rates: &[u64] = match limit {
        "on" => &[IOS_UNREACHED],
        "removed" => &[IOS_UNREACHED, 0],
        _ => &[],
    };
    for rw_ios in rates {
        lu.limiter.set(&RateLimits { rw_ios: *rw_ios, ..RateLimits::default() });
        let bdev = lu.bdev.name().to_owned();
        rig.order(Action::RateLimits { bdev, limited: *rw_ios != 0 });
    }
    (rig, listener, answers)
}

fn listen(listener: &Listener) -> PathBuf {
    let path = std::env::temp_dir().join(format!("srpt-instructions-{}", std::process::id()));
    listener.add_listener("t0", &path).expect("a socket");
    path
}

/// A session of the initiator port with this number.
fn login(rig: &mut Rig, path: &Path, port: u64, depth: usize) -> Session<ShmConnector> {
    let path = path.to_path_buf();
    let login = std::thread::spawn(move || {
        let mut initiator = [1; 16];
        initiator[..8].copy_from_slice(&port.to_be_bytes());
        let options = LoginOptions::new(initiator, [0; 16]);
        Session::login(&ShmConnector::new(path), &options, 1, depth * IO_BYTES as usize)
    });
    while !login.is_finished() {
        rig.turn();
        std::thread::yield_now();
    }
    let mut session = login.join().expect("no panic").expect("a login");
    // Takes the unit attention that a login leaves.
    let lun = Lun::from_number(0).expect("a LUN");
    let cdb = cdb::test_unit_ready();
    let command = Command::new(lun, &cdb, Data::None, 0);
    session.channels[0].submit(&command).expect("a credit");
    while session.channels[0].in_flight() > 0 {
        session.channels[0].flush().expect("open");
        rig.turn();
        session.channels[0].poll(|_| {}).expect("open");
    }
    session
}

/// Turns of a target whose sessions do nothing, after those in which it notices that.
fn idle(sessions: u64, turns: u64) {
    let (mut rig, listener, _answers) = rig(Device::Null, "never");
    let path = listen(&listener);
    let idle: Vec<_> = (0..sessions).map(|port| login(&mut rig, &path, port, 1)).collect();
    (0..10_000).for_each(|_| rig.turn());
    let began = std::time::Instant::now();
    (0..turns).for_each(|_| loaded_turn(&mut rig));
    let turn_ns = began.elapsed().as_nanos() as f64 / turns as f64;
    println!("{} idle sessions: {turn_ns:.0} ns a turn", idle.len());
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| {
        args.get(at).map_or(default, |arg| arg.parse().expect("a number"))
    };
    if args.first().is_some_and(|arg| arg == "idle") {
        return idle(number(1, 100), number(2, 20_000));
    }
    let write = args.first().is_some_and(|arg| arg == "write");
    let (depth, commands) = (number(1, 32), number(2, 20_000));
    let limit = args.get(4).map_or("never", String::as_str);
    let device = match args.get(3).map(String::as_str) {
        Some("malloc") => Device::Malloc,
        Some("passthru") => Device::Passthru,
        _ => Device::Null,
    };
    let (mut rig, listener, _answers) = rig(device, limit);
    let path = listen(&listener);
    let mut session = login(&mut rig, &path, 1, depth as usize);
    let Session { channels, memory } = &mut session;
    let lun = Lun::from_number(0).expect("a LUN");
    let mut idle: Vec<u64> = (0..depth).collect();
    let (mut sent, mut done, mut turns) = (0u64, 0u64, 0u64);
    while done < commands {
        while sent < commands
            && let Some(slot) = idle.pop()
        {
            let lba = sent * u64::from(IO_BLOCKS) % BLOCKS;
            let segs = [memory.seg(slot as usize * IO_BYTES as usize, IO_BYTES)];
            let (cdb, data) = match write {
                true => (cdb::write10(lba as u32, IO_BLOCKS as u16, false), Data::Out(&segs)),
                false => (cdb::read10(lba as u32, IO_BLOCKS as u16), Data::In(&segs)),
            };
            channels[0].submit(&Command::new(lun, &cdb, data, slot)).expect("credits");
            sent += 1;
        }
        channels[0].flush().expect("open");
        loaded_turn(&mut rig);
        turns += 1;
        let polled = channels[0].poll(|event| match event {
            Event::Done(completion) => {
                assert_eq!(completion.status, 0);
                idle.push(completion.user);
                done += 1;
            }
            other => panic!("{other:?}"),
        });
        polled.expect("open");
    }
    println!("{done} commands in {turns} turns");
}
