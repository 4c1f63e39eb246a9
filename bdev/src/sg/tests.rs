//! The worker and its channels against a device that plays a disk or a tape by a script.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use reactor::sleep::Sleep;
use reactor::{Buf, Pool, pool::SizeClass};

use super::command::{Code, Transfer, end_of, end_of_refused, tape_residual};
use super::*;
use crate::contract;
use crate::scsi::{DataDirection, SENSE_BYTES_MAX};
use crate::sys::sg::{Flight, Payload, Raw};

const BLOCK: u32 = 512;

fn raw(status: u8, host_status: u16, sense: &[u8], residual: u32) -> Raw {
    let mut bytes = [0; SENSE_BYTES_MAX];
    bytes[..sense.len()].copy_from_slice(sense);
    let sense_len = sense.len() as u8;
    Raw { status, host_status, driver_status: 0, residual, sense: bytes, sense_len }
}

fn fixed(key: u8, asc: u8, ascq: u8) -> [u8; 18] {
    let mut sense = [0; 18];
    (sense[0], sense[2], sense[7], sense[12], sense[13]) = (0x70, key, 10, asc, ascq);
    sense
}

#[derive(Default)]
struct State {
    script: VecDeque<Result<Raw, Errno>>,
    data: VecDeque<Vec<u8>>,
    running: VecDeque<(Flight, Raw)>,
    seen: Vec<(Vec<u8>, u32, u32)>,
    most: usize,
    held: bool,
    gone: bool,
    resets: Vec<usize>,
    medium: Vec<u8>,
    block: usize,
}

#[derive(Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    depth: u32,
    max: u32,
}

impl Fake {
    fn new(blocks: usize, block: usize, depth: u32, max: u32) -> Fake {
        let state = State { medium: vec![0; blocks * block], block, ..State::default() };
        Fake { state: Arc::new(Mutex::new(state)), depth, max }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn play(&mut self, flight: &mut Flight) {
        let Some(transfer) = Transfer::of(&flight.cdb[..usize::from(flight.cdb_len)]) else {
            return;
        };
        if self.block == 0 {
            return;
        }
        assert_eq!(transfer.blocks * self.block as u64, u64::from(flight.len));
        let at = transfer.lba as usize * self.block;
        let range = at..at + flight.len as usize;
        let offset = flight.offset as usize;
        match (&mut flight.payload, flight.direction) {
            (Payload::Buf(buf), DataDirection::In) => buf.write_at(offset, &self.medium[range]),
            (Payload::Buf(buf), _) => buf.read_at(offset, &mut self.medium[range]),
            (Payload::Zeros, _) => self.medium[range].fill(0),
            (Payload::None, _) => panic!("a transfer without data"),
        }
    }
}

impl Device for Fake {
    fn start(&mut self, mut flight: Flight) -> Result<(), (Errno, Flight)> {
        assert!(flight.len <= self.max, "{} bytes at once", flight.len);
        let mut state = self.state();
        if state.gone {
            return Err((Errno::NODEV, flight));
        }
        let raw = match state.script.pop_front() {
            Some(Err(errno)) => return Err((errno, flight)),
            Some(Ok(raw)) => raw,
            None => raw(0, 0, &[], 0),
        };
        let cdb = flight.cdb[..usize::from(flight.cdb_len)].to_vec();
        state.seen.push((cdb, flight.offset, flight.len));
        if raw.status == 0 {
            state.play(&mut flight);
        }
        if let (Some(data), Payload::Buf(buf)) = (state.data.pop_front(), &mut flight.payload) {
            buf.write_at(0, &data);
        }
        state.running.push_back((flight, raw));
        state.most = state.most.max(state.running.len());
        assert!(state.running.len() <= self.depth as usize);
        Ok(())
    }

    fn reap(&mut self) -> Option<(Flight, Raw)> {
        let mut state = self.state();
        if state.held { None } else { state.running.pop_front() }
    }

