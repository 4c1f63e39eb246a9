//! Device management agents.

use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{BUSY, Method, Outcome, change, locked, shared};
use crate::control::{AgentPort, Control, Desk, agents};
use crate::rpc::change::{Changed, Undo};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, Bounded, Params, Text};
use crate::rpc::schema::{Rank, fails, gives, member, system_fails};

pub(super) const METHODS: [Method; 3] = [
    change("srpt_enable_dm_agent", Rank::Agents, |desk, params| Box::pin(enable(desk, params)))
        .doc("Answers device management datagrams (srp_daemon) at a port.")
        .takes::<PortParams>()
        .fails(&[
            fails(Errno::EXIST, "The port has an agent already."),
            fails(Errno::OPNOTSUPP, "This machine has no device management agents."),
            BUSY,
            fails(Errno::TIMEDOUT, "Opening the port has no end within 10 s."),
            system_fails("The port could not be opened."),
        ])
        .example(r#"{"device":"mlx5_1","port":1}"#),
    shared("srpt_disable_dm_agent", |desk, params| Box::pin(disable(desk, params)))
        .doc("Stops answering device management datagrams at a port.")
        .takes::<PortParams>()
        .fails(&[fails(Errno::NODEV, "The port has no agent."), BUSY])
        .example(r#"{"device":"mlx5_0","port":1}"#),
    locked("srpt_get_dm_agents", list)
        .doc("Shows the ports that answer device management datagrams.")
        .gives(gives("array", "The ports.").of(&[
            member("[].device", "string", "RDMA device."),
            member("[].port", "integer", "Its port."),
            member("[].answered", "integer", "Datagrams answered."),
        ])),
];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PortParams {
    /// RDMA device, such as `mlx5_0`.
    device: Text<63>,
    /// Its port.
    port: Bounded<1, 255>,
}

fn port(params: Params<'_>) -> Result<AgentPort, RpcError> {
    let params: PortParams = params::parse(params)?;
    if params.device.0.contains('/') {
        return Err(RpcError::invalid_params("device: the name of an RDMA device has no slash"));
    }
    Ok(AgentPort { device: params.device.0, port: params.port.0 as u32 })
}

async fn enable(desk: &Desk, params: Params<'_>) -> Changed {
    let at = port(params)?;
    agents::enable(desk, &at).await?;
    Ok((json!(true), Undo::DmAgent(at)))
}

async fn disable(desk: &Desk, params: Params<'_>) -> Outcome {
    agents::disable(desk, &port(params)?).await?;
    Ok(json!(true))
}

fn list(control: &mut Control, params: Params<'_>) -> Outcome {
    params::none("srpt_get_dm_agents", params)?;
    let agents = control.agents();
    let shown = agents.iter().map(
        |(at, answered)| json!({ "device": at.device, "port": at.port, "answered": answered }),
    );
    Ok(shown.collect())
}
