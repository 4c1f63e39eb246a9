//! A running target.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Process, Refusal, Rpc, binary, cores, script};

/// How long a target may take to be ready. Under load on a slow machine.
const START_WAIT_MAX: Duration = Duration::from_secs(20);

/// What an RPC that needs nothing sick may take.
const AT_ONCE_MAX: Duration = Duration::from_millis(50);

/// How to start a target.
#[derive(Debug, Clone)]
pub struct Options {
    /// Processors, one core each.
    pub cores: Vec<usize>,
    /// `--idle`.
    pub idle: &'static str,
    /// More options.
    pub more: Vec<String>,
}

impl Default for Options {
    /// One core that sleeps when idle.
    fn default() -> Self {
        Options { cores: vec![cores()[0]], idle: "adaptive", more: Vec::new() }
    }
}

impl Options {
    /// The default with more options.
    pub fn with(more: &[&str]) -> Self {
        Options { more: more.iter().map(|&option| option.into()).collect(), ..Self::default() }
    }

    /// The command line of a target with this RPC socket.
    pub fn command(&self, rpc_socket: &Path) -> Command {
        let list: Vec<String> = self.cores.iter().map(usize::to_string).collect();
        let mut command = Command::new(binary("srpt_tgt"));
        command
            .args(["-m", &format!("[{}]", list.join(",")), "-s", &(32 * list.len()).to_string()])
            .args(["--no-huge", "--log-level", "INFO", "--idle", self.idle, "-r"])
            .arg(rpc_socket)
            .args(&self.more);
        command
    }
}

/// A `srpt_tgt` that is ready. Killed when dropped.
#[derive(Debug)]
pub struct Target {
    /// The process. Declared before the directory, so that it ends first.
    pub process: Process,
    dir: TempDir,
}

impl Target {
    /// Starts one on one core that sleeps when idle.
    pub fn start() -> Target {
        Target::start_with(&Options::default())
    }

    /// Starts one and waits until it answers.
    pub fn start_with(options: &Options) -> Target {
        Target::start_in(TempDir::new().expect("a directory"), options)
    }

    /// The same in a directory that may hold something already.
    pub fn start_in(dir: TempDir, options: &Options) -> Target {
        Target::start_to(dir, options, None)
    }

    /// The same with another standard error.
    pub fn start_to(dir: TempDir, options: &Options, err_to: Option<Stdio>) -> Target {
        let socket = dir.path().join("rpc.sock");
        let process = Process::spawn_to(options.command(&socket), dir.path(), err_to);
        process.until("the target is ready", START_WAIT_MAX, || {
            Rpc::connect(&socket)?.call("spdk_get_version", &Value::Null).ok()
        });
        Target { process, dir }
    }

    /// Its directory, with everything that belongs to it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills it and leaves its directory as it is.
    pub fn killed(self) -> TempDir {
        let Target { mut process, dir } = self;
        process.kill();
        dir
    }

