//! LUN maps and the logical units behind them.
//!
//! A bdev has at most one logical unit, shared by every target that maps it: made with its first
//! mapping, dropped with its last.
//!
//! A LUN that is taken away is gone at once: from the maps of the cores, from the configuration,
//! and for the initiators, who are told. Commands that still use the LUN drain, in the background
//! if that takes longer than [`DRAIN_WAIT_MAX`]; until then the bdev and the number of the LUN are
//! busy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bdev::Bdev;
use rustix::io::Errno;

use super::busy::told;
use super::cores::{ANSWER_WAIT_MAX, Partial};
use super::meters;
use super::{Control, Desk, Refused, refusal};
use crate::scsi::{Identity, IdentityError};
use crate::shard::message::{Action, Report};
use crate::shard::names::{LUN_MAX, MAPPINGS_MAX, UnitId};
use crate::shard::unit::LogicalUnit;

/// How long an operation that takes LUNs away waits for their last commands. After that they drain
/// in the background.
pub const DRAIN_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long the initiators may not know of a LUN that is gone, while its commands drain.
const NOTICE_WAIT_MAX: Duration = Duration::from_millis(100);

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

/// A LUN that is mapped no more, and that commands may still use.
#[derive(Debug)]
pub(super) struct Draining {
    target: String,
    lun: u16,
    bdev: String,
    since: Instant,
}

impl Draining {
    fn told(&self) -> String {
        let doing = format!("commands to LUN {} of target {} drain", self.lun, self.target);
        told(&doing, self.since)
    }
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

impl Desk {
    /// Shows a bdev to the initiators of a target; answers the LUN.
    pub async fn map_lun(&self, request: &MapRequest) -> Result<u16, Refused> {
        let target = &request.target;
        let _target = self.hold_target(target, "a LUN is being mapped").await?;
        let _bdev = self.hold_bdev(&request.bdev_name, "being mapped").await?;
        let (lun, lu, is_new) = self.with(|control| control.begin_map(request))?;
        let name = lu.bdev.name().to_owned();
        let read_only = request.read_only;
        if let Err(partial) = show(self, (target, lun), &lu, read_only).await {
            self.undo(&partial, &Action::UnmapLun { target: target.clone(), lun }).await;
            if is_new {
                let close = Action::CloseBdev { bdev: Arc::clone(&lu.bdev) };
                let reports = self.undo(&partial, &close).await;
                self.with(|control| control.forget_unit(&name, &reports));
            }
            return Err(refusal(&partial.error));
        }
        if is_new {
            meters::begin_histogram(self, &name).await;
        }
        tracing::info!("target {target}: bdev {name} mapped as LUN {lun}");
        self.with(|control| {
            control.target_mut(target)?.luns.insert(lun, Mapping { lu, read_only });
            let unit = control.units.get_mut(&name).expect("known or made above");
            unit.places.insert((target.clone(), lun));
            Ok::<_, Refused>(())
        })?;
        self.luns_changed(target).await;
        Ok(lun)
    }

    /// Takes a LUN away, which does not fail once it has begun. Answers when the last command to
    /// the LUN has ended, or after [`DRAIN_WAIT_MAX`].
    pub async fn unmap_lun(&self, target: &str, lun: u16) -> Result<(), Refused> {
        const DOING: &str = "a LUN is being unmapped";
        let _target = self.hold_target(target, DOING).await?;
        let bdev = self.with(|control| match control.target(target)?.luns.get(&lun) {
            Some(mapping) => Ok(mapping.bdev_name().to_owned()),
            None => Err(Refused::missing(format!("LUN {lun} of target {target}"))),
        })?;
        let _bdev = self.hold_bdev(&bdev, DOING).await?;
        let drained = Box::pin(self.take_away(target, lun));
        tracing::info!("target {target}: LUN {lun} unmapped");
        let drained = match self.within(NOTICE_WAIT_MAX, drained).await {
            Ok(()) => {
                self.luns_changed(target).await;
                return Ok(());
            }
            Err(drained) => drained,
        };
        // No core shows the LUN any more when each has answered what it was asked after that.
        if let Err(error) = self.reports().await {
            tracing::warn!("target {target}: LUN {lun} may be seen for a while: {error}");
        }
        self.luns_changed(target).await;
        if let Err(drained) = self.within(DRAIN_WAIT_MAX, drained).await {
            tracing::warn!("target {target}: LUN {lun}: commands drain in the background");
            self.spawn(drained);
        }
        Ok(())
    }

    /// Takes a LUN out of the map, here and on the cores. Ends when no command uses the LUN any
    /// more and its bdev is closed if nothing else uses that.
    pub(super) fn take_away(
        &self,
        target: &str,
        lun: u16,
    ) -> impl Future<Output = ()> + use<> + 'static {
        let (desk, target) = (self.clone(), target.to_owned());
        let bdev = self.with(|control| control.begin_draining(&target, lun));
        let answers = self.ask_all(&Action::UnmapLun { target: target.clone(), lun });
        async move {
            for answer in answers.await.unwrap_or_default() {
                if let Err(error) = answer {
                    tracing::warn!("target {target}: LUN {lun}: {error}");
                }
            }
            desk.close_unused(&bdev).await;
            desk.with(|control| control.end_draining(&target, lun));
        }
    }

    async fn luns_changed(&self, target: &str) {
        if let Err(error) = self.all(&Action::LunsChanged { target: target.to_owned() }).await {
            tracing::warn!("target {target}: initiators may not notice the new LUN map: {error}");
        }
    }

