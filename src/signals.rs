//! What signals do: SIGINT, SIGTERM and SIGQUIT stop the target, the first in order, the second at
//! once. SIGHUP, SIGUSR1 and SIGUSR2, which end a process unless it says otherwise, leave a line in
//! the log. SIGXFSZ does nothing: what is written beyond the limit of a file's size fails with an
//! error of its own. SIGPIPE is ignored by Rust's runtime.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2, SIGXFSZ, TERM_SIGNALS};
use signal_hook::{flag, low_level};

/// Exit code of a process that a second signal ended.
const EXIT_AT_ONCE: i32 = 130;

/// Signals that a session's end or an operator's script may send, and that mean nothing to us.
const HARMLESS: [(i32, &str); 3] = [(SIGHUP, "SIGHUP"), (SIGUSR1, "SIGUSR1"), (SIGUSR2, "SIGUSR2")];

/// Having one tells you that none of the signals named above ends the process by itself.
#[derive(Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    /// In the order of [`HARMLESS`].
    harmless: [Arc<AtomicBool>; HARMLESS.len()],
    /// Readable after each signal but SIGXFSZ. Does not block.
    bell: UnixStream,
}

impl Signals {
    /// Takes over the signals. A second one of those that stop the target ends the process at once,
    /// with exit code 130.
    pub fn install() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let harmless: [Arc<AtomicBool>; HARMLESS.len()] = Default::default();
        let (bell, ring) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        for signal in TERM_SIGNALS {
            // Order matters: this one acts only when an earlier signal has set the flag.
            flag::register_conditional_shutdown(*signal, EXIT_AT_ONCE, Arc::clone(&stop))?;
        }
        let stops = TERM_SIGNALS.iter().map(|signal| (*signal, &stop));
        let others = HARMLESS.iter().zip(&harmless).map(|((signal, _), seen)| (*signal, seen));
        for (signal, seen) in stops.chain(others) {
            // The flag is set before the bell rings.
            flag::register(signal, Arc::clone(seen))?;
            low_level::pipe::register(signal, ring.try_clone()?)?;
        }
        flag::register(SIGXFSZ, Arc::default())?;
        Ok(Signals { stop, harmless, bell })
    }

    /// True once the target is to stop.
    pub fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits until the target is to stop: `None`. Or until one of `others` is readable or hung up:
    /// its place among them. Logs what signals that mean nothing arrive meanwhile.
    pub fn wait(&self, others: &[BorrowedFd<'_>]) -> Option<usize> {
        self.wait_and(others, None, || {})
    }

    /// The same, and calls `each` every so often meanwhile, if a time is given.
    pub fn wait_and(
        &self,
        others: &[BorrowedFd<'_>],
        every: Option<Duration>,
        mut each: impl FnMut(),
    ) -> Option<usize> {
        let mut due = every.map(|every| Instant::now() + every);
        loop {
            let now = Instant::now();
            if let (Some(at), Some(every)) = (due, every)
                && now >= at
            {
                each();
                due = Some(now + every);
            }
            let left = due.map(|due| due.saturating_duration_since(now));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            self.log_harmless();
            if self.stop_requested() {
                return None;
            }
            let mut ready = vec![PollFd::new(&self.bell, PollFlags::IN)];
            ready
                .extend(others.iter().map(|other| PollFd::from_borrowed_fd(*other, PollFlags::IN)));
            match poll(&mut ready, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => panic!("waiting for a signal: {errno}"),
            }
            let other = ready[1..].iter().position(|other| !other.revents().is_empty());
            if other.is_some() {
                return other;
            }
            // Empties the bell, so that the next signal is heard. Would block: it is empty.
            let _ = (&self.bell).read(&mut [0; 64]);
        }
    }

    fn log_harmless(&self) {
        for ((_, name), seen) in HARMLESS.iter().zip(&self.harmless) {
            if seen.swap(false, Ordering::AcqRel) {
                tracing::warn!("{name} is ignored: SIGTERM stops the target");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_signal_is_a_request_and_not_the_end() {
        let signals = Signals::install().expect("signals can be taken over");
        assert!(!signals.stop_requested());
        let (other, its_end) = UnixStream::pair().unwrap();
        drop(its_end);
        let (quiet, _its_other_end) = UnixStream::pair().unwrap();
        let others = [quiet.as_fd(), other.as_fd()];
        assert_eq!(signals.wait(&others), Some(1), "another descriptor is ready");
        let send = |signal| rustix::process::kill_process(rustix::process::getpid(), signal);
        for signal in [
            rustix::process::Signal::HUP,
            rustix::process::Signal::USR1,
            rustix::process::Signal::USR2,
            rustix::process::Signal::XFSZ,
        ] {
            send(signal).expect("to myself");
        }
        assert_eq!(signals.wait(&[other.as_fd()]), Some(0), "these stop nothing");
        send(rustix::process::Signal::TERM).expect("to myself");
        // Only the signal can end this wait, whenever it is delivered.
        assert_eq!(signals.wait(&[quiet.as_fd()]), None);
        assert!(signals.stop_requested());
    }
}
