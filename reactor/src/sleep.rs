//! How a core falls asleep without losing a wake-up.
//!
//! A [`Sleep`] is one word and one eventfd, shared by a core and everybody who sends to it. The
//! word holds one bit per source with something pending, and one that says that the core sleeps.
//! Sources outside the mailboxes raise the eventfd themselves (rings, shared memory), or put a
//! descriptor of theirs into the core's [`WakeSet`] (completion channels): what makes it readable
//! then ends the sleep without a thread between.
//!
//! A wake-up cannot be lost: sender and core change the same word, so one of them comes second and
//! sees what the other did. A sender that comes second writes the eventfd; a core that comes second
//! does not sleep. No fence is needed, because no decision depends on two words. The word is a file
//! of its own (`sleep/word.rs`), which a model checker runs in every order. A descriptor of the set
//! is looked at by its level, so one that became readable before the sleep ends it too.
//!
//! Costs one load per turn, one locked instruction per message, and a system call only for the
//! message that ends a sleep. A timer that ticks bounds all sleeps at the price of none.

mod word;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, atomic};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use word::Word;
pub use word::{SOURCE_BITS, source_bit};

/// What the eventfd is called in the set of descriptors, the timer, and all others.
const EVENTFD: u64 = 0;
const TICK: u64 = 1;
const WATCHED: u64 = 2;

/// Why a core woke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The eventfd was raised, or a descriptor of the [`WakeSet`] is readable.
    Raised,
    /// The longest sleep was over, the timer ticked, or a signal came.
    Timeout,
}

/// The descriptors that end a core's sleep while they are readable. Clones are the same set.
#[derive(Debug, Clone)]
pub struct WakeSet(Arc<OwnedFd>);

impl WakeSet {
    fn new(eventfd: &OwnedFd) -> Result<Self, Errno> {
        let set = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&set, eventfd, EventData::new_u64(EVENTFD), EventFlags::IN)?;
        Ok(WakeSet(Arc::new(set)))
    }

    /// Adds a descriptor. Its owner makes it unreadable before the core sleeps again: otherwise
    /// the next sleep ends at once. Closing it takes it out. Fails when it is in the set, or when
    /// the kernel has no memory.
    pub fn watch(&self, descriptor: impl AsFd) -> Result<(), Errno> {
        epoll::add(&*self.0, descriptor, EventData::new_u64(WATCHED), EventFlags::IN)
    }

    /// Takes a descriptor out. Fails when it is not in the set.
    pub fn unwatch(&self, descriptor: impl AsFd) -> Result<(), Errno> {
        epoll::delete(&*self.0, descriptor)
    }
}

/// One core's state of sleep.
#[derive(Debug)]
pub struct Sleep {
    word: CachePadded<Word>,
    eventfd: Arc<OwnedFd>,
    timer: OwnedFd,
    set: WakeSet,
}

