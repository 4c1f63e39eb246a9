//! Asking every core and waiting for every answer.
//!
//! [`Mailboxes`] is the production way: one mailbox per core towards it, one channel back. An
//! answer that comes after its question was given up is recognised by its token and dropped. What a
//! core only has to be told waits here while its mailbox is full, and goes in front of the rest.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::shard::message::{Action, ActionError, Answer, Message, Report, Token};

/// How long a core may take to answer.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// Pause before a full mailbox is tried again.
const FULL_MAILBOX_PAUSE: Duration = Duration::from_millis(1);

/// Why one core did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// The core refused; nothing changed on it.
    #[error(transparent)]
    Refused(#[from] ActionError),
    /// No answer in time; the core may still do it later.
    #[error("core {core} has not answered within {} s", wait.as_secs_f32())]
    Silent {
        /// The core's index.
        core: usize,
        /// How long it was waited for.
        wait: Duration,
    },
    /// The core has not been asked: its mailbox stayed full.
    #[error("core {core} has not read its mailbox for {} s", wait.as_secs_f32())]
    Full {
        /// The core's index.
        core: usize,
        /// How long it was waited for.
        wait: Duration,
    },
    /// The core's thread has ended.
    #[error("core {core} has stopped")]
    Stopped {
        /// The core's index.
        core: usize,
    },
}

/// Every core of the target, as the control plane reaches them. Cores are numbered from 0 to
/// `count() - 1` in the order of their start.
pub trait Cores: Send {
    /// Cores there are.
    fn count(&self) -> usize;

    /// Sends `action` to each of `cores` and waits until each has answered or [`ANSWER_WAIT_MAX`]
    /// is over. Answers come in the order of `cores`.
    fn ask(&mut self, cores: &[usize], action: &Action) -> Vec<Result<Report, CoreError>> {
        self.ask_within(cores, action, ANSWER_WAIT_MAX)
    }

    /// The same with another time limit.
    fn ask_within(
        &mut self,
        cores: &[usize],
        action: &Action,
        wait_max: Duration,
    ) -> Vec<Result<Report, CoreError>>;

    /// Tells each of `cores` to do something and waits for nothing. A core whose mailbox is full
    /// gets it later, before all that it is asked after this.
    fn tell(&mut self, cores: &[usize], action: &Action);

    /// Puts into mailboxes what [`Cores::tell`] could not: to be called now and then.
    fn deliver(&mut self) {}
}

/// What became of an action that some core did not do.
#[derive(Debug)]
pub struct Partial {
    /// Cores that have done it.
    pub done: Vec<usize>,
    /// Cores that were asked and have not answered: they may yet do it.
    pub silent: Vec<usize>,
    /// Cores that could not be asked.
    pub unasked: Vec<usize>,
    /// The first failure.
    pub error: CoreError,
}

/// Asks every core. On a failure [`Partial`] names the cores where it is to be undone.
pub fn all(cores: &mut dyn Cores, action: &Action) -> Result<Vec<Report>, Partial> {
    all_within(cores, action, ANSWER_WAIT_MAX)
}

/// The same with another time limit.
pub fn all_within(
    cores: &mut dyn Cores,
    action: &Action,
    wait_max: Duration,
) -> Result<Vec<Report>, Partial> {
    let numbers: Vec<usize> = (0..cores.count()).collect();
    let mut reports = Vec::with_capacity(numbers.len());
    let (mut done, mut silent, mut unasked) = (Vec::new(), Vec::new(), Vec::new());
    let mut failure = None;
    for (core, answer) in numbers.iter().zip(cores.ask_within(&numbers, action, wait_max)) {
        match answer {
            Ok(report) => {
                reports.push(report);
                done.push(*core);
            }
            Err(error) => {
                match error {
                    CoreError::Silent { .. } => silent.push(*core),
                    CoreError::Full { .. } => unasked.push(*core),
                    CoreError::Refused(_) | CoreError::Stopped { .. } => {}
                }
                failure.get_or_insert(error);
            }
        }
    }
    match failure {
        None => Ok(reports),
        Some(error) => Err(Partial { done, silent, unasked, error }),
    }
}

/// Puts a message into one core's mailbox, or gives it back when the mailbox is full.
pub type Sender = Box<dyn Fn(Message) -> Result<(), Message> + Send>;

/// The cores of a running target, behind their mailboxes.
pub struct Mailboxes {
    boxes: Vec<Mailbox>,
    answers: Receiver<Answer>,
    token: Token,
}

/// The way to one core.
struct Mailbox {
    send: Sender,
    /// What the core is to be told before anything else. Short: a core that has not taken what it
    /// was told is not asked for changes either, so there is nothing more to tell it.
    owed: VecDeque<(Token, Action)>,
}

impl Mailbox {
    /// Sends what is owed; true when that is all gone.
    fn deliver(&mut self) -> bool {
        while let Some((token, action)) = self.owed.front() {
            let message = Message::Control { token: *token, action: action.clone() };
            if (self.send)(message).is_err() {
                return false;
            }
            self.owed.pop_front();
        }
        true
    }

    /// False when the mailbox stayed full.
    fn ask(&mut self, token: Token, action: &Action, deadline: Instant) -> bool {
        let mut message = Message::Control { token, action: action.clone() };
        loop {
            if self.deliver() {
                match (self.send)(message) {
                    Ok(()) => return true,
                    Err(back) => message = back,
                }
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(FULL_MAILBOX_PAUSE);
        }
    }
}

impl Mailboxes {
    /// One sender per core, in order; `answers` is where every core puts its [`Answer`], with
    /// [`Answer::core`] the index in `senders`.
    pub fn new(senders: Vec<Sender>, answers: Receiver<Answer>) -> Self {
        let mailbox = |send| Mailbox { send, owed: VecDeque::new() };
        Mailboxes { boxes: senders.into_iter().map(mailbox).collect(), answers, token: 0 }
    }
}

impl Cores for Mailboxes {
    fn count(&self) -> usize {
        self.boxes.len()
    }

