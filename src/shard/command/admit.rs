//! From a received information unit to a running request.
//!
//! Connections take turns. A command is parsed, offered to the short way, planned, and starts when
//! a slot and its buffers are free; otherwise it stays a received information unit in front of its
//! connection and nothing was taken. A command that arrives while nobody waits does not stand in a
//! queue of one.

use std::sync::Arc;

use reactor::pool::Buf;
use transport::srp::{Cmd, DirectCmd, Direction, ImmediateCmd};
use transport::{ConnId, Fabric, Recv};

use super::Commands;
use super::buffers::Buffers;
use super::job::{Header, Job, Offered, Outcome, Source};
use super::plan::{make, plan};
use super::planned::{Content, Plan, Planned};
use super::request::Cargo;
use crate::limits::IO_BYTES_MAX;
use crate::scsi::{Reserve, Sense};
use crate::shard::connections::connection::Connection;
use crate::shard::connections::table::Connections;
use crate::shard::coverage::{At, Mark, Met, mark, met};
use crate::shard::message::Nexus;
use crate::shard::names::MappingKey;
use crate::shard::qos::queue::{Charge, RateQueues};
use crate::shard::units::map::Luns;

/// Commands of one connection admitted before the next one has its turn.
const TURN_COMMANDS: usize = 32;

/// How long a command may wait for buffers while later ones of other connections find some.
const OVERTAKEN_NS_MAX: u64 = 1_000_000;

/// What became of the oldest waiting command of a connection.
enum Admission {
    /// It runs, or has been answered.
    Started,
    /// No slot: later.
    Full(Recv),
    /// No buffer: later. The smallest one it needs has so many bytes.
    Short(Recv, usize),
    /// Another command has its logical unit for itself: later.
    Excluded(Recv),
    /// It waits for a rate limit, apart from the others.
    Held,
}

/// How a connection's turn ended.
enum Turn {
    /// Nothing waits any more.
    Empty,
    /// Others wait; it has had its share, or waits for a logical unit.
    Served,
    /// Its first command found no buffer.
    Short,
}

/// Why a job did not get its buffers.
enum Lack {
    /// There are too few. The smallest one has so many bytes.
    Bufs(usize),
    /// Another command has the logical unit for itself.
    Unit,
}

/// A job with its data, as planned.
struct Run {
    job: Job,
    direction: Option<Direction>,
    /// Bytes by the CDB.
    wanted: u32,
}

impl Commands {
    /// A command that has just come may begin: no other waits.
    #[inline(always)]
    fn may_begin<F: Fabric>(&self, connections: &Connections<F>) -> bool {
        connections.is_none_ready() && !self.is_sated()
    }

