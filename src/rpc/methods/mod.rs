//! The methods, one file per group. Adding one: a struct of parameters and a function in the file
//! of its group, a line in that file's `METHODS`, and a subcommand in `scripts/rpc.py`.

use serde_json::Value;

use super::Shared;
use super::error::RpcError;
use super::params::Params;
use crate::control::meter::OpKind;
use crate::control::{Control, RateLimits};

mod agents;
mod app;
mod bdevs;
mod config;
mod iostat;
mod limits;
mod luns;
mod neutral;
mod options;
mod sessions;
mod stats;
mod targets;
mod threads;
mod vbdevs;

pub use config::saved;

/// What a method gives.
pub type Outcome = Result<Value, RpcError>;

/// How a method is run.
#[derive(Clone, Copy)]
enum Run {
    /// With the control plane locked.
    Locked(fn(&mut Control, Params<'_>) -> Outcome),
    /// Without; it locks by itself.
    Shared(fn(&Shared, Params<'_>) -> Outcome),
    /// As an entry of a configuration, whose inverse is not needed.
    Change(Change),
}

/// A method that configuration files are made of.
pub type Change = fn(&mut Control, Params<'_>) -> Result<(Value, Undo), RpcError>;

/// What takes a change back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// Stop answering device management.
    DmAgent(crate::control::AgentPort),
    /// Go back to other options.
    Options(crate::control::Options),
    /// Go back to other rate limits.
    RateLimits {
        /// Name of the bdev.
        name: String,
        /// Its limits before.
        before: RateLimits,
    },
    /// Stop counting times, or count those that were counted before.
    Histogram {
        /// Name of the bdev.
        name: String,
        /// What was counted before.
        before: Option<Option<OpKind>>,
    },
    /// Delete a bdev.
    Bdev {
        /// The method that deletes this kind.
        method: &'static str,
        /// Its name.
        name: String,
    },
    /// Delete a target.
    Target {
        /// Its name.
        name: String,
    },
    /// Unmap a LUN.
    Lun {
        /// Target name.
        target: String,
        /// LUN.
        lun: u16,
    },
    /// Remove a listener.
    Listener {
        /// Target name.
        target: String,
        /// The address.
        listener: crate::control::Listener,
    },
}

impl Undo {
    /// Takes the change back.
    pub fn run(self, control: &mut Control) -> Result<(), RpcError> {
        Ok(match self {
            Undo::DmAgent(at) => control.disable_agent(&at),
            Undo::Options(before) => control.set_options(before),
            Undo::RateLimits { name, before } => control.set_rate_limits(&name, before),
            Undo::Histogram { name, before } => {
                control.enable_histogram(&name, before.is_some(), before.flatten())
            }
            Undo::Bdev { method, name } => control.delete_bdev(method, &name),
            Undo::Target { name } => control.delete_target(&name),
            Undo::Lun { target, lun } => control.unmap_lun(&target, lun),
            Undo::Listener { target, listener } => control.remove_listener(&target, &listener),
        }?)
    }
}

/// A method by name.
struct Method {
    name: &'static str,
    run: Run,
}

const fn locked(name: &'static str, run: fn(&mut Control, Params<'_>) -> Outcome) -> Method {
    Method { name, run: Run::Locked(run) }
}

const fn shared(name: &'static str, run: fn(&Shared, Params<'_>) -> Outcome) -> Method {
    Method { name, run: Run::Shared(run) }
}

const fn change(name: &'static str, run: Change) -> Method {
    Method { name, run: Run::Change(run) }
}

/// The groups in the order of `rpc_get_methods`. The methods of one that is missing here are dead
/// code, which the compiler reports.
const GROUPS: &[&[Method]] = &[
    &app::METHODS,
    &threads::METHODS,
    &config::METHODS,
    &bdevs::METHODS,
    &vbdevs::METHODS,
    &iostat::METHODS,
    &limits::METHODS,
    &options::METHODS,
    &targets::METHODS,
    &agents::METHODS,
    &luns::METHODS,
    &sessions::METHODS,
    &stats::METHODS,
];

fn methods() -> impl Iterator<Item = &'static Method> {
    GROUPS.iter().copied().flatten()
}

/// Names of all methods, in the order of `rpc_get_methods`.
pub fn names() -> impl Iterator<Item = &'static str> {
    methods().map(|method| method.name)
}

/// A method that a configuration may hold.
pub fn change_named(name: &str) -> Option<Change> {
    methods().find(|method| method.name == name).and_then(|method| match method.run {
        Run::Change(change) => Some(change),
        Run::Locked(_) | Run::Shared(_) => None,
    })
}

/// Names of the methods that a configuration may hold.
pub fn changes() -> impl Iterator<Item = &'static str> {
    methods().filter(|method| matches!(method.run, Run::Change(_))).map(|method| method.name)
}

/// Runs a method.
pub fn call(on: &Shared, name: &str, params: Params<'_>) -> Outcome {
    let method = methods()
        .find(|method| method.name == name)
        .ok_or_else(|| RpcError::method_not_found(name))?;
    match method.run {
        Run::Locked(run) => run(&mut on.control(), params),
        Run::Shared(run) => run(on, params),
        Run::Change(change) => {
            let (result, _) = change(&mut on.control(), params)?;
            on.announce_change();
            Ok(result)
        }
    }
}
