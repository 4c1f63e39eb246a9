//! Asking every core and waiting for every answer.
//!
//! [`Mailboxes`] is the production way: one mailbox per core towards it, one channel back. An
//! answer that comes after its question was given up is recognised by its token and dropped.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::target::message::{Action, ActionError, Answer, Message, Report, Token};

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
}

/// What became of an action that some core did not do.
#[derive(Debug)]
pub struct Partial {
    /// Cores that have done it, or may yet do it.
    pub done: Vec<usize>,
    /// The first failure.
    pub error: CoreError,
}

/// Asks every core. On a failure [`Partial::done`] names the cores where it is to be undone.
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
    let mut done = Vec::new();
    let mut failure = None;
    for (core, answer) in numbers.iter().zip(cores.ask_within(&numbers, action, wait_max)) {
        match answer {
            Ok(report) => {
                reports.push(report);
                done.push(*core);
            }
            Err(error) => {
                if matches!(error, CoreError::Silent { .. }) {
                    done.push(*core);
                }
                failure.get_or_insert(error);
            }
        }
    }
    match failure {
        None => Ok(reports),
        Some(error) => Err(Partial { done, error }),
    }
}

/// Puts a message into one core's mailbox, or gives it back when the mailbox is full.
pub type Sender = Box<dyn Fn(Message) -> Result<(), Message> + Send>;

/// The cores of a running target, behind their mailboxes.
pub struct Mailboxes {
    senders: Vec<Sender>,
    answers: Receiver<Answer>,
    token: Token,
}

impl Mailboxes {
    /// One sender per core, in order; `answers` is where every core puts its [`Answer`], with
    /// [`Answer::core`] the index in `senders`.
    pub fn new(senders: Vec<Sender>, answers: Receiver<Answer>) -> Self {
        Mailboxes { senders, answers, token: 0 }
    }

    fn send(&self, core: usize, action: &Action, deadline: Instant) -> Result<(), Full> {
        let mut message = Message::Control { token: self.token, action: action.clone() };
        loop {
            match (self.senders[core])(message) {
                Ok(()) => return Ok(()),
                Err(back) if Instant::now() < deadline => {
                    message = back;
                    std::thread::sleep(FULL_MAILBOX_PAUSE);
                }
                Err(_) => return Err(Full),
            }
        }
    }
}

/// The mailbox stayed full.
struct Full;

impl Cores for Mailboxes {
    fn count(&self) -> usize {
        self.senders.len()
    }

    fn ask_within(
        &mut self,
        cores: &[usize],
        action: &Action,
        wait: Duration,
    ) -> Vec<Result<Report, CoreError>> {
        self.token += 1;
        let deadline = Instant::now() + wait;
        let mut results: Vec<Option<Result<Report, CoreError>>> = cores
            .iter()
            .map(|core| {
                let sent = self.send(*core, action, deadline);
                sent.err().map(|Full| Err(CoreError::Silent { core: *core, wait }))
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
    use std::sync::mpsc;

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
        assert_eq!(partial.done, [0, 1]);
        assert!(partial.error.to_string().starts_with("core 1 has not answered"));
    }

    #[test]
    fn a_full_mailbox_is_a_silent_core_in_the_end() {
        let (_sender, answers) = mpsc::channel();
        let full: Sender = Box::new(Err);
        let mut cores = Mailboxes::new(vec![full], answers);
        let results = cores.ask_within(&[0], &Action::Report, Duration::from_millis(5));
        assert!(matches!(results[0], Err(CoreError::Silent { core: 0, .. })));
    }
}
