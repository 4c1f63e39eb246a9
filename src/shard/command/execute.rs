//! A running command at its device.

use bdev::{Io, IoDone, IoStatus};
use transport::Fabric;

use super::Requests;
use super::job::{Job, Outcome};
use super::request::{Next, Phase};
use crate::scsi::sense_of;
use crate::shard::connections::table::Connections;
use crate::shard::coverage::{At, Mark, Met, mark, met};
use crate::shard::message::Ask;
use crate::shard::names::{MappingKey, RequestKey};
use crate::shard::outbox::Outbox;
use crate::shard::units::map::Luns;

impl Requests {
    /// All data is here: the job.
    #[inline]
    pub(super) fn execute<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        key: RequestKey,
    ) {
        let now = self.now;
        let request = self.request(key);
        request.enter(Phase::Executing);
        match request.job() {
            Job::Io(_) | Job::FlushThen(_) => {
                let (op, buf) = request.next_op();
                request.submit(now);
                let device = luns.mapping(request.unit()).device();
                luns.devices_mut().submit(device, Io { tag: key.tag(), op, buf });
            }
            Job::Steps(_) => self.step(connections, luns, key, IoStatus::Good),
            Job::Pass { .. } => self.pass(connections, luns, key),
            Job::Decide(_) => unreachable!("its data is not asked for"),
            Job::Reply => self.respond(connections, luns, key, Outcome::GOOD, false),
        }
    }

    /// The next operation of a job of several.
    fn step<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        key: RequestKey,
        last: IoStatus,
    ) {
        let now = self.now;
        let request = self.request(key);
        let mapping = luns.mapping(request.unit());
        match request.next_step(last, mapping.geometry().block_bytes) {
            Next::Io(op, buf) => {
                request.submit(now);
                let device = mapping.device();
                luns.devices_mut().submit(device, Io { tag: key.tag(), op, buf });
            }
            Next::Done(outcome) => self.respond(connections, luns, key, outcome, false),
        }
    }

    /// A device has finished an operation.
    #[inline]
    pub(crate) fn on_done<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        out: &mut Outbox,
        done: IoDone,
    ) {
        if let Err(done) = self.end_transfer(connections, luns, done) {
            self.on_done_any(connections, luns, out, done);
        }
    }

    #[inline(never)]
    fn on_done_any<F: Fabric>(
        &mut self,
        connections: &mut Connections<F>,
        luns: &mut Luns,
        out: &mut Outbox,
        done: IoDone,
    ) {
        let IoDone { tag, status, buf } = done;
        met(At::Executing, if status.is_good() { Met::Success } else { Met::Failure });
        let (key, now) = (RequestKey::of(tag), self.now);
        let request = self.request(key);
        let mapping = luns.mapping(request.unit());
        let (device, block_bytes) = (mapping.device(), mapping.geometry().block_bytes);
        doubt(luns, out, request.unit(), status);
        let meter = luns.devices_mut().on_done(device);
        let took_ns = request.took_ns(now);
        match request.job() {
            Job::Io(_) | Job::FlushThen(_) => {
                let (op, reads) = request.end_op(status, buf);
                meter.count(&op, block_bytes, status, took_ns);
                if !self.goes_on(connections, luns, key) {
                    return;
                }
                if reads {
                    return self.execute(connections, luns, key);
                }
                let outcome = sense_of(status, &op).map_or(Outcome::GOOD, Outcome::check);
                let no_data = status == IoStatus::GoodNoData;
                self.respond(connections, luns, key, outcome, no_data);
            }
            Job::Steps(steps) => {
                if let Some(op) = steps.running() {
                    meter.count(&op, block_bytes, status, took_ns);
                }
                request.put_scratch(buf);
                if self.goes_on(connections, luns, key) {
                    self.step(connections, luns, key, status);
                }
            }
            Job::Pass { .. } => {
                request.put_data(buf);
                self.on_passed(connections, luns, out, key);
            }
            Job::Decide(_) | Job::Reply => unreachable!("nothing was submitted"),
        }
    }
}

/// The control plane is to look at the device of a unit whose medium may be gone, unless a look is
/// under way.
fn doubt(luns: &mut Luns, out: &mut Outbox, unit: MappingKey, status: IoStatus) {
    if !is_doubtful(status) || !luns.mapping(unit).is_ready() {
        return;
    }
    let device = luns.mapping(unit).device();
    if let Some(bdev) = luns.devices_mut().doubt(device) {
        mark(Mark::Doubted);
        out.ask_control(Ask::LookAt { bdev });
    }
}

/// A failure that a medium which is gone may be the reason of.
fn is_doubtful(status: IoStatus) -> bool {
    matches!(status, IoStatus::ReadError | IoStatus::WriteError | IoStatus::NotReady)
}
