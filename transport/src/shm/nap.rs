//! Whether a core sleeps, as the control thread sees it.
use super::atomic::{AtomicBool, Ordering, fence};

/// Set by the core before its last look at everything ([`super::ring::before_last_look`]), read by
/// the control thread after it has sent something or heard a bell: one of them sees the other.
#[derive(Debug)]
pub(crate) struct Nap(AtomicBool);

impl Nap {
    /// Awake.
    pub(crate) fn new() -> Self {
        Nap(AtomicBool::new(false))
    }

    /// Core: sleeps soon, or is awake again.
    pub(crate) fn set(&self, sleeping: bool) {
        self.0.store(sleeping, Ordering::Relaxed);
    }

    /// Control thread: true when the core must be woken to see what was sent before.
    pub(crate) fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }
}
