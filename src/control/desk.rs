//! The control thread: owns [`Control`] and takes messages from clients, cores and workers.
//!
//! An operation is an `async fn` on a [`Desk`]. It borrows the state only between two waits, inside
//! [`Desk::with`], so while it waits for a core, a worker or a time, others go on. The thread has
//! one wait: for the next [`Mail`], until the first deadline that any operation has. It makes no
//! system call that a file system, a disk or a peer can hold: those are for [`super::workers`].
//!
//! An operation that has begun goes on to its end, whether its client is there or not.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::PipeReader;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use futures_executor::{LocalPool, LocalSpawner};
use futures_util::future::{Either, select};
use futures_util::task::LocalSpawnExt;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::asks::Asks;
use super::busy::Busy;
use super::cores::{ANSWER_WAIT_MAX, Answers, Partial, all_or_partial};
use super::workers::Workers;
use super::{Control, Refused, refusal};
use crate::shard::message::{Action, Report, Up};
use crate::shard::names::CoreId;
use crate::shard::outbox::WayUp;

/// Messages that are taken before what they led to goes on.
const MAILS_AT_ONCE: usize = 64;

/// Requests that may wait for a change at a time: fewer than there are clients, so that those who
/// wait can't lock others out.
pub const WAITING_MAX: usize = 32;

/// How long whoever drops the [`ControlThread`] waits for its files and devices to close.
const DROP_WAIT_MAX: Duration = Duration::from_secs(1);

/// What comes to the control thread.
pub enum Mail {
    /// A core has answered, or asks.
    Core(Up),
    /// A client wants something done, or a worker is ready.
    Do(Box<dyn FnOnce(&Desk) + Send>),
    /// The thread is to end, and with it all that waits.
    End,
}

/// The way to the control thread, for every other thread. Clones lead to the same.
#[derive(Clone)]
pub struct Post(mpsc::Sender<Mail>);

impl Post {
    /// A way, and the end that [`Office`] reads.
    pub fn new() -> (Post, Receiver<Mail>) {
        let (sender, receiver) = mpsc::channel();
        (Post(sender), receiver)
    }

    /// Sends something. It is dropped when the control thread has ended.
    pub fn send(&self, mail: Mail) {
        // Whoever waits for an answer notices that the sender of the answer is dropped.
        let _ = self.0.send(mail);
    }

    /// Begins an operation. `done` gets its result on the control thread; it is dropped without a
    /// call if the operation panics or the thread has ended.
    pub fn begin<T, F>(
        &self,
        operation: impl FnOnce(Desk) -> F + Send + 'static,
        done: impl FnOnce(T) + Send + 'static,
    ) where
        F: Future<Output = T> + 'static,
    {
        self.send(Mail::Do(Box::new(move |desk| {
            let operation = operation(desk.clone());
            desk.spawn(async move { done(operation.await) });
        })));
    }

    /// Runs an operation and waits for its result; `None` if there will be none within `wait_max`.
    pub fn run<T: Send + 'static, F>(
        &self,
        wait_max: Duration,
        operation: impl FnOnce(Desk) -> F + Send + 'static,
    ) -> Option<T>
    where
        F: Future<Output = T> + 'static,
    {
        let (sender, result) = mpsc::channel();
        // Nobody takes the result of an operation that took too long.
        self.begin(operation, move |value| drop(sender.send(value)));
        result.recv_timeout(wait_max).ok()
    }
}

impl WayUp for Post {
    fn put(&self, up: Up) -> bool {
        self.0.send(Mail::Core(up)).is_ok()
    }
}

/// What an operation has before it: the state, the cores, the workers and the time. Only on the
/// control thread. Clones are the same desk.
#[derive(Clone)]
pub struct Desk(Rc<Inner>);

struct Inner {
    control: RefCell<Control>,
    pub(super) busy: RefCell<Busy>,
    times: RefCell<Times>,
    workers: RefCell<Workers>,
    asks: Asks,
    changes: RefCell<Vec<oneshot::Sender<()>>>,
    waiting: Cell<usize>,
    stopping: Cell<bool>,
    spawner: LocalSpawner,
    post: Post,
}

