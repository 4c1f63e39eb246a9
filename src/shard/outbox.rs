//! What a core says to others: bounded mailboxes with a place to wait in front of them.
//!
//! Only control traffic passes here, never the path of a command. A message that finds its mailbox
//! full waits and goes out on a later turn, in order for its receiver; messages for other receivers
//! do not wait for that one. What can wait is bounded by the logins and task management requests
//! that peers have receives for.

use std::collections::VecDeque;
use std::sync::mpsc;

use super::coverage::{Mark, mark};
use super::message::{Answer, Ask, CoreMessage, Decide, HomeMessage, Message, Up};
use super::names::CoreId;

/// Hands a message to one core's mailbox, or gives it back when that is full.
pub type CoreDoor = Box<dyn FnMut(Message) -> Result<(), Message>>;

/// The way from a core up to the control plane. It has no bound of its own: a core owes at most one
/// answer for each question, and has at most one question of its own for each device.
pub trait WayUp {
    /// Takes something. False: nobody is there any more to read it.
    fn put(&self, up: Up) -> bool;
}

impl WayUp for mpsc::Sender<Up> {
    fn put(&self, up: Up) -> bool {
        self.send(up).is_ok()
    }
}

/// One core's way to the other cores and to the control plane.
pub struct Outbox {
    core: CoreId,
    doors: Vec<CoreDoor>,
    /// By receiver.
    waiting: Vec<VecDeque<Message>>,
    /// Messages in all of `waiting`.
    waiting_count: usize,
    up: Box<dyn WayUp>,
}

impl Outbox {
    /// `doors[n]` leads to core `n`; the own one is there too and is used like the others.
    pub fn new(core: CoreId, doors: Vec<CoreDoor>, up: impl WayUp + 'static) -> Self {
        let waiting = doors.iter().map(|_| VecDeque::new()).collect();
        Outbox { core, doors, waiting, waiting_count: 0, up: Box::new(up) }
    }

    /// This core's number.
    pub fn core(&self) -> CoreId {
        self.core
    }

    /// All cores, this one included.
    pub fn cores(&self) -> impl ExactSizeIterator<Item = CoreId> + use<> {
        (0..self.doors.len()).map(CoreId::new)
    }

    /// Asks the home core of a unit for a decision.
    pub(crate) fn ask_home(&mut self, decide: Decide) {
        // Which core is the home does not matter, but that all cores agree.
        let home = CoreId::new(decide.unit.number() as usize % self.doors.len());
        self.send(home, CoreMessage::Home(HomeMessage::Decide(decide)));
    }

    /// Says something to a core, this one included. Order per receiver is kept.
    pub fn send(&mut self, core: CoreId, message: CoreMessage) {
        let message = Message::Core(message);
        let waiting = &mut self.waiting[core.index()];
        let refused = match waiting.is_empty() {
            true => (self.doors[core.index()])(message),
            false => Err(message),
        };
        if let Err(message) = refused {
            mark(Mark::MailboxFull);
            waiting.push_back(message);
            self.waiting_count += 1;
        }
    }

    /// Answers the control plane. It may have gone away during shutdown; nobody is left to care.
    pub fn answer(&mut self, answer: Answer) {
        self.put(Up::Answer(answer));
    }

    /// Asks the control plane for something that a core can't do, and goes on. What asks sees to it
    /// that it has one question under way at a time.
    pub(crate) fn ask_control(&mut self, ask: Ask) {
        self.put(Up::Ask(self.core, ask));
    }

    fn put(&self, up: Up) {
        if !self.up.put(up) {
            tracing::debug!("the control plane is gone");
        }
    }

    /// Sends what waited. True when nothing waits any more.
    #[inline]
    pub fn flush(&mut self) -> bool {
        self.waiting_count == 0 || self.flush_waiting()
    }

    /// Apart, so that a turn in which nothing waits pays for one comparison.
    #[cold]
    fn flush_waiting(&mut self) -> bool {
        for (door, waiting) in self.doors.iter_mut().zip(&mut self.waiting) {
            while let Some(message) = waiting.pop_front() {
                if let Err(message) = door(message) {
                    waiting.push_front(message);
                    break;
                }
                self.waiting_count -= 1;
            }
        }
        self.waiting_count == 0
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use transport::ConnId;

    use super::*;

    #[test]
    fn a_full_mailbox_holds_up_only_its_own_messages_and_keeps_their_order() {
        let (sender, _answers) = mpsc::channel();
        let (is_full, said) = (Rc::new(Cell::new(true)), Rc::new(RefCell::new(Vec::new())));
        let doors = [0, 1].map(|core| -> CoreDoor {
            let (is_full, said) = (Rc::clone(&is_full), Rc::clone(&said));
            Box::new(move |message| {
                if core == 0 && is_full.get() {
                    return Err(message);
                }
                let Message::Core(CoreMessage::Probe { conn }) = message else { panic!("a probe") };
                said.borrow_mut().push((core, conn.index));
                Ok(())
            })
        });
        let mut outbox = Outbox::new(CoreId::new(0), doors.into(), sender);
        let probe = |index| CoreMessage::Probe { conn: ConnId { index, generation: 0 } };
        for (core, index) in [(0, 1), (1, 2), (0, 3), (1, 4)] {
            outbox.send(CoreId::new(core), probe(index));
        }
        assert!(!outbox.flush());
        assert_eq!(*said.borrow(), [(1, 2), (1, 4)]);
        is_full.set(false);
        assert!(outbox.flush());
        assert_eq!(said.borrow()[2..], [(0, 1), (0, 3)]);
    }
}
