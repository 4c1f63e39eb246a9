//! The LUN map, and one core's channels to the devices behind it.
//!
//! [`Luns`] is one core's copy of the map: the path of a command reads only that. A mapping that
//! commands still use stays until the last one has ended, invisible to new ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use bdev::{Bdev, CoreContext, Geometry, IoChannel, IoDone, IoOp, OpenError, ScsiEnd, ScsiIo};
use reactor::{Batch, Buf, Instant, Slab, Tag};

use super::counts::IoCounts;
use super::coverage::{Mark, mark};
use super::known::UNITS_MAX;
use super::meter::{Histogram, Meter, OpKind};
use super::names::Token;

pub use super::names::{LUN_MAX, TargetSpec};
pub use super::unit::LogicalUnit;

/// Mappings of all targets together: every core has a place for each.
pub const MAPPINGS_MAX: usize = 16384;

const _: () = assert!(UNITS_MAX >= 2 * MAPPINGS_MAX);

/// A logical unit under a LUN of a target, on this core.
pub struct Mapping {
    /// The unit.
    pub lu: Arc<LogicalUnit>,
    /// Its LUN.
    pub lun: u16,
    /// Writes are refused.
    pub read_only: bool,
    /// Commands go to the device as they are.
    pub passes: bool,
    /// Commands are charged to the limits of the unit.
    pub limited: bool,
    /// Size and abilities of the device.
    pub geometry: Geometry,
    /// The device has its medium.
    pub ready: bool,
    /// The device only holds the LUN's place.
    pub placeholder: bool,
    /// Index of the device's channel in [`Luns`].
    pub device: usize,
    /// Number of its target in [`Luns`].
    target: usize,
    /// Commands that use the mapping.
    pub uses: u32,
    /// Taken out of the map: the control plane's questions that wait for the last command.
    leaving: Vec<Token>,
}

/// One core's channel of a device.
pub struct Device {
    /// The device.
    pub bdev: Arc<dyn Bdev>,
    /// Operations submitted and not come back.
    pub in_flight: u32,
    /// What it did on this core.
    pub meter: Meter,
    channel: Box<dyn IoChannel>,
    mappings: u32,
    active: bool,
    /// The control plane has let go of it; commands of its last mapping have not.
    closing: bool,
}

impl Device {
    /// Name of the device, and its counts.
    pub fn named_counts(&self) -> (String, IoCounts) {
        (self.bdev.name().to_owned(), self.meter.counts)
    }
}

/// A target on this core.
pub struct Target {
    /// Name, GUID and port.
    pub spec: Arc<TargetSpec>,
    /// LUN to mapping.
    luns: BTreeMap<u16, Tag>,
    /// The mappings of the first LUNs, found without a search.
    low: Vec<Option<Tag>>,
}

/// LUNs found by index instead of by search.
const LOW_LUNS: usize = 256;

/// One core's targets, mappings and devices.
pub struct Luns {
    targets: Vec<Option<Target>>,
    mappings: Slab<Mapping>,
    /// The mappings of each logical unit that are in the map, by its number.
    units: BTreeMap<u32, Vec<Tag>>,
    devices: Vec<Option<Device>>,
    active: Vec<usize>,
    context: CoreContext,
}

impl Luns {
    /// No targets yet; channels are opened with `context`.
    pub fn new(context: CoreContext) -> Luns {
        Luns {
            targets: Vec::new(),
            mappings: Slab::new(MAPPINGS_MAX),
            units: BTreeMap::new(),
            devices: Vec::new(),
            active: Vec::new(),
            context,
        }
    }