/// Who is to be woken, and when.
#[derive(Default)]
struct Times {
    numbers: u64,
    wakes: BTreeMap<(Instant, u64), oneshot::Sender<()>>,
}

/// Of somebody who waits for a time, and no longer when it is dropped.
struct Alarm<'a>(&'a Desk, (Instant, u64));

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        self.0.0.times.borrow_mut().wakes.remove(&self.1);
    }
}

impl Desk {
    /// Looks at the state and changes it, without a wait.
    pub fn with<T>(&self, change: impl FnOnce(&mut Control) -> T) -> T {
        change(&mut self.0.control.borrow_mut())
    }

    /// Begins something that goes on by itself.
    pub(super) fn spawn(&self, operation: impl Future<Output = ()> + 'static) {
        // It can fail only when the pool is gone, and with it all operations.
        let _ = self.0.spawner.spawn_local(operation);
    }

    /// The way to this thread, for others.
    pub(super) fn post(&self) -> &Post {
        &self.0.post
    }

    pub(super) fn busy(&self) -> &RefCell<Busy> {
        &self.0.busy
    }

    /// What cores ask.
    pub(super) fn asks(&self) -> &Asks {
        &self.0.asks
    }

    /// Asks a core for something without a wait for the answer.
    pub(super) fn tell(&self, core: CoreId, action: &Action) {
        self.with(|control| control.questions.tell(&[core], action));
    }

    pub(super) fn workers(&self) -> &RefCell<Workers> {
        &self.0.workers
    }

    /// Waits until a time.
    pub(super) async fn until(&self, at: Instant) {
        let (sender, woken) = oneshot::channel();
        let key = {
            let mut times = self.0.times.borrow_mut();
            times.numbers += 1;
            let key = (at, times.numbers);
            times.wakes.insert(key, sender);
            key
        };
        let _alarm = Alarm(self, key);
        // A sender that is dropped is the end of the thread.
        let _ = woken.await;
    }

    /// Lets everything else that can go on do so.
    pub async fn give_way(&self) {
        self.until(Instant::now()).await;
    }

    /// The result of `operation`, or what is left of `operation` after `wait_max`.
    pub(super) async fn within<F: Future + Unpin>(
        &self,
        wait_max: Duration,
        operation: F,
    ) -> Result<F::Output, F> {
        let time = Box::pin(self.until(Instant::now() + wait_max));
        match select(operation, time).await {
            Either::Left((result, _)) => Ok(result),
            Either::Right(((), operation)) => Err(operation),
        }
    }

    /// Asks every core and waits for every answer, or for [`ANSWER_WAIT_MAX`].
    pub(super) async fn all(&self, action: &Action) -> Result<Vec<Report>, Refused> {
        self.all_within(action, ANSWER_WAIT_MAX).await.map_err(|partial| refusal(&partial.error))
    }

    /// The same with another time limit. On a failure [`Partial`] names the cores where the action
    /// is to be undone.
    pub(super) async fn all_within(
        &self,
        action: &Action,
        wait_max: Duration,
    ) -> Result<Vec<Report>, Partial> {
        all_or_partial(self.answers(None, action, Some(wait_max)).await)
    }

    /// Asks some cores, or all.
    pub(super) async fn answers(
        &self,
        cores: Option<&[CoreId]>,
        action: &Action,
        wait_max: Option<Duration>,
    ) -> Answers {
        let answers = self.with(|control| {
            let every = control.questions.every();
            control.questions.ask(cores.unwrap_or(&every), action, wait_max)
        });
        answers.await.unwrap_or_default()
    }

    /// Asks every core, whenever the last of them answers.
    pub(super) fn ask_all(&self, action: &Action) -> oneshot::Receiver<Answers> {
        self.with(|control| {
            let every = control.questions.every();
            control.questions.ask(&every, action, None)
        })
    }

    /// Asks every core; when one fails, sends `undo` to those that have done it, or yet may.
    pub(super) async fn all_or_undo(&self, action: &Action, undo: &Action) -> Result<(), Refused> {
        let asked = self.all_within(action, ANSWER_WAIT_MAX).await;
        let Err(partial) = asked else { return Ok(()) };
        self.undo(&partial, undo).await;
        Err(refusal(&partial.error))
    }

