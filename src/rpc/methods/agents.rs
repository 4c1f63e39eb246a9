//! Device management agents.

use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Changed, Method, Outcome, Undo, change, locked};
use crate::control::{AgentPort, Control, Desk};
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
            system_fails("The port could not be opened."),
        ])
        .example(r#"{"device":"mlx5_1","port":1}"#),
    locked("srpt_disable_dm_agent", disable)
        .doc("Stops answering device management datagrams at a port.")
        .takes::<PortParams>()
        .fails(&[fails(Errno::NODEV, "The port has no agent.")])
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
    desk.with(|control| control.enable_agent(&at))?;
    Ok((json!(true), Undo::DmAgent(at)))
}

fn disable(control: &mut Control, params: Params<'_>) -> Outcome {
    control.disable_agent(&port(params)?)?;
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
