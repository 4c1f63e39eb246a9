//! Targets and listeners.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Method, Outcome, Undo, change, locked};
use crate::control::listeners::TRTYPES;
use crate::control::{Control, Listener, Target, TargetRequest, logins, ports};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, Bounded, Guid, Params, TargetName, Text};

pub(super) const METHODS: [Method; 6] = [
    change("srpt_create_target", create),
    locked("srpt_delete_target", delete),
    locked("srpt_get_targets", list),
    change("srpt_add_listener", add_listener),
    locked("srpt_remove_listener", remove_listener),
    locked("srpt_get_login_info", login_info),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    name: TargetName,
    #[serde(default)]
    service_guid: Option<Guid>,
    #[serde(default)]
    relative_port: Option<Bounded<1, 65535>>,
}

fn create(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let params: CreateParams = params::parse(params)?;
    let request = TargetRequest {
        name: params.name.0,
        service_guid: params.service_guid.map(|guid| guid.0),
        relative_port: params.relative_port.map(|port| port.0 as u16),
    };
    control.create_target(&request)?;
    Ok((json!(true), Undo::Target { name: request.name }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameParams {
    name: TargetName,
}

fn delete(control: &mut Control, params: Params<'_>) -> Outcome {
    let NameParams { name } = params::parse(params)?;
    control.delete_target(&name.0)?;
    Ok(json!(true))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[serde(default)]
    name: Option<TargetName>,
}

fn list(control: &mut Control, params: Params<'_>) -> Outcome {
    let ListParams { name } = params::parse(params)?;
    if let Some(name) = name {
        return Ok(json!([shown(find(control, &name)?)]));
    }
    Ok(control.targets().iter().map(shown).collect())
}

fn find<'a>(control: &'a Control, name: &TargetName) -> Result<&'a Target, RpcError> {
    let found = control.targets().iter().find(|target| target.name() == name.0);
    found.ok_or_else(|| crate::control::Refused::missing(format!("target {}", name.0)).into())
}

fn shown(target: &Target) -> Value {
    let luns: Vec<Value> = target
        .luns()
        .iter()
        .map(|(lun, mapping)| {
            let identity = &mapping.unit().identity;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
            json!({
                "lun": lun,
                "bdev_name": mapping.bdev_name(),
                "read_only": mapping.read_only(),
                "vendor": text(&identity.vendor),
                "product": text(&identity.product),
                "serial": identity.serial,
            })
        })
        .collect();
    let listeners: Vec<Value> = target.listeners().iter().map(address).collect();
    json!({
        "name": target.name(),
        "service_guid": format!("{:016x}", target.service_guid()),
        "relative_port": target.relative_port(),
        "listeners": listeners,
        "luns": luns,
    })
}

/// A listener as SPDK shows addresses.
pub(super) fn address(listener: &Listener) -> Value {
    let mut shown = json!({ "trtype": listener.trtype, "traddr": listener.traddr });
    if let Some(trsvcid) = &listener.trsvcid {
        shown["trsvcid"] = json!(trsvcid);
    }
    shown
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerParams {
    target: TargetName,
    trtype: String,
    traddr: Text<255>,
    #[serde(default)]
    trsvcid: Option<Text<31>>,
}

fn listener(control: &Control, params: Params<'_>) -> Result<(String, Listener), RpcError> {
    let params: ListenerParams = params::parse(params)?;
    let wanted = params.trtype.as_str();
    let trtype = TRTYPES.into_iter().find(|trtype| trtype.eq_ignore_ascii_case(wanted));
    let Some(trtype) = trtype else {
        return Err(RpcError::invalid_params(format_args!(
            "trtype: {:?} is not one of {}",
            wanted.chars().take(40).collect::<String>(),
            TRTYPES.join(", ")
        )));
    };
    let trsvcid = params.trsvcid.map(|trsvcid| trsvcid.0);
    let listener = Listener { trtype, traddr: params.traddr.0, trsvcid };
    Ok((params.target.0, control.with_default_port(listener)))
}

fn add_listener(control: &mut Control, params: Params<'_>) -> Result<(Value, Undo), RpcError> {
    let (target, listener) = listener(control, params)?;
    control.add_listener(&target, &listener)?;
    Ok((json!(true), Undo::Listener { target, listener }))
}

fn remove_listener(control: &mut Control, params: Params<'_>) -> Outcome {
    let (target, listener) = listener(control, params)?;
    control.remove_listener(&target, &listener)?;
    Ok(json!(true))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginParams {
    target: TargetName,
}

/// What an initiator needs to log in, one entry per listener. `id_ext` and `ioc_guid` make the
/// target port identifier; for shm, `traddr` is the socket to connect to; for rdma, `add_target`
/// has the lines to write to a file of that name, and `srp_daemon` is its rule.
fn login_info(control: &mut Control, params: Params<'_>) -> Outcome {
    let LoginParams { target } = params::parse(params)?;
    let target = find(control, &target)?;
    let service_guid = target.service_guid();
    let guid = format!("{service_guid:016x}");
    let ports = ports::ports(Path::new(ports::RDMA_DEVICES));
    let shown: Vec<Value> = target
        .listeners()
        .iter()
        .map(|listener| {
            let mut login = address(listener);
            login["id_ext"] = json!(guid);
            login["ioc_guid"] = json!(guid);
            if listener.trtype == "rdma" {
                login["add_target"] = json!(logins::lines(service_guid, listener, &ports));
            }
            login
        })
        .collect();
    Ok(json!({
        "target": target.name(),
        "service_guid": guid,
        "srp_daemon": logins::rule(service_guid),
        "logins": shown,
    }))
}