    /// Closes the channels of a bdev if no LUN uses it any more but the one that is the last to
    /// drain.
    async fn close_unused(&self, name: &str) {
        let unused = self.with(|control| {
            let unit = control.units.get(name).filter(|unit| unit.places.is_empty())?;
            let draining = control.draining.iter().filter(|draining| draining.bdev == name);
            (draining.count() <= 1).then(|| Arc::clone(&unit.lu.bdev))
        });
        let Some(bdev) = unused else { return };
        let answers = self.ask_all(&Action::CloseBdev { bdev }).await.unwrap_or_default();
        let reports: Vec<Report> = answers.into_iter().flatten().collect();
        self.with(|control| control.forget_unit(name, &reports));
    }
}

impl Control {
    /// Checks everything; what is mapped then, and whether its logical unit is new.
    fn begin_map(
        &mut self,
        request: &MapRequest,
    ) -> Result<(u16, Arc<LogicalUnit>, bool), Refused> {
        self.target(&request.target)?;
        let bdev = self.bdev(&request.bdev_name)?;
        if let Some(draining) = self.draining_of(bdev.name()) {
            return Err(Refused::busy(format!("bdev {} is busy: {draining}", bdev.name())));
        }
        let lun = self.free_lun(request, bdev.name())?;
        let mapped: usize = self.targets.iter().map(|target| target.luns.len()).sum();
        if mapped + self.draining.len() >= MAPPINGS_MAX {
            let what = format!("{MAPPINGS_MAX} LUNs of all targets are mapped, the limit");
            return Err(Refused::new(Errno::NOSPC, what));
        }
        match self.units.get(bdev.name()) {
            Some(unit) => {
                self.check_overrides(unit, request)?;
                Ok((lun, Arc::clone(&unit.lu), false))
            }
            None => Ok((lun, self.make_unit(bdev, request)?, true)),
        }
    }

    /// Commands to LUNs that are gone, which a bdev waits for.
    pub(super) fn draining_of(&self, bdev: &str) -> Option<String> {
        self.draining.iter().find(|draining| draining.bdev == bdev).map(Draining::told)
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
        let is_draining = |lun: u16| {
            let mut draining = self.draining.iter();
            draining.find(|other| other.target == *target && other.lun == lun)
        };
        if let Some(draining) = request.lun.and_then(is_draining) {
            let told = draining.told();
            return Err(Refused::busy(format!("LUN {} of target {target}: {told}", draining.lun)));
        }
        let drain: BTreeSet<u16> = (self.draining.iter())
            .filter(|draining| draining.target == *target)
            .map(|draining| draining.lun)
            .collect();
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
                let is_free = |lun: &u16| !map.luns.contains_key(lun) && !drain.contains(lun);
                let free = (map.full_to..=LUN_MAX).find(is_free);
                map.full_to = free.unwrap_or(LUN_MAX);
                free.ok_or_else(|| {
                    let count = u32::from(LUN_MAX) + 1;
                    let what = format!("all {count} LUNs of target {target} are in use");
                    Refused::new(Errno::NOSPC, what)
                })
            }
        }
    }

    /// Takes a LUN out of the map. What it showed stays in use until [`Control::end_draining`].
    /// The bdev that the LUN showed.
    fn begin_draining(&mut self, target: &str, lun: u16) -> String {
        let map = self.target_mut(target).expect("whoever takes a LUN away holds its target");
        let mapping = map.luns.remove(&lun).expect("asked for by the LUN");
        let bdev = mapping.bdev_name().to_owned();
        let unit = self.units.get_mut(&bdev).expect("a mapped bdev has a unit");
        unit.places.remove(&(target.to_owned(), lun));
        let (target, since) = (target.to_owned(), Instant::now());
        self.draining.push(Draining { target, lun, bdev: bdev.clone(), since });
        bdev
    }

    /// No command uses a LUN any more that was taken out of the map.
    fn end_draining(&mut self, target: &str, lun: u16) {
        let is_it = |draining: &Draining| draining.target == target && draining.lun == lun;
        let at = self.draining.iter().position(is_it).expect("begun before");
        if let Ok(map) = self.target_mut(target) {
            map.full_to = map.full_to.min(lun);
        }
        self.draining.swap_remove(at);
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
        let lu = Arc::new(LogicalUnit::new(UnitId::new(self.units_made), bdev, identity));
        lu.limiter.set(&limits);
        let (name, overrides) = (lu.bdev.name().to_owned(), request.overrides.clone());
        self.units.insert(name, Unit { lu: Arc::clone(&lu), overrides, places: BTreeSet::new() });
        Ok(lu)
    }

    /// The channels of a bdev are closed, or will be.
    fn forget_unit(&mut self, name: &str, reports: &[Report]) {
        self.units.remove(name);
        self.keep_counts(name, reports);
        self.bdevs.release(name).expect("a claimed bdev is not deleted");
    }
}

/// Shows a logical unit on every core, once every session that knows another one under the LUN must
/// ask first.
async fn show(
    desk: &Desk,
    (target, lun): (&str, u16),
    lu: &Arc<LogicalUnit>,
    read_only: bool,
) -> Result<(), Partial> {
    let (target, lu) = (target.to_owned(), Arc::clone(lu));
    let announce = Action::AnnounceLun { target: target.clone(), lun, lu: Arc::clone(&lu) };
    desk.all_within(&announce, ANSWER_WAIT_MAX).await?;
    let map = Action::MapLun { target, lun, lu, read_only };
    desk.all_within(&map, ANSWER_WAIT_MAX).await?;
    Ok(())
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
