//! What an operator sees and changes: bdevs, targets, LUN maps and listeners, and the transactions
//! that bring a change to every core.
//!
//! [`Control`] is the only copy of this state, and one thread owns it (`desk`); the cores hold
//! what they need of it as shared values. Every operation checks everything first, then changes the
//! cores, then the state; when a core refuses, the others are put back, so a failed operation
//! leaves nothing behind. What removes something does not fail once it has begun: what still waits
//! for a command to end, or for a core to answer, goes on in the background.
//!
//! Nothing here runs on a core. The cost of an operation is one message per core and its answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bdev::registry::Registry;
use bdev::stacked::fault::ErrorInjection;
use bdev::{Bdev, BdevError};
use reactor::stats::CoreStats;
use rustix::io::Errno;
use rustix::process::Signal;
use uuid::Uuid;

use crate::logs::Logs;
use crate::shard::message::{Action, Report};
use crate::shard::names::{SessionId, TargetSpec};
use crate::shard::sessions::registry::REGISTRY_CORE;

pub mod agents;
mod asks;
pub mod bdevs;
mod busy;
pub mod cores;
mod desk;
mod hold;
pub mod listeners;
pub mod logins;
mod looks;
mod luns;
pub mod meters;
mod options;
pub mod ports;
mod refused;
mod targets;
#[cfg(test)]
mod testing;
mod watch;
mod work;
mod workers;

pub use crate::shard::meter;
pub use crate::shard::qos::rate::RateLimits;
pub use agents::{AgentPort, Agents};
use cores::Questions;
pub use cores::{Cores, Mailboxes};
pub use desk::{ControlThread, Desk, Mail, Office, Post, WAITING_MAX};
pub use listeners::{ListenError, Listener, Listeners};
pub use looks::look;
pub use luns::{DRAIN_WAIT_MAX, MapRequest, Mapping, Overrides, Unit};
pub use options::Options;
pub use refused::{Refused, strerror};
pub use targets::{Target, TargetRequest};
pub use watch::{WATCH_INTERVAL, watch};
pub use workers::WORKERS_MAX;

/// What [`Control`] is made of.
pub struct Parts {
    /// The running cores.
    pub cores: Box<dyn Cores>,
    /// Time counters with the number of the processor, in the order of the cores.
    pub stats: Vec<(usize, Arc<CoreStats>)>,
    /// Where bdevs live; may hold some already.
    pub bdevs: Registry,
    /// Something that tells this host from others and stays the same, such as the machine id.
    pub host_id: String,
    /// Log levels.
    pub logs: Logs,
    /// Sends a signal to this process.
    pub raise: Box<dyn Fn(Signal) -> Result<(), Errno> + Send>,
}

/// The state of the control plane. Operations reach it through [`Desk::with`].
pub struct Control {
    questions: Questions,
    stats: Vec<(usize, Arc<CoreStats>)>,
    bdevs: Registry,
    host_id: String,
    logs: Logs,
    raise: Box<dyn Fn(Signal) -> Result<(), Errno> + Send>,
    listeners: BTreeMap<&'static str, Arc<dyn Listeners>>,
    targets: Vec<Target>,
    /// Targets that the cores are being told of, or are being told to forget.
    unsettled: Vec<Arc<TargetSpec>>,
    /// By the names of their bdevs.
    units: BTreeMap<String, Unit>,
    units_made: u32,
    /// LUNs that are mapped no more and that commands still use.
    draining: Vec<luns::Draining>,
    /// By the names of bdevs.
    meters: BTreeMap<String, meters::Meters>,
    options: Options,
    agents: Option<Arc<dyn Agents>>,
    agent_ports: Vec<AgentPort>,
    /// Where the kernel shows RDMA devices.
    rdma_devices: PathBuf,
}

impl Control {
    /// A control plane without targets.
    pub fn new(parts: Parts) -> Self {
        Control {
            questions: Questions::new(parts.cores),
            stats: parts.stats,
            bdevs: parts.bdevs,
            host_id: parts.host_id,
            logs: parts.logs,
            raise: parts.raise,
            listeners: BTreeMap::new(),
            targets: Vec::new(),
            unsettled: Vec::new(),
            units: BTreeMap::new(),
            units_made: 0,
            draining: Vec::new(),
            meters: BTreeMap::new(),
            options: Options::default(),
            agents: None,
            agent_ports: Vec::new(),
            rdma_devices: ports::RDMA_DEVICES.into(),
        }
    }

    /// Makes a transport type available to listeners.
    pub fn offer(&mut self, trtype: &'static str, listeners: Arc<dyn Listeners>) {
        assert!(listeners::TRTYPES.contains(&trtype), "transport type {trtype} is not known");
        self.listeners.insert(trtype, listeners);
    }

    /// Where the kernel shows RDMA devices.
    pub fn rdma_devices(&self) -> &Path {
        &self.rdma_devices
    }

