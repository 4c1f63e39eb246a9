//! Threads for whatever may sleep in the kernel for a reason that the target does not control:
//! opening, looking at and closing files and disks, and where initiators are listened for.
//!
//! A worker that is stuck harms only the operation that waits for it. There are [`WORKERS_MAX`];
//! when all are stuck, what needs another one is refused with the reason. A stop waits for none of
//! them: the process ends around them.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc;
use std::time::Instant;

use rustix::io::Errno;

use super::Refused;
use super::busy::told;

/// Workers at a time.
pub const WORKERS_MAX: usize = 16;

/// Workers that stay when there is nothing to do.
const IDLE_MAX: usize = 2;

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// All workers, as the control thread sees them.
#[derive(Default)]
pub(super) struct Workers {
    numbers: u64,
    idle: Vec<(u64, mpsc::Sender<Job>)>,
    /// What the others do, and since when.
    at_work: Vec<(u64, mpsc::Sender<Job>, String, Instant)>,
}

impl Workers {
    /// Refused when all are at work, or the system has no thread to give.
    pub(super) fn begin(
        &mut self,
        doing: &str,
        job: impl FnOnce(u64) -> Job,
    ) -> Result<(), Refused> {
        let (number, jobs) = match self.idle.pop() {
            Some(worker) => worker,
            None => self.hire()?,
        };
        // A worker ends only when its sender is dropped.
        let _ = jobs.send(job(number));
        self.at_work.push((number, jobs, doing.to_owned(), Instant::now()));
        Ok(())
    }

    /// Refused when all are at work.
    pub(super) fn refuse_full(&self) -> Result<(), Refused> {
        if self.at_work.len() < WORKERS_MAX {
            return Ok(());
        }
        let (_, _, doing, since) = &self.at_work[0];
        let longest = told(doing, *since);
        Err(Refused::busy(format!(
            "all {WORKERS_MAX} workers wait for files and devices; one of them is {longest}"
        )))
    }

    fn hire(&mut self) -> Result<(u64, mpsc::Sender<Job>), Refused> {
        self.refuse_full()?;
        let (sender, jobs) = mpsc::channel::<Job>();
        self.numbers += 1;
        std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || {
                for job in jobs {
                    // The panic hook has reported it; the sender of the result is dropped.
                    let _: Result<(), Box<dyn Any + Send>> =
                        std::panic::catch_unwind(AssertUnwindSafe(job));
                }
            })
            .map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::AGAIN);
                Refused::new(errno, "a thread for files and devices")
            })?;
        Ok((self.numbers, sender))
    }

    /// A worker has done its job.
    pub(super) fn on_free(&mut self, number: u64) {
        let Some(at) = self.at_work.iter().position(|(other, ..)| *other == number) else { return };
        let (number, jobs, ..) = self.at_work.remove(at);
        if self.idle.len() < IDLE_MAX {
            self.idle.push((number, jobs));
        }
    }
}
