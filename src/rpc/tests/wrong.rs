//! Wrong calls, made from the description of the methods: every parameter of every method missing,
//! of a wrong type, out of range, `null`, or the name of nothing; a parameter too many; a call that
//! comes twice. Each has a code that the description lists, names the parameter and what it
//! accepts, and leaves everything as it was.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::furnished::Furnished;
use crate::rpc::RpcError;
use crate::rpc::methods;

/// A method under test, with parameters that would do.
struct Tried {
    name: String,
    params: Vec<Value>,
    errors: Vec<Value>,
    good: Map<String, Value>,
}

fn tried(furnished: &Furnished) -> Vec<Tried> {
    let described = methods::described(None).into_iter().map(|method| {
        let good = furnished.here(&method["example"].to_string());
        let good: Value = serde_json::from_str(&good).expect("JSON");
        Tried {
            name: method["name"].as_str().expect("a name").to_owned(),
            params: method["params"].as_array().expect("an array").clone(),
            errors: method["errors"].as_array().expect("an array").clone(),
            good: good.as_object().cloned().unwrap_or_default(),
        }
    });
    described.collect()
}

impl Tried {
    fn with(&self, param: &str, value: &str) -> String {
        let others = self.good.iter().filter(|(name, _)| *name != param);
        let others: String = others.map(|(name, value)| format!("{name:?}:{value},")).collect();
        format!("{{{others}{param:?}:{value}}}")
    }

    fn without(&self, param: &str) -> String {
        let mut params = self.good.clone();
        params.shift_remove(param);
        Value::Object(params).to_string()
    }

    /// True when the description lists the code.
    fn lists(&self, error: &RpcError) -> bool {
        let codes = self.errors.iter().map(|listed| &listed["code"]);
        codes.into_iter().any(|code| code.is_null() || *code == json!(error.code))
    }
}

/// Calls that must be refused, one after the other, on a control plane that must not change.
struct Refusals {
    furnished: Furnished,
    before: Vec<Value>,
    count: usize,
}

impl Refusals {
    fn new(furnished: Furnished) -> Refusals {
        let before = furnished.state();
        furnished.bench.actions();
        Refusals { furnished, before, count: 0 }
    }

    /// Makes a call that must fail with `code` and a message that holds all of `words`.
    fn expect(&mut self, method: &Tried, params: &str, code: i32, words: &[&str]) {
        let name = &method.name;
        let error = self.furnished.bench.fail(name, params);
        assert_eq!(error.code, code, "{name} {params}: {error}");
        assert!(method.lists(&error), "{name} {params}: {error} is not described");
        let begins = error.message.starts_with("Invalid parameters: ");
        assert!(begins || code != -32602 || name == "load_config", "{name} {params}: {error}");
        for word in words {
            assert!(error.message.contains(word), "{name} {params}: {word} is not in: {error}");
        }
        assert_eq!(self.furnished.bench.actions(), [""; 0], "{name} {params}");
        assert_eq!(self.furnished.state(), self.before, "{name} {params}");
        self.count += 1;
    }

    fn expect_invalid(&mut self, method: &Tried, param: &Value, value: &str, words: &[&str]) {
        let name = param["name"].as_str().expect("a name");
        // A value that is wrong in itself is named before the method looks at anything.
        let words = [&[name], words].concat();
        self.expect(method, &method.with(name, value), -32602, &words);
    }
}

