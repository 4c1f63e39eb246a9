//! Targets and listeners.

use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{BUSY, CORE_SILENT, Method, NO_TARGET, Outcome, change, locked, shared};
use crate::control::listeners::TRTYPES;
use crate::control::ports::{self, Port};
use crate::control::{self, Control, Desk, Listener, Target, TargetRequest, logins};
use crate::rpc::change::{Changed, Undo};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, Bounded, Guid, Params, TargetName, Text};
use crate::rpc::schema::{Rank, fails, gives, member, system_fails};

pub(super) const METHODS: [Method; 6] = [
    change("srpt_create_target", Rank::Targets, |desk, params| Box::pin(create(desk, params)))
        .doc("Creates a target. Initiators can't reach it before srpt_add_listener.")
        .takes::<CreateParams>()
        .fails(&[
            fails(Errno::EXIST, "The name, service GUID or relative port is taken."),
            fails(Errno::NOSPC, "All 65535 relative ports are in use."),
            CORE_SILENT,
            BUSY,
        ])
        .example(r#"{"name":"target9","service_guid":"0002c903000e8acd"}"#),
    shared("srpt_delete_target", |desk, params| Box::pin(delete(desk, params)))
        .doc("Deletes a target: ends its listeners and sessions, and takes its LUNs away.")
        .takes::<NameParams>()
        .fails(&[NO_TARGET, CORE_SILENT, BUSY])
        .example(r#"{"name":"target0"}"#),
    locked("srpt_get_targets", list)
        .doc("Shows all targets, or one.")
        .takes::<ListParams>()
        .gives(gives("array", "The targets.").of(&[
            member("[].name", "string", "Name of the target."),
            member("[].service_guid", "string", "Service GUID: id_ext and ioc_guid of a login."),
            member("[].relative_port", "integer", "Relative port identifier (SPC)."),
            member("[].listeners", "array", "Where initiators reach the target."),
            member("[].listeners[].trtype", "string", "Transport: shm or rdma."),
            member("[].listeners[].traddr", "string", "Address."),
            member("[].listeners[].trsvcid", "string", "Port, for rdma."),
            member("[].luns", "array", "The LUN map, in ascending order."),
            member("[].luns[].lun", "integer", "LUN."),
            member("[].luns[].bdev_name", "string", "Name of the bdev."),
            member("[].luns[].read_only", "boolean", "Writes are refused."),
            member("[].luns[].vendor", "string", "T10 vendor identification."),
            member("[].luns[].product", "string", "Product identification."),
            member("[].luns[].serial", "string", "Unit serial number."),
        ]))
        .fails(&[NO_TARGET])
        .example(r#"{"name":"target0"}"#),
    change("srpt_add_listener", Rank::Listeners, |desk, params| {
        Box::pin(add_listener(desk, params))
    })
    .doc("Lets initiators reach a target at an address.")
    .takes::<ListenerParams>()
    .fails(&[
        NO_TARGET,
        fails(Errno::ADDRINUSE, "The address is that of another listener or program."),
        fails(Errno::BUSY, "The target is being deleted."),
        fails(Errno::PROTONOSUPPORT, "This machine has no such transport."),
        system_fails("The address could not be listened at."),
    ])
    .example(r#"{"target":"target0","trtype":"shm","traddr":"/run/target9.sock"}"#),
    shared("srpt_remove_listener", |desk, params| Box::pin(remove_listener(desk, params)))
        .doc("Ends a listener. Sessions that came through it stay.")
        .takes::<ListenerParams>()
        .fails(&[fails(Errno::NODEV, "There is no such target, or it has no such listener.")])
        .example(r#"{"target":"target0","trtype":"shm","traddr":"/run/target0.sock"}"#),
    shared("srpt_get_login_info", |desk, params| Box::pin(login_info(desk, params)))
        .doc("Shows what an initiator needs to log in to a target.")
        .takes::<LoginParams>()
        .gives(gives("object", "The logins.").of(&[
            member("target", "string", "Name of the target."),
            member("service_guid", "string", "Service GUID of the target."),
            member("srp_daemon", "string", "Rule for srp_daemon.conf."),
            member("logins", "array", "One entry per listener."),
            member("logins[].trtype", "string", "Transport: shm or rdma."),
            member("logins[].traddr", "string", "Address; for shm, the socket to connect to."),
            member("logins[].trsvcid", "string", "Port, for rdma."),
            member("logins[].id_ext", "string", "First half of the target port identifier."),
            member("logins[].ioc_guid", "string", "Second half of the target port identifier."),
            member("logins[].add_target", "array", "For rdma: lines for the file add_target."),
        ]))
        .fails(&[
            NO_TARGET,
            fails(Errno::BUSY, "Another call looks at the RDMA devices for more than a second."),
            fails(Errno::TIMEDOUT, "The look at the RDMA devices has no end within 10 s."),
        ])
        .example(r#"{"target":"target0"}"#),
];

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    /// Name of the new target.
    name: TargetName,
    /// Service GUID; `srpt_service_guid`, or else derived from host and name, if absent.
    #[serde(default)]
    service_guid: Option<Guid>,
    /// Relative port identifier (SPC); the lowest free one if absent.
    #[serde(default)]
    relative_port: Option<Bounded<1, 65535>>,
}

async fn create(desk: &Desk, params: Params<'_>) -> Changed {
    let params: CreateParams = params::parse(params)?;
    let request = TargetRequest {
        name: params.name.0,
        service_guid: params.service_guid.map(|guid| guid.0),
        relative_port: params.relative_port.map(|port| port.0 as u16),
    };
    desk.create_target(&request).await?;
    Ok((json!(true), Undo::Target { name: request.name }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NameParams {
    /// Name of the target.
    name: TargetName,
}

async fn delete(desk: &Desk, params: Params<'_>) -> Outcome {
    let NameParams { name } = params::parse(params)?;
    desk.delete_target(&name.0).await?;
    Ok(json!(true))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Shows only the target of this name.
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

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListenerParams {
    /// Name of the target.
    target: TargetName,
    /// Transport, in small or capital letters.
    #[schemars(extend("enum" = TRTYPES, "x-any-case" = true))]
    trtype: String,
    /// For shm, an absolute path for the socket. For rdma, an IP address of an RDMA port, or for
    /// native InfiniBand logins `ib` (every port) or `ib:GID`.
    traddr: Text<255>,
    /// Port, for rdma; `rdma_cm_port` if absent.
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

async fn add_listener(desk: &Desk, params: Params<'_>) -> Changed {
    let (target, listener) = desk.with(|control| listener(control, params))?;
    desk.add_listener(&target, &listener).await?;
    Ok((json!(true), Undo::Listener { target, listener }))
}

async fn remove_listener(desk: &Desk, params: Params<'_>) -> Outcome {
    let (target, listener) = desk.with(|control| listener(control, params))?;
    desk.remove_listener(&target, &listener).await?;
    Ok(json!(true))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LoginParams {
    /// Name of the target.
    target: TargetName,
}

/// What an initiator needs to log in, one entry per listener. `id_ext` and `ioc_guid` make the
/// target port identifier; for shm, `traddr` is the socket to connect to; for rdma, `add_target`
/// has the lines to write to a file of that name, and `srp_daemon` is its rule.
async fn login_info(desk: &Desk, params: Params<'_>) -> Outcome {
    let LoginParams { target } = params::parse(params)?;
    let (rdma, devices) = desk.with(|control| {
        let rdma = find(control, &target)?.listeners().iter().any(|at| at.trtype == "rdma");
        Ok::<_, RpcError>((rdma, control.rdma_devices().to_owned()))
    })?;
    let ports = match rdma {
        true => {
            let look = move || ports::ports(&devices);
            control::look(desk, "RDMA devices".to_owned(), "their ports are being read", look)
                .await?
        }
        false => Vec::new(),
    };
    desk.with(|control| Ok(logins_of(find(control, &target)?, &ports)))
}

fn logins_of(target: &Target, ports: &[Port]) -> Value {
    let service_guid = target.service_guid();
    let guid = format!("{service_guid:016x}");
    let shown: Vec<Value> = target
        .listeners()
        .iter()
        .map(|listener| {
            let mut login = address(listener);
            login["id_ext"] = json!(guid);
            login["ioc_guid"] = json!(guid);
            if listener.trtype == "rdma" {
                login["add_target"] = json!(logins::lines(service_guid, listener, ports));
            }
            login
        })
        .collect();
    json!({
        "target": target.name(),
        "service_guid": guid,
        "srp_daemon": logins::rule(service_guid),
        "logins": shown,
    })
}
