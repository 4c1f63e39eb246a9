//! A control plane without cores, for tests: actions and listeners are recorded, and one action can
//! be made to fail on one core.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bdev::registry::Registry;
use reactor::stats::CoreStats;
use rustix::io::Errno;
use serde_json::Value;
use serde_json::value::RawValue;
use tempfile::TempDir;
use transport::dm::Controller;
use transport::rdma::RdmaOptions;

use super::{RpcError, Server, Shared, methods};
use crate::control::cores::Cores;
use crate::control::{AgentPort, Agents, Control, Desk, ListenError, Listeners, Mail, Parts, Post};
use crate::logs::{Level, Logs};
use crate::shard::message::{Action, ActionError, Answer, Report, Token, Up};
use crate::shard::names::CoreId;

/// What the doubles have seen, and what they are told to do.
#[derive(Default)]
pub(crate) struct Seen {
    /// Actions in words, each with its core.
    pub actions: Vec<String>,
    /// Units that were announced before they were mapped, in words.
    pub announced: Vec<String>,
    /// Listener calls in words.
    pub listeners: Vec<String>,
    /// Signals raised.
    pub signals: Vec<i32>,
    /// An action whose words begin so fails on core 1.
    pub refuse: Option<String>,
    /// An action whose words begin so is not answered by core 1.
    pub silent: Option<String>,
    /// What core 1 has not answered.
    pub unanswered: Vec<Token>,
    /// What listeners were told of the parameters of `ib_srpt`.
    pub configured: Vec<RdmaOptions>,
    /// What device management agents show.
    pub controllers: Vec<Controller>,
    /// The next agent to be enabled waits until the other end is dropped.
    pub stuck_agent: Option<mpsc::Receiver<()>>,
    /// What the cores report.
    pub reports: Vec<Report>,
}

/// Shared with the doubles.
pub(crate) type Record = Arc<Mutex<Seen>>;

struct FakeCores(Record, Post);

/// An action in words.
fn words(action: &Action) -> String {
    match action {
        Action::CreateTarget(spec) => format!("create {}", spec.name),
        Action::DeleteTarget { target } => format!("delete {target}"),
        Action::MapLun { target, lun, lu, read_only } => {
            format!(
                "map {target} {lun} {} unit {} read_only {read_only}",
                lu.bdev.name(),
                lu.id.number()
            )
        }
        Action::AnnounceLun { target, lun, lu } => {
            format!("announce {target} {lun} {} unit {}", lu.bdev.name(), lu.id.number())
        }
        Action::UnmapLun { target, lun } => format!("unmap {target} {lun}"),
        Action::LunsChanged { target } => format!("changed {target}"),
        Action::CloseBdev { bdev } => format!("close {}", bdev.name()),
        Action::CapacityChanged { bdev } => format!("resized {bdev}"),
        Action::Disconnect { session } => format!("disconnect {session}"),
        Action::ResetIoCounts { bdevs, sums } => format!("reset {bdevs:?} {sums}"),
        Action::Report => "report".to_owned(),
        other => format!("{other:?}"),
    }
}

impl Cores for FakeCores {
    fn count(&self) -> usize {
        2
    }

    fn send(&mut self, core: CoreId, token: Token, action: &Action) -> bool {
        let mut seen = self.0.lock().unwrap();
        if let Action::AnnounceLun { .. } = action {
            seen.announced.push(format!("{core}: {}", words(action)));
            let result = Ok(Report::default());
            self.1.send(Mail::Core(Up::Answer(Answer { core, token, result })));
            return true;
        }
        let words = words(action);
        seen.actions.push(format!("{core}: {words}"));
        let is = |begin: &Option<String>| {
            core == CoreId::new(1) && begin.as_ref().is_some_and(|begin| words.starts_with(begin))
        };
        if is(&seen.silent) {
            seen.unanswered.push(token);
            return true;
        }
        let result = match is(&seen.refuse) {
            true => Err(ActionError::OpenChannel { core, reason: "no room".to_owned() }),
            false => Ok(seen.reports.get(core.index()).cloned().unwrap_or_default()),
        };
        self.1.send(Mail::Core(Up::Answer(Answer { core, token, result })));
        true
    }
}

