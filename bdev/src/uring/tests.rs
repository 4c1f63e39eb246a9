use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use reactor::pool::{Pool, SizeClass};
use reactor::sys::memory::Memory;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::fs::Mode;

use super::*;
use crate::contract::{self, Rig};
use crate::registry::Registry;
use crate::stacked::delay::{Delay, Latencies, Slow};
use crate::{Io, IoDone, IoOp, IoStatus};
use reactor::Instant;

mod media;
mod refusals;

/// A scratch file of its own, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(folder: &Path, bytes: u64) -> Scratch {
        let path = folder.join(format!("bdev-{}", Uuid::new_v4()));
        std::fs::File::create_new(&path).unwrap().set_len(bytes).unwrap();
        Scratch(path)
    }

    /// On the file system of the build, which is a real one more often than `/tmp` is.
    fn on_disk(bytes: u64) -> Scratch {
        Scratch::new(std::env::current_exe().unwrap().parent().unwrap(), bytes)
    }

    fn options(&self) -> UringOptions {
        UringOptions::new(self.0.to_str().unwrap())
    }

    fn open(&self, change: impl FnOnce(&mut UringOptions)) -> Result<Uring, BdevError> {
        let mut options = self.options();
        change(&mut options);
        Uring::open("Uring0".into(), Uuid::nil(), &options, Duration::ZERO)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn obeys_the_contract_with_and_without_the_page_cache() {
    let scratch = Scratch::on_disk(4 << 20);
    for (seed, direct, block) in
        [(5, Direct::Off, 512), (6, Direct::Auto, 512), (7, Direct::Auto, 4096)]
    {
        let uring = scratch.open(|options| {
            options.direct = direct;
            options.block_size = Some(block);
        });
        contract::every_rule(&uring.unwrap(), seed);
    }
}

#[test]
fn obeys_the_contract_in_memory() {
    let folder = Path::new("/dev/shm");
    if folder.is_dir() {
        let scratch = Scratch::new(folder, 4 << 20);
        contract::every_rule(&scratch.open(|_| {}).unwrap(), 8);
    }
}

#[test]
fn obeys_the_contract_read_only_and_without_write_cache() {
    let scratch = Scratch::on_disk(2 << 20);
    contract::every_rule(&scratch.open(|options| options.read_only = true).unwrap(), 9);
    let uring = scratch.open(|options| options.write_cache = OnOff(false)).unwrap();
    assert!(!uring.geometry().write_cache);
    contract::data_is_kept(&uring, 10, 200);
}

#[test]
fn direct_on_says_why_it_can_not() {
    let scratch = Scratch::on_disk(1 << 20);
    match scratch.open(|options| options.direct = Direct::On) {
        Ok(uring) => assert_eq!(uring.driver_specific()["uring"]["direct"], json!(true)),
        Err(error) => assert!(error.to_string().contains("direct on"), "{error}"),
    }
}

#[test]
fn only_disks_and_files_of_at_least_a_block_are_opened() {
    let refused = |path: &str| {
        let options = UringOptions::new(path);
        Uring::open("u".into(), Uuid::nil(), &options, Duration::ZERO).unwrap_err()
    };
    assert!(refused("/").to_string().contains("a directory"));
    assert!(refused("/dev/null").to_string().contains("a character device"));
    assert_eq!(refused("/nonexistent").errno(), -2);

    let scratch = Scratch::on_disk(0);
    let fifo = Scratch(scratch.0.with_extension("fifo"));
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo.0, kind, Mode::RUSR, 0).unwrap();
    assert!(refused(fifo.0.to_str().unwrap()).to_string().contains("a pipe"));

    assert!(scratch.open(|_| {}).unwrap_err().to_string().contains("empty"));
    std::fs::File::options().write(true).open(&scratch.0).unwrap().set_len(5000).unwrap();
    let error = scratch.open(|options| options.block_size = Some(8192)).unwrap_err();
    assert_eq!(error.errno(), -22);
    for part in ["5000 bytes, less than a block", "8192"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(scratch.open(|options| options.block_size = Some(100)).unwrap_err().errno(), -22);
}

#[test]
fn a_file_that_ends_in_a_part_of_a_block_is_opened_as_a_running_target_shows_it() {
    let scratch = Scratch::on_disk(1 << 20);
    let running = scratch.open(|_| {}).unwrap();
    let tail = [0xa5; 324];
    let file = std::fs::File::options().read(true).write(true).open(&scratch.0).unwrap();
    file.write_all_at(&tail, 1 << 20).unwrap();
    running.look();
    let geometry = running.geometry();
    drop(running);
    let opened = scratch.open(|_| {}).unwrap();
    let mut behind = [0; 324];
    file.read_exact_at(&mut behind, 1 << 20).unwrap();
    assert_eq!(behind, tail, "opening changes no byte, not even behind the last block");
    assert_eq!((opened.geometry(), geometry.blocks), (geometry, 2048));
    assert_eq!(opened.rescan().unwrap(), None);
}

#[test]
fn a_path_is_kept_as_it_is_meant_here() {
    let options = |path: &str| -> UringOptions {
        serde_json::from_value(json!({ "filename": path })).unwrap()
    };
    let here = std::env::current_dir().unwrap();
    assert_eq!(options("a/./b").filename, here.join("a/b").to_str().unwrap());
    assert_eq!(options("/a/b").filename, "/a/b");
}

#[test]
fn a_file_has_one_writer_or_many_readers() {
    let scratch = Scratch::on_disk(1 << 20);
    let writer = scratch.open(|_| {}).unwrap();
    let error = scratch.open(|_| {}).unwrap_err();
    assert_eq!(error.errno(), -16);
    assert!(error.to_string().contains("in use by another process"), "{error}");
    assert_eq!(scratch.open(|options| options.read_only = true).unwrap_err().errno(), -16);
    drop(writer);
    let _one = scratch.open(|options| options.read_only = true).unwrap();
    let _other = scratch.open(|options| options.read_only = true).unwrap();
    assert_eq!(scratch.open(|_| {}).unwrap_err().errno(), -16);
}

#[test]
fn a_file_that_shrank_can_not_be_read_behind_its_end() {
    let scratch = Scratch::on_disk(1 << 20);
    let uring = scratch.open(|_| {}).unwrap();
    let mut rig = Rig::new(&uring, 4, 65536);
    let file = std::fs::File::options().write(true).open(&scratch.0).unwrap();
    file.set_len(512 * 1024).unwrap();
    assert_eq!(rig.read(1024, 1), Err(IoStatus::ReadError));
    assert_eq!(rig.read(1020, 8), Err(IoStatus::ReadError));
    assert!(rig.read(1016, 8).is_ok());
    uring.rescan().unwrap();
    assert_eq!(rig.read(1024, 1), Err(IoStatus::OutOfRange));
    file.set_len(0).unwrap();
    assert_eq!(uring.rescan().unwrap_err().errno(), -22);
    rig.drain();
}

#[test]
fn unmap_gives_space_back() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::on_disk(1 << 20);
    let uring = scratch.open(|_| {}).unwrap();
    assert!(uring.geometry().unmap, "the file system of the build has no holes");
    let mut rig = Rig::new(&uring, 4, 65536);
    for lba in (0..2048).step_by(128) {
        assert_eq!(rig.write(lba, &[0x77; 65536]), IoStatus::Good);
    }
    assert_eq!(rig.run(IoOp::Flush), IoStatus::Good);
    let before = std::fs::metadata(&scratch.0).unwrap().blocks();
    assert_eq!(rig.run(IoOp::Unmap { lba: 0, blocks: 1024 }), IoStatus::Good);
    let after = std::fs::metadata(&scratch.0).unwrap();
    assert!(after.blocks() <= before - 1024, "{before} -> {}", after.blocks());
    assert_eq!(after.len(), 1 << 20);
    let zeroes = IoOp::WriteZeroes { lba: 0, blocks: 2048, unmap: false, fua: true };
    assert_eq!(rig.run(zeroes), IoStatus::Good);
    assert!(rig.read(1900, 128).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(std::fs::metadata(&scratch.0).unwrap().len(), 1 << 20);
}

/// Memory as a peer would lend it, or as another core's pool would.
#[test]
fn buffers_outside_the_registered_memory_work() {
    let scratch = Scratch::on_disk(1 << 20);
    let uring = scratch.open(|_| {}).unwrap();
    let mut rig = Rig::new(&uring, 4, 65536);
    let memory = Arc::new(Memory::ordinary(1 << 16).unwrap());
    let mut foreign = Pool::new(memory, &[SizeClass { bytes: 1 << 16, count: 1 }]);
    let mut buf = foreign.take(1 << 16).unwrap();
    buf.fill(0..1 << 16, 0x3c);
    rig.submit(IoOp::Write { lba: 4, blocks: 128, fua: true }, Some(buf));
    let done = rig.wait();
    assert_eq!(done.status, IoStatus::Good);
    foreign.put(done.buf.unwrap());
    assert!(rig.read(4, 128).unwrap().iter().all(|byte| *byte == 0x3c));
    rig.drain();
}

#[test]
fn channels_of_a_core_share_a_ring_and_close_in_any_order() {
    let files = [Scratch::on_disk(1 << 20), Scratch::on_disk(1 << 20)];
    let [one, other] = files.each_ref().map(|file| file.open(|_| {}).unwrap());
    let mut rig = Rig::new(&one, 8, 4096);
    let mut second = other.open_channel(&mut rig.core).unwrap();
    assert_eq!(Rc::strong_count(rig.core.ring.as_ref().unwrap()), 3);
    // An operation of the second channel comes out of the first one, after the second is gone.
    let buf = rig.take(512);
    let tag = reactor::Tag::new(7, 99);
    second.submit(Io { tag, op: IoOp::Read { lba: 0, blocks: 1 }, buf: Some(buf) });
    drop(second);
    let mut done = Batch::new(1);
    while done.is_empty() {
        rig.channel().flush();
        rig.channel().poll(reactor::Instant::default(), &mut done);
    }
    let item = done.pop().unwrap();
    assert_eq!((item.tag, item.status), (tag, IoStatus::Good));
    rig.put(item.buf);
    assert_eq!(
        Arc::strong_count(&other.state.take().2.unwrap()),
        2,
        "a file outlives its last operation"
    );
    let third = other.open_channel(&mut rig.core).unwrap();
    assert!(rig.read(0, 1).is_ok());
    drop(third);
    assert!(rig.read(0, 8).is_ok());
    rig.drain();
}

#[test]
fn no_channel_of_the_core_takes_completions_from_a_virtual_device() {
    let scratch = Scratch::on_disk(1 << 20);
    let uring: Arc<dyn Bdev> = Arc::new(scratch.open(|_| {}).unwrap());
    let latencies = Latencies { avg_read_us: 50, p99_read_us: 50, ..Latencies::default() };
    let slow = Slow::new("D", &latencies).unwrap();
    let delay = Delay::new("D".into(), Uuid::nil(), Arc::clone(&uring), slow);
    contract::every_rule(&delay, 12);
    let mut rig = Rig::new(uring.as_ref(), 8, 4096);
    let mut slow = delay.open_channel(&mut rig.core).unwrap();
    let buf = rig.take(512);
    let tag = reactor::Tag::new(7, 99);
    slow.submit(Io { tag, op: IoOp::Read { lba: 0, blocks: 1 }, buf: Some(buf) });
    let mut done = Batch::new(8);
    let mut now = Instant::from_ns(0);
    while now < Instant::from_ns(50_000) {
        slow.flush();
        slow.poll(now, &mut done);
        // The rig knows its own tags only.
        assert!(rig.read(0, 1).is_ok());
        assert!(done.is_empty(), "after {} ns", now.ns());
        now = Instant::from_ns(now.ns() + 1000);
    }
    while done.is_empty() {
        slow.poll(now, &mut done);
    }
    let item = done.pop().unwrap();
    assert_eq!((item.tag, item.status), (tag, IoStatus::Good));
    rig.put(item.buf);
    rig.drain();
}

#[test]
fn dropping_a_ring_waits_for_the_kernel() {
    let scratch = Scratch::on_disk(1 << 20);
    let uring = scratch.open(|_| {}).unwrap();
    let memory = Arc::new(Memory::ordinary(1 << 20).unwrap());
    let mut pool = Pool::new(Arc::clone(&memory), &[SizeClass { bytes: 1 << 16, count: 16 }]);
    let mut core = CoreContext { memory, ring: None, depth: 16, wake: None };
    let mut channel = uring.open_channel(&mut core).unwrap();
    for index in 0..16 {
        let buf = pool.take(1 << 16).unwrap();
        let op = IoOp::Write { lba: u64::from(index) * 128, blocks: 128, fua: true };
        channel.submit(Io { tag: reactor::Tag::new(index, 0), op, buf: Some(buf) });
        if index == 12 {
            channel.flush();
        }
    }
    drop((channel, core));
    assert_eq!(pool.counts().next().unwrap().free, 0);
}

fn core_of(
    depth: u32,
    bytes: usize,
    delivery: Delivery,
    wake: Option<Arc<OwnedFd>>,
) -> CoreContext {
    let memory = Arc::new(Memory::ordinary(bytes).unwrap());
    let ring = Ring::open(depth, &memory, wake.as_ref(), &[Setup::plain(delivery)]).unwrap();
    CoreContext { memory, ring: Some(Rc::new(RefCell::new(ring))), depth, wake }
}

#[test]
fn all_ways_of_delivery_work() {
    let scratch = Scratch::on_disk(1 << 20);
    let uring = scratch.open(|_| {}).unwrap();
    for Setup { delivery, .. } in Setup::PLAIN {
        let core = core_of(16, 1 << 20, delivery, None);
        contract::data_is_kept_by(&mut Rig::of(&uring, core, 65536), 11, 200);
        a_completion_wakes_an_armed_core_and_only_then(&uring, delivery);
    }
}

fn a_completion_wakes_an_armed_core_and_only_then(uring: &Uring, delivery: Delivery) {
    let flags = rustix::event::EventfdFlags::NONBLOCK;
    let wake = Arc::new(rustix::event::eventfd(0, flags).unwrap());
    let mut core = core_of(4, 4096, delivery, Some(Arc::clone(&wake)));
    let mut channel = uring.open_channel(&mut core).unwrap();
    let mut done: Batch<IoDone> = Batch::new(4);
    let mut count = [0; 8];
    let mut sleeps = 0;
    // A sync never ends inside the call that submits it, but it can end before the core is armed.
    while sleeps < 8 {
        submit_sync(channel.as_mut());
        while done.is_empty() {
            let _ = rustix::io::read(&wake, &mut count);
            if channel.arm() {
                let mut polled = [PollFd::new(&wake, PollFlags::IN)];
                let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
                let ready = rustix::event::poll(&mut polled, Some(&limit)).unwrap();
                assert_eq!(ready, 1, "a completion did not wake its core");
                sleeps += 1;
            }
            channel.poll(reactor::Instant::default(), &mut done);
        }
        assert_eq!(done.pop().unwrap().status, IoStatus::Good);
    }
    let _ = rustix::io::read(&wake, &mut count);
    for _ in 0..64 {
        submit_sync(channel.as_mut());
        while done.is_empty() {
            channel.poll(reactor::Instant::default(), &mut done);
        }
        assert_eq!(done.pop().unwrap().status, IoStatus::Good);
    }
    assert!(rustix::io::read(&wake, &mut count).is_err(), "an awake core was woken");
    assert!(channel.arm());
}

fn submit_sync(channel: &mut dyn IoChannel) {
    channel.submit(Io { tag: reactor::Tag::new(0, 0), op: IoOp::Flush, buf: None });
    assert!(!channel.arm(), "armed with an operation to flush");
    channel.flush();
}

#[test]
fn the_options_make_the_same_device() {
    let scratch = Scratch::on_disk(1 << 20);
    let mut registry = Registry::with_host("host");
    let options = UringOptions { write_cache: OnOff(false), ..scratch.options() };
    let first = registry.create(options).unwrap();
    let (options, geometry) = (first.options(), first.geometry());
    assert_eq!(first.module(), "uring");
    drop(first);
    registry.delete("Uring0", "uring").unwrap();
    let again: UringOptions = serde_json::from_value(options.clone()).unwrap();
    let second = registry.create(again).unwrap();
    assert_eq!((second.options(), second.geometry()), (options, geometry));
    assert_eq!(registry.of_kind::<Uring>("Uring0", "").unwrap().rescan().unwrap(), None);
}
