//! The description of the methods is whole and true.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::furnished::Furnished;
use crate::rpc::methods;

/// A SCSI device to pass through, which no test may rely on, is what these need.
const NEED_A_DEVICE: [&str; 2] = ["bdev_sg_create", "bdev_sg_delete"];

pub(super) fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("{member} of {value}"))
}

pub(super) fn list<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    value[member].as_array().unwrap_or_else(|| panic!("{member} of {value}"))
}

/// The answer to a method's example, on a control plane of its own.
pub(super) fn answer(method: &Value) -> Value {
    let furnished = Furnished::new();
    let params = match &method["example"] {
        Value::Null => String::new(),
        example => furnished.here(&example.to_string()),
    };
    let answer = furnished.bench.ok(text(method, "name"), &params);
    serde_json::from_str(&furnished.elsewhere(&answer.to_string())).expect("JSON")
}

#[test]
fn every_method_says_all_there_is_to_know_of_it() {
    for method in methods::described(None) {
        let name = text(&method, "name");
        let sentence = |doc: &str| {
            let ends = doc.ends_with('.') || doc.ends_with('`');
            assert!(doc.len() > 3 && ends && !doc.contains("  "), "{name}: {doc:?}");
        };
        sentence(text(&method, "description"));
        sentence(text(&method["result"], "description"));
        let params = list(&method, "params");
        for param in params {
            sentence(text(param, "description"));
            assert!(param["type"].is_string() || param["type"].is_array(), "{name}: {param}");
            let number = param["type"] == "integer" && param["const"].is_null();
            let range = param["enum"].is_array()
                || (param["minimum"].is_number() && param["maximum"].is_number());
            assert!(!number || range, "{name}: {param} has no range");
        }
        assert_eq!(params.is_empty(), method["example"].is_null(), "{name}: the example");
        list(&method, "errors").iter().for_each(|error| sentence(text(error, "when")));
    }
}