    /// The directory of a target that has ended.
    pub fn into_dir(self) -> TempDir {
        self.dir
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where its initiators meet it, once [`Target::export`] has run.
    pub fn srp_socket(&self) -> PathBuf {
        self.path("srp.sock")
    }

    /// A new connection to its RPC socket.
    pub fn client(&self) -> Rpc {
        Rpc::connect(&self.path("rpc.sock")).expect("the target listens")
    }

    /// Calls a method that must succeed.
    pub fn rpc(&self, method: &str, params: Value) -> Value {
        self.client().call(method, &params).unwrap_or_else(|error| panic!("{method}: {error:?}"))
    }

    /// Methods that need nothing sick are answered at once, while something else waits. The fastest
    /// of a few calls counts: one that waits for something sick is slow each time.
    pub fn answers_at_once(&self, methods: &[&str]) {
        for method in methods {
            let times = (0..5).map(|_| {
                let began = Instant::now();
                self.rpc(method, Value::Null);
                began.elapsed()
            });
            let fastest = times.min().expect("a few");
            println!("{method}: {fastest:?}");
            assert!(fastest < AT_ONCE_MAX, "{method}: {fastest:?}");
        }
    }

    /// Calls a method that must be refused, and checks that the configuration stays what it was.
    pub fn refused(&self, method: &str, params: Value) -> Refusal {
        let before = self.rpc("save_config", Value::Null);
        let refusal = match self.client().call(method, &params) {
            Ok(result) => panic!("{method} {params}: {result}"),
            Err(refusal) => refusal,
        };
        assert_eq!(self.rpc("save_config", Value::Null), before, "{method} {params} left traces");
        refusal
    }

    /// Runs `scripts/rpc.py`: exit code, standard output, standard error.
    pub fn rpc_py(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new("python3");
        command.arg(script("rpc.py")).arg("-s").arg(self.path("rpc.sock")).args(arguments);
        let mut process = Process::spawn(command, self.dir());
        let code = process.exit_code(START_WAIT_MAX);
        (code, process.out(), process.err())
    }

    /// Makes a null bdev of a gigabyte.
    pub fn null_bdev(&self, name: &str) {
        let params = json!({ "name": name, "num_blocks": 1 << 21, "block_size": 512 });
        self.rpc("bdev_null_create", params);
    }

    /// Makes a malloc bdev.
    pub fn malloc_bdev(&self, name: &str, mib: u64) {
        let params = json!({ "name": name, "num_blocks": mib << 11, "block_size": 512 });
        self.rpc("bdev_malloc_create", params);
    }

    /// Makes a bdev of a new file in its directory, and returns the file's path.
    pub fn file_bdev(&self, name: &str, mib: u64) -> PathBuf {
        let path = self.path(&format!("{name}.img"));
        let file = std::fs::File::create(&path).expect("a file");
        file.set_len(mib << 20).expect("room for a sparse file");
        self.rpc("bdev_uring_create", json!({ "name": name, "filename": path, "block_size": 512 }));
        path
    }

    /// Shows bdevs as the LUNs 0 and so on of the target `t0`, at [`Target::srp_socket`].
    pub fn export(&self, bdevs: &[&str]) {
        self.rpc("srpt_create_target", json!({ "name": "t0" }));
        for (lun, bdev) in bdevs.iter().enumerate() {
            let params = json!({ "target": "t0", "lun": lun, "bdev_name": bdev });
            assert_eq!(self.rpc("srpt_map_lun", params), lun);
        }
        let address = self.srp_socket();
        self.rpc(
            "srpt_add_listener",
            json!({ "target": "t0", "trtype": "shm", "traddr": address }),
        );
    }

    /// Starts `srpt_perf` on it, with a report for [`perf_report`].
    pub fn perf(&self, options: &[&str]) -> Process {
        let mut command = Command::new(binary("srpt_perf"));
        command.arg("--target").arg(self.address()).arg("--json").args(options);
        Process::spawn(command, self.dir())
    }

    /// Runs `srpt_dd` on it.
    pub fn dd(&self, options: &[&str]) -> Process {
        let mut command = Command::new(binary("srpt_dd"));
        command.arg("--target").arg(self.address()).args(options);
        Process::spawn(command, self.dir())
    }

    fn address(&self) -> String {
        format!("shm:{}", self.srp_socket().display())
    }

    /// Its sessions.
    pub fn sessions(&self) -> Vec<Value> {
        let Value::Array(sessions) = self.rpc("srpt_get_sessions", Value::Null) else {
            panic!("sessions are a list")
        };
        sessions
    }

    /// The session of the initiator process with this number.
    pub fn session_of(&self, pid: rustix::process::Pid) -> Option<Value> {
        let peer = format!("pid {}", pid.as_raw_nonzero());
        self.sessions().into_iter().find(|session| session["channels"][0]["peer"] == peer.as_str())
    }

    /// Buffers and slots in use and commands that wait, over all cores.
    pub fn in_use(&self) -> u64 {
        let stats = self.rpc("srpt_get_stats", Value::Null);
        let number = |value: &Value| value.as_u64().expect("a number");
        let cores = stats["cores"].as_array().expect("cores");
        let used = cores.iter().map(|core| {
            let buffers = core["buffers"].as_array().expect("size classes");
            let buffers: u64 =
                buffers.iter().map(|class| number(&class["total"]) - number(&class["free"])).sum();
            buffers + number(&core["slots"]["used"]) + number(&core["waiting"])
        });
        used.sum()
    }

    /// Waits until no session is left and everything has come home.
    pub fn wait_all_home(&self) {
        self.process.until("everything is home", Duration::from_secs(5), || {
            (self.sessions().is_empty() && self.in_use() == 0).then_some(())
        });
    }
}

/// The report of a `srpt_perf` that ends in time and without an error.
pub fn perf_report(mut perf: Process, limit: Duration) -> Value {
    perf.succeed(limit);
    let report: Value = serde_json::from_str(&perf.out()).expect("a report");
    assert_eq!(report["errors"], 0, "{report:#}");
    report
}
