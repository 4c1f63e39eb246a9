//! A virtual device that fails on demand.
//!
//! An operator injects errors by type of operation; each counts down as operations meet it, on all
//! cores together. An operation fails without reaching the base, or stays pending until it is
//! resumed, or goes to the base with one byte of its data changed. A resumed operation goes
//! straight to the base: it has met its error, and injections that are left are for others.
//!
//! A channel owns what is pending on its core and notes which operations' data to change. Its base
//! has a ring of its own, so no completion can get past it. Pending operations don't keep the core
//! awake: whoever resumes them wakes it with a message.
//!
//! While nothing is injected one operation costs one relaxed load; otherwise a lock that is held
//! for a few instructions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use reactor::{Batch, Buf, Instant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Filter, Layer, Over};
use crate::options::{Options, Place, checked, maybe};
use crate::refused::BdevError;
use crate::values::{BdevName, UuidText};
use crate::{Bdev, Io, IoChannel, IoDone, IoOp, IoStatus};

/// Parameters of `bdev_error_create`. The name is `EE_` and that of the base.
#[derive(Debug, Clone, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorOptions {
    /// Name or UUID of the bdev below.
    #[serde(rename = "base_name", deserialize_with = "checked::<BdevName, _, _>")]
    #[schemars(with = "BdevName")]
    pub base: String,
    /// Identity; derived from host and name if absent.
    #[serde(default, deserialize_with = "maybe::<UuidText, _, _>")]
    #[schemars(with = "Option<UuidText>")]
    pub uuid: Option<Uuid>,
}

impl Options for ErrorOptions {
    const MODULE: &'static str = "error";

    fn name(&self, base: &str) -> Option<String> {
        Some(format!("EE_{base}"))
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn base(&self) -> Option<&str> {
        Some(&self.base)
    }

    fn make(self, place: Place) -> Result<Arc<dyn Bdev>, BdevError> {
        let (name, uuid, base) = place.over();
        Ok(Arc::new(ErrorInjection::new(name, uuid, base, Failing::default())))
    }
}

/// A type of operation that errors can be injected into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoType {
    /// `IoOp::Read`
    Read,
    /// `IoOp::Write`
    Write,
    /// `IoOp::Flush`
    Flush,
    /// `IoOp::Unmap`
    Unmap,
    /// `IoOp::WriteZeroes`
    WriteZeroes,
}

impl IoType {
    /// Every type.
    pub const ALL: [IoType; 5] =
        [IoType::Read, IoType::Write, IoType::Flush, IoType::Unmap, IoType::WriteZeroes];

    fn of(op: &IoOp) -> IoType {
        match op {
            IoOp::Read { .. } => IoType::Read,
            IoOp::Write { .. } => IoType::Write,
            IoOp::Flush => IoType::Flush,
            IoOp::Unmap { .. } => IoType::Unmap,
            IoOp::WriteZeroes { .. } => IoType::WriteZeroes,
        }
    }
}

/// What becomes of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It ends as `ReadError` or `WriteError` and changes nothing.
    Failure,
    /// It is held until [`ErrorInjection::resume_pending`].
    Pending,
    /// One byte of what is read or written is changed.
    CorruptData(Corruption),
}

/// A change to the data of an operation. Data that ends before `offset` stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corruption {
    /// Place of the byte in the operation's data.
    pub offset: u64,
    /// Exclusive-or with the byte; 0 changes nothing.
    pub value: u8,
}

impl Corruption {
    /// Changes the byte; a second time, back.
    fn apply(&self, buf: &mut Buf) {
        let Ok(offset) = usize::try_from(self.offset) else { return };
        if offset < buf.len() {
            let mut byte = [0];
            buf.read_at(offset, &mut byte);
            buf.write_at(offset, &[byte[0] ^ self.value]);
        }
    }
}

/// An error to inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Injection {
    /// What becomes of the operations that meet it.
    pub fault: Fault,
    /// How many do; 0 ends the injection.
    pub num: u32,
    /// Only those that are submitted while so many are with the base on the same core.
    pub queue_depth: u64,
}

/// What all channels of a device share.
#[derive(Debug, Default)]
struct Shared {
    /// Something is injected.
    active: AtomicBool,
    injections: Mutex<[Option<Injection>; IoType::ALL.len()]>,
    /// How often pending operations were resumed.
    resumes: AtomicU64,
}

impl Shared {
    fn injections(&self) -> MutexGuard<'_, [Option<Injection>; IoType::ALL.len()]> {
        self.injections.lock().expect("nothing panics with the lock held")
    }

    /// What an operation meets, counted down.
    #[cold]
    fn draw(&self, io_type: IoType, in_flight: u64) -> Option<Fault> {
        let mut injections = self.injections();
        let slot = &mut injections[io_type as usize];
        let injection = slot.as_mut().filter(|injection| injection.queue_depth <= in_flight)?;
        let fault = injection.fault;
        injection.num -= 1;
        if injection.num == 0 {
            *slot = None;
            self.active.store(injections.iter().any(Option::is_some), Ordering::Relaxed);
        }
        Some(fault)
    }
}

/// The device that fails on demand.
pub type ErrorInjection = Over<Failing>;

/// Operations meet what is injected.
#[derive(Debug, Default)]
pub struct Failing {
    shared: Arc<Shared>,
}

impl ErrorInjection {
    /// Injects an error into types of operations, in place of what was injected into them before.
    pub fn inject(&self, io_types: &[IoType], injection: Injection) {
        let mut injections = self.layer.shared.injections();
        for io_type in io_types {
            injections[*io_type as usize] = (injection.num > 0).then_some(injection);
        }
        self.layer.shared.active.store(injections.iter().any(Option::is_some), Ordering::Relaxed);
    }

