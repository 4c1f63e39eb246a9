//! No heap allocation per command, neither in the target nor in the initiator library.
//!
//! Both ends run by hand in one thread: the production shard over shared memory, as the target puts
//! it together, and the initiator's channel.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bdev::malloc::MallocOptions;
use bdev::null::NullOptions;
use bdev::registry::Registry;
use bdev::stacked::delay::{DelayOptions, Latencies};
use bdev::stacked::fault::{Corruption, ErrorInjection, ErrorOptions, Fault, Injection, IoType};
use bdev::uring::UringOptions;
use bdev::{Bdev, CoreContext};
use reactor::sys::memory::Memory;
use reactor::sys::tsc::Tsc;
use reactor::{Batch, Clock, Pool, Service};
use rustix::event::EventfdFlags;
use srpt_tests::sys::{Counting, allocations};
use srpt_tgt::limits::Limits;
use srpt_tgt::scsi::Identity;
use srpt_tgt::shard::Shard;
use srpt_tgt::shard::message::{Action, Message, Up};
use srpt_tgt::shard::names::{CoreId, TargetSpec, UnitId};
use srpt_tgt::shard::outbox::Outbox;
use srpt_tgt::shard::unit::LogicalUnit;
use transport::initiator::{Channel, Command, Data, DataMemory, Event, LoginOptions, Session, cdb};
use transport::shm::{FabricOptions, Listener, ShmConnector, ShmFabric, ShmLink, ShmMemory};
use transport::srp::Lun;

#[global_allocator]
static COUNTING: Counting = Counting;

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

/// Commands in flight. More than a turn's batch serves at once.
const DEPTH: u64 = 64;
const WARM_UP: u64 = 2000;
const COMMANDS: u64 = 10_000;

/// Bytes of data memory of one command: the largest, and room for a start that is not aligned.
const ROOM: usize = 65536 + 4096;

