//! Asking cores, and what became of the questions.
//!
//! `Questions` puts actions into mailboxes and keeps what has not been answered yet. Nothing here
//! waits: an answer is a message to the control thread like any other, and whoever asked awaits it.
//! An answer that comes after its question was given up is recognised by its token and dropped.
//! What finds a full mailbox waits here, in order and per core, and is tried again when the core
//! answers anything, and after a pause.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use crate::shard::message::{Action, ActionError, Answer, Message, Report, Token};
use crate::shard::names::CoreId;

/// How long a core may take to answer.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// First pause before a full mailbox is tried again; each further one is twice as long.
const FULL_MAILBOX_PAUSE_MIN: Duration = Duration::from_millis(1);

/// Longest pause before a full mailbox is tried again: its core has been stuck for a while.
const FULL_MAILBOX_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why one core did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// The core refused; nothing changed on it.
    #[error(transparent)]
    Refused(#[from] ActionError),
    /// No answer in time; the core may still do it later.
    #[error("core {core} does not answer: nothing came within {} s", wait.as_secs_f32())]
    Silent {
        /// The core's index.
        core: CoreId,
        /// How long it was waited for.
        wait: Duration,
    },
    /// The core has not been asked: its mailbox stayed full.
    #[error("core {core} has not read its mailbox for {} s", wait.as_secs_f32())]
    Full {
        /// The core's index.
        core: CoreId,
        /// How long it was waited for.
        wait: Duration,
    },
}

/// Every core of the target, as the control plane reaches them. Cores are numbered from 0 to
/// `count() - 1` in the order of their start. They answer with [`super::Mail::Core`].
pub trait Cores: Send {
    /// Cores there are.
    fn count(&self) -> usize;

    /// Puts an action into a core's mailbox. False: the mailbox is full and nothing has happened.
    fn send(&mut self, core: CoreId, token: Token, action: &Action) -> bool;
}

/// Puts a message into one core's mailbox, or gives it back when the mailbox is full.
pub type Sender = Box<dyn Fn(Message) -> Result<(), Message> + Send>;

/// The cores of a running target, behind their mailboxes.
pub struct Mailboxes(Vec<Sender>);

impl Mailboxes {
    /// One sender per core, in order; [`Answer::core`] is the index in `senders`.
    pub fn new(senders: Vec<Sender>) -> Self {
        Mailboxes(senders)
    }
}

impl Cores for Mailboxes {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn send(&mut self, core: CoreId, token: Token, action: &Action) -> bool {
        (self.0[core.index()])(Message::Control { token, action: action.clone() }).is_ok()
    }
}

/// What each core that was asked answered, in the order of the question.
pub type Answers = Vec<Result<Report, CoreError>>;

/// What became of an action that some core did not do.
#[derive(Debug)]
pub struct Partial {
    /// Cores that have done it.
    pub done: Vec<CoreId>,
    /// Cores that were asked and have not answered: they may yet do it.
    pub silent: Vec<CoreId>,
    /// The first failure.
    pub error: CoreError,
}

/// The reports of a question to all cores. On a failure [`Partial`] names the cores where the
/// action is to be undone.
pub fn all_or_partial(answers: Answers) -> Result<Vec<Report>, Partial> {
    let mut reports = Vec::with_capacity(answers.len());
    let (mut done, mut silent) = (Vec::new(), Vec::new());
    let mut failure = None;
    for (core, answer) in answers.into_iter().enumerate() {
        let core = CoreId::new(core);
        match answer {
            Ok(report) => {
                reports.push(report);
                done.push(core);
            }
            Err(error) => {
                if let CoreError::Silent { .. } = error {
                    silent.push(core);
                }
                failure.get_or_insert(error);
            }
        }
    }
    match failure {
        None => Ok(reports),
        Some(error) => Err(Partial { done, silent, error }),
    }
}

/// A question that some core has not answered.
struct Open {
    cores: Vec<CoreId>,
    results: Vec<Option<Result<Report, CoreError>>>,
    wait: Duration,
    /// `None`: the answers are waited for as long as they take.
    deadline: Option<Instant>,
    reply: oneshot::Sender<Answers>,
}

impl Open {
    fn is_answered(&self) -> bool {
        self.results.iter().all(Option::is_some)
    }
}

/// All questions that are open, and the cores they were put to.
pub(super) struct Questions {
    cores: Box<dyn Cores>,
    token: Token,
    open: BTreeMap<Token, Open>,
    /// What found a mailbox full, by core.
    unsent: Vec<VecDeque<(Token, Action)>>,
    retry: Option<Instant>,
    pause: Duration,
}

impl Questions {
    pub(super) fn new(cores: Box<dyn Cores>) -> Self {
        let unsent = (0..cores.count()).map(|_| VecDeque::new()).collect();
        let (open, pause) = (BTreeMap::new(), FULL_MAILBOX_PAUSE_MIN);
        Questions { cores, token: 0, open, unsent, retry: None, pause }
    }

