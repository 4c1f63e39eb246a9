//! The devices that exist, by name: the control plane's side.
//!
//! A [`Registry`] makes devices of their [`Options`], whatever their kind, keeps them in the order
//! of creation, and knows who uses which. Names and identities are unique, and a device in use
//! can't be deleted. A virtual device is the user of its base.
//!
//! Identities are stable: without a `uuid` parameter a device's UUID follows from the host, the
//! kind of device and its name, so an initiator finds the same disk after a restart and never the
//! same disk on two hosts.
//!
//! Nothing here runs per I/O.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::options::Options;
use crate::refused::BdevError;
use crate::{Bdev, Geometry};

mod index;
mod opening;
mod stacked;

use index::{Entries, Key};
pub use opening::{Opened, Opening, Removed};

struct Entry {
    bdev: Arc<dyn Bdev>,
    claimed_by: Option<String>,
    /// Name of the device that this one is over and has claimed.
    base: Option<String>,
    /// Name of the device that is over this one.
    over: Option<String>,
}

impl Entry {
    fn new(bdev: Arc<dyn Bdev>, base: Option<String>) -> Entry {
        Entry { bdev, claimed_by: None, base, over: None }
    }
}

/// All devices, in the order of their creation.
pub struct Registry {
    host: String,
    entries: Entries,
    lock_wait: Duration,
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new()
    }
}

impl Registry {
    /// An empty registry of this host: `/etc/machine-id`, or else the host's name.
    pub fn new() -> Registry {
        let machine_id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        match machine_id.trim() {
            "" => {
                let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
                Registry::with_host(name.unwrap_or_default().trim())
            }
            id => Registry::with_host(id),
        }
    }

    /// An empty registry of a host that is named here.
    pub fn with_host(host: &str) -> Registry {
        Registry { host: host.to_owned(), entries: Entries::default(), lock_wait: Duration::ZERO }
    }

    /// How long the making of a device waits for a file that another process has: a process that
    /// was killed holds its files until the kernel has put away its ring, some 50 ms after its end.
    /// Zero, which is the default: it is refused at once.
    pub fn wait_for_locks(&mut self, wait: Duration) {
        self.lock_wait = wait;
    }

    /// Makes a device. Of one whose opening may sleep in the kernel that is done here, too:
    /// [`Registry::prepare`] is the way that leaves it to another thread.
    pub fn create<O: Options>(&mut self, options: O) -> Result<Arc<dyn Bdev>, BdevError> {
        let opening = self.prepare(options)?;
        let name = opening.name().to_owned();
        match opening.open() {
            Ok(opened) => Ok(self.adopt(opened)),
            Err(error) => {
                self.abandon(&name);
                Err(error)
            }
        }
    }

    /// Takes in a device that was made elsewhere. Name and identity must be free.
    pub fn insert(&mut self, bdev: Arc<dyn Bdev>) -> Result<(), BdevError> {
        self.checked_name(bdev.name().to_owned())?;
        self.fresh_uuid(Some(bdev.uuid()), "", "")?;
        self.entries.push(Entry::new(bdev, None));
        Ok(())
    }

    /// The device of a name, or of a UUID in text form, which is every device's alias.
    pub fn find(&self, name: &str) -> Result<Arc<dyn Bdev>, BdevError> {
        self.entry(name).map(|entry| Arc::clone(&entry.bdev))
    }

    /// All devices and their users, in the order of creation.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<dyn Bdev>, Option<&str>)> {
        self.entries.iter().map(|entry| (&entry.bdev, entry.claimed_by.as_deref()))
    }

    /// Marks a device as used by `by`, until [`Registry::release`]. One user at a time.
    pub fn claim(&mut self, name: &str, by: &str) -> Result<Arc<dyn Bdev>, BdevError> {
        let at = self.position(name)?;
        self.refuse_claimed(at)?;
        self.entries[at].claimed_by = Some(by.to_owned());
        Ok(Arc::clone(&self.entries[at].bdev))
    }

    /// Ends the use of a device; without a user it does nothing.
    pub fn release(&mut self, name: &str) -> Result<(), BdevError> {
        let at = self.position(name)?;
        self.entries[at].claimed_by = None;
        Ok(())
    }

    /// The user of a device.
    pub fn claimed_by(&self, name: &str) -> Option<&str> {
        self.entry(name).ok()?.claimed_by.as_deref()
    }

    /// The device of a name or UUID as what it was made as; `method` is for the error that says
    /// that it is of another kind.
    pub fn of_kind<T: Bdev>(&self, name: &str, method: &str) -> Result<Arc<T>, BdevError> {
        let bdev = self.find(name)?;
        of_kind(&bdev).ok_or_else(|| wrong_kind(bdev.as_ref(), method))
    }

    /// All devices of a kind, in the order of creation.
    pub fn all_of<T: Bdev>(&self) -> impl Iterator<Item = Arc<T>> {
        self.entries.iter().filter_map(|entry| of_kind(&entry.bdev))
    }

    /// Removes a device that nobody uses, and releases its base; `module` must be the device's.
    /// Channels that are still open keep the device alive, but not the file of a file-backed one.
    pub fn delete(&mut self, name: &str, module: &str) -> Result<Arc<dyn Bdev>, BdevError> {
        self.remove(name, module).map(Removed::close)
    }

    fn position(&self, name: &str) -> Result<Key, BdevError> {
        let found = self.entries.find(name);
        found.ok_or_else(|| BdevError::NotFound { name: name.to_owned() })
    }

    fn entry(&self, name: &str) -> Result<&Entry, BdevError> {
        self.position(name).map(|at| &self.entries[at])
    }

    fn refuse_claimed(&self, at: Key) -> Result<(), BdevError> {
        let entry = &self.entries[at];
        match &entry.claimed_by {
            Some(by) => {
                Err(BdevError::InUse { name: entry.bdev.name().to_owned(), by: by.clone() })
            }
            None => Ok(()),
        }
    }

    fn fresh_name(&mut self, given: Option<String>, module: &str) -> Result<String, BdevError> {
        match given {
            None => {
                let (first, rest) = module.split_at(1);
                Ok(self.entries.free_name(&format!("{}{rest}", first.to_ascii_uppercase())))
            }
            Some(name) => self.checked_name(name),
        }
    }

    fn checked_name(&self, name: String) -> Result<String, BdevError> {
        if !(1..=255).contains(&name.len()) || !name.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Err(BdevError::Invalid(format!(
                "bdev name {name:?} is not 1 to 255 bytes of printable ASCII"
            )));
        }
        if self.entries.has_name(&name) {
            return Err(BdevError::Exists { name });
        }
        Ok(name)
    }

    fn fresh_uuid(&self, given: Option<Uuid>, module: &str, name: &str) -> Result<Uuid, BdevError> {
        let derive = || {
            let identity = format!("srpt_tgt/{}/{module}/{name}", self.host);
            Uuid::new_v5(&Uuid::NAMESPACE_OID, identity.as_bytes())
        };
        // SPDK clients send the nil UUID for "none".
        let uuid = given.filter(|uuid| !uuid.is_nil()).unwrap_or_else(derive);
        match self.entries.owner_name(uuid) {
            Some(name) => Err(BdevError::UuidTaken { uuid, name: name.to_owned() }),
            None => Ok(uuid),
        }
    }
}

