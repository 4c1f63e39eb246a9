//! Where everything is put together: the one place that names the clock, the fabrics and the
//! threads of a running target.
//!
//! Start: memory and cores, then the configuration file, then the RPC socket. Stop: no new logins,
//! every core answers what runs or its time is over, and only then the listeners and sockets go.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bdev::CoreContext;
use bdev::registry::Registry;
use reactor::core::{Core, CoreConfig, IdlePolicy};
use reactor::mailbox::{self, Capacity, Ends};
use reactor::sleep::WakeSet;
use reactor::sys::affinity;
use reactor::sys::memory::{Memory, MemoryError, PageWish};
use reactor::{Pool, stats::CoreStats};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getpid, getrlimit, kill_process, setrlimit};
use transport::dm;
use transport::pair::Pair;
use transport::rdma::{self, RdmaFabric, RdmaOptions};
use transport::shm::{self, FabricOptions, ShmFabric};

use crate::capacity::{self, SystemLimits};
use crate::config::{Config, HugeSize, Idle};
use crate::control::cores::Sender;
use crate::control::{
    AgentPort, Agents, Control, ControlThread, Desk, ListenError, Listeners, Mailboxes, Parts,
    Post, WATCH_INTERVAL, watch,
};
use crate::limits::Limits;
use crate::logs::Logs;
use crate::rpc::{Server, Shared, methods};
use crate::service::{Manager, Progress};
use crate::shard::Shard;
use crate::shard::message::Message;
use crate::shard::names::CoreId;
use crate::shard::outbox::{CoreDoor as OutboxDoor, Outbox};
use crate::signals::Signals;

/// Messages that a core's mailbox holds from each other core, and from the control plane.
const MAILBOX: Capacity = Capacity { core: 256, control: 64 };

/// How long clients and cores may take to stop before the process ends without them.
const STOP_WAIT: Duration = Duration::from_millis(1700);

/// How much longer than the cores the control thread may take to stop.
const STOP_WAIT_MORE: Duration = Duration::from_millis(100);

/// How long the start waits for a file that a target has which was killed just before.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// The core's thread can't fail once it is pinned: everything that can is done before.
#[derive(Debug, thiserror::Error)]
enum Never {}

type RunningCore = Core<Never>;

/// A core as the fabrics' control threads see it.
type Doors = (shm::CoreDoor, rdma::CoreDoor);

/// Runs the target until a signal asks it to stop. The configuration is loaded completely before
/// the RPC socket exists; an error means that nothing is left behind.
pub fn run(config: Config) -> anyhow::Result<()> {
    let logs = Logs::start(config.log_level).context("thread that writes the log")?;
    raise_descriptor_limit();
    let signals = Signals::install().context("signals")?;
    let manager = Manager::of_this_process().context("service manager")?;
    let (post, inbox) = Post::new();
    let running = start_cores(&config, &post)?;
    let (shm_doors, rdma_doors) = running.doors.into_iter().unzip();
    let allowance = SystemLimits::of_this_process(running.pool_bytes).allowance();
    capacity::report(&allowance, running.shm_places);
    let options = shm::ListenerOptions { allowance, ..Default::default() };
    let shm = shm::Listener::with_options(shm_doors, options);
    let shm = Arc::new(shm.context("listener of the shm fabric")?);
    let rdma = Arc::new(Mutex::new(Rdma::Idle(rdma_doors, RdmaOptions::default())));
    let mut bdevs = Registry::new();
    if config.config_file.is_some() {
        bdevs.wait_for_locks(LOCK_WAIT);
    }
    let mut control = Control::new(Parts {
        cores: Box::new(Mailboxes::new(running.senders)),
        stats: running.stats.clone(),
        bdevs,
        host_id: host_id(),
        logs,
        raise: Box::new(|signal| kill_process(getpid(), signal)),
    });
    control.offer("shm", Arc::new(ShmListeners(Arc::clone(&shm))));
    control.offer("rdma", Arc::new(RdmaListeners(Arc::clone(&rdma))));
    control.offer_agents(Arc::<DmAgents>::default());
    let control = ControlThread::start(control, post.clone(), inbox).context("control thread")?;
    if let Some(file) = config.config_file.clone()
        && !load_before(&signals, &post, file)?
    {
        tracing::info!("stopping before the configuration is loaded");
        return let_go(control, (shm, rdma), Instant::now() + STOP_WAIT);
    }
    post.begin(|desk| watch(desk, WATCH_INTERVAL), drop);
    let server = Server::start(&config.rpc_socket, Arc::new(Shared::new(post.clone())))?;
    tracing::info!(cores = %config.cpus, rpc = %config.rpc_socket.display(), "ready");
    let mut threads: Vec<BorrowedFd<'_>> = running.cores.iter().map(AsFd::as_fd).collect();
    threads.push(control.as_fd());
    let mut progress = Progress::new(running.stats, post.clone());
    manager.ready();
    let look = || {
        if progress.look() {
            manager.alive();
        }
    };
    if let Some(dead) = signals.wait_and(&threads, manager.look_interval(), look) {
        let name = running.cores.get(dead).map(|core| format!("core {}", core.number()));
        let name = name.unwrap_or_else(|| "the control thread".to_owned());
        bail!("{name} ended by itself: see the message above");
    }
    tracing::info!("stopping");
    manager.stopping();
    let deadline = Instant::now() + STOP_WAIT;
    server.stop();
    let stopped = stop_cores(&post, deadline);
    if stopped.is_ok() {
        for core in running.cores {
            core.join()?;
        }
    }
    let_go(control, (shm, rdma), deadline)?;
    stopped
}

