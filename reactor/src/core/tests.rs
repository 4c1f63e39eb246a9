use std::cell::Cell;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::mailbox::{Capacity, ControlSender, Ends, connect};
use crate::sleep::raise;
use crate::time::{Instant, Manual};

/// No test waits that long unless a wake-up is lost.
const LOST: Duration = Duration::from_secs(20);

const CAPACITY: Capacity = Capacity { core: 64, control: 64 };

const ADAPTIVE: IdlePolicy = IdlePolicy::Adaptive { spin: Duration::ZERO };

#[derive(Debug)]
enum Say {
    /// To be echoed.
    Number(u64),
    Panic,
    Stop,
}

fn ends(cores: usize) -> Vec<Ends<Say>> {
    connect(cores, CAPACITY).unwrap()
}

/// A core that there is, with sleeps so long that only a wake-up ends them.
fn config(idle: IdlePolicy) -> CoreConfig {
    let number = affinity::Available::now().unwrap().allowed.iter().next().unwrap();
    CoreConfig { idle, sleep_max: LOST * 2, ..CoreConfig::new(number) }
}

/// Sends back the numbers it gets.
struct Echo {
    heard: mpsc::Sender<u64>,
    stopped: bool,
    /// Neither `Send` nor shareable, as a real service.
    _local: Rc<()>,
}

impl Echo {
    fn maker(heard: mpsc::Sender<u64>) -> impl FnOnce() -> Result<Echo, Infallible> + Send {
        move || Ok(Echo { heard, stopped: false, _local: Rc::new(()) })
    }
}

impl Service for Echo {
    type Message = Say;

    fn turn(&mut self, _now: Instant, inbox: &mut Batch<Say>) -> Progress {
        let Some(message) = inbox.pop() else { return Progress::Idle };
        match message {
            Say::Number(number) => self.heard.send(number).unwrap(),
            Say::Panic => panic!("told to"),
            Say::Stop => self.stopped = true,
        }
        Progress::Busy
    }

    fn arm(&mut self) -> bool {
        true
    }

    fn stopped(&self) -> bool {
        self.stopped
    }
}

fn send(control: &ControlSender<Say>, message: Say) {
    control.try_send(message).expect("room in the mailbox");
}

#[test]
fn a_sleeping_core_hears_every_message() {
    let Ends { inbox, control, .. } = ends(1).remove(0);
    let (heard, hear) = mpsc::channel();
    let core = spawn(config(ADAPTIVE), inbox, Echo::maker(heard)).unwrap();
    assert!(core.wait_started());
    for number in 0..5_000 {
        send(&control, Say::Number(number));
        assert_eq!(hear.recv_timeout(LOST), Ok(number), "lost wake-up");
        // Sends at every distance from the core's way to sleep.
        (0..number % 512).for_each(|_| std::hint::spin_loop());
    }
    send(&control, Say::Stop);
    let stats = Arc::clone(core.stats());
    core.join().unwrap();
    assert!(stats.sleeps.value() > 0 && stats.turns.value() > 5_000);
    assert!(stats.busy_ns.value() > 0 && stats.idle_ns.value() > 0);
    assert!(!stats.asleep.load(Ordering::Relaxed));
}

/// A core that is surely asleep, not just about to, is woken by a message of another core.
#[test]
fn a_message_of_another_core_wakes() {
    let mut ends = ends(2);
    let mut other = ends.remove(0);
    let Ends { inbox, control, .. } = ends.remove(0);
    let (heard, hear) = mpsc::channel();
    let core = spawn(config(ADAPTIVE), inbox, Echo::maker(heard)).unwrap();
    for number in 0..20 {
        while !core.stats().asleep.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        let sender = other.peers[1].as_mut().unwrap();
        sender.try_send(Say::Number(number)).unwrap();
        assert_eq!(hear.recv_timeout(LOST), Ok(number));
    }
    send(&control, Say::Stop);
    core.join().unwrap();
}

