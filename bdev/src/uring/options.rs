//! Parameters of `bdev_uring_create`.

use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use uuid::Uuid;

use super::Uring;
use crate::Bdev;
use crate::options::{Options, Place, checked, maybe};
use crate::refused::BdevError;
use crate::values::{BdevName, BlockSizeOr0, PathText, Text, UuidText};

/// Whether the page cache is bypassed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, DeriveDeserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direct {
    /// Where possible; `driver_specific` says why not.
    #[default]
    Auto,
    /// Or else the device can't be made.
    On,
    /// Never.
    Off,
}

/// A switch: `"on"`, `"off"`, `true` or `false`; shown as a boolean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct OnOff(pub bool);

impl<'de> Deserialize<'de> for OnOff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = OnOff;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`on`, `off`, true or false")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<OnOff, E> {
                Ok(OnOff(value))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<OnOff, E> {
                match value {
                    "on" => Ok(OnOff(true)),
                    "off" => Ok(OnOff(false)),
                    other => {
                        let unexpected = serde::de::Unexpected::Str(other);
                        Err(E::invalid_value(unexpected, &self))
                    }
                }
            }
        }
        deserializer.deserialize_any(Word)
    }
}

/// Parameters of `bdev_uring_create`.
#[derive(Debug, Clone, DeriveDeserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UringOptions {
    /// Name of the new bdev; the first free of Uring0, Uring1 and so on if absent.
    #[serde(default, deserialize_with = "maybe::<BdevName, _, _>")]
    #[schemars(with = "Option<BdevName>")]
    pub name: Option<String>,
    /// Size of a logical block; 0 or absent: that of the block device, 512 for a file.
    #[serde(default, deserialize_with = "maybe::<BlockSizeOr0, _, _>")]
    #[schemars(with = "Option<BlockSizeOr0>")]
    pub block_size: Option<u32>,
    /// Path of the file or block device.
    #[serde(deserialize_with = "checked::<PathText, _, _>")]
    #[schemars(with = "PathText")]
    pub filename: String,
    /// Identity; derived from host and name if absent.
    #[serde(default, deserialize_with = "maybe::<UuidText, _, _>")]
    #[schemars(with = "Option<UuidText>")]
    pub uuid: Option<Uuid>,
    /// Refuses writes, and lets others read the file meanwhile.
    #[serde(default, alias = "readonly")]
    #[schemars(extend("x-aliases" = ["readonly"]))]
    pub read_only: bool,
    /// Lets others that say so too write the file meanwhile.
    #[serde(default)]
    pub shared: bool,
    /// Bypasses the page cache: `auto` where that is possible, `on` or else the bdev is not
    /// created, `off` never.
    #[serde(default)]
    #[schemars(schema_with = "direct")]
    pub direct: Direct,
    /// `off` puts every write on stable storage; `on` if absent. A boolean will do, too.
    #[serde(default = "on", deserialize_with = "on_or_off")]
    #[schemars(schema_with = "on_off")]
    pub write_cache: OnOff,
    /// A spinning disk; if absent, what the system says of a block device, false for a file.
    #[serde(default)]
    pub rotational: Option<bool>,
    /// A kernel thread per core takes submissions, without system calls.
    #[serde(default)]
    pub sq_poll: bool,
    /// Polls the device for the ends of reads and writes; needs direct I/O and a driver with poll
    /// queues.
    #[serde(default)]
    pub io_poll: bool,
    /// Serial number that initiators see; the UUID if absent.
    #[serde(
        default,
        deserialize_with = "maybe::<Text<SERIAL_BYTES_MAX>, _, _>",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<Text<SERIAL_BYTES_MAX>>")]
    pub serial: Option<String>,
    /// What the block device at the path is: its WWID, serial number, or the backing file of a
    /// loop device, and which partition of that. Another device is refused. A configuration is
    /// saved with it; leave it out to take whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
}

/// Bytes of the longest serial number.
const SERIAL_BYTES_MAX: usize = 36;

fn direct(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["auto", "on", "off"], "default": "auto" })
}

fn on_off(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "boolean", "null"], "enum": ["on", "off", true, false] })
}

/// Null is as absent.
fn on_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OnOff, D::Error> {
    Option::<OnOff>::deserialize(deserializer).map(|switch| switch.unwrap_or(on()))
}

impl Options for UringOptions {
    const MODULE: &'static str = "uring";

    fn name(&self, _base: &str) -> Option<String> {
        self.name.clone()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn filename(&self) -> Option<&str> {
        Some(&self.filename)
    }

    fn make(self, place: Place) -> Result<Arc<dyn Bdev>, BdevError> {
        let Place { name, uuid, lock_wait, .. } = place;
        Ok(Arc::new(Uring::open(name, uuid, &self, lock_wait)?))
    }
}

fn on() -> OnOff {
    OnOff(true)
}

impl UringOptions {
    /// The defaults for a path.
    pub fn new(filename: &str) -> UringOptions {
        UringOptions {
            name: None,
            filename: filename.to_owned(),
            block_size: None,
            uuid: None,
            serial: None,
            device_id: None,
            read_only: false,
            shared: false,
            direct: Direct::Auto,
            write_cache: on(),
            rotational: None,
            sq_poll: false,
            io_poll: false,
        }
    }

    /// Why they can't go together, if so.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let printable = |byte: u8| (0x20..0x7f).contains(&byte);
        match &self.serial {
            Some(serial)
                if !(1..=SERIAL_BYTES_MAX).contains(&serial.len())
                    || !serial.bytes().all(printable) =>
            {
                return Some(format!("serial {serial:?} is not 1 to 36 bytes of printable ASCII"));
            }
            _ => {}
        }
        if self.shared && self.read_only {
            return Some("shared is for writers: read_only lets others read anyway".to_owned());
        }
        (self.io_poll && self.direct == Direct::Off)
            .then(|| "io_poll needs direct I/O: direct off does not go with it".to_owned())
    }
}
