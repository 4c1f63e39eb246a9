//! What cores ask of the control plane, in the order in which it came.

use std::cell::RefCell;
use std::collections::VecDeque;

use futures_channel::oneshot;

use crate::shard::message::Ask;
use crate::shard::names::CoreId;

/// Questions that nobody has taken yet: at most one of each core for each name of a device.
#[derive(Default)]
pub(super) struct Asks {
    waiting: RefCell<VecDeque<(CoreId, Ask)>>,
    /// Who waits for one.
    waiter: RefCell<Option<oneshot::Sender<()>>>,
}

impl Asks {
    /// A core asks.
    pub(super) fn put(&self, core: CoreId, ask: Ask) {
        self.waiting.borrow_mut().push_back((core, ask));
        if let Some(waiter) = self.waiter.take() {
            // Who waited may have been satisfied by the time.
            let _ = waiter.send(());
        }
    }

    /// The oldest question, or what tells of the next one.
    pub(super) fn take(&self) -> Result<(CoreId, Ask), oneshot::Receiver<()>> {
        self.waiting.borrow_mut().pop_front().ok_or_else(|| {
            let (sender, asked) = oneshot::channel();
            self.waiter.replace(Some(sender));
            asked
        })
    }
}
