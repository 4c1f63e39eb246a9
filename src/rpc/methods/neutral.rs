//! Parameters that SPDK's clients send by default and that mean nothing here: taken with the one
//! value that asks for nothing, refused with any other.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Only 0.
pub(super) type Zero = crate::rpc::params::Bounded<0, 0>;

/// Only `false`.
#[derive(Debug)]
pub(super) struct False;

impl<'de> Deserialize<'de> for False {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match bool::deserialize(deserializer)? {
            false => Ok(False),
            true => Err(D::Error::custom("true is not supported, only false")),
        }
    }
}

impl JsonSchema for False {
    fn schema_name() -> Cow<'static, str> {
        "False".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean", "const": false })
    }
}

/// Bytes of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockSize(pub(super) u32);

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
pub(super) struct BlockSizeOr0(pub(super) u32);

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

impl JsonSchema for BlockSizeOr0 {
    fn schema_name() -> Cow<'static, str> {
        "BlockSizeOr0".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let sizes: Vec<u32> = std::iter::once(0).chain((9..=15).map(|power| 1 << power)).collect();
        json_schema!({ "type": "integer", "enum": sizes, "x-unit": "bytes" })
    }
}
