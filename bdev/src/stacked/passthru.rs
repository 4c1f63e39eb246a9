//! A virtual device that does nothing: the example of a device over another one.
//!
//! Nothing has to be done with completions, so they may come out of any channel of the core.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Filter, Layer, Over};

/// Parameters of `bdev_passthru_create`.
#[derive(Debug, Clone)]
pub struct PassthruOptions {
    /// Name.
    pub name: String,
    /// Name or UUID of the base.
    pub base: String,
    /// Identity; derived from host and name when absent.
    pub uuid: Option<Uuid>,
}

/// The device that hands everything on.
pub type Passthru = Over<PassOn>;

/// Hands everything on, on every core.
#[derive(Debug)]
pub struct PassOn;

impl Layer for PassOn {
    const PRODUCT_NAME: &'static str = "passthru";
    const DELETE_METHOD: &'static str = "bdev_passthru_delete";
    const APART: bool = false;
    type Filter = PassOn;

    fn filter(&self, _depth: usize) -> PassOn {
        PassOn
    }

    fn driver_specific(over: &Passthru) -> Map<String, Value> {
        let passthru = json!({ "name": over.name, "base_bdev_name": over.base.name() });
        Map::from_iter([("passthru".to_owned(), passthru)])
    }

    fn create_call(over: &Passthru) -> (&'static str, Value) {
        let params = json!({
            "base_bdev_name": over.base.name(),
            "name": over.name,
            "uuid": over.uuid,
        });
        ("bdev_passthru_create", params)
    }
}

impl Filter for PassOn {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::registry::testing::malloc;
    use crate::{Bdev, contract};

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
