//! What a device is made of: one struct for each kind of device, in the device's own file.
//!
//! The same struct is what the method that creates the device takes, what the device hands out, and
//! what a saved configuration is made of.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::Bdev;
use crate::refused::BdevError;

/// Parameters of the method that creates a device of one kind.
pub trait Options: Serialize + Send + 'static {
    /// As [`Bdev::module`].
    const MODULE: &'static str;
    /// Name of the new device. `None`: the first that is free of `Null0`, `Null1` and so on for a
    /// device of the module `null`. `base` is the name of the device below, or empty.
    fn name(&self, base: &str) -> Option<String>;
    /// Identity. `None`: derived from the host, the module and the name.
    fn uuid(&self) -> Option<Uuid>;
    /// Name or UUID of the device below, for a device over another one.
    fn base(&self) -> Option<&str> {
        None
    }
    /// The file or device whose opening may sleep in the kernel. `None`: making the device waits
    /// for nothing.
    fn filename(&self) -> Option<&str> {
        None
    }
    /// Makes the device. Checks what reading the options has not: values of a caller in Rust, and
    /// what does not go together.
    fn make(self, place: Place) -> Result<Arc<dyn Bdev>, BdevError>;
}

/// A device's place among the others, as far as the registry decides.
pub struct Place {
    /// Name: checked, and nobody else's.
    pub name: String,
    /// Identity: nobody else's.
    pub uuid: Uuid,
    /// The device below, claimed for this one; `None` unless [`Options::base`] names one.
    pub base: Option<Arc<dyn Bdev>>,
    /// How long a file that another process has is waited for.
    pub lock_wait: Duration,
}

impl Place {
    /// The device below. Panics without one: [`Options::base`] has named none.
    pub(crate) fn over(self) -> (String, Uuid, Arc<dyn Bdev>) {
        (self.name, self.uuid, self.base.expect("options that name a base"))
    }
}

/// Options as a value, with the members in the order of the struct.
pub(crate) fn to_value<O: Options>(options: &O) -> Value {
    serde_json::to_value(options).expect("names and plain values")
}

/// Reads a member as `V`, which checks it, and keeps what it holds.
pub(crate) fn checked<'de, V, T, D>(deserializer: D) -> Result<T, D::Error>
where
    V: Deserialize<'de> + Into<T>,
    D: Deserializer<'de>,
{
    V::deserialize(deserializer).map(Into::into)
}

/// As [`checked`], a member that may be null.
pub(crate) fn maybe<'de, V, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    V: Deserialize<'de> + Into<T>,
    D: Deserializer<'de>,
{
    Option::<V>::deserialize(deserializer).map(|value| value.map(Into::into))
}
