//! One core's channels to the devices behind the logical units, and what they did.

use std::collections::BTreeSet;
use std::sync::Arc;

use bdev::{Bdev, CoreContext, Io, IoChannel, IoDone, IoOp, OpenError, ScsiEnd, ScsiIo};
use reactor::{Batch, Buf, Instant, Tag};

use crate::shard::counts::IoCounts;
use crate::shard::meter::{Histogram, Meter, OpKind};

/// A device of this core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceKey(usize);

/// One core's channel of a device.
pub(crate) struct Device {
    bdev: Arc<dyn Bdev>,
    channel: Box<dyn IoChannel>,
    /// Operations submitted and not come back.
    in_flight: u32,
    meter: Meter,
    mappings: u32,
    active: bool,
    /// The control plane has let go of it; commands of its last mapping have not.
    closing: bool,
}

impl Device {
    fn is_named(&self, bdev: &str) -> bool {
        self.bdev.name() == bdev
    }

    /// Name of the device, and its counts.
    pub(crate) fn named_counts(&self) -> (String, IoCounts) {
        (self.bdev.name().to_owned(), self.meter.counts)
    }
}

/// One core's devices. A mapping keeps its device open.
pub(crate) struct Devices {
    devices: Vec<Option<Device>>,
    /// Those with something in flight.
    active: Vec<DeviceKey>,
    /// Names of devices at whose media the control plane has been asked to look, until it answers:
    /// another device may have the name by then.
    doubted: BTreeSet<String>,
    context: CoreContext,
}

impl Devices {
    /// None yet; channels are opened with `context`.
    pub(super) fn new(context: CoreContext) -> Devices {
        Devices { devices: Vec::new(), active: Vec::new(), doubted: BTreeSet::new(), context }
    }

    #[inline]
    fn open(&self, key: DeviceKey) -> &Device {
        self.devices[key.0].as_ref().expect("a mapping keeps its device open")
    }

    #[inline(always)]
    fn open_mut(&mut self, key: DeviceKey) -> &mut Device {
        self.devices[key.0].as_mut().expect("a mapping keeps its device open")
    }

    /// A mapping of the device begins: opens a channel if this core has none.
    pub(super) fn begin_mapping(&mut self, bdev: &Arc<dyn Bdev>) -> Result<DeviceKey, OpenError> {
        let same =
            |slot: &Option<Device>| slot.as_ref().is_some_and(|d| Arc::ptr_eq(&d.bdev, bdev));
        let key = match self.devices.iter().position(same) {
            Some(index) => DeviceKey(index),
            None => {
                let channel = bdev.open_channel(&mut self.context)?;
                self.insert(Device {
                    bdev: Arc::clone(bdev),
                    channel,
                    in_flight: 0,
                    meter: Meter::default(),
                    mappings: 0,
                    active: false,
                    closing: false,
                })
            }
        };
        let device = self.open_mut(key);
        device.closing = false;
        device.mappings += 1;
        Ok(key)
    }

    fn insert(&mut self, device: Device) -> DeviceKey {
        match self.devices.iter().position(Option::is_none) {
            Some(index) => {
                self.devices[index] = Some(device);
                DeviceKey(index)
            }
            None => {
                self.devices.push(Some(device));
                DeviceKey(self.devices.len() - 1)
            }
        }
    }

    /// A mapping of the device has ended.
    pub(super) fn end_mapping(&mut self, key: DeviceKey) {
        let device = self.open_mut(key);
        device.mappings -= 1;
        if device.mappings == 0 && device.closing {
            self.devices[key.0] = None;
            self.drop_inactive();
        }
    }