    /// A command has arrived in the form that nearly every read and write has: spends its credit,
    /// and begins if no other waits. `Err`: the connection does not welcome the command.
    #[inline(always)]
    pub(crate) fn on_direct<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        queues: &mut RateQueues,
        (conn, recv): (ConnId, Recv),
        cmd: &DirectCmd,
    ) -> Result<(), Recv> {
        let may_begin = self.may_begin(connections);
        let (connection, fabric) = connections.split(conn);
        if !connection.welcomes() {
            return Err(recv);
        }
        if !may_begin {
            connections.enqueue(conn, recv);
        } else if let Err(recv) = self.begin_transfer((connection, fabric), luns, conn, recv, cmd) {
            self.on_direct_any(connections, luns, queues, (conn, recv), cmd);
        }
        Ok(())
    }

    /// As [`Commands::on_direct`], of a command that is not for the short way.
    #[cold]
    #[inline(never)]
    fn on_direct_any<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        queues: &mut RateQueues,
        (conn, recv): (ConnId, Recv),
        cmd: &DirectCmd,
    ) {
        let admission = if self.requests.slots.is_full() {
            Admission::Full(recv)
        } else {
            let cmd = cmd.as_cmd(connections.iu(conn, &recv));
            let plan = plan(connections.get(conn), luns, Ok(cmd));
            self.admit_plan(connections, luns, queues, (conn, recv), plan)
        };
        self.on_admission(connections, conn, admission);
    }

    /// A command has arrived in any other form; its credit is spent. Begins if no other waits.
    #[inline(never)]
    pub(crate) fn on_command<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        queues: &mut RateQueues,
        conn: ConnId,
        recv: Recv,
    ) {
        if !self.may_begin(connections) {
            return connections.enqueue(conn, recv);
        }
        let admission = self.admit(connections, luns, queues, conn, recv);
        self.on_admission(connections, conn, admission);
    }

    /// A command that has just come was admitted, or must wait.
    fn on_admission<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        conn: ConnId,
        admission: Admission,
    ) {
        match admission {
            Admission::Started => connections.get_mut(conn).queue_mut().begun(),
            Admission::Held => {}
            Admission::Full(recv) | Admission::Short(recv, _) | Admission::Excluded(recv) => {
                connections.enqueue(conn, recv);
            }
        }
    }

    /// Starts what can start, connection by connection. One that came away empty-handed keeps its
    /// place, all others go to the end, so what comes free goes to those who wait longest. False:
    /// nothing could start.
    #[inline(never)]
    pub(crate) fn admit_ready<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        queues: &mut RateQueues,
    ) -> bool {
        let (mut at, mut started) = (0, false);
        self.requests.buffers.keep(None);
        for _ in 0..connections.ready_len() {
            if self.is_sated() {
                mark(Mark::Sated);
                break;
            }
            if self.requests.slots.is_full() {
                mark(Mark::NoSlot);
                break;
            }
            let Some(conn) = connections.ready_at(at) else { break };
            match self.admit_waiting(connections, luns, queues, conn, &mut started) {
                Turn::Short => {
                    if at == 0 {
                        let kept = self.overdue(connections.get(conn));
                        self.requests.buffers.keep(kept);
                    }
                    at += 1;
                }
                Turn::Served => connections.ready_last(at),
                Turn::Empty => connections.ready_off(at),
            }
        }
        self.requests.buffers.keep(None);
        started
    }

    /// A command that needs many buffers at once gets them only if others hold back: from how many
    /// bytes on buffers are kept for the first connection.
    fn overdue(&self, connection: &Connection) -> Option<usize> {
        let (since, bytes) = connection.queue().shortage()?;
        let overdue = self.requests.now.ns_since(since) > OVERTAKEN_NS_MAX;
        overdue.then(|| mark(Mark::Overdue));
        overdue.then_some(bytes)
    }

    /// Starts up to [`TURN_COMMANDS`] waiting commands of a connection, and tells whether there
    /// were any.
    #[inline(never)]
    fn admit_waiting<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        queues: &mut RateQueues,
        conn: ConnId,
        started: &mut bool,
    ) -> Turn {
        for count in 0..TURN_COMMANDS {
            if self.is_sated() {
                break;
            }
            let connection = connections.get_mut(conn);
            if !connection.is_live() {
                return Turn::Empty;
            }
            let Some(recv) = connection.queue_mut().pop() else { return Turn::Empty };
            let admission = self.admit(connections, luns, queues, conn, recv);
            let queue = connections.get_mut(conn).queue_mut();
            match admission {
                Admission::Started => {
                    met(At::Waiting, Met::Success);
                    *started = true;
                    queue.begun();
                }
                Admission::Held => {}
                Admission::Short(recv, bytes) => {
                    mark(Mark::NoBuffer);
                    queue.put_back_short(recv, self.requests.now, bytes);
                    return if count == 0 { Turn::Short } else { Turn::Served };
                }
                Admission::Full(recv) | Admission::Excluded(recv) => {
                    queue.put_back(recv);
                    return Turn::Served;
                }
            }
        }
        if connections.get(conn).queue().is_empty() { Turn::Empty } else { Turn::Served }
    }

    /// Parses a command, and starts it if that is possible.
    #[inline(never)]
    fn admit<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        queues: &mut RateQueues,
        conn: ConnId,
        recv: Recv,
    ) -> Admission {
        if self.requests.slots.is_full() {
            return Admission::Full(recv);
        }
        let offset = connections.get(conn).agreed().imm_data_offset;
        let iu = connections.iu(conn, &recv);
        if let Some(cmd) = DirectCmd::parse(iu) {
            let begun = self.begin_transfer(connections.split(conn), luns, conn, recv, &cmd);
            let Err(recv) = begun else { return Admission::Started };
            let cmd = cmd.as_cmd(connections.iu(conn, &recv));
            let plan = plan(connections.get(conn), luns, Ok(cmd));
            return self.admit_plan(connections, luns, queues, (conn, recv), plan);
        }
        let connection = connections.get(conn);
        let cmd = match offset.and_then(|offset| ImmediateCmd::parse(iu, offset)) {
            Some(cmd) => match self.write_immediate(connection, luns, &cmd) {
                Some(written) => {
                    self.end_immediate(connections, conn, recv, written);
                    return Admission::Started;
                }
                None => Ok(cmd.as_cmd(iu)),
            },
            None => Cmd::parse(iu, offset),
        };
        let plan = plan(connection, luns, cmd);
        self.admit_plan(connections, luns, queues, (conn, recv), plan)
    }

    /// Starts a command as planned.
    fn admit_plan<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        queues: &mut RateQueues,
        (conn, recv): (ConnId, Recv),
        plan: Plan,
    ) -> Admission {
        let Plan { header, offered, work } = plan;
        match work {
            Planned::Run { job, direction, bytes } => {
                let mapping = header.mapping.expect("jobs have a logical unit");
                let unit = luns.mapping(mapping);
                let moved = direction.map(|direction| (direction, bytes));
                let mut recv = recv;
                if unit.is_limited()
                    && let Some(cost) = job.cost(moved, unit.geometry().block_bytes)
                {
                    let (unit, limiter) = (unit.unit(), &unit.lu().limiter);
                    let charge = Charge { mapping, unit, limiter, cost };
                    let connection = connections.get_mut(conn);
                    match queues.charge(connection, recv, &charge, self.requests.now) {
                        Some(back) => recv = back,
                        None => return Admission::Held,
                    }
                }
                let run = Run { job, direction, wanted: bytes };
                self.admit_run(connections, luns, (conn, recv), header, offered, run)
            }
            Planned::End(outcome) => {
                let key = self.requests.begin(connections, luns, (conn, recv), &header, Job::Reply);
                self.requests.request(key).set_residual(offered.residual(None, 0));
                self.requests.respond(connections, luns, key, outcome, false);
                Admission::Started
            }
            Planned::Decide(reserve) => {
                let session = connections.get(conn).session().expect("live connections have one");
                let nexus = Nexus { session: session.id, target: Arc::clone(&session.target) };
                if reserve == Reserve::Reserve {
                    session.note_reservation();
                }
                let job = Job::Decide(reserve);
                let key = self.requests.begin(connections, luns, (conn, recv), &header, job);
                self.requests.request(key).set_residual(offered.residual(None, 0));
                self.decide(luns, key, nexus);
                Admission::Started
            }
            Planned::Make { content, allocation } => {
                let made = (content, allocation);
                self.admit_made(connections, luns, (conn, recv), header, offered, made)
            }
        }
    }

    /// Starts a response with data that is made here: what, and most bytes of it.
    fn admit_made<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        (conn, recv): (ConnId, Recv),
        header: Header,
        offered: Offered,
        (content, allocation): (Content, u64),
    ) -> Admission {
        let buffers = &mut self.requests.buffers;
        // First the table: making REQUEST SENSE data takes a unit attention.
        let table = match offered.source {
            Source::ExternalTable(seg) => match buffers.take(seg.len as usize) {
                Some(table) => Some(table),
                None => return Admission::Short(recv, seg.len as usize),
            },
            _ => None,
        };
        let (connection, mapping) = (connections.get(conn), header.mapping);
        let Some(buf) = make(buffers, connection, luns, mapping, &content, allocation) else {
            mark(Mark::NoBufferToMake);
            if let Some(table) = table {
                buffers.put(table);
            }
            return Admission::Short(recv, 0);
        };
        let made = buf.len() as u32;
        let key = self.requests.begin(connections, luns, (conn, recv), &header, Job::Reply);
        self.requests.request(key).load(Cargo {
            direction: Some(Direction::In),
            bytes: made.min(offered.bytes_in(Direction::In)),
            residual: offered.residual(Some(Direction::In), made.into()),
            source: offered.source,
            data: Some(buf),
            scratch: None,
            table,
        });
        self.requests.start_data(connections, luns, key);
        Admission::Started
    }

    /// Starts a job.
    #[inline]
    fn admit_run<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        (conn, recv): (ConnId, Recv),
        header: Header,
        offered: Offered,
        run: Run,
    ) -> Admission {
        let Run { direction, wanted, .. } = run;
        let room = direction.map_or(0, |direction| offered.bytes_in(direction));
        let residual = offered.residual(direction, wanted.into());
        if direction == Some(Direction::Out) && room < wanted {
            // Part of the data must not be written as if it were the whole.
            mark(Mark::TooLittle);
            let key = self.requests.begin(connections, luns, (conn, recv), &header, Job::Reply);
            self.requests.request(key).set_residual(residual);
            let outcome = Outcome::check(Sense::INVALID_INFORMATION_UNIT);
            self.requests.respond(connections, luns, key, outcome, false);
            return Admission::Started;
        }
        let mapping = header.mapping.expect("jobs have a logical unit");
        let fabric = connections.fabric_mut();
        let cargo = match take_bufs(
            &mut self.requests.buffers,
            fabric,
            luns,
            (conn, mapping),
            &offered,
            &run,
        ) {
            Ok(cargo) => cargo,
            Err(Lack::Bufs(bytes)) => return Admission::Short(recv, bytes),
            Err(Lack::Unit) => {
                mark(Mark::Excluded);
                return Admission::Excluded(recv);
            }
        };
        self.turn_bytes += u64::from(wanted);
        let key = self.requests.begin(connections, luns, (conn, recv), &header, run.job);
        let (bytes, source) = (wanted.min(room), offered.source);
        self.requests.request(key).load(Cargo { direction, bytes, residual, source, ..cargo });
        self.requests.start_data(connections, luns, key);
        Admission::Started
    }
}

