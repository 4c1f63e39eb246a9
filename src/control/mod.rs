//! What an operator sees and changes: bdevs, targets, LUN maps and listeners, and the transactions
//! that bring a change to every core.
//!
//! [`Control`] owns the only copy of this state; the cores hold what they need of it as shared
//! values. Every operation checks everything first, then changes the cores, then itself; when a
//! core refuses, the others are put back, so a failed operation leaves nothing behind.
//!
//! Nothing here runs on a core. The cost of an operation is one message per core and its answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bdev::Bdev;
use bdev::registry::{BdevError, Registry};
use bdev::uring::Change;
use reactor::stats::CoreStats;
use rustix::io::Errno;
use rustix::process::Signal;
use uuid::Uuid;

use crate::logs::Logs;
use crate::shard::message::{Action, Report};
use crate::shard::sessions::REGISTRY_CORE;

mod agents;
pub mod cores;
pub mod listeners;
pub mod logins;
mod luns;
mod meters;
mod options;
pub mod ports;
mod refused;
mod targets;
mod watch;

pub use crate::shard::meter;
pub use crate::shard::qos::rate::RateLimits;
pub use agents::{AgentPort, Agents};
use cores::{CoreError, Partial};
pub use cores::{Cores, Mailboxes};
pub use listeners::{ListenError, Listener, Listeners};
pub use luns::{MapRequest, Mapping, Overrides, Unit};
pub use options::Options;
pub use refused::{Refused, strerror};
pub use targets::{Target, TargetRequest};
pub use watch::{WATCH_INTERVAL, Watch};

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

/// The state of the control plane. Shared behind one lock by those who serve operators.
pub struct Control {
    cores: Box<dyn Cores>,
    stats: Vec<(usize, Arc<CoreStats>)>,
    bdevs: Registry,
    host_id: String,
    logs: Logs,
    raise: Box<dyn Fn(Signal) -> Result<(), Errno> + Send>,
    listeners: BTreeMap<&'static str, Box<dyn Listeners>>,
    targets: Vec<Target>,
    /// By the names of their bdevs.
    units: BTreeMap<String, Unit>,
    units_made: u32,
    /// By the names of bdevs.
    meters: BTreeMap<String, meters::Meters>,
    options: Options,
    agents: Option<Box<dyn Agents>>,
    agent_ports: Vec<AgentPort>,
}

impl Control {
    /// A control plane without targets.
    pub fn new(parts: Parts) -> Self {
        Control {
            cores: parts.cores,
            stats: parts.stats,
            bdevs: parts.bdevs,
            host_id: parts.host_id,
            logs: parts.logs,
            raise: parts.raise,
            listeners: BTreeMap::new(),
            targets: Vec::new(),
            units: BTreeMap::new(),
            units_made: 0,
            meters: BTreeMap::new(),
            options: Options::default(),
            agents: None,
            agent_ports: Vec::new(),
        }
    }

    /// Makes a transport type available to [`Control::add_listener`].
    pub fn offer(&mut self, trtype: &'static str, listeners: Box<dyn Listeners>) {
        assert!(listeners::TRTYPES.contains(&trtype), "transport type {trtype} is not known");
        self.listeners.insert(trtype, listeners);
    }

    /// The bdevs.
    pub fn bdevs(&self) -> &Registry {
        &self.bdevs
    }

    /// The bdevs, to create some. Deleting goes through [`Control::delete_bdev`].
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

    /// Every core's report, in the order of the cores.
    pub fn reports(&mut self) -> Result<Vec<Report>, Refused> {
        self.all(&Action::Report)
    }

