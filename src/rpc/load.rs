//! Loading a configuration: all of it or nothing.
//!
//! A configuration is the document that `save_config` gives. Its entries are brought into the
//! order options, bdevs, bdevs over them, their limits, targets, LUNs, listeners, whatever their
//! order in the document; when one fails, those before it are taken back, last first. Other
//! operations go on meanwhile, and see the part that is there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::change::Change;
use super::error::{INVALID_PARAMS, RpcError};
use super::schema::Rank;
use crate::control::{self, Desk};

/// Bytes of the largest configuration file.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Parts of a configuration, in the order of their dependence.
pub(super) const SUBSYSTEMS: [&str; 2] = ["bdev", "srpt"];

/// The methods that a configuration may hold.
#[derive(Clone, Copy)]
pub(super) struct Known {
    /// The method of a name, and when its entries are carried out.
    pub(super) find: fn(&str) -> Option<(Change, Rank)>,
    /// Names of all.
    pub(super) names: fn() -> Vec<&'static str>,
}

/// Where an entry comes among the others. Bdevs come by their height over a bdev that needs no
/// other.
fn order(step: &Step<'_>, heights: &Heights) -> (Rank, usize) {
    match step.rank {
        Rank::Bdevs => (Rank::Bdevs, heights.of(step)),
        rank => (rank, 0),
    }
}

/// Names of a bdev over another one and of its base.
#[derive(Deserialize)]
struct Stacked {
    #[serde(default)]
    name: Option<String>,
    #[serde(alias = "base_bdev_name")]
    base_name: String,
}

impl Stacked {
    /// Of an entry that makes such a bdev. Wrong parameters are for the method to refuse.
    fn of(step: &Step<'_>) -> Option<Stacked> {
        let mut stacked: Stacked = serde_json::from_str(step.params?.get()).ok()?;
        if step.method == "bdev_error_create" {
            stacked.name = Some(format!("EE_{}", stacked.base_name));
        }
        Some(stacked)
    }
}

/// The base of each bdev over another one that a configuration makes.
struct Heights(BTreeMap<String, String>);

impl Heights {
    fn new(steps: &[Step<'_>]) -> Heights {
        let stacked = steps.iter().filter_map(Stacked::of);
        Heights(stacked.filter_map(|bdev| Some((bdev.name?, bdev.base_name))).collect())
    }

    /// Bdevs of the configuration below the one that an entry makes. Those that go round in a
    /// circle have no order; the first of them fails for want of its base.
    fn of(&self, step: &Step<'_>) -> usize {
        let base = Stacked::of(step).map(|bdev| bdev.base_name);
        let below = std::iter::successors(base.as_ref(), |name| self.0.get(*name));
        below.take(self.0.len() + 1).count()
    }
}

/// Why a configuration was not loaded. Nothing of it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// Line in the document, from 1; `None` when no line is to blame.
    pub line: Option<usize>,
    /// Where and why, for the operator, without the line.
    pub why: String,
    /// Code of the entry's own error.
    pub code: i32,
}

impl LoadError {
    fn at(line: usize, why: String) -> Self {
        LoadError { line: Some(line), why, code: INVALID_PARAMS }
    }

    /// As the answer to `load_config`, where lines mean nothing: the client chose them.
    pub fn into_rpc_error(self) -> RpcError {
        RpcError { code: self.code, message: format!("Configuration not loaded: {}", self.why) }
    }
}

/// A configuration file that could not be loaded, with the place in the file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FileError(String);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Document<'a> {
    /// Parts of the configuration, each an object of `subsystem`, its name (`bdev` or `srpt`), and
    /// `config`, an array of entries: objects of `method` and `params`. Only methods that have a
    /// rank may stand here.
    #[serde(borrow)]
    #[schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>")]
    subsystems: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subsystem<'a> {
    subsystem: String,
    #[serde(default, borrow)]
    config: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    method: String,
    #[serde(default, borrow)]
    params: Option<&'a RawValue>,
}

/// An entry that is known to be well formed.
struct Step<'a> {
    change: Change,
    rank: Rank,
    method: String,
    params: Option<&'a RawValue>,
    raw: &'a RawValue,
    place: String,
}

/// Loads a file into the control plane. The error names file, line, entry and method.
pub(super) async fn load_file(desk: &Desk, known: Known, path: &Path) -> Result<(), FileError> {
    let shown = path.display();
    let failed = |why: String| FileError(format!("{shown}: {why}"));
    let own = path.to_owned();
    let read = control::look(desk, format!("file {shown}"), "being read", move || read_file(&own));
    let text = read.await.map_err(|refused| FileError(refused.to_string()))?.map_err(failed)?;
    load(desk, known, &text).await.map_err(|error| match error.line {
        Some(line) => FileError(format!("{shown}:{line}: {}", error.why)),
        None => failed(error.why),
    })
}