    /// All cores, in order.
    pub(super) fn every(&self) -> Vec<CoreId> {
        (0..self.cores.count()).map(CoreId::new).collect()
    }

    /// Asks each of `cores`. The answers come when there are all, or after `wait` with an error
    /// for each core that has not answered.
    pub(super) fn ask(
        &mut self,
        cores: &[CoreId],
        action: &Action,
        wait: Option<Duration>,
    ) -> oneshot::Receiver<Answers> {
        let (reply, answers) = oneshot::channel();
        let now = Instant::now();
        let token = self.tell(cores, action);
        let open = Open {
            cores: cores.to_vec(),
            results: vec![None; cores.len()],
            wait: wait.unwrap_or_default(),
            deadline: wait.map(|wait| now + wait),
            reply,
        };
        self.open.insert(token, open);
        self.close(token);
        answers
    }

    /// Tells each of `cores` to do something. A core whose mailbox is full gets it later, before
    /// all that it is asked after this.
    pub(super) fn tell(&mut self, cores: &[CoreId], action: &Action) -> Token {
        self.token += 1;
        for core in cores {
            self.unsent[core.index()].push_back((self.token, action.clone()));
            self.send(*core);
        }
        self.token
    }

    /// A core has answered.
    pub(super) fn on_answer(&mut self, answer: Answer) {
        if let Some(open) = self.open.get_mut(&answer.token)
            && let Some(at) = open.cores.iter().position(|core| *core == answer.core)
        {
            open.results[at] = Some(answer.result.map_err(CoreError::from));
            self.close(answer.token);
        }
        // A core that answers has read its mailbox.
        self.send(answer.core);
    }