impl Sleep {
    /// An awake core with nothing pending. Fails when there are no descriptors left.
    pub fn new() -> Result<Self, Errno> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let set = WakeSet::new(&eventfd)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&*set.0, &timer, EventData::new_u64(TICK), EventFlags::IN)?;
        let word = CachePadded::new(Word::new());
        Ok(Sleep { word, eventfd: Arc::new(eventfd), timer, set })
    }

    /// From now on no sleep is longer than `every`. Cheaper than giving each its own end, for which
    /// the kernel sets and clears a timer.
    pub fn tick(&self, every: Duration) {
        let every = Timespec::try_from(every).expect("less than the age of the universe");
        let ticks = Itimerspec { it_interval: every, it_value: every };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &ticks)
            .expect("a timer that is ours");
    }

    /// The descriptor that ends the sleep, for sources that raise it themselves with [`raise`].
    pub fn eventfd(&self) -> &Arc<OwnedFd> {
        &self.eventfd
    }

    /// Where sources with a descriptor of their own put it.
    pub fn wake_set(&self) -> &WakeSet {
        &self.set
    }

    /// Sender: something is pending at `source`. Everything written before is visible to the core
    /// once [`Sleep::take`] returned the source's bit.
    #[inline]
    pub fn wake(&self, source: usize) {
        if self.word.post(source) {
            raise(&self.eventfd);
        }
    }

    /// Core: true when a source has something pending. One load.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.word.is_pending()
    }

    /// Core, awake: the bits of the sources that have something pending, which from now on they
    /// have not.
    #[inline]
    pub fn take(&self) -> u64 {
        self.word.take()
    }

    /// Core: goes to sleep, unless something is pending. After true every [`Sleep::wake`] ends
    /// [`Sleep::wait`]; [`Sleep::cancel`] must follow.
    #[must_use]
    pub fn announce(&self) -> bool {
        self.word.announce()
    }

    /// Core: is awake again. What became pending meanwhile stays so.
    pub fn cancel(&self) {
        self.word.cancel();
    }

    /// Core: blocks until the eventfd is raised, which it lowers, another descriptor of the set is
    /// readable, or the timer ticks. `longest` bounds the wait; the kernel counts whole
    /// milliseconds.
    pub fn wait(&self, longest: Option<Duration>) -> Woken {
        let timeout = longest.and_then(|longest| Timespec::try_from(longest).ok());
        let nothing = Event { flags: EventFlags::empty(), data: EventData::new_u64(WATCHED) };
        let mut ready = [nothing; 4];
        let count = match epoll::wait(&*self.set.0, &mut ready[..], timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Woken::Timeout,
            Ok(count) => count,
            Err(errno) => panic!("wait for a set of descriptors that is ours: {errno}"),
        };
        let mut woken = Woken::Timeout;
        // Beyond those four it stays raised, and the kernel brings it forward next time.
        for event in &ready[..count] {
            match event.data.u64() {
                TICK => lower(&self.timer),
                EVENTFD => {
                    lower(&self.eventfd);
                    woken = Woken::Raised;
                }
                _ => woken = Woken::Raised,
            }
        }
        woken
    }
}

/// Takes what a counter of events or a timer has counted.
fn lower(counter: &OwnedFd) {
    match rustix::io::read(counter, &mut [0; 8]) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
        Err(errno) => panic!("read of a counter that is ours: {errno}"),
    }
}

