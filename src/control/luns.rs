//! LUN maps and the logical units behind them.
//!
//! A bdev has at most one logical unit, shared by every target that maps it: made with its first
//! mapping, dropped with its last.

use std::collections::BTreeSet;
use std::sync::Arc;

use bdev::Bdev;
use rustix::io::Errno;

use super::cores;
use super::{Control, Refused, refusal};
use crate::scsi::{Identity, IdentityError};
use crate::shard::lun::{LUN_MAX, LogicalUnit, MAPPINGS_MAX};
use crate::shard::message::{Action, Report};

/// Who claims a bdev while it is a logical unit.
const CLAIM: &str = "srpt_tgt";

/// What INQUIRY says instead of the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// T10 vendor identification, at most 8 characters.
    pub vendor: Option<String>,
    /// Product identification, at most 16 characters.
    pub product: Option<String>,
    /// Unit serial number, at most 36 characters.
    pub serial: Option<String>,
}

/// A logical unit in use.
#[derive(Debug)]
pub struct Unit {
    pub(super) lu: Arc<LogicalUnit>,
    pub(super) overrides: Overrides,
    /// Where it is mapped: target names and LUNs.
    places: BTreeSet<(String, u16)>,
}

/// One entry of a LUN map.
#[derive(Debug)]
pub struct Mapping {
    lu: Arc<LogicalUnit>,
    read_only: bool,
}

impl Mapping {
    /// Name of the bdev behind the LUN.
    pub fn bdev_name(&self) -> &str {
        self.lu.bdev.name()
    }

    /// Writes through this LUN are refused.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The logical unit.
    pub fn unit(&self) -> &Arc<LogicalUnit> {
        &self.lu
    }
}

/// What an operator asks for with `srpt_map_lun`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapRequest {
    /// Target name.
    pub target: String,
    /// LUN; the lowest free one when absent.
    pub lun: Option<u16>,
    /// Name of the bdev.
    pub bdev_name: String,
    /// Refuse writes.
    pub read_only: bool,
    /// Identity other than the default.
    pub overrides: Overrides,
}

impl Control {
    /// Shows a bdev to the initiators of a target; answers the LUN.
    pub fn map_lun(&mut self, request: &MapRequest) -> Result<u16, Refused> {
        let target = &request.target;
        self.whole_target(target)?;
        let bdev = self.bdev(&request.bdev_name)?;
        let lun = self.free_lun(request, bdev.name())?;
        if self.targets.iter().map(|target| target.luns.len()).sum::<usize>() >= MAPPINGS_MAX {
            let what = format!("{MAPPINGS_MAX} LUNs of all targets are mapped, the limit");
            return Err(Refused::new(Errno::NOSPC, what));
        }
        let known = self.units.get(bdev.name());
        let is_new = known.is_none();
        let lu = match known {
            Some(unit) => {
                self.check_overrides(unit, request)?;
                Arc::clone(&unit.lu)
            }
            None => self.make_unit(Arc::clone(&bdev), request)?,
        };
        let map = Action::MapLun {
            target: target.clone(),
            lun,
            lu: Arc::clone(&lu),
            read_only: request.read_only,
        };
        if let Err(partial) = cores::all(self.cores.as_mut(), &map) {
            self.undo(&partial, &Action::UnmapLun { target: target.clone(), lun });
            if is_new {
                let reports = self.undo(&partial, &Action::CloseBdev { bdev: Arc::clone(&bdev) });
                self.forget_unit(bdev.name(), &reports);
            }
            return Err(refusal(&partial.error));
        }
        if is_new {
            self.begin_histogram(bdev.name());
        }
        tracing::info!("target {target}: bdev {} mapped as LUN {lun}", bdev.name());
        self.target_mut(target)?.luns.insert(lun, Mapping { lu, read_only: request.read_only });
        let unit = self.units.get_mut(bdev.name()).expect("known or made above");
        unit.places.insert((target.clone(), lun));
        self.luns_changed(target);
        Ok(lun)
    }

    /// Takes a LUN away. Answers when its last command has ended; after a time-out the LUN is still
    /// listed and the call can be repeated.
    pub fn unmap_lun(&mut self, target: &str, lun: u16) -> Result<(), Refused> {
        if !self.target(target)?.luns.contains_key(&lun) {
            return Err(Refused::missing(format!("LUN {lun} of target {target}")));
        }
        self.all(&Action::UnmapLun { target: target.to_owned(), lun })?;
        let bdev = self.take_lun(target, lun)?;
        tracing::info!("target {target}: LUN {lun} unmapped");
        self.luns_changed(target);
        self.close_unused(&bdev);
        Ok(())
    }

    /// A target and LUN that show a bdev, if any do.
    pub fn mapping_of(&self, bdev_name: &str) -> Option<(&str, u16)> {
        let (target, lun) = self.units.get(bdev_name)?.places.first()?;
        Some((target, *lun))
    }

    /// What the logical unit of a mapped bdev says instead of the defaults.
    pub fn overrides_of(&self, bdev_name: &str) -> Option<&Overrides> {
        self.units.get(bdev_name).map(|unit| &unit.overrides)
    }

