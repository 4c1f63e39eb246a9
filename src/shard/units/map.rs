//! The LUN maps of a core's targets: which logical unit is under which LUN.
//!
//! [`Luns`] is one core's copy of the maps: the path of a command reads only that. A mapping that
//! commands still use stays until the last one has ended, invisible to new ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use bdev::{CoreContext, OpenError};
use reactor::Slab;

use super::device::Devices;
use super::mapping::Mapping;
use crate::shard::coverage::{Mark, mark};
use crate::shard::names::{LOW_LUNS, MAPPINGS_MAX, MappingKey, TargetSpec, Token, UnitId};
use crate::shard::unit::{LogicalUnit, View};

/// A target on this core.
pub(crate) struct Target {
    spec: Arc<TargetSpec>,
    /// LUN to mapping.
    luns: BTreeMap<u16, MappingKey>,
    /// The mappings of the first LUNs, found without a search.
    low: Box<[Option<MappingKey>; LOW_LUNS]>,
}

impl Target {
    /// Name, GUID and port.
    pub(crate) fn spec(&self) -> &Arc<TargetSpec> {
        &self.spec
    }
}

/// One core's targets, mappings and devices.
pub(crate) struct Luns {
    targets: Vec<Option<Target>>,
    mappings: Slab<Mapping>,
    /// The mappings of each logical unit that are in the map.
    units: BTreeMap<UnitId, Vec<MappingKey>>,
    /// What is decided of units that are not open to every session.
    views: BTreeMap<UnitId, View>,
    devices: Devices,
}

impl Luns {
    /// No targets yet; channels are opened with `context`.
    pub(crate) fn new(context: CoreContext) -> Luns {
        Luns {
            targets: Vec::new(),
            mappings: Slab::new(MAPPINGS_MAX),
            units: BTreeMap::new(),
            views: BTreeMap::new(),
            devices: Devices::new(context),
        }
    }

    /// The devices behind the units.
    #[inline]
    pub(crate) fn devices(&self) -> &Devices {
        &self.devices
    }

    /// The devices behind the units.
    #[inline]
    pub(crate) fn devices_mut(&mut self) -> &mut Devices {
        &mut self.devices
    }

