//! A virtual device that does nothing: the example of a device over another one.
//!
//! Nothing has to be done with completions, so they may come out of any channel of the core.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Filter, Layer, Over};
use crate::Bdev;
use crate::options::{Options, Place, checked, maybe};
use crate::refused::BdevError;
use crate::values::{BdevName, UuidText};

/// Parameters of `bdev_passthru_create`.
#[derive(Debug, Clone, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PassthruOptions {
    /// Name or UUID of the bdev below.
    #[serde(rename = "base_bdev_name", deserialize_with = "checked::<BdevName, _, _>")]
    #[schemars(with = "BdevName")]
    pub base: String,
    /// Name of the new bdev.
    #[serde(deserialize_with = "checked::<BdevName, _, _>")]
    #[schemars(with = "BdevName")]
    pub name: String,
    /// Identity; derived from host and name if absent.
    #[serde(default, deserialize_with = "maybe::<UuidText, _, _>")]
    #[schemars(with = "Option<UuidText>")]
    pub uuid: Option<Uuid>,
}

impl Options for PassthruOptions {
    const MODULE: &'static str = "passthru";

    fn name(&self, _base: &str) -> Option<String> {
        Some(self.name.clone())
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn base(&self) -> Option<&str> {
        Some(&self.base)
    }

    fn make(self, place: Place) -> Result<Arc<dyn Bdev>, BdevError> {
        let (name, uuid, base) = place.over();
        Ok(Arc::new(Passthru::new(name, uuid, base, PassOn)))
    }
}

/// The device that hands everything on.
pub type Passthru = Over<PassOn>;

/// Hands everything on, on every core.
#[derive(Debug)]
pub struct PassOn;

impl Layer for PassOn {
    const PRODUCT_NAME: &'static str = "passthru";
    const APART: bool = false;
    type Options = PassthruOptions;
    type Filter = PassOn;

    fn filter(&self, _depth: usize) -> PassOn {
        PassOn
    }

    fn driver_specific(over: &Passthru) -> Map<String, Value> {
        let passthru = json!({ "name": over.name, "base_bdev_name": over.base.name() });
        Map::from_iter([("passthru".to_owned(), passthru)])
    }

    fn options(over: &Passthru) -> PassthruOptions {
        PassthruOptions {
            base: over.base.name().to_owned(),
            name: over.name.clone(),
            uuid: Some(over.uuid),
        }
    }
}

impl Filter for PassOn {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;
    use crate::registry::testing::malloc;

    #[test]
    fn obeys_the_contract() {
        let passthru = |blocks, block_bytes| {
            Passthru::new("P".into(), Uuid::nil(), malloc(blocks, block_bytes), PassOn)
        };
        contract::every_rule(&passthru(8192, 512), 5);
        contract::every_rule(&passthru(1000, 4096), 6);
    }

    #[test]
    fn is_as_large_as_its_base() {
        let base = malloc(77, 512);
        let passthru = Passthru::new("P".into(), Uuid::nil(), Arc::clone(&base), PassOn);
        assert_eq!(passthru.geometry(), base.geometry());
        assert_eq!(
            Value::Object(passthru.driver_specific()),
            json!({"passthru": {"name": "P", "base_bdev_name": "base"}})
        );
    }
}