fn of_kind<T: Bdev>(bdev: &Arc<dyn Bdev>) -> Option<Arc<T>> {
    let any: Arc<dyn Any + Send + Sync> = Arc::clone(bdev) as _;
    any.downcast().ok()
}

fn wrong_kind(bdev: &dyn Bdev, method: &str) -> BdevError {
    BdevError::WrongKind {
        name: bdev.name().to_owned(),
        product: bdev.product_name(),
        method: method.to_owned(),
    }
}

/// The entry of a device in the answer to `bdev_get_bdevs`, with SPDK's members in SPDK's order.
pub fn describe(bdev: &dyn Bdev, claimed: Option<&str>) -> Value {
    let geometry = bdev.geometry();
    let mut entry = Map::new();
    let mut put = |member: &str, value: Value| entry.insert(member.to_owned(), value);
    put("name", json!(bdev.name()));
    put("aliases", json!([bdev.uuid()]));
    put("product_name", json!(bdev.product_name()));
    put("block_size", json!(geometry.block_bytes));
    put("num_blocks", json!(geometry.blocks));
    put("preferred_write_alignment", json!(0));
    put("preferred_write_granularity", json!(0));
    put("optimal_write_size", json!(0));
    put("preferred_unmap_alignment", json!(0));
    put("preferred_unmap_granularity", json!(0));
    put("uuid", json!(bdev.uuid()));
    if let Some(numa_id) = bdev.options().get("numa_id") {
        put("numa_id", numa_id.clone());
    }
    put(
        "assigned_rate_limits",
        json!({
            "rw_ios_per_sec": 0,
            "rw_mbytes_per_sec": 0,
            "r_mbytes_per_sec": 0,
            "w_mbytes_per_sec": 0,
        }),
    );
    put("claimed", json!(claimed.is_some()));
    if claimed.is_some() {
        put("claim_type", json!("exclusive_write"));
    }
    put("zoned", json!(false));
    put("supported_io_types", supported_io_types(&geometry));
    put("driver_specific", Value::Object(bdev.driver_specific()));
    Value::Object(entry)
}

fn supported_io_types(geometry: &Geometry) -> Value {
    json!({
        "read": true,
        "write": !geometry.read_only,
        "unmap": geometry.unmap && !geometry.read_only,
        "flush": true,
        "reset": false,
        "nvme_admin": false,
        "nvme_io": false,
        "nvme_io_md": false,
        "write_zeroes": !geometry.read_only,
        "zcopy": false,
        "get_zone_info": false,
        "zone_management": false,
        "zone_append": false,
        "compare": false,
        "compare_and_write": false,
        "abort": false,
        "seek_hole": false,
        "seek_data": false,
        "copy": false,
        "nvme_iov_md": false,
        "nvme_nssr": false,
        "write_uncorrectable": false,
    })
}

#[cfg(test)]
pub(crate) mod testing {
    //! Bases for the tests of virtual devices.

    use super::*;
    use crate::malloc::Malloc;
    use crate::null::{Null, NullOptions};
    use crate::refused::Shape;

    pub(crate) fn malloc(blocks: u64, block_bytes: u32) -> Arc<dyn Bdev> {
        let shape = Shape { blocks, block_bytes, physical_bytes: block_bytes };
        Arc::new(Malloc::new("base".into(), Uuid::nil(), shape).unwrap())
    }

    pub(crate) fn null(num_blocks: u64) -> Arc<dyn Bdev> {
        let options = NullOptions { num_blocks, block_size: 512, ..NullOptions::default() };
        Arc::new(Null::new("base".into(), Uuid::nil(), options).unwrap())
    }
}

#[cfg(test)]
mod tests;
