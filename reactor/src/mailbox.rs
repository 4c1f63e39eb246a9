//! Bounded mailboxes: core to core, and control plane to core.
//!
//! Every ordered pair of cores has a ring of its own (one producer, one consumer); the control
//! plane shares one queue per core. An [`Inbox`] is the receiving end of them all and belongs to
//! its core.
//!
//! Nothing is lost and nothing grows: a full mailbox gives the message back. Messages of one sender
//! arrive in their order; no source can keep the others from being heard. A sleeping core is woken
//! (see [`Sleep`]).
//!
//! An empty inbox costs one load per turn, whatever the number of sources.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::Batch;
use super::queues::{ArrayQueue, Consumer, Producer, PushError, RingBuffer};
use super::sleep::{Sleep, WakeSet, Woken, source_bit};

/// The control plane's number among the sources of an inbox; core `n` is source `n + 1`.
const CONTROL: usize = 0;

/// How many messages the mailboxes hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Messages of one core to one other core, at least 1.
    pub core: usize,
    /// Messages of the control plane to one core, at least 1.
    pub control: usize,
}

/// One core's ends of all mailboxes.
#[derive(Debug)]
pub struct Ends<M> {
    /// Where the core's messages arrive.
    pub inbox: Inbox<M>,
    /// To the other cores, by their index; `None` for itself.
    pub peers: Vec<Option<CoreSender<M>>>,
    /// From the control plane to this core.
    pub control: ControlSender<M>,
}

/// Why mailboxes could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// No wake-up descriptor.
    #[error("wake-up descriptor of a mailbox (eventfd): {0}")]
    Eventfd(rustix::io::Errno),
}

/// The mailboxes of `cores` cores, each with each and all with the control plane.
pub fn connect<M>(cores: usize, capacity: Capacity) -> Result<Vec<Ends<M>>, MailboxError> {
    assert!(capacity.core > 0 && capacity.control > 0, "a mailbox holds at least one message");
    let mut ends = Vec::with_capacity(cores);
    for _ in 0..cores {
        let sleep = Arc::new(Sleep::new().map_err(MailboxError::Eventfd)?);
        let control = Arc::new(ArrayQueue::new(capacity.control));
        ends.push(Ends {
            inbox: Inbox {
                sleep: Arc::clone(&sleep),
                control: Arc::clone(&control),
                rings: Vec::with_capacity(cores),
                ready: 0,
                next: 0,
            },
            peers: Vec::with_capacity(cores),
            control: ControlSender { queue: control, sleep },
        });
    }
    for from in 0..cores {
        for to in 0..cores {
            // A core has a ring to itself too, unused and as small as can be, so that index and
            // source number go together.
            let ring_len = if from == to { 1 } else { capacity.core };
            let (producer, consumer) = RingBuffer::new(ring_len);
            ends[to].inbox.rings.push(consumer);
            let sleep = Arc::clone(&ends[to].inbox.sleep);
            let sender = CoreSender { ring: producer, sleep, source: from + 1 };
            ends[from].peers.push((from != to).then_some(sender));
        }
    }
    Ok(ends)
}

/// Sends from one core to one other core. Belongs to the sending core.
pub struct CoreSender<M> {
    ring: Producer<M>,
    sleep: Arc<Sleep>,
    source: usize,
}

impl<M> CoreSender<M> {
    /// Sends, and wakes the core if it sleeps. Gives the message back when the mailbox is full.
    #[inline]
    pub fn try_send(&mut self, message: M) -> Result<(), M> {
        match self.ring.push(message) {
            Ok(()) => {
                self.sleep.wake(self.source);
                Ok(())
            }
            Err(PushError::Full(message)) => Err(message),
        }
    }

    /// How many messages the mailbox takes before it is full, at least.
    #[inline]
    pub fn room(&self) -> usize {
        self.ring.slots()
    }
}

impl<M> fmt::Debug for CoreSender<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreSender").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Sends from the control plane to one core. Clones send to the same mailbox.
pub struct ControlSender<M> {
    queue: Arc<ArrayQueue<M>>,
    sleep: Arc<Sleep>,
}

