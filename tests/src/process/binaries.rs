//! Where the binaries are, and that they are up to date.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::FlockOperation;

/// Names the test run: `cargo nextest` starts every test in a process of its own.
const RUN_ID: &str = "NEXTEST_RUN_ID";

/// The path of a binary of this workspace, built in the profile of the tests. The first test of a
/// run builds all of them; where `SRPT_TEST_BINARIES` names a directory, they are there already.
pub fn binary(name: &str) -> PathBuf {
    static PROFILE_DIR: OnceLock<PathBuf> = OnceLock::new();
    let given = || std::env::var_os("SRPT_TEST_BINARIES").map(PathBuf::from);
    PROFILE_DIR.get_or_init(|| given().unwrap_or_else(built)).join(name)
}

/// The path of a script of this workspace.
pub fn script(name: &str) -> PathBuf {
    root().join("scripts").join(name)
}

/// Processors that this process may run on, in rising order.
pub fn cores() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None).expect("the allowed processors");
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a member of a workspace")
}

/// Builds unless this run has done so already, and returns the profile's directory.
fn built() -> PathBuf {
    // target/<profile>/deps/<test>
    let test = std::env::current_exe().expect("the test's own path");
    let profile_dir = test.ancestors().nth(2).expect("a test binary in target/<profile>/deps");
    let run = std::env::var(RUN_ID).unwrap_or_default();
    let path = profile_dir.join(".srpt_tests-built-by");
    let mut mark = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let mark = mark.as_mut().expect("the target directory can be written");
    rustix::fs::flock(&*mark, FlockOperation::LockExclusive).expect("a lock");
    let mut last = String::new();
    mark.read_to_string(&mut last).expect("the mark can be read");
    if run.is_empty() || last != run {
        build(profile_dir);
        mark.set_len(0).and_then(|()| mark.rewind()).expect("the mark can be written");
        mark.write_all(run.as_bytes()).expect("the mark can be written");
    }
    profile_dir.to_owned()
}

fn build(profile_dir: &Path) {
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} names no profile", profile_dir.display()),
    };
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["build", "--quiet", "--locked", "--workspace", "--bin", "srpt_tgt"])
        .args(["--bin", "srpt_perf", "--bin", "srpt_dd", "--bin", "bdevperf"])
        .args(["--profile", profile, "--target-dir"])
        .arg(profile_dir.parent().expect("target/<profile>"))
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "build: {}", String::from_utf8_lossy(&output.stderr));
}
