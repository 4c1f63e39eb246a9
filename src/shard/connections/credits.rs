//! The request limit of a connection (SRP 16A, 4.4): which credits the initiator holds, and which
//! the target owes it.
//!
//! A credit is spent when a request arrives and comes back with its response. A command that ends
//! without a response leaves its credit owed: the next response carries it, or an SRP_CRED_REQ of
//! the target's own.

/// Credits of one connection.
#[derive(Debug, Default)]
pub(crate) struct Credits {
    /// Credits that the initiator holds. Negative: it has sent more than it was allowed to.
    limit: i32,
    /// Credits of commands that ended without a response.
    owed: u32,
    /// A request of the target's own (SRP_CRED_REQ, SRP_AER_REQ) is unanswered; SRP allows one.
    asking: bool,
}

impl Credits {
    /// The credits of a login response.
    pub(crate) fn granted(credits: u32) -> Credits {
        Credits { limit: credits as i32, owed: 0, asking: false }
    }

    /// Counts an arrived request against the limit. False: the initiator had no credit for it.
    #[inline]
    pub(crate) fn spend(&mut self) -> bool {
        self.limit -= 1;
        self.limit >= 0
    }

    /// Takes the credits that the next response returns: its own and what is owed.
    #[inline]
    pub(crate) fn grant(&mut self) -> i32 {
        let delta = 1 + std::mem::take(&mut self.owed) as i32;
        self.limit += delta;
        delta
    }

    /// A command has ended without a response.
    pub(crate) fn owe(&mut self) {
        self.owed += 1;
    }

    /// True when credits are owed.
    #[inline]
    pub(crate) fn owes(&self) -> bool {
        self.owed > 0
    }

    /// A request of the target's own may be sent: the one before has been answered.
    pub(crate) fn may_ask(&self) -> bool {
        !self.asking
    }

    /// A request of the target's own is sent. Takes the credits that it returns: what is owed.
    pub(crate) fn ask(&mut self) -> i32 {
        debug_assert!(!self.asking, "SRP allows one request of the target's own");
        self.asking = true;
        let delta = std::mem::take(&mut self.owed) as i32;
        self.limit += delta;
        delta
    }

    /// The answer to a request of the target's own has arrived. False: nothing was asked.
    pub(crate) fn answered(&mut self) -> bool {
        std::mem::take(&mut self.asking)
    }

    /// Credits that the initiator holds now.
    pub(crate) fn limit(&self) -> i32 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_comes_back_with_one_response_or_the_next() {
        let mut credits = Credits::granted(2);
        assert!(credits.spend() && credits.spend());
        credits.owe();
        assert_eq!((credits.grant(), credits.limit(), credits.owes()), (2, 2, false));
        assert!(credits.spend() && credits.spend() && !credits.spend());
    }

    #[test]
    fn one_request_of_the_targets_own_is_unanswered_at_a_time() {
        let mut credits = Credits::granted(1);
        assert!(!credits.answered(), "nothing was asked");
        assert!(credits.spend());
        credits.owe();
        assert_eq!((credits.ask(), credits.may_ask(), credits.limit()), (1, false, 1));
        assert!(credits.answered() && credits.may_ask());
    }
}