    fn reset(&mut self) -> Result<(), Errno> {
        let mut state = self.state();
        let seen = state.seen.len();
        state.resets.push(seen);
        Ok(())
    }

    fn is_gone(&self) -> bool {
        self.state().gone
    }

    fn depth(&self) -> u32 {
        self.depth
    }

    fn transfer_bytes_max(&self) -> u32 {
        self.max
    }
}

fn shared(block_bytes: u32, blocks: u64) -> Arc<Shared> {
    let shared = Shared::new(Hub::new().unwrap());
    shared.block_bytes.store(block_bytes, Ordering::Relaxed);
    shared.blocks.store(blocks, Ordering::Relaxed);
    Arc::new(shared)
}

const DISK: Traits = Traits { is_disk: true, is_tape: false, timeout_ms: 1000 };
const TAPE: Traits = Traits { is_disk: false, is_tape: true, timeout_ms: 1000 };

struct Bench {
    fake: Fake,
    worker: Worker<Fake>,
    channel: SgChannel,
    pool: Pool,
    done: Batch<IoDone>,
}

impl Bench {
    fn new(traits: Traits, fake: Fake, block_bytes: u32) -> Bench {
        let shared = shared(block_bytes, 1 << 20);
        let memory = Arc::new(Memory::ordinary(4 << 20).unwrap());
        let pool = Pool::new(Arc::clone(&memory), &[SizeClass { bytes: 1 << 18, count: 16 }]);
        let context = CoreContext { memory, ring: None, depth: 16, wake: None };
        let worker = Worker::new(Arc::clone(&shared), traits, fake.clone());
        let channel = SgChannel::open(&shared, geometry(block_bytes, 0), traits.is_disk, &context);
        Bench { fake, worker, channel, pool, done: Batch::new(16) }
    }

    fn submit(&mut self, index: u32, cdb: &[u8], direction: DataDirection, len: usize) {
        let buf = (len > 0).then(|| {
            let mut buf = self.pool.take(len).unwrap();
            buf.fill(0..len, 0xee);
            buf
        });
        self.channel.submit_scsi(ScsiIo { tag: Tag::new(index, 1), cdb, direction, buf });
        self.channel.flush();
    }

    fn turns(&mut self) {
        while self.worker.turn() {}
        self.channel.poll(Instant::default(), &mut self.done);
    }

    /// Runs a command: how it ended, and its data.
    fn run(&mut self, cdb: &[u8], direction: DataDirection, len: usize) -> (ScsiEnd, Vec<u8>) {
        self.submit(0, cdb, direction, len);
        self.turns();
        let done = self.done.pop().expect("the command ended");
        assert_eq!((done.tag, done.status), (Tag::new(0, 1), IoStatus::Scsi));
        (*self.channel.scsi_end(done.tag), self.home(done.buf))
    }

    fn home(&mut self, buf: Option<Buf>) -> Vec<u8> {
        let Some(buf) = buf else { return Vec::new() };
        let bytes = buf.private().unwrap().to_vec();
        self.pool.put(buf);
        bytes
    }
}

fn geometry(block_bytes: u32, blocks: u64) -> Geometry {
    Geometry {
        block_bytes,
        blocks,
        physical_exponent: 0,
        buf_align: 1,
        write_cache: true,
        read_only: false,
        unmap: false,
        unmap_zeroes: false,
        unmap_granularity: 0,
        rotational: false,
    }
}

/// A disk whose worker is turned by whoever polls a channel.
struct FakeDisk {
    shared: Arc<Shared>,
    geometry: Geometry,
    worker: Arc<Mutex<Worker<Fake>>>,
}

impl FakeDisk {
    fn new(fake: Fake) -> FakeDisk {
        let state = fake.state();
        let (block, blocks) = (state.block as u32, (state.medium.len() / state.block) as u64);
        drop(state);
        let shared = shared(block, blocks);
        let worker = Arc::new(Mutex::new(Worker::new(Arc::clone(&shared), DISK, fake)));
        FakeDisk { shared, geometry: geometry(block, blocks), worker }
    }
}

impl std::fmt::Debug for FakeDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeDisk")
    }
}