    /// When [`Questions::on_time`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let answers = self.open.values().filter_map(|open| open.deadline).min();
        answers.into_iter().chain(self.retry).min()
    }

    /// Gives up what is too late, and tries full mailboxes again.
    pub(super) fn on_time(&mut self, now: Instant) {
        if self.retry.is_some_and(|retry| retry <= now) {
            self.retry = None;
            self.pause = (self.pause * 2).min(FULL_MAILBOX_PAUSE_MAX);
            self.every().into_iter().for_each(|core| self.send(core));
        }
        let is_late = |open: &Open| open.deadline.is_some_and(|deadline| deadline <= now);
        let late = self.open.iter().filter(|(_, open)| is_late(open));
        let late: Vec<Token> = late.map(|(token, _)| *token).collect();
        for token in late {
            let open = self.open.get_mut(&token).expect("found just now");
            let wait = open.wait;
            for (core, result) in open.cores.iter().copied().zip(&mut open.results) {
                let unsent = &mut self.unsent[core.index()];
                let before = unsent.len();
                if result.is_none() {
                    // What a core has not been given yet it never gets.
                    unsent.retain(|(other, _)| *other != token);
                }
                let was_asked = unsent.len() == before;
                result.get_or_insert(Err(match was_asked {
                    true => CoreError::Silent { core, wait },
                    false => CoreError::Full { core, wait },
                }));
            }
            self.close(token);
        }
    }

    /// Sends what a core is to get, as far as there is room.
    fn send(&mut self, core: CoreId) {
        let unsent = &mut self.unsent[core.index()];
        while let Some((token, action)) = unsent.front() {
            if !self.cores.send(core, *token, action) {
                self.retry.get_or_insert_with(|| Instant::now() + self.pause);
                return;
            }
            unsent.pop_front();
        }
        if self.unsent.iter().all(VecDeque::is_empty) {
            (self.retry, self.pause) = (None, FULL_MAILBOX_PAUSE_MIN);
        }
    }

    /// Hands the answers over once there are all.
    fn close(&mut self, token: Token) {
        if self.open.get(&token).is_some_and(Open::is_answered) {
            let open = self.open.remove(&token).expect("there just now");
            // Who asked may have stopped waiting.
            let _ = open.reply.send(open.results.into_iter().flatten().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;

    const CORE_0: CoreId = CoreId::new(0);
    const CORE_1: CoreId = CoreId::new(1);
    const WAIT: Duration = Duration::from_secs(10);

    /// Cores with so many free places in their mailboxes; what they were sent.
    #[derive(Clone, Default)]
    struct Narrow {
        places: Arc<Mutex<Vec<usize>>>,
        sent: Arc<Mutex<VecDeque<(CoreId, Token, String)>>>,
    }

    impl Narrow {
        fn with(places: &[usize]) -> (Narrow, Questions) {
            let narrow = Narrow::default();
            *narrow.places.lock().unwrap() = places.to_vec();
            let questions = Questions::new(Box::new(narrow.clone()));
            (narrow, questions)
        }

        fn answer(&self, questions: &mut Questions, waiting: u32) {
            let (core, token, _) = self.sent.lock().unwrap().pop_front().expect("a question");
            let result = Ok(Report { waiting, ..Report::default() });
            questions.on_answer(Answer { core, token, result });
        }

        fn words(&self) -> Vec<String> {
            self.sent.lock().unwrap().iter().map(|(_, _, words)| words.clone()).collect()
        }
    }

    impl Cores for Narrow {
        fn count(&self) -> usize {
            self.places.lock().unwrap().len()
        }

        fn send(&mut self, core: CoreId, token: Token, action: &Action) -> bool {
            let mut places = self.places.lock().unwrap();
            if places[core.index()] == 0 {
                return false;
            }
            places[core.index()] -= 1;
            self.sent.lock().unwrap().push_back((core, token, format!("{action:?}")));
            true
        }
    }

    fn unmap(lun: u16) -> Action {
        Action::UnmapLun { target: "t".into(), lun }
    }

    #[test]
    fn answers_are_matched_by_token_and_core() {
        let (cores, mut questions) = Narrow::with(&[9, 9]);
        let mut answers = questions.ask(&[CORE_0, CORE_1], &Action::Report, Some(WAIT));
        let late = Answer { core: CORE_1, token: 0, result: Ok(Report::default()) };
        questions.on_answer(late);
        cores.answer(&mut questions, 1);
        assert!(answers.try_recv().unwrap().is_none(), "core 1 has not answered this question");
        cores.answer(&mut questions, 2);
        let answers = answers.try_recv().unwrap().expect("both have answered");
        let reports = all_or_partial(answers).expect("both did it");
        assert_eq!(reports.iter().map(|report| report.waiting).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(questions.deadline(), None);
    }

    #[test]
    fn a_silent_core_is_named_and_counts_as_maybe_done() {
        let (cores, mut questions) = Narrow::with(&[9, 9]);
        let mut answers = questions.ask(&[CORE_0, CORE_1], &Action::Report, Some(WAIT));
        cores.answer(&mut questions, 1);
        let deadline = questions.deadline().expect("an open question");
        questions.on_time(deadline - Duration::from_millis(1));
        assert!(answers.try_recv().unwrap().is_none());
        questions.on_time(deadline);
        let answers = answers.try_recv().unwrap().expect("the time is over");
        let partial = all_or_partial(answers).expect_err("core 1 is silent");
        assert_eq!((partial.done, partial.silent), (vec![CORE_0], vec![CORE_1]));
        assert!(partial.error.to_string().starts_with("core 1 does not answer"));
    }

    #[test]
    fn a_full_mailbox_was_not_asked_and_is_not_asked_later() {
        let (cores, mut questions) = Narrow::with(&[0]);
        let mut answers = questions.ask(&[CORE_0], &Action::Report, Some(WAIT));
        questions.on_time(Instant::now() + WAIT);
        let answers = answers.try_recv().unwrap().expect("the time is over");
        let partial = all_or_partial(answers).expect_err("no room");
        assert!(matches!(partial.error, CoreError::Full { core: CORE_0, .. }));
        assert!(partial.done.is_empty() && partial.silent.is_empty());
        cores.places.lock().unwrap()[0] = 9;
        questions.on_time(Instant::now() + 2 * WAIT);
        assert_eq!(cores.words(), Vec::<String>::new());
    }

    #[test]
    fn what_a_core_is_told_comes_in_order_once_it_reads_and_nobody_else_waits_for_that() {
        let (cores, mut questions) = Narrow::with(&[1, 9]);
        for lun in [1, 2, 3] {
            questions.tell(&[CORE_0], &unmap(lun));
        }
        let _answers = questions.ask(&[CORE_1], &unmap(4), Some(WAIT));
        let words = |luns: &[u16]| luns.iter().map(|lun| format!("{:?}", unmap(*lun))).collect();
        let expected: Vec<String> = words(&[1, 4]);
        assert_eq!(cores.words(), expected);
        // An answer of any kind says that the core has read.
        cores.places.lock().unwrap()[0] = 1;
        cores.answer(&mut questions, 0);
        cores.places.lock().unwrap()[0] = 9;
        questions.on_time(questions.deadline().expect("a full mailbox"));
        let expected: Vec<String> = words(&[4, 2, 3]);
        assert_eq!(cores.words(), expected);
    }

    #[test]
    fn a_question_without_a_deadline_is_answered_whenever_that_is() {
        let (cores, mut questions) = Narrow::with(&[9]);
        let mut answers = questions.ask(&[CORE_0], &unmap(1), None);
        questions.on_time(Instant::now() + 100 * WAIT);
        assert!(answers.try_recv().unwrap().is_none());
        cores.answer(&mut questions, 0);
        assert!(answers.try_recv().unwrap().is_some());
    }
}
