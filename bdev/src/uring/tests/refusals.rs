//! Options that the kernel takes when a device is made and refuses when it is used.

use std::cell::Cell;
use std::collections::VecDeque;

use super::*;
use reactor::Buf;

use crate::sys::queue::{Reaped, Step};
use crate::uring::kernel::Kernel;
use crate::uring::refusals::Refusals;

/// What a [`Picky`] kernel does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refuses {
    RegisteredBuffers,
    Direct,
    Everything,
}

/// A kernel that refuses steps as long as they are submitted in a way that it does not have.
struct Picky {
    refuses: Refuses,
    errno: Errno,
    registered_buffers: bool,
    direct: bool,
    /// What it says of a device, and how often it was asked.
    gone: bool,
    asked: Cell<u32>,
    queued: VecDeque<(Tag, Option<Buf>)>,
    reaped: VecDeque<Reaped>,
}

impl Picky {
    fn new(refuses: Refuses, errno: Errno) -> Picky {
        let (queued, reaped) = Default::default();
        let (registered_buffers, direct, gone) = (true, true, false);
        let asked = Cell::new(0);
        Picky { refuses, errno, registered_buffers, direct, gone, asked, queued, reaped }
    }
}

impl Kernel for Picky {
    fn add_file(&mut self, _fd: Arc<OwnedFd>) -> u32 {
        0
    }

    fn remove_file(&mut self, _number: u32) {}

    fn without_registered_buffers(&mut self, _number: u32) {
        self.registered_buffers = false;
    }

    fn without_direct(&mut self, _number: u32) {
        self.direct = false;
    }

    fn is_gone(&self, _number: u32) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.gone
    }

    fn has_room(&mut self) -> bool {
        true
    }

    fn push(&mut self, tag: Tag, _file: u32, _step: Step, buf: Option<Buf>) {
        self.queued.push_back((tag, buf));
    }

    fn enter(&mut self) {
        for (tag, buf) in self.queued.drain(..) {
            let refused = match self.refuses {
                Refuses::RegisteredBuffers => self.registered_buffers,
                Refuses::Direct => self.direct,
                Refuses::Everything => true,
            };
            let len = buf.as_ref().map_or(0, |buf| buf.len() as i32);
            let result = if refused { -self.errno.raw_os_error() } else { len };
            self.reaped.push_back(Reaped { tag, result, buf });
        }
    }

    fn collect(&mut self) {}

    fn in_flight(&mut self) -> (usize, usize) {
        (self.queued.len() + self.reaped.len(), self.reaped.len())
    }

    fn reap(&mut self) -> Option<Reaped> {
        self.reaped.pop_front()
    }

    fn arm(&mut self) -> bool {
        self.queued.is_empty() && self.reaped.is_empty()
    }
}

/// The ends of four operations that are submitted at once, and what was noted.
fn four(refuses: Refuses, errno: Errno, work: Work) -> (Vec<IoStatus>, Arc<Refusals>) {
    let memory = Arc::new(Memory::ordinary(4 * 4096).unwrap());
    let mut pool = Pool::new(Arc::clone(&memory), &[SizeClass { bytes: 4096, count: 4 }]);
    let mut ring = Ring::over(Picky::new(refuses, errno), 4);
    let scratch = Scratch::on_disk(1 << 20);
    let mut opened = Medium::open("U", &scratch.options(), Duration::ZERO).unwrap();
    opened.medium.direct = true;
    let file = ring.open_file(Arc::new(opened.fd), &opened.medium);
    for index in 0..4 {
        let (tag, buf) = (Tag::new(index, 0), pool.take(4096));
        ring.start(Op { tag, file, work, offset: 0, len: 4096, fua: false, buf });
    }
    let (mut done, mut statuses) = (Batch::new(4), Vec::new());
    for _ in 0..100 {
        ring.flush();
        ring.poll(&mut done);
        while let Some(item) = done.pop() {
            statuses.push(item.status);
            pool.put(item.buf.expect("the buffer comes back"));
        }
    }
    assert!(ring.arm(), "nothing is left in the ring");
    (statuses, opened.medium.refusals)
}