#[test]
fn a_polling_core_never_sleeps_and_is_named() {
    let Ends { inbox, control, .. } = ends(1).remove(0);
    let (heard, hear) = mpsc::channel();
    let config = config(IdlePolicy::Poll);
    let core = spawn(config, inbox, Echo::maker(heard)).unwrap();
    send(&control, Say::Number(7));
    assert_eq!(hear.recv_timeout(LOST), Ok(7));
    let tid = core.stats().tid.load(Ordering::Relaxed);
    let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap();
    assert_eq!(name.trim(), format!("reactor_{}", config.number));
    let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    assert!(status.contains(&format!("Cpus_allowed_list:\t{}\n", config.number)), "{status}");
    send(&control, Say::Stop);
    let stats = Arc::clone(core.stats());
    core.join().unwrap();
    assert_eq!(stats.sleeps.value(), 0);
}

#[test]
fn how_a_core_ends_is_told() {
    let Ends { inbox, control, .. } = ends(1).remove(0);
    let (heard, hear) = mpsc::channel();
    let core = spawn(config(IdlePolicy::Poll), inbox, Echo::maker(heard)).unwrap();
    assert!(core.wait_started() && core.wait_started() && !core.is_finished());
    let at_once = Timespec::default();
    assert_eq!(poll(&mut [PollFd::new(&core, PollFlags::IN)], Some(&at_once)), Ok(0), "it runs");
    send(&control, Say::Panic);
    assert!(hear.recv_timeout(LOST).is_err(), "the service went with its thread");
    let mut ended = [PollFd::new(&core, PollFlags::IN)];
    let limit = Timespec::try_from(LOST).unwrap();
    assert_eq!(poll(&mut ended, Some(&limit)), Ok(1), "its descriptor tells");
    let error = core.join().unwrap_err();
    assert!(error.to_string().ends_with("panicked: told to"), "{error}");
}

#[test]
fn a_core_that_cannot_start_says_why() {
    let refuse = || Err::<Echo, _>(std::io::Error::other("no such device"));
    let config = config(IdlePolicy::Poll);
    let core = spawn(config, ends(1).remove(0).inbox, refuse).unwrap();
    assert!(!core.wait_started());
    let error = core.join().unwrap_err().to_string();
    assert_eq!(error, format!("core {}: no such device", config.number));
    for number in [1023, 1024, usize::MAX] {
        let config = CoreConfig { number, ..config };
        let error = spawn(config, ends(1).remove(0).inbox, refuse).unwrap_err().to_string();
        assert!(error.starts_with(&format!("core {number} is not available: online ")), "{error}");
    }
}

/// What a scripted turn finds, and how long it takes.
struct Script {
    clock: Manual,
    turns: std::vec::IntoIter<(u64, Progress)>,
    on_arm: Box<dyn FnMut() -> bool>,
    heard: Rc<Cell<u64>>,
}

impl Service for Script {
    type Message = Say;

    fn turn(&mut self, _now: Instant, inbox: &mut Batch<Say>) -> Progress {
        self.heard.set(self.heard.get() + inbox.len() as u64);
        let (ns, mut progress) = self.turns.next().expect("stopped at the end");
        while inbox.pop().is_some() {
            progress = Progress::Busy;
        }
        self.clock.advance(Duration::from_nanos(ns));
        progress
    }

    fn arm(&mut self) -> bool {
        (self.on_arm)()
    }

    fn stopped(&self) -> bool {
        self.turns.len() == 0
    }
}