fn types(param: &Value) -> Vec<&str> {
    match &param["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

/// Values of the JSON types that a parameter does not take.
fn of_wrong_types(param: &Value) -> Vec<&'static str> {
    let types = types(param);
    let values = [
        ("boolean", "true"),
        ("integer", "7"),
        ("number", "1.5"),
        ("string", "\"1\""),
        ("array", "[]"),
        ("object", "{}"),
    ];
    let wrong = values.into_iter().filter(|(kind, _)| !types.contains(kind));
    let mut wrong: Vec<&str> = wrong.map(|(_, value)| value).collect();
    if types.contains(&"array") {
        wrong.push(if param["items"]["type"] == "string" { "[7]" } else { "[[]]" });
    }
    wrong
}

/// Values of the right type that a parameter does not take, with what the message must hold.
fn out_of_range(param: &Value) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let integer = |keyword: &str| param[keyword].to_string().parse::<i128>().ok();
    if let (Some(min), Some(max)) = (integer("minimum"), integer("maximum")) {
        let range = format!("{min}..={max}");
        wrong.push(((min - 1).to_string(), range.clone()));
        wrong.push(((max + 1).to_string(), range));
    }
    match &param["const"] {
        Value::Bool(only) => wrong.push(((!only).to_string(), only.to_string())),
        Value::Number(only) => {
            wrong.push(("9".to_owned(), format!("{only}..={only}")));
            wrong.push(("-1".to_owned(), format!("{only}..={only}")));
        }
        _ => {}
    }
    if let Some(values) = param["enum"].as_array() {
        if values.iter().all(Value::is_number) {
            wrong.push(("513".to_owned(), "512..=32768".to_owned()));
            wrong.push(("-1".to_owned(), "512..=32768".to_owned()));
            wrong.push(("65536".to_owned(), "512..=32768".to_owned()));
        }
        for value in values.iter().filter_map(Value::as_str) {
            wrong.push(("\"no such value\"".to_owned(), value.to_owned()));
        }
    }
    if let Some(max) = integer("maxLength") {
        let long = "x".repeat(usize::try_from(max + 1).expect("a length"));
        wrong.push(("\"\"".to_owned(), format!("1 to {max}")));
        wrong.push((format!("{long:?}"), format!("1 to {max}")));
    }
    if param["pattern"].is_string() {
        for text in ["a\\u0007b", " a", "\\u00e4"] {
            wrong.push((format!("\"{text}\""), "printable ASCII without outer spaces".to_owned()));
        }
    }
    match param["format"].as_str() {
        Some("uuid") => wrong.push(("\"x\"".to_owned(), "32 hexadecimal digits".to_owned())),
        Some("guid") => wrong.push(("\"x\"".to_owned(), "16 hexadecimal digits".to_owned())),
        Some("uint64" | "int64") | None => {}
        Some(other) => panic!("no wrong value is known for format {other}"),
    }
    wrong
}

/// A value for a parameter that names something which is not there.
fn of_nothing(param: &Value) -> Option<&'static str> {
    let doc = param["description"].as_str().expect("a description");
    let names = ["Name or UUID of", "Name of the target", "RDMA device"];
    let shown = doc.contains("of this name") || doc.contains("of this target");
    if names.iter().any(|begin| doc.starts_with(begin)) || shown {
        return Some("\"nope\"");
    }
    doc.starts_with("Number of the session").then_some("4711")
}

#[test]
fn a_parameter_that_is_missing_is_named_and_nothing_changes() {
    let mut refusals = Refusals::new(Furnished::new());
    for method in tried(&refusals.furnished) {
        for param in method.params.iter().filter(|param| param["required"] == true) {
            let name = param["name"].as_str().expect("a name");
            let named = format!("missing field `{name}`");
            refusals.expect(&method, &method.without(name), -32602, &[&named]);
        }
    }
    assert!(refusals.count > 40, "{}", refusals.count);
}

#[test]
fn a_parameter_too_many_is_named_with_those_there_are_and_nothing_changes() {
    let mut refusals = Refusals::new(Furnished::new());
    for method in tried(&refusals.furnished) {
        let params = method.with("no_such_parameter", "1");
        refusals.expect(&method, &params, -32602, &["no_such_parameter"]);
        let message = refusals.furnished.bench.fail(&method.name, &params).message;
        let listed = message.split_once(", expected").map_or("", |(_, listed)| listed);
        let listed: BTreeSet<&str> = listed.split('`').skip(1).step_by(2).collect();
        let aliases = method.params.iter().filter_map(|param| param["aliases"].as_array());
        let described = method.params.iter().map(|param| &param["name"]);
        let described = described.chain(aliases.flatten()).filter_map(Value::as_str).collect();
        assert_eq!(listed, described, "{}: {message}", method.name);
    }
}

