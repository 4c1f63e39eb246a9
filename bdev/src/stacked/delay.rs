//! A virtual device whose reads and writes take at least a given time.
//!
//! An operation goes to the base at once; its completion is held until the time is over, counted
//! from the turn in which the operation was submitted. One read in a hundred and one write in a
//! hundred take the longer latency: every hundredth of a channel, so runs repeat. Other operations
//! are not held.
//!
//! A channel owns a slot for each operation that its core can have in flight, so nothing is
//! allocated per operation. Its base has a ring of its own, so no completion can get past it. While
//! it holds completions the core stays awake.
//!
//! One operation costs a push to and a pop from a heap of what is held.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reactor::{Batch, Instant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Filter, Layer, Over};
use crate::options::{Options, Place, checked, maybe, to_value};
use crate::refused::BdevError;
use crate::values::{BdevName, Bounded, UuidText};
use crate::{Bdev, Io, IoChannel, IoDone, IoOp};

/// Operations of one kind of which one takes the longer latency.
const ONE_IN: u64 = 100;

/// The longest latency: one hour, in microseconds.
pub const LATENCY_US_MAX: u64 = 3_600_000_000;

/// One of the four latencies of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatencyType {
    /// Of 99 reads in 100.
    AvgRead,
    /// Of the hundredth read.
    P99Read,
    /// Of 99 writes in 100.
    AvgWrite,
    /// Of the hundredth write.
    P99Write,
}

/// How long operations take at least, in microseconds, at most [`LATENCY_US_MAX`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Of 99 reads in 100.
    pub avg_read_us: u64,
    /// Of the hundredth read; not below `avg_read_us`.
    pub p99_read_us: u64,
    /// Of 99 writes in 100.
    pub avg_write_us: u64,
    /// Of the hundredth write; not below `avg_write_us`.
    pub p99_write_us: u64,
}

impl Latencies {
    fn check(&self, name: &str) -> Result<(), BdevError> {
        let pairs = [
            ("read", self.avg_read_us, self.p99_read_us),
            ("write", self.avg_write_us, self.p99_write_us),
        ];
        for (kind, avg, p99) in pairs {
            if p99 < avg {
                return Err(BdevError::Invalid(format!(
                    "bdev {name}: p99_{kind}_latency {p99} is below avg_{kind}_latency {avg}"
                )));
            }
            if p99 > LATENCY_US_MAX {
                return Err(BdevError::Invalid(format!(
                    "bdev {name}: p99_{kind}_latency {p99} is above {LATENCY_US_MAX}"
                )));
            }
        }
        Ok(())
    }
}

/// Parameters of `bdev_delay_create`.
#[derive(Debug, Clone, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DelayOptions {
    /// Name of the new bdev.
    #[serde(deserialize_with = "checked::<BdevName, _, _>")]
    #[schemars(with = "BdevName")]
    pub name: String,
    /// Name or UUID of the bdev below.
    #[serde(rename = "base_bdev_name", deserialize_with = "checked::<BdevName, _, _>")]
    #[schemars(with = "BdevName")]
    pub base: String,
    /// Identity; derived from host and name if absent.
    #[serde(default, deserialize_with = "maybe::<UuidText, _, _>")]
    #[schemars(with = "Option<UuidText>")]
    pub uuid: Option<Uuid>,
    /// How much longer 99 reads in 100 take.
    #[serde(rename = "avg_read_latency", deserialize_with = "checked::<LatencyUs, _, _>")]
    #[schemars(with = "LatencyUs", extend("x-unit" = "us"))]
    pub avg_read_us: u64,
    /// How much longer 1 read in 100 takes; not below `avg_read_latency`.
    #[serde(rename = "p99_read_latency", deserialize_with = "checked::<LatencyUs, _, _>")]
    #[schemars(with = "LatencyUs", extend("x-unit" = "us"))]
    pub p99_read_us: u64,
    /// How much longer 99 writes in 100 take.
    #[serde(rename = "avg_write_latency", deserialize_with = "checked::<LatencyUs, _, _>")]
    #[schemars(with = "LatencyUs", extend("x-unit" = "us"))]
    pub avg_write_us: u64,
    /// How much longer 1 write in 100 takes; not below `avg_write_latency`.
    #[serde(rename = "p99_write_latency", deserialize_with = "checked::<LatencyUs, _, _>")]
    #[schemars(with = "LatencyUs", extend("x-unit" = "us"))]
    pub p99_write_us: u64,
}

