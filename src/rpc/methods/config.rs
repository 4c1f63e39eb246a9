//! The configuration as a document: what would make the present state again.

use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::targets::address;
use super::{CHANGES, Method, Outcome, limits, locked, options, shared};
use crate::control::{Control, Desk, Mapping, Target};
use crate::rpc::error::RpcError;
use crate::rpc::load::{self, FileError, LoadError};
use crate::rpc::params::{self, Params};
use crate::rpc::schema::{gives, member, system_fails};

pub(super) const METHODS: [Method; 4] = [
    locked("framework_get_subsystems", subsystems)
        .doc("Lists the parts of a configuration.")
        .gives(gives("array", "The parts, each after those it depends on.").of(&[
            member("[].subsystem", "string", "Name of the part."),
            member("[].depends_on", "array", "Names of the parts that must be there first."),
        ])),
    locked("framework_get_config", subsystem_config)
        .doc("Shows one part of the configuration.")
        .takes::<ConfigParams>()
        .gives(gives("array", "Its entries.").of(&[
            member("[].method", "string", "The method to call."),
            member("[].params", "object", "Its parameters."),
        ]))
        .example(r#"{"name":"srpt"}"#),
    locked("save_config", save)
        .doc("Shows the configuration, as `--config` and `load_config` read it.")
        .gives(gives("object", "The configuration.").of(&[
            member("subsystems", "array", "Its parts."),
            member("subsystems[].subsystem", "string", "Name of the part."),
            member("subsystems[].config", "array", "Its entries."),
            member("subsystems[].config[].method", "string", "The method to call."),
            member("subsystems[].config[].params", "object", "Its parameters."),
        ])),
    shared("load_config", |desk, params| Box::pin(load_config(desk, params)))
        .doc(
            "Loads a configuration of at most 16 MiB: all of it or nothing. Entries are carried \
             out in the order of their ranks, wherever they stand.",
        )
        .takes::<load::Document<'static>>()
        .fails(&[system_fails(
            "An entry fails: the code of that entry. Nothing of the configuration is in force.",
        )])
        .example(
            r#"{"subsystems":[{"subsystem":"bdev","config":[{"method":"bdev_null_create",
                "params":{"name":"Null9","num_blocks":2048,"block_size":512}}]}]}"#,
        ),
];

fn subsystems(_: &mut Control, params: Params<'_>) -> Outcome {
    params::none("framework_get_subsystems", params)?;
    Ok(json!([
        { "subsystem": "bdev", "depends_on": [] },
        { "subsystem": "srpt", "depends_on": ["bdev"] },
    ]))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConfigParams {
    /// Name of the part.
    #[schemars(extend("enum" = load::SUBSYSTEMS))]
    name: String,
    /// Has no effect: SPDK's client sends it, and there is nothing to batch.
    #[serde(default, rename = "with_batches")]
    _with_batches: bool,
}

fn subsystem_config(control: &mut Control, params: Params<'_>) -> Outcome {
    let ConfigParams { name, .. } = params::parse(params)?;
    match name.as_str() {
        "bdev" => Ok(Value::Array(bdev_entries(control))),
        "srpt" => Ok(Value::Array(srpt_entries(control))),
        _ => Err(RpcError::invalid_params(format_args!(
            "name: Subsystem '{}' not found, there are {}",
            name.chars().take(40).collect::<String>(),
            load::SUBSYSTEMS.join(", ")
        ))),
    }
}

fn save(control: &mut Control, params: Params<'_>) -> Outcome {
    params::none("save_config", params)?;
    Ok(saved(control))
}

/// The configuration that makes the present state again: bdevs; options, targets and their LUNs;
/// listeners last, so that no initiator logs in to a half-built target.
pub fn saved(control: &Control) -> Value {
    json!({
        "subsystems": [
            { "subsystem": "bdev", "config": bdev_entries(control) },
            { "subsystem": "srpt", "config": srpt_entries(control) },
        ],
    })
}

fn entry(method: &str, params: Value) -> Value {
    json!({ "method": method, "params": params })
}

fn bdev_entries(control: &Control) -> Vec<Value> {
    let bdevs = || control.bdevs().iter().map(|(bdev, _)| bdev);
    let created =
        bdevs().map(|bdev| entry(&format!("bdev_{}_create", bdev.module()), bdev.options()));
    let set = bdevs().flat_map(|bdev| limits::calls(control, bdev.name()));
    created.chain(set.map(|(method, params)| entry(method, params))).collect()
}

fn srpt_entries(control: &Control) -> Vec<Value> {
    let targets = control.targets();
    let mut entries = vec![entry("srpt_set_options", options::shown(control.options()))];
    entries.extend(targets.iter().map(create_entry));
    for target in targets {
        let luns = target.luns().iter();
        entries.extend(luns.map(|(lun, mapping)| map_entry(control, target, *lun, mapping)));
    }
    for target in targets {
        for listener in target.listeners() {
            let mut params = Map::new();
            params.insert("target".to_owned(), json!(target.name()));
            if let Value::Object(address) = address(listener) {
                params.extend(address);
            }
            entries.push(entry("srpt_add_listener", Value::Object(params)));
        }
    }
    let agents = control.agents();
    entries.extend(agents.iter().map(|(at, _)| {
        entry("srpt_enable_dm_agent", json!({ "device": at.device, "port": at.port }))
    }));
    entries
}

/// Always with the service GUID: initiators must find the target again on another host too.
fn create_entry(target: &Target) -> Value {
    entry(
        "srpt_create_target",
        json!({
            "name": target.name(),
            "service_guid": format!("{:016x}", target.service_guid()),
            "relative_port": target.relative_port(),
        }),
    )
}

fn map_entry(control: &Control, target: &Target, lun: u16, mapping: &Mapping) -> Value {
    let mut params = json!({
        "target": target.name(),
        "lun": lun,
        "bdev_name": mapping.bdev_name(),
        "read_only": mapping.read_only(),
    });
    if let Some(overrides) = control.overrides_of(mapping.bdev_name()) {
        let texts = [
            ("vendor", &overrides.vendor),
            ("product", &overrides.product),
            ("serial", &overrides.serial),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                params[name] = json!(text);
            }
        }
    }
    entry("srpt_map_lun", params)
}

async fn load_config(desk: &Desk, params: Params<'_>) -> Outcome {
    let text = params.map_or("", RawValue::get);
    let document = if text.is_empty() { "{}" } else { text };
    load(desk, document).await.map_err(|error| error.into_rpc_error())?;
    desk.announce_change();
    Ok(json!(true))
}

/// Loads a document into the control plane: all of it or nothing.
pub async fn load(desk: &Desk, text: &str) -> Result<(), LoadError> {
    load::load(desk, CHANGES, text).await
}

/// Loads a file into the control plane. The error names file, line, entry and method.
pub async fn load_file(desk: &Desk, path: &Path) -> Result<(), FileError> {
    load::load_file(desk, CHANGES, path).await
}
