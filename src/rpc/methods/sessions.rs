//! Sessions (I_T nexuses) and their channels.

use std::collections::BTreeMap;

use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{CORE_SILENT, Method, NO_TARGET, Outcome, shared};
use crate::control::{Desk, Refused};
use crate::rpc::params::{self, Bounded, Params, TargetName};
use crate::rpc::schema::{fails, gives, member};
use crate::shard::message::{ChannelReport, PortId};
use crate::shard::names::SessionId;

pub(super) const METHODS: [Method; 2] = [
    shared("srpt_get_sessions", |desk, params| Box::pin(list(desk, params)))
        .doc("Shows the sessions of all targets, or of one, with their channels.")
        .takes::<ListParams>()
        .gives(gives("array", "The sessions.").of(&[
            member("[].id", "integer", "Number of the session."),
            member("[].target", "string", "Name of the target."),
            member("[].initiator_port_id", "string", "Initiator port identifier, in hex."),
            member("[].target_port_id", "string", "Target port identifier, in hex."),
            member("[].channels", "array", "Its channels."),
            member("[].channels[].core", "integer", "Core that has the channel."),
            member("[].channels[].connection", "integer", "Number of the connection on the core."),
            member("[].channels[].trtype", "string", "Transport: shm or rdma."),
            member("[].channels[].traddr", "string", "Address of the listener."),
            member("[].channels[].peer", "string", "The initiator, as the transport knows it."),
            member("[].channels[].credits", "integer", "Credits of a fresh login."),
            member("[].channels[].req_lim", "integer", "Credits that the initiator has."),
            member("[].channels[].in_flight", "integer", "Commands that are not answered."),
            member("[].channels[].iu_bytes_max", "integer", "Bytes of its largest IU."),
            member("[].channels[].immediate_data", "boolean", "Data may come in IUs."),
            member("[].channels[].multichannel", "boolean", "The session may have more channels."),
            member("[].channels[].commands", "integer", "Commands so far."),
            member("[].channels[].bytes_read", "integer", "Bytes read so far."),
            member("[].channels[].bytes_written", "integer", "Bytes written so far."),
        ]))
        .fails(&[NO_TARGET, CORE_SILENT])
        .example(r#"{"target":"target0"}"#),
    shared("srpt_disconnect_session", |desk, params| Box::pin(disconnect(desk, params)))
        .doc("Ends a session. The initiator may log in again.")
        .takes::<DisconnectParams>()
        .fails(&[fails(Errno::NODEV, "There is no such session."), CORE_SILENT])
        .example(r#"{"session":3}"#),
];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Shows only the sessions of this target.
    #[serde(default)]
    target: Option<TargetName>,
}

async fn list(desk: &Desk, params: Params<'_>) -> Outcome {
    let ListParams { target } = params::parse(params)?;
    if let Some(TargetName { 0: name }) = &target
        && !desk.with(|control| control.targets().iter().any(|target| target.name() == name))
    {
        return Err(Refused::missing(format!("target {name}")).into());
    }
    let reports = desk.reports().await?;
    let mut sessions: BTreeMap<SessionId, Vec<(usize, &ChannelReport)>> = BTreeMap::new();
    for (core, report) in reports.iter().enumerate() {
        for channel in &report.channels {
            if target.as_ref().is_none_or(|target| target.0 == channel.target) {
                sessions.entry(channel.session).or_default().push((core, channel));
            }
        }
    }
    Ok(sessions.iter().map(|(id, channels)| session(*id, channels)).collect())
}

fn session(id: SessionId, channels: &[(usize, &ChannelReport)]) -> Value {
    let (_, first) = channels[0];
    let shown: Vec<Value> = channels.iter().map(|(core, channel)| shown(*core, channel)).collect();
    json!({
        "id": id.number(),
        "target": first.target,
        "initiator_port_id": hex(&first.initiator_port_id),
        "target_port_id": hex(&first.target_port_id),
        "channels": shown,
    })
}

fn shown(core: usize, channel: &ChannelReport) -> Value {
    json!({
        "core": core,
        "connection": channel.conn.index,
        "trtype": channel.peer.trtype,
        "traddr": channel.peer.traddr,
        "peer": channel.peer.peer,
        "credits": channel.credits,
        "req_lim": channel.req_lim,
        "in_flight": channel.in_flight,
        "iu_bytes_max": channel.iu_bytes_max,
        "immediate_data": channel.immediate_data,
        "multichannel": channel.multichannel,
        "commands": channel.commands,
        "bytes_read": channel.bytes_read,
        "bytes_written": channel.bytes_written,
    })
}

fn hex(port: &PortId) -> String {
    port.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DisconnectParams {
    /// Number of the session, as srpt_get_sessions shows it.
    session: Bounded<0, { u64::MAX }>,
}

async fn disconnect(desk: &Desk, params: Params<'_>) -> Outcome {
    let DisconnectParams { session } = params::parse(params)?;
    desk.disconnect_session(SessionId::new(session.0)).await?;
    Ok(json!(true))
}
