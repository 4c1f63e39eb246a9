//! A virtual device that does nothing: the example of a device over another one.
//!
//! It owns its base exclusively: the registry claims the base when the device is made and releases
//! it when the device is deleted. Size and abilities are always the base's.
//!
//! A channel opens one channel of the base and hands everything on. Nothing has to be done with
//! completions, so they may come out of any channel of the core; a device that must see its own
//! opens its base with [`CoreContext::apart`], as [`delay`](crate::stacked::delay) and
//! [`error`](crate::stacked::fault) do.
//!
//! One operation costs two calls through a trait object.

use std::sync::Arc;

use reactor::{Batch, Instant};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{Bdev, CoreContext, Geometry, Io, IoChannel, IoDone, OpenError};

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
#[derive(Debug)]
pub struct Passthru {
    name: String,
    uuid: Uuid,
    base: Arc<dyn Bdev>,
}

impl Passthru {
    /// A device of checked name over a base that is claimed for it.
    pub(crate) fn new(name: String, uuid: Uuid, base: Arc<dyn Bdev>) -> Passthru {
        Passthru { name, uuid, base }
    }
}

impl Bdev for Passthru {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        "passthru"
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn geometry(&self) -> Geometry {
        self.base.geometry()
    }

    fn placeholder(&self) -> bool {
        self.base.placeholder()
    }

    fn ready(&self) -> bool {
        self.base.ready()
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        Ok(Box::new(PassthruChannel { base: self.base.open_channel(core)? }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        let passthru = json!({ "name": self.name, "base_bdev_name": self.base.name() });
        Map::from_iter([("passthru".to_owned(), passthru)])
    }

    fn create_call(&self) -> (&'static str, Value) {
        let params = json!({
            "base_bdev_name": self.base.name(),
            "name": self.name,
            "uuid": self.uuid,
        });
        ("bdev_passthru_create", params)
    }

    fn delete_method(&self) -> &'static str {
        "bdev_passthru_delete"
    }
}

struct PassthruChannel {
    base: Box<dyn IoChannel>,
}

impl IoChannel for PassthruChannel {
    #[inline]
    fn submit(&mut self, io: Io) {
        self.base.submit(io);
    }

    #[inline]
    fn flush(&mut self) {
        self.base.flush();
    }

    #[inline]
    fn poll(&mut self, now: Instant, done: &mut Batch<IoDone>) {
        self.base.poll(now, done);
    }

    fn arm(&mut self) -> bool {
        self.base.arm()
    }

    fn refresh(&mut self) {
        self.base.refresh();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;
    use crate::registry::testing::malloc;

    #[test]
    fn obeys_the_contract() {
        let passthru = |blocks, block_bytes| {
            Passthru::new("P".into(), Uuid::nil(), malloc(blocks, block_bytes))
        };
        contract::every_rule(&passthru(8192, 512), 5);
        contract::every_rule(&passthru(1000, 4096), 6);
    }

    #[test]
    fn is_as_large_as_its_base() {
        let base = malloc(77, 512);
        let passthru = Passthru::new("P".into(), Uuid::nil(), Arc::clone(&base));
        assert_eq!(passthru.geometry(), base.geometry());
        assert_eq!(
            Value::Object(passthru.driver_specific()),
            json!({"passthru": {"name": "P", "base_bdev_name": "base"}})
        );
    }
}