impl<M> ControlSender<M> {
    /// Sends, and wakes the core if it sleeps. Gives the message back when the mailbox is full.
    pub fn try_send(&self, message: M) -> Result<(), M> {
        self.queue.push(message)?;
        self.sleep.wake(CONTROL);
        Ok(())
    }
}

impl<M> Clone for ControlSender<M> {
    fn clone(&self) -> Self {
        ControlSender { queue: Arc::clone(&self.queue), sleep: Arc::clone(&self.sleep) }
    }
}

impl<M> fmt::Debug for ControlSender<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlSender").field("waiting", &self.queue.len()).finish_non_exhaustive()
    }
}

/// Where a core's messages arrive.
pub struct Inbox<M> {
    sleep: Arc<Sleep>,
    control: Arc<ArrayQueue<M>>,
    rings: Vec<Consumer<M>>,
    /// Bits of the sources that may still hold something.
    ready: u64,
    /// The source whose turn it is.
    next: usize,
}

impl<M> Inbox<M> {
    /// Moves messages into `into`, one from each source in turn, until it is full or nothing is
    /// left.
    #[inline]
    pub fn drain(&mut self, into: &mut Batch<M>) {
        if self.ready != 0 || self.sleep.is_pending() {
            self.drain_ready(into);
        }
    }

    #[inline(never)]
    fn drain_ready(&mut self, into: &mut Batch<M>) {
        self.ready |= self.sleep.take();
        let sources = self.rings.len() + 1;
        let mut empty_in_a_row = 0;
        while empty_in_a_row < sources {
            if into.is_full() {
                return;
            }
            match self.pop(self.next) {
                Some(message) => {
                    into.push(message);
                    empty_in_a_row = 0;
                }
                None => empty_in_a_row += 1,
            }
            self.next = if self.next + 1 == sources { 0 } else { self.next + 1 };
        }
        // What a source sent after it was seen empty has raised its bit anew.
        self.ready = 0;
    }

    fn pop(&mut self, source: usize) -> Option<M> {
        if self.ready & source_bit(source) == 0 {
            return None;
        }
        match source {
            CONTROL => self.control.pop(),
            core => self.rings[core - 1].pop().ok(),
        }
    }

    /// The descriptor that ends the core's sleep, for sources that are no mailboxes: they raise it
    /// with `sleep::raise`.
    pub fn eventfd(&self) -> &Arc<OwnedFd> {
        self.sleep.eventfd()
    }

    /// Where sources with a descriptor of their own put it.
    pub fn wake_set(&self) -> &WakeSet {
        self.sleep.wake_set()
    }

    /// See [`Sleep::tick`].
    pub fn tick(&self, every: Duration) {
        self.sleep.tick(every);
    }

    /// Sleeps until a message comes, the eventfd is raised, a descriptor of the set is readable,
    /// the timer ticks or `longest` is over. `None`: did not sleep, because messages wait. `asleep`
    /// runs once sleep is certain, before it begins.
    pub fn sleep(&mut self, longest: Option<Duration>, asleep: impl FnOnce()) -> Option<Woken> {
        if self.ready != 0 || !self.sleep.announce() {
            return None;
        }
        asleep();
        let woken = self.sleep.wait(longest);
        self.sleep.cancel();
        Some(woken)
    }
}

