//! A core's sleep: the production word, and a bell in place of the eventfd. A bell that nobody
//! rings leaves its waiter there for ever, which the model reports as a deadlock.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use loom::sync::{Condvar, Mutex};
pub(crate) use reactor::sleep::{WakeSet, Woken};
use rustix::io::Errno;

use super::atomic;

#[path = "../../../reactor/src/sleep/word.rs"]
#[allow(unreachable_pub, reason = "the reactor hands it on")]
mod word;

use word::Word;
pub(crate) use word::source_bit;

/// Rung and not yet heard.
#[derive(Debug)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    pub(crate) fn new() -> Self {
        Bell { rung: Mutex::new(false), changed: Condvar::new() }
    }

    pub(crate) fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
    }

    /// Waits for a ring, for ever.
    pub(crate) fn hear(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// As in `reactor`.
#[derive(Debug)]
pub(crate) struct Sleep {
    word: Word,
    bell: Bell,
}

impl Sleep {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Sleep { word: Word::new(), bell: Bell::new() })
    }

    pub(crate) fn eventfd(&self) -> &Arc<OwnedFd> {
        unreachable!("no model has sources outside the mailboxes")
    }

    pub(crate) fn wake_set(&self) -> &WakeSet {
        unreachable!("no model has sources outside the mailboxes")
    }

    pub(crate) fn wake(&self, source: usize) {
        if self.word.post(source) {
            self.bell.ring();
        }
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.word.is_pending()
    }

    pub(crate) fn take(&self) -> u64 {
        self.word.take()
    }

    pub(crate) fn announce(&self) -> bool {
        self.word.announce()
    }

    pub(crate) fn cancel(&self) {
        self.word.cancel();
    }

    pub(crate) fn tick(&self, _every: Duration) {
        unreachable!("no model's sleep ends by itself");
    }

    pub(crate) fn wait(&self, _longest: Option<Duration>) -> Woken {
        self.bell.hear();
        Woken::Raised
    }
}
