//! Device management agents: how InfiniBand fabrics ask a port for its SRP targets.

use rustix::io::Errno;
use transport::dm::Controller;
use transport::rdma::ListenAddress;

use super::{Control, ListenError, Refused};
use crate::limits::COMMANDS_PER_CHANNEL;

/// A port that has an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPort {
    /// RDMA device.
    pub device: String,
    /// Its port, from 1.
    pub port: u32,
}

/// The agents of this process.
pub trait Agents: Send {
    /// Answers at a port from now on.
    fn enable(&mut self, at: &AgentPort) -> Result<(), ListenError>;

    /// The opposite.
    fn disable(&mut self, at: &AgentPort);

    /// Datagrams answered at a port.
    fn answered(&self, at: &AgentPort) -> u64;

    /// What all agents show from now on.
    fn show(&mut self, controllers: Vec<Controller>);
}

impl Control {
    /// Makes device management agents available to [`Control::enable_agent`].
    pub fn offer_agents(&mut self, agents: Box<dyn Agents>) {
        self.agents = Some(agents);
    }

    /// Ports with an agent, and the datagrams answered there.
    pub fn agents(&self) -> Vec<(AgentPort, u64)> {
        let answered = |at| self.agents.as_ref().map_or(0, |agents| agents.answered(at));
        self.agent_ports.iter().map(|at| (at.clone(), answered(at))).collect()
    }

    /// Answers device management datagrams at a port.
    pub fn enable_agent(&mut self, at: &AgentPort) -> Result<(), Refused> {
        let AgentPort { device, port } = at;
        if self.agent_ports.contains(at) {
            return Err(Refused::exists(format!("agent of {device} port {port}")));
        }
        let Some(agents) = &mut self.agents else {
            return Err(Refused::new(Errno::OPNOTSUPP, "there are no device management agents"));
        };
        agents.enable(at)?;
        tracing::info!("{device} port {port}: answers device management");
        self.agent_ports.push(at.clone());
        self.show_controllers();
        Ok(())
    }

    /// Stops answering at a port.
    pub fn disable_agent(&mut self, at: &AgentPort) -> Result<(), Refused> {
        let AgentPort { device, port } = at;
        if !self.agent_ports.contains(at) {
            return Err(Refused::missing(format!("agent of {device} port {port}")));
        }
        if let Some(agents) = &mut self.agents {
            agents.disable(at);
        }
        tracing::info!("{device} port {port}: no longer answers device management");
        self.agent_ports.retain(|other| other != at);
        Ok(())
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
        if let Some(agents) = &mut self.agents {
            agents.show(controllers);
        }
    }
}
