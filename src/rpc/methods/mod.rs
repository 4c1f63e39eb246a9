//! The methods, one file per group. Adding one: a struct of parameters and a function in the file
//! of its group, and an entry in that file's `METHODS`, which describes the method.

use futures_util::future::LocalBoxFuture;
use rustix::io::Errno;
use schemars::JsonSchema;
use serde_json::Value;

use super::change::Change;
use super::error::RpcError;
use super::load::Known;
use super::params::Params;
use super::schema::{self, About, Fails, Gives, Rank, fails};
use crate::control::{Control, Desk};

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

pub use config::{load, load_file, saved};

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

/// The description of every method, or of one.
pub(super) fn described(only: Option<&str>) -> Vec<Value> {
    let all = GROUPS.iter().flat_map(|group| {
        let methods = group.methods.iter();
        let wanted = methods.filter(move |method| only.is_none_or(|name| name == method.name));
        wanted.map(|method| schema::method(group.name, method.name, &method.about))
    });
    all.collect()
}

/// The methods that a configuration may hold.
const CHANGES: Known = Known { find: change_named, names: changes };

/// A method that a configuration may hold, and when its entries are carried out.
fn change_named(name: &str) -> Option<(Change, Rank)> {
    let method = methods().find(|method| method.name == name)?;
    match method.run {
        Run::Change(change) => method.about.rank.map(|rank| (change, rank)),
        Run::Locked(_) | Run::Shared(_) => None,
    }
}

/// Names of the methods that a configuration may hold.
pub(super) fn changes() -> Vec<&'static str> {
    let changes = methods().filter(|method| matches!(method.run, Run::Change(_)));
    changes.map(|method| method.name).collect()
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
