//! A command from its information unit to its response.
//!
//! [`Requests`] owns what commands take while they run: slots, buffers, the segments and the
//! response being built. [`Commands`] lets them begin. Each step is a file: [`admit`] lets a
//! command begin, by its [`plan`] and what its session must be told ([`attend`]); [`data`] brings
//! its data; [`execute`] and [`passed`] have the device do the job, or [`decide`] the home core of
//! the unit; [`reply`] answers, or ends what nobody waits for. A step calls only those behind it.
//! [`inline`] is the short way of plain reads and writes.
//!
//! What a step meets comes in as arguments: the connections, the LUN map, the rate queues.

mod admit;
mod attend;
mod buffers;
mod data;
mod decide;
mod execute;
mod inline;
mod job;
mod passed;
mod plan;
mod planned;
mod reply;
pub(crate) mod request;

use reactor::pool::ClassCount;
use reactor::{Instant, Pool, Slots};
use transport::srp::Rsp;
use transport::{CloseReason, ConnId, Fabric, Recv, RemoteSeg};

use self::buffers::Buffers;
use self::decide::Question;
use self::job::{Header, Job};
use self::request::{Phase, Request};
use super::connections::table::Connections;
use super::coverage::{Met, met};
use super::message::{AbortScope, ChannelAt, Token};
use super::names::{CoreId, RequestKey, SrpTag};
use super::tasks::abort::{Abort, Aborts, Subject};
use super::units::map::Luns;
use crate::limits::{Limits, SEGMENTS_MAX, SENSE_BYTES_MAX};

/// The commands of a core: those that begin in a turn, and those that run.
pub(crate) struct Commands {
    requests: Requests,
    /// Questions of this turn for the home cores of units; a command each.
    questions: Vec<Question>,
    /// Bytes that the commands begun in this turn move.
    turn_bytes: u64,
    turn_bytes_max: u64,
}

impl Commands {
    /// No commands yet.
    pub(crate) fn new(pool: Pool, limits: &Limits) -> Commands {
        let requests = Requests::new(pool, limits.slots);
        Commands {
            requests,
            questions: Vec::new(),
            turn_bytes: 0,
            turn_bytes_max: limits.turn_bytes,
        }
    }

    /// A turn begins.
    #[inline]
    pub(crate) fn begin_turn(&mut self, now: Instant) {
        self.requests.now = now;
        self.turn_bytes = 0;
    }

    /// The time of the turn.
    pub(crate) fn now(&self) -> Instant {
        self.requests.now
    }

    /// No more commands begin in this turn.
    #[inline]
    fn is_sated(&self) -> bool {
        self.turn_bytes >= self.turn_bytes_max
    }

    /// Those that run.
    #[inline]
    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Those that run.
    #[inline]
    pub(crate) fn requests_mut(&mut self) -> &mut Requests {
        &mut self.requests
    }
}

/// The commands of a core that run, and what they share.
pub(crate) struct Requests {
    slots: Slots<Request>,
    buffers: Buffers,
    aborts: Aborts,
    /// Questions of the control plane that waited for the last command of a mapping.
    left: Vec<Token>,
    /// Something was put into `left`, an abort may have ended, or a home core is to be asked.
    has_news: bool,
    /// Segments of the reply being built.
    segs: Vec<RemoteSeg>,
    /// Response being built; the longest.
    rsp: Vec<u8>,
    /// The time of the turn.
    now: Instant,
}

impl Requests {
    fn new(pool: Pool, slots: usize) -> Requests {
        Requests {
            slots: Slots::new(slots, Request::vacant),
            buffers: Buffers::new(pool),
            aborts: Aborts::new(),
            left: Vec::new(),
            has_news: false,
            segs: Vec::with_capacity(SEGMENTS_MAX),
            rsp: vec![0; Rsp::LEN_MIN + SENSE_BYTES_MAX],
            now: Instant::default(),
        }
    }

    /// Slots in all, and those in use.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.slots.capacity(), self.slots.len())
    }

    /// Buffers per size class.
    pub(crate) fn buffer_counts(&self) -> Vec<ClassCount> {
        self.buffers.counts()
    }

    /// A request in flight, by the tag of its operation.
    #[inline]
    fn request(&mut self, key: RequestKey) -> &mut Request {
        let request = self.slots.get_mut(key.tag());
        request.expect("every tag comes back once, before its slot is freed")
    }

    /// True when a command of this connection has the tag and has not been answered.
    pub(crate) fn has(&self, conn: ConnId, lun: Option<u16>, tag: SrpTag) -> bool {
        self.slots.iter().any(|(_, request)| {
            request.is_named(conn, lun, tag) && request.phase() != Phase::Replying
        })
    }

    /// This core's part of the functions under way.
    pub(crate) fn aborts(&mut self) -> &mut Aborts {
        &mut self.aborts
    }

    /// Begins an abort at the free place `number`: marks the commands that are meant and have not
    /// been answered. `abort` counts those that were dropped while they waited.
    pub(crate) fn abort<F: Fabric>(
        &mut self,
        (connections, luns): (&Connections<F>, &Luns),
        core: CoreId,
        scope: AbortScope,
        (number, mut abort): (usize, Abort),
    ) {
        for (_, request) in self.slots.iter_mut() {
            let conn = request.conn();
            let subject = Subject {
                channel: ChannelAt { core, conn },
                session: connections.get(conn).session_id(),
                lun: request.lun(),
                unit: request.mapping().map(|mapping| luns.mapping(mapping).unit()),
                tag: request.tag(),
            };
            if !subject.is_in(scope) {
                continue;
            }
            met(request.phase(), Met::Abort);
            if request.phase() != Phase::Replying {
                request.abort(number);
                abort.left += 1;
                abort.count += 1;
            }
        }
        self.aborts.begin(number, abort);
        self.has_news = true;
    }

    /// Somebody may wait for commands that have come back since the last time.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.has_news
    }

    /// A question of the control plane that waited for the last command of a mapping.
    pub(crate) fn next_left(&mut self) -> Option<Token> {
        self.has_news = false;
        self.left.pop()
    }

    /// Something happens to the commands that are chosen.
    pub(crate) fn meet(&self, what: Met, chosen: impl Fn(&Request) -> bool) {
        if cfg!(debug_assertions) {
            let requests = self.slots.iter().filter(|(_, request)| chosen(request));
            requests.for_each(|(_, request)| met(request.phase(), what));
        }
    }

    /// Ends a connection at once.
    #[cold]
    pub(crate) fn close<F: Fabric>(
        &self,
        connections: &mut Connections<F>,
        conn: ConnId,
        reason: CloseReason,
    ) {
        self.meet(Met::Close, |request| request.conn() == conn);
        connections.close(conn, reason);
    }

    /// Takes a slot for an admitted command.
    fn begin<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        (conn, recv): (ConnId, Recv),
        header: &Header,
        job: Job,
    ) -> RequestKey {
        if let Some(mapping) = header.mapping {
            luns.begin_use(mapping);
        }
        connections.get_mut(conn).begin();
        let (key, request) = self.take_slot();
        request.begin(conn, recv, header, job);
        key
    }

    /// Takes a slot, which is free.
    #[inline]
    fn take_slot(&mut self) -> (RequestKey, &mut Request) {
        let (tag, request) = self.slots.take().expect("a slot is free");
        (RequestKey::of(tag), request)
    }
}
