//! A logical unit under a LUN of a target, on one core.

use std::sync::Arc;

use bdev::Geometry;

use super::device::DeviceKey;
use crate::shard::names::{Token, UnitId};
use crate::shard::unit::{LogicalUnit, View};

/// A logical unit under a LUN of a target, on this core.
pub(crate) struct Mapping {
    lu: Arc<LogicalUnit>,
    lun: u16,
    read_only: bool,
    passes: bool,
    limited: bool,
    view: View,
    /// Nothing is in the way of plain reads and writes.
    plain: bool,
    geometry: Geometry,
    ready: bool,
    placeholder: bool,
    device: DeviceKey,
    /// Number of its target on this core.
    target: usize,
    /// Commands that use the mapping.
    uses: u32,
    /// Taken out of the map: the control plane's questions that wait for the last command.
    leaving: Vec<Token>,
}

impl Mapping {
    /// A mapping that nobody uses yet.
    pub(super) fn new(
        lu: Arc<LogicalUnit>,
        (target, lun): (usize, u16),
        read_only: bool,
        device: DeviceKey,
        view: View,
    ) -> Mapping {
        let mut mapping = Mapping {
            passes: lu.bdev.scsi().is_some(),
            limited: lu.limiter.limits().is_on(),
            view,
            plain: false,
            geometry: lu.bdev.geometry(),
            ready: lu.bdev.ready(),
            placeholder: lu.bdev.placeholder(),
            lu,
            lun,
            read_only,
            device,
            target,
            uses: 0,
            leaving: Vec::new(),
        };
        mapping.look();
        mapping
    }

    fn look(&mut self) {
        self.plain = !self.passes && !self.limited && self.view.is_open();
    }

    /// The unit.
    #[inline]
    pub(crate) fn lu(&self) -> &LogicalUnit {
        &self.lu
    }

    /// The unit's number.
    #[inline]
    pub(crate) fn unit(&self) -> UnitId {
        self.lu.id
    }

    /// Its LUN.
    #[inline]
    pub(crate) fn lun(&self) -> u16 {
        self.lun
    }

    /// Writes are refused.
    #[inline]
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Commands go to the device as they are.
    #[inline]
    pub(crate) fn passes(&self) -> bool {
        self.passes
    }

    /// Commands are charged to the limits of the unit.
    #[inline]
    pub(crate) fn is_limited(&self) -> bool {
        self.limited
    }

    /// What the home core of the unit has decided.
    #[inline]
    pub(crate) fn view(&self) -> View {
        self.view
    }

    /// Reads and writes of every session go straight to the device: commands are not passed on, not
    /// charged, and nobody has reserved the unit.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Size and abilities of the device.
    #[inline]
    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The device has its medium.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The device only holds the LUN's place.
    pub(crate) fn is_placeholder(&self) -> bool {
        self.placeholder
    }

    /// The device.
    #[inline]
    pub(crate) fn device(&self) -> DeviceKey {
        self.device
    }

    /// Number of its target on this core.
    pub(super) fn target(&self) -> usize {
        self.target
    }

    /// Commands are charged from now on, or no longer.
    pub(super) fn set_limited(&mut self, limited: bool) {
        self.limited = limited;
        self.look();
    }

    /// The home core of the unit has decided something.
    pub(super) fn set_view(&mut self, view: View) {
        self.view = view;
        self.look();
    }

    /// Looks again at the device's size and abilities, and whether its medium is there.
    pub(super) fn refresh(&mut self) {
        self.geometry = self.lu.bdev.geometry();
        self.ready = self.lu.bdev.ready();
    }

    /// A command begins to use it.
    #[inline]
    pub(super) fn begin_use(&mut self) {
        self.uses += 1;
    }

    /// A command has ended. True: it was the last one of a mapping that leaves.
    #[inline]
    pub(super) fn end_use(&mut self) -> bool {
        self.uses -= 1;
        self.uses == 0 && self.is_leaving()
    }

    /// It has been taken out of the map, and commands still use it.
    #[inline]
    pub(super) fn is_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// It has been taken out of the map. True: commands still use it, and `token` is told of the
    /// end of the last one.
    pub(super) fn leave(&mut self, token: Token) -> bool {
        if self.uses > 0 {
            self.leaving.push(token);
        }
        self.uses > 0
    }

    /// The questions that waited for the last command.
    pub(super) fn take_leaving(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.leaving)
    }
}