    /// Has RDMA devices looked for elsewhere.
    #[cfg(test)]
    pub(crate) fn set_rdma_devices(&mut self, devices: PathBuf) {
        self.rdma_devices = devices;
    }

    /// Lets go of all listeners.
    pub fn drop_listeners(&mut self) {
        self.listeners.clear();
    }

    /// The bdevs.
    pub fn bdevs(&self) -> &Registry {
        &self.bdevs
    }

    /// The bdevs, to create some. A `Desk` deletes them.
    pub fn bdevs_mut(&mut self) -> &mut Registry {
        &mut self.bdevs
    }

    /// Log levels.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Time counters with processor numbers, in the order of the cores.
    pub fn stats(&self) -> &[(usize, Arc<CoreStats>)] {
        &self.stats
    }

    /// Targets in the order of their creation.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Sends a signal to this process.
    pub fn raise(&self, signal: Signal) -> Result<(), Refused> {
        (self.raise)(signal).map_err(|errno| Refused::new(errno, "signal was not sent"))
    }

    /// A bdev by name or UUID.
    pub fn bdev(&self, name: &str) -> Result<Arc<dyn Bdev>, Refused> {
        Ok(self.bdevs.find(name)?)
    }

    /// Fails when a LUN shows a bdev, naming one.
    pub fn refuse_mapped(&self, bdev: &str) -> Result<(), Refused> {
        match self.mapping_of(bdev) {
            Some((target, lun)) => {
                Err(Refused::busy(format!("bdev {bdev} is mapped as LUN {lun} of target {target}")))
            }
            None => match self.draining_of(bdev) {
                Some(draining) => Err(Refused::busy(format!("bdev {bdev} is busy: {draining}"))),
                None => Ok(()),
            },
        }
    }

    fn target(&self, name: &str) -> Result<&Target, Refused> {
        self.targets
            .iter()
            .find(|target| target.name() == name)
            .ok_or_else(|| Refused::missing(format!("target {name}")))
    }

    fn target_mut(&mut self, name: &str) -> Result<&mut Target, Refused> {
        self.targets
            .iter_mut()
            .find(|target| target.name() == name)
            .ok_or_else(|| Refused::missing(format!("target {name}")))
    }

    /// The service GUID of a target that was not given one: the same on this host after a restart.
    fn derived_guid(&self, name: &str) -> u64 {
        let seed = format!("srpt_tgt\0{}\0{name}", self.host_id);
        let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, seed.as_bytes());
        // The universal/local bit says: assigned here, not by the IEEE.
        hash.as_u64_pair().0 | 0x0200_0000_0000_0000
    }
}

impl Desk {
    /// Every core's report, in the order of the cores.
    pub async fn reports(&self) -> Result<Vec<Report>, Refused> {
        self.all(&Action::Report).await
    }

    /// Stops every core: what runs is answered, then the channels end, and when no core has
    /// anything left they all end. What an error bdev holds goes on. Fails after `wait_max`: a
    /// device has not given a command back, and the cores still run.
    pub async fn stop(&self, wait_max: Duration) -> Result<(), Refused> {
        self.with(|control| {
            for errors in control.bdevs.all_of::<ErrorInjection>() {
                errors.clear();
                errors.resume_pending();
            }
        });
        let stopped = self.all_within(&Action::Shutdown, wait_max).await;
        stopped.map_err(|partial| refusal(&partial.error))?;
        self.all_within(&Action::End, wait_max).await.map_err(|partial| refusal(&partial.error))?;
        Ok(())
    }

    /// Ends a session on every core.
    pub async fn disconnect_session(&self, session: SessionId) -> Result<(), Refused> {
        let reports = self.reports().await?;
        let mut channels = reports.iter().flat_map(|report| &report.channels);
        if !channels.any(|channel| channel.session == session) {
            return Err(Refused::missing(format!("session {session}")));
        }
        let disconnect = Action::Disconnect { session };
        let registry = [REGISTRY_CORE];
        let asked = self.answers(Some(&registry), &disconnect, Some(cores::ANSWER_WAIT_MAX)).await;
        asked.into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| refusal(&error))?;
        self.all(&disconnect).await.map(drop)
    }
}

fn refusal(error: &cores::CoreError) -> Refused {
    use crate::shard::message::ActionError;
    let errno = match error {
        cores::CoreError::Refused(ActionError::OpenChannel { .. }) => Errno::IO,
        cores::CoreError::Silent { .. } | cores::CoreError::Full { .. } => Errno::TIMEDOUT,
    };
    Refused::new(errno, error.to_string())
}

impl From<BdevError> for Refused {
    fn from(error: BdevError) -> Self {
        let errno = Errno::from_raw_os_error(-error.errno());
        match error {
            BdevError::Exists { name } | BdevError::NotFound { name } => {
                Refused::new(errno, format!("bdev {name}"))
            }
            BdevError::Os { what, .. } => Refused::new(errno, what),
            other => Refused::new(errno, other.to_string()),
        }
    }
}
