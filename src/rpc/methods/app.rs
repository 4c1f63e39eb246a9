//! The process: methods and their description, version, life cycle, log levels.

use rustix::io::Errno;
use rustix::process::Signal;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Method, Outcome, locked};
use crate::control::{Control, Refused};
use crate::logs::{LEVELS, Level};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, Params, Text};
use crate::rpc::schema::{self, fails, gives, member, system_fails};

pub(super) const METHODS: [Method; 10] = [
    locked("spdk_get_version", version).doc("Shows the version of the target.").gives(
        gives("object", "The version.").of(&[
            member("version", "string", "Name and version."),
            member("fields", "object", "The parts of the version number."),
            member("fields.major", "integer", "Major version."),
            member("fields.minor", "integer", "Minor version."),
            member("fields.patch", "integer", "Patch level."),
            member("fields.suffix", "string", "Mark of a version before a release, or empty."),
        ]),
    ),
    locked("rpc_get_methods", methods)
        .doc("Lists the methods of the target.")
        .takes::<MethodsParams>()
        .gives(gives("array", "Names of the methods."))
        .example(r#"{"current":true}"#),
    locked("rpc_get_schema", schema)
        .doc(
            "Describes the methods: parameters with types, units, ranges and defaults, results and \
             errors.",
        )
        .takes::<SchemaParams>()
        .gives(gives("object", "The description.").of(&[
            member("ranks", "array", "Ranks of a configuration: the order of its entries."),
            member("methods", "array", "The methods."),
            member("methods[].name", "string", "Name of the method."),
            member("methods[].group", "string", "The group that the method belongs to."),
            member("methods[].description", "string", "What the method does."),
            member("methods[].params", "array", "Its parameters, in words of JSON Schema."),
            member("methods[].result", "object", "What it answers."),
            member("methods[].errors", "array", "How it fails: codes, and when."),
            member("methods[].rank", "string", "Rank in a configuration, if it may stand there."),
            member("methods[].example", "object", "Parameters of a call, if it takes any."),
        ]))
        .fails(&[fails(Errno::NODEV, "There is no method of that name.")])
        .example(r#"{"method":"srpt_unmap_lun"}"#),
    locked("framework_start_init", start_init)
        .doc("Starts the subsystems. They are started already, so this is always refused.")
        .fails(&[fails(Errno::PERM, "Always.")]),
    locked("framework_wait_init", wait_init).doc("Waits until the subsystems are started."),
    locked("spdk_kill_instance", kill_instance)
        .doc("Sends a signal to the target. SIGINT and SIGTERM stop the target in order.")
        .takes::<KillParams>()
        .fails(&[system_fails("The signal could not be sent.")])
        .example(r#"{"sig_name":"SIGTERM"}"#),
    locked("log_set_level", log_set_level)
        .doc("Sets which lines are logged.")
        .takes::<LevelParams>()
        .example(r#"{"level":"INFO"}"#),
    locked("log_get_level", log_get_level)
        .doc("Shows which lines are logged.")
        .gives(gives("string", "The level.")),
    locked("log_set_print_level", log_set_print_level)
        .doc("Sets which lines are printed to standard error.")
        .takes::<LevelParams>()
        .example(r#"{"level":"NOTICE"}"#),
    locked("log_get_print_level", log_get_print_level)
        .doc("Shows which lines are printed to standard error.")
        .gives(gives("string", "The level.")),
];

fn version(_: &mut Control, params: Params<'_>) -> Outcome {
    params::none("spdk_get_version", params)?;
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    Ok(json!({
        "version": format!("SRPT_TGT v{}", env!("CARGO_PKG_VERSION")),
        "fields": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "patch": number(env!("CARGO_PKG_VERSION_PATCH")),
            "suffix": env!("CARGO_PKG_VERSION_PRE"),
        },
    }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MethodsParams {
    /// Leaves out what can't be called at present.
    #[serde(default)]
    current: bool,
    /// Has no effect: no method has an alias.
    #[serde(default, rename = "include_aliases")]
    _include_aliases: bool,
}

fn methods(_: &mut Control, params: Params<'_>) -> Outcome {
    let MethodsParams { current, .. } = params::parse(params)?;
    // Every method but one can be called at any time.
    let names = super::names().filter(|name| !current || *name != "framework_start_init");
    Ok(names.map(Value::from).collect())
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SchemaParams {
    /// Describes only this method.
    #[serde(default)]
    method: Option<Text<64>>,
}

fn schema(_: &mut Control, params: Params<'_>) -> Outcome {
    let SchemaParams { method } = params::parse(params)?;
    let only = method.as_ref().map(|Text(name)| name.as_str());
    let methods = super::described(only);
    match only {
        Some(name) if methods.is_empty() => Err(Refused::missing(format!("method {name}")).into()),
        _ => Ok(json!({ "ranks": schema::ranks(), "methods": methods })),
    }
}

fn start_init(_: &mut Control, params: Params<'_>) -> Outcome {
    params::none("framework_start_init", params)?;
    Err(RpcError {
        code: -1,
        message: "Operation not permitted: framework_start_init may only be called before the \
                  framework is initialized, and it is"
            .to_owned(),
    })
}

fn wait_init(_: &mut Control, params: Params<'_>) -> Outcome {
    params::none("framework_wait_init", params)?;
    Ok(json!(true))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KillParams {
    /// Name of the signal, with or without `SIG`.
    #[schemars(extend("enum" = SIGNALS.map(|(name, _)| name)))]
    sig_name: String,
}

const SIGNALS: [(&str, Signal); 6] = [
    ("SIGINT", Signal::INT),
    ("SIGTERM", Signal::TERM),
    ("SIGQUIT", Signal::QUIT),
    ("SIGHUP", Signal::HUP),
    ("SIGKILL", Signal::KILL),
    ("SIGUSR1", Signal::USR1),
];

fn kill_instance(control: &mut Control, params: Params<'_>) -> Outcome {
    let KillParams { sig_name } = params::parse(params)?;
    let known = SIGNALS
        .iter()
        .find(|(name, _)| *name == sig_name || name.strip_prefix("SIG") == Some(&sig_name));
    let Some((name, signal)) = known else {
        let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
        return Err(RpcError::invalid_params(format_args!(
            "sig_name: {:?} is not one of {}",
            sig_name.chars().take(40).collect::<String>(),
            names.join(", ")
        )));
    };
    tracing::info!("{name} by RPC");
    control.raise(*signal)?;
    Ok(json!(true))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LevelParams {
    /// The least important level that is shown, in capital or small letters.
    #[schemars(extend("enum" = LEVELS.map(Level::name), "x-any-case" = true))]
    level: String,
}

fn level(params: Params<'_>) -> Result<Level, RpcError> {
    let LevelParams { level } = params::parse(params)?;
    level.parse().map_err(|error| RpcError::invalid_params(format_args!("level: {error}")))
}

fn log_set_level(control: &mut Control, params: Params<'_>) -> Outcome {
    control.logs().set_level(level(params)?);
    Ok(json!(true))
}

fn log_get_level(control: &mut Control, params: Params<'_>) -> Outcome {
    params::none("log_get_level", params)?;
    Ok(json!(control.logs().level().name()))
}

fn log_set_print_level(control: &mut Control, params: Params<'_>) -> Outcome {
    control.logs().set_print_level(level(params)?);
    Ok(json!(true))
}

fn log_get_print_level(control: &mut Control, params: Params<'_>) -> Outcome {
    params::none("log_get_print_level", params)?;
    Ok(json!(control.logs().print_level().name()))
}
