//! Device management agents.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Method, Outcome, Undo, change, locked};
use crate::control::{AgentPort, Control};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, Bounded, Params, Text};

pub(super) const METHODS: [Method; 3] = [
    change("srpt_enable_dm_agent", enable),
    locked("srpt_disable_dm_agent", disable),
    locked("srpt_get_dm_agents", list),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortParams {
    device: Text<63>,
    port: Bounded<1, 255>,
}

fn port(params: Params<'_>) -> Result<AgentPort, RpcError> {
    let params: PortParams = params::parse(params)?;
    if params.device.0.contains('/') {
        return Err(RpcError::invalid_params("device: the name of an RDMA device has no slash"));
    }
    Ok(AgentPort { device: params.device.0, port: params.port.0 as u32 })
}

fn enable(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let at = port(params)?;
    control.enable_agent(&at)?;
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