    /// Ends all injections. What is pending stays so.
    pub fn clear(&self) {
        *self.layer.shared.injections() = Default::default();
        self.layer.shared.active.store(false, Ordering::Relaxed);
    }

    /// Lets every core hand to the base, with its next poll, what is pending now. Injections that
    /// are left count down no further for it.
    pub fn resume_pending(&self) {
        self.layer.shared.resumes.fetch_add(1, Ordering::Release);
    }
}

impl Layer for Failing {
    const PRODUCT_NAME: &'static str = "Error Injection Disk";
    const APART: bool = true;
    type Options = ErrorOptions;
    type Filter = ErrorFilter;

    fn filter(&self, depth: usize) -> ErrorFilter {
        ErrorFilter {
            shared: Arc::clone(&self.shared),
            in_flight: 0,
            failed: Batch::new(depth),
            pending: VecDeque::with_capacity(depth),
            marks: vec![None; depth].into_boxed_slice(),
            marked: 0,
            came: Batch::new(depth),
        }
    }

    fn driver_specific(over: &ErrorInjection) -> Map<String, Value> {
        Map::from_iter([("error_disk".to_owned(), json!({ "base_bdev": over.base.name() }))])
    }

    /// Injections are not part of a configuration.
    fn options(over: &ErrorInjection) -> ErrorOptions {
        ErrorOptions { base: over.base.name().to_owned(), uuid: Some(over.uuid) }
    }
}

/// One core's part of a device that fails on demand.
pub struct ErrorFilter {
    shared: Arc<Shared>,
    /// Operations with the base.
    in_flight: u64,
    /// What ended without the base.
    failed: Batch<IoDone>,
    /// Held operations, each with the number of resumes before it.
    pending: VecDeque<(u64, Io)>,
    /// Changes to undo or to make when an operation is done, by its tag's index.
    marks: Box<[Option<Corruption>]>,
    marked: u32,
    /// What the base has completed and must be looked at.
    came: Batch<IoDone>,
}

impl ErrorFilter {
    #[inline]
    fn pass(&mut self, io: Io, base: &mut dyn IoChannel) {
        self.in_flight += 1;
        base.submit(io);
    }

    fn meet(&mut self, fault: Fault, mut io: Io, base: &mut dyn IoChannel) {
        match fault {
            Fault::Failure => {
                let status = match io.op {
                    IoOp::Read { .. } => IoStatus::ReadError,
                    _ => IoStatus::WriteError,
                };
                self.failed.push(IoDone { tag: io.tag, status, buf: io.buf });
            }
            Fault::Pending => {
                let resumes = self.shared.resumes.load(Ordering::Acquire);
                self.pending.push_back((resumes, io));
            }
            Fault::CorruptData(corruption) => {
                if let Some(buf) = &mut io.buf {
                    if matches!(io.op, IoOp::Write { .. }) {
                        corruption.apply(buf);
                    }
                    self.marks[io.tag.index()] = Some(corruption);
                    self.marked += 1;
                }
                self.pass(io, base);
            }
        }
    }

    /// Hands to the base what was pending at the last resume.
    fn resume(&mut self, base: &mut dyn IoChannel) {
        let resumes = self.shared.resumes.load(Ordering::Acquire);
        while self.pending.front().is_some_and(|(before, _)| *before != resumes) {
            let Some((_, io)) = self.pending.pop_front() else { break };
            self.pass(io, base);
        }
    }

    /// Changes what was read; gives a writer its own data back, which may be its own memory.
    fn finish(&mut self, item: &mut IoDone) {
        let Some(corruption) = self.marks[item.tag.index()].take() else { return };
        self.marked -= 1;
        let Some(buf) = &mut item.buf else { return };
        if item.status == IoStatus::GoodNoData {
            let len = buf.len();
            buf.fill(0..len, 0);
            item.status = IoStatus::Good;
        }
        corruption.apply(buf);
    }
}

impl Filter for ErrorFilter {
    #[inline]
    fn submit(&mut self, io: Io, base: &mut dyn IoChannel) {
        if self.shared.active.load(Ordering::Relaxed)
            && let Some(fault) = self.shared.draw(IoType::of(&io.op), self.in_flight)
        {
            return self.meet(fault, io, base);
        }
        self.pass(io, base);
    }

    #[inline]
    fn poll(&mut self, now: Instant, base: &mut dyn IoChannel, done: &mut Batch<IoDone>) {
        if !self.pending.is_empty() {
            self.resume(base);
        }
        while !done.is_full() {
            let Some(item) = self.failed.pop() else { break };
            done.push(item);
        }
        if self.marked == 0 && self.came.is_empty() {
            let before = done.len();
            base.poll(now, done);
            self.in_flight -= (done.len() - before) as u64;
            return;
        }
        base.poll(now, &mut self.came);
        while !done.is_full() {
            let Some(mut item) = self.came.pop() else { break };
            self.in_flight -= 1;
            self.finish(&mut item);
            done.push(item);
        }
    }

    /// What is pending waits for a message that wakes the core.
    fn is_idle(&self) -> bool {
        self.failed.is_empty() && self.came.is_empty()
    }
}

impl Drop for ErrorFilter {
    fn drop(&mut self) {
        // A target that ends with operations in flight: nobody is left to take their buffers home.
        self.pending.drain(..).for_each(|(_, io)| std::mem::forget(io.buf));
        while let Some(item) = self.failed.pop().or_else(|| self.came.pop()) {
            std::mem::forget(item.buf);
        }
    }
}

#[cfg(test)]
mod tests;