    /// Adds a target without LUNs.
    pub(crate) fn create_target(&mut self, spec: Arc<TargetSpec>) {
        let target = Target { spec, luns: BTreeMap::new(), low: Box::new([None; LOW_LUNS]) };
        match self.targets.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(target),
            None => self.targets.push(Some(target)),
        }
    }

    /// Forgets a target, if it is still there, and what is mapped in it; its channels are gone.
    pub(crate) fn delete_target(&mut self, index: usize) {
        let Some(target) = self.targets[index].take() else { return };
        for key in target.luns.into_values() {
            self.hide(key);
            self.drop_mapping(key);
        }
    }

    /// A target by its number.
    #[inline]
    pub(crate) fn target(&self, index: usize) -> &Target {
        self.targets[index].as_ref().expect("a target with channels is not deleted")
    }

    fn target_mut(&mut self, index: usize) -> &mut Target {
        self.targets[index].as_mut().expect("an index of a target")
    }

    /// Shows a logical unit under a LUN, opening the device's channel if this core has none.
    pub(crate) fn map(
        &mut self,
        target: &str,
        lun: u16,
        lu: Arc<LogicalUnit>,
        read_only: bool,
    ) -> Result<(), OpenError> {
        let device = self.devices.begin_mapping(&lu.bdev)?;
        let target = self.target_index(target);
        let target = target.expect("the control plane maps only into targets that exist");
        let view = self.views.get(&lu.id).copied().unwrap_or_default();
        let mapping = Mapping::new(lu, (target, lun), read_only, device, view);
        let unit = mapping.unit();
        let place = self.mappings.insert(mapping);
        let place = place.unwrap_or_else(|_| panic!("the control plane keeps to the limit"));
        let key = MappingKey::of(place);
        self.units.entry(unit).or_default().push(key);
        let target = self.target_mut(target);
        let old = target.luns.insert(lun, key);
        assert!(old.is_none(), "LUN {lun} was mapped already");
        if let Some(slot) = target.low.get_mut(usize::from(lun)) {
            *slot = Some(key);
        }
        Ok(())
    }

    /// Takes a LUN out of the map. True when no command uses it; else [`Luns::end_use`] returns
    /// `token` when the last one has ended. A LUN that is leaving can be taken out again.
    pub(crate) fn unmap(&mut self, target: &str, lun: u16, token: Token) -> bool {
        let Some(index) = self.target_index(target) else { return true };
        let target = self.target_mut(index);
        let mapped = target.luns.remove(&lun);
        mapped.inspect(|key| self.hide(*key));
        let Some(key) = mapped.or_else(|| self.leaving(index, lun)) else { return true };
        let target = self.target_mut(index);
        if let Some(slot) = target.low.get_mut(usize::from(lun)) {
            *slot = None;
        }
        let mapping = self.mappings.get_mut(key.place()).expect("mapped");
        if mapping.leave(token) {
            mark(Mark::UnmapWaits);
            return false;
        }
        self.drop_mapping(key);
        true
    }

    /// A mapping is no longer in the map.
    fn hide(&mut self, key: MappingKey) {
        let unit = self.mapping(key).unit();
        let keys = self.units.get_mut(&unit).expect("of a mapping in the map");
        keys.retain(|other| *other != key);
        if keys.is_empty() {
            self.units.remove(&unit);
        }
    }

    /// What was mapped under a LUN until it was taken out, and commands still use.
    fn leaving(&self, target: usize, lun: u16) -> Option<MappingKey> {
        let left = |mapping: &Mapping| {
            mapping.target() == target && mapping.lun() == lun && mapping.is_leaving()
        };
        let mut mappings = self.mappings.iter();
        mappings.find_map(|(place, mapping)| left(mapping).then_some(MappingKey::of(place)))
    }

    /// The LUNs of a target, ascending.
    pub(crate) fn lun_list(&self, target: usize) -> impl ExactSizeIterator<Item = u16> + '_ {
        self.target(target).luns.keys().copied()
    }

    /// Number of a target on this core, the same until it is deleted.
    pub(crate) fn target_index(&self, name: &str) -> Option<usize> {
        let named = |slot: &Option<Target>| slot.as_ref().is_some_and(|t| t.spec.name == name);
        self.targets.iter().position(named)
    }

    /// The mapping of a LUN.
    #[inline]
    pub(crate) fn find(&self, target: usize, lun: u16) -> Option<MappingKey> {
        let target = self.target(target);
        match target.low.get(usize::from(lun)) {
            Some(slot) => *slot,
            None => target.luns.get(&lun).copied(),
        }
    }

    /// A mapping that a command uses or that [`Luns::find`] has just found.
    #[inline]
    pub(crate) fn mapping(&self, key: MappingKey) -> &Mapping {
        self.mappings.get(key.place()).expect("a mapping in use is not dropped")
    }

    #[inline]
    fn mapping_mut(&mut self, key: MappingKey) -> &mut Mapping {
        self.mappings.get_mut(key.place()).expect("a mapping in use is not dropped")
    }

    /// A command begins to use a mapping.
    #[inline]
    pub(crate) fn begin_use(&mut self, key: MappingKey) {
        self.mapping_mut(key).begin_use();
    }

    /// A command has ended. True: it was the last one of a mapping that leaves, and
    /// [`Luns::take_leaving`] is due.
    #[inline]
    #[must_use]
    pub(crate) fn end_use(&mut self, key: MappingKey) -> bool {
        self.mapping_mut(key).end_use()
    }

    /// A read or write of `bytes` bytes through a mapping has been done in `took_ns` and its
    /// command has ended. False: nothing was done, because the mapping leaves or somebody wants
    /// a histogram.
    #[inline]
    pub(crate) fn end_transfer(
        &mut self,
        key: MappingKey,
        is_read: bool,
        bytes: u32,
        took_ns: u64,
    ) -> bool {
        let mapping = self.mappings.get_mut(key.place()).expect("a mapping in use is not dropped");
        if mapping.is_leaving()
            || !self.devices.end_transfer(mapping.device(), is_read, bytes, took_ns)
        {
            return false;
        }
        mapping.end_use();
        true
    }

    /// Drops a mapping that nobody uses any more: the control plane's questions that waited.
    #[cold]
    pub(crate) fn take_leaving(&mut self, key: MappingKey) -> Vec<Token> {
        let tokens = self.mapping_mut(key).take_leaving();
        self.drop_mapping(key);
        tokens
    }

    /// Where a logical unit is mapped: pairs of target name and LUN.
    pub(crate) fn places_of(&self, unit: UnitId) -> Vec<(String, u16)> {
        let keys = self.units.get(&unit).into_iter().flatten();
        keys.map(|key| self.place(self.mapping(*key))).collect()
    }

    /// Where a device is mapped: pairs of target name and LUN.
    pub(crate) fn places_of_bdev(&self, bdev: &str) -> Vec<(String, u16)> {
        let of = |mapping: &&Mapping| mapping.lu().bdev.name() == bdev && !mapping.is_leaving();
        let mappings = self.mappings.iter().map(|(_, mapping)| mapping);
        mappings.filter(of).map(|mapping| self.place(mapping)).collect()
    }

    fn place(&self, mapping: &Mapping) -> (String, u16) {
        (self.target(mapping.target()).spec.name.clone(), mapping.lun())
    }

    fn mappings_of(&mut self, bdev: &str) -> impl Iterator<Item = &mut Mapping> {
        let mappings = self.mappings.iter_mut().map(|(_, mapping)| mapping);
        mappings.filter(move |mapping| mapping.lu().bdev.name() == bdev)
    }

    /// Looks again at a device's size and abilities, and whether its medium is there.
    pub(crate) fn refresh(&mut self, bdev: &str) {
        self.mappings_of(bdev).for_each(Mapping::refresh);
        self.devices.refresh(bdev);
    }

    /// LOGICAL UNIT RESET: resets the device, if it takes commands.
    pub(crate) fn reset_unit(&mut self, key: MappingKey) {
        let mapping = self.mapping(key);
        if mapping.passes() {
            let device = mapping.device();
            self.devices.reset(device);
        }
    }

    /// The home core of a unit has decided something, for mappings of now and those to come.
    pub(crate) fn set_view(&mut self, unit: UnitId, view: View) {
        match view.is_open() {
            true => self.views.remove(&unit),
            false => self.views.insert(unit, view),
        };
        for key in self.units.get(&unit).into_iter().flatten() {
            let mapping = self.mappings.get_mut(key.place()).expect("in the map");
            mapping.set_view(view);
        }
    }

    /// True when a unit is in the map of a target.
    pub(crate) fn shows(&self, unit: UnitId, target: &TargetSpec) -> bool {
        let mut keys = self.units.get(&unit).into_iter().flatten();
        keys.any(|key| self.target(self.mapping(*key).target()).spec.name == target.name)
    }

    /// Whether commands to a device are charged. The numbers of its logical units.
    pub(crate) fn set_limited(&mut self, bdev: &str, limited: bool) -> Vec<UnitId> {
        let mut units = Vec::new();
        for mapping in self.mappings_of(bdev) {
            mapping.set_limited(limited);
            if !units.contains(&mapping.unit()) {
                units.push(mapping.unit());
            }
        }
        units
    }

    fn drop_mapping(&mut self, key: MappingKey) {
        let mapping = self.mappings.remove(key.place()).expect("a live mapping");
        self.devices.end_mapping(mapping.device());
    }
}
