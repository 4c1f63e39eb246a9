//! Keeping other operations away from an object: see [`super::busy`].

use std::time::Duration;

use super::desk::Desk;
use super::{Control, Refused};

/// How long an operation waits for the one before it at the same object.
const HOLD_WAIT_MAX: Duration = Duration::from_secs(1);

/// What is done before the next operation gets the object.
type AtEnd = Box<dyn FnOnce(&Desk)>;

/// As long as it is there, no other operation changes the object.
pub(super) struct Hold {
    desk: Desk,
    object: String,
    at_end: Option<AtEnd>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(at_end) = self.at_end.take() {
            at_end(&self.desk);
        }
        self.desk.busy().borrow_mut().pass_on(&self.object);
    }
}

impl Hold {
    /// What is held.
    pub(super) fn object(&self) -> &str {
        &self.object
    }

    /// Has something done before the next operation gets the object.
    pub(super) fn at_end(&mut self, act: impl FnOnce(&Desk) + 'static) {
        self.at_end = Some(Box::new(act));
    }

    /// Says what is done with the object from now on.
    pub(super) fn now(&self, doing: &str) {
        self.desk.busy().borrow_mut().now(&self.object, doing);
    }
}

impl Desk {
    /// Waits until no other operation is under way at an object, then keeps others away from it.
    /// Refused (EBUSY) after [`HOLD_WAIT_MAX`].
    pub(super) async fn hold(&self, object: String, doing: &str) -> Result<Hold, Refused> {
        let waiting = self.busy().borrow_mut().take(&object, doing);
        let mine = match waiting {
            None => true,
            Some(free) => match self.within(HOLD_WAIT_MAX, free).await {
                Ok(passed) => passed.is_ok(),
                // It may have been passed on in this very moment.
                Err(mut free) => matches!(free.try_recv(), Ok(Some(()))),
            },
        };
        if mine {
            return Ok(Hold { desk: self.clone(), object, at_end: None });
        }
        let doing = self.busy().borrow().doing(&object).unwrap_or_default();
        Err(Refused::busy(format!("{object} is busy: {doing}")))
    }

    /// The same for a bdev, by its name or UUID.
    pub(super) async fn hold_bdev(&self, name: &str, doing: &str) -> Result<Hold, Refused> {
        let name = self.with(|control| control.bdev_name(name));
        self.hold(bdev_object(&name), doing).await
    }

    /// The same for a target.
    pub(super) async fn hold_target(&self, name: &str, doing: &str) -> Result<Hold, Refused> {
        self.hold(format!("target {name}"), doing).await
    }

    /// What an operation does with a bdev, and for how long; also with one that does not exist
    /// yet, or no longer.
    pub fn bdev_is_busy(&self, name: &str) -> Option<String> {
        let (name, draining) = self.with(|control| {
            let name = control.bdev_name(name);
            let draining = control.draining_of(&name);
            (name, draining)
        });
        self.busy().borrow().doing(&bdev_object(&name)).or(draining)
    }
}

impl Control {
    /// The name of a bdev that may be given as its UUID.
    fn bdev_name(&self, name: &str) -> String {
        self.bdevs().find(name).map_or_else(|_| name.to_owned(), |bdev| bdev.name().to_owned())
    }
}

fn bdev_object(name: &str) -> String {
    format!("bdev {name}")
}