    /// Adds a target without LUNs.
    pub fn create_target(&mut self, spec: Arc<TargetSpec>) {
        let target = Target { spec, luns: BTreeMap::new(), low: vec![None; LOW_LUNS] };
        match self.targets.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(target),
            None => self.targets.push(Some(target)),
        }
    }

    /// Forgets a target, if it is still there, and what is mapped in it; its channels are gone.
    pub fn delete_target(&mut self, index: usize) {
        let Some(target) = self.targets[index].take() else { return };
        for tag in target.luns.into_values() {
            self.hide(tag);
            self.drop_mapping(tag);
        }
    }

    /// A target by its number.
    #[inline]
    pub fn target(&self, index: usize) -> &Target {
        self.targets[index].as_ref().expect("a target with channels is not deleted")
    }

    fn target_mut(&mut self, index: usize) -> &mut Target {
        self.targets[index].as_mut().expect("an index of a target")
    }

    /// Shows a logical unit under a LUN, opening the device's channel if this core has none.
    pub fn map(
        &mut self,
        target: &str,
        lun: u16,
        lu: Arc<LogicalUnit>,
        read_only: bool,
    ) -> Result<(), OpenError> {
        let device = self.open(&lu.bdev)?;
        let (geometry, ready) = (lu.bdev.geometry(), lu.bdev.ready());
        let placeholder = lu.bdev.placeholder();
        let target = self.target_index(target);
        let target = target.expect("the control plane maps only into targets that exist");
        let mapping = Mapping {
            passes: lu.bdev.scsi().is_some(),
            limited: lu.limiter.limits().is_on(),
            lu,
            lun,
            read_only,
            geometry,
            ready,
            placeholder,
            device,
            target,
            uses: 0,
            leaving: Vec::new(),
        };
        let unit = mapping.lu.id;
        let tag = self
            .mappings
            .insert(mapping)
            .unwrap_or_else(|_| panic!("the control plane keeps to the limit"));
        self.units.entry(unit).or_default().push(tag);
        self.devices[device].as_mut().expect("just opened").mappings += 1;
        let target = self.target_mut(target);
        let old = target.luns.insert(lun, tag);
        assert!(old.is_none(), "LUN {lun} was mapped already");
        if let Some(slot) = target.low.get_mut(usize::from(lun)) {
            *slot = Some(tag);
        }
        Ok(())
    }

    /// Takes a LUN out of the map. True when no command uses it; else [`Luns::end_use`] returns
    /// `token` when the last one has ended. A LUN that is leaving can be taken out again.
    pub fn unmap(&mut self, target: &str, lun: u16, token: Token) -> bool {
        let Some(index) = self.target_index(target) else { return true };
        let target = self.target_mut(index);
        let mapped = target.luns.remove(&lun);
        mapped.inspect(|tag| self.hide(*tag));
        let Some(tag) = mapped.or_else(|| self.leaving(index, lun)) else { return true };
        let target = self.target_mut(index);
        if let Some(slot) = target.low.get_mut(usize::from(lun)) {
            *slot = None;
        }
        let mapping = self.mappings.get_mut(tag).expect("mapped");
        if mapping.uses > 0 {
            mark(Mark::UnmapWaits);
            mapping.leaving.push(token);
            return false;
        }
        self.drop_mapping(tag);
        true
    }

    /// A mapping is no longer in the map.
    fn hide(&mut self, tag: Tag) {
        let unit = self.mapping(tag).lu.id;
        let tags = self.units.get_mut(&unit).expect("of a mapping in the map");
        tags.retain(|other| *other != tag);
        if tags.is_empty() {
            self.units.remove(&unit);
        }
    }

    /// What was mapped under a LUN until it was taken out, and commands still use.
    fn leaving(&self, target: usize, lun: u16) -> Option<Tag> {
        let left = |mapping: &Mapping| {
            mapping.target == target && mapping.lun == lun && !mapping.leaving.is_empty()
        };
        self.mappings.iter().find_map(|(tag, mapping)| left(mapping).then_some(tag))
    }

    /// The LUNs of a target, ascending.
    pub fn lun_list(&self, target: usize) -> impl ExactSizeIterator<Item = u16> + '_ {
        self.target(target).luns.keys().copied()
    }

    /// Number of a target on this core, the same until it is deleted.
    pub fn target_index(&self, name: &str) -> Option<usize> {
        let named = |slot: &Option<Target>| slot.as_ref().is_some_and(|t| t.spec.name == name);
        self.targets.iter().position(named)
    }

    /// The mapping of a LUN.
    #[inline]
    pub fn find(&self, target: usize, lun: u16) -> Option<Tag> {
        let target = self.target(target);
        match target.low.get(usize::from(lun)) {
            Some(slot) => *slot,
            None => target.luns.get(&lun).copied(),
        }
    }

    /// A mapping that a command uses or that [`Luns::find`] has just found.
    #[inline]
    pub fn mapping(&self, tag: Tag) -> &Mapping {
        self.mappings.get(tag).expect("a mapping in use is not dropped")
    }

    /// See [`Luns::mapping`].
    #[inline]
    pub fn mapping_mut(&mut self, tag: Tag) -> &mut Mapping {
        self.mappings.get_mut(tag).expect("a mapping in use is not dropped")
    }

    /// A command begins to use a mapping.
    #[inline]
    pub fn begin_use(&mut self, tag: Tag) {
        self.mappings.get_mut(tag).expect("found just now").uses += 1;
    }

    /// A command has ended. True: it was the last one of a mapping that leaves, and
    /// [`Luns::take_leaving`] is due.
    #[inline]
    #[must_use]
    pub fn end_use(&mut self, tag: Tag) -> bool {
        let mapping = self.mappings.get_mut(tag).expect("a mapping in use is not dropped");
        mapping.uses -= 1;
        mapping.uses == 0 && !mapping.leaving.is_empty()
    }

    /// Drops a mapping that nobody uses any more: the control plane's questions that waited.
    #[cold]
    pub fn take_leaving(&mut self, tag: Tag) -> Vec<Token> {
        let mapping = self.mappings.get_mut(tag).expect("not dropped yet");
        let tokens = std::mem::take(&mut mapping.leaving);
        self.drop_mapping(tag);
        tokens
    }

    /// Where a logical unit is mapped: pairs of target name and LUN.
    pub fn places_of(&self, unit: u32) -> Vec<(String, u16)> {
        let tags = self.units.get(&unit).into_iter().flatten();
        tags.map(|tag| self.place(self.mapping(*tag))).collect()
    }

    /// Where a device is mapped: pairs of target name and LUN.
    pub fn places_of_bdev(&self, bdev: &str) -> Vec<(String, u16)> {
        let of = |mapping: &&Mapping| mapping.lu.bdev.name() == bdev && mapping.leaving.is_empty();
        let mappings = self.mappings.iter().map(|(_, mapping)| mapping);
        mappings.filter(of).map(|mapping| self.place(mapping)).collect()
    }

    fn place(&self, mapping: &Mapping) -> (String, u16) {
        (self.target(mapping.target).spec.name.clone(), mapping.lun)
    }

    /// Looks again at a device's size and abilities, and whether its medium is there.
    pub fn refresh(&mut self, bdev: &str) {
        for (_, mapping) in self.mappings.iter_mut() {
            if mapping.lu.bdev.name() == bdev {
                mapping.geometry = mapping.lu.bdev.geometry();
                mapping.ready = mapping.lu.bdev.ready();
            }
        }
        for device in self.devices.iter_mut().flatten() {
            if device.bdev.name() == bdev {
                device.channel.refresh();
            }
        }
    }

    /// Submits to the device of a mapping.
    #[inline(always)]
    pub fn submit(&mut self, device: usize, io: bdev::Io) {
        self.activate(device).channel.submit(io);
    }

    /// A read or write of `bytes` bytes that the device of a mapping does before this returns, and
    /// counted. False: nothing was done, because the device takes its time, the operation would
    /// fail, or somebody wants a histogram.
    #[inline(always)]
    pub fn at_once(&mut self, device: usize, op: &IoOp, bytes: u32, buf: &mut Buf) -> bool {
        let open = self.devices[device].as_mut().expect("a mapping keeps its device open");
        if open.meter.histogram.is_some() || !open.channel.at_once(op, buf) {
            return false;
        }
        open.meter.counts.count_transfer(!op.changes_medium(), bytes, 0);
        true
    }

    /// As [`Luns::at_once`], a write of bytes that the caller keeps.
    #[inline(always)]
    pub fn write_at_once(&mut self, device: usize, op: &IoOp, data: &[u8]) -> bool {
        let open = self.devices[device].as_mut().expect("a mapping keeps its device open");
        if open.meter.histogram.is_some() || !open.channel.write_at_once(op, data) {
            return false;
        }
        open.meter.counts.count_transfer(false, data.len() as u32, 0);
        true
    }

    /// Submits a command to the device of a mapping that passes commands on.
    pub fn submit_scsi(&mut self, device: usize, io: ScsiIo<'_>) {
        self.activate(device).channel.submit_scsi(io);
    }

    /// Counts an operation that is about to be submitted.
    #[inline]
    fn activate(&mut self, device: usize) -> &mut Device {
        let open = self.devices[device].as_mut().expect("a mapping keeps its device open");
        open.in_flight += 1;
        if !open.active {
            open.active = true;
            self.active.push(device);
        }
        open
    }

    /// How a command ended whose completion has just come.
    pub fn scsi_end(&self, device: usize, tag: Tag) -> &ScsiEnd {
        let open = self.devices[device].as_ref().expect("a mapping keeps its device open");
        open.channel.scsi_end(tag)
    }

    /// LOGICAL UNIT RESET: ends reservations and resets the device, if it takes commands.
    pub fn reset_unit(&mut self, tag: Tag) {
        let mapping = self.mapping(tag);
        mapping.lu.release_all();
        if mapping.passes {
            let device = mapping.device;
            self.devices[device].as_mut().expect("a mapping keeps its device open").channel.reset();
        }
    }

    /// Ends the reservations of a session that is gone.
    pub fn release_reservations(&self, session: u64) {
        self.mappings.iter().for_each(|(_, mapping)| mapping.lu.release(session));
    }

    /// Hands what was submitted to the devices.
    #[inline]
    pub fn flush(&mut self) {
        for device in &self.active {
            self.devices[*device].as_mut().expect("active devices are open").channel.flush();
        }
    }

    /// Collects completions of the devices that have something in flight.
    #[inline]
    pub fn poll(&mut self, now: Instant, done: &mut Batch<IoDone>) {
        for device in &self.active {
            let open = self.devices[*device].as_mut().expect("active devices are open");
            open.channel.poll(now, done);
        }
    }

    /// A read or write of `bytes` bytes through a mapping has been done in `took_ns` and its
    /// command has ended. False: nothing was done, because the mapping leaves or somebody wants
    /// a histogram.
    #[inline]
    pub fn end_transfer(&mut self, tag: Tag, is_read: bool, bytes: u32, took_ns: u64) -> bool {
        let mapping = self.mappings.get_mut(tag).expect("a mapping in use is not dropped");
        let open = self.devices[mapping.device].as_mut();
        let open = open.expect("a mapping keeps its device open");
        if !mapping.leaving.is_empty() || open.meter.histogram.is_some() {
            return false;
        }
        mapping.uses -= 1;
        open.in_flight -= 1;
        open.meter.counts.count_transfer(is_read, bytes, took_ns);
        true
    }

    /// A completion of a device has been taken.
    #[inline]
    pub fn on_done(&mut self, device: usize) -> &mut Meter {
        let open = self.devices[device].as_mut().expect("a mapping keeps its device open");
        open.in_flight -= 1;
        &mut open.meter
    }

    /// Forgets devices that have nothing in flight, so that idle ones cost nothing per turn.
    #[inline]
    pub fn settle(&mut self) {
        let devices = &mut self.devices;
        self.active.retain(|device| {
            let open = devices[*device].as_mut().expect("active devices are open");
            open.active = open.in_flight > 0;
            open.active
        });
    }

    /// Arms the wake-up of every device with something in flight.
    pub fn arm(&mut self) -> bool {
        let devices = &mut self.devices;
        self.active
            .iter()
            .all(|device| devices[*device].as_mut().expect("active devices are open").channel.arm())
    }

    /// What a device did on this core.
    pub fn meter(&mut self, device: usize) -> &mut Meter {
        &mut self.devices[device].as_mut().expect("a mapping keeps its device open").meter
    }

    /// Open devices, for reports.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().flatten()
    }

    /// Starts the counts of some devices anew: all counts, or only the longest and shortest times.
    pub fn reset_counts(&mut self, bdevs: &[String], sums: bool) {
        for device in self.devices.iter_mut().flatten() {
            if bdevs.iter().any(|name| name == device.bdev.name()) {
                device.meter.counts.reset(sums);
            }
        }
    }

    /// Counts times of a device from now on, or stops.
    pub fn set_histogram(&mut self, bdev: &str, enable: bool, only: Option<OpKind>) {
        if let Some(device) = self.devices.iter_mut().flatten().find(|d| d.bdev.name() == bdev) {
            device.meter.histogram = enable.then(|| Box::new(Histogram::new(only)));
        }
    }

    /// The times of a device, if they are counted.
    pub fn histogram(&self, bdev: &str) -> Option<Box<Histogram>> {
        self.devices().find(|d| d.bdev.name() == bdev)?.meter.histogram.clone()
    }

    /// Whether commands to a device are charged. The numbers of its logical units.
    pub fn set_limited(&mut self, bdev: &str, limited: bool) -> Vec<u32> {
        let mut units = Vec::new();
        for (_, mapping) in self.mappings.iter_mut() {
            if mapping.lu.bdev.name() == bdev {
                mapping.limited = limited;
                if !units.contains(&mapping.lu.id) {
                    units.push(mapping.lu.id);
                }
            }
        }
        units
    }

    /// Closes a device's channel; what the channel did. A mapping that commands still use closes it
    /// with its end, and what it did is not told.
    pub fn close(&mut self, bdev: &str) -> Option<(IoCounts, Option<Box<Histogram>>)> {
        let mut did = None;
        for slot in &mut self.devices {
            let Some(device) = slot.take_if(|device| device.bdev.name() == bdev) else { continue };
            if device.mappings > 0 {
                *slot = Some(Device { closing: true, ..device });
                continue;
            }
            did = Some((device.meter.counts, device.meter.histogram));
        }
        self.drop_inactive();
        did
    }

    fn drop_inactive(&mut self) {
        let devices = &self.devices;
        self.active.retain(|device| devices[*device].is_some());
    }

    fn open(&mut self, bdev: &Arc<dyn Bdev>) -> Result<usize, OpenError> {
        let same =
            |slot: &Option<Device>| slot.as_ref().is_some_and(|d| Arc::ptr_eq(&d.bdev, bdev));
        if let Some(index) = self.devices.iter().position(same) {
            self.devices[index].as_mut().expect("found by what it is").closing = false;
            return Ok(index);
        }
        let channel = bdev.open_channel(&mut self.context)?;
        let device = Device {
            bdev: Arc::clone(bdev),
            in_flight: 0,
            meter: Meter::default(),
            channel,
            mappings: 0,
            active: false,
            closing: false,
        };
        match self.devices.iter().position(Option::is_none) {
            Some(index) => {
                self.devices[index] = Some(device);
                Ok(index)
            }
            None => {
                self.devices.push(Some(device));
                Ok(self.devices.len() - 1)
            }
        }
    }

    fn drop_mapping(&mut self, tag: Tag) {
        let mapping = self.mappings.remove(tag).expect("a live mapping");
        let slot = &mut self.devices[mapping.device];
        let device = slot.as_mut().expect("still open");
        device.mappings -= 1;
        if device.mappings == 0 && device.closing {
            *slot = None;
            self.drop_inactive();
        }
    }
}
