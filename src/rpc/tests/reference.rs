//! The files that are made from the description of the methods: the reference `docs/rpc.md`, and
//! `scripts/rpc_methods.json`, which the client reads. `SRPT_KEEP=1 cargo test -p srpt_tgt --lib
//! reference` writes them anew.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::furnished::Furnished;
use super::schema::{answer, list, text};
use crate::rpc::methods;

/// Bytes of the longest answer that the reference shows.
const ANSWER_BYTES_MAX: usize = 500;

/// Methods whose answer depends on the machine or the release, and those that fail here.
const NO_ANSWER: [&str; 5] = [
    "bdev_sg_create",
    "bdev_sg_delete",
    "framework_start_init",
    "spdk_get_version",
    "srpt_get_login_info",
];

const BEGIN: &str = "\
# RPC reference

This file is made from the descriptions of the methods, which `rpc_get_schema` shows;
`SRPT_KEEP=1 cargo test -p srpt_tgt --lib reference` writes it anew.

The target answers JSON-RPC 2.0 on a Unix stream socket, `/var/tmp/srpt_tgt.sock` unless
`--rpc-socket` names another. A request is an object with the members `jsonrpc` (\"2.0\"), `method`,
`params` (an object of named parameters, absent for none) and `id`; a request without `id` gets no
answer. An array of up to 1024 requests is answered by an array. A request has at most 16 MiB.

`scripts/rpc.py METHOD --help` shows how to call a method from a shell.

- A call with wrong parameters, or one that does not fit the present state, changes nothing. When a
  core does not answer (-110), a change of size may be done in part; the call can be repeated.
- What takes something away is not refused once it has begun. While a device keeps a command, the
  call is answered after 5 s; what the command uses is busy (-16) until it ends.
- One change at a time and object: the next one waits for a second, and is then refused (-16) with
  what the first one does, and for how long.
- An optional parameter without a default may also be `null`, which counts as absent.
- A method that is given a parameter that it does not know, not given one that it needs, or given
  a value that is not accepted answers the code -32602; the message names the parameter and what is
  accepted. Other failures of methods have a negative errno as code, listed with each method. There
  are also -32700 (not JSON), -32600 (no request) and -32601 (no such method).
- Methods with a rank may stand in a configuration (`save_config`, `load_config`, `--config`). Its
  entries are carried out in the order of their ranks:
";

fn accepts(param: &Value) -> String {
    let quoted = |value: &Value| format!("`{}`", value.to_string().trim_matches('"'));
    let number = |keyword: &str| &param[keyword];
    if let Some(values) = param["enum"].as_array() {
        let values: Vec<String> = values.iter().map(quoted).collect();
        return values.join(", ");
    }
    if param["minimum"].is_number() {
        return format!("{} to {}", number("minimum"), number("maximum"));
    }
    if param["maxLength"].is_number() {
        let what = if param["pattern"].is_null() { "bytes" } else { "characters of ASCII" };
        return format!("1 to {} {what}", number("maxLength"));
    }
    match param["format"].as_str() {
        Some("uuid") => "32 hexadecimal digits, with or without hyphens".to_owned(),
        Some("guid") => "16 hexadecimal digits, with or without colons or 0x, not 0".to_owned(),
        _ => String::new(),
    }
}

fn types(param: &Value) -> String {
    match &param["type"] {
        Value::Array(types) => {
            types.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")
        }
        one => one.as_str().unwrap_or_default().to_owned(),
    }
}

fn parameters(page: &mut String, params: &[Value]) {
    let (only, real): (Vec<&Value>, Vec<&Value>) =
        params.iter().partition(|param| !param["const"].is_null());
    if real.is_empty() {
        page.push_str("\nNo parameters.\n");
    } else {
        page.push_str("\n| Parameter | Type | Accepts | Unit | Default | Meaning |\n");
        page.push_str("|---|---|---|---|---|---|\n");
    }
    for param in real {
        let default = match (&param["required"], &param["default"]) {
            (Value::Bool(true), _) => "required".to_owned(),
            (_, Value::Null) => String::new(),
            (_, value) => format!("`{}`", value.to_string().trim_matches('"')),
        };
        let aliases = param["aliases"].as_array().into_iter().flatten();
        let aliases: String = aliases.map(|alias| format!(" Alias: {alias}.")).collect();
        let row = [
            format!("`{}`", text(param, "name")),
            types(param),
            accepts(param),
            param["unit"].as_str().unwrap_or_default().to_owned(),
            default,
            format!("{}{}", text(param, "description"), aliases.replace('"', "`")),
        ];
        writeln!(page, "| {} |", row.join(" | ")).expect("a string");
    }
    if !only.is_empty() {
        let only: Vec<String> = only
            .iter()
            .map(|param| format!("`{}` {}", text(param, "name"), param["const"]))
            .collect();
        let only = only.join(", ");
        writeln!(page, "\nTaken with this one value, as SPDK's clients send it: {only}.")
            .expect("a string");
    }
}

fn result(page: &mut String, result: &Value) {
    let (kind, doc) = (text(result, "type"), text(result, "description"));
    writeln!(page, "\nResult: {kind}. {doc}").expect("a string");
    let Some(members) = result["members"].as_array() else { return };
    page.push_str("\n| Member | Type | Meaning |\n|---|---|---|\n");
    for member in members {
        let (name, kind) = (text(member, "name"), text(member, "type"));
        let doc = text(member, "description");
        writeln!(page, "| `{name}` | {kind} | {doc} |").expect("a string");
    }
}

fn errors(page: &mut String, errors: &[Value]) {
    let own: Vec<&Value> = errors.iter().filter(|error| error["code"] != -32602).collect();
    if own.is_empty() {
        return;
    }
    page.push_str("\n| Error | Text | When |\n|---|---|---|\n");
    for error in own {
        let code = error["code"].as_i64().map_or("errno".to_owned(), |code| code.to_string());
        let (what, when) = (text(error, "text"), text(error, "when"));
        writeln!(page, "| {code} | {what} | {when} |").expect("a string");
    }
}

/// Numbers that differ from machine to machine.
fn settled(mut value: Value) -> Value {
    match &mut value {
        Value::Array(values) => values.iter_mut().for_each(|value| *value = settled(value.take())),
        Value::Object(members) => {
            for (name, value) in members {
                let differs = ["pid", "tid", "ticks", "sys", "usr", "numa_id"];
                *value = match differs.contains(&name.as_str()) {
                    true => json!(0),
                    false => settled(value.take()),
                };
            }
        }
        _ => {}
    }
    value
}

fn example(page: &mut String, method: &Value) {
    let name = text(method, "name");
    let mut request = json!({ "jsonrpc": "2.0", "id": 1, "method": name });
    if !method["example"].is_null() {
        request["params"] = method["example"].clone();
    }
    writeln!(page, "\n```json\n{request}").expect("a string");
    if !NO_ANSWER.contains(&name) {
        let answer = json!({ "jsonrpc": "2.0", "id": 1, "result": settled(answer(method)) });
        let answer = answer.to_string();
        if answer.len() <= ANSWER_BYTES_MAX {
            writeln!(page, "{answer}").expect("a string");
        }
    }
    page.push_str("```\n");
}

fn reference() -> String {
    let methods = methods::described(None);
    let ranks = Furnished::new().bench.ok("rpc_get_schema", "")["ranks"].clone();
    let ranks: Vec<&str> =
        ranks.as_array().expect("ranks").iter().filter_map(Value::as_str).collect();
    let mut page = format!("{BEGIN}  {}.\n", ranks.join(", "));
    let mut group = "";
    for method in &methods {
        let name = text(method, "name");
        if text(method, "group") != group {
            group = text(method, "group");
            write!(page, "\n**{group}**:").expect("a string");
        }
        write!(page, " [{name}](#{name})").expect("a string");
    }
    page.push('\n');
    for method in &methods {
        if text(method, "group") != group {
            group = text(method, "group");
            writeln!(page, "\n## {group}").expect("a string");
        }
        writeln!(page, "\n### {}\n\n{}", text(method, "name"), text(method, "description"))
            .expect("a string");
        if let Some(rank) = method["rank"].as_str() {
            writeln!(page, "Rank in a configuration: {rank}.").expect("a string");
        }
        parameters(&mut page, list(method, "params"));
        result(&mut page, &method["result"]);
        errors(&mut page, list(method, "errors"));
        example(&mut page, method);
    }
    page
}

/// Compares a file with what it should hold, or writes it when the test is told to.
fn compare(path: &str, wanted: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("SRPT_KEEP").is_some() {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(&file, wanted).expect("a file that can be written");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    let line = differs.unwrap_or_else(|| found.lines().count().min(wanted.lines().count())) + 1;
    assert!(
        found == wanted,
        "{path} differs from the methods at line {line}; this writes it anew:\n\
         SRPT_KEEP=1 cargo test -p srpt_tgt --lib reference"
    );
}

#[test]
fn the_reference_of_the_methods_is_up_to_date() {
    compare("docs/rpc.md", &reference());
}

#[test]
fn the_client_s_table_of_the_methods_is_up_to_date() {
    let schema = Furnished::new().bench.ok("rpc_get_schema", "");
    let mut table = json!({ "version": env!("CARGO_PKG_VERSION") });
    for (name, value) in schema.as_object().expect("an object") {
        table[name] = value.clone();
    }
    let table = serde_json::to_string_pretty(&table).expect("a value");
    compare("scripts/rpc_methods.json", &format!("{table}\n"));
}
