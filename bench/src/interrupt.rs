//! Ctrl-C: the first ends a run early, so that the results so far are printed, the second ends the
//! process at once.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// Exit code of a run that a signal ended early, with its results printed: as fio.
pub const EXIT_INTERRUPTED: u8 = 128;
/// Exit code of a process that a second signal ended.
const EXIT_AT_ONCE: i32 = 130;

/// Whether a run is to end early. Clones belong to one another; by default nobody asks for it.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    raised: Arc<AtomicBool>,
    /// Readable from the first signal on.
    bell: Option<Arc<OwnedFd>>,
}

impl Interrupt {
    /// Takes over SIGINT and SIGTERM, once per process.
    pub fn on_signals() -> Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        let (bell, ring) = UnixStream::pair().context("a pair of sockets")?;
        for signal in [SIGINT, SIGTERM] {
            // Order matters: this one acts only when an earlier signal has set the flag.
            let at_once =
                flag::register_conditional_shutdown(signal, EXIT_AT_ONCE, Arc::clone(&raised));
            at_once.context("signals")?;
            flag::register(signal, Arc::clone(&raised)).context("signals")?;
            let ring = ring.try_clone().context("a descriptor")?;
            low_level::pipe::register(signal, ring).context("signals")?;
        }
        Ok(Interrupt { raised, bell: Some(Arc::new(bell.into())) })
    }

    /// Asks for the end.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Relaxed);
    }

    /// True once the run is to end.
    #[inline]
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }
}

/// A file or pipe whose reader waits for no longer than the run goes on.
#[derive(Debug)]
pub struct Input {
    file: File,
    interrupt: Interrupt,
}

impl Input {
    /// Of a file that nothing has been read from, or by system calls only.
    pub fn new(file: File, interrupt: Interrupt) -> Self {
        Input { file, interrupt }
    }
}

impl Read for Input {
    /// Fails with [`ErrorKind::Other`] once the run is to end.
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if let Some(bell) = &self.interrupt.bell {
            let mut ready =
                [PollFd::new(&self.file, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if !ready[1].revents().is_empty() {
                return Err(io::Error::other("interrupted"));
            }
            if ready[0].revents().is_empty() {
                return Err(ErrorKind::Interrupted.into());
            }
        }
        self.file.read(to)
    }
}