/// Closes files and devices, and then the sockets of the listeners, as far as that is done until a
/// time: a sick file system may hold either up.
fn let_go(
    control: ControlThread,
    listeners: impl Send + 'static,
    deadline: Instant,
) -> anyhow::Result<()> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(STOP_WAIT_MORE);
    control.end(left());
    let (ended, ending) = std::io::pipe().context("pipe")?;
    let end = std::thread::Builder::new().name("end".to_owned());
    end.spawn(move || {
        drop(listeners);
        drop(ending);
    })?;
    let mut ended = [PollFd::new(&ended, PollFlags::IN)];
    if rustix::event::poll(&mut ended, Timespec::try_from(left()).ok().as_ref()) == Ok(0) {
        tracing::warn!("a listener's socket may stay: removing it takes long");
    }
    Ok(())
}

/// Loads a file before there are clients. False: a signal came first. What a sick file or device
/// holds up then ends with the process.
fn load_before(signals: &Signals, post: &Post, file: PathBuf) -> anyhow::Result<bool> {
    let (sender, loaded) = mpsc::channel();
    let (ended, ending) = std::io::pipe().context("pipe")?;
    let load = |desk: Desk| async move {
        let loaded = methods::load_file(&desk, &file).await;
        desk.with(|control| control.bdevs_mut().wait_for_locks(Duration::ZERO));
        loaded
    };
    let done = move |result| {
        // Nobody takes it after a signal. The pipe hangs up when the result is there.
        let _ = sender.send(result);
        drop(ending);
    };
    post.begin(load, done);
    if signals.wait(&[ended.as_fd()]).is_none() {
        return Ok(false);
    }
    loaded.recv().context("loading has failed: see the message above")??;
    Ok(true)
}

/// Ends what runs on the cores. The listeners go either way: whatever still waits on the control
/// thread would keep them, and their socket files with them.
fn stop_cores(post: &Post, deadline: Instant) -> anyhow::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let stopped = post.run(left + STOP_WAIT_MORE, move |desk| async move {
        let stopped = desk.stop(left).await;
        desk.with(|control| control.drop_listeners());
        stopped
    });
    match stopped {
        Some(stopped) => stopped.context("commands are stuck in a device; stopping without them"),
        None => bail!("the control thread does not answer; stopping without it"),
    }
}

/// A channel over shared memory holds three descriptors: takes as many as the system grants without
/// asking.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, ..limit };
    if let Err(errno) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!("no more than {:?} open files: {errno}", limit.current);
    }
}

/// What the cores were started with, as the rest of the process needs it.
struct Running {
    cores: Vec<RunningCore>,
    stats: Vec<(usize, Arc<CoreStats>)>,
    senders: Vec<Sender>,
    doors: Vec<Doors>,
    /// Connections that all cores hold over shared memory.
    shm_places: u64,
    /// Bytes of buffers of all cores.
    pool_bytes: u64,
}

