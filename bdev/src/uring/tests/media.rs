//! Media that change: sizes, losses, other users. Loop devices and mounts need root.

use std::process::Command;
use std::time::Instant as Now;

use super::*;
use crate::uring::medium::Fate;

/// Runs a command; its output if it succeeded.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// Runs a command that must succeed.
fn must(program: &str, arguments: &[&str]) -> String {
    run(program, arguments).unwrap_or_else(|| panic!("{program} {arguments:?} failed"))
}

/// A loop device, detached when dropped.
pub(super) struct Loop(pub String);

impl Loop {
    pub(crate) fn attach(file: &Path, sector_bytes: u32) -> Loop {
        let sector = sector_bytes.to_string();
        let file = file.to_str().unwrap();
        Loop(must("losetup", &["--find", "--show", "--sector-size", &sector, file]))
    }

    fn detach(&self) {
        must("losetup", &["--detach", &self.0]);
    }

    fn attach_again(&self, file: &Path) {
        let file = file.to_str().unwrap();
        // The kernel detaches a little after the last user has closed it.
        let deadline = Now::now() + Duration::from_secs(10);
        while run("losetup", &[&self.0, file]).is_none() {
            assert!(Now::now() < deadline, "{} stays attached", self.0);
        }
    }

    fn options(&self) -> UringOptions {
        UringOptions::new(&self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = run("losetup", &["--detach", &self.0]);
    }
}

fn open(options: &UringOptions) -> Result<Uring, BdevError> {
    Uring::open("Uring0".into(), Uuid::nil(), options, Duration::ZERO)
}

fn set_len(scratch: &Scratch, bytes: u64) {
    std::fs::File::options().write(true).open(&scratch.0).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_file_that_grows_or_shrinks_is_noticed() {
    let scratch = Scratch::on_disk(1 << 20);
    let uring = scratch.open(|_| {}).unwrap();
    assert_eq!(uring.look(), None);
    let mut rig = Rig::new(&uring, 4, 65536);
    set_len(&scratch, 2 << 20);
    assert_eq!(rig.read(4095, 1), Err(IoStatus::OutOfRange));
    assert_eq!(uring.look(), Some(Change::Resized));
    assert_eq!(uring.look(), None);
    assert_eq!(rig.read(4095, 1).unwrap(), [0; 512]);
    // What is no whole block is left out.
    set_len(&scratch, (1 << 20) + 100);
    assert_eq!(uring.look(), Some(Change::Resized));
    assert_eq!(uring.rescan().unwrap(), None);
    assert_eq!(uring.geometry().blocks, 2048);
    assert_eq!(rig.read(2048, 1), Err(IoStatus::OutOfRange));
    rig.drain();
}

#[test]
fn a_file_without_a_block_is_lost_until_it_has_its_size_again() {
    let scratch = Scratch::on_disk(1 << 20);
    let uring = scratch.open(|_| {}).unwrap();
    let mut rig = Rig::new(&uring, 4, 65536);
    set_len(&scratch, 0);
    let Some(Change::Lost(why)) = uring.look() else { panic!("not lost") };
    assert!(why.contains("0 bytes"), "{why}");
    assert!(!uring.ready());
    rig.channel().refresh();
    assert_eq!(rig.read(0, 1), Err(IoStatus::NotReady));
    assert_eq!(rig.write(0, &[1; 512]), IoStatus::NotReady);
    assert_eq!(rig.run(IoOp::Flush), IoStatus::NotReady);
    assert_eq!(uring.geometry().blocks, 2048, "the last size");
    assert_eq!(uring.look(), None);
    assert!(uring.rescan().is_err());
    set_len(&scratch, 2 << 20);
    assert_eq!(uring.look(), None, "another size, and nothing else to know it by");
    let lost = uring.driver_specific()["uring"]["lost"].to_string();
    assert!(lost.contains("another size"), "{lost}");
    set_len(&scratch, 1 << 20);
    assert_eq!(uring.look(), Some(Change::Returned { resized: false }));
    // Without a refresh: the next operation finds it.
    assert_eq!(rig.write(0, &[1; 512]), IoStatus::Good);
    assert_eq!(rig.read(0, 1).unwrap(), [1; 512]);
    assert_eq!(uring.driver_specific()["uring"].get("lost"), None);
    rig.drain();
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn a_detached_loop_device_is_let_go_and_taken_back() {
    let [file, other] = [Scratch::on_disk(1 << 20), Scratch::on_disk(1 << 20)];
    let device = Loop::attach(&file.0, 512);
    let uring = open(&device.options()).unwrap();
    let mut rig = Rig::new(&uring, 4, 65536);
    assert_eq!(rig.write(7, &[0x5a; 512]), IoStatus::Good);
    assert_eq!(uring.look(), None);
    device.detach();
    assert!(matches!(uring.look(), Some(Change::Lost(_))));
    assert_eq!(rig.read(7, 1), Err(IoStatus::NotReady));
    assert_eq!(uring.look(), None);
    device.attach_again(&other.0);
    assert_eq!(uring.look(), None);
    let lost = uring.driver_specific()["uring"]["lost"].to_string();
    assert!(lost.contains("is another device"), "{lost}");
    device.detach();
    set_len(&file, 2 << 20);
    device.attach_again(&file.0);
    assert_eq!(uring.look(), Some(Change::Returned { resized: true }));
    assert_eq!(rig.read(7, 1).unwrap(), [0x5a; 512]);
    assert_eq!(rig.read(4095, 1).unwrap(), [0; 512]);
    rig.drain();
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn a_saved_device_is_not_taken_for_another_one_that_has_its_name() {
    let [file, other] = [Scratch::on_disk(1 << 20), Scratch::on_disk(1 << 20)];
    let device = Loop::attach(&file.0, 512);
    let saved = open(&device.options()).unwrap().options();
    let saved: UringOptions = serde_json::from_value(saved).unwrap();
    assert!(open(&saved).is_ok(), "the same device");
    device.detach();
    device.attach_again(&other.0);
    let error = open(&saved).unwrap_err().to_string();
    for part in ["device_id: ", "is another device", file.0.to_str().unwrap()] {
        assert!(error.contains(part), "{error}");
    }
    assert!(open(&UringOptions { device_id: None, ..saved.clone() }).is_ok());
    device.detach();
    device.attach_again(&file.0);
    assert!(open(&saved).is_ok());
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn a_device_of_large_sectors_is_bypassed_only_in_its_own_blocks() {
    let file = Scratch::on_disk(4 << 20);
    let device = Loop::attach(&file.0, 4096);
    let small = UringOptions { block_size: Some(512), ..device.options() };
    let error = open(&small).unwrap_err();
    assert!(error.to_string().contains("less than the 4096 bytes"), "{error}");
    let uring = open(&device.options()).unwrap();
    assert_eq!((uring.geometry().block_bytes, uring.geometry().physical_exponent), (4096, 0));
    contract::every_rule(&uring, 21);
    drop(uring);
    // A file system on it: files have blocks of 512 bytes through the page cache.
    let folder = file.0.with_extension("mnt");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.to_str().unwrap();
    must("mkfs.ext4", &["-q", &device.0]);
    must("mount", &[&device.0, path]);
    let small = Scratch::new(&folder, 1 << 20);
    for (block, direct) in [(512, false), (4096, true)] {
        let uring = small.open(|options| options.block_size = Some(block)).unwrap();
        let shown = &uring.driver_specific()["uring"];
        assert_eq!(shown["direct"], json!(direct), "{shown}");
        assert_eq!(uring.geometry().physical_exponent, (4096 / block).ilog2() as u8);
        contract::data_is_kept(&uring, 22, 200);
    }
    let error = small.open(|options| options.direct = Direct::On).unwrap_err();
    assert!(error.to_string().contains("units of 4096 bytes"), "{error}");
    drop(small);
    must("umount", &[path]);
    std::fs::remove_dir(&folder).unwrap();
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn obeys_the_contract_on_a_loop_device() {
    let file = Scratch::on_disk(4 << 20);
    let device = Loop::attach(&file.0, 512);
    for (seed, direct) in [(23, Direct::On), (24, Direct::Off)] {
        let uring = open(&UringOptions { direct, ..device.options() }).unwrap();
        contract::every_rule(&uring, seed);
        assert_eq!(open(&device.options()).unwrap_err().errno(), -16, "it has a user");
    }
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn asking_whether_a_ring_discards_discards_nothing() {
    let file = Scratch::on_disk(1 << 20);
    let of_file = OwnedFd::from(std::fs::File::open(&file.0).unwrap());
    assert!(!queue::discards(&of_file), "a file is no block device");
    let device = Loop::attach(&file.0, 512);
    let uring = open(&device.options()).unwrap();
    let mut rig = Rig::new(&uring, 4, 65536);
    assert_eq!(rig.write(0, &[0x5a; 65536]), IoStatus::Good);
    assert_eq!(rig.run(IoOp::Flush), IoStatus::Good);
    let (_, medium, fd) = uring.state.take();
    let discards = queue::discards(&fd.expect("there"));
    assert_eq!(discards, medium.unmap == Some(Unmap::Discard));
    assert_eq!(rig.read(0, 128).unwrap(), [0x5a; 65536]);
    assert_eq!(uring.geometry().unmap_zeroes, medium.unmap == Some(Unmap::Punch));
    assert_eq!(rig.run(IoOp::Unmap { lba: 0, blocks: 128 }), IoStatus::Good);
    rig.drain();
}

/// Runs something that is not expected to end soon, and waits until it waits in the kernel.
fn hang<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    what: impl FnOnce() + Send + 'scope,
) {
    let (tell, told) = std::sync::mpsc::channel();
    let hangs = scope.spawn(move || {
        tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        what();
    });
    let wchan = format!("/proc/self/task/{}/wchan", told.recv().unwrap());
    while !std::fs::read_to_string(&wchan).unwrap_or_default().contains("folio_wait") {
        assert!(!hangs.is_finished(), "it does not hang");
        std::thread::yield_now();
    }
}

/// An allocation waits for a write to a frozen file system, and holds the lock meanwhile that a
/// seek to the end of the disk wants.
#[test]
#[ignore = "needs loop devices and mounts"]
fn a_device_says_its_size_while_an_allocation_hangs_in_it() {
    use rustix::fs::FallocateFlags;
    let file = Scratch::on_disk(64 << 20);
    let below = Loop::attach(&file.0, 512);
    let folder = file.0.with_extension("mnt");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.to_str().unwrap();
    must("mkfs.ext4", &["-q", &below.0]);
    must("mount", &[&below.0, path]);
    let inner = Scratch::new(&folder, 1 << 20);
    let device = Loop::attach(&inner.0, 512);
    let shared = UringOptions { shared: true, ..device.options() };
    let uring = open(&shared).unwrap();
    let (_, medium, fd) = uring.state.take();
    let fd = fd.expect("there");
    let mut cached = std::fs::File::options().write(true).open(&device.0).unwrap();
    must("fsfreeze", &["--freeze", path]);
    std::io::Write::write_all(&mut cached, &[0x5a; 4096]).unwrap();
    std::thread::scope(|scope| {
        hang(scope, || cached.sync_all().unwrap());
        hang(scope, || {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&fd, mode, 0, 4096).unwrap();
        });
        let asks = scope.spawn(|| medium.fate(&device.0, &fd));
        let asked = Now::now();
        while !asks.is_finished() && asked.elapsed() < Duration::from_secs(5) {
            std::thread::yield_now();
        }
        let waited = !asks.is_finished();
        must("fsfreeze", &["--unfreeze", path]);
        assert_eq!(asks.join().unwrap(), Fate::There { bytes: 1 << 20 });
        assert!(!waited, "the size of a device was waited for");
    });
    drop((uring, fd, cached, device, inner));
    let deadline = Now::now() + Duration::from_secs(10);
    while run("umount", &[path]).is_none() {
        assert!(Now::now() < deadline, "{path} stays in use");
    }
    std::fs::remove_dir(&folder).unwrap();
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn a_full_file_system_refuses_what_it_has_no_room_for() {
    let folder = std::env::temp_dir().join(format!("bdev-{}", Uuid::new_v4()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.to_str().unwrap();
    must("mount", &["-t", "tmpfs", "-o", "size=1M", "none", path]);
    let scratch = Scratch::new(&folder, 4 << 20);
    let uring = scratch.open(|_| {}).unwrap();
    let mut rig = Rig::new(&uring, 4, 65536);
    let statuses: Vec<_> = (0..64).map(|n| rig.write(n * 128, &[7; 65536])).collect();
    assert_eq!(statuses.iter().filter(|status| status.is_good()).count(), 16);
    assert_eq!(statuses[63], IoStatus::NoSpace);
    assert_eq!(rig.read(0, 128).unwrap(), [7; 65536], "what was written stays");
    assert_eq!(rig.run(IoOp::Unmap { lba: 0, blocks: 128 }), IoStatus::Good);
    assert_eq!(rig.write(63 * 128, &[7; 65536]), IoStatus::Good);
    rig.drain();
    drop((rig, uring, scratch));
    must("umount", &[path]);
    std::fs::remove_dir(&folder).unwrap();
}

#[test]
fn writers_share_a_file_only_if_all_say_so() {
    let scratch = Scratch::on_disk(1 << 20);
    let shared = |options: &mut UringOptions| options.shared = true;
    let one = scratch.open(shared).unwrap();
    let other = scratch.open(shared).unwrap();
    assert_eq!(scratch.open(|_| {}).unwrap_err().errno(), -16);
    drop((one, other));
    let _alone = scratch.open(|_| {}).unwrap();
    assert_eq!(scratch.open(shared).unwrap_err().errno(), -16);
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn writers_share_a_loop_device_only_if_all_say_so() {
    let file = Scratch::on_disk(1 << 20);
    let device = Loop::attach(&file.0, 512);
    let one = open(&UringOptions { shared: true, ..device.options() }).unwrap();
    assert!(open(&UringOptions { shared: true, ..device.options() }).is_ok());
    drop(one);
    assert!(open(&device.options()).is_ok());
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn a_loop_device_that_takes_no_writes_shows_so_without_being_told() {
    let file = Scratch::on_disk(1 << 20);
    let path = file.0.to_str().unwrap();
    let device = Loop(must("losetup", &["--find", "--show", "--read-only", path]));
    // Newer kernels refuse to open such a device for writing, with the hint to set read_only.
    match open(&device.options()) {
        Ok(uring) => {
            let geometry = uring.geometry();
            assert!(geometry.read_only && !geometry.write_cache && !geometry.unmap);
            assert_eq!(uring.driver_specific()["uring"]["read_only"], json!(true));
            contract::every_rule(&uring, 11);
        }
        Err(error) => assert!(error.to_string().contains("read_only was not set"), "{error}"),
    }
}

#[test]
fn a_locked_file_is_waited_for_only_when_told_so() {
    let scratch = Scratch::on_disk(1 << 20);
    let writer = scratch.open(|_| {}).unwrap();
    let mut registry = Registry::with_host("host");
    let started = Now::now();
    assert_eq!(registry.create(scratch.options()).unwrap_err().errno(), -16);
    assert!(started.elapsed() < Duration::from_millis(100), "the caller was held");
    registry.wait_for_locks(Duration::from_secs(60));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| registry.create(scratch.options()).map(drop));
        drop(writer);
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn a_deleted_device_leaves_its_file_to_the_next_at_once() {
    let scratch = Scratch::on_disk(1 << 20);
    let mut registry = Registry::with_host("host");
    let kept = registry.create(scratch.options()).unwrap();
    registry.delete("Uring0", "uring").unwrap();
    registry.create(scratch.options()).expect("nobody has the file");
    assert!(!kept.ready());
    let of_the_next = registry.all_of::<Uring>().next().expect("one device");
    assert_eq!(of_the_next.look(), None);
}

#[test]
fn polling_works_or_says_why_it_does_not() {
    let scratch = Scratch::on_disk(4 << 20);
    for (sq_poll, io_poll) in [(true, false), (false, true), (true, true)] {
        let uring = scratch
            .open(|options| (options.sq_poll, options.io_poll) = (sq_poll, io_poll))
            .unwrap();
        let shown = uring.driver_specific()["uring"].clone();
        let does = json!([sq_poll, io_poll]) == json!([shown["sq_poll"], shown["io_poll"]]);
        assert!(does || shown["polling_refused"].is_string(), "{shown}");
        let options = uring.options();
        assert_eq!(json!([sq_poll, io_poll]), json!([options["sq_poll"], options["io_poll"]]));
        contract::every_rule(&uring, 25);
    }
    let refused = scratch.open(|options| {
        (options.io_poll, options.direct) = (true, Direct::Off);
    });
    assert!(refused.unwrap_err().to_string().contains("io_poll needs direct I/O"));
}

#[test]
fn options_are_words_or_switches() {
    let parse = |text: &str| serde_json::from_str::<UringOptions>(text);
    for (word, expected) in [("\"on\"", true), ("\"off\"", false), ("true", true)] {
        let text = format!(r#"{{"filename":"f","write_cache":{word}}}"#);
        assert_eq!(parse(&text).unwrap().write_cache, OnOff(expected));
    }
    let error = parse(r#"{"filename":"f","write_cache":"maybe"}"#).unwrap_err();
    assert!(error.to_string().contains("`on`, `off`"), "{error}");
    let scratch = Scratch::on_disk(1 << 20);
    for serial in ["", "a\tb", "caf\u{e9}", &"s".repeat(37)] {
        let refused = scratch.open(|options| options.serial = Some(serial.to_owned()));
        assert!(refused.unwrap_err().to_string().contains("serial"), "{serial:?}");
    }
    let uring = scratch.open(|options| options.serial = Some("S-1".into())).unwrap();
    assert_eq!(uring.serial(), Some("S-1"));
}