struct FakeListeners(Record);

impl FakeListeners {
    fn note(&self, what: &str, target: &str, traddr: &str) -> Result<(), ListenError> {
        if !traddr.starts_with(['/', '1', 'i']) {
            let reason = "not an absolute path".to_owned();
            return Err(ListenError::Address { parameter: "traddr", reason });
        }
        if traddr == "/taken" {
            let what = format!("bind {traddr}");
            return Err(ListenError::Os { what, errno: Errno::ADDRINUSE });
        }
        self.0.lock().unwrap().listeners.push(format!("{what} {target} {traddr}"));
        Ok(())
    }
}

impl Listeners for FakeListeners {
    fn configure(&self, options: &RdmaOptions) -> Result<(), ListenError> {
        let mut seen = self.0.lock().unwrap();
        if seen.refuse.as_deref() == Some("configure") {
            return Err(ListenError::Os { what: "laid out".to_owned(), errno: Errno::BUSY });
        }
        seen.configured.push(*options);
        Ok(())
    }

    fn add(&self, target: &str, traddr: &str, _: Option<&str>) -> Result<(), ListenError> {
        self.note("add", target, traddr)
    }

    fn remove(&self, target: &str, traddr: &str, _: Option<&str>) -> Result<(), ListenError> {
        self.note("remove", target, traddr)
    }
}

struct FakeAgents(Record);

impl Agents for FakeAgents {
    fn enable(&self, at: &AgentPort) -> Result<(), ListenError> {
        let stuck = self.0.lock().unwrap().stuck_agent.take();
        if let Some(stuck) = stuck {
            assert!(stuck.recv().is_err(), "nobody sends");
        }
        match at.device.as_str() {
            "none" => Err(ListenError::Os { what: "none".to_owned(), errno: Errno::NODEV }),
            _ => Ok(()),
        }
    }

    fn disable(&self, _: &AgentPort) {}

    fn answered(&self, _: &AgentPort) -> u64 {
        3
    }

    fn show(&self, controllers: Vec<Controller>) {
        self.0.lock().unwrap().controllers = controllers;
    }
}

