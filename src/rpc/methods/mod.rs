//! The methods, one file per group. Adding one: a struct of parameters and a function in the file
//! of its group, and an entry in that file's `METHODS`, which describes the method.

use futures_util::future::LocalBoxFuture;
use rustix::io::Errno;
use schemars::JsonSchema;
use serde_json::Value;

use super::error::RpcError;
use super::params::Params;
use super::schema::{self, About, Fails, Gives, Rank, fails};
use crate::control::meter::OpKind;
use crate::control::{self, Control, Desk, RateLimits, meters};

mod agents;
mod app;
mod bdevs;
mod config;
mod iostat;
mod limits;
mod luns;
mod options;
mod sessions;
mod stats;
mod targets;
mod threads;
mod vbdevs;

pub use config::saved;

/// What a method gives.
pub type Outcome = Result<Value, RpcError>;

/// How a method is run, always on the control thread.
#[derive(Clone, Copy)]
enum Run {
    /// In one go: it waits for nothing.
    Locked(fn(&mut Control, Params<'_>) -> Outcome),
    /// With waits, between which others go on.
    Shared(for<'a> fn(&'a Desk, Params<'a>) -> LocalBoxFuture<'a, Outcome>),
    /// As an entry of a configuration, whose inverse is not needed.
    Change(Change),
}

/// What a change gives, and what takes it back.
pub type Changed = Result<(Value, Undo), RpcError>;

/// A method that configuration files are made of.
pub type Change = for<'a> fn(&'a Desk, Params<'a>) -> LocalBoxFuture<'a, Changed>;

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
        /// Its module.
        module: &'static str,
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
    pub async fn run(self, desk: &Desk) -> Result<(), RpcError> {
        match self {
            Undo::DmAgent(at) => desk.with(|control| control.disable_agent(&at)),
            Undo::Options(before) => desk.set_options(|_| Ok(before)).await.map(drop),
            Undo::RateLimits { name, before } => {
                meters::set_rate_limits(desk, &name, |_| before).await.map(drop)
            }
            Undo::Histogram { name, before } => {
                let set = meters::enable_histogram(desk, &name, before.is_some(), before.flatten());
                set.await.map(drop)
            }
            Undo::Bdev { module, name } => control::bdevs::delete(desk, module, &name).await,
            Undo::Target { name } => desk.delete_target(&name).await,
            Undo::Lun { target, lun } => desk.unmap_lun(&target, lun).await,
            Undo::Listener { target, listener } => desk.remove_listener(&target, &listener).await,
        }
        .map_err(RpcError::from)
    }
}

/// A method by name: how it is run, and what there is to know of it.
#[derive(Clone, Copy)]
struct Method {
    name: &'static str,
    run: Run,
    about: About,
}

const fn locked(name: &'static str, run: fn(&mut Control, Params<'_>) -> Outcome) -> Method {
    Method { name, run: Run::Locked(run), about: About::new(None) }
}

const fn shared(
    name: &'static str,
    run: for<'a> fn(&'a Desk, Params<'a>) -> LocalBoxFuture<'a, Outcome>,
) -> Method {
    Method { name, run: Run::Shared(run), about: About::new(None) }
}

const fn change(name: &'static str, rank: Rank, run: Change) -> Method {
    Method { name, run: Run::Change(run), about: About::new(Some(rank)) }
}

impl Method {
    /// What it does, in a sentence or two; the first begins the client's help.
    const fn doc(mut self, doc: &'static str) -> Method {
        self.about.doc = doc;
        self
    }

    /// What its parameters are read into.
    const fn takes<T: JsonSchema>(mut self) -> Method {
        self.about.takes = Some(schema::schema_of::<T>);
        self
    }

    /// What it answers; `true` if this is left out.
    const fn gives(mut self, gives: Gives) -> Method {
        self.about.gives = gives;
        self
    }

    /// How it fails, other than by wrong parameters.
    const fn fails(mut self, fails: &'static [Fails]) -> Method {
        self.about.fails = fails;
        self
    }

    /// Parameters of a call that does something.
    const fn example(mut self, params: &'static str) -> Method {
        self.about.example = params;
        self
    }
}

/// Of methods that name a bdev.
const NO_BDEV: Fails = fails(Errno::NODEV, "There is no bdev of that name or UUID.");
/// Of methods for one kind of bdev.
const NO_SUCH_BDEV: Fails =
    fails(Errno::NODEV, "There is no bdev of that name or UUID, or it is of another kind.");
/// Of methods that name a target.
const NO_TARGET: Fails = fails(Errno::NODEV, "There is no target of that name.");
/// Of methods that ask every core.
const CORE_SILENT: Fails = fails(Errno::TIMEDOUT, "A core has not answered within 10 s.");
/// Of methods that change an object.
const BUSY: Fails = fails(
    Errno::BUSY,
    "Another operation changes the same object for more than a second, or commands still use it.",
);

/// Methods that belong together.
struct Group {
    /// In the description of its methods.
    name: &'static str,
    methods: &'static [Method],
}

const fn group(name: &'static str, methods: &'static [Method]) -> Group {
    Group { name, methods }
}

/// The groups in the order of `rpc_get_methods`. The methods of one that is missing here are dead
/// code, which the compiler reports.
const GROUPS: &[Group] = &[
    group("Process", &app::METHODS),
    group("Cores and threads", &threads::METHODS),
    group("Configuration", &config::METHODS),
    group("Block devices", &bdevs::METHODS),
    group("Block devices over others", &vbdevs::METHODS),
    group("I/O counts", &iostat::METHODS),
    group("Rate limits and histograms", &limits::METHODS),
    group("Options", &options::METHODS),
    group("Targets and listeners", &targets::METHODS),
    group("Device management agents", &agents::METHODS),
    group("LUNs", &luns::METHODS),
    group("Sessions", &sessions::METHODS),
    group("Statistics", &stats::METHODS),
];

fn methods() -> impl Iterator<Item = &'static Method> {
    GROUPS.iter().flat_map(|group| group.methods)
}

/// Names of all methods, in the order of `rpc_get_methods`.
pub fn names() -> impl Iterator<Item = &'static str> {
    methods().map(|method| method.name)
}

/// A method that a configuration may hold, and when its entries are carried out.
pub(super) fn change_named(name: &str) -> Option<(Change, Rank)> {
    let method = methods().find(|method| method.name == name)?;
    match method.run {
        Run::Change(change) => method.about.rank.map(|rank| (change, rank)),
        Run::Locked(_) | Run::Shared(_) => None,
    }
}

/// The description of every method, or of one.
pub(super) fn described(only: Option<&str>) -> Vec<Value> {
    let all = GROUPS.iter().flat_map(|group| {
        let methods = group.methods.iter();
        let wanted = methods.filter(move |method| only.is_none_or(|name| name == method.name));
        wanted.map(|method| schema::method(group.name, method.name, &method.about))
    });
    all.collect()
}

/// Names of the methods that a configuration may hold.
pub fn changes() -> impl Iterator<Item = &'static str> {
    methods().filter(|method| matches!(method.run, Run::Change(_))).map(|method| method.name)
}

/// Runs a method.
pub async fn call(desk: &Desk, name: &str, params: Params<'_>) -> Outcome {
    let method = methods()
        .find(|method| method.name == name)
        .ok_or_else(|| RpcError::method_not_found(name))?;
    match method.run {
        Run::Locked(run) => desk.with(|control| run(control, params)),
        Run::Shared(run) => run(desk, params).await,
        Run::Change(change) => {
            let (result, _) = change(desk, params).await?;
            desk.announce_change();
            Ok(result)
        }
    }
}
