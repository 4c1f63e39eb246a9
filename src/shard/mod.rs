//! One core's whole target: connections, sessions, requests and logical units.
//!
//! [`Shard`] owns the parts of a core, each of which owns its state, and connects them: in its turn
//! (`shard.rs`), for the control plane and other cores (`dispatch.rs`), when connections begin and
//! end (`logins.rs`), and for task management (`manage.rs`). It shares nothing with other cores but
//! values in mailboxes and the unit attentions of sessions.

mod command;
mod connections;
pub mod counts;
pub mod coverage;
mod dispatch;
mod log;
mod logins;
mod manage;
pub mod message;
pub mod meter;
pub mod names;
pub mod outbox;
pub mod qos;
pub mod session;
pub mod sessions;
#[allow(clippy::module_inception)] // the folder and the file are named after the type
mod shard;
mod stops;
mod tasks;
pub mod unit;
mod units;

use bdev::{CoreContext, IoDone};
use reactor::Batch;
use reactor::pool::Pool;
use transport::{Event, Fabric};

use self::command::Commands;
use self::connections::table::Connections;
use self::log::Log;
use self::message::{Answer, Report, Token};
use self::outbox::Outbox;
use self::qos::queue::RateQueues;
use self::sessions::registry::{REGISTRY_CORE, Registry};
use self::stops::Stops;
use self::tasks::functions::Tasks;
use self::units::home::Homes;
use self::units::map::Luns;
use crate::limits::Limits;

/// Events taken per turn. With the slots, which bound completions, and [`Limits::turn_bytes`], it
/// bounds the work of a turn.
const BATCH: usize = 256;

/// One core's target over a fabric.
pub struct Shard<F: Fabric> {
    connections: Connections<F>,
    commands: Commands,
    luns: Luns,
    /// On [`REGISTRY_CORE`] only.
    registry: Option<Registry>,
    /// The units whose home this core is.
    homes: Homes,
    tasks: Tasks,
    /// Commands that wait for rate limits.
    queues: RateQueues,
    out: Outbox,
    log: Log,
    stops: Stops,
    limits: Limits,
    events: Batch<Event>,
    done: Batch<IoDone>,
}

impl<F: Fabric> Shard<F> {
    /// A target without targets: the control plane sends them as messages.
    pub fn new(fabric: F, pool: Pool, limits: Limits, context: CoreContext, out: Outbox) -> Self {
        Shard {
            connections: Connections::new(fabric, limits.probe_every),
            commands: Commands::new(pool, &limits),
            luns: Luns::new(context),
            registry: (out.core() == REGISTRY_CORE).then(Registry::default),
            homes: Homes::default(),
            tasks: Tasks::new(),
            queues: RateQueues::default(),
            out,
            log: Log::default(),
            stops: Stops::default(),
            events: Batch::new(BATCH),
            done: Batch::new(limits.slots),
            limits,
        }
    }

    /// The fabric, for those who build and inspect the shard.
    pub fn fabric(&self) -> &F {
        self.connections.fabric()
    }

    fn answer(&mut self, token: Token) {
        self.answer_with(token, Report::default());
    }

    fn answer_with(&mut self, token: Token, report: Report) {
        let core = self.out.core();
        self.out.answer(Answer { core, token, result: Ok(report) });
    }
}