#[test]
fn a_parameter_of_a_wrong_type_is_named_and_nothing_changes() {
    let mut refusals = Refusals::new(Furnished::new());
    for method in tried(&refusals.furnished) {
        for param in &method.params {
            for value in of_wrong_types(param) {
                refusals.expect_invalid(&method, param, value, &[]);
            }
            if param["nullable"] != true {
                refusals.expect_invalid(&method, param, "null", &[]);
            }
        }
        refusals.expect(&method, "[]", -32602, &["object"]);
    }
    assert!(refusals.count > 500, "{}", refusals.count);
}

#[test]
fn a_value_out_of_range_is_refused_with_what_is_accepted_and_nothing_changes() {
    let mut refusals = Refusals::new(Furnished::new());
    for method in tried(&refusals.furnished) {
        for param in &method.params {
            for (value, accepted) in out_of_range(param) {
                refusals.expect_invalid(&method, param, &value, &[&accepted]);
            }
        }
    }
    assert!(refusals.count > 200, "{}", refusals.count);
}

#[test]
fn a_name_of_nothing_is_told_and_nothing_changes() {
    let mut refusals = Refusals::new(Furnished::new());
    for method in tried(&refusals.furnished) {
        for param in &method.params {
            let Some(value) = of_nothing(param) else { continue };
            let name = param["name"].as_str().expect("a name");
            let value = if name == "device" { "\"none\"" } else { value };
            let names = name == "names";
            let params =
                method.with(name, &if names { format!("[{value}]") } else { value.into() });
            let params = if names { r#"{"names":["nope"]}"#.to_owned() } else { params };
            refusals.expect(&method, &params, -19, &[value.trim_matches('"')]);
        }
    }
    assert!(refusals.count > 25, "{}", refusals.count);
}

#[test]
fn a_call_that_comes_twice_does_it_once_or_fails_as_described() {
    let mut refused = 0;
    for method in tried(&Furnished::new()) {
        let furnished = Furnished::new();
        let method = tried(&furnished).into_iter().find(|other| other.name == method.name);
        let method = method.expect("the method is there");
        let params = Value::Object(method.good.clone()).to_string();
        if furnished.bench.call(&method.name, &params).is_err() {
            continue;
        }
        let state = furnished.state();
        furnished.bench.actions();
        if let Err(error) = furnished.bench.call(&method.name, &params) {
            assert!(method.lists(&error), "{}: {error} is not described", method.name);
            assert_eq!(furnished.state(), state, "{}", method.name);
            assert_eq!(furnished.bench.actions(), [""; 0], "{}", method.name);
            refused += 1;
        }
    }
    assert!(refused > 15, "{refused}: what creates or deletes can't be done twice");
}

#[test]
fn null_is_the_same_as_absent_where_it_is_taken() {
    let outcome = |name: &str, params: &str| {
        let furnished = Furnished::new();
        let outcome = furnished.bench.call(name, &furnished.here(params));
        (
            outcome.map(|_| ()),
            furnished.state()[0].to_string().replace(&furnished.here("/srv/"), ""),
        )
    };
    for method in tried(&Furnished::new()) {
        for param in method.params.iter().filter(|param| param["nullable"] == true) {
            let name = param["name"].as_str().expect("a name");
            let needs_device = method.name.starts_with("bdev_sg") || method.name.contains("uring");
            if param["const"].is_null() && !needs_device {
                let absent = outcome(&method.name, &method.without(name));
                assert_eq!(outcome(&method.name, &method.with(name, "null")), absent, "{name}");
            }
        }
    }
}
