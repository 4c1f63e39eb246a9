//! JSON-RPC 2.0 over a Unix stream socket: how operators reach the control plane.
//!
//! Owns the socket and one blocking thread per client; all state is [`Control`]'s, behind one lock.
//! Methods, results and their order of members are those of SPDK where SPDK has the method, so its
//! client and monitors work unchanged.
//!
//! A client can send anything and stop anywhere: requests, answers, clients and the time for a
//! write are bounded, and a client harms only its own connection. Nothing here runs on a core.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::control::{Control, Refused};

pub mod dispatch;
mod documents;
pub mod error;
pub mod load;
pub mod methods;
pub mod params;
mod schema;
mod server;
mod socket;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use documents::{DOCUMENT_BYTES_MAX, Documents, Next};
pub use error::RpcError;
pub use server::Server;
pub use socket::BindError;

/// Requests that may wait for a change at a time: fewer than there are clients, so that those who
/// wait can't lock others out.
pub const WAITING_MAX: usize = 32;

/// The control plane as the threads of all clients see it.
pub struct Shared {
    control: Mutex<Control>,
    changed: Condvar,
    waiting: AtomicUsize,
    stopping: AtomicBool,
}

impl Shared {
    /// Puts a control plane behind its lock.
    pub fn new(control: Control) -> Self {
        Shared {
            control: Mutex::new(control),
            changed: Condvar::new(),
            waiting: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// The control plane, once the lock is free.
    pub fn control(&self) -> MutexGuard<'_, Control> {
        // A method that panicked has changed nothing half-way that a later one can't see.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all waiting, now and later.
    pub fn stop_waiting(&self) {
        let _control = self.control();
        self.stopping.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Wakes those who wait for a change.
    fn announce_change(&self) {
        self.changed.notify_all();
    }

    /// Waits, without holding the lock, until `ready` gives something or `deadline` has passed.
    /// Refused when [`WAITING_MAX`] others wait already.
    fn wait_for<T>(
        &self,
        deadline: Instant,
        mut ready: impl FnMut(&mut Control) -> Option<T>,
    ) -> Result<Option<T>, Refused> {
        let mut control = self.control();
        let mut place = None;
        loop {
            if let Some(found) = ready(&mut control) {
                return Ok(Some(found));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stopping.load(Ordering::Acquire) {
                return Ok(None);
            }
            if place.is_none() {
                place = Some(Place::among(&self.waiting)?);
            }
            let waited = self.changed.wait_timeout(control, left);
            control = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Of a request that waits.
struct Place<'a>(&'a AtomicUsize);

impl Place<'_> {
    fn among(waiting: &AtomicUsize) -> Result<Place<'_>, Refused> {
        let place = Place(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX {
            return Ok(place);
        }
        Err(Refused::busy(format!("{WAITING_MAX} requests wait already, the limit")))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