fn start_cores(config: &Config, answers: &Post) -> anyhow::Result<Running> {
    let cpus: Vec<usize> = config.cpus.iter().collect();
    affinity::check(&config.cpus)?;
    let mut pools = Vec::new();
    for _ in &cpus {
        pools.push(memory_for(config, config.memory.core_bytes(cpus.len()))?);
    }
    let mut ends = mailbox::connect::<Message>(cpus.len(), MAILBOX)?;
    let control: Vec<_> = ends.iter().map(|end| end.control.clone()).collect();
    let mut running = Running {
        cores: Vec::new(),
        stats: Vec::new(),
        senders: Vec::new(),
        doors: Vec::new(),
        shm_places: 0,
        pool_bytes: 0,
    };
    for ((index, cpu), memory) in cpus.iter().enumerate().zip(pools) {
        let end = ends.remove(0);
        let door = control[index].clone();
        running.senders.push(Box::new(move |message| door.try_send(message)));
        let limits = Limits::for_pool(memory.len());
        running.pool_bytes += memory.len() as u64;
        let place = (index, *cpu, limits.clone());
        let (core, doors) = start_core(config, place, memory, end, &control, answers)?;
        running.stats.push((*cpu, Arc::clone(core.stats())));
        running.cores.push(core);
        running.doors.push(doors);
        running.shm_places += limits.shm_connections as u64;
    }
    for core in &running.cores {
        if !core.wait_started() {
            bail!("core {} did not start", core.number());
        }
    }
    Ok(running)
}

fn start_core(
    config: &Config,
    (index, cpu, limits): (usize, usize, Limits),
    memory: Arc<Memory>,
    end: Ends<Message>,
    control: &[mailbox::ControlSender<Message>],
    answers: &Post,
) -> anyhow::Result<(RunningCore, Doors)> {
    let wake = Arc::clone(end.inbox.eventfd());
    let (fabric, doors) = fabrics(&limits, &memory, &wake, end.inbox.wake_set().clone())?;
    let own = control[index].clone();
    let answers = answers.clone();
    let idle = match config.idle {
        Idle::Poll => IdlePolicy::Poll,
        Idle::Adaptive { spin } => IdlePolicy::Adaptive { spin },
    };
    let core_config = CoreConfig { idle, ..CoreConfig::new(cpu) };
    let peers = end.peers;
    let core = reactor::core::spawn(core_config, end.inbox, move || -> Result<_, Never> {
        let doors = peers
            .into_iter()
            .map(|peer| -> OutboxDoor {
                match peer {
                    Some(mut sender) => Box::new(move |message| sender.try_send(message)),
                    None => {
                        let own = own.clone();
                        Box::new(move |message| own.try_send(message))
                    }
                }
            })
            .collect();
        let outbox = Outbox::new(CoreId::new(index), doors, answers);
        let context = CoreContext {
            memory: Arc::clone(&memory),
            ring: None,
            depth: limits.slots as u32,
            wake: matches!(idle, IdlePolicy::Adaptive { .. }).then_some(wake),
        };
        let pool = Pool::new(memory, &limits.classes);
        Ok(Shard::new(fabric, pool, limits, context, outbox))
    })?;
    Ok((core, doors))
}

/// One core's fabrics. Operations are counted twice because either may have all of them.
fn fabrics(
    limits: &Limits,
    memory: &Arc<Memory>,
    wake: &Arc<OwnedFd>,
    wakes: WakeSet,
) -> anyhow::Result<(Pair<ShmFabric, RdmaFabric>, Doors)> {
    let operations_max = limits.slots + limits.connections();
    let connections_max = limits.shm_connections as u32;
    let options = FabricOptions { connections_max, ops_max: operations_max };
    let (shm, shm_door) = ShmFabric::new(options, Arc::clone(wake));
    let rdma = RdmaOptions::default();
    assert_eq!(
        (rdma.srp_max_req_size, rdma.srp_max_rsp_size),
        (limits.iu_bytes_max, limits.rsp_bytes_max),
        "cores start with the defaults of ib_srpt"
    );
    let connections_max = limits.rdma_connections;
    let options = rdma::FabricOptions { connections_max, operations_max, rdma };
    let (rdma, rdma_door) = RdmaFabric::new(options, memory, Arc::clone(wake), wakes);
    Ok((Pair::new(shm, rdma), (shm_door, rdma_door)))
}

