//! What the control plane waits for: the end of a target's connections, and of the core's work.

use super::names::Token;

/// Ends that are under way on a core.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    /// Targets that are to be forgotten, and who waits for that.
    deletes: Vec<(Token, usize)>,
    /// No login is accepted any more.
    stopping: bool,
    /// Who waits until nothing is left.
    shutdowns: Vec<Token>,
    /// Told to end.
    ended: bool,
}

impl Stops {
    /// A target is to be forgotten when its last connection has ended.
    pub(crate) fn delete(&mut self, token: Token, target: usize) {
        self.deletes.push((token, target));
    }

    /// True when a target is to be forgotten.
    pub(crate) fn deletes(&self, target: usize) -> bool {
        self.deletes.iter().any(|(_, deleting)| *deleting == target)
    }

    /// Targets whose last connection has ended, as `ended` says, and who waits for that.
    pub(crate) fn take_deleted(&mut self, ended: impl Fn(usize) -> bool) -> Vec<(Token, usize)> {
        self.deletes.extract_if(.., |(_, target)| ended(*target)).collect()
    }

    /// Everything is to end.
    pub(crate) fn shut_down(&mut self, token: Token) {
        self.stopping = true;
        self.shutdowns.push(token);
    }

    /// No login is accepted any more.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Nothing is left: who waits for that.
    pub(crate) fn take_shutdowns(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.shutdowns)
    }

    /// Every core has nothing left.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// True when the core is to end.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }
}
