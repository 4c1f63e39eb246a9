//! Where log lines go: into a bounded queue, which a thread of its own writes.
//!
//! Whoever logs copies the line into the queue and goes on: without a lock, without a system call
//! but the one that wakes the writing thread. When the queue is full, the line is dropped and
//! counted, and the count becomes a line as soon as there is room again. So a pipe that nobody
//! reads or a full disk holds up the writing thread and nobody else.
//!
//! Memory is bounded by [`QUEUE_BYTES_MAX`] and the [`URGENT_LINES_MAX`] lines that have places of
//! their own: the message of a panic, and why the process ends.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// Lines that may wait to be written.
const QUEUE_LINES_MAX: usize = 4096;

/// Bytes that may wait to be written.
pub(crate) const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Bytes of the longest line; the rest of a longer one is cut off.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;

/// Lines that may wait although the queue is full.
const URGENT_LINES_MAX: usize = 16;

/// Lines on their way to one descriptor.
pub(crate) struct Output {
    lines: ArrayQueue<Vec<u8>>,
    /// For lines that must not be dropped and found the queue full.
    urgent: ArrayQueue<Vec<u8>>,
    /// Bytes of lines that are not written yet, urgent ones included.
    bytes: AtomicUsize,
    /// Lines dropped and not told yet.
    dropped: AtomicU64,
    writer: OnceLock<Thread>,
    /// Only for the writing thread and for those who wait for it in [`Output::flush`].
    written: Mutex<()>,
    all_written: Condvar,
}

