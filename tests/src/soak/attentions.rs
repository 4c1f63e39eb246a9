//! What task management and the operator do to everybody: unit attentions that may be told, and
//! commands that may be taken away.

use reactor::Tag;

/// LUNs that a session uses. LUN 2 shows the device of LUN 0 again.
pub const LUNS: u16 = 3;

/// A LUN that never is.
pub const NO_LUN: u16 = 9;

/// A unit attention condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 29/00.
    PowerOn,
    /// 3F/0E.
    LunsChanged,
    /// 2A/09.
    Capacity,
    /// 2F/00.
    Cleared,
}

impl Kind {
    /// By additional sense code.
    pub fn of(asc: u8) -> Option<Kind> {
        match asc {
            0x29 => Some(Kind::PowerOn),
            0x3f => Some(Kind::LunsChanged),
            0x2a => Some(Kind::Capacity),
            0x2f => Some(Kind::Cleared),
            _ => None,
        }
    }
}

/// Something that raises an attention, from when it is asked for until it is answered.
#[derive(Debug)]
struct Raise {
    kind: Kind,
    /// A bit per LUN.
    luns: u8,
    except: Option<u64>,
    done: Option<u64>,
}

/// Which commands a function takes away.
#[derive(Debug, Clone, Copy)]
pub enum Taken {
    /// Those of a session to a LUN with this tag: tags are the channels' own, so it may hit a
    /// namesake.
    Task(u64, u16, Tag),
    /// Those of a session to the LUNs.
    Set(u64, u8),
    /// All to the LUNs.
    Unit(u8),
}

/// A function, from when it is sent until it is answered.
#[derive(Debug)]
struct Function {
    taken: Taken,
    done: Option<u64>,
}

/// Everything of the kind so far.
#[derive(Debug, Default)]
pub struct Attentions {
    raises: Vec<Raise>,
    functions: Vec<Function>,
}

/// Names a raise and a function.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    raise: Option<usize>,
    function: Option<usize>,
}

impl Attentions {
    /// Something is asked for that raises an attention at LUNs.
    pub fn begin(&mut self, kind: Kind, luns: u8, except: Option<u64>) -> Begun {
        self.raises.push(Raise { kind, luns, except, done: None });
        Begun { raise: Some(self.raises.len() - 1), function: None }
    }

    /// A function is sent that takes commands away, and may raise an attention.
    pub fn take(&mut self, taken: Taken, raise: Option<Begun>) -> Begun {
        self.functions.push(Function { taken, done: None });
        let raise = raise.and_then(|begun| begun.raise);
        Begun { raise, function: Some(self.functions.len() - 1) }
    }

    /// It has been answered, or can't happen any more.
    pub fn end(&mut self, begun: Begun, now: u64) {
        if let Some(at) = begun.raise {
            self.raises[at].done.get_or_insert(now);
        }
        if let Some(at) = begun.function {
            self.functions[at].done.get_or_insert(now);
        }
    }

    /// A new process knows nothing.
    pub fn clear(&mut self) {
        *self = Attentions::default();
    }

    /// Times that a session which exists since then may be told of something at a LUN.
    fn possible(&self, kind: Kind, lun: u16, session: u64, since: u64) -> u64 {
        let counts = |raise: &&Raise| {
            raise.kind == kind
                && raise.luns & (1 << lun) != 0
                && raise.except != Some(session)
                && raise.done.is_none_or(|done| done >= since)
        };
        self.raises.iter().filter(counts).count() as u64
    }

    /// A function for all of a unit at these LUNs has not been answered.
    pub fn takes_all(&self, luns: u8) -> bool {
        let all = |taken| matches!(taken, Taken::Unit(of) if of & luns != 0);
        self.functions.iter().any(|function| function.done.is_none() && all(function.taken))
    }

    /// A function may have taken away this command.
    pub fn may_be_taken(&self, session: u64, (lun, tag): (u16, Tag), luns: u8, sent: u64) -> bool {
        self.functions.iter().any(|function| {
            let meant = match function.taken {
                Taken::Task(of, at, namesake) => of == session && (at, namesake) == (lun, tag),
                Taken::Set(of, taken) => of == session && taken & luns != 0,
                Taken::Unit(taken) => taken & luns != 0,
            };
            meant && function.done.is_none_or(|done| done >= sent)
        })
    }
}

/// What a session has been told since it exists.
#[derive(Debug, Default)]
pub struct Heard {
    since: u64,
    /// New sessions that it may have become without knowing.
    power_ons: u64,
    told: [[u64; 4]; LUNS as usize],
}

impl Heard {
    /// A session whose login was sent then.
    pub fn new(since: u64) -> Heard {
        Heard { since, power_ons: 1, told: Default::default() }
    }

    /// It may be a new one.
    pub fn may_be_new(&mut self) {
        self.power_ons += 1;
    }

    /// It is told of something: not more often than it has happened.
    pub fn tell(&mut self, all: &Attentions, session: u64, lun: u16, kind: Kind) {
        let own = if kind == Kind::PowerOn { self.power_ons } else { 0 };
        let possible = own + all.possible(kind, lun, session, self.since);
        let told = &mut self.told[usize::from(lun)][kind as usize];
        *told += 1;
        assert!(
            *told <= possible,
            "session {session} was told {told} times of {kind:?} at LUN {lun}, of {possible}"
        );
    }
}
