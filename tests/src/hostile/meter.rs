//! A good session that keeps the time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::process::{Initiator, Stamps, lun};

/// Time whose commands are looked at together.
const WINDOW: Duration = Duration::from_millis(20);

/// Bytes of a command.
const BYTES: usize = 4096;

/// Places that the meter writes to, one after the other.
const PLACES: u64 = 1024;

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
    /// Logs in at `socket` and works on the first 4 MiB of LUN 0.
    pub fn start(socket: PathBuf) -> Meter {
        let stop = Arc::new(AtomicBool::new(false));
        let windows = Arc::new(Mutex::new(Vec::new()));
        let (stopped, out) = (Arc::clone(&stop), Arc::clone(&windows));
        let thread = std::thread::spawn(move || work(&socket, &stopped, &out));
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

fn work(socket: &std::path::Path, stopped: &AtomicBool, out: &Mutex<Vec<Window>>) -> u64 {
    let mut initiator = Initiator::login(socket, 0x600D, 1);
    let mut scsi = initiator.ready(1);
    let (mut block, mut back) = ([0; BYTES], [0; BYTES]);
    let (mut round, mut took) = (0, Vec::with_capacity(1 << 16));
    let mut from = Instant::now();
    while !stopped.load(Ordering::Acquire) {
        round += 1;
        let lba = round % PLACES * 8;
        Stamps::fill(&mut block, lba, round);
        let begun = Instant::now();
        scsi.write(lun(0), lba, 8, &block, false).expect("a write beside trouble");
        let half = Instant::now();
        scsi.read(lun(0), lba, 8, &mut back).expect("a read beside trouble");
        let ended = Instant::now();
        assert!(block == back, "block {lba} of the good session has changed");
        took.extend([half - begun, ended - half].map(|took| took.as_nanos() as u64));
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
