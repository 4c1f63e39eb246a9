//! Values of parameters that can't be wrong: whatever a type can check is checked while a value is
//! read, so the error says what is accepted, and the schema says it, too.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// An integer of `MIN..=MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounded<const MIN: u64, const MAX: u64>(pub u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Integer<const MIN: u64, const MAX: u64>;
        impl<const MIN: u64, const MAX: u64> Visitor<'_> for Integer<MIN, MAX> {
            type Value = Bounded<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an integer of {MIN}..={MAX}")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                if (MIN..=MAX).contains(&value) {
                    return Ok(Bounded(value));
                }
                Err(E::custom(format_args!("{value} is not in {MIN}..={MAX}")))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    Err(_) => Err(E::custom(format_args!("{value} is not in {MIN}..={MAX}"))),
                }
            }
        }
        deserializer.deserialize_u64(Integer)
    }
}

impl<const MIN: u64, const MAX: u64> From<Bounded<MIN, MAX>> for u64 {
    fn from(value: Bounded<MIN, MAX>) -> u64 {
        value.0
    }
}

/// Does not compile unless `MAX` fits.
impl<const MIN: u64, const MAX: u64> From<Bounded<MIN, MAX>> for u32 {
    fn from(value: Bounded<MIN, MAX>) -> u32 {
        const { assert!(MAX <= u32::MAX as u64) };
        value.0 as u32
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Bounded<MIN, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Integer{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        match MIN == MAX {
            true => json_schema!({ "type": "integer", "const": MIN }),
            false => json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX }),
        }
    }
}

/// An integer of `MIN..=MAX`, which may be below zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed<const MIN: i64, const MAX: i64>(pub i64);

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Signed<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Integer<const MIN: i64, const MAX: i64>;
        impl<const MIN: i64, const MAX: i64> Visitor<'_> for Integer<MIN, MAX> {
            type Value = Signed<MIN, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an integer of {MIN}..={MAX}")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                if (MIN..=MAX).contains(&value) {
                    return Ok(Signed(value));
                }
                Err(E::custom(format_args!("{value} is not in {MIN}..={MAX}")))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                match i64::try_from(value) {
                    Ok(value) => self.visit_i64(value),
                    Err(_) => Err(E::custom(format_args!("{value} is not in {MIN}..={MAX}"))),
                }
            }
        }
        deserializer.deserialize_i64(Integer)
    }
}

/// Does not compile unless all of `MIN..=MAX` fits.
impl<const MIN: i64, const MAX: i64> From<Signed<MIN, MAX>> for i32 {
    fn from(value: Signed<MIN, MAX>) -> i32 {
        const { assert!(MIN >= i32::MIN as i64 && MAX <= i32::MAX as i64) };
        value.0 as i32
    }
}

impl<const MIN: i64, const MAX: i64> JsonSchema for Signed<MIN, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Integer{MIN}To{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// Reads a string with `read`; `accepts` says what that takes, in words that follow "is not".
pub fn string<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    accepts: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    struct Words<'a, R>(&'a str, R);
    impl<T, R: FnOnce(&str) -> Option<T>> Visitor<'_> for Words<'_, R> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a string: {}", self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).ok_or_else(|| {
                let shown: String = text.chars().take(40).collect();
                E::custom(format_args!("{shown:?} is not {}", self.0))
            })
        }
    }
    deserializer.deserialize_str(Words(accepts, read))
}

/// Printable ASCII without leading or trailing space, 1 to `MAX` bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<const MAX: usize>(pub String);

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepts = format!("1 to {MAX} characters of printable ASCII without outer spaces");
        string(deserializer, &accepts, |text| {
            let printable = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
            let fits = (1..=MAX).contains(&text.len()) && printable && text.trim() == text;
            fits.then(|| Text(text.to_owned()))
        })
    }
}

impl<const MAX: usize> From<Text<MAX>> for String {
    fn from(text: Text<MAX>) -> String {
        text.0
    }
}

impl<const MAX: usize> From<Text<MAX>> for Option<String> {
    fn from(text: Text<MAX>) -> Option<String> {
        Some(text.0)
    }
}

impl<const MAX: usize> JsonSchema for Text<MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Text{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": MAX,
            "pattern": "^[!-~]([ -~]*[!-~])?$",
        })
    }
}

/// Bytes of the longest path (`PATH_MAX` less the byte that ends it).
const PATH_BYTES_MAX: usize = 4095;

/// A path: 1 to 4095 bytes without a NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathText(pub String);

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepts = format!("a path of 1 to {PATH_BYTES_MAX} bytes without NUL");
        string(deserializer, &accepts, |text| {
            let fits = (1..=PATH_BYTES_MAX).contains(&text.len()) && !text.contains('\0');
            fits.then(|| PathText(text.to_owned()))
        })
    }
}

