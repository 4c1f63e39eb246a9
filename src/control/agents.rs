//! Device management agents: how InfiniBand fabrics ask a port for its SRP targets.

use std::fmt;
use std::sync::Arc;

use rustix::io::Errno;
use transport::dm::Controller;
use transport::rdma::ListenAddress;

use super::bdevs::OPEN_WAIT_MAX;
use super::{Control, Desk, ListenError, Refused};
use crate::limits::COMMANDS_PER_CHANNEL;

/// A port that has an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPort {
    /// RDMA device.
    pub device: String,
    /// Its port, from 1.
    pub port: u32,
}

impl fmt::Display for AgentPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.device, self.port)
    }
}

impl AgentPort {
    /// What its agent is called.
    fn agent(&self) -> String {
        format!("agent of {self}")
    }
}

/// The agents of this process. [`Agents::enable`] and [`Agents::disable`] are called on workers,
/// because opening and closing a device may sleep in the kernel; the others wait for neither.
pub trait Agents: Send + Sync {
    /// Answers at a port from now on.
    fn enable(&self, at: &AgentPort) -> Result<(), ListenError>;

    /// The opposite.
    fn disable(&self, at: &AgentPort);

    /// Datagrams answered at a port.
    fn answered(&self, at: &AgentPort) -> u64;

    /// What all agents show from now on.
    fn show(&self, controllers: Vec<Controller>);
}

/// Answers device management datagrams at a port.
pub async fn enable(desk: &Desk, at: &AgentPort) -> Result<(), Refused> {
    let hold = desk.hold(at.agent(), "being enabled").await?;
    let agents = desk.with(|control| control.new_agent(at))?;
    let (late, own, back) = (Arc::clone(&agents), at.clone(), at.clone());
    let enable = move || agents.enable(&own);
    let disable = move |enabled: Result<(), ListenError>| {
        if enabled.is_ok() {
            late.disable(&back);
        }
    };
    let work = desk.work(hold, "opening the port", OPEN_WAIT_MAX, enable, disable);
    let (_hold, enabled) = work.await?;
    enabled?;
    tracing::info!("{at}: answers device management");
    desk.with(|control| {
        control.agent_ports.push(at.clone());
        control.show_controllers();
    });
    Ok(())
}

/// Stops answering at a port. When closing the port takes longer than [`OPEN_WAIT_MAX`], the
/// agent is gone all the same, and busy until that ends.
pub async fn disable(desk: &Desk, at: &AgentPort) -> Result<(), Refused> {
    let hold = desk.hold(at.agent(), "being disabled").await?;
    let agents = desk.with(|control| control.known_agent(at))?;
    // What is removed has to be closed.
    desk.workers().borrow().refuse_full()?;
    desk.with(|control| control.agent_ports.retain(|other| other != at));
    tracing::info!("{at}: no longer answers device management");
    let own = at.clone();
    let disable = move || agents.disable(&own);
    let work = desk.work(hold, "closing the port", OPEN_WAIT_MAX, disable, drop);
    if let Err(error) = work.await {
        tracing::warn!("{at}: its agent is not closed: {error}");
    }
    Ok(())
}

impl Control {
    /// Makes device management agents available to [`enable`].
    pub fn offer_agents(&mut self, agents: Arc<dyn Agents>) {
        self.agents = Some(agents);
    }

    /// Ports with an agent, and the datagrams answered there.
    pub fn agents(&self) -> Vec<(AgentPort, u64)> {
        let answered = |at| self.agents.as_ref().map_or(0, |agents| agents.answered(at));
        self.agent_ports.iter().map(|at| (at.clone(), answered(at))).collect()
    }

    fn new_agent(&self, at: &AgentPort) -> Result<Arc<dyn Agents>, Refused> {
        if self.agent_ports.contains(at) {
            return Err(Refused::exists(at.agent()));
        }
        let missing = || Refused::new(Errno::OPNOTSUPP, "there are no device management agents");
        self.agents.clone().ok_or_else(missing)
    }

    fn known_agent(&self, at: &AgentPort) -> Result<Arc<dyn Agents>, Refused> {
        let agents = self.agents.clone().filter(|_| self.agent_ports.contains(at));
        agents.ok_or_else(|| Refused::missing(at.agent()))
    }

    /// Tells the agents which targets there are: those with a listener for native logins, because
    /// what an agent shows is a service to log in to.
    pub(super) fn show_controllers(&mut self) {
        let rdma = self.options.rdma;
        let receives = if rdma.use_srq { rdma.srpt_srq_size } else { COMMANDS_PER_CHANNEL };
        let controllers = self.targets.iter().filter_map(|target| {
            let mut addresses = target.listeners().iter().filter_map(|listener| {
                let port = listener.trsvcid.as_deref().unwrap_or_default();
                let rdma = listener.trtype == "rdma";
                ListenAddress::parse(&listener.traddr, port).filter(|_| rdma)
            });
            Some(Controller {
                guid: target.service_guid(),
                service_id: addresses.find_map(|address| address.service_id())?,
                queue_depth: u16::try_from(receives).unwrap_or(u16::MAX),
                send_bytes_max: rdma.srp_max_req_size,
                rdma_bytes_max: rdma.srp_max_rdma_size,
            })
        });
        let controllers = controllers.collect();
        if let Some(agents) = &self.agents {
            agents.show(controllers);
        }
    }
}
