//! Devices over other devices.
//!
//! A device owns its base exclusively: the registry claims the base when the device is made and
//! releases it when the device is deleted. Size and abilities are always the base's.
//!
//! What all of these devices have is in [`Over`]. A [`Layer`] says what makes one of them
//! different, and its [`Filter`] sees the operations on their way to the base and their ends on the
//! way back. A layer that must see the ends of all of its own operations, and of no others, has its
//! base opened with [`CoreContext::apart`].
//!
//! One operation costs two calls through a trait object: that of this channel, and that of the
//! base's.

use std::fmt;
use std::sync::Arc;

use reactor::{Batch, Instant};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::options::{Options, to_value};
use crate::{Bdev, CoreContext, Geometry, Io, IoChannel, IoDone, OpenError};

pub mod delay;
pub mod fault;
pub mod passthru;

/// A device over another one.
#[derive(Debug)]
pub struct Over<L> {
    name: String,
    uuid: Uuid,
    base: Arc<dyn Bdev>,
    layer: L,
}

impl<L> Over<L> {
    /// A device of checked name over a base that is claimed for it.
    pub(crate) fn new(name: String, uuid: Uuid, base: Arc<dyn Bdev>, layer: L) -> Over<L> {
        Over { name, uuid, base, layer }
    }
}

/// What makes a device over another one different from the others.
pub trait Layer: fmt::Debug + Send + Sync + Sized + 'static {
    /// As [`Bdev::product_name`].
    const PRODUCT_NAME: &'static str;
    /// The base's channel has a ring of its own: every end that comes out of it is of an operation
    /// of this channel, and comes out nowhere else.
    const APART: bool;
    /// What the device is made of.
    type Options: Options;
    /// One core's part.
    type Filter: Filter + 'static;
    /// For a core that has up to `depth` operations in flight.
    fn filter(&self, depth: usize) -> Self::Filter;
    /// As [`Bdev::driver_specific`].
    fn driver_specific(over: &Over<Self>) -> Map<String, Value>;
    /// As [`Bdev::options`].
    fn options(over: &Over<Self>) -> Self::Options;
}

/// What a channel does with operations and their ends. Unless it says otherwise it passes them on.
pub trait Filter {
    /// As [`IoChannel::submit`].
    #[inline]
    fn submit(&mut self, io: Io, base: &mut dyn IoChannel) {
        base.submit(io);
    }
    /// As [`IoChannel::poll`].
    #[inline]
    fn poll(&mut self, now: Instant, base: &mut dyn IoChannel, done: &mut Batch<IoDone>) {
        base.poll(now, done);
    }
    /// True when nothing is here that only a later [`Filter::poll`] brings to its end.
    fn is_idle(&self) -> bool {
        true
    }
}

impl<L: Layer> Bdev for Over<L> {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        L::PRODUCT_NAME
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn geometry(&self) -> Geometry {
        self.base.geometry()
    }

    fn ready(&self) -> bool {
        self.base.ready()
    }

    fn placeholder(&self) -> bool {
        self.base.placeholder()
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        let base = match L::APART {
            true => self.base.open_channel(&mut core.apart())?,
            false => self.base.open_channel(core)?,
        };
        Ok(Box::new(OverChannel { filter: self.layer.filter(core.depth as usize), base }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        L::driver_specific(self)
    }

    fn module(&self) -> &'static str {
        L::Options::MODULE
    }

    fn options(&self) -> Value {
        to_value(&L::options(self))
    }
}

struct OverChannel<F> {
    filter: F,
    base: Box<dyn IoChannel>,
}

impl<F: Filter> IoChannel for OverChannel<F> {
    #[inline]
    fn submit(&mut self, io: Io) {
        self.filter.submit(io, &mut *self.base);
    }

    #[inline]
    fn flush(&mut self) {
        self.base.flush();
    }

    #[inline]
    fn poll(&mut self, now: Instant, done: &mut Batch<IoDone>) {
        self.filter.poll(now, &mut *self.base, done);
    }

    fn arm(&mut self) -> bool {
        self.filter.is_idle() && self.base.arm()
    }

    fn refresh(&mut self) {
        self.base.refresh();
    }
}