/// One core's memory, with one notice of what it is made of.
fn memory_for(config: &Config, bytes: usize) -> Result<Arc<Memory>, MemoryError> {
    let wish = match config.memory.huge {
        None => PageWish::Ordinary,
        Some(HugeSize::Mib2) => PageWish::Huge2M,
        Some(HugeSize::Gib1) => PageWish::Huge1G,
    };
    let (memory, report) = Memory::new(bytes, wish)?;
    if report.is_less_than_wanted() {
        tracing::warn!("buffer memory: {report}");
    } else {
        tracing::info!("buffer memory: {report}");
    }
    Ok(Arc::new(memory))
}

/// Unix sockets of the shared-memory fabric as the control plane sees them.
struct ShmListeners(Arc<shm::Listener>);

impl ShmListeners {
    fn check(traddr: &str, trsvcid: Option<&str>) -> Result<(), ListenError> {
        let address = |parameter, reason: &str| {
            Err(ListenError::Address { parameter, reason: reason.to_owned() })
        };
        if trsvcid.is_some() {
            return address("trsvcid", "the shm transport has none: leave it out");
        }
        if !Path::new(traddr).is_absolute() {
            return address("traddr", "the shm transport takes an absolute socket path");
        }
        Ok(())
    }
}

impl Listeners for ShmListeners {
    fn add(&self, target: &str, traddr: &str, trsvcid: Option<&str>) -> Result<(), ListenError> {
        Self::check(traddr, trsvcid)?;
        self.0.add_listener(target, traddr).map_err(refused)
    }

    fn remove(&self, target: &str, traddr: &str, trsvcid: Option<&str>) -> Result<(), ListenError> {
        Self::check(traddr, trsvcid)?;
        self.0.remove_listener(target, traddr).map_err(refused)
    }
}

/// The control thread of the rdma fabric, started with the first listener: a machine without RDMA
/// is told so only when it is asked for.
enum Rdma {
    Idle(Vec<rdma::CoreDoor>, RdmaOptions),
    Running(rdma::Listener, RdmaOptions),
}

/// Addresses of the rdma fabric as the control plane sees them.
struct RdmaListeners(Arc<Mutex<Rdma>>);

impl RdmaListeners {
    fn with<T>(
        &self,
        each: impl FnOnce(&rdma::Listener) -> Result<T, rdma::ListenError>,
    ) -> Result<T, ListenError> {
        let mut rdma = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Rdma::Idle(doors, options) = &mut *rdma {
            rdma::available().map_err(rdma_refused)?;
            let (mut doors, options) = (std::mem::take(doors), *options);
            doors.iter_mut().for_each(|door| door.configure(options));
            let listener = rdma::Listener::start(doors).map_err(rdma_refused)?;
            *rdma = Rdma::Running(listener, options);
        }
        match &*rdma {
            Rdma::Running(listener, _) => each(listener).map_err(rdma_refused),
            Rdma::Idle(..) => unreachable!("it was started above"),
        }
    }

    fn port(trsvcid: Option<&str>) -> Result<&str, ListenError> {
        trsvcid.ok_or_else(|| ListenError::Address {
            parameter: "trsvcid",
            reason: "the rdma transport needs a port, here or as rdma_cm_port".to_owned(),
        })
    }
}

impl Listeners for RdmaListeners {
    fn configure(&self, wanted: &RdmaOptions) -> Result<(), ListenError> {
        // This is the only method that the control thread calls by itself: it does not wait for a
        // worker that is in another one.
        let mut rdma = match self.0.try_lock() {
            Ok(rdma) => rdma,
            Err(TryLockError::Poisoned(rdma)) => rdma.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let what = "an rdma listener is being added or removed".to_owned();
                return Err(ListenError::Os { what, errno: Errno::BUSY });
            }
        };
        match &mut *rdma {
            Rdma::Idle(_, options) => *options = *wanted,
            Rdma::Running(listener, options) => {
                if let Some(field) = options.laid_out_otherwise(wanted) {
                    let what = format!("{field} can change only before the first rdma listener");
                    return Err(ListenError::Os { what, errno: Errno::BUSY });
                }
                listener.set_channels_in_order(wanted.channels_in_order).map_err(rdma_refused)?;
                *options = *wanted;
            }
        }
        Ok(())
    }

    fn add(&self, target: &str, traddr: &str, trsvcid: Option<&str>) -> Result<(), ListenError> {
        let port = Self::port(trsvcid)?;
        self.with(|listener| listener.add_listener(target, traddr, port))
    }

    fn remove(&self, target: &str, traddr: &str, trsvcid: Option<&str>) -> Result<(), ListenError> {
        let port = Self::port(trsvcid)?;
        self.with(|listener| listener.remove_listener(target, traddr, port))
    }
}

