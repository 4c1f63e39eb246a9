//! Waiting for a worker ([`super::workers`]), and what becomes of a result that comes too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures_channel::oneshot;
use rustix::io::Errno;

use super::Refused;
use super::desk::{Desk, Mail, Post};
use super::hold::Hold;
use super::workers::Job;

/// Says that a worker is free, also after a panic.
struct Free(Post, u64);

impl Drop for Free {
    fn drop(&mut self) {
        let number = self.1;
        let act = move |desk: &Desk| desk.workers().borrow_mut().on_free(number);
        self.0.send(Mail::Do(Box::new(act)));
    }
}

/// Who has the result of a job: nobody yet.
const OPEN: u8 = 0;
/// The operation that wanted it.
const TAKEN: u8 = 1;
/// Nobody ever: the operation has stopped waiting.
const GIVEN_UP: u8 = 2;

impl Desk {
    /// Runs `job` on a worker and waits for its result, for `wait_max` at most. After that the
    /// operation has failed (ETIMEDOUT): `undo` is run with the result on the worker, whenever
    /// that comes, and `hold` stays until then.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        hold: Hold,
        doing: &str,
        wait_max: Duration,
        job: impl FnOnce() -> T + Send + 'static,
        undo: impl FnOnce(T) + Send + 'static,
    ) -> Result<(Hold, T), Refused> {
        hold.now(doing);
        let decided = Arc::new(AtomicU8::new(OPEN));
        let mine = Arc::clone(&decided);
        let (sender, result) = oneshot::channel();
        let post = self.post().clone();
        let start = |number| -> Job {
            Box::new(move || {
                let free = Free(post, number);
                let value = job();
                let decide = |to| {
                    mine.compare_exchange(OPEN, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
                };
                let value = match decide(TAKEN) {
                    true => Some(value),
                    false => {
                        undo(value);
                        None
                    }
                };
                // On the control thread, whose operations its arrival lets go on.
                free.0.send(Mail::Do(Box::new(move |_| drop(sender.send(value)))));
            })
        };
        self.workers().borrow_mut().begin(&format!("{}: {doing}", hold.object()), start)?;
        let lost = || Refused::new(Errno::IO, format!("{}: {doing}: failed", hold.object()));
        let result = match self.within(wait_max, result).await {
            Ok(result) => result,
            Err(result) => {
                let given_up = decided
                    .compare_exchange(OPEN, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire)
                    .is_ok();
                if given_up {
                    let what = format!(
                        "{}: {doing}: no end within {} s",
                        hold.object(),
                        wait_max.as_secs()
                    );
                    self.spawn(async move {
                        // Either way the worker is done with the object.
                        let _ = result.await;
                        drop(hold);
                    });
                    return Err(Refused::new(Errno::TIMEDOUT, what));
                }
                result.await
            }
        };
        match result.ok().flatten() {
            Some(value) => Ok((hold, value)),
            None => Err(lost()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::super::testing::office;
    use super::super::workers::WORKERS_MAX;
    use super::*;

    const WAIT: Duration = Duration::from_millis(20);
    const LONG_WAIT: Duration = Duration::from_secs(60);

    /// A job that ends when the sender is used or dropped.
    fn stuck() -> (mpsc::Sender<()>, impl FnOnce() -> u32 + Send + 'static) {
        let (sender, free) = mpsc::channel::<()>();
        (sender, move || {
            let _ = free.recv();
            7
        })
    }

    #[test]
    fn what_a_worker_is_late_with_is_undone_and_its_object_is_busy_until_then() {
        let (free, job) = stuck();
        let undone = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&undone);
        office().block_on(|desk| async move {
            let object = || "bdev X".to_owned();
            let hold = desk.hold(object(), "being made").await.expect("nobody has it");
            let undo = move |value| *seen.lock().unwrap() = Some(value);
            let late = desk.work(hold, "opening /x", WAIT, job, undo).await.err().expect("stuck");
            assert_eq!(late.errno, Errno::TIMEDOUT);
            let busy = desk.hold(object(), "being deleted").await.err().expect("still busy");
            assert_eq!(busy.errno, Errno::BUSY);
            assert_eq!(busy.what, "bdev X is busy: opening /x for 1 s");
            drop(free);
            desk.hold(object(), "being made").await.expect("the worker has ended");
        });
        assert_eq!(*undone.lock().unwrap(), Some(7));
    }

    #[test]
    fn a_worker_that_is_stuck_harms_only_its_own_object_and_their_number_is_bounded() {
        office().block_on(|desk| async move {
            let mut frees = Vec::new();
            for number in 0..WORKERS_MAX {
                let (free, job) = stuck();
                frees.push(free);
                let hold = desk.hold(format!("bdev {number}"), "being made").await.unwrap();
                let late = desk.work(hold, "opening", WAIT, job, drop).await.err().unwrap();
                assert_eq!(late.errno, Errno::TIMEDOUT);
            }
            let hold = |desk: Desk| async move { desk.hold("bdev Y".to_owned(), "made").await };
            let held = hold(desk.clone()).await.expect("another object");
            let refused = desk.work(held, "opening", LONG_WAIT, || 1, drop).await.err().unwrap();
            assert_eq!(refused.errno, Errno::BUSY);
            assert!(refused.what.contains("one of them is bdev 0: opening for"), "{refused}");
            frees.pop();
            let (_hold, value) = loop {
                let held = hold(desk.clone()).await.expect("another object");
                match desk.work(held, "opening", LONG_WAIT, || 1, drop).await {
                    Ok(done) => break done,
                    Err(_) => desk.give_way().await,
                }
            };
            assert_eq!(value, 1);
        });
    }

    #[test]
    fn two_operations_at_one_object_keep_their_order() {
        office().block_on(|desk| async move {
            let object = || "target t".to_owned();
            let first = desk.hold(object(), "one").await.unwrap();
            let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
            for number in [2, 3, 4] {
                let (own, order) = (desk.clone(), std::rc::Rc::clone(&order));
                desk.spawn(async move {
                    let _hold = own.hold("target t".to_owned(), "more").await.unwrap();
                    order.borrow_mut().push(number);
                });
                desk.give_way().await;
            }
            drop(first);
            let _last = desk.hold(object(), "last").await.unwrap();
            assert_eq!(*order.borrow(), [2, 3, 4]);
        });
    }
}