struct FakeDiskChannel {
    channel: SgChannel,
    worker: Arc<Mutex<Worker<Fake>>>,
}

impl IoChannel for FakeDiskChannel {
    fn submit(&mut self, io: Io) {
        self.channel.submit(io);
    }

    fn flush(&mut self) {
        self.channel.flush();
    }

    fn poll(&mut self, now: Instant, done: &mut Batch<IoDone>) {
        self.worker.lock().unwrap().turn();
        self.channel.poll(now, done);
    }

    fn arm(&mut self) -> bool {
        let idle = self.channel.arm();
        // The worker's thread would go on while the core sleeps.
        self.worker.lock().unwrap().turn();
        idle
    }
}

impl Bdev for FakeDisk {
    fn name(&self) -> &str {
        "fake"
    }

    fn product_name(&self) -> &'static str {
        "fake"
    }

    fn uuid(&self) -> Uuid {
        Uuid::nil()
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        let channel = SgChannel::open(&self.shared, self.geometry, true, core);
        Ok(Box::new(FakeDiskChannel { channel, worker: Arc::clone(&self.worker) }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        Map::new()
    }

    fn module(&self) -> &'static str {
        "fake"
    }

    fn options(&self) -> Value {
        Value::Null
    }
}

#[test]
fn a_disk_obeys_the_contract_in_parts_and_with_few_commands_at_once() {
    for (blocks, block, depth, max) in [(4096, 512, 3, 8192), (600, 4096, 16, 1 << 20)] {
        let fake = Fake::new(blocks, block, depth, max);
        contract::every_rule(&FakeDisk::new(fake.clone()), 7);
        assert!(fake.state().most <= depth as usize);
        assert!(fake.state().seen.len() > 1000);
    }
}

#[test]
fn a_large_transfer_of_a_disk_is_done_in_parts() {
    let mut bench = Bench::new(DISK, Fake::new(1000, 512, 4, 16384), BLOCK);
    let write = [0x2a, 0x08, 0, 0, 0, 100, 0, 0, 80, 0];
    let (end, _) = bench.run(&write, DataDirection::Out, 80 * 512);
    assert_eq!(end, ScsiEnd::GOOD);
    let read = [0x28, 0, 0, 0, 0, 100, 0, 0, 80, 0];
    let (end, data) = bench.run(&read, DataDirection::In, 80 * 512);
    assert_eq!(end, ScsiEnd::GOOD);
    assert!(data.iter().all(|byte| *byte == 0xee));
    let parts: Vec<_> = bench.fake.state().seen.drain(..).collect();
    assert_eq!(parts[0], (vec![0x2a, 8, 0, 0, 0, 100, 0, 0, 32, 0], 0, 16384));
    assert_eq!(parts[2], (vec![0x2a, 8, 0, 0, 0, 164, 0, 0, 16, 0], 32768, 8192));
    assert_eq!(parts.len(), 6);
    // The third part fails: the first two have moved, and 512 bytes of the third.
    let sense = fixed(3, 0x11, 0);
    let good = raw(0, 0, &[], 0);
    bench.fake.state().script.extend([Ok(good), Ok(good), Ok(raw(2, 0, &sense, 7680))]);
    let (end, _) = bench.run(&read, DataDirection::In, 80 * 512);
    assert_eq!((end.status, end.sense(), end.residual), (2, &sense[..], 7680));
}

