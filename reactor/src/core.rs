//! A core: a pinned thread that runs one [`Service`], turn after turn.
//!
//! Owns the loop, the service and the receiving end of the core's mailboxes. The service is made on
//! its own thread, so it need not be `Send`.
//!
//! A panic ends only this thread, with everything that the service owned half done. [`Core::join`]
//! tells; the application treats it as fatal for the process, because the other cores may wait for
//! an answer for ever.
//!
//! A turn without work costs one reading of the clock, one load and three plain stores. An adaptive
//! core that found nothing for a while sleeps until it is woken; it looks for less long while that
//! keeps being in vain, in the end not at all: then it falls asleep out of a turn with work.

use std::any::Any;
use std::cell::OnceCell;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::mailbox::Inbox;
use crate::sleep::Woken;
use crate::stats::CoreStats;
use crate::sys::affinity::{self, AffinityError};
use crate::sys::tsc::Tsc;
use crate::{Batch, Clock, Instant, Progress, Service};

/// What a core does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Keeps looking: lowest latency, one core always busy.
    Poll,
    /// Looks for a while, then sleeps until it is woken.
    Adaptive {
        /// How long to look for work before sleeping, at most. Less while sleeps turn out longer
        /// than this: then looking was in vain, and took the processor from those who work.
        spin: Duration,
    },
}

/// How a core runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreConfig {
    /// The core's number in the system.
    pub number: usize,
    /// What it does when there is nothing to do.
    pub idle: IdlePolicy,
    /// Messages that a turn is given at most, at least 1.
    pub messages_max: usize,
    /// How often a sleep ends by itself, more than 0. It bounds how late a service sees what need
    /// not wake the core.
    pub sleep_max: Duration,
}

impl CoreConfig {
    /// A core that polls, with 64 messages a turn and sleeps of at most 100 ms.
    pub const fn new(number: usize) -> Self {
        CoreConfig {
            number,
            idle: IdlePolicy::Poll,
            messages_max: 64,
            sleep_max: Duration::from_millis(100),
        }
    }
}

/// Why a core did not run, or does not any more.
#[derive(Debug, thiserror::Error)]
pub enum CoreError<E: std::error::Error> {
    /// The core can't be used.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
    /// The system gave no thread.
    #[error("starting the thread of core {core}: {source}")]
    Thread {
        /// The core.
        core: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The service could not be made.
    #[error("core {core}: {source}")]
    Service {
        /// The core.
        core: usize,
        /// The maker's reason.
        source: E,
    },
    /// A bug: the thread is gone and its service with it. Fatal for the process.
    #[error("core {core} panicked: {message}")]
    Panicked {
        /// The core.
        core: usize,
        /// What the panic said.
        message: String,
    },
}

/// A running core. Dropping it leaves the thread running by itself.
#[must_use = "a core that nobody joins can die unnoticed"]
pub struct Core<E: std::error::Error> {
    number: usize,
    stats: Arc<CoreStats>,
    start: Receiver<()>,
    started: OnceCell<bool>,
    /// A pipe whose other end the thread holds for its life.
    ended: OwnedFd,
    thread: JoinHandle<Result<(), CoreError<E>>>,
}

/// Starts the thread `reactor_<number>`, pins it, makes the service there, and runs it until
/// [`Service::stopped`]. Fails at once for a core that can't be used.
///
/// Sources that are to end the core's sleep get [`Inbox::eventfd`] before the inbox is handed over.
pub fn spawn<S, E, F>(
    config: CoreConfig,
    mut inbox: Inbox<S::Message>,
    make_service: F,
) -> Result<Core<E>, CoreError<E>>
where
    S: Service,
    S::Message: 'static,
    E: std::error::Error + Send + 'static,
    F: FnOnce() -> Result<S, E> + Send + 'static,
{
    assert!(config.messages_max > 0, "a turn takes at least one message");
    let core = config.number;
    let stats = Arc::new(CoreStats::default());
    let published = Arc::clone(&stats);
    let (tell_start, start) = sync_channel(1);
    affinity::check_core(core)?;
    let failed = |source| CoreError::Thread { core, source };
    let (ended, alive) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let run = move || {
        let _alive = alive;
        affinity::pin(core)?;
        published.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        let clock = Tsc::new();
        let mut service = make_service().map_err(|source| CoreError::Service { core, source })?;
        // Nobody may be listening, which is fine.
        let _ = tell_start.send(());
        run_loop(&clock, &config, &mut inbox, &published, &mut service);
        Ok(())
    };
    let thread =
        thread::Builder::new().name(format!("reactor_{core}")).spawn(run).map_err(failed)?;
    Ok(Core { number: core, stats, start, started: OnceCell::new(), ended, thread })
}

impl<E: std::error::Error> Core<E> {
    /// The core's number in the system.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The core's times and counts.
    pub fn stats(&self) -> &Arc<CoreStats> {
        &self.stats
    }

