//! What a core says to others: bounded mailboxes with a place to wait in front of them.
//!
//! Only control traffic passes here, never the path of a command. A message that finds its mailbox
//! full waits and goes out in order on a later turn. What can wait is bounded by the logins and
//! task management requests that peers have receives for.

use std::collections::VecDeque;
use std::sync::mpsc;

use super::coverage::{Mark, mark};
use super::message::{Answer, CoreMessage, Message};

/// Hands a message to one core's mailbox, or gives it back when that is full.
pub type CoreDoor = Box<dyn FnMut(Message) -> Result<(), Message>>;

/// One core's way to the other cores and to the control plane.
pub struct Outbox {
    core: usize,
    doors: Vec<CoreDoor>,
    waiting: VecDeque<(usize, Message)>,
    answers: mpsc::Sender<Answer>,
}

impl Outbox {
    /// `doors[n]` leads to core `n`; the own one is there too and is used like the others.
    pub fn new(core: usize, doors: Vec<CoreDoor>, answers: mpsc::Sender<Answer>) -> Self {
        Outbox { core, doors, waiting: VecDeque::new(), answers }
    }

    /// This core's number.
    pub fn core(&self) -> usize {
        self.core
    }

    /// Number of cores.
    pub fn cores(&self) -> usize {
        self.doors.len()
    }

    /// Says something to a core, this one included. Order per receiver is kept.
    pub fn send(&mut self, core: usize, message: CoreMessage) {
        let message = Message::Core(message);
        if self.waiting.is_empty() {
            if let Err(message) = (self.doors[core])(message) {
                mark(Mark::MailboxFull);
                self.waiting.push_back((core, message));
            }
        } else {
            self.waiting.push_back((core, message));
        }
    }

    /// Answers the control plane. It may have gone away during shutdown; nobody is left to care.
    pub fn answer(&mut self, answer: Answer) {
        if self.answers.send(answer).is_err() {
            tracing::debug!("the control plane is gone");
        }
    }

    /// Sends what waited. True when nothing waits any more.
    pub fn flush(&mut self) -> bool {
        while let Some((core, message)) = self.waiting.pop_front() {
            if let Err(message) = (self.doors[core])(message) {
                self.waiting.push_front((core, message));
                return false;
            }
        }
        true
    }
}
