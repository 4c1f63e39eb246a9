//! A file system that is stuck: a loop mount that is frozen.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use srpt_tests::process::{Initiator, Options, Rpc, Target, lun};
use tempfile::TempDir;

/// What an orderly stop may take.
const STOP_WAIT_MAX: Duration = Duration::from_secs(2);

const LIMIT: Duration = Duration::from_secs(20);

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// A file system of its own in a file. Thawed, unmounted and removed when dropped.
struct Frozen {
    dir: TempDir,
    device: String,
}

impl Frozen {
    fn mount() -> Frozen {
        let dir = TempDir::new().expect("a directory");
        let image = dir.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("an image");
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        std::fs::create_dir(dir.path().join("mount")).expect("a directory");
        let device = run(Command::new("losetup").args(["-f", "--show"]).arg(&image));
        let device = String::from_utf8(device.stdout).expect("a path").trim().to_owned();
        let frozen = Frozen { dir, device };
        run(Command::new("mount").arg(&frozen.device).arg(frozen.folder()));
        frozen
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    /// A file of 4 MiB.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.folder().join(name);
        std::fs::File::create(&path).and_then(|file| file.set_len(4 << 20)).expect("a file");
        path
    }

    fn freeze(&self) {
        run(Command::new("fsfreeze").arg("-f").arg(self.folder()));
    }

    fn thaw(&self) {
        run(Command::new("fsfreeze").arg("-u").arg(self.folder()));
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Whatever of it is not there any more needs no undoing.
        for (program, options) in
            [("fsfreeze", &["-u"][..]), ("umount", &["-l"]), ("losetup", &["-d"])]
        {
            let subject = match program {
                "losetup" => self.device.clone().into(),
                _ => self.folder().into_os_string(),
            };
            let _ = Command::new(program).args(options).arg(subject).output();
        }
    }
}

/// Methods that need nothing of what is sick here.
const OTHERS: [&str; 4] =
    ["spdk_get_version", "bdev_get_bdevs", "save_config", "srpt_get_sessions"];

fn create(name: &str, file: &Path) -> Value {
    json!({ "name": name, "filename": file, "block_size": 512 })
}

/// Calls a method without waiting for the answer.
fn begin(target: &Target, method: &str, params: &Value) -> Rpc {
    let mut client = target.client();
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    std::io::Write::write_all(client.stream(), request.to_string().as_bytes()).expect("open");
    client
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn a_frozen_file_system_harms_only_its_own_bdevs() {
    let frozen = Frozen::mount();
    let (first, second) = (frozen.file("first"), frozen.file("second"));
    let mut target = Target::start_with(&Options::with(&[]));
    target.rpc("bdev_uring_create", create("First", &first));
    target.malloc_bdev("Malloc0", 4);
    target.export(&["Malloc0"]);
    let other = target.file_bdev("Other", 4);
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 1);
    initiator.ready(1);
    frozen.freeze();

    let _opening = begin(&target, "bdev_uring_create", &create("Second", &second));
    target.process.until("Second is being opened", LIMIT, || {
        let client = &mut target.client();
        let refusal = client.call("bdev_get_bdevs", &json!({ "name": "Second" })).err()?;
        let busy = refusal.code == -16 && refusal.message.contains("busy: opening ");
        busy.then_some(())
    });
    target.answers_at_once(&OTHERS);
    let refusal = target.refused("bdev_uring_delete", json!({ "name": "Second" }));
    assert_eq!(refusal.code, -16, "{refusal:?}");
    let words = format!("bdev Second is busy: opening {} for ", second.display());
    assert!(refusal.message.contains(&words), "{refusal:?}");
    let refusal = target.refused("bdev_uring_create", create("Second", &other));
    assert!(refusal.message.contains(&words), "{refusal:?}");
    initiator.scsi().write(lun(0), 0, 1, &[7; 512], true).expect("other devices serve");
    // Another medium is still looked at.
    std::fs::File::options().write(true).open(&other).unwrap().set_len(8 << 20).unwrap();
    target.process.until("the watch has seen Other grow", LIMIT, || {
        let bdevs = target.rpc("bdev_get_bdevs", json!({ "name": "Other" }));
        (bdevs[0]["num_blocks"] == 16384).then_some(())
    });

    target.process.signal(Signal::TERM);
    let began = Instant::now();
    // A thread that the kernel keeps is all that is left of the process.
    let stat = format!("/proc/{}/stat", target.process.pid().as_raw_nonzero());
    let is_over = || {
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"))
    };
    while !is_over() {
        assert!(
            began.elapsed() < STOP_WAIT_MAX,
            "{:?}\n{}",
            began.elapsed(),
            target.process.shown()
        );
        std::thread::yield_now();
    }
    println!("the end: {:?}", began.elapsed());
    assert!(!target.path("rpc.sock").exists() && !target.srp_socket().exists());
    frozen.thaw();
    target.process.succeed(LIMIT);
}

#[test]
#[ignore = "needs loop devices and mounts"]
fn a_bdev_whose_opening_takes_too_long_is_not_made_later() {
    let frozen = Frozen::mount();
    let file = frozen.file("file");
    let target = Target::start();
    frozen.freeze();
    let began = Instant::now();
    let refusal = target.refused("bdev_uring_create", create("Late", &file));
    assert_eq!(refusal.code, -110, "{refusal:?}");
    assert!(refusal.message.contains("no end within 10 s"), "{refusal:?}");
    assert!(began.elapsed() < LIMIT);
    frozen.thaw();
    target.process.until("the name is free", LIMIT, || {
        let client = &mut target.client();
        let refusal = client.call("bdev_get_bdevs", &json!({ "name": "Late" })).err()?;
        (refusal.code == -19).then_some(())
    });
    // Its file is free, too.
    target.rpc("bdev_uring_create", create("Late", &file));
}
