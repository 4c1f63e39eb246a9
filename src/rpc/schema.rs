//! The description of the methods, as data: what `rpc_get_schema` answers.
//!
//! What a method takes is derived from the struct that reads its parameters, so a description
//! can't promise what the reader refuses. What a method answers, how it fails and an example
//! stand in the method's entry. The client's help, the reference and the test of wrong parameters
//! are made from this.

use rustix::io::Errno;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::control::strerror;
use crate::rpc::error::INVALID_PARAMS;

/// When an entry of a configuration is carried out, among the others: what others need comes first,
/// and listeners come after LUNs, so that no initiator logs in to a half-built target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// What holds for all targets.
    Options,
    /// Bdevs; those over others after their bases.
    Bdevs,
    /// Limits and histograms of bdevs.
    BdevSettings,
    /// Targets.
    Targets,
    /// LUNs of targets.
    Luns,
    /// Listeners of targets.
    Listeners,
    /// Device management agents.
    Agents,
}

impl Rank {
    const ALL: [(Rank, &'static str); 7] = [
        (Rank::Options, "options"),
        (Rank::Bdevs, "bdevs"),
        (Rank::BdevSettings, "bdev_settings"),
        (Rank::Targets, "targets"),
        (Rank::Luns, "luns"),
        (Rank::Listeners, "listeners"),
        (Rank::Agents, "agents"),
    ];

    fn name(self) -> &'static str {
        Rank::ALL[self as usize].1
    }
}

/// What a method answers.
#[derive(Clone, Copy)]
pub(super) struct Gives {
    kind: &'static str,
    doc: &'static str,
    members: &'static [Member],
}

/// A member of an answer, at any depth: `cores[].slots.used`. A name that stands for any is `*`.
#[derive(Clone, Copy)]
pub(super) struct Member {
    path: &'static str,
    kind: &'static str,
    doc: &'static str,
}

/// A member of an answer that has members.
pub(super) const fn member(path: &'static str, kind: &'static str, doc: &'static str) -> Member {
    Member { path, kind, doc }
}

/// An answer without members, of a JSON type.
pub(super) const fn gives(kind: &'static str, doc: &'static str) -> Gives {
    Gives { kind, doc, members: &[] }
}

impl Gives {
    /// The same with members.
    pub(super) const fn of(mut self, members: &'static [Member]) -> Gives {
        self.members = members;
        self
    }
}

/// `true`: done.
pub(super) const DONE: Gives = gives("boolean", "`true`: it is done.");

/// A way to fail.
#[derive(Clone, Copy)]
pub(super) struct Fails {
    /// `None`: whatever the system says.
    errno: Option<Errno>,
    when: &'static str,
}

/// A failure with a code of its own.
pub(super) const fn fails(errno: Errno, when: &'static str) -> Fails {
    Fails { errno: Some(errno), when }
}

/// A failure of the system's, whose errno is the code.
pub(super) const fn system_fails(when: &'static str) -> Fails {
    Fails { errno: None, when }
}

/// What an entry says of its method.
#[derive(Clone, Copy)]
pub(super) struct About {
    pub(super) doc: &'static str,
    pub(super) takes: Option<fn() -> Schema>,
    pub(super) gives: Gives,
    pub(super) fails: &'static [Fails],
    /// Parameters of a call, as JSON text; empty for none.
    pub(super) example: &'static str,
    pub(super) rank: Option<Rank>,
}

impl About {
    /// Of a method that takes nothing.
    pub(super) const fn new(rank: Option<Rank>) -> About {
        About { doc: "", takes: None, gives: DONE, fails: &[], example: "", rank }
    }

    /// The parameters in the order of the struct, each an object.
    pub(super) fn parameters(&self) -> Vec<Value> {
        self.takes.map_or_else(Vec::new, |takes| parameters(&takes()))
    }
}

/// The schema of what a struct reads, without references.
pub(super) fn schema_of<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    let generator = settings.with(|settings| settings.inline_subschemas = true).into_generator();
    generator.into_root_schema_for::<T>()
}