#[test]
fn a_command_that_fits_goes_as_it_is_and_one_that_does_not_is_refused() {
    let mut bench = Bench::new(TAPE, Fake::new(0, 0, 1, 16384), 0);
    let read = [0x08, 0, 0, 0x40, 0, 0x5a];
    let (end, _) = bench.run(&read, DataDirection::In, 16384);
    assert_eq!(end, ScsiEnd::GOOD);
    assert_eq!(bench.fake.state().seen, [(read.to_vec(), 0, 16384)]);
    let (end, _) = bench.run(&read, DataDirection::In, 16385);
    assert_eq!(end, Code::INVALID_FIELD.end(16385));
    // As a disk's, a CDB that says something else than the descriptors is not taken apart.
    let mut bench = Bench::new(DISK, Fake::new(0, 0, 1, 4096), BLOCK);
    let read = [0x28, 0, 0, 0, 0, 100, 0, 0, 80, 0];
    let (end, _) = bench.run(&read, DataDirection::In, 79 * 512);
    assert_eq!(end, Code::INVALID_FIELD.end(79 * 512));
}

#[test]
fn bytes_that_a_device_did_not_give_are_zeros() {
    let mut bench = Bench::new(TAPE, Fake::new(0, 0, 1, 16384), 0);
    bench.fake.state().data.push_back(vec![1, 2, 3]);
    let (_, data) = bench.run(&[0x12, 0, 0, 0, 36, 0], DataDirection::In, 36);
    assert_eq!(data[..4], [1, 2, 3, 0]);
    assert!(data[3..].iter().all(|byte| *byte == 0));
}

