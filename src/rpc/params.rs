//! Parameters: JSON to values that can't be wrong.
//!
//! Each method has a struct of typed fields; everything a field's type can check is checked while
//! it is read, so an error names the parameter and what it accepts, and a method never sees a
//! value out of range.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use bdev::values::string;
pub use bdev::values::{BdevName, Bounded, Text};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, Visitor,
};
use serde_json::value::RawValue;

use super::error::RpcError;

/// The `params` member as it came.
pub type Params<'a> = Option<&'a RawValue>;

/// Reads the parameters of a method. Absent, `null` and `{}` are the same.
pub fn parse<T: DeserializeOwned>(params: Params<'_>) -> Result<T, RpcError> {
    let text = params.map_or("{}", RawValue::get);
    if !text.starts_with('{') {
        return Err(RpcError::invalid_params("params must be an object of named parameters"));
    }
    serde_json::from_str::<UniqueMembers>(text).map_err(|error| describe("", &error))?;
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        describe(&path, error.inner())
    })
}

fn describe(path: &str, error: &serde_json::Error) -> RpcError {
    let text = error.to_string();
    // The position is that inside the member, which tells an operator nothing.
    let text = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
    // For an unknown or missing member the path is the object or the member already named.
    if path.is_empty() || path == "." || text.contains(" field `") {
        RpcError::invalid_params(text)
    } else {
        RpcError::invalid_params(format_args!("{path}: {text}"))
    }
}

/// Refuses parameters for a method that takes none. `null` and `{}` count as none.
pub fn none(method: &str, params: Params<'_>) -> Result<(), RpcError> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    parse(params).map(|Nothing {}| ()).map_err(|error| {
        let why = error.message.split_once(": ").map_or("", |(_, why)| why);
        RpcError::invalid_params(format_args!("{method} method requires no parameters: {why}"))
    })
}

/// An object none of whose members is there twice.
struct UniqueMembers;

impl<'de> Deserialize<'de> for UniqueMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = UniqueMembers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMembers, A::Error> {
                let mut seen = BTreeSet::new();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    map.next_value::<IgnoredAny>()?;
                    if let Some(twice) = seen.replace(key) {
                        return Err(A::Error::custom(format_args!("duplicate field `{twice}`")));
                    }
                }
                Ok(UniqueMembers)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Name of a target.
pub type TargetName = Text<223>;

/// A 64-bit identifier: 16 hexadecimal digits, also with `0x` or colons (EUI-64, GUID form). Never
/// zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guid(pub u64);

impl<'de> Deserialize<'de> for Guid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepts = "16 hexadecimal digits (0x and colons allowed) other than zero";
        string(deserializer, accepts, |text| parse_guid(text).map(Guid))
    }
}

impl JsonSchema for Guid {
    fn schema_name() -> Cow<'static, str> {
        "Guid".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "guid" })
    }
}

/// The value of a GUID in any of its forms; `None` when it is malformed or zero.
pub fn parse_guid(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let digits: Cow<'_, str> = if digits.contains(':') {
        let groups: Vec<&str> = digits.split(':').collect();
        let even = groups.iter().all(|group| group.len() * groups.len() == 16);
        if !even {
            return None;
        }
        Cow::Owned(groups.concat())
    } else {
        Cow::Borrowed(digits)
    };
    if digits.len() != 16 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(&digits, 16).ok().filter(|guid| *guid != 0)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Example {
        name: Text<8>,
        #[serde(default)]
        lun: Option<Bounded<0, 16383>>,
        #[serde(default)]
        guid: Option<Guid>,
    }

    fn error(text: &str) -> String {
        let raw = RawValue::from_string(text.to_owned()).expect("JSON");
        parse::<Example>(Some(&raw)).expect_err("wrong").message
    }

    #[test]
    fn errors_name_the_parameter_and_what_it_accepts() {
        assert_eq!(
            error(r#"{"name":"a","lun":16384}"#),
            "Invalid parameters: lun: 16384 is not in 0..=16383"
        );
        assert!(error(r#"{"name":"a","lun":-1}"#).ends_with("lun: -1 is not in 0..=16383"));
        assert!(error(r#"{"name":"a","lun":1.5}"#).contains("lun: invalid type: floating point"));
        assert!(error(r#"{"name":"a","lun":"1"}"#).contains("expected an integer of 0..=16383"));
        assert!(error(r#"{"name":""}"#).contains("name: \"\" is not 1 to 8 characters"));
        assert!(error(r#"{"name":"ä"}"#).contains("printable ASCII"));
        assert!(error(r#"{"name":5}"#).contains("name: invalid type: integer `5`"));
        assert_eq!(error("{}"), "Invalid parameters: missing field `name`");
        assert!(
            error(r#"{"name":"a","x":1}"#).contains("unknown field `x`, expected one of `name`")
        );
        assert!(error(r#"{"name":"a","name":"b"}"#).ends_with("duplicate field `name`"));
        assert!(error("[]").contains("named parameters"));
    }

    #[test]
    fn guids_have_four_forms() {
        for text in [
            "0002c90300a1b2c3",
            "0x0002c90300a1b2c3",
            "00:02:c9:03:00:a1:b2:c3",
            "0002:c903:00a1:b2c3",
            "0002C90300A1B2C3",
        ] {
            assert_eq!(parse_guid(text), Some(0x0002_c903_00a1_b2c3), "{text}");
        }
        for text in ["", "0", "0000000000000000", "2c90300a1b2c3", "+002c90300a1b2c3", "0:1", "g"] {
            assert_eq!(parse_guid(text), None, "{text}");
        }
    }
}