impl Output {
    /// Starts the thread that writes to `to`. The thread ends with the process.
    ///
    /// Fails when the system has no thread to give.
    pub(crate) fn start(to: impl AsFd + Send + 'static) -> std::io::Result<Arc<Output>> {
        let output = Arc::new(Output {
            lines: ArrayQueue::new(QUEUE_LINES_MAX),
            urgent: ArrayQueue::new(URGENT_LINES_MAX),
            bytes: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            writer: OnceLock::new(),
            written: Mutex::new(()),
            all_written: Condvar::new(),
        });
        let mine = Arc::clone(&output);
        let writer = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || mine.write_for_ever(&to))?;
        output.writer.get_or_init(|| writer.thread().clone());
        Ok(output)
    }

    /// Takes a line, or drops and counts it when the queue is full. Never waits.
    pub(crate) fn push(&self, line: &[u8]) {
        let line = cut(line);
        let before = self.bytes.fetch_add(line.len(), Ordering::Relaxed);
        if before + line.len() > QUEUE_BYTES_MAX || self.lines.push(line.to_vec()).is_err() {
            self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.wake();
    }

    /// Takes a line that must not be dropped: there are places for [`URGENT_LINES_MAX`] of them
    /// beside a full queue. Never waits.
    pub(crate) fn push_urgent(&self, line: &[u8]) {
        let line = cut(line);
        let before = self.bytes.fetch_add(line.len(), Ordering::Relaxed);
        let queued = match before + line.len() > QUEUE_BYTES_MAX {
            true => Err(line.to_vec()),
            false => self.lines.push(line.to_vec()),
        };
        if queued.or_else(|line| self.urgent.push(line)).is_err() {
            self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.wake();
    }

    /// Waits until every line is written, at most for `wait_max`. True: all are.
    pub(crate) fn flush(&self, wait_max: Duration) -> bool {
        let deadline = Instant::now() + wait_max;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        while self.bytes.load(Ordering::Acquire) > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.all_written.wait_timeout(written, left);
            written = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    fn write_for_ever(&self, to: &impl AsFd) {
        loop {
            while let Some(line) = self.lines.pop().or_else(|| self.urgent.pop()) {
                let refused = u64::from(!write(to, &line));
                self.bytes.fetch_sub(line.len(), Ordering::Release);
                let dropped = self.dropped.swap(0, Ordering::Relaxed) + refused;
                if dropped > 0 && !write(to, told(dropped).as_bytes()) {
                    self.dropped.fetch_add(dropped, Ordering::Relaxed);
                }
            }
            drop(self.written.lock().unwrap_or_else(PoisonError::into_inner));
            self.all_written.notify_all();
            std::thread::park();
        }
    }
}

/// Writes a whole line, however long that takes. False: the system refuses it.
fn write(to: &impl AsFd, mut line: &[u8]) -> bool {
    while !line.is_empty() {
        match rustix::io::write(to, line) {
            Ok(count) => line = &line[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // Somebody else has made the pipe or terminal non-blocking.
                let _ = rustix::event::poll(&mut [PollFd::new(to, PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}

/// The line, not longer than [`LINE_BYTES_MAX`], with its end.
fn cut(line: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if line.len() <= LINE_BYTES_MAX {
        return line.into();
    }
    let mut line = line[..LINE_BYTES_MAX - 4].to_vec();
    line.extend_from_slice(b"...\n");
    line.into()
}

/// The line that says how many are missing.
fn told(dropped: u64) -> String {
    let mut line = String::new();
    // A string takes everything.
    let _ = SystemTime.format_time(&mut Writer::new(&mut line));
    line + &format!(
        "  WARN srpt_tgt::logs: {dropped} log lines dropped: they were not read in time\n"
    )
}

/// What a line of the subscriber is written into.
pub(crate) struct Line<'a>(&'a Output);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The subscriber's way to the queue: each event is one call of [`Line::write`].
pub(crate) struct Lines(pub(crate) Arc<Output>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    const LONG_WAIT: Duration = Duration::from_secs(20);

    /// An output into a pipe, and the end to read from.
    fn piped() -> (Arc<Output>, BufReader<std::io::PipeReader>) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        (Output::start(writer).expect("a thread"), BufReader::new(reader))
    }

    fn next(reader: &mut impl BufRead) -> String {
        let mut line = String::new();
        reader.read_line(&mut line).expect("UTF-8");
        line
    }

    #[test]
    fn lines_come_out_in_order_and_a_flush_waits_for_them() {
        let (output, mut reader) = piped();
        for number in 0..100 {
            output.push(format!("line {number}\n").as_bytes());
        }
        assert!(output.flush(LONG_WAIT));
        for number in 0..100 {
            assert_eq!(next(&mut reader), format!("line {number}\n"));
        }
    }

    #[test]
    fn nobody_waits_for_a_pipe_that_is_not_read_and_what_is_dropped_is_counted() {
        let (output, mut reader) = piped();
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let sent = 4 * QUEUE_BYTES_MAX / line.len();
        for _ in 0..sent {
            output.push(&line);
        }
        assert!(output.bytes.load(Ordering::Relaxed) <= QUEUE_BYTES_MAX);
        let began = Instant::now();
        assert!(!output.flush(Duration::from_millis(20)));
        assert!(began.elapsed() < LONG_WAIT);
        output.push_urgent(b"end\n");
        let (mut whole, mut dropped) = (0, 0);
        loop {
            let line = next(&mut reader);
            if let Some((_, told)) = line.split_once("WARN srpt_tgt::logs: ") {
                let count = told.split(' ').next().and_then(|count| count.parse::<usize>().ok());
                dropped += count.expect("a number");
            } else if line == "end\n" {
                break;
            } else {
                assert_eq!(line.len(), 1000, "a line is whole or not there");
                whole += 1;
            }
        }
        assert!(dropped > 0);
        assert_eq!(dropped + whole, sent);
    }

    #[test]
    fn the_reason_of_an_end_has_a_place_in_a_full_queue() {
        let (output, mut reader) = piped();
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        for _ in 0..4 * QUEUE_BYTES_MAX / line.len() {
            output.push(&line);
        }
        output.push_urgent(b"this is why\n");
        while next(&mut reader) != "this is why\n" {}
    }

    #[test]
    fn a_long_line_is_cut() {
        let (output, mut reader) = piped();
        output.push(&[b'x'; 2 * LINE_BYTES_MAX]);
        let line = next(&mut reader);
        assert_eq!((line.len(), line.ends_with("x...\n")), (LINE_BYTES_MAX, true));
    }

    #[test]
    fn a_full_disk_holds_up_nobody_and_its_lines_are_counted() {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a full disk");
        let output = Output::start(full).expect("a thread");
        for lost in 1..=3 {
            output.push(b"lost\n");
            assert!(output.flush(LONG_WAIT));
            while output.dropped.load(Ordering::Relaxed) != lost {
                std::thread::yield_now();
            }
        }
    }
}