    /// Asks the cores that have done something to undo it, and tells those that yet may.
    pub(super) async fn undo(&self, partial: &Partial, undo: &Action) -> Vec<Report> {
        self.with(|control| control.questions.tell(&partial.silent, undo));
        let answers = self.answers(Some(&partial.done), undo, None);
        // What a core is asked without a deadline it does, sooner or later.
        match self.within(ANSWER_WAIT_MAX, Box::pin(answers)).await {
            Ok(answers) => answers.into_iter().flatten().collect(),
            Err(_) => {
                tracing::warn!("a change that failed is not undone yet: {:?}", partial.error);
                Vec::new()
            }
        }
    }

    /// Wakes those who wait for a change.
    pub fn announce_change(&self) {
        for waiting in self.0.changes.borrow_mut().drain(..) {
            // Its time may be over.
            let _ = waiting.send(());
        }
    }

    /// Ends all waiting for changes, now and later.
    pub fn stop_waiting(&self) {
        self.0.stopping.set(true);
        self.announce_change();
    }

    /// Waits until `ready` gives something or `deadline` has passed. Refused when [`WAITING_MAX`]
    /// others wait already.
    pub async fn wait_for<T>(
        &self,
        deadline: Instant,
        mut ready: impl FnMut(&mut Control) -> Option<T>,
    ) -> Result<Option<T>, Refused> {
        let mut place = None;
        loop {
            if let Some(found) = self.with(&mut ready) {
                return Ok(Some(found));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.0.stopping.get() {
                return Ok(None);
            }
            if place.is_none() {
                place = Some(Place::among(self)?);
            }
            let (sender, changed) = oneshot::channel();
            self.0.changes.borrow_mut().push(sender);
            // Either way it looks again.
            let _ = self.within(left, changed).await;
            self.0.changes.borrow_mut().retain(|waiting| !waiting.is_canceled());
        }
    }

    /// Requests that wait for a change.
    pub fn waiting(&self) -> usize {
        self.0.waiting.get()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let times = self.0.times.borrow();
        let first = times.wakes.first_key_value().map(|((at, _), _)| *at);
        let questions = self.with(|control| control.questions.deadline());
        first.into_iter().chain(questions).min()
    }

    fn on_time(&self, now: Instant) {
        self.with(|control| control.questions.on_time(now));
        let mut times = self.0.times.borrow_mut();
        while let Some(first) = times.wakes.first_entry()
            && first.key().0 <= now
        {
            // Who waited may have been satisfied by something else.
            let _ = first.remove().send(());
        }
    }

    /// False: the thread is to end.
    fn on_mail(&self, mail: Mail) -> bool {
        match mail {
            Mail::Core(Up::Answer(answer)) => {
                self.with(|control| control.questions.on_answer(answer));
            }
            Mail::Core(Up::Ask(core, ask)) => self.0.asks.put(core, ask),
            Mail::Do(act) => act(self),
            Mail::End => return false,
        }
        true
    }
}

/// Of a request that waits for a change.
struct Place(Desk);

impl Place {
    fn among(desk: &Desk) -> Result<Place, Refused> {
        let waiting = desk.0.waiting.get();
        if waiting >= WAITING_MAX {
            return Err(Refused::busy(format!("{WAITING_MAX} requests wait already, the limit")));
        }
        desk.0.waiting.set(waiting + 1);
        Ok(Place(desk.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.waiting.set(self.0.0.waiting.get() - 1);
    }
}

/// A desk and the operations that are under way at it. Does not leave its thread.
pub struct Office {
    desk: Desk,
    pool: LocalPool,
    inbox: Receiver<Mail>,
    ended: bool,
}

impl Office {
    /// `inbox` is the other end of `post`, where cores and workers answer.
    pub fn new(control: Control, post: Post, inbox: Receiver<Mail>) -> Office {
        let pool = LocalPool::new();
        let desk = Desk(Rc::new(Inner {
            control: RefCell::new(control),
            busy: RefCell::default(),
            times: RefCell::default(),
            workers: RefCell::default(),
            asks: Asks::default(),
            changes: RefCell::default(),
            waiting: Cell::new(0),
            stopping: Cell::new(false),
            spawner: pool.spawner(),
            post,
        }));
        Office { desk, pool, inbox, ended: false }
    }

    /// The desk.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Runs until [`Mail::End`].
    pub fn run(mut self) {
        while !self.ended {
            self.turn();
            self.wait();
        }
    }

    /// Runs one operation to its end, and with it all others that are under way.
    ///
    /// # Panics
    ///
    /// Panics when the operation does.
    pub fn block_on<T: 'static, F>(&mut self, operation: impl FnOnce(Desk) -> F) -> T
    where
        F: Future<Output = T> + 'static,
    {
        let result = Rc::new(Cell::new(None));
        let (set, operation) = (Rc::clone(&result), operation(self.desk.clone()));
        self.desk.spawn(async move { set.set(Some(operation.await)) });
        loop {
            self.turn();
            if let Some(value) = result.take() {
                return value;
            }
            assert!(Rc::strong_count(&result) > 1, "the operation has panicked");
            self.wait();
        }
    }

    /// Takes what has come, and lets operations go on until all of them wait.
    fn turn(&mut self) {
        loop {
            // An operation that panics ends alone; the panic hook has reported it.
            let run = AssertUnwindSafe(|| self.pool.run_until_stalled());
            let panicked: Result<(), Box<dyn Any + Send>> = std::panic::catch_unwind(run);
            let mut idle = panicked.is_ok();
            for mail in self.inbox.try_iter().take(MAILS_AT_ONCE) {
                self.ended |= !self.desk.on_mail(mail);
                idle = false;
            }
            let now = Instant::now();
            if self.desk.next_deadline().is_some_and(|deadline| deadline <= now) {
                self.desk.on_time(now);
                idle = false;
            }
            if idle || self.ended {
                return;
            }
        }
    }

    /// The one wait of the thread.
    fn wait(&mut self) {
        let mail = match self.desk.next_deadline() {
            _ if self.ended => return,
            Some(deadline) => {
                self.inbox.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        if let Ok(mail) = mail {
            self.ended |= !self.desk.on_mail(mail);
        }
    }
}

/// The running control thread.
pub struct ControlThread {
    post: Post,
    /// Hung up once the thread has dropped everything.
    ended: PipeReader,
    thread: Option<JoinHandle<()>>,
}

/// Readable once the thread has ended, which it does only when told to.
impl AsFd for ControlThread {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

impl ControlThread {
    /// Starts the thread.
    ///
    /// Fails when the system has no thread or no descriptors to give.
    pub fn start(
        control: Control,
        post: Post,
        inbox: Receiver<Mail>,
    ) -> std::io::Result<ControlThread> {
        let own = post.clone();
        let (ended, ending) = std::io::pipe()?;
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let _ending = ending;
            Office::new(control, own, inbox).run();
        })?;
        Ok(ControlThread { post, ended, thread: Some(thread) })
    }

    /// The way to the thread.
    pub fn post(&self) -> &Post {
        &self.post
    }

    /// Ends the thread, with what it owns; waits for that for `wait_max` at most. What takes longer
    /// ends with the process.
    pub fn end(mut self, wait_max: Duration) {
        self.end_within(wait_max);
    }

    fn end_within(&mut self, wait_max: Duration) {
        let Some(thread) = self.thread.take() else { return };
        self.post.send(Mail::End);
        let wait = Timespec::try_from(wait_max).ok();
        let mut ended = [PollFd::new(&self.ended, PollFlags::IN)];
        if rustix::event::poll(&mut ended, wait.as_ref()) == Ok(0) {
            tracing::warn!("a file or device is still open, because closing it takes long");
            return;
        }
        // Its panic has been reported by the panic hook.
        let _ = thread.join();
    }
}

/// Ends the thread, with what it owns; waits for that, but not longer than `DROP_WAIT_MAX`.
impl Drop for ControlThread {
    fn drop(&mut self) {
        self.end_within(DROP_WAIT_MAX);
    }
}