/// All buffers of a job, and exclusive access if it needs that; or nothing.
#[inline]
fn take_bufs<F: Fabric>(
    buffers: &mut Buffers,
    fabric: &mut F,
    luns: &Luns,
    (conn, mapping): (ConnId, MappingKey),
    offered: &Offered,
    run: &Run,
) -> Result<Cargo, Lack> {
    let mapping = luns.mapping(mapping);
    if let (Source::Direct(seg), Job::Io(_)) = (offered.source, &run.job)
        && seg.len == run.wanted
        && offered.direction == run.direction
        && let Some(data) = fabric.place(conn, seg, mapping.geometry().buf_align)
    {
        return Ok(Cargo { data: Some(data), ..Cargo::default() });
    }
    let (scratch_bytes, exclusive) = match &run.job {
        Job::Steps(steps) => (steps.scratch_bytes(IO_BYTES_MAX), steps.is_atomic()),
        Job::Io(_) | Job::FlushThen(_) | Job::Pass { .. } | Job::Decide(_) | Job::Reply => {
            (0, false)
        }
    };
    let table_bytes = match offered.source {
        Source::ExternalTable(seg) => seg.len as usize,
        _ => 0,
    };
    let needs = [run.wanted as usize, scratch_bytes, table_bytes];
    let [data, scratch, table]: [Option<Option<Buf>>; 3] = needs.map(|bytes| match bytes {
        0 => Some(None),
        bytes => buffers.take(bytes).map(Some),
    });
    let short = data.is_none() || scratch.is_none() || table.is_none();
    if short || (exclusive && !mapping.lu().try_enter()) {
        for buf in [data, scratch, table].into_iter().flatten().flatten() {
            buffers.put(buf);
        }
        let least = needs.into_iter().filter(|bytes| *bytes > 0).min().unwrap_or(0);
        return Err(if short { Lack::Bufs(least) } else { Lack::Unit });
    }
    let (data, scratch, table) = (data.flatten(), scratch.flatten(), table.flatten());
    Ok(Cargo { data, scratch, table, ..Cargo::default() })
}