/// Device management agents as the control plane sees them.
#[derive(Default)]
struct DmAgents {
    unit: Arc<Mutex<dm::Unit>>,
    running: Mutex<Vec<(AgentPort, dm::Agent)>>,
}

impl DmAgents {
    /// Held for a moment only: opening and closing a port happens outside.
    fn running(&self) -> MutexGuard<'_, Vec<(AgentPort, dm::Agent)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agents for DmAgents {
    fn enable(&self, at: &AgentPort) -> Result<(), ListenError> {
        let started = dm::Agent::start(&at.device, at.port, Arc::clone(&self.unit));
        let agent = started.map_err(|error| {
            let errno = match &error {
                dm::AgentError::NotFound { .. } => Errno::NODEV,
                dm::AgentError::System { reason, .. } => *reason,
            };
            ListenError::Os { what: error.to_string(), errno }
        })?;
        self.running().push((at.clone(), agent));
        Ok(())
    }

    fn disable(&self, at: &AgentPort) {
        let of_port = |(other, _): &mut (AgentPort, _)| other == at;
        let agent: Vec<_> = self.running().extract_if(.., of_port).collect();
        drop(agent);
    }

    fn answered(&self, at: &AgentPort) -> u64 {
        self.running()
            .iter()
            .find(|(other, _)| other == at)
            .map_or(0, |(_, agent)| agent.answered())
    }

    fn show(&self, controllers: Vec<dm::Controller>) {
        self.unit.lock().unwrap_or_else(PoisonError::into_inner).show(controllers);
    }
}

fn rdma_refused(error: rdma::ListenError) -> ListenError {
    let errno = match &error {
        rdma::ListenError::BadAddress { .. } => {
            return ListenError::Address { parameter: "traddr", reason: error.to_string() };
        }
        rdma::ListenError::Unavailable(_) => Errno::OPNOTSUPP,
        rdma::ListenError::Exists { .. } => Errno::EXIST,
        rdma::ListenError::NotFound { .. } => Errno::NODEV,
        rdma::ListenError::System { reason, .. } => {
            Errno::from_io_error(reason).unwrap_or(Errno::IO)
        }
        rdma::ListenError::Stopped => Errno::SRCH,
    };
    ListenError::Os { what: error.to_string(), errno }
}

fn refused(error: shm::ListenError) -> ListenError {
    let errno = match &error {
        shm::ListenError::BadPath { .. } => {
            return ListenError::Address { parameter: "traddr", reason: error.to_string() };
        }
        shm::ListenError::InUse { .. } => Errno::ADDRINUSE,
        shm::ListenError::NotASocket { .. } => Errno::EXIST,
        shm::ListenError::NotFound { .. } => Errno::NODEV,
        shm::ListenError::System { what, errno } => {
            return ListenError::Os { what: what.clone(), errno: *errno };
        }
        shm::ListenError::Stopped => Errno::SRCH,
    };
    ListenError::Os { what: error.to_string(), errno }
}

/// What tells this host from others: the machine id, or else the host's name.
fn host_id() -> String {
    [Path::new("/etc/machine-id"), Path::new("/proc/sys/kernel/hostname")]
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|text| text.trim().to_owned())
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Refused;

    #[test]
    fn the_systems_reason_for_no_listener_is_the_answers_code() {
        let what = "listening on /x/y".to_owned();
        let error = shm::ListenError::System { what, errno: Errno::NOENT };
        let refusal = Refused::from(refused(error));
        assert_eq!(refusal.errno, Errno::NOENT);
        assert_eq!(refusal.to_string(), "No such file or directory: listening on /x/y");
    }
}
