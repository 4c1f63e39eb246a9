//! Parameters that SPDK's clients send by default and that mean nothing here: taken with the one
//! value that asks for nothing, refused with any other.

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

/// Bytes of a block, or 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockSizeOr0(pub(super) u32);

impl<'de> Deserialize<'de> for BlockSizeOr0 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match i64::deserialize(deserializer)? {
            0 => Ok(BlockSizeOr0(0)),
            size => match u32::try_from(size) {
                Ok(size) if size.is_power_of_two() && (512..=32768).contains(&size) => {
                    Ok(BlockSizeOr0(size))
                }
                _ => Err(D::Error::custom(format_args!(
                    "{size} is neither 0 nor a power of two in 512..=32768"
                ))),
            },
        }
    }
}
