//! What the operator asks of the control thread.
use std::sync::mpsc;

use super::super::super::ListenAddress;
use super::super::ListenError;
use super::{Control, LISTENER, Listening};

type Done = Result<(), ListenError>;

pub(in super::super) enum Command {
    Add { target: String, address: ListenAddress, answer: mpsc::Sender<Done> },
    Remove { target: String, address: ListenAddress, answer: mpsc::Sender<Done> },
    InOrder { in_order: bool, answer: mpsc::Sender<()> },
    Stop,
}

impl Control {
    /// False when the thread is to stop.
    pub(super) fn on_commands(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Add { target, address, answer }) => {
                    let _ = answer.send(self.add(target, address));
                }
                Ok(Command::Remove { target, address, answer }) => {
                    let before = self.listeners.len();
                    self.listeners.retain(|l| l.target != target || l.address != address);
                    let found = self.listeners.len() != before;
                    let not_found = ListenError::NotFound { target, address };
                    let _ = answer.send(if found { Ok(()) } else { Err(not_found) });
                }
                Ok(Command::InOrder { in_order, answer }) => {
                    self.channels_in_order = in_order;
                    let _ = answer.send(());
                }
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
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
