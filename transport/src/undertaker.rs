//! Threads that end what came from peers.
//!
//! To close a descriptor that a peer passed can take as long as the peer likes: a socket that
//! lingers, a file of a file system that the peer serves. The same holds for a socket with unread
//! datagrams, which take their descriptors with them, and unmapping much memory takes its time. So
//! cores and control threads hand all of that over, and go on.
//!
//! Each thing is ended by one thread of a bounded set. A thread that is stuck holds up nothing but
//! its own, until all are stuck. No stop waits for them: the end of the process ends them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Threads at most.
const THREADS_MAX: usize = 16;

/// The work of ending something.
type Burial = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    waiting: VecDeque<Burial>,
    threads: usize,
    idle: usize,
    closing: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A set of threads, started as they are needed. When it is dropped, the threads end once nothing
/// waits any more.
pub(crate) struct Undertakers {
    name: &'static str,
    shared: Arc<Shared>,
}

impl Undertakers {
    /// No thread yet; all will have that name.
    pub(crate) fn new(name: &'static str) -> Self {
        Undertakers { name, shared: Arc::default() }
    }

    /// Things that no thread has begun to end.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.state().waiting.len()
    }

    /// Has something ended soon. Does not wait. Where the system gives no thread, the thing waits
    /// for a thread that there is, or for the next call.
    pub(crate) fn bury(&self, burial: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state();
        state.waiting.push_back(Box::new(burial));
        if state.idle < state.waiting.len() && state.threads < THREADS_MAX {
            let shared = Arc::clone(&self.shared);
            let builder = std::thread::Builder::new().name(self.name.into());
            match builder.spawn(move || work(&shared)) {
                Ok(_) => state.threads += 1,
                Err(error) => tracing::debug!(%error, "no thread to close what peers left"),
            }
        }
        drop(state);
        self.shared.news.notify_one();
    }
}

impl std::fmt::Debug for Undertakers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undertakers").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Undertakers {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.news.notify_all();
    }
}

fn work(shared: &Shared) {
    let mut state = shared.state();
    loop {
        if let Some(burial) = state.waiting.pop_front() {
            drop(state);
            burial();
            state = shared.state();
        } else if state.closing {
            return;
        } else {
            state.idle += 1;
            state = shared.news.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_stuck_holds_up_nothing_until_all_threads_are() {
        let undertakers = Undertakers::new("undertaker");
        let mut stuck = Vec::new();
        for _ in 0..THREADS_MAX - 1 {
            let (go_on, until) = mpsc::channel::<()>();
            let (begun, begins) = mpsc::channel();
            undertakers.bury(move || {
                begun.send(()).unwrap();
                let _ = until.recv();
            });
            begins.recv_timeout(LIMIT).unwrap();
            stuck.push(go_on);
        }
        let (done, ends) = mpsc::channel();
        for number in 0..100 {
            let done = done.clone();
            undertakers.bury(move || done.send(number).unwrap());
        }
        let ended: Vec<i32> = (0..100).map(|_| ends.recv_timeout(LIMIT).unwrap()).collect();
        assert_eq!(ended, (0..100).collect::<Vec<_>>(), "one thread, in order");
        // With the last thread stuck everything waits, and goes on when one comes back.
        let (go_on, until) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        undertakers.bury(move || {
            begun.send(()).unwrap();
            let _ = until.recv();
        });
        begins.recv_timeout(LIMIT).unwrap();
        let last = done.clone();
        undertakers.bury(move || last.send(7).unwrap());
        assert_eq!(undertakers.waiting(), 1);
        assert!(ends.recv_timeout(Duration::from_millis(50)).is_err());
        drop(go_on);
        assert_eq!(ends.recv_timeout(LIMIT), Ok(7));
        let shared = Arc::downgrade(&undertakers.shared);
        drop((undertakers, stuck, done));
        // The threads let go of what they share: the channel ends when the last one has.
        assert!(ends.recv_timeout(LIMIT).is_err());
        while shared.upgrade().is_some() {
            std::thread::yield_now();
        }
    }
}