/// Absolute: a relative path would mean something else for a process that was started elsewhere.
impl From<PathText> for String {
    fn from(value: PathText) -> String {
        let absolute = std::path::absolute(&value.0).ok();
        absolute.and_then(|path| path.into_os_string().into_string().ok()).unwrap_or(value.0)
    }
}

impl JsonSchema for PathText {
    fn schema_name() -> Cow<'static, str> {
        "Path".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": PATH_BYTES_MAX })
    }
}

/// Blocks of a device: at most 2^63 bytes in the smallest blocks.
pub type Blocks = Bounded<1, { 1 << 54 }>;

/// Name of a bdev.
pub type BdevName = Text<255>;

/// A UUID (RFC 9562).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UuidText(pub Uuid);

impl<'de> Deserialize<'de> for UuidText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let accepts = "a UUID of 32 hexadecimal digits, with or without hyphens";
        string(deserializer, accepts, |text| Uuid::parse_str(text).ok().map(UuidText))
    }
}

impl From<UuidText> for Uuid {
    fn from(value: UuidText) -> Uuid {
        value.0
    }
}

impl JsonSchema for UuidText {
    fn schema_name() -> Cow<'static, str> {
        "Uuid".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "uuid" })
    }
}

/// A number that SPDK's clients send by default and that means nothing here: 0, which asks for
/// nothing, or absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Zero;

impl<'de> Deserialize<'de> for Zero {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<Bounded<0, 0>>::deserialize(deserializer).map(|_| Zero)
    }
}

impl Serialize for Zero {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(0)
    }
}

impl JsonSchema for Zero {
    fn schema_name() -> Cow<'static, str> {
        "Zero".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "null"], "const": 0 })
    }
}

/// The same of a switch: `false`, or absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct False;

impl<'de> Deserialize<'de> for False {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<bool>::deserialize(deserializer)? {
            None | Some(false) => Ok(False),
            Some(true) => Err(D::Error::custom("true is not supported, only false")),
        }
    }
}

impl Serialize for False {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(false)
    }
}

impl JsonSchema for False {
    fn schema_name() -> Cow<'static, str> {
        "False".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["boolean", "null"], "const": false })
    }
}

/// Bytes of a block.
#[derive(Debug, Clone, Copy)]
pub struct BlockSize(pub u32);

impl<'de> Deserialize<'de> for BlockSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Power;
        impl Visitor<'_> for Power {
            type Value = BlockSize;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a power of two in 512..=32768")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<BlockSize, E> {
                match u32::try_from(value) {
                    Ok(size) if size.is_power_of_two() && (512..=32768).contains(&size) => {
                        Ok(BlockSize(size))
                    }
                    _ => {
                        Err(E::custom(format_args!("{value} is not a power of two in 512..=32768")))
                    }
                }
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<BlockSize, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    Err(_) => {
                        Err(E::custom(format_args!("{value} is not a power of two in 512..=32768")))
                    }
                }
            }
        }
        deserializer.deserialize_u64(Power)
    }
}

impl From<BlockSize> for u32 {
    fn from(value: BlockSize) -> u32 {
        value.0
    }
}

impl JsonSchema for BlockSize {
    fn schema_name() -> Cow<'static, str> {
        "BlockSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let sizes: Vec<u32> = (9..=15).map(|power| 1 << power).collect();
        json_schema!({ "type": "integer", "enum": sizes, "x-unit": "bytes" })
    }
}

/// Bytes of a block, or 0.
#[derive(Debug, Clone, Copy)]
pub struct BlockSizeOr0(pub u32);

impl<'de> Deserialize<'de> for BlockSizeOr0 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PowerOr0;
        impl Visitor<'_> for PowerOr0 {
            type Value = BlockSizeOr0;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("0 or a power of two in 512..=32768")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<BlockSizeOr0, E> {
                match u32::try_from(value) {
                    Ok(0) => Ok(BlockSizeOr0(0)),
                    Ok(size) if size.is_power_of_two() && (512..=32768).contains(&size) => {
                        Ok(BlockSizeOr0(size))
                    }
                    _ => Err(E::custom(format_args!(
                        "{value} is neither 0 nor a power of two in 512..=32768"
                    ))),
                }
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<BlockSizeOr0, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    Err(_) => Err(E::custom(format_args!(
                        "{value} is neither 0 nor a power of two in 512..=32768"
                    ))),
                }
            }
        }
        deserializer.deserialize_u64(PowerOr0)
    }
}

impl From<BlockSizeOr0> for u32 {
    fn from(value: BlockSizeOr0) -> u32 {
        value.0
    }
}

impl JsonSchema for BlockSizeOr0 {
    fn schema_name() -> Cow<'static, str> {
        "BlockSizeOr0".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let sizes: Vec<u32> = std::iter::once(0).chain((9..=15).map(|power| 1 << power)).collect();
        json_schema!({ "type": "integer", "enum": sizes, "x-unit": "bytes" })
    }
}
