//! A control plane without cores, on the thread of a test.

use bdev::registry::Registry;

use super::{Control, Mailboxes, Office, Parts, Post};
use crate::logs::{Level, Logs};

pub(super) fn office() -> Office {
    let (post, inbox) = Post::new();
    let control = Control::new(Parts {
        cores: Box::new(Mailboxes::new(Vec::new())),
        stats: Vec::new(),
        bdevs: Registry::with_host("test host"),
        host_id: "test host".to_owned(),
        logs: Logs::new(Level::Notice, |_| {}),
        raise: Box::new(|_| Ok(())),
    });
    Office::new(control, post, inbox)
}
