//! Models of the mailboxes and of the sleep of their core.

use loom::thread;
use reactor::Batch;

use crate::mailbox::{Capacity, Inbox, connect};

const CAPACITY: Capacity = Capacity { core: 1, control: 1 };

/// Takes messages, and sleeps whenever there is none, until `count` have come.
fn receive(inbox: &mut Inbox<u32>, count: usize) -> Vec<u32> {
    let (mut heard, mut batch) = (Vec::new(), Batch::new(1));
    while heard.len() < count {
        inbox.drain(&mut batch);
        match batch.pop() {
            Some(message) => heard.push(message),
            // Whoever comes away without sleeping has something to look at.
            None => drop(inbox.sleep(None, || ())),
        }
    }
    heard
}

/// One core sends two messages through a mailbox of one; the other falls asleep in between, or not.
/// Without its Release or its Acquire, the word says "pending" before the message is there: it is
/// looked for, not found, and lost.
pub(crate) fn two_messages() {
    let mut ends = connect::<u32>(2, CAPACITY).expect("no descriptors are needed");
    let mut receiver = ends.remove(1).inbox;
    let mut sender = ends.remove(0).peers.remove(1).expect("a mailbox to the other core");
    let sending = thread::spawn(move || {
        for message in [1, 2] {
            while sender.try_send(message).is_err() {
                thread::yield_now();
            }
        }
    });
    assert_eq!(receive(&mut receiver, 2), [1, 2]);
    sending.join().expect("a sender in peace");
}

/// A core and the control plane send to the same inbox.
pub(crate) fn two_sources() {
    let mut ends = connect::<u32>(2, CAPACITY).expect("no descriptors are needed");
    let second = ends.remove(1);
    let mut sender = ends.remove(0).peers.remove(1).expect("a mailbox to the other core");
    let (control, mut receiver) = (second.control, second.inbox);
    let core = thread::spawn(move || assert_eq!(sender.try_send(1), Ok(())));
    let control = thread::spawn(move || assert_eq!(control.try_send(2), Ok(())));
    let mut heard = receive(&mut receiver, 2);
    heard.sort_unstable();
    assert_eq!(heard, [1, 2]);
    core.join().expect("a core in peace");
    control.join().expect("a control plane in peace");
}
