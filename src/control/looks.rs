//! A look at what may sleep in the kernel and belongs to no object of the control plane: a file of
//! the operator, devices of the system.

use super::bdevs::OPEN_WAIT_MAX;
use super::{Desk, Refused};

/// Runs `look` on a worker. One look at a time and `object`; refused (ETIMEDOUT) when the look has
/// no end within [`OPEN_WAIT_MAX`].
pub async fn look<T: Send + 'static>(
    desk: &Desk,
    object: String,
    doing: &str,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    let hold = desk.hold(object, doing).await?;
    let (_hold, seen) = desk.work(hold, doing, OPEN_WAIT_MAX, look, drop).await?;
    Ok(seen)
}
