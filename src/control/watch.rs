//! Looks at the media behind the bdevs now and then: a file that grew, a disk that is gone or back.
//!
//! [`Watch`] is a thread of its own, because a look at a sick device can take long: it holds
//! nothing meanwhile, and only brings in what it found with the control plane locked. It also
//! brings to the cores what they could not be told at once.
//!
//! One look at a device is one or two system calls a second. Nothing here runs on a core.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Control;

/// Pause between two looks at all devices.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The running thread. Dropping it ends the thread, unless that is in a system call: then it ends
/// with the process.
pub struct Watch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to look every `interval`. `locked` calls its argument with the control plane locked.
    ///
    /// Fails when the system has no thread to give.
    pub fn start(
        interval: Duration,
        locked: impl Fn(&mut dyn FnMut(&mut Control)) + Send + 'static,
    ) -> std::io::Result<Watch> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                look(&locked);
            }
        })?;
        Ok(Watch { stop: Some(stop), thread: Some(thread) })
    }
}

/// Looks at every medium once.
fn look(locked: &impl Fn(&mut dyn FnMut(&mut Control))) {
    let mut media = Vec::new();
    locked(&mut |control| {
        control.deliver();
        media = control.bdevs().media();
    });
    for medium in media {
        let Some(medium) = medium.upgrade() else { continue };
        let Some(change) = medium.look() else { continue };
        let name = bdev::Bdev::name(medium.as_ref());
        locked(&mut |control| {
            if let Err(error) = control.medium_changed(name, &change) {
                tracing::warn!("bdev {name}: initiators may not notice {change:?}: {error}");
            }
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.is_finished()
        {
            // Its panic has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}