/// Runs scripted turns under a clock that only they and `on_arm` move.
fn run_script(
    turns: Vec<(u64, Progress)>,
    idle: IdlePolicy,
    inbox: &mut Inbox<Say>,
    clock: &Manual,
    on_arm: impl FnMut() -> bool + 'static,
) -> (CoreStats, u64) {
    let stats = CoreStats::default();
    let heard = Rc::new(Cell::new(0));
    let mut service = Script {
        clock: clock.clone(),
        turns: turns.into_iter(),
        on_arm: Box::new(on_arm),
        heard: Rc::clone(&heard),
    };
    let config = CoreConfig { idle, sleep_max: LOST, ..CoreConfig::new(0) };
    run_loop(clock, &config, inbox, &stats, &mut service);
    (stats, heard.get())
}

fn counts(stats: &CoreStats) -> [u64; 4] {
    [&stats.busy_ns, &stats.idle_ns, &stats.turns, &stats.sleeps].map(|counter| counter.value())
}

#[test]
fn time_is_busy_or_idle_by_what_the_turn_found() {
    let mut ends = ends(1).remove(0);
    let turns =
        vec![(100, Progress::Busy), (7, Progress::Idle), (30, Progress::Busy), (1, Progress::Idle)];
    let refuse = || panic!("a polling core never arms");
    let (stats, _) =
        run_script(turns, IdlePolicy::Poll, &mut ends.inbox, &Manual::default(), refuse);
    assert_eq!(counts(&stats), [130, 8, 4, 0]);
}

#[test]
fn sleep_begins_after_the_spin_and_counts_as_idle() {
    let mut ends = ends(1).remove(0);
    let clock = Manual::default();
    let (raised, time) = (Arc::clone(ends.inbox.eventfd()), clock.clone());
    // The eventfd is up before the sleep begins, as when a completion comes right after arming.
    let wake_after_1000 = move || {
        raise(&raised);
        time.advance(Duration::from_nanos(1_000));
        true
    };
    let idle = IdlePolicy::Adaptive { spin: Duration::from_nanos(50) };
    let turns = vec![
        (10, Progress::Busy),
        (30, Progress::Idle),
        (30, Progress::Idle), // 60 ns without progress: sleeps
        (24, Progress::Idle), // the wake-up counts as progress: spins again, half as long
        (5, Progress::Busy),
        (24, Progress::Idle),
    ];
    let (stats, _) = run_script(turns, idle, &mut ends.inbox, &clock, wake_after_1000);
    assert_eq!(counts(&stats), [15, 108 + 1_000, 6, 1]);
}

/// Nobody wakes this core: its sleeps end by themselves.
#[test]
fn a_sleep_ends_with_the_next_tick() {
    let mut ends = ends(1).remove(0);
    let (clock, stats) = (Manual::default(), CoreStats::default());
    let mut service = Script {
        clock: clock.clone(),
        turns: vec![(1, Progress::Idle); 3].into_iter(),
        on_arm: Box::new(|| true),
        heard: Rc::default(),
    };
    let sleep_max = Duration::from_millis(1);
    let config = CoreConfig { idle: ADAPTIVE, sleep_max, ..CoreConfig::new(0) };
    run_loop(&clock, &config, &mut ends.inbox, &stats, &mut service);
    assert_eq!(stats.sleeps.value(), 2);
}

#[test]
fn looking_in_vain_is_given_up_and_taken_up_again() {
    let mut spin = Spin::new(IdlePolicy::Adaptive { spin: Duration::from_nanos(1_600) });
    let mut after = |slept_ns| {
        spin.on_woken(slept_ns);
        spin.now_ns
    };
    assert_eq!([0; 6].map(|_| after(1_601)), [800, 400, 200, 100, 0, 0]);
    assert_eq!([0; 6].map(|_| after(1_600)), [100, 200, 400, 800, 1_600, 1_600]);
    let mut spin = Spin::new(ADAPTIVE);
    spin.on_woken(0);
    assert_eq!(spin.now_ns, 0);
}