#[test]
fn what_the_kernel_refuses_of_transfers_is_done_without() {
    for errno in [Errno::OPNOTSUPP, Errno::INVAL] {
        for work in [Work::Read, Work::Write] {
            let (statuses, refusals) = four(Refuses::RegisteredBuffers, errno, work);
            assert_eq!(statuses, [IoStatus::Good; 4], "{work:?} {errno}");
            assert!(refusals.why(Extra::RegisteredBuffers).is_some());
            assert_eq!(refusals.why(Extra::Direct), None);
            let (statuses, refusals) = four(Refuses::Direct, errno, work);
            assert_eq!(statuses, [IoStatus::Good; 4], "{work:?} {errno}");
            let why = refusals.why(Extra::Direct).unwrap();
            assert!(why.contains(&errno.to_string()), "{why}");
            let (statuses, _) = four(Refuses::Everything, errno, work);
            assert_eq!(statuses, [IoStatus::Unsupported; 4], "nothing is left to try");
        }
    }
}

#[test]
fn an_operation_that_a_polled_ring_is_refused_goes_the_usual_way_and_so_do_later_ones() {
    let scratch = Scratch::on_disk(4 << 20);
    let uring = scratch.open(|_| {}).unwrap();
    let refusals = Arc::clone(&uring.state.medium().refusals);
    let memory = Arc::new(Memory::ordinary(16 * 65536).unwrap());
    // A kernel that does everything, and one that polls nothing.
    let mut usual = Picky::new(Refuses::Direct, Errno::INVAL);
    usual.direct = false;
    let mut polled = Ring::over(Picky::new(Refuses::Everything, Errno::OPNOTSUPP), 16);
    polled.set_polled();
    let polled =
        Polled { ring: Rc::new(RefCell::new(polled)), only_transfers: true, refused: false };
    let ring = Rc::new(RefCell::new(Ring::over(usual, 16)));
    let state = Arc::clone(&uring.state);
    let mut channel = UringChannel::new(state, ring, Some(polled), false, true);
    let mut pool = Pool::new(memory, &[SizeClass { bytes: 4096, count: 16 }]);
    let mut done = Batch::new(16);
    for round in 0..3 {
        for index in 0..16 {
            let op = match index % 2 {
                0 => IoOp::Read { lba: 0, blocks: 8 },
                _ => IoOp::Write { lba: 0, blocks: 8, fua: false },
            };
            channel.submit(Io { tag: Tag::new(index, round), op, buf: pool.take(4096) });
        }
        for _ in 0..16 {
            channel.flush();
            channel.poll(Instant::default(), &mut done);
        }
        assert_eq!(done.len(), 16, "round {round}");
        while let Some(item) = done.pop() {
            assert_eq!(item.status, IoStatus::Good, "round {round}");
            pool.put(item.buf.expect("the buffer comes back"));
        }
        assert!(refusals.why(Extra::Polling).is_some());
        assert!(channel.arm(), "nothing is left in a ring");
    }
    refusals.tell("Uring0");
}

/// What a user has who asks for `io_poll` on a sparse file: its holes can be polled for, so only
/// written blocks show that the disk has no queues to poll.
#[test]
fn a_sparse_file_is_read_and_written_although_its_disk_is_not_polled() {
    let scratch = Scratch::on_disk(32 << 20);
    let mut uring = scratch.open(|options| options.io_poll = true).unwrap();
    // As on a file system that does not name its disks.
    let setup = Setup { delivery: Delivery::Interrupt, sq_poll: false, io_poll: true };
    (uring.polling, uring.unpolled_because) = (Some(setup), None);
    contract::every_rule(&uring, 26);
    let mut rig = Rig::new(&uring, 4, 65536);
    assert_eq!(rig.write(7, &[0x5a; 512]), IoStatus::Good);
    assert_eq!(rig.run(IoOp::Flush), IoStatus::Good);
    assert_eq!(rig.read(7, 1).unwrap(), [0x5a; 512]);
    rig.drain();
    let shown = uring.driver_specific()["uring"].clone();
    assert_eq!(shown["io_poll"] == json!(true), shown.get("polling_refused").is_none(), "{shown}");
}

