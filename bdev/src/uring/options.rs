//! Parameters of `bdev_uring_create`.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

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
#[derive(Debug, Clone, DeriveDeserialize)]
pub struct UringOptions {
    /// Name; `Uring0` and so on when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Path of a regular file or block device.
    pub filename: String,
    /// Bytes of a block: a power of two from 512 to 32768. Absent or 0: the block device's own, 512
    /// for a file.
    #[serde(default)]
    pub block_size: Option<u32>,
    /// Identity; derived from host and name when absent.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    /// Unit serial number that initiators see: 1 to 36 bytes of printable ASCII. Absent: the UUID.
    #[serde(default)]
    pub serial: Option<String>,
    /// Refuses writes, and lets others read the file meanwhile.
    #[serde(default, alias = "readonly")]
    pub read_only: bool,
    /// Lets others that say so too write the file meanwhile.
    #[serde(default)]
    pub shared: bool,
    /// Whether the page cache is bypassed.
    #[serde(default)]
    pub direct: Direct,
    /// Completed writes may be volatile until a flush. Off: every write goes to stable storage.
    #[serde(default = "on")]
    pub write_cache: OnOff,
    /// A spinning disk; absent: what the system says of a block device, false for a file.
    #[serde(default)]
    pub rotational: Option<bool>,
    /// A kernel thread per core takes submissions, without system calls.
    #[serde(default)]
    pub sq_poll: bool,
    /// The device is polled for the ends of reads and writes instead of interrupting; needs direct
    /// I/O and a driver with poll queues.
    #[serde(default)]
    pub io_poll: bool,
    /// Other members, refused.
    #[serde(flatten)]
    pub other: Map<String, Value>,
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
            read_only: false,
            shared: false,
            direct: Direct::Auto,
            write_cache: on(),
            rotational: None,
            sq_poll: false,
            io_poll: false,
            other: Map::new(),
        }
    }

    /// Why they can't go together, if so.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let printable = |byte: u8| (0x20..0x7f).contains(&byte);
        match &self.serial {
            Some(serial) if !(1..=36).contains(&serial.len()) || !serial.bytes().all(printable) => {
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

/// Members that SPDK clients send and the only values that have a meaning here: none.
pub(crate) fn neutral(_member: &str) -> Option<Value> {
    None
}
