//! A good session that keeps the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use transport::initiator::{
    Channel, Command, Connector, Data, DataMemory, Event, Link, LoginOptions, Session, cdb,
};

use super::step;
use crate::process::{PATIENCE, Stamps, lun};

/// Time whose commands are looked at together.
const WINDOW: Duration = Duration::from_millis(20);

/// Bytes of a command.
const BYTES: usize = 4096;

/// Places that the meter writes to, one after the other.
const PLACES: u64 = 1024;

/// Rounds between two offers of the processor to others. An offender on the same processor takes
/// a step at each, and the target works on it beside the next command.
const ROUNDS_IN_A_ROW: u64 = 32;

/// How long an answer may take before the processor is offered to others.
const UNANSWERED: Duration = Duration::from_millis(1);

/// Latencies of the commands in a window.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Instant,
    p99_ns: u64,
}

/// What a stretch of time was like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The smallest p99 of its windows: what is left when other processes on the machine are quiet.
    pub p99_ns: u64,
    /// Windows.
    pub windows: usize,
}

/// Writes, reads and compares, one command at a time, in a thread of its own.
#[derive(Debug)]
pub struct Meter {
    stop: Arc<AtomicBool>,
    windows: Arc<Mutex<Vec<Window>>>,
    thread: Option<JoinHandle<u64>>,
}

impl Meter {
    /// Its initiator port.
    pub const PORT: u128 = 0x600D << 64;

    /// Logs in by a connector that is made in its thread, at this target port, and works on the
    /// first 4 MiB of LUN 0.
    pub fn start<C: Connector>(
        connector: impl FnOnce() -> C + Send + 'static,
        target_port: [u8; 16],
    ) -> Meter {
        let stop = Arc::new(AtomicBool::new(false));
        let windows = Arc::new(Mutex::new(Vec::new()));
        let (stopped, out) = (Arc::clone(&stop), Arc::clone(&windows));
        let thread = std::thread::spawn(move || work(&connector(), target_port, &stopped, &out));
        Meter { stop, windows, thread: Some(thread) }
    }

    /// How it was from `from` to now, once there are enough whole windows to tell.
    pub fn pace(&self, from: Instant) -> Option<Pace> {
        assert!(
            !self.thread.as_ref().is_some_and(JoinHandle::is_finished),
            "the good session ended"
        );
        let windows = self.windows.lock().expect("nobody panics with it");
        let whole: Vec<u64> =
            windows.iter().rev().take_while(|w| w.from >= from).map(|w| w.p99_ns).collect();
        let p99_ns = *whole.iter().min()?;
        Some(Pace { p99_ns, windows: whole.len() })
    }

    /// Ends it and returns how many commands came out right.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("a meter stops once");
        thread.join().expect("a good session in peace")
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A failing test reports its own reason; the thread's panic has been printed.
            let _ = thread.join();
        }
    }
}

/// The session: one command at a time, without sleep.
struct Good<'a, L, M> {
    channel: &'a mut Channel<L>,
    memory: &'a M,
}

impl<L: Link, M: DataMemory> Good<'_, L, M> {
    /// Runs a command on LUN 0 that must go well, and returns its time in nanoseconds.
    fn run(&mut self, cdb: &[u8], data: Data<'_>) -> u64 {
        let begun = Instant::now();
        assert_eq!(self.end(cdb, data), 0, "status of a command beside trouble");
        begun.elapsed().as_nanos() as u64
    }

    /// The status that a command on LUN 0 ends with.
    fn end(&mut self, cdb: &[u8], data: Data<'_>) -> u8 {
        let begun = Instant::now();
        let command = Command::new(lun(0), cdb, data, 0);
        self.channel.submit(&command).expect("a credit beside trouble");
        self.channel.flush().expect("a link beside trouble");
        let mut status = None;
        loop {
            let polled = self.channel.poll(|event| match event {
                Event::Done(done) => status = Some(done.status),
                other => panic!("{other:?} beside trouble"),
            });
            polled.expect("a link beside trouble");
            if let Some(status) = status {
                return status;
            }
            let waited = begun.elapsed();
            assert!(waited < PATIENCE, "no answer beside trouble");
            if waited > UNANSWERED {
                std::thread::yield_now();
            }
        }
    }
}

fn work<C: Connector>(
    connector: &C,
    target_port: [u8; 16],
    stopped: &AtomicBool,
    out: &Mutex<Vec<Window>>,
) -> u64 {
    let options = LoginOptions::new(Meter::PORT.to_be_bytes(), target_port);
    let session = Session::login(connector, &options, 1, 2 * BYTES);
    let Session { mut channels, memory } = session.expect("a login of the good session");
    let mut good = Good { channel: &mut channels[0], memory: &memory };
    // Takes the unit attention.
    good.end(&[0; 6], Data::None);
    let (mut block, mut back) = ([0; BYTES], [0; BYTES]);
    let (mut round, mut took) = (0, Vec::with_capacity(1 << 16));
    let mut from = Instant::now();
    while !stopped.load(Ordering::Acquire) {
        round += 1;
        let lba = round % PLACES * 8;
        Stamps::fill(&mut block, lba, round);
        good.memory.write_at(0, &block);
        let seg = [good.memory.seg(0, BYTES as u32)];
        took.push(good.run(&cdb::write10(lba as u32, 8, false), Data::Out(&seg)));
        let seg = [good.memory.seg(BYTES, BYTES as u32)];
        took.push(good.run(&cdb::read10(lba as u32, 8), Data::In(&seg)));
        good.memory.read_at(BYTES, &mut back);
        assert!(block == back, "block {lba} of the good session has changed");
        if round.is_multiple_of(ROUNDS_IN_A_ROW) {
            std::thread::yield_now();
        }
        step::done(round * 2);
        let ended = Instant::now();
        if ended - from >= WINDOW {
            took.sort_unstable();
            let p99_ns = took[took.len() * 99 / 100];
            out.lock().expect("nobody panics with it").push(Window { from, p99_ns });
            took.clear();
            from = Instant::now();
        }
    }
    round * 2
}