#[test]
fn polling_is_tried_on_a_block_that_is_not_a_hole() {
    let scratch = Scratch::on_disk(32 << 20);
    let options = UringOptions { io_poll: true, ..scratch.options() };
    let open = || {
        let mut opened = Medium::open("U", &options, Duration::ZERO).unwrap();
        // As on a file system that does not name its disks.
        let queues = opened.medium.polled_queues.take();
        (opened, queues)
    };
    let (opened, queues) = open();
    let direct = opened.medium.direct;
    let tried = choose_polling(&options, &opened);
    assert_eq!(tried.is_ok(), direct, "holes say nothing against polling: {tried:?}");
    drop(opened);
    let uring = scratch.open(|_| {}).unwrap();
    let mut rig = Rig::new(&uring, 4, 65536);
    assert_eq!(rig.write(4096, &[0x5a; 4096]), IoStatus::Good);
    assert_eq!(rig.run(IoOp::Flush), IoStatus::Good);
    drop((rig, uring));
    let (mut opened, _) = open();
    let tried = choose_polling(&options, &opened);
    // The block shows what the disk says of itself, if that says anything.
    let expected = queues.map_or(tried.is_ok(), |queues| direct && queues);
    assert_eq!(tried.is_ok(), expected, "{tried:?}");
    opened.medium.polled_queues = Some(false);
    assert!(choose_polling(&options, &opened).is_err());
}

/// The kernel says EIO of a bad sector and of a disk that has been pulled out. A core may ask which
/// of them it was, but only what answers without waiting: a device, and not a file system.
#[test]
fn an_error_of_a_device_that_is_gone_is_not_ready_and_a_file_system_is_not_asked() {
    let scratch = Scratch::on_disk(1 << 20);
    for (is_block, gone, status, asked) in [
        (false, true, IoStatus::ReadError, 0),
        (true, false, IoStatus::ReadError, 3),
        (true, true, IoStatus::NotReady, 1),
    ] {
        let mut opened = Medium::open("U", &scratch.options(), Duration::ZERO).unwrap();
        opened.medium.is_block = is_block;
        let mut picky = Picky::new(Refuses::Everything, Errno::IO);
        picky.gone = gone;
        let mut ring = Ring::over(picky, 4);
        let file = ring.open_file(Arc::new(opened.fd), &opened.medium);
        let memory = Arc::new(Memory::ordinary(4096).unwrap());
        let mut pool = Pool::new(Arc::clone(&memory), &[SizeClass { bytes: 4096, count: 1 }]);
        let mut done = Batch::new(4);
        for generation in 0..3 {
            let (tag, work, buf) = (Tag::new(0, generation), Work::Read, pool.take(4096));
            ring.start(Op { tag, file, work, offset: 0, len: 4096, fua: false, buf });
            ring.flush();
            ring.poll(&mut done);
            let item = done.pop().expect("an end");
            assert_eq!(item.status, status, "a device: {is_block}, gone: {gone}");
            pool.put(item.buf.expect("the buffer"));
        }
        assert_eq!(ring.kernel().asked.get(), asked, "a device: {is_block}, gone: {gone}");
    }
}

#[test]
fn unmap_is_offered_only_where_the_kernel_has_a_way_to_do_it() {
    for (discards, ring_discards, zeroes, expected) in [
        (true, true, true, Some(Unmap::Discard)),
        (true, true, false, Some(Unmap::Discard)),
        (true, false, true, Some(Unmap::Punch)),
        // A disk that discards, under a kernel before Linux 6.12.
        (true, false, false, None),
        (false, true, true, None),
        (false, false, true, None),
    ] {
        let found = Unmap::of_disk(discards, || ring_discards, zeroes);
        assert_eq!(found, expected, "{discards} {ring_discards} {zeroes}");
    }
}

#[test]
fn an_unmap_that_is_refused_at_run_time_is_not_offered_again() {
    let scratch = Scratch::on_disk(1 << 20);
    let uring = scratch.open(|_| {}).unwrap();
    assert!(uring.geometry().unmap, "the file system of the build has no holes");
    let picky = Picky::new(Refuses::Everything, Errno::OPNOTSUPP);
    let ring = Rc::new(RefCell::new(Ring::over(picky, 1)));
    let mut channel = UringChannel::new(Arc::clone(&uring.state), ring, None, false, true);
    let mut done = Batch::new(1);
    let op = IoOp::Unmap { lba: 0, blocks: 8 };
    channel.submit(Io { tag: Tag::new(0, 0), op, buf: None });
    channel.flush();
    channel.poll(Instant::default(), &mut done);
    assert_eq!(done.pop().map(|item| item.status), Some(IoStatus::Unsupported));
    assert!(!uring.geometry().unmap && !uring.geometry().unmap_zeroes);
    assert_eq!(uring.look(), Some(Change::Resized), "initiators are told to look again");
    assert_eq!(uring.look(), None);
}