/// The text of a file that may be a pipe.
fn read_file(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    match read.map_err(|error| error.to_string())? as u64 {
        0..=FILE_BYTES_MAX => Ok(text),
        _ => Err(format!("it has more than {FILE_BYTES_MAX} bytes")),
    }
}

/// Loads a document into the control plane.
pub(super) async fn load(desk: &Desk, known: Known, text: &str) -> Result<(), LoadError> {
    let mut steps = steps(known, text)?;
    let heights = Heights::new(&steps);
    steps.sort_by_cached_key(|step| order(step, &heights));
    let mut done = Vec::new();
    for step in steps {
        // A long configuration holds up nobody.
        desk.give_way().await;
        match (step.change)(desk, step.params).await {
            Ok((_, undo)) => done.push(undo),
            Err(error) => {
                for undo in done.into_iter().rev() {
                    if let Err(error) = undo.clone().run(desk).await {
                        tracing::error!("while taking a configuration back: {undo:?}: {error}");
                    }
                }
                let why = format!("{} ({}): {error}", step.place, step.method);
                let line = Some(line_of(text, step.raw));
                return Err(LoadError { line, why, code: error.code });
            }
        }
    }
    Ok(())
}

fn steps(known: Known, text: &str) -> Result<Vec<Step<'_>>, LoadError> {
    let document: Document<'_> = read(text).map_err(|error| {
        let why = without_place(&error);
        LoadError::at(error.inner().line(), format!("column {}: {why}", error.inner().column()))
    })?;
    let mut steps = Vec::new();
    for (number, raw) in document.subsystems.into_iter().enumerate() {
        let within = |error: Misread| {
            let why = format!("subsystems[{number}]: {}", without_place(&error));
            LoadError::at(line_of(text, raw) + error.inner().line().saturating_sub(1), why)
        };
        let subsystem: Subsystem<'_> = read(raw.get()).map_err(within)?;
        let name = subsystem.subsystem;
        let entries = subsystem.config.unwrap_or_default();
        if !entries.is_empty() && !SUBSYSTEMS.contains(&name.as_str()) {
            return Err(LoadError::at(
                line_of(text, raw),
                format!("subsystem {name:?} is not one of {}", SUBSYSTEMS.join(", ")),
            ));
        }
        for (index, raw) in entries.into_iter().enumerate() {
            steps.push(step(known, text, (&name, index), raw)?);
        }
    }
    Ok(steps)
}

fn step<'a>(
    known: Known,
    text: &'a str,
    (subsystem, index): (&str, usize),
    raw: &'a RawValue,
) -> Result<Step<'a>, LoadError> {
    let place = format!("entry {index} of subsystem {subsystem}");
    // Counting lines takes as long as the document is: only for those that are told.
    let line = || line_of(text, raw);
    let entry: Entry<'a> = read(raw.get()).map_err(|error| {
        let why = without_place(&error);
        LoadError::at(line() + error.inner().line().saturating_sub(1), format!("{place}: {why}"))
    })?;
    let method = entry.method;
    let own = if subsystem == "bdev" { "bdev_" } else { "srpt_" };
    match (known.find)(&method).filter(|_| method.starts_with(own)) {
        Some((change, rank)) => Ok(Step { change, rank, method, params: entry.params, raw, place }),
        None => {
            let mut names = (known.names)();
            names.retain(|name| name.starts_with(own));
            let known = names.join(", ");
            Err(LoadError::at(line(), format!("{place}: method {method:?} is not one of {known}")))
        }
    }
}

/// Why something was not read, with the path of the member.
type Misread = serde_path_to_error::Error<serde_json::Error>;

/// Reads an object. Without the check, an array of the members' values would do.
fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Misread> {
    let alone = |error| {
        let track = serde_path_to_error::Track::new();
        serde_path_to_error::Error::new(track.path(), error)
    };
    if text.trim_start().starts_with('[') {
        let why = "invalid type: array, expected an object";
        return Err(alone(serde::de::Error::custom(why)));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(&mut json)?;
    json.end().map_err(alone)?;
    Ok(read)
}

fn without_place(error: &Misread) -> String {
    let text = error.inner().to_string();
    let text = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
    let path = error.path().to_string();
    // An unknown or missing member is named already.
    let named = path == "." || text.contains(" field `");
    if named || !error.inner().is_data() { text.to_owned() } else { format!("{path}: {text}") }
}

/// The line, from 1, at which a piece of `text` begins.
fn line_of(text: &str, piece: &RawValue) -> usize {
    let offset = (piece.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