/// What `rpc_get_schema` says of one method.
pub(super) fn method(group: &str, name: &str, about: &About) -> Value {
    let mut shown = json!({
        "name": name,
        "group": group,
        "description": about.doc,
        "params": about.parameters(),
        "result": result(&about.gives),
        "errors": errors(about),
    });
    if let Some(rank) = about.rank {
        shown["rank"] = json!(rank.name());
    }
    if !about.example.is_empty() {
        shown["example"] = serde_json::from_str(about.example).unwrap_or(Value::Null);
    }
    shown
}

/// The ranks of a configuration, in order.
pub(super) fn ranks() -> Vec<&'static str> {
    Rank::ALL.into_iter().map(|(_, name)| name).collect()
}

fn result(gives: &Gives) -> Value {
    let mut shown = json!({ "type": gives.kind, "description": gives.doc });
    let members = gives.members.iter();
    let members: Vec<Value> = members
        .map(
            |member| json!({ "name": member.path, "type": member.kind, "description": member.doc }),
        )
        .collect();
    if !members.is_empty() {
        shown["members"] = json!(members);
    }
    shown
}

fn errors(about: &About) -> Vec<Value> {
    let wrong = match about.takes {
        Some(_) => "A parameter is missing, unknown, of a wrong type or out of range.",
        None => "A parameter is given: the method takes none.",
    };
    let own = about.fails.iter().map(|fails| match fails.errno {
        Some(errno) => {
            let code = -errno.raw_os_error();
            json!({ "code": code, "text": strerror(errno), "when": fails.when })
        }
        None => json!({ "code": null, "text": "the system's own error", "when": fails.when }),
    });
    let parameters = json!({ "code": INVALID_PARAMS, "text": "Invalid parameters", "when": wrong });
    std::iter::once(parameters).chain(own).collect()
}

/// Members of a parameter's schema that are shown, in this order, and their names there.
const SHOWN: [(&str, &str); 14] = [
    ("type", "type"),
    ("items", "items"),
    ("default", "default"),
    ("const", "const"),
    ("enum", "enum"),
    ("minimum", "minimum"),
    ("maximum", "maximum"),
    ("minLength", "minLength"),
    ("maxLength", "maxLength"),
    ("pattern", "pattern"),
    ("format", "format"),
    ("x-unit", "unit"),
    ("x-any-case", "any_case"),
    ("x-aliases", "aliases"),
];

fn parameters(schema: &Schema) -> Vec<Value> {
    let root = schema.as_value();
    let required = root["required"].as_array().cloned().unwrap_or_default();
    let properties = root["properties"].as_object().into_iter().flatten();
    properties
        .map(|(name, property)| {
            let mut shown = Map::new();
            shown.insert("name".to_owned(), json!(name));
            shown.insert("required".to_owned(), json!(required.contains(&json!(name))));
            let nullable = takes_null(property);
            for (from, to) in SHOWN {
                let value = property.get(from).cloned();
                match value.and_then(|value| without_null(from, value)) {
                    // An optional constant: the derived schema is the constant or null.
                    Some(Value::Array(mut only)) if from == "enum" && only.len() == 1 => {
                        shown.insert("const".to_owned(), only.remove(0));
                    }
                    Some(value) => drop(shown.insert(to.to_owned(), value)),
                    None => {}
                }
            }
            if nullable {
                shown.insert("nullable".to_owned(), json!(true));
            }
            let doc = property["description"].as_str().unwrap_or_default().replace('\n', " ");
            shown.insert("description".to_owned(), json!(doc));
            Value::Object(shown)
        })
        .collect()
}

fn takes_null(property: &Value) -> bool {
    let types = property["type"].as_array();
    types.is_some_and(|types| types.contains(&json!("null")))
}

/// A value of a schema without the `null` that an optional parameter may be.
fn without_null(keyword: &str, value: Value) -> Option<Value> {
    match (keyword, value) {
        (_, Value::Null) => None,
        ("type", Value::Array(mut types)) => {
            types.retain(|kind| kind != "null");
            Some(if types.len() == 1 { types.remove(0) } else { Value::Array(types) })
        }
        ("enum", Value::Array(mut values)) => {
            values.retain(|value| !value.is_null());
            Some(Value::Array(values))
        }
        (_, value) => Some(value),
    }
}