    /// Stops every core: what runs is answered, then the channels end, and when no core has
    /// anything left they all end. What an error bdev holds goes on. Fails after `wait_max`: a
    /// device has not given a command back, and the cores still run. Either way the listeners are
    /// let go: a thread that still looks at this would keep them, and their socket files with them.
    pub fn stop(&mut self, wait_max: Duration) -> Result<(), Refused> {
        self.bdevs.end_injections();
        let stopped = cores::all_within(self.cores.as_mut(), &Action::Shutdown, wait_max)
            .map_err(|partial| refusal(&partial.error))
            .and_then(|_| self.all(&Action::End));
        self.listeners.clear();
        stopped.map(drop)
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
            None => Ok(()),
        }
    }

    /// Deletes a bdev that neither a LUN nor a bdev uses. `method` is that of the bdev's kind,
    /// such as `bdev_null_delete`.
    pub fn delete_bdev(&mut self, method: &str, name: &str) -> Result<(), Refused> {
        let bdev = self.bdev(name)?;
        let name = bdev.name();
        if bdev.delete_method() == method {
            self.refuse_mapped(name)?;
        }
        self.bdevs.delete(name, method)?;
        self.meters.remove(name);
        tracing::info!("bdev {name}: deleted");
        Ok(())
    }

    /// Brings a new size of a bdev, and with it of the bdevs over it, to the cores and their
    /// sessions. The bdev has it already.
    pub fn capacity_changed(&mut self, bdev: &str) -> Result<(), Refused> {
        self.all(&Action::CapacityChanged { bdev: bdev.to_owned() })?;
        for bdev in self.bdevs.names_over(bdev) {
            self.all(&Action::CapacityChanged { bdev })?;
        }
        Ok(())
    }

    /// Brings what became of a bdev's medium to the cores and their sessions, for it and for the
    /// bdevs over it.
    pub fn medium_changed(&mut self, bdev: &str, change: &Change) -> Result<(), Refused> {
        // It may have been deleted since it was looked at.
        let Ok(bdev) = self.bdev(bdev) else { return Ok(()) };
        let name = bdev.name();
        let (ready, resized) = match change {
            Change::Resized => {
                let blocks = bdev.geometry().blocks;
                tracing::info!("bdev {name}: has {blocks} blocks now");
                return self.capacity_changed(name);
            }
            Change::Lost(why) => {
                tracing::warn!("bdev {name}: not ready: {why}");
                (false, false)
            }
            Change::Returned { resized } => {
                tracing::info!("bdev {name}: ready again");
                (true, *resized)
            }
        };
        let over = self.bdevs.names_over(name);
        for bdev in std::iter::once(name.to_owned()).chain(over) {
            self.all(&Action::MediumChanged { bdev, ready })?;
        }
        if resized { self.capacity_changed(name) } else { Ok(()) }
    }

    /// Lets the pending operations of an error bdev go on. Every core has seen it when this
    /// returns: the question wakes those that sleep.
    pub fn resume_pending(&mut self, bdev: &str) -> Result<(), Refused> {
        self.bdevs.resume_pending(bdev)?;
        self.reports().map(drop)
    }

    /// Ends a session on every core.
    pub fn disconnect_session(&mut self, session: u64) -> Result<(), Refused> {
        let known = self
            .reports()?
            .iter()
            .any(|report| report.channels.iter().any(|channel| channel.session == session));
        if !known {
            return Err(Refused::missing(format!("session {session}")));
        }
        let disconnect = Action::Disconnect { session };
        let registry = self.cores.ask(&[REGISTRY_CORE], &disconnect).remove(0);
        registry.map_err(|error| refusal(&error))?;
        self.all(&disconnect).map(drop)
    }

    fn all(&mut self, action: &Action) -> Result<Vec<Report>, Refused> {
        cores::all(self.cores.as_mut(), action).map_err(|partial| refusal(&partial.error))
    }

    /// Asks every core; when one fails, sends `undo` to those that have done it, or yet may.
    fn all_or_undo(&mut self, action: &Action, undo: &Action) -> Result<(), Refused> {
        let Err(partial) = cores::all(self.cores.as_mut(), action) else { return Ok(()) };
        self.undo(&partial, undo);
        Err(refusal(&partial.error))
    }

    /// Asks the cores that have done something to undo it, and tells those that yet may.
    fn undo(&mut self, partial: &Partial, undo: &Action) -> Vec<Report> {
        self.cores.tell(&partial.silent, undo);
        let mut reports = Vec::new();
        for (core, answer) in partial.done.iter().zip(self.cores.ask(&partial.done, undo)) {
            match answer {
                Ok(report) => reports.push(report),
                Err(CoreError::Full { .. }) => self.cores.tell(&[*core], undo),
                Err(error) => tracing::warn!("while undoing a change that failed: {error}"),
            }
        }
        reports
    }

    /// Tells cores what they could not be told when it happened.
    pub fn deliver(&mut self) {
        self.cores.deliver();
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

fn refusal(error: &cores::CoreError) -> Refused {
    use crate::shard::message::ActionError;
    let errno = match error {
        cores::CoreError::Refused(ActionError::OpenChannel { .. }) => Errno::IO,
        cores::CoreError::Silent { .. } | cores::CoreError::Full { .. } => Errno::TIMEDOUT,
        cores::CoreError::Stopped { .. } => Errno::SRCH,
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