impl<M> fmt::Debug for Inbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("sources", &(self.rings.len() + 1)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity { core: 4, control: 2 };

    fn drained(inbox: &mut Inbox<u32>, capacity: usize) -> Vec<u32> {
        let mut batch = Batch::new(capacity);
        inbox.drain(&mut batch);
        std::iter::from_fn(|| batch.pop()).collect()
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back() {
        let mut ends = connect::<u32>(2, CAPACITY).unwrap();
        let control = ends[1].control.clone();
        assert_eq!(
            [control.try_send(1), control.try_send(2), control.try_send(3)],
            [Ok(()), Ok(()), Err(3)]
        );
        let (first, rest) = ends.split_at_mut(1);
        let sender = first[0].peers[1].as_mut().unwrap();
        for message in 10..14 {
            assert_eq!(sender.try_send(message), Ok(()));
        }
        assert_eq!((sender.room(), sender.try_send(14)), (0, Err(14)));
        assert_eq!(drained(&mut rest[0].inbox, 16), [1, 10, 2, 11, 12, 13]);
        assert_eq!((sender.try_send(14), control.try_send(3)), (Ok(()), Ok(())));
        assert_eq!(drained(&mut rest[0].inbox, 16), [3, 14]);
        assert!(first[0].peers[0].is_none() && rest[0].peers[1].is_none());
    }

    #[test]
    fn what_does_not_fit_stays_and_keeps_the_core_awake() {
        let mut ends = connect::<u32>(1, CAPACITY).unwrap().remove(0);
        ends.control.try_send(1).unwrap();
        ends.control.try_send(2).unwrap();
        assert_eq!(drained(&mut ends.inbox, 1), [1]);
        assert_eq!(ends.inbox.sleep(Some(Duration::ZERO), || panic!("asleep")), None);
        assert_eq!(drained(&mut ends.inbox, 2), [2]);
        assert_eq!(ends.inbox.sleep(Some(Duration::ZERO), || ()), Some(Woken::Timeout));
    }

    #[test]
    fn a_busy_source_does_not_silence_the_others() {
        let mut ends = connect::<u32>(3, CAPACITY).unwrap();
        let (senders, receiver) = ends.split_at_mut(2);
        let [busy, quiet] = senders else { unreachable!() };
        let (busy, quiet) = (busy.peers[2].as_mut().unwrap(), quiet.peers[2].as_mut().unwrap());
        quiet.try_send(100).unwrap();
        let mut heard = Vec::new();
        for message in 0..4 {
            while busy.try_send(message).is_ok() {}
            heard.extend(drained(&mut receiver[0].inbox, 1));
        }
        assert!(heard.contains(&100), "heard {heard:?}");
    }

    /// Beyond [`crate::sleep::SOURCE_BITS`] sources share bits.
    #[test]
    fn seventy_cores_all_get_through() {
        let mut ends = connect::<u32>(70, Capacity { core: 1, control: 1 }).unwrap();
        let (receiver, senders) = ends.split_at_mut(1);
        for (index, sender) in senders.iter_mut().enumerate() {
            sender.peers[0].as_mut().unwrap().try_send(index as u32).unwrap();
        }
        let mut heard = drained(&mut receiver[0].inbox, 10);
        for _ in 0..7 {
            heard.extend(drained(&mut receiver[0].inbox, 10));
        }
        assert_eq!(heard, (0..69).collect::<Vec<_>>());
        senders[65].peers[0].as_mut().unwrap().try_send(7).unwrap();
        assert_eq!(drained(&mut receiver[0].inbox, 10), [7]);
    }

    /// Two threads against one inbox: everything arrives once, in each sender's order.
    #[test]
    fn nothing_is_lost_between_threads() {
        const MESSAGES: u32 = 20_000;
        let mut ends = connect::<u32>(2, CAPACITY).unwrap();
        let mut first = ends.remove(0);
        let mut second = ends.remove(0);
        let control = second.control.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let sender = first.peers[1].as_mut().unwrap();
                for message in 0..MESSAGES {
                    while sender.try_send(message).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
            scope.spawn(move || {
                for message in MESSAGES..2 * MESSAGES {
                    while control.try_send(message).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
            let (mut low, mut high) = (0, MESSAGES);
            let mut batch = Batch::new(3);
            while low < MESSAGES || high < 2 * MESSAGES {
                second.inbox.drain(&mut batch);
                while let Some(message) = batch.pop() {
                    let expected = if message < MESSAGES { &mut low } else { &mut high };
                    assert_eq!(message, *expected);
                    *expected += 1;
                }
                let longest = Some(Duration::from_secs(20));
                if (low < MESSAGES || high < 2 * MESSAGES)
                    && second.inbox.sleep(longest, || ()) == Some(Woken::Timeout)
                {
                    panic!("lost: {low} and {high}");
                }
            }
        });
    }
}
