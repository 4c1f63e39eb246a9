//! What the operator asks of the control thread.
use std::sync::mpsc;

use super::super::super::ListenAddress;
use super::super::ListenError;
use super::{Control, LISTENER, Listening};
use crate::control_thread::{Inbox, Order};

type Done = Result<(), ListenError>;

#[derive(Debug)]
pub(in super::super) enum Command {
    Add { target: String, address: ListenAddress, answer: mpsc::Sender<Done> },
    Remove { target: String, address: ListenAddress, answer: mpsc::Sender<Done> },
    InOrder { in_order: bool, answer: mpsc::Sender<()> },
}

impl Control {
    /// False when the thread is to stop.
    pub(super) fn on_commands(&mut self, inbox: &Inbox<Command>) -> bool {
        while let Some(order) = inbox.next() {
            let command = match order {
                Order::Command(command) => command,
                Order::Stop => return false,
            };
            match command {
                Command::Add { target, address, answer } => {
                    let _ = answer.send(self.add(target, address));
                }
                Command::Remove { target, address, answer } => {
                    let before = self.listeners.len();
                    self.listeners.retain(|l| l.target != target || l.address != address);
                    let found = self.listeners.len() != before;
                    let not_found = ListenError::NotFound { target, address };
                    let _ = answer.send(if found { Ok(()) } else { Err(not_found) });
                }
                Command::InOrder { in_order, answer } => {
                    self.channels_in_order = in_order;
                    let _ = answer.send(());
                }
            }
        }
        true
    }

    fn add(&mut self, target: String, address: ListenAddress) -> Result<(), ListenError> {
        if self.listeners.iter().any(|l| l.target == target && l.address == address) {
            return Err(ListenError::Exists { target, address });
        }
        self.listener_number += 1;
        let number = self.listener_number;
        let id = self
            .channel
            .listen(address, LISTENER | number)
            .map_err(|error| ListenError::refused(address, error))?;
        self.listeners.push(Listening { number, target, address, id: Some(id) });
        Ok(())
    }
}
