//! One core: the pinned polling loop, its mailboxes, its buffers and its clock.
//!
//! Owns everything that belongs to a core and to no protocol. Nothing here knows of SCSI, SRP or
//! block devices. Unsafe code lives in `sys` and in the accessors of [`pool`].
//!
//! A [`Service`] is what a core runs. This one adds up the numbers that it is sent:
//!
//! ```
//! use std::convert::Infallible;
//! use std::sync::mpsc;
//!
//! use reactor::core::{self, CoreConfig};
//! use reactor::mailbox::{self, Capacity};
//! use reactor::sys::affinity::Available;
//! use reactor::{Batch, Instant, Progress, Service};
//!
//! struct Sum {
//!     sum: u64,
//!     wanted: u64,
//!     result: mpsc::Sender<u64>,
//! }
//!
//! impl Service for Sum {
//!     type Message = u64;
//!
//!     fn turn(&mut self, _now: Instant, inbox: &mut Batch<u64>) -> Progress {
//!         let Some(number) = inbox.pop() else { return Progress::Idle };
//!         self.sum += number;
//!         if self.stopped() {
//!             self.result.send(self.sum).expect("somebody waits for the sum");
//!         }
//!         Progress::Busy
//!     }
//!
//!     // Mailboxes wake the core by themselves, and there is no other source.
//!     fn arm(&mut self) -> bool {
//!         true
//!     }
//!
//!     fn stopped(&self) -> bool {
//!         self.sum >= self.wanted
//!     }
//! }
//!
//! let ends = mailbox::connect(1, Capacity { core: 1, control: 8 })?.remove(0);
//! let number = Available::now()?.allowed.iter().next().expect("one core at least");
//! let (result, sum) = mpsc::channel();
//! let make = move || Ok::<_, Infallible>(Sum { sum: 0, wanted: 6, result });
//! let running = core::spawn(CoreConfig::new(number), ends.inbox, make)?;
//! for number in [1, 2, 3] {
//!     ends.control.try_send(number).expect("room for eight numbers");
//! }
//! assert_eq!(sum.recv()?, 6);
//! running.join()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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
pub mod slots;
pub mod stats;
#[allow(unsafe_code)]
pub mod sys;
pub mod time;

pub use batch::Batch;
pub use cpumask::CoreSet;
pub use lines::Lines;
pub use pool::{Buf, Pool};
pub use slab::{Slab, Tag};
pub use slots::Slots;
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