/// Raises a core's wake-up descriptor.
pub fn raise(eventfd: &OwnedFd) {
    loop {
        match rustix::io::write(eventfd, &1u64.to_ne_bytes()) {
            // AGAIN: the counter is at its end, so the descriptor is raised already.
            Ok(_) | Err(Errno::AGAIN) => return,
            Err(Errno::INTR) => {}
            Err(errno) => panic!("write to an eventfd that is ours: {errno}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(20);

    fn is_raised(sleep: &Sleep) -> bool {
        sleep.wait(Some(Duration::ZERO)) == Woken::Raised
    }

    #[test]
    fn what_is_pending_prevents_sleep() {
        let sleep = Sleep::new().unwrap();
        sleep.wake(3);
        assert!(sleep.is_pending());
        assert!(!sleep.announce());
        assert!(!is_raised(&sleep), "an awake core needs no system call");
        assert_eq!(sleep.take(), source_bit(3));
        assert!(sleep.announce());
    }

    #[test]
    fn only_the_first_sender_writes() {
        let sleep = Sleep::new().unwrap();
        assert!(sleep.announce());
        sleep.wake(0);
        assert!(is_raised(&sleep));
        sleep.wake(1);
        sleep.wake(0);
        assert!(!is_raised(&sleep));
        sleep.cancel();
        assert_eq!(sleep.take(), source_bit(0) | source_bit(1));
        assert!(!sleep.is_pending());
    }

    #[test]
    fn a_cancelled_sleep_is_not_woken() {
        let sleep = Sleep::new().unwrap();
        assert!(sleep.announce());
        sleep.cancel();
        assert!(!sleep.is_pending());
        sleep.wake(0);
        assert!(!is_raised(&sleep));
        assert!(sleep.is_pending());
    }

    #[test]
    fn a_source_outside_the_mailboxes_ends_the_sleep() {
        let sleep = Sleep::new().unwrap();
        raise(sleep.eventfd());
        assert!(sleep.announce());
        assert_eq!(sleep.wait(Some(LONGEST)), Woken::Raised);
        assert_eq!(sleep.wait(Some(Duration::from_millis(1))), Woken::Timeout);
    }

    #[test]
    fn a_tick_ends_a_sleep_without_an_end_of_its_own() {
        let sleep = Sleep::new().unwrap();
        sleep.tick(Duration::from_millis(1));
        for _ in 0..3 {
            assert_eq!(sleep.wait(None), Woken::Timeout);
        }
        raise(sleep.eventfd());
        assert_eq!(sleep.wait(None), Woken::Raised, "a tick does not hide the eventfd");
    }

    #[test]
    fn a_readable_descriptor_of_the_set_ends_the_sleep() {
        let sleep = Sleep::new().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        sleep.wake_set().watch(&reader).unwrap();
        assert!(!is_raised(&sleep));
        // Before the sleep, and during it.
        rustix::io::write(&writer, &[1]).unwrap();
        assert!(sleep.announce());
        assert_eq!(sleep.wait(Some(LONGEST)), Woken::Raised);
        rustix::io::read(&reader, &mut [0]).unwrap();
        assert!(!is_raised(&sleep), "its owner has lowered it");
        thread::scope(|scope| {
            scope.spawn(|| rustix::io::write(&writer, &[1]).unwrap());
            assert_eq!(sleep.wait(Some(LONGEST)), Woken::Raised);
        });
        // Both at once: the eventfd is lowered, the other is not ours to lower.
        raise(sleep.eventfd());
        assert!(is_raised(&sleep) && is_raised(&sleep));
        sleep.wake_set().unwatch(&reader).unwrap();
        assert!(!is_raised(&sleep));
    }

    #[test]
    fn many_readable_descriptors_do_not_hide_the_eventfd() {
        let sleep = Sleep::new().unwrap();
        let pipes: Vec<_> = (0..16).map(|_| rustix::pipe::pipe().unwrap()).collect();
        for (reader, writer) in &pipes {
            sleep.wake_set().watch(reader).unwrap();
            rustix::io::write(writer, &[1]).unwrap();
        }
        raise(sleep.eventfd());
        for _ in 0..5 {
            assert!(is_raised(&sleep));
        }
        drop(pipes);
        assert!(!is_raised(&sleep), "five looks at four of seventeen did not reach the eventfd");
    }

    /// The core's part in the stress: sleeps until `sent` passes `seen`. False: overslept.
    fn await_next(sleep: &Sleep, sent: &AtomicU64, seen: u64) -> bool {
        loop {
            if sleep.is_pending() {
                sleep.take();
            }
            if sent.load(Ordering::Relaxed) > seen {
                return true;
            }
            if sleep.announce() {
                let woken = sleep.wait(Some(LONGEST));
                sleep.cancel();
                if woken == Woken::Timeout {
                    return false;
                }
            }
        }
    }

    /// Some nanoseconds, so that the threads meet at every distance.
    fn linger(steps: u64) {
        for step in 0..steps {
            std::hint::black_box(step);
        }
    }

    /// One thread sends while the other is at every step of its way to sleep. A lost wake-up leaves
    /// the core asleep with its message unanswered.
    #[test]
    fn no_wake_up_is_lost_in_many_rounds() {
        const ROUNDS: u64 = 100_000;
        let sleep = Sleep::new().unwrap();
        let (sent, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            let core = scope.spawn(|| {
                for round in 0..ROUNDS {
                    linger(round % 509);
                    assert!(await_next(&sleep, &sent, round), "round {round} overslept");
                    answered.store(round + 1, Ordering::Relaxed);
                }
            });
            for round in 0..ROUNDS {
                linger(round % 251);
                sent.store(round + 1, Ordering::Relaxed);
                sleep.wake(round as usize);
                let mut looks = 0u32;
                while answered.load(Ordering::Relaxed) <= round && !core.is_finished() {
                    looks += 1;
                    // The core may need this processor.
                    if looks.is_multiple_of(1_000) {
                        thread::yield_now()
                    } else {
                        std::hint::spin_loop()
                    }
                }
            }
        });
    }
}
