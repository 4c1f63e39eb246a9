//! Who may have reserved a device, and who certainly has.

/// Devices of a world, at most.
const DISKS: usize = 2;

/// A RESERVE that may have reserved a device for its session.
#[derive(Debug)]
struct Claim {
    session: u64,
    disk: usize,
    /// When it was sent, among all that was done.
    sent: u64,
    /// When it was answered with GOOD.
    answered: Option<u64>,
    /// When it was certain that it holds no more.
    until: u64,
}

/// A session has reserved a device for certain, until something happens that may end that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    session: u64,
    since: u64,
}

impl Hold {
    /// The device is another session's.
    pub fn excludes(self, session: u64) -> bool {
        self.session != session
    }
}

/// All reservations of a world.
#[derive(Debug, Default)]
pub struct Reservations {
    claims: Vec<Claim>,
    holds: [Option<Hold>; DISKS],
    /// When something last happened that may have ended a reservation.
    doubts: [u64; DISKS],
}

impl Reservations {
    /// RESERVE is sent.
    pub fn claim(&mut self, session: u64, disk: usize, sent: u64) {
        let claim = Claim { session, disk, sent, answered: None, until: u64::MAX };
        self.claims.push(claim);
    }

    /// RESERVE is answered with GOOD. `certain`: nothing is under way that may end it again.
    pub fn reserved(&mut self, session: u64, disk: usize, sent: u64, now: u64, certain: bool) {
        let mut claims = self.claims.iter_mut();
        if let Some(claim) = claims.find(|c| (c.session, c.sent) == (session, sent)) {
            claim.answered = Some(now);
        }
        if certain && self.holds[disk].is_none_or(|hold| hold.excludes(session)) {
            self.holds[disk] = Some(Hold { session, since: now });
        }
    }

    /// RESERVE is answered otherwise: it has reserved nothing.
    pub fn refused(&mut self, session: u64, sent: u64) {
        self.claims.retain(|claim| (claim.session, claim.sent) != (session, sent));
    }

    /// RELEASE or a reset, sent then, is answered: what was answered before holds no more.
    pub fn released(&mut self, session: Option<u64>, disk: usize, sent: u64, now: u64) {
        for claim in &mut self.claims {
            let meant = claim.disk == disk && session.is_none_or(|of| of == claim.session);
            if meant && claim.answered.is_some_and(|answered| answered < sent) {
                claim.until = claim.until.min(now);
            }
        }
    }

    /// A session has taken the place of one whose commands were sent before.
    pub fn replaced(&mut self, session: u64, sent: u64, now: u64) {
        let claims = self.claims.iter_mut();
        for claim in claims.filter(|claim| claim.session == session && claim.sent < sent) {
            claim.until = claim.until.min(now);
        }
    }

    /// Whatever is reserved of a device may be released from now on.
    pub fn doubt(&mut self, disk: usize, now: u64) {
        self.holds[disk] = None;
        self.doubts[disk] = now;
    }

    /// Nothing has happened since then that ends reservations of all sessions.
    pub fn undoubted(&self, disk: usize, since: u64) -> bool {
        self.doubts[disk] < since
    }

    /// What a session has reserved may be released from now on.
    pub fn doubt_session(&mut self, session: u64) {
        for hold in &mut self.holds {
            hold.take_if(|hold| hold.session == session);
        }
    }

    /// Everything may be released from now on.
    pub fn doubt_all(&mut self, now: u64) {
        self.holds = [None; DISKS];
        self.doubts = [now; DISKS];
    }

    /// Who has reserved a device for certain.
    pub fn hold(&self, disk: usize) -> Option<Hold> {
        self.holds[disk]
    }

    /// Another session may have had a device at some time since then.
    pub fn may_exclude(&self, session: u64, disk: usize, since: u64) -> bool {
        let other = |c: &Claim| c.session != session && c.disk == disk && c.until >= since;
        self.claims.iter().any(other)
    }

    /// A new process knows nothing.
    pub fn clear(&mut self) {
        *self = Reservations::default();
    }
}
