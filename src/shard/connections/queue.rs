//! The wait queue of a connection: received commands that have not been admitted, oldest first.
//!
//! The queue can't overflow: each entry holds a posted receive. Commands that wait for a rate limit
//! wait elsewhere ([`crate::shard::qos`]), and come back between those that were charged and those
//! that were not.

use std::collections::VecDeque;

use reactor::Instant;
use transport::Recv;

/// Received commands of one connection.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: VecDeque<Recv>,
    /// This many of them, the oldest, have been charged to the limits of their logical units.
    charged: u32,
    /// Commands that wait for a rate limit, elsewhere.
    held: u32,
    /// Since when the oldest waiting command has found too few buffers, and the bytes of the
    /// smallest one that it needs.
    short: Option<(Instant, usize)>,
    /// The connection stands in the list of those with waiting commands.
    listed: bool,
}

impl Queue {
    /// An empty queue with room for all receives of the connection.
    pub(crate) fn with_room(receives: u32) -> Queue {
        Queue { waiting: VecDeque::with_capacity(receives as usize), ..Queue::default() }
    }

    /// True when no command waits here. Some may wait for a rate limit.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Commands that wait, here or for a rate limit.
    pub(crate) fn len(&self) -> u32 {
        self.waiting.len() as u32 + self.held
    }

    /// The commands that wait here.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Recv> {
        self.waiting.iter()
    }

    /// A command that has just arrived.
    pub(crate) fn push(&mut self, recv: Recv) {
        self.waiting.push_back(recv);
    }

    /// Takes the oldest command.
    pub(crate) fn pop(&mut self) -> Option<Recv> {
        self.waiting.pop_front()
    }

    /// The oldest command, just taken, can't begin yet.
    pub(crate) fn put_back(&mut self, recv: Recv) {
        self.waiting.push_front(recv);
    }

    /// The oldest command, just taken, can't begin yet for want of a buffer of that many bytes.
    pub(crate) fn put_back_short(&mut self, recv: Recv, now: Instant, bytes: usize) {
        self.put_back(recv);
        self.short.get_or_insert((now, bytes));
    }

    /// The oldest command, just taken, has begun.
    pub(crate) fn begun(&mut self) {
        self.short = None;
        self.charged = self.charged.saturating_sub(1);
    }

    /// Since when the oldest command has found too few buffers, and the bytes of the smallest one
    /// that it needs.
    pub(crate) fn shortage(&self) -> Option<(Instant, usize)> {
        self.short
    }

    /// True when the oldest command was charged before, but then there was no slot or buffer.
    pub(crate) fn is_charged(&self) -> bool {
        self.charged > 0
    }

    /// The oldest command has been charged.
    pub(crate) fn charge(&mut self) {
        self.charged += 1;
    }

    /// A command is taken aside to wait for a rate limit.
    pub(crate) fn hold(&mut self) {
        self.held += 1;
    }

    /// A command that waited for a rate limit is dropped.
    pub(crate) fn forget_held(&mut self) {
        self.held -= 1;
    }

    /// True when commands wait for a rate limit.
    pub(crate) fn holds(&self) -> bool {
        self.held > 0
    }

    /// A command comes back from its rate limit: in front of what has not been charged, behind what
    /// has.
    pub(crate) fn release(&mut self, recv: Recv) {
        self.held -= 1;
        self.waiting.insert(self.charged as usize, recv);
        self.charged += 1;
    }

    /// Hands each command to `keep`, oldest first, which gives back what stays. Tells how many did
    /// not.
    pub(crate) fn sift(&mut self, mut keep: impl FnMut(Recv) -> Option<Recv>) -> u32 {
        let (mut count, charged) = (0, self.charged);
        for place in 0..self.waiting.len() as u32 {
            let recv = self.waiting.pop_front().expect("counted");
            match keep(recv) {
                Some(recv) => self.waiting.push_back(recv),
                None => {
                    self.short = None;
                    self.charged -= u32::from(place < charged);
                    count += 1;
                }
            }
        }
        count
    }

    /// Takes out the oldest command of a connection that ends.
    pub(crate) fn drain(&mut self) -> Option<Recv> {
        self.charged = 0;
        self.waiting.pop_front()
    }

    /// The connection is to stand in the list of those with waiting commands. False: there it is.
    pub(crate) fn enlist(&mut self) -> bool {
        !std::mem::replace(&mut self.listed, true)
    }

    /// The connection has been taken off the list.
    pub(crate) fn delist(&mut self) {
        self.listed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(count: u32) -> Queue {
        let mut queue = Queue::with_room(count);
        (0..count).for_each(|index| queue.push(Recv { index, len: 0 }));
        queue
    }

    fn order(queue: &Queue) -> Vec<u32> {
        queue.iter().map(|recv| recv.index).collect()
    }

    #[test]
    fn what_comes_back_from_a_rate_limit_stands_behind_what_was_charged() {
        let mut queue = queue(4);
        for _ in 0..2 {
            queue.pop().expect("four of them");
            queue.hold();
        }
        queue.release(Recv { index: 0, len: 0 });
        queue.release(Recv { index: 1, len: 0 });
        assert_eq!((order(&queue), queue.holds()), (vec![0, 1, 2, 3], false));
        queue.sift(|recv| (recv.index != 0).then_some(recv));
        queue.hold();
        queue.release(Recv { index: 9, len: 0 });
        assert_eq!(order(&queue), [1, 9, 2, 3]);
    }

    #[test]
    fn a_shortage_lasts_until_the_oldest_command_begins() {
        let mut queue = queue(2);
        let recv = queue.pop().expect("two of them");
        queue.put_back_short(recv, Instant::from_ns(5), 64);
        let recv = queue.pop().expect("put back");
        queue.put_back_short(recv, Instant::from_ns(7), 128);
        assert_eq!(queue.shortage(), Some((Instant::from_ns(5), 64)));
        queue.pop();
        queue.begun();
        assert_eq!(queue.shortage(), None);
    }
}