/// One core's target, turned by hand.
struct Rig {
    shard: Shard<ShmFabric>,
    clock: Tsc,
    inbox: Batch<Message>,
    /// What the core has said to itself.
    own: Rc<RefCell<VecDeque<Message>>>,
    answers: mpsc::Receiver<Up>,
    listener: Listener,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Rig {
        let limits = Limits::for_pool(Limits::POOL_BYTES_MIN);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags).unwrap());
        let options = FabricOptions {
            connections_max: limits.shm_connections as u32,
            ops_max: limits.slots + limits.connections(),
        };
        let (fabric, door) = ShmFabric::new(options, wake);
        let listener = Listener::start(vec![door]).unwrap();
        let memory = Arc::new(Memory::ordinary(Limits::POOL_BYTES_MIN).unwrap());
        let pool = Pool::new(Arc::clone(&memory), &limits.classes);
        let depth = limits.slots as u32;
        let context = CoreContext { memory, ring: None, depth, wake: None };
        let own = Rc::new(RefCell::new(VecDeque::with_capacity(16)));
        let to_self = Rc::clone(&own);
        let (sender, answers) = mpsc::channel();
        let say = move |message| {
            to_self.borrow_mut().push_back(message);
            Ok(())
        };
        let outbox = Outbox::new(CoreId::new(0), vec![Box::new(say)], sender);
        let shard = Shard::new(fabric, pool, limits, context, outbox);
        let (clock, inbox) = (Tsc::new(), Batch::new(16));
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig { shard, clock, inbox, own, answers, listener, dir };
        let spec = TargetSpec { name: "t0".into(), service_guid: 1, relative_port: 1 };
        rig.order(Action::CreateTarget(Arc::new(spec)));
        for (lun, bdev) in rig.bdevs().into_iter().enumerate() {
            let identity = Identity::new(bdev.product_name(), *bdev.uuid().as_bytes());
            let lu = Arc::new(LogicalUnit::new(UnitId::new(lun as u32 + 1), bdev, identity));
            let target = "t0".to_owned();
            rig.order(Action::MapLun { target, lun: lun as u16, lu, read_only: false });
        }
        rig.listener.add_listener("t0", rig.dir.path().join("srp.sock")).unwrap();
        rig
    }

    /// LUN 0 null, 1 malloc, 2 file, 3 an error device that changes data over a delay device.
    fn bdevs(&self) -> [Arc<dyn Bdev>; 4] {
        let mut registry = Registry::new();
        let (num_blocks, block_size) = (8 * MIB / 512, 512);
        let null = NullOptions {
            name: Some("Null0".into()),
            num_blocks,
            block_size,
            ..NullOptions::default()
        };
        let malloc = MallocOptions {
            name: Some("Malloc0".into()),
            num_blocks,
            block_size,
            ..MallocOptions::default()
        };
        let path = self.dir.path().join("disk.img");
        std::fs::File::create(&path).unwrap().set_len(8 * MIB).unwrap();
        let file = UringOptions {
            name: Some("File0".into()),
            block_size: Some(512),
            ..UringOptions::new(path.to_str().unwrap())
        };
        let base = MallocOptions { name: Some("Base".into()), ..malloc.clone() };
        registry.create(base).unwrap();
        let latencies =
            Latencies { avg_read_us: 5, p99_read_us: 50, avg_write_us: 5, p99_write_us: 50 };
        let delay = DelayOptions::new("D", "Base", latencies);
        registry.create(delay).unwrap();
        let error = registry.create(ErrorOptions { base: "D".into(), uuid: None }).unwrap();
        let fault = Fault::CorruptData(Corruption { offset: 9, value: 1 });
        let injection = Injection { fault, num: u32::MAX, queue_depth: 2 };
        let errors: Arc<ErrorInjection> = registry.of_kind("EE_D", "").unwrap();
        errors.inject(&IoType::ALL, injection);
        [
            registry.create(null).unwrap(),
            registry.create(malloc).unwrap(),
            registry.create(file).unwrap(),
            error,
        ]
    }

    fn turn(&mut self) {
        while let Some(message) = self.own.borrow_mut().pop_front() {
            self.inbox.push(message);
        }
        self.shard.turn(self.clock.now(), &mut self.inbox);
    }

    fn order(&mut self, action: Action) {
        self.inbox.push(Message::Control { token: 0, action });
        self.turn();
        let Ok(Up::Answer(answer)) = self.answers.try_recv() else { panic!("no answer") };
        answer.result.expect("the core obeys");
    }

    /// A session of one channel: the login waits in a thread of its own while the core turns.
    fn login(&mut self) -> Session<ShmConnector> {
        let path = self.dir.path().join("srp.sock");
        let login = std::thread::spawn(move || {
            let options = LoginOptions::new([1; 16], [0; 16]);
            Session::login(&ShmConnector::new(path), &options, 1, DEPTH as usize * ROOM).unwrap()
        });
        let deadline = Instant::now() + LIMIT;
        while !login.is_finished() {
            assert!(Instant::now() < deadline, "no login");
            self.turn();
        }
        login.join().unwrap()
    }
}

/// One kind of command.
#[derive(Debug, Clone, Copy)]
struct Load {
    lun: u16,
    write: bool,
    blocks: u32,
    /// Bytes from the start of a page: data that is not aligned is not placed in situ.
    offset: usize,
    /// Descriptors of one command.
    pieces: usize,
}

const BLOCK_BYTES: u32 = 512;
const UNITS: u64 = 8 * MIB / BLOCK_BYTES as u64;

