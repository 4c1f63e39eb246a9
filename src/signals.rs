//! SIGINT and SIGTERM: the first stops the target in order, the second at once.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::TERM_SIGNALS;
use signal_hook::{flag, low_level};

/// Exit code of a process that a second signal ended.
const EXIT_AT_ONCE: i32 = 130;

/// Having one tells you that SIGINT, SIGTERM and SIGQUIT no longer end the process by themselves.
#[derive(Debug)]
pub struct StopRequest {
    raised: Arc<AtomicBool>,
    /// Readable from the first signal on.
    bell: UnixStream,
}

impl StopRequest {
    /// Takes over the signals. A second one ends the process at once, with exit code 130.
    pub fn install() -> io::Result<Self> {
        let raised = Arc::new(AtomicBool::new(false));
        let (bell, ring) = UnixStream::pair()?;
        for signal in TERM_SIGNALS {
            // Order matters: this one acts only when an earlier signal has set the flag.
            flag::register_conditional_shutdown(*signal, EXIT_AT_ONCE, Arc::clone(&raised))?;
            flag::register(*signal, Arc::clone(&raised))?;
            low_level::pipe::register(*signal, ring.try_clone()?)?;
        }
        Ok(StopRequest { raised, bell })
    }

    /// True once the target is to stop.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Waits until the target is to stop, for `longest` at most. True once it is.
    pub fn wait_for(&self, longest: Duration) -> bool {
        if !self.is_raised() {
            let timeout = Timespec::try_from(longest).ok();
            // A failure is a signal, or no worse than a wait that was too short.
            let _ = poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], timeout.as_ref());
        }
        self.is_raised()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_request_and_not_the_end() {
        let stop = StopRequest::install().expect("signals can be taken over");
        assert!(!stop.is_raised());
        let pid = rustix::process::getpid();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("to myself");
        assert!(stop.wait_for(Duration::from_secs(20)));
        assert!(stop.is_raised());
    }
}
