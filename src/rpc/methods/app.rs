//! The process: methods, version, life cycle, log levels.

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Method, Outcome, locked};
use crate::control::Control;
use crate::logs::Level;
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, Params};

pub(super) const METHODS: [Method; 9] = [
    locked("spdk_get_version", version),
    locked("rpc_get_methods", methods),
    locked("framework_start_init", start_init),
    locked("framework_wait_init", wait_init),
    locked("spdk_kill_instance", kill_instance),
    locked("log_set_level", log_set_level),
    locked("log_get_level", log_get_level),
    locked("log_set_print_level", log_set_print_level),
    locked("log_get_print_level", log_get_print_level),
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MethodsParams {
    #[serde(default)]
    current: bool,
    /// There are no aliases.
    #[serde(default, rename = "include_aliases")]
    _include_aliases: bool,
}

fn methods(_: &mut Control, params: Params<'_>) -> Outcome {
    let MethodsParams { current, .. } = params::parse(params)?;
    // Every method but one can be called at any time.
    let names = super::names().filter(|name| !current || *name != "framework_start_init");
    Ok(names.map(Value::from).collect())
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KillParams {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelParams {
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