/// Microseconds.
pub type LatencyUs = Bounded<0, LATENCY_US_MAX>;

impl DelayOptions {
    /// A device of a name over a base, whose operations take at least so long.
    pub fn new(name: &str, base: &str, latencies: Latencies) -> DelayOptions {
        let Latencies { avg_read_us, p99_read_us, avg_write_us, p99_write_us } = latencies;
        let (name, base) = (name.to_owned(), base.to_owned());
        let uuid = None;
        DelayOptions { name, base, uuid, avg_read_us, p99_read_us, avg_write_us, p99_write_us }
    }

    fn latencies(&self) -> Latencies {
        let DelayOptions { avg_read_us, p99_read_us, avg_write_us, p99_write_us, .. } = *self;
        Latencies { avg_read_us, p99_read_us, avg_write_us, p99_write_us }
    }
}

impl Options for DelayOptions {
    const MODULE: &'static str = "delay";

    fn name(&self, _base: &str) -> Option<String> {
        Some(self.name.clone())
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn base(&self) -> Option<&str> {
        Some(&self.base)
    }

    fn make(self, place: Place) -> Result<Arc<dyn Bdev>, BdevError> {
        let (name, uuid, base) = place.over();
        let slow = Slow::new(&name, &self.latencies())?;
        Ok(Arc::new(Delay::new(name, uuid, base, slow)))
    }
}

/// What all channels of a device read with each operation.
#[derive(Debug, Default)]
struct Shared {
    avg_read_us: AtomicU64,
    p99_read_us: AtomicU64,
    avg_write_us: AtomicU64,
    p99_write_us: AtomicU64,
}

impl Shared {
    fn load(&self) -> Latencies {
        Latencies {
            avg_read_us: self.avg_read_us.load(Ordering::Relaxed),
            p99_read_us: self.p99_read_us.load(Ordering::Relaxed),
            avg_write_us: self.avg_write_us.load(Ordering::Relaxed),
            p99_write_us: self.p99_write_us.load(Ordering::Relaxed),
        }
    }

    fn store(&self, latencies: &Latencies) {
        self.avg_read_us.store(latencies.avg_read_us, Ordering::Relaxed);
        self.p99_read_us.store(latencies.p99_read_us, Ordering::Relaxed);
        self.avg_write_us.store(latencies.avg_write_us, Ordering::Relaxed);
        self.p99_write_us.store(latencies.p99_write_us, Ordering::Relaxed);
    }
}

/// The slow device.
pub type Delay = Over<Slow>;

/// Reads and writes take at least a given time.
#[derive(Debug)]
pub struct Slow {
    shared: Arc<Shared>,
}

impl Slow {
    /// For the device of a name.
    ///
    /// Fails with [`BdevError::Invalid`] for latencies that don't go together.
    pub(crate) fn new(name: &str, latencies: &Latencies) -> Result<Slow, BdevError> {
        latencies.check(name)?;
        let shared = Arc::new(Shared::default());
        shared.store(latencies);
        Ok(Slow { shared })
    }
}

impl Delay {
    /// Changes one latency, in microseconds, for operations submitted from now on.
    ///
    /// Fails with [`BdevError::Invalid`] when it does not go with the other three. One caller at a
    /// time: the control plane.
    pub fn update(&self, which: LatencyType, us: u64) -> Result<(), BdevError> {
        let shared = &self.layer.shared;
        let mut latencies = shared.load();
        let field = match which {
            LatencyType::AvgRead => &mut latencies.avg_read_us,
            LatencyType::P99Read => &mut latencies.p99_read_us,
            LatencyType::AvgWrite => &mut latencies.avg_write_us,
            LatencyType::P99Write => &mut latencies.p99_write_us,
        };
        *field = us;
        latencies.check(&self.name)?;
        shared.store(&latencies);
        Ok(())
    }
}

impl Layer for Slow {
    const PRODUCT_NAME: &'static str = "delay";
    const APART: bool = true;
    type Options = DelayOptions;
    type Filter = DelayFilter;

