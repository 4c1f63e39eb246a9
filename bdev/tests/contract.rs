//! The contract suite on every module, with the list of what ran where:
//! `cargo test -p bdev --test contract -- --nocapture`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bdev::contract::{RULES, Rig};
use bdev::malloc::MallocOptions;
use bdev::null::NullOptions;
use bdev::registry::Registry;
use bdev::sg::SgOptions;
use bdev::stacked::delay::{DelayOptions, Latencies};
use bdev::stacked::fault::{ErrorInjection, ErrorOptions, Fault, Injection, IoType};
use bdev::stacked::passthru::PassthruOptions;
use bdev::uring::{Direct, UringOptions};
use bdev::{Bdev, IoOp, IoStatus};

const FILE_BYTES: u64 = 4 << 20;

/// A scratch file on the file system of the build, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let folder = std::env::current_exe().expect("a path");
        let path = folder.with_file_name(format!("contract-{}", uuid::Uuid::new_v4()));
        let file = std::fs::File::create_new(&path).expect("a new file");
        file.set_len(FILE_BYTES).expect("room for a sparse file");
        Scratch(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn attach(file: &Path) -> Loop {
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let output = output.expect("losetup");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Loop(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).output();
    }
}

fn uring(registry: &mut Registry, path: &str, direct: Direct) -> Arc<dyn Bdev> {
    let options = UringOptions { direct, ..UringOptions::new(path) };
    registry.create(options).expect("a file or device of our own")
}

fn malloc(registry: &mut Registry) -> Arc<dyn Bdev> {
    let options = MallocOptions { num_blocks: 8192, block_size: 512, ..MallocOptions::default() };
    registry.create(options).expect("memory")
}

/// Each kind of injected fault shows once and leaves the device as it was.
fn faults_are_seen(registry: &mut Registry, bdev: &dyn Bdev) {
    let options = ErrorOptions { base: bdev.name().to_owned(), uuid: None };
    let error = registry.create(options).expect("a base of its own");
    let mut rig = Rig::new(error.as_ref(), 4, 4096);
    let block = rig.geometry.block_bytes as usize;
    let injector = registry.of_kind::<ErrorInjection>(error.name(), "");
    let injector = injector.expect("an error device");
    let inject = |io_type, fault| {
        let injection = Injection { fault, num: 1, queue_depth: 0 };
        injector.inject(&[io_type], injection);
    };
    inject(IoType::Read, Fault::Failure);
    assert_eq!(rig.read(0, 1), Err(IoStatus::ReadError));
    assert!(rig.read(0, 1).is_ok());
    inject(IoType::Write, Fault::Failure);
    assert_eq!(rig.write(0, &vec![1; block]), IoStatus::WriteError);
    inject(IoType::Flush, Fault::Pending);
    rig.submit(IoOp::Flush, None);
    assert!(rig.wait_turns(1000).is_none(), "a pending operation has ended");
    injector.resume_pending();
    assert_eq!(rig.wait().status, IoStatus::Good);
    rig.drain();
}

fn obeys(registry: &mut Registry, module: &str, bdev: &dyn Bdev, seed: u64) {
    for (name, rule) in RULES {
        rule(bdev, seed);
        println!("{module}: {name}: passed");
    }
    faults_are_seen(registry, bdev);
    println!("{module}: faults are seen: passed");
}

#[test]
fn every_module_obeys_every_rule() {
    let mut registry = Registry::with_host("contract");
    let registry = &mut registry;
    let files = [Scratch::new(), Scratch::new()];
    let null = NullOptions { num_blocks: 1 << 20, block_size: 512, ..NullOptions::default() };
    let mut modules = vec![
        ("null", registry.create(null).expect("nothing is in the way")),
        ("malloc", malloc(registry)),
        ("uring, file, O_DIRECT", uring(registry, files[0].text(), Direct::Auto)),
        ("uring, file, page cache", uring(registry, files[1].text(), Direct::Off)),
    ];
    let latencies =
        Latencies { avg_read_us: 3, p99_read_us: 40, avg_write_us: 5, p99_write_us: 50 };
    let base = malloc(registry).name().to_owned();
    let delay = DelayOptions::new("delay", &base, latencies);
    modules.push(("delay over malloc", registry.create(delay).expect("a free base")));
    let base = malloc(registry).name().to_owned();
    let error = ErrorOptions { base, uuid: None };
    modules.push(("error over malloc", registry.create(error).expect("a free base")));
    let base = malloc(registry).name().to_owned();
    let passthru = PassthruOptions { name: "passthru".into(), base, uuid: None };
    modules.push(("passthru over malloc", registry.create(passthru).expect("free")));
    for (number, (module, bdev)) in modules.iter().enumerate() {
        obeys(registry, module, bdev.as_ref(), number as u64 + 1);
    }
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn a_loop_device_obeys_every_rule() {
    let file = Scratch::new();
    let device = Loop::attach(&file.0);
    let mut registry = Registry::with_host("contract");
    let bdev = uring(&mut registry, &device.0, Direct::On);
    obeys(&mut registry, "uring, loop device", bdev.as_ref(), 1);
}

/// scripts/guest/in/srp-sg.sh has a disk.
#[test]
#[ignore = "needs a block device to overwrite"]
fn a_block_device_obeys_every_rule() {
    let path = std::env::var("SRPT_BLOCK_DEVICE").expect("SRPT_BLOCK_DEVICE");
    for direct in [Direct::Auto, Direct::Off] {
        let mut registry = Registry::with_host("contract");
        let bdev = uring(&mut registry, &path, direct);
        obeys(&mut registry, &format!("uring, block device, {direct:?}"), bdev.as_ref(), 1);
    }
}

/// scripts/guest/in/srp-sg.sh has a disk.
#[test]
#[ignore = "needs a SCSI disk to overwrite"]
fn a_scsi_disk_obeys_every_rule() {
    let filename = std::env::var("SRPT_SG_DEVICE").expect("SRPT_SG_DEVICE");
    let mut registry = Registry::with_host("contract");
    let options = SgOptions { name: None, filename, timeout_ms: None, uuid: None };
    let disk = registry.create(options).expect("a disk that nobody uses");
    obeys(&mut registry, "sg", disk.as_ref(), 1);
}