impl Load {
    fn submit(&self, channel: &mut Channel<ShmLink>, memory: &ShmMemory, slot: u64, number: u64) {
        let lba = number * u64::from(self.blocks) % UNITS;
        let at = slot as usize * ROOM + self.offset;
        let bytes = self.blocks * BLOCK_BYTES / self.pieces as u32;
        let seg = |piece: usize| memory.seg(at + piece * bytes as usize, bytes);
        let segs = [seg(0), seg(self.pieces - 1)];
        let segs = &segs[..self.pieces];
        let lun = Lun::from_number(self.lun).unwrap();
        let (cdb, data) = match self.write {
            true => (cdb::write16(lba, self.blocks, false), Data::Out(segs)),
            false => (cdb::read16(lba, self.blocks), Data::In(segs)),
        };
        channel.submit(&Command::new(lun, &cdb, data, slot)).expect("credits for the depth");
    }
}

/// Runs `commands` commands at full depth; allocations of the target and of the initiator.
fn run(rig: &mut Rig, session: &mut Session<ShmConnector>, load: Load, commands: u64) -> [u64; 2] {
    let (channel, memory) = (&mut session.channels[0], &session.memory);
    let (mut target, mut initiator) = (0, 0);
    let mut idle = [0u64; DEPTH as usize];
    let mut idle_count = DEPTH as usize;
    idle.iter_mut().zip(0..).for_each(|(slot, number)| *slot = number);
    let (mut sent, mut done) = (0, 0);
    let deadline = Instant::now() + LIMIT;
    while done < commands {
        assert!(Instant::now() < deadline, "{done} of {commands} commands: {load:?}");
        let before = allocations();
        while idle_count > 0 && sent < commands {
            idle_count -= 1;
            load.submit(channel, memory, idle[idle_count], sent);
            sent += 1;
        }
        channel.flush().unwrap();
        let polled = channel.poll(|event| match event {
            Event::Done(completion) => {
                assert_eq!(completion.status, 0, "{load:?} {:x?}", completion.sense);
                idle[idle_count] = completion.user;
                idle_count += 1;
                done += 1;
            }
            other => panic!("{other:?}"),
        });
        polled.unwrap();
        initiator += allocations() - before;
        let before = allocations();
        rig.turn();
        target += allocations() - before;
    }
    [target, initiator]
}

#[test]
fn the_allocator_counts() {
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    drop(std::hint::black_box(vec![0u8; 4096]));
    assert_eq!(allocations() - before, 2);
}

#[test]
fn commands_allocate_nothing() {
    let mut rig = Rig::new();
    let mut session = rig.login();
    for number in 0..4 {
        // Unit attentions are taken before anything is counted.
        let lun = Lun::from_number(number).unwrap();
        let cdb = cdb::test_unit_ready();
        session.channels[0].submit(&Command::new(lun, &cdb, Data::None, 0)).unwrap();
        session.channels[0].flush().unwrap();
        let deadline = Instant::now() + LIMIT;
        while session.channels[0].in_flight() > 0 {
            assert!(Instant::now() < deadline, "no answer");
            rig.turn();
            session.channels[0].poll(|_| {}).unwrap();
        }
    }
    let small = Load { lun: 0, write: false, blocks: 8, offset: 0, pieces: 1 };
    for load in [
        small,
        Load { lun: 1, ..small },
        Load { lun: 1, write: true, ..small },
        Load { lun: 1, offset: 36, ..small },
        Load { lun: 1, write: true, blocks: 128, ..small },
        Load { lun: 1, write: true, blocks: 128, offset: 36, ..small },
        Load { lun: 1, blocks: 128, pieces: 2, ..small },
        Load { lun: 1, write: true, blocks: 128, pieces: 2, ..small },
        Load { lun: 2, ..small },
        Load { lun: 2, write: true, blocks: 32, ..small },
        Load { lun: 3, ..small },
        Load { lun: 3, write: true, ..small },
    ] {
        run(&mut rig, &mut session, load, WARM_UP);
        let [target, initiator] = run(&mut rig, &mut session, load, COMMANDS);
        assert_eq!(
            (target, initiator),
            (0, 0),
            "allocations of target and initiator in {COMMANDS} commands: {load:?}"
        );
    }
}