/// Five sleeps that are too long make a look of 16 ns one of nothing.
#[test]
fn a_core_that_looks_in_vain_sleeps_right_after_work() {
    let mut ends = ends(1).remove(0);
    let clock = Manual::default();
    let (raised, time) = (Arc::clone(ends.inbox.eventfd()), clock.clone());
    let arms = Rc::new(Cell::new(0));
    let armed = Rc::clone(&arms);
    let wake_after_1000_but_not_at_the_seventh = move || {
        armed.set(armed.get() + 1);
        raise(&raised);
        time.advance(Duration::from_nanos(1_000));
        armed.get() != 7
    };
    let idle = IdlePolicy::Adaptive { spin: Duration::from_nanos(16) };
    let turns = vec![
        (16, Progress::Idle), // sleeps; 8 ns are left
        (8, Progress::Idle),
        (4, Progress::Idle),
        (2, Progress::Idle),
        (1, Progress::Idle), // 0
        (5, Progress::Busy), // asleep without another look
        (5, Progress::Busy), // arms in vain
        (5, Progress::Busy), // so the next sleep wants a turn without work
        (1, Progress::Idle),
        (1, Progress::Idle),
    ];
    let on_arm = wake_after_1000_but_not_at_the_seventh;
    let (stats, _) = run_script(turns, idle, &mut ends.inbox, &clock, on_arm);
    assert_eq!(arms.get(), 8, "arms");
    assert_eq!(counts(&stats)[2..], [10, 7]);
}

#[test]
fn a_message_between_the_last_look_and_sleep_is_heard_first() {
    let mut ends = ends(1).remove(0);
    let control = ends.control.clone();
    let arms = Rc::new(Cell::new(0));
    let armed = Rc::clone(&arms);
    let late_message = move || {
        armed.set(armed.get() + 1);
        send(&control, Say::Number(1));
        true
    };
    let turns = vec![(1, Progress::Idle); 4];
    let (stats, heard) =
        run_script(turns, ADAPTIVE, &mut ends.inbox, &Manual::default(), late_message);
    // Turns 1 to 3 arm; 2 to 4 hear the message; a sleep would last until the test is killed.
    assert_eq!((arms.get(), heard), (3, 3));
    assert_eq!(counts(&stats), [3, 1, 4, 0]);
}

#[test]
fn a_service_that_finds_work_while_arming_is_not_put_to_sleep() {
    let mut ends = ends(1).remove(0);
    let turns = vec![(1, Progress::Idle); 3];
    let (stats, _) = run_script(turns, ADAPTIVE, &mut ends.inbox, &Manual::default(), || false);
    assert_eq!(counts(&stats), [0, 3, 3, 0]);
}

/// Raises the descriptor from a thread, as io_uring does, again and again.
#[test]
fn sources_outside_the_mailboxes_wake() {
    struct Raised {
        wakes: u64,
        ask: mpsc::Sender<Arc<OwnedFd>>,
        eventfd: Arc<OwnedFd>,
    }
    impl Service for Raised {
        type Message = Say;
        fn turn(&mut self, _now: Instant, _inbox: &mut Batch<Say>) -> Progress {
            Progress::Idle
        }
        fn arm(&mut self) -> bool {
            self.wakes += 1;
            self.ask.send(Arc::clone(&self.eventfd)).is_ok()
        }
        fn stopped(&self) -> bool {
            self.wakes == 200
        }
    }
    let mut ends = ends(1).remove(0);
    let eventfd = Arc::clone(ends.inbox.eventfd());
    let (ask, asked) = mpsc::channel::<Arc<OwnedFd>>();
    let raiser = std::thread::spawn(move || asked.iter().for_each(|eventfd| raise(&eventfd)));
    let stats = CoreStats::default();
    let mut service = Raised { wakes: 0, ask, eventfd };
    let start = std::time::Instant::now();
    run_loop(&Tsc::new(), &config(ADAPTIVE), &mut ends.inbox, &stats, &mut service);
    assert!(start.elapsed() < LOST, "a sleep ended by timeout");
    assert_eq!(stats.sleeps.value(), 200);
    drop(service);
    raiser.join().unwrap();
}