#[test]
fn rpc_get_schema_shows_all_methods_or_one() {
    let furnished = Furnished::new();
    let all = furnished.bench.ok("rpc_get_schema", "");
    let names: Vec<&str> = list(&all, "methods").iter().map(|m| text(m, "name")).collect();
    assert_eq!(json!(names), furnished.bench.ok("rpc_get_methods", ""));
    let one = furnished.bench.ok("rpc_get_schema", r#"{"method":"srpt_unmap_lun"}"#);
    assert_eq!(
        one["methods"][0]["params"][1],
        json!({"name": "lun", "required": true, "type": "integer", "minimum": 0, "maximum": 16383,
            "description": "LUN."})
    );
    assert_eq!(list(&one, "methods").len(), 1);
    let error = furnished.bench.fail("rpc_get_schema", r#"{"method":"nope"}"#);
    assert_eq!((error.code, error.message.as_str()), (-19, "No such device: method nope"));
}

#[test]
fn what_a_description_of_a_parameter_says_comes_from_its_type() {
    let all = methods::described(Some("bdev_uring_create"));
    let params = list(&all[0], "params");
    let param = |name: &str| params.iter().find(|param| param["name"] == name).expect("a member");
    assert_eq!(param("read_only")["aliases"], json!(["readonly"]));
    assert_eq!(param("read_only")["default"], json!(false));
    assert_eq!(param("direct")["enum"], json!(["auto", "on", "off"]));
    assert_eq!(param("direct")["default"], json!("auto"));
    assert_eq!(param("write_cache")["type"], json!(["string", "boolean"]));
    assert_eq!(param("serial")["maxLength"], json!(36));
    assert_eq!(param("serial")["nullable"], json!(true));
    assert_eq!(param("block_size")["unit"], json!("bytes"));
    assert_eq!(param("block_size")["enum"][1], json!(512));
    let names: Vec<&str> = params.iter().map(|param| text(param, "name")).collect();
    assert_eq!(names[..3], ["name", "block_size", "filename"], "in the order of the struct");
    let iostat = methods::described(Some("bdev_get_iostat"));
    assert_eq!(iostat[0]["params"][3]["enum"], json!(["none", "all", "maxmin"]));
    assert_eq!(iostat[0]["params"][3]["default"], json!("none"));
    assert_eq!(iostat[0]["params"][1]["type"], json!("array"));
}

#[test]
fn every_example_works() {
    for method in methods::described(None) {
        let name = text(&method, "name");
        if NEED_A_DEVICE.contains(&name) || name == "framework_start_init" {
            continue;
        }
        answer(&method);
    }
}

/// Paths of all members of an answer, with the JSON types found there.
fn paths<'a>(at: &str, value: &'a Value, found: &mut BTreeMap<String, Vec<&'a Value>>) {
    match value {
        Value::Array(values) => {
            values.iter().for_each(|value| paths(&format!("{at}[]"), value, found));
        }
        Value::Object(members) => {
            for (name, value) in members {
                let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                found.entry(path.clone()).or_default().push(value);
                paths(&path, value, found);
            }
        }
        _ => {}
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64() || value.is_null(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

#[test]
fn answers_have_the_members_that_are_described_and_no_others() {
    let optional = ["busy", "claim_type", "numa_id", "trsvcid", "add_target", "example", "rank"];
    let only_per_channel = ["name", "channels"];
    for method in methods::described(None) {
        let name = text(&method, "name");
        let result = &method["result"];
        if NEED_A_DEVICE.contains(&name) || name == "framework_start_init" {
            continue;
        }
        let answer = answer(&method);
        assert!(is_a(&answer, text(result, "type")), "{name}: {answer}");
        let Some(members) = result["members"].as_array() else { continue };
        let kinds: BTreeMap<&str, &str> =
            members.iter().map(|member| (text(member, "name"), text(member, "type"))).collect();
        let mut found = BTreeMap::new();
        paths("", &answer, &mut found);
        for (path, values) in &found {
            let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
            let any = format!("{parent}.*");
            let Some(kind) = kinds.get(path.as_str()).or_else(|| kinds.get(any.as_str())) else {
                // What is inside a member without described members is its own affair.
                let within =
                    |parent: &str| kinds.keys().any(|k| k.starts_with(&format!("{parent}.")));
                assert!(!parent.is_empty() && !within(parent), "{name}: {path} is not described");
                continue;
            };
            for value in values {
                assert!(is_a(value, kind), "{name}: {path} is {value}, not of type {kind}");
            }
        }
        for path in kinds.keys().filter(|path| !path.ends_with(".*") && !found.contains_key(**path))
        {
            let last = path.rsplit(['.', ']']).next().unwrap_or(path);
            let may_be_absent = optional.contains(&last)
                || (name == "bdev_get_iostat" && only_per_channel.contains(path));
            assert!(may_be_absent, "{name}: {path} is described and not there");
        }
    }
}

#[test]
fn a_saved_configuration_is_in_the_order_of_ranks() {
    let furnished = Furnished::new();
    let ranks = furnished.bench.ok("rpc_get_schema", "")["ranks"].clone();
    let described = methods::described(None);
    let rank = |entry: &Value| {
        let method = described.iter().find(|method| method["name"] == entry["method"]);
        let rank = &method.expect("a method")["rank"];
        list(&json!({ "ranks": ranks }), "ranks").iter().position(|other| other == rank)
    };
    let saved = &furnished.state()[0];
    let mut seen = BTreeSet::new();
    for subsystem in list(saved, "subsystems") {
        let entries: Vec<_> = list(subsystem, "config").iter().map(rank).collect();
        assert!(entries.is_sorted(), "{subsystem}");
        seen.extend(entries);
    }
    assert_eq!(seen.len(), ranks.as_array().expect("ranks").len(), "there is one of each");
}