    fn free_lun(&mut self, request: &MapRequest, name: &str) -> Result<u16, Refused> {
        let target = &request.target;
        let all = (target.clone(), 0)..=(target.clone(), u16::MAX);
        let unit = self.units.get(name);
        if let Some((_, lun)) = unit.and_then(|unit| unit.places.range(all).next()) {
            return Err(Refused::exists(format!(
                "bdev {name} is LUN {lun} of target {target} already"
            )));
        }
        let map = self.target_mut(target)?;
        match request.lun {
            Some(lun) => match map.luns.get(&lun) {
                None => Ok(lun),
                Some(mapping) => Err(Refused::exists(format!(
                    "LUN {lun} of target {target} is bdev {}",
                    mapping.bdev_name()
                ))),
            },
            None => {
                let free = (map.full_to..=LUN_MAX).find(|lun| !map.luns.contains_key(lun));
                map.full_to = free.unwrap_or(LUN_MAX);
                free.ok_or_else(|| {
                    let count = u32::from(LUN_MAX) + 1;
                    let what = format!("all {count} LUNs of target {target} are in use");
                    Refused::new(Errno::NOSPC, what)
                })
            }
        }
    }

    /// Takes a LUN out of the map that no core has any more. The bdev that was there.
    fn take_lun(&mut self, target: &str, lun: u16) -> Result<String, Refused> {
        let map = self.target_mut(target)?;
        map.full_to = map.full_to.min(lun);
        let mapping = map.luns.remove(&lun).expect("asked for by the LUN");
        let name = mapping.bdev_name().to_owned();
        let unit = self.units.get_mut(&name).expect("a mapped bdev has a unit");
        unit.places.remove(&(target.to_owned(), lun));
        Ok(name)
    }

    /// The same, and closes the bdev if this was its last LUN.
    pub(super) fn forget_lun(&mut self, target: &str, lun: u16) -> Result<(), Refused> {
        let name = self.take_lun(target, lun)?;
        self.close_unused(&name);
        Ok(())
    }

    /// A second mapping may repeat the identity or leave it out, but not change it.
    fn check_overrides(&self, unit: &Unit, request: &MapRequest) -> Result<(), Refused> {
        let pairs = [
            ("vendor", &request.overrides.vendor, &unit.overrides.vendor),
            ("product", &request.overrides.product, &unit.overrides.product),
            ("serial", &request.overrides.serial, &unit.overrides.serial),
        ];
        match pairs.iter().find(|(_, wanted, there)| wanted.is_some() && wanted != there) {
            None => Ok(()),
            Some((parameter, ..)) => {
                let name = unit.lu.bdev.name();
                let (target, lun) = self.mapping_of(name).expect("a unit in use is mapped");
                Err(Refused::invalid(format!(
                    "{parameter}: bdev {name} is also LUN {lun} of target {target} and has one \
                     identity"
                )))
            }
        }
    }

    fn make_unit(
        &mut self,
        bdev: Arc<dyn Bdev>,
        request: &MapRequest,
    ) -> Result<Arc<LogicalUnit>, Refused> {
        if bdev.scsi().is_some() && request.overrides != Overrides::default() {
            return Err(Refused::invalid(format!(
                "vendor, product, serial: bdev {} is a SCSI device that names itself",
                bdev.name()
            )));
        }
        let identity = identity(bdev.as_ref(), &request.overrides)
            .map_err(|error| Refused::invalid(error.to_string()))?;
        self.bdevs.claim(bdev.name(), CLAIM)?;
        self.units_made += 1;
        let limits = self.limits_of_unit(bdev.name());
        let lu = Arc::new(LogicalUnit::new(self.units_made, bdev, identity));
        lu.limiter.set(&limits);
        let (name, overrides) = (lu.bdev.name().to_owned(), request.overrides.clone());
        self.units.insert(name, Unit { lu: Arc::clone(&lu), overrides, places: BTreeSet::new() });
        Ok(lu)
    }

    fn luns_changed(&mut self, target: &str) {
        if let Err(error) = self.all(&Action::LunsChanged { target: target.to_owned() }) {
            tracing::warn!("target {target}: initiators may not notice the new LUN map: {error}");
        }
    }

    /// Closes the channels of a bdev if no LUN uses it any more.
    fn close_unused(&mut self, name: &str) {
        let Some(unit) = self.units.get(name).filter(|unit| unit.places.is_empty()) else { return };
        let bdev = Arc::clone(&unit.lu.bdev);
        let close = Action::CloseBdev { bdev };
        let reports = cores::all(self.cores.as_mut(), &close).unwrap_or_else(|partial| {
            tracing::warn!("bdev {name}: {}", partial.error);
            self.cores.tell(&partial.unasked, &close);
            Vec::new()
        });
        self.forget_unit(name, &reports);
    }

    /// The channels of a bdev are closed, or will be.
    fn forget_unit(&mut self, name: &str, reports: &[Report]) {
        self.units.remove(name);
        self.keep_counts(name, reports);
        self.bdevs.release(name).expect("a claimed bdev is not deleted");
    }
}

/// Who a logical unit says it is.
fn identity(bdev: &dyn Bdev, overrides: &Overrides) -> Result<Identity, IdentityError> {
    let mut identity = Identity::new(bdev.product_name(), *bdev.uuid().as_bytes());
    if let Some(vendor) = &overrides.vendor {
        identity = identity.with_vendor(vendor)?;
    }
    if let Some(product) = &overrides.product {
        identity = identity.with_product(product)?;
    }
    if let Some(serial) = overrides.serial.as_deref().or(bdev.serial()) {
        identity = identity.with_serial(serial)?;
    }
    Ok(identity)
}