    /// Closes a device's channel; what the channel did. A mapping that commands still use closes it
    /// with its end, and what it did is not told.
    pub(crate) fn close(&mut self, bdev: &str) -> Option<(IoCounts, Option<Box<Histogram>>)> {
        let mut did = None;
        for slot in &mut self.devices {
            let Some(device) = slot.take_if(|device| device.is_named(bdev)) else { continue };
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
        self.active.retain(|key| devices[key.0].is_some());
    }

    /// Looks again at a device's size and abilities.
    pub(super) fn refresh(&mut self, bdev: &str) {
        for device in self.devices.iter_mut().flatten().filter(|device| device.is_named(bdev)) {
            device.channel.refresh();
        }
    }

    /// Submits an operation.
    #[inline(always)]
    pub(crate) fn submit(&mut self, key: DeviceKey, io: Io) {
        self.activate(key).channel.submit(io);
    }

    /// A read or write of `bytes` bytes that the device does before this returns, and counted.
    /// False: nothing was done, because the device takes its time, the operation would fail, or
    /// somebody wants a histogram.
    #[inline(always)]
    pub(crate) fn at_once(&mut self, key: DeviceKey, op: &IoOp, bytes: u32, buf: &mut Buf) -> bool {
        let open = self.open_mut(key);
        if open.meter.histogram.is_some() || !open.channel.at_once(op, buf) {
            return false;
        }
        open.meter.counts.count_transfer(!op.changes_medium(), bytes, 0);
        true
    }

    /// As [`Devices::at_once`], a write of bytes that the caller keeps.
    #[inline(always)]
    pub(crate) fn write_at_once(&mut self, key: DeviceKey, op: &IoOp, data: &[u8]) -> bool {
        let open = self.open_mut(key);
        if open.meter.histogram.is_some() || !open.channel.write_at_once(op, data) {
            return false;
        }
        open.meter.counts.count_transfer(false, data.len() as u32, 0);
        true
    }

    /// Submits a command to a device that takes commands.
    pub(crate) fn submit_scsi(&mut self, key: DeviceKey, io: ScsiIo<'_>) {
        self.activate(key).channel.submit_scsi(io);
    }

    /// How a command ended whose completion has just come.
    pub(crate) fn scsi_end(&self, key: DeviceKey, tag: Tag) -> &ScsiEnd {
        self.open(key).channel.scsi_end(tag)
    }

    /// Resets a device that takes commands.
    pub(super) fn reset(&mut self, key: DeviceKey) {
        self.open_mut(key).channel.reset();
    }

    /// Counts an operation that is about to be submitted.
    #[inline]
    fn activate(&mut self, key: DeviceKey) -> &mut Device {
        let open = self.devices[key.0].as_mut().expect("a mapping keeps its device open");
        open.in_flight += 1;
        if !open.active {
            open.active = true;
            self.active.push(key);
        }
        open
    }

    /// Hands what was submitted to the devices.
    #[inline]
    pub(crate) fn flush(&mut self) {
        for key in &self.active {
            self.devices[key.0].as_mut().expect("active devices are open").channel.flush();
        }
    }

    /// Collects completions of the devices that have something in flight.
    #[inline]
    pub(crate) fn poll(&mut self, now: Instant, done: &mut Batch<IoDone>) {
        for key in &self.active {
            let open = self.devices[key.0].as_mut().expect("active devices are open");
            open.channel.poll(now, done);
        }
    }

    /// A read or write of `bytes` bytes has been done in `took_ns` and its command has ended.
    /// False: nothing was done, because somebody wants a histogram.
    #[inline]
    pub(super) fn end_transfer(
        &mut self,
        key: DeviceKey,
        is_read: bool,
        bytes: u32,
        took_ns: u64,
    ) -> bool {
        let open = self.open_mut(key);
        if open.meter.histogram.is_some() {
            return false;
        }
        open.in_flight -= 1;
        open.meter.counts.count_transfer(is_read, bytes, took_ns);
        true
    }

    /// A completion of a device has been taken.
    #[inline]
    pub(crate) fn on_done(&mut self, key: DeviceKey) -> &mut Meter {
        let open = self.open_mut(key);
        open.in_flight -= 1;
        &mut open.meter
    }

    /// Forgets devices that have nothing in flight, so that idle ones cost nothing per turn.
    #[inline]
    pub(crate) fn settle(&mut self) {
        let devices = &mut self.devices;
        self.active.retain(|key| {
            let open = devices[key.0].as_mut().expect("active devices are open");
            open.active = open.in_flight > 0;
            open.active
        });
    }

    /// Arms the wake-up of every device with something in flight.
    pub(crate) fn arm(&mut self) -> bool {
        let devices = &mut self.devices;
        self.active
            .iter()
            .all(|key| devices[key.0].as_mut().expect("active devices are open").channel.arm())
    }

    /// What a device did on this core.
    pub(crate) fn meter(&mut self, key: DeviceKey) -> &mut Meter {
        &mut self.open_mut(key).meter
    }

    /// An operation of a device has failed. Its name: the control plane is to look at the medium,
    /// and [`Devices::looked`] will follow.
    #[cold]
    pub(crate) fn doubt(&mut self, key: DeviceKey) -> Option<String> {
        let name = self.open(key).bdev.name();
        if self.doubted.contains(name) {
            return None;
        }
        let name = name.to_owned();
        self.doubted.insert(name.clone());
        Some(name)
    }

    /// The control plane has looked at the medium.
    pub(crate) fn looked(&mut self, bdev: &str) {
        self.doubted.remove(bdev);
    }

    /// All devices, for reports.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().flatten()
    }

    /// Starts the counts of some devices anew: all counts, or only the longest and shortest times.
    pub(crate) fn reset_counts(&mut self, bdevs: &[String], sums: bool) {
        for device in self.devices.iter_mut().flatten() {
            if bdevs.iter().any(|name| device.is_named(name)) {
                device.meter.counts.reset(sums);
            }
        }
    }

    /// Counts times of a device from now on, or stops.
    pub(crate) fn set_histogram(&mut self, bdev: &str, enable: bool, only: Option<OpKind>) {
        if let Some(device) = self.devices.iter_mut().flatten().find(|d| d.is_named(bdev)) {
            device.meter.histogram = enable.then(|| Box::new(Histogram::new(only)));
        }
    }

    /// The times of a device, if they are counted.
    pub(crate) fn histogram(&self, bdev: &str) -> Option<Box<Histogram>> {
        self.iter().find(|device| device.is_named(bdev))?.meter.histogram.clone()
    }
}
