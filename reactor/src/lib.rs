//! One core: the pinned polling loop, its mailboxes, its buffers and its clock.
//!
//! Owns everything that belongs to a core and to no protocol. Nothing here knows of SCSI, SRP or
//! block devices. Unsafe code lives in `sys` and in the accessors of [`pool`].
#![deny(unsafe_code)]

pub mod batch;
pub mod core;
pub mod cpumask;
pub mod lines;
pub mod mailbox;
pub mod pool;
mod queues;
pub mod slab;
pub mod sleep;
pub mod stats;
#[allow(unsafe_code)]
pub mod sys;
pub mod time;

pub use batch::Batch;
pub use cpumask::CoreSet;
pub use lines::Lines;
pub use pool::{Buf, Pool};
pub use slab::{Slab, Tag};
pub use time::{Clock, Instant};

/// What a turn found to do; an idle turn may let the core sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was ready.
    Idle,
    /// Something moved.
    Busy,
}

/// What one core runs, once per turn of its loop.
pub trait Service {
    /// What other cores and the control plane send here.
    type Message: Send;

    /// Does a bounded amount of work. `now` was read once for the whole turn.
    fn turn(&mut self, now: Instant, inbox: &mut Batch<Self::Message>) -> Progress;

    /// Asks every source to raise its wake-up descriptor, and looks once more. True: nothing was
    /// pending after all sources were armed, so the core may sleep and will be woken. False: run
    /// another turn. Arming stays in force at most until the next turn.
    fn arm(&mut self) -> bool;

    /// When the service needs a turn at the latest, if nothing wakes the core before.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// True once the service has been told to stop and has nothing left in flight.
    fn stopped(&self) -> bool;
}