    /// Waits until the service is made. False: it never was, and [`Core::join`] says why.
    pub fn wait_started(&self) -> bool {
        *self.started.get_or_init(|| self.start.recv().is_ok())
    }

    /// True when [`Core::join`] won't wait.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end of the thread. An error other than at the start is a bug of ours.
    pub fn join(self) -> Result<(), CoreError<E>> {
        let core = self.number;
        self.thread.join().unwrap_or_else(|payload| {
            Err(CoreError::Panicked { core, message: panic_message(&*payload) })
        })
    }
}

/// The descriptor is ready, for whatever it is polled for, once the thread is about to end: then
/// [`Core::join`] waits no longer than the thread's last steps take.
impl<E: std::error::Error> AsFd for Core<E> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl<E: std::error::Error> fmt::Debug for Core<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("number", &self.number).finish_non_exhaustive()
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// How long an adaptive core looks for work before it sleeps.
struct Spin {
    longest_ns: u64,
    now_ns: u64,
}

impl Spin {
    fn new(idle: IdlePolicy) -> Self {
        let longest_ns = match idle {
            IdlePolicy::Poll => u64::MAX,
            IdlePolicy::Adaptive { spin } => u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX),
        };
        Spin { longest_ns, now_ns: longest_ns }
    }

    /// Looking is in vain: after work, sleep follows at once.
    fn is_over(&self) -> bool {
        self.now_ns == 0
    }

    /// After a sleep that work ended: half as long, down to nothing, if the longest look would not
    /// have met it; twice as long if it would.
    fn on_woken(&mut self, slept_ns: u64) {
        let least_ns = self.longest_ns / 16;
        self.now_ns = if slept_ns <= self.longest_ns {
            self.now_ns.saturating_mul(2).clamp(least_ns, self.longest_ns)
        } else if self.now_ns > least_ns {
            self.now_ns / 2
        } else {
            0
        };
    }
}

/// Runs turns on the calling thread until [`Service::stopped`]. The time between two readings of
/// the clock belongs to the turn between them.
pub fn run_loop<C: Clock, S: Service>(
    clock: &C,
    config: &CoreConfig,
    inbox: &mut Inbox<S::Message>,
    stats: &CoreStats,
    service: &mut S,
) {
    assert!(!config.sleep_max.is_zero(), "sleeps would never end");
    if config.idle != IdlePolicy::Poll {
        inbox.tick(config.sleep_max);
    }
    let mut spin = Spin::new(config.idle);
    let mut messages = Batch::new(config.messages_max);
    let mut now = clock.now();
    let mut active = now;
    while !service.stopped() {
        inbox.drain(&mut messages);
        let progress = service.turn(now, &mut messages);
        let end = clock.now();
        stats.turns.add(1);
        match progress {
            Progress::Busy => stats.add_busy(end.ns_since(now)),
            Progress::Idle => stats.idle_ns.add(end.ns_since(now)),
        }
        now = end;
        if progress == Progress::Busy {
            active = now;
            if !spin.is_over() {
                continue;
            }
        }
        // Nobody would wake the core for messages that it has already been given.
        let may_sleep = now.ns_since(active) >= spin.now_ns && messages.is_empty();
        if may_sleep && !service.stopped() {
            let asleep = || stats.asleep.store(true, Ordering::Relaxed);
            let left = |due: Instant| Duration::from_nanos(due.ns_since(now));
            let longest = service.deadline().map(left).filter(|left| *left < config.sleep_max);
            let slept = if service.arm() { inbox.sleep(longest, asleep) } else { None };
            let Some(woken) = slept else {
                if progress == Progress::Busy {
                    // A turn without work would have been cheaper than arming.
                    spin.on_woken(0);
                }
                continue;
            };
            stats.asleep.store(false, Ordering::Relaxed);
            stats.sleeps.add(1);
            let end = clock.now();
            let slept_ns = end.ns_since(now);
            stats.idle_ns.add(slept_ns);
            now = end;
            if woken == Woken::Raised {
                active = now;
                spin.on_woken(slept_ns);
            }
        }
    }
}

#[cfg(test)]
mod tests;
