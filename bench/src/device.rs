//! Block devices of this process, for loads without a fabric.
//!
//! [`Devices`] makes them from a saved configuration or from short descriptions; [`load`] keeps
//! operations in flight on them, one reactor per core.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use bdev::Bdev;
use bdev::malloc::MallocOptions;
use bdev::null::NullOptions;
use bdev::registry::Registry;
use bdev::uring::UringOptions;
use serde_json::Value;
use srpt_tgt::control::{Control, Mailboxes, Office, Parts, Post};
use srpt_tgt::logs::{Level, Logs};
use srpt_tgt::rpc::methods;

use crate::size::{ParseError, parse_bytes};

pub mod copy;
pub mod fill;
pub mod load;

/// A device in words: `null:SIZE`, `malloc:SIZE` or `file:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// No data, so many bytes.
    Null(u64),
    /// Memory, so many bytes.
    Malloc(u64),
    /// A file or block device through io_uring, past the page cache where possible.
    File(PathBuf),
}

impl FromStr for Spec {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.split_once(':') {
            Some(("null", size)) => Ok(Spec::Null(parse_bytes(size)?)),
            Some(("malloc", size)) => Ok(Spec::Malloc(parse_bytes(size)?)),
            Some(("file", path)) if !path.is_empty() => Ok(Spec::File(path.into())),
            _ => Err(ParseError::new(text, "null:SIZE, malloc:SIZE or file:PATH is needed")),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Null(bytes) => write!(f, "null:{bytes}"),
            Spec::Malloc(bytes) => write!(f, "malloc:{bytes}"),
            Spec::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Devices by name.
pub struct Devices(Office);

impl Default for Devices {
    fn default() -> Self {
        Devices::new()
    }
}

impl Devices {
    /// None yet.
    pub fn new() -> Self {
        let (post, inbox) = Post::new();
        let control = Control::new(Parts {
            // Devices that are made before there is a core need none.
            cores: Box::new(Mailboxes::new(Vec::new())),
            stats: Vec::new(),
            bdevs: Registry::new(),
            host_id: String::new(),
            logs: Logs::new(Level::Warning, |_| {}),
            raise: Box::new(|_| Ok(())),
        });
        Devices(Office::new(control, post, inbox))
    }

    /// Makes the bdevs of a file that `save_config` wrote; its other parts are left alone.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{shown}"))?;
        let mut document: Value =
            serde_json::from_str(&text).with_context(|| format!("{shown}"))?;
        let parts = document.get_mut("subsystems").and_then(Value::as_array_mut);
        parts
            .with_context(|| format!("{shown}: no list \"subsystems\", as save_config writes it"))?
            .retain(|part| part.get("subsystem").is_some_and(|name| name == "bdev"));
        let text = document.to_string();
        let load = |desk| async move { methods::load(&desk, &text).await };
        self.0.block_on(load).map_err(|error| anyhow!("{shown}: {}", error.why))
    }

    /// Makes a device of blocks of `block_bytes`.
    pub fn make(&mut self, spec: &Spec, block_bytes: u32) -> Result<Arc<dyn Bdev>> {
        let blocks = |bytes: u64| -> Result<u64> {
            ensure!(
                block_bytes > 0 && bytes.is_multiple_of(u64::from(block_bytes)),
                "{spec} is no multiple of its blocks of {block_bytes} bytes"
            );
            Ok(bytes / u64::from(block_bytes))
        };
        let make = |bdevs: &mut Registry| -> Result<_> {
            Ok(match spec {
                Spec::Null(bytes) => bdevs.create(NullOptions {
                    num_blocks: blocks(*bytes)?,
                    block_size: block_bytes,
                    ..NullOptions::default()
                }),
                Spec::Malloc(bytes) => bdevs.create(MallocOptions {
                    num_blocks: blocks(*bytes)?,
                    block_size: block_bytes,
                    ..MallocOptions::default()
                }),
                Spec::File(path) => bdevs.create(UringOptions {
                    block_size: Some(block_bytes),
                    ..UringOptions::new(&path.to_string_lossy())
                }),
            }?)
        };
        self.0.desk().with(|control| make(control.bdevs_mut()))
    }

    /// The device of a name.
    pub fn find(&self, name: &str) -> Result<Arc<dyn Bdev>> {
        Ok(self.0.desk().with(|control| control.bdevs().find(name))?)
    }

    /// All of them that no other one is over, in the order of their creation.
    pub fn unclaimed(&self) -> Vec<Arc<dyn Bdev>> {
        self.0.desk().with(|control| {
            let free = control.bdevs().iter().filter(|(_, user)| user.is_none());
            free.map(|(bdev, _)| Arc::clone(bdev)).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_described_in_words() {
        assert_eq!("null:1g".parse(), Ok(Spec::Null(1 << 30)));
        assert_eq!("malloc:64m".parse(), Ok(Spec::Malloc(64 << 20)));
        assert_eq!("file:/dev/loop0".parse(), Ok(Spec::File("/dev/loop0".into())));
        for text in ["", "null", "null:", "file:", "tape:1g", "malloc:x"] {
            assert!(text.parse::<Spec>().is_err(), "{text}");
        }
        let error = Devices::new().make(&Spec::Null(1000), 512).unwrap_err().to_string();
        assert!(error.contains("null:1000 is no multiple"), "{error}");
    }

    #[test]
    fn of_a_saved_configuration_only_the_bdevs_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("saved.json");
        let entry =
            |method: &str, params: Value| serde_json::json!({ "method": method, "params": params });
        let null = serde_json::json!({ "name": "N", "num_blocks": 8, "block_size": 512 });
        let over = serde_json::json!({ "name": "P", "base_bdev_name": "N" });
        let document = serde_json::json!({ "subsystems": [
            { "subsystem": "bdev", "config": [
                entry("bdev_null_create", null), entry("bdev_passthru_create", over) ] },
            { "subsystem": "srpt", "config": [
                entry("srpt_create_target", serde_json::json!({ "name": "t" })) ] },
        ]});
        std::fs::write(&path, document.to_string()).unwrap();
        let mut devices = Devices::new();
        devices.load(&path).unwrap();
        assert_eq!(devices.unclaimed().len(), 1, "the base has a user");
        assert_eq!(devices.find("P").unwrap().geometry().blocks, 8);
        let again = devices.load(&path).unwrap_err().to_string();
        assert!(again.contains("File exists: bdev N"), "{again}");
        std::fs::write(&path, "{}").unwrap();
        let error = devices.load(&path).unwrap_err().to_string();
        assert!(error.contains("subsystems"), "{error}");
    }
}
