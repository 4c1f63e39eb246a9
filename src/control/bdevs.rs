//! Bdevs: what their making, looking at and deleting leads to.

use std::sync::Arc;
use std::time::Duration;

use bdev::null::Null;
use bdev::registry::Opened;
use bdev::stacked::fault::ErrorInjection;
use bdev::uring::{Change, Uring};
use bdev::{Bdev, BdevError, Options};

use super::{Control, Desk, Refused};
use crate::shard::message::Action;

/// How long the making of a bdev, or a look at one, waits for its file or device.
pub const OPEN_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a deletion waits until the file or device is closed.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Why a bdev could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The bdev can't be made.
    #[error(transparent)]
    Bdev(#[from] BdevError),
    /// The control plane refuses.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Makes a bdev of its options: on a worker if its opening may sleep in the kernel.
pub async fn create<O: Options>(desk: &Desk, options: O) -> Result<Arc<dyn Bdev>, MakeError> {
    if options.filename().is_some() {
        return open(desk, options).await;
    }
    let base = options.base().map(str::to_owned);
    let _base = match &base {
        Some(base) => Some(desk.hold_bdev(base, "a bdev is being made over it").await?),
        None => None,
    };
    let name = options.name(base.as_deref().unwrap_or_default());
    // What is held already is not held twice: of a bdev over itself.
    let _hold = match name.filter(|name| Some(name) != base.as_ref()) {
        Some(name) => Some(desk.hold_bdev(&name, "being made").await?),
        None => None,
    };
    desk.with(|control| {
        if let Some(base) = &base {
            // Whether another bdev has it, the registry knows.
            control.refuse_mapped(control.bdev(base)?.name())?;
        }
        Ok(control.bdevs_mut().create(options)?)
    })
}

/// Makes a bdev whose opening may sleep in the kernel: on a worker. After [`OPEN_WAIT_MAX`] the
/// operation has failed; what comes of the opening after that is closed again, and until then
/// the name is busy. A bdev whose client has gone meanwhile is made all the same.
async fn open<O: Options>(desk: &Desk, options: O) -> Result<Arc<dyn Bdev>, MakeError> {
    let held = match options.name("") {
        Some(name) => Some(desk.hold_bdev(&name, "being made").await?),
        None => None,
    };
    let opening = desk.with(|control| control.bdevs_mut().prepare(options))?;
    let name = opening.name().to_owned();
    let mut hold = match held {
        Some(hold) => hold,
        // The registry gives no name that anything else has.
        None => desk.hold_bdev(&name, "being made").await.inspect_err(|_| abandon(desk, &name))?,
    };
    let doing = format!("opening {}", opening.filename());
    // The registry gives the name to nobody else for as long as the hold is there, which may be
    // longer than this operation.
    hold.at_end(move |desk| abandon(desk, &name));
    let opened = desk.work(hold, &doing, OPEN_WAIT_MAX, || opening.open(), close_opened).await?;
    let (_hold, opened) = opened;
    let opened = opened?;
    Ok(desk.with(|control| control.bdevs_mut().adopt(opened)))
}

fn abandon(desk: &Desk, name: &str) {
    desk.with(|control| control.bdevs_mut().abandon(name));
}

/// Changes something of one bdev that waits for nothing.
pub async fn change<T>(
    desk: &Desk,
    name: &str,
    change: impl FnOnce(&mut Control) -> Result<T, MakeError>,
) -> Result<T, MakeError> {
    let _hold = desk.hold_bdev(name, "being changed").await?;
    desk.with(change)
}

/// Deletes a bdev that neither a LUN nor a bdev uses. `module` is the bdev's, such as `null`. When
/// closing its file or device takes longer than `CLOSE_WAIT_MAX` the bdev is gone all the same, and
/// its name is busy until that ends.
pub async fn delete(desk: &Desk, module: &str, name: &str) -> Result<(), Refused> {
    let mut hold = desk.hold_bdev(name, "being deleted").await?;
    let removed = desk.with(|control| {
        let bdev = control.bdev(name)?;
        let name = bdev.name();
        if bdev.module() == module {
            control.refuse_mapped(name)?;
        }
        if bdev.close_may_sleep() {
            // What is removed has to be closed.
            desk.workers().borrow().refuse_full()?;
        }
        let removed = control.bdevs.remove(name, module)?;
        control.meters.remove(name);
        tracing::info!("bdev {name}: deleted");
        Ok::<_, Refused>(removed)
    })?;
    if !removed.bdev().close_may_sleep() {
        removed.close();
        return Ok(());
    }
    let (name, uuid) = (removed.bdev().name().to_owned(), removed.bdev().uuid());
    // A bdev that is made without a name does not get this one before the hold ends.
    desk.with(|control| control.bdevs_mut().reserve(&name, uuid));
    let closing = name.clone();
    hold.at_end(move |desk| abandon(desk, &closing));
    // The last holder of a device closes it: that is the worker, too.
    let close = move || drop(removed.close());
    if let Err(error) = desk.work(hold, "closing", CLOSE_WAIT_MAX, close, drop).await {
        tracing::warn!("bdev {name}: deleted, but its file or device is not closed: {error}");
    }
    Ok(())
}

/// Looks at a file or block device again.
pub async fn rescan_uring(desk: &Desk, name: &str) -> Result<(), MakeError> {
    let hold = desk.hold_bdev(name, "being looked at").await?;
    let uring = desk.with(|control| control.bdevs().of_kind::<Uring>(name, "bdev_uring_rescan"))?;
    let name = uring.name().to_owned();
    let look = move || (uring.rescan(), uring);
    let looked = desk.work(hold, "being looked at", OPEN_WAIT_MAX, look, drop).await?;
    let (_hold, (change, uring)) = looked;
    // The last holder of a device closes it, which is nothing for this thread: the registry
    // holds it, because the bdev is held here.
    drop(uring);
    if let Some(change) = change? {
        medium_changed(desk, &name, &change).await?;
    }
    Ok(())
}

/// Changes the size of a null bdev, which is `blocks` of its blocks.
pub async fn resize_null(
    desk: &Desk,
    name: &str,
    blocks: impl FnOnce(u32) -> u64,
) -> Result<(), MakeError> {
    let _hold = desk.hold_bdev(name, "being resized").await?;
    let name = desk.with(|control| {
        let null = control.bdevs().of_kind::<Null>(name, "bdev_null_resize")?;
        null.resize(blocks(null.geometry().block_bytes))?;
        Ok::<_, MakeError>(null.name().to_owned())
    })?;
    Ok(capacity_changed(desk, &name).await?)
}

/// Brings a new size of a bdev, and with it of the bdevs over it, to the cores and their
/// sessions. The bdev has it already.
async fn capacity_changed(desk: &Desk, bdev: &str) -> Result<(), Refused> {
    for bdev in desk.with(|control| control.with_those_over(bdev)) {
        desk.all(&Action::CapacityChanged { bdev }).await?;
    }
    Ok(())
}

/// Brings what became of a bdev's medium to the cores and their sessions, for it and for the
/// bdevs over it.
pub(super) async fn medium_changed(
    desk: &Desk,
    bdev: &str,
    change: &Change,
) -> Result<(), Refused> {
    // It may have been deleted since it was looked at.
    let Ok(bdev) = desk.with(|control| control.bdev(bdev)) else { return Ok(()) };
    let name = bdev.name().to_owned();
    let blocks = bdev.geometry().blocks;
    drop(bdev);
    let (ready, resized) = match change {
        Change::Resized => {
            tracing::info!("bdev {name}: has {blocks} blocks now");
            return capacity_changed(desk, &name).await;
        }
        Change::Lost(why) => {
            tracing::warn!("bdev {name}: not ready: {why}");
            (false, false)
        }
        Change::Returned { resized } => {
            tracing::info!("bdev {name}: ready again");
            (true, *resized)
        }
    };
    for bdev in desk.with(|control| control.with_those_over(&name)) {
        desk.all(&Action::MediumChanged { bdev, ready }).await?;
    }
    if resized { capacity_changed(desk, &name).await } else { Ok(()) }
}

/// Lets the pending operations of an error bdev go on. Every core has seen it when this
/// returns: the question wakes those that sleep. Waits for no other operation at the bdev,
/// because those may wait for what this lets go on.
pub async fn resume_pending(desk: &Desk, bdev: &str) -> Result<(), Refused> {
    let method = "bdev_error_resume_pending";
    let errors = desk.with(|control| control.bdevs.of_kind::<ErrorInjection>(bdev, method))?;
    errors.resume_pending();
    drop(errors);
    desk.reports().await.map(drop)
}

impl Control {
    fn with_those_over(&self, bdev: &str) -> Vec<String> {
        std::iter::once(bdev.to_owned()).chain(self.bdevs.names_over(bdev)).collect()
    }
}

/// Nobody wants the bdev any more.
fn close_opened(opened: Result<Opened, BdevError>) {
    if let Ok(opened) = opened {
        opened.close();
    }
}