    fn filter(&self, depth: usize) -> DelayFilter {
        DelayFilter {
            shared: Arc::clone(&self.shared),
            slots: (0..depth).map(|_| Slot::default()).collect(),
            fresh: Vec::with_capacity(depth),
            came: Batch::new(depth),
            held: BinaryHeap::with_capacity(depth),
            order: 0,
            reads: 0,
            writes: 0,
        }
    }

    /// The options, as in SPDK.
    fn driver_specific(over: &Delay) -> Map<String, Value> {
        Map::from_iter([("delay".to_owned(), to_value(&Slow::options(over)))])
    }

    fn options(over: &Delay) -> DelayOptions {
        let latencies = over.layer.shared.load();
        let options = DelayOptions::new(&over.name, over.base.name(), latencies);
        DelayOptions { uuid: Some(over.uuid), ..options }
    }
}

/// An operation in flight, under its tag's index.
#[derive(Default)]
struct Slot {
    /// When it may end.
    due: Instant,
    /// What the base said, while it is held.
    done: Option<IoDone>,
}

/// One core's part of a slow device.
pub struct DelayFilter {
    shared: Arc<Shared>,
    slots: Box<[Slot]>,
    /// Operations whose time begins with the next poll, that of the turn they were submitted in.
    fresh: Vec<(usize, Duration)>,
    /// What the base has just completed.
    came: Batch<IoDone>,
    /// Completions that wait: when they are due, the order in which they came, their slot.
    held: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    order: u64,
    reads: u64,
    writes: u64,
}

impl DelayFilter {
    /// How long an operation takes at least.
    #[inline]
    fn latency(&mut self, op: &IoOp) -> Duration {
        let (count, avg, p99) = match op {
            IoOp::Read { .. } => {
                (&mut self.reads, &self.shared.avg_read_us, &self.shared.p99_read_us)
            }
            IoOp::Write { .. } => {
                (&mut self.writes, &self.shared.avg_write_us, &self.shared.p99_write_us)
            }
            IoOp::Flush | IoOp::WriteZeroes { .. } | IoOp::Unmap { .. } => return Duration::ZERO,
        };
        *count += 1;
        let latency = if count.is_multiple_of(ONE_IN) { p99 } else { avg };
        Duration::from_micros(latency.load(Ordering::Relaxed))
    }
}

impl Filter for DelayFilter {
    #[inline]
    fn submit(&mut self, io: Io, base: &mut dyn IoChannel) {
        let latency = self.latency(&io.op);
        self.fresh.push((io.tag.index(), latency));
        base.submit(io);
    }

    fn poll(&mut self, now: Instant, base: &mut dyn IoChannel, done: &mut Batch<IoDone>) {
        for (index, latency) in self.fresh.drain(..) {
            self.slots[index].due = now.after(latency);
        }
        base.poll(now, &mut self.came);
        while let Some(item) = self.came.pop() {
            let index = item.tag.index();
            let slot = &mut self.slots[index];
            assert!(slot.done.is_none(), "two completions under one tag");
            self.held.push(Reverse((slot.due, self.order, index)));
            self.order += 1;
            slot.done = Some(item);
        }
        while !done.is_full() {
            match self.held.peek() {
                Some(Reverse((due, _, index))) if *due <= now => {
                    done.push(self.slots[*index].done.take().expect("held since it came"));
                }
                _ => break,
            }
            self.held.pop();
        }
    }

    fn is_idle(&self) -> bool {
        self.fresh.is_empty() && self.held.is_empty()
    }
}

impl Drop for DelayFilter {
    fn drop(&mut self) {
        // A target that ends with operations in flight: nobody is left to take their buffers home.
        self.slots.iter_mut().for_each(|slot| std::mem::forget(slot.done.take()));
    }
}

#[cfg(test)]
mod tests;