    fn ask_within(
        &mut self,
        cores: &[usize],
        action: &Action,
        wait: Duration,
    ) -> Vec<Result<Report, CoreError>> {
        self.token += 1;
        let token = self.token;
        let deadline = Instant::now() + wait;
        let mut results: Vec<Option<Result<Report, CoreError>>> = cores
            .iter()
            .map(|core| {
                let sent = self.boxes[*core].ask(token, action, deadline);
                (!sent).then_some(Err(CoreError::Full { core: *core, wait }))
            })
            .collect();
        while results.iter().any(Option::is_none) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.answers.recv_timeout(left) {
                Ok(answer) if answer.token == self.token => {
                    if let Some(at) = cores.iter().position(|core| *core == answer.core) {
                        results[at] = Some(answer.result.map_err(CoreError::from));
                    }
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    fill(&mut results, cores, |core| CoreError::Silent { core, wait });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    fill(&mut results, cores, |core| CoreError::Stopped { core });
                }
            }
        }
        results.into_iter().flatten().collect()
    }

    fn tell(&mut self, cores: &[usize], action: &Action) {
        self.token += 1;
        for core in cores {
            let mailbox = &mut self.boxes[*core];
            mailbox.owed.push_back((self.token, action.clone()));
            mailbox.deliver();
        }
    }

    fn deliver(&mut self) {
        for mailbox in &mut self.boxes {
            mailbox.deliver();
        }
    }
}

fn fill(
    results: &mut [Option<Result<Report, CoreError>>],
    cores: &[usize],
    error: impl Fn(usize) -> CoreError,
) {
    for (result, core) in results.iter_mut().zip(cores) {
        result.get_or_insert_with(|| Err(error(*core)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    fn answering(core: usize, answers: mpsc::Sender<Answer>) -> Sender {
        Box::new(move |message| {
            let Message::Control { token, .. } = message else { panic!("not for a core") };
            let late = Answer { core, token: token.wrapping_sub(1), result: Ok(Report::default()) };
            let now = Answer {
                core,
                token,
                result: Ok(Report { waiting: core as u32 + 1, ..Report::default() }),
            };
            for answer in [late, now] {
                answers.send(answer).expect("the control plane lives");
            }
            Ok(())
        })
    }

    #[test]
    fn answers_are_matched_by_token_and_core() {
        let (sender, answers) = mpsc::channel();
        let mut cores =
            Mailboxes::new(vec![answering(0, sender.clone()), answering(1, sender)], answers);
        let reports = all(&mut cores, &Action::Report).expect("both answer");
        assert_eq!(reports.iter().map(|report| report.waiting).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_silent_core_is_named_and_counts_as_maybe_done() {
        let (sender, answers) = mpsc::channel();
        let silent: Sender = Box::new(|_| Ok(()));
        let mut cores = Mailboxes::new(vec![answering(0, sender.clone()), silent], answers);
        let wait = Duration::from_millis(20);
        let partial = all_within(&mut cores, &Action::Report, wait).expect_err("core 1 is silent");
        assert_eq!((partial.done, partial.silent), (vec![0], vec![1]));
        assert!(partial.error.to_string().starts_with("core 1 has not answered"));
    }

    #[test]
    fn a_full_mailbox_was_not_asked() {
        let (_sender, answers) = mpsc::channel();
        let full: Sender = Box::new(Err);
        let mut cores = Mailboxes::new(vec![full], answers);
        let wait = Duration::from_millis(5);
        let partial = all_within(&mut cores, &Action::Report, wait).expect_err("no room");
        assert!(matches!(partial.error, CoreError::Full { core: 0, .. }));
        assert!(partial.done.is_empty() && partial.silent.is_empty());
        assert_eq!(partial.unasked, [0]);
    }

    #[test]
    fn what_a_core_is_told_comes_in_order_once_it_reads() {
        let (sender, answers) = mpsc::channel();
        let (room, got) = (Arc::new(AtomicUsize::new(1)), Arc::new(Mutex::new(Vec::new())));
        let (places, seen) = (Arc::clone(&room), Arc::clone(&got));
        let narrow: Sender = Box::new(move |message| {
            let taken = places.fetch_update(Relaxed, Relaxed, |room| room.checked_sub(1));
            if taken.is_err() {
                return Err(message);
            }
            let Message::Control { token, action } = message else { panic!("not for a core") };
            seen.lock().expect("no panic").push(format!("{action:?}"));
            let result = Ok(Report::default());
            sender.send(Answer { core: 0, token, result }).expect("the control plane lives");
            Ok(())
        });
        let mut cores = Mailboxes::new(vec![narrow], answers);
        let unmap = |lun| Action::UnmapLun { target: "t".into(), lun };
        let wait = Duration::from_millis(5);
        for lun in [1, 2, 3] {
            cores.tell(&[0], &unmap(lun));
        }
        let refused = all_within(&mut cores, &unmap(4), wait).expect_err("others come first");
        assert!(matches!(refused.error, CoreError::Full { .. }));
        let seen = || got.lock().expect("no panic").len();
        assert_eq!(seen(), 1);
        room.store(1, Relaxed);
        cores.deliver();
        assert_eq!(seen(), 2);
        room.store(9, Relaxed);
        all_within(&mut cores, &unmap(5), wait).expect("there is room");
        let expected: Vec<_> = [1, 2, 3, 5].map(|lun| format!("{:?}", unmap(lun))).into();
        assert_eq!(*got.lock().expect("no panic"), expected);
    }
}
