//! SIGINT and SIGTERM: the first stops the target in order, the second at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::TERM_SIGNALS;
use signal_hook::flag;

/// Exit code of a process that a second signal ended.
const EXIT_AT_ONCE: i32 = 130;

/// How late a signal may be noticed.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Having one tells you that SIGINT, SIGTERM and SIGQUIT no longer end the process by themselves.
#[derive(Debug, Clone)]
pub struct StopRequest(Arc<AtomicBool>);

impl StopRequest {
    /// Takes over the signals. A second one ends the process at once, with exit code 130.
    pub fn install() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in TERM_SIGNALS {
            // Order matters: this one acts only when an earlier signal has set the flag.
            flag::register_conditional_shutdown(*signal, EXIT_AT_ONCE, Arc::clone(&stop))?;
            flag::register(*signal, Arc::clone(&stop))?;
        }
        Ok(StopRequest(stop))
    }

    /// True once the target is to stop.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Asks for the stop without a signal.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Waits until the target is to stop.
    pub fn wait(&self) {
        while !self.is_raised() {
            std::thread::sleep(LOOK_INTERVAL);
        }
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
        stop.wait();
        assert!(stop.is_raised());
    }
}