#[test]
fn the_residual_of_a_tape_follows_from_its_sense_data() {
    let marked = |marks: u8, information: i32| {
        let mut sense = fixed(marks, 0, 0);
        sense[0] = 0xf0;
        sense[3..7].copy_from_slice(&information.to_be_bytes());
        sense
    };
    let (fixed_read, variable) = ([0x08, 1, 0, 0, 10, 0], [0x08, 0, 0, 2, 0, 0]);
    for (cdb, marks, information, len, expected) in [
        (&fixed_read, 0x80, 4, 5120, Some(2048)),
        (&fixed_read, 0x40, 10, 5120, Some(5120)),
        (&fixed_read, 0x40, 1 << 30, 5120, Some(5120)),
        (&variable, 0x20, 112, 512, Some(112)),
        (&variable, 0x20, -100, 512, Some(0)),
        (&variable, 0x00, 112, 512, None),
    ] {
        let sense = marked(marks, information);
        assert_eq!(tape_residual(cdb, &sense, 512, len), expected, "{cdb:?} {marks:02x}");
    }
    assert_eq!(tape_residual(&variable, &fixed(0x80, 0, 1), 512, 512), None, "not valid");
    assert_eq!(tape_residual(&[0x11, 0, 0, 0, 1, 0], &marked(0x80, 1), 512, 0), None);
    let mut descriptor = vec![0x72, 0, 0, 1, 0, 0, 0, 16];
    descriptor.extend([0, 0x0a, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    descriptor.extend([4, 2, 0, 0x80]);
    assert_eq!(tape_residual(&fixed_read, &descriptor, 512, 5120), Some(1536));
    for len in 0..descriptor.len() {
        tape_residual(&fixed_read, &descriptor[..len], 512, 5120);
    }
    // Through the worker, with a block length that a MODE SELECT has just set.
    let mut bench = Bench::new(TAPE, Fake::new(0, 0, 1, 65536), 0);
    bench.submit(0, &[0x15, 0x10, 0, 0, 12, 0], DataDirection::Out, 0);
    bench.turns();
    bench.done.pop();
    let mut buf = bench.pool.take(12).unwrap();
    buf.write_at(0, &[0, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 4, 0]);
    let cdb = [0x15, 0x10, 0, 0, 12, 0];
    let (tag, direction) = (Tag::new(0, 1), DataDirection::Out);
    bench.channel.submit_scsi(ScsiIo { tag, cdb: &cdb, direction, buf: Some(buf) });
    bench.turns();
    let done = bench.done.pop().unwrap();
    bench.home(done.buf);
    bench.fake.state().script.push_back(Ok(raw(2, 0, &marked(0x80, 4), 0)));
    let (end, _) = bench.run(&fixed_read, DataDirection::In, 10 * 1024);
    assert_eq!((end.residual, end.sense()), (4096, &marked(0x80, 4)[..]));
}

#[test]
fn what_the_host_says_becomes_a_status_that_initiators_understand() {
    let check = |sense: &[u8]| ScsiEnd::check(sense, 0);
    let sense = fixed(4, 1, 2);
    assert_eq!(end_of(&raw(2, 0x10, &sense, 0), 512), check(&sense), "the device's own word");
    for status in [0x04, 0x08, 0x18, 0x28, 0x30, 0x40] {
        assert_eq!(end_of(&raw(status, 0x11, &[], 0), 0), ScsiEnd::new(status));
    }
    for (host, key, asc, ascq) in [
        (0x01, 2, 0x04, 0),
        (0x04, 2, 0x04, 0),
        (0x0f, 2, 0x04, 0),
        (0x03, 0xb, 0x08, 1),
        (0x05, 0xb, 0x00, 0),
        (0x06, 0xb, 0x47, 0),
        (0x07, 0xb, 0x44, 0),
        (0x08, 6, 0x29, 0),
        (0x12, 7, 0x27, 7),
        (0x99, 0xb, 0x44, 0),
    ] {
        let end = end_of(&raw(0, host, &[], 0), 512);
        let code = Code::of(end.sense());
        assert_eq!((code, end.residual), (Some(Code(key, asc, ascq)), 512), "host {host:02x}");
    }
    for host in [0x02, 0x0b, 0x0c, 0x0d, 0x0e, 0x14] {
        assert_eq!(end_of(&raw(0, host, &[], 0), 512).status, 8, "host {host:02x}");
    }
    assert_eq!(end_of(&raw(2, 0, &[], 0), 0).sense()[2], 0xb, "sense data was lost");
    for (errno, status, key) in [
        (Errno::NODEV, 2, 2),
        (Errno::PERM, 2, 5),
        (Errno::NOMEM, 8, 0),
        (Errno::DOM, 8, 0),
        (Errno::INVAL, 2, 5),
    ] {
        let end = end_of_refused(errno, 100);
        let found = Code::of(end.sense()).map_or(0, |code| code.0);
        assert_eq!((end.status, found, end.residual), (status, key, 100), "{errno}");
    }
}

#[test]
fn a_device_that_has_gone_is_not_ready_until_it_is_back() {
    let mut bench = Bench::new(DISK, Fake::new(1000, 512, 4, 16384), BLOCK);
    bench.fake.state().held = true;
    bench.submit(1, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], DataDirection::In, 512);
    bench.turns();
    bench.fake.state().gone = true;
    let (end, _) = bench.run(&[0; 6], DataDirection::None, 0);
    assert_eq!(end, Code::NOT_READY.end(0));
    assert!(bench.worker.is_losing(), "the driver still has a command");
    bench.fake.state().held = false;
    bench.turns();
    let done = bench.done.pop().expect("what it had comes back");
    assert_eq!(done.tag, Tag::new(1, 1));
    bench.home(done.buf);
    assert!(
        bench.worker.device().is_none() && !bench.channel.shared.online.load(Ordering::Relaxed)
    );
    let (end, _) = bench.run(&[0; 6], DataDirection::None, 0);
    assert_eq!(end, Code::NOT_READY.end(0));
    let seen = bench.fake.state().seen.len();
    bench.fake.state().gone = false;
    bench.worker.on_returned(bench.fake.clone());
    let (end, _) = bench.run(&[0x12, 0, 0, 0, 36, 0], DataDirection::In, 36);
    assert_eq!(end, ScsiEnd::GOOD, "INQUIRY leaves the unit attention");
    assert_eq!(bench.run(&[0; 6], DataDirection::None, 0).0, Code::POWER_ON.end(0));
    assert_eq!(bench.run(&[0; 6], DataDirection::None, 0).0, ScsiEnd::GOOD);
    assert_eq!(bench.fake.state().seen.len(), seen + 2);
}

#[test]
fn a_reset_comes_before_what_is_submitted_after_it() {
    let mut bench = Bench::new(DISK, Fake::new(0, 0, 4, 16384), 0);
    bench.run(&[0; 6], DataDirection::None, 0);
    bench.channel.reset();
    bench.submit(0, &[0; 6], DataDirection::None, 0);
    bench.turns();
    assert_eq!(bench.fake.state().resets, [1]);
    assert_eq!(bench.fake.state().seen.len(), 2);
}

#[test]
fn no_more_commands_than_the_device_takes() {
    let mut bench = Bench::new(TAPE, Fake::new(0, 0, 2, 16384), 0);
    bench.fake.state().held = true;
    for index in 0..16 {
        bench.submit(index, &[0; 6], DataDirection::None, 0);
    }
    bench.turns();
    assert_eq!(bench.fake.state().running.len(), 2);
    assert!(bench.worker.may_sleep(), "the driver wakes it");
    bench.worker.awake();
    bench.fake.state().held = false;
    bench.turns();
    assert_eq!((bench.done.len(), bench.fake.state().most), (16, 2));
    assert!(bench.worker.is_idle());
}

#[test]
fn a_completion_wakes_a_core_that_sleeps() {
    let shared = shared(0, 0);
    let sleep = Sleep::new().unwrap();
    let memory = Arc::new(Memory::ordinary(4096).unwrap());
    let wake = Some(Arc::clone(sleep.eventfd()));
    let context = CoreContext { memory, ring: None, depth: 4, wake };
    let mut worker = Worker::new(Arc::clone(&shared), TAPE, Fake::new(0, 0, 1, 4096));
    let mut channel = SgChannel::open(&shared, geometry(512, 0), false, &context);
    let raised = || sleep.wait(Some(Duration::ZERO)) == reactor::sleep::Woken::Raised;
    let ask = |channel: &mut SgChannel| {
        let (tag, direction) = (Tag::new(0, 1), DataDirection::None);
        channel.submit_scsi(ScsiIo { tag, cdb: &[0; 6], direction, buf: None });
        channel.flush();
    };
    ask(&mut channel);
    while worker.turn() {}
    assert!(!raised(), "an awake core needs no system call");
    assert!(!channel.arm(), "a completion waits");
    let mut done = Batch::new(4);
    channel.poll(Instant::default(), &mut done);
    ask(&mut channel);
    assert!(channel.arm());
    while worker.turn() {}
    assert!(raised());
}

#[test]
fn what_is_no_scsi_device_is_refused_by_name() {
    let refusal = |filename: &str| {
        let filename = filename.to_owned();
        let options = SgOptions { name: None, filename, timeout_ms: None, uuid: None };
        crate::registry::Registry::with_host("h").create(options).unwrap_err()
    };
    let folder = std::env::temp_dir();
    let file = std::env::current_exe().unwrap();
    for (filename, why) in [
        (file.to_str().unwrap(), "is a regular file, not a SCSI device"),
        (folder.to_str().unwrap(), "is a directory, not a SCSI device"),
        ("/dev/null", "is another kind of device, not a SCSI device"),
    ] {
        let error = refusal(filename);
        assert!(error.to_string().ends_with(why), "{error}");
        assert_eq!(error.errno(), -libc::EINVAL);
    }
    let missing = refusal("/dev/no-such-device");
    assert_eq!(
        missing.to_string(),
        "opening /dev/no-such-device: No such file or directory (os error 2)"
    );
    assert_eq!(missing.errno(), -libc::ENOENT);
}