/// A control plane and what its doubles have seen.
pub(crate) struct Bench {
    pub shared: Arc<Shared>,
    pub seen: Record,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let seen = Record::default();
        let signals = Arc::clone(&seen);
        let busy = CoreStats::default();
        [600, 700, 1 << 40].into_iter().for_each(|turn_ns| busy.add_busy(turn_ns));
        let (post, inbox) = Post::new();
        let mut control = Control::new(Parts {
            cores: Box::new(FakeCores(Arc::clone(&seen), post.clone())),
            stats: vec![(0, Arc::new(CoreStats::default())), (5, Arc::new(busy))],
            bdevs: Registry::with_host("test host"),
            host_id: "test host".to_owned(),
            logs: Logs::new(Level::Notice, |_| {}),
            raise: Box::new(move |signal| {
                signals.lock().unwrap().signals.push(signal.as_raw());
                Ok(())
            }),
        });
        control.offer("shm", Arc::new(FakeListeners(Arc::clone(&seen))));
        control.offer_agents(Arc::new(FakeAgents(Arc::clone(&seen))));
        let shared = Shared::start(control, post, inbox).expect("a thread");
        Bench { shared: Arc::new(shared), seen }
    }

    /// Calls a method with parameters as JSON text, empty for none.
    pub(crate) fn call(&self, method: &str, params: &str) -> Result<Value, RpcError> {
        let raw = (!params.is_empty())
            .then(|| RawValue::from_string(params.to_owned()).expect("the test's JSON"));
        self.shared.call(method, raw.as_deref())
    }

    /// Calls a method that is to succeed.
    pub(crate) fn ok(&self, method: &str, params: &str) -> Value {
        self.call(method, params).unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    }

    /// Calls a method that is to fail.
    pub(crate) fn fail(&self, method: &str, params: &str) -> RpcError {
        match self.call(method, params) {
            Ok(result) => panic!("{method} {params} gave {result}"),
            Err(error) => error,
        }
    }

    /// Actions since the last call, without reports.
    pub(crate) fn actions(&self) -> Vec<String> {
        let actions = std::mem::take(&mut self.seen.lock().unwrap().actions);
        actions.into_iter().filter(|action| !action.ends_with("report")).collect()
    }

    /// The present configuration.
    pub(crate) fn saved(&self) -> Value {
        self.with(|control| methods::saved(control))
    }

    /// Looks at the state and changes it.
    pub(crate) fn with<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Control) -> T + Send + 'static,
    ) -> T {
        self.run(|desk| async move { desk.with(change) })
    }

    /// Runs an operation of the control thread.
    pub(crate) fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        operation: impl FnOnce(Desk) -> F + Send + 'static,
    ) -> T {
        self.shared.post().run(Duration::from_secs(60), operation).expect("it ends")
    }

    /// Adds a transport type.
    pub(crate) fn offer(&self, trtype: &'static str) {
        let listeners = FakeListeners(Arc::clone(&self.seen));
        self.with(move |control| control.offer(trtype, Arc::new(listeners)));
    }

    /// Makes actions that begin with these words fail on core 1.
    pub(crate) fn refuse(&self, words: &str) {
        self.seen.lock().unwrap().refuse = Some(words.to_owned());
    }

    /// Makes core 1 answer no actions that begin with these words.
    pub(crate) fn silence(&self, words: &str) {
        self.seen.lock().unwrap().silent = Some(words.to_owned());
    }

    /// Lets core 1 answer what it has left unanswered.
    pub(crate) fn answer_late(&self) {
        let mut seen = self.seen.lock().unwrap();
        seen.silent = None;
        for token in std::mem::take(&mut seen.unanswered) {
            let answer = Answer { core: CoreId::new(1), token, result: Ok(Report::default()) };
            self.shared.post().send(Mail::Core(Up::Answer(answer)));
        }
    }

    /// Two bdevs, a target with both mapped and a listener.
    pub(crate) fn with_target() -> Self {
        let bench = Bench::new();
        bench.ok("bdev_null_create", r#"{"name":"Null0","num_blocks":2048,"block_size":512}"#);
        bench.ok("bdev_malloc_create", r#"{"name":"M0","num_blocks":64,"block_size":4096}"#);
        bench.ok("srpt_create_target", r#"{"name":"t0","service_guid":"0x0002c90300a1b2c3"}"#);
        bench.ok("srpt_map_lun", r#"{"target":"t0","bdev_name":"Null0","serial":"S1"}"#);
        bench.ok("srpt_map_lun", r#"{"target":"t0","bdev_name":"M0","lun":7,"read_only":true}"#);
        bench.ok("srpt_add_listener", r#"{"target":"t0","trtype":"shm","traddr":"/run/t0"}"#);
        bench.actions();
        bench
    }
}

/// A server on a socket of its own.
pub(crate) struct Served {
    pub bench: Bench,
    pub folder: TempDir,
    pub server: Server,
}

impl Served {
    pub(crate) fn start() -> Self {
        Served::start_with(Duration::from_secs(10))
    }

    pub(crate) fn start_with(write_wait_max: Duration) -> Self {
        let bench = Bench::new();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rpc.sock");
        let server = Server::start_with(&path, Arc::clone(&bench.shared), write_wait_max)
            .expect("a fresh path");
        Served { bench, folder, server }
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("rpc.sock")
    }

    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).expect("the server listens")
    }

    /// Sends bytes, ends the sending side, and gives everything that came back.
    pub(crate) fn talk(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("the server reads");
        stream.shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("no reset");
        answer
    }
}
