//! Which objects an operation is under way at: one operation at a time and object, in order.
//!
//! An operation that changes an object holds the object from its checks to its end. The next one
//! waits for a moment, so that requests that follow each other closely work; after that it is
//! refused with what the first one does, and for how long.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use futures_channel::oneshot;

/// Objects that are held, by what they are called: "bdev Null0".
#[derive(Default)]
pub(super) struct Busy(BTreeMap<String, Held>);

struct Held {
    doing: String,
    since: Instant,
    waiting: VecDeque<(oneshot::Sender<()>, String)>,
}

impl Busy {
    /// What is done with an object, and for how long: "opening /a/b for 12 s".
    pub(super) fn doing(&self, object: &str) -> Option<String> {
        let held = self.0.get(object)?;
        Some(told(&held.doing, held.since))
    }

    /// Takes an object; when somebody has it, the receiver says when it is passed on.
    pub(super) fn take(&mut self, object: &str, doing: &str) -> Option<oneshot::Receiver<()>> {
        let doing = doing.to_owned();
        match self.0.get_mut(object) {
            None => {
                let (since, waiting) = (Instant::now(), VecDeque::new());
                self.0.insert(object.to_owned(), Held { doing, since, waiting });
                None
            }
            Some(held) => {
                let (sender, free) = oneshot::channel();
                held.waiting.push_back((sender, doing));
                Some(free)
            }
        }
    }

    /// Says what is done with an object from now on.
    pub(super) fn now(&mut self, object: &str, doing: &str) {
        if let Some(held) = self.0.get_mut(object) {
            (held.doing, held.since) = (doing.to_owned(), Instant::now());
        }
    }

    /// Gives an object to the first who waits for it.
    pub(super) fn pass_on(&mut self, object: &str) {
        let Some(held) = self.0.get_mut(object) else { return };
        while let Some((waiting, doing)) = held.waiting.pop_front() {
            if waiting.send(()).is_ok() {
                (held.doing, held.since) = (doing, Instant::now());
                return;
            }
        }
        self.0.remove(object);
    }
}

/// What is done, and for how long.
pub(super) fn told(doing: &str, since: Instant) -> String {
    format!("{doing} for {} s", since.elapsed().as_secs())
}
