//! The thread of a device: takes commands of all cores, keeps as many of them with the driver as
//! the device takes, and gives their ends back.
//!
//! A core only pushes to and pops from rings, so nothing that the driver does can hold it up. All
//! state of a command in flight is here; its data belongs to the driver's queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use reactor::{Buf, Tag};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;

use super::command::{
    Code, Learned, Transfer, bypasses_attention, end_of, end_of_refused, flush, learn, status_of,
    tape_residual, timeout_ms,
};
use crate::scsi::{CDB_BYTES_MAX, DataDirection, ScsiEnd};
use crate::sys::sg::{Flight, Payload, Raw, ZEROS_BYTES};
use crate::threaded::{Asked, Ended, Hub, Ports};
use crate::{IoOp, IoStatus};

/// How often an operation on blocks is tried again after a unit attention.
const ATTENTIONS_MAX: u8 = 8;

/// The host adapter finds no device.
const DID_NO_CONNECT: u16 = 0x01;

/// What the worker needs of a device: the seam for tests.
pub(super) trait Device {
    /// Hands a command to the driver; fails with the command.
    fn start(&mut self, flight: Flight) -> Result<(), (Errno, Flight)>;
    /// Takes back one that has ended.
    fn reap(&mut self) -> Option<(Flight, Raw)>;
    /// Resets the logical unit and waits until it is done.
    fn reset(&mut self) -> Result<(), Errno>;
    /// The device has been taken away.
    fn is_gone(&self) -> bool;
    /// Commands that it takes at once, at least 1.
    fn depth(&self) -> u32;
    /// Bytes that one command moves at most.
    fn transfer_bytes_max(&self) -> u32;
}

/// What a core asks for.
pub(super) enum Ask {
    /// A command as it is.
    Scsi { cdb: [u8; CDB_BYTES_MAX], cdb_len: u8, direction: DataDirection },
    /// An operation on blocks that exist.
    Blocks(IoOp),
}

/// What device, channels and worker share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Where channels and worker find each other.
    pub hub: Arc<Hub<Ask, ScsiEnd>>,
    reset: AtomicBool,
    /// The device is there.
    pub online: AtomicBool,
    /// Bytes of a block: of a disk by its capacity, of a tape as it was last said. 0: unknown, or
    /// varying.
    pub block_bytes: AtomicU32,
    /// Blocks of a disk.
    pub blocks: AtomicU64,
}

impl Shared {
    pub(super) fn new(hub: Hub<Ask, ScsiEnd>) -> Shared {
        Shared {
            hub: Arc::new(hub),
            reset: AtomicBool::new(false),
            online: AtomicBool::new(true),
            block_bytes: AtomicU32::new(0),
            blocks: AtomicU64::new(0),
        }
    }

    /// The device is to be reset before the next command starts.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
        self.hub.wake();
    }
}

/// A command that the worker has taken.
struct Active {
    port: u32,
    tag: Tag,
    ask: Ask,
    buf: Option<Buf>,
    /// The range of blocks, for what may be done in parts.
    transfer: Option<Transfer>,
    /// Bytes of it in all, and done.
    total: u64,
    done: u64,
    /// Bytes of the buffer.
    len: u32,
    attentions: u8,
}

/// Properties of the device that decide how commands are treated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    pub is_disk: bool,
    pub is_tape: bool,
    pub timeout_ms: u32,
}

/// The worker of one device.
pub(super) struct Worker<D> {
    shared: Arc<Shared>,
    traits: Traits,
    device: Option<D>,
    ports: Ports<Ask, ScsiEnd>,
    active: Vec<Option<Active>>,
    free: Vec<u32>,
    /// Commands with more parts to do.
    again: VecDeque<u32>,
    in_flight: u32,
    /// The device came back: the next command is told.
    returned: bool,
    /// Something says that the device has gone.
    suspect: bool,
}

impl<D: Device> Worker<D> {
    pub(super) fn new(shared: Arc<Shared>, traits: Traits, device: D) -> Worker<D> {
        let depth = device.depth();
        let ports = Ports::new(Arc::clone(&shared.hub));
        Worker {
            shared,
            traits,
            device: Some(device),
            ports,
            active: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            again: VecDeque::with_capacity(depth as usize),
            in_flight: 0,
            returned: false,
            suspect: false,
        }
    }

    /// The device, if it is there.
    pub(super) fn device(&self) -> Option<&D> {
        self.device.as_ref()
    }

    /// Nothing is with the driver.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    /// The driver's files say that the device has gone.
    pub(super) fn on_hang_up(&mut self) {
        self.suspect = true;
    }

    /// The device has gone, and the driver has not given everything back yet.
    pub(super) fn is_losing(&self) -> bool {
        self.suspect && self.device.is_some()
    }

    /// Takes the device in again.
    pub(super) fn on_returned(&mut self, device: D) {
        let depth = device.depth();
        self.active = (0..depth).map(|_| None).collect();
        self.free = (0..depth).rev().collect();
        self.device = Some(device);
        self.returned = true;
        self.shared.online.store(true, Ordering::Relaxed);
    }

    /// Does what there is to do, without waiting; true if that was anything.
    pub(super) fn turn(&mut self) -> bool {
        self.ports.refresh();
        self.reset_if_asked();
        let mut progress = false;
        while let Some((flight, raw)) = self.device.as_mut().and_then(Device::reap) {
            self.on_reaped(flight, &raw);
            progress = true;
        }
        progress |= self.start_commands();
        self.look_for_loss();
        progress
    }

    /// Before a sleep: true when nothing has come meanwhile. [`Worker::awake`] must follow.
    pub(super) fn may_sleep(&self) -> bool {
        let idle = self.ports.may_sleep(!self.free.is_empty());
        let ends = self.is_idle() && self.shared.hub.is_stopping();
        idle && !ends && !self.shared.reset.load(Ordering::Acquire)
    }

    /// Waits for a core or one of `files`, which are the driver's, for `longest` at most; true when
    /// one of them has hung up.
    pub(super) fn sleep<'a>(
        &self,
        files: impl Iterator<Item = BorrowedFd<'a>>,
        longest: Option<Duration>,
    ) -> bool {
        self.ports.sleep(files, longest)
    }

    /// After a sleep.
    pub(super) fn awake(&self) {
        self.ports.awake();
    }

    fn reset_if_asked(&mut self) {
        if self.shared.reset.swap(false, Ordering::Acquire)
            && let Some(device) = &mut self.device
            && let Err(errno) = device.reset()
        {
            tracing::warn!("resetting a SCSI device: {errno}");
        }
    }

    /// Ports in turn, one command each, as long as the device takes some.
    fn start_commands(&mut self) -> bool {
        let mut progress = false;
        while let Some(number) = self.again.pop_front() {
            self.launch(number);
        }
        while (self.device.is_none() || !self.free.is_empty())
            && let Some((port, command)) = self.ports.next()
        {
            progress = true;
            // What was asked for before this command was pushed comes first.
            self.reset_if_asked();
            self.begin(port, command);
        }
        progress
    }

    fn begin(&mut self, port: u32, command: Asked<Ask>) {
        let Asked { tag, ask, mut buf } = command;
        let len = buf.as_ref().map_or(0, |buf| buf.len() as u32);
        if self.device.is_none() {
            let status = match ask {
                Ask::Scsi { .. } => IoStatus::Scsi,
                Ask::Blocks(_) => IoStatus::NotReady,
            };
            let end = Code::NOT_READY.end(len);
            return self.ports.end(port, Ended { tag, status, end, buf });
        }
        if self.returned
            && let Ask::Scsi { cdb, .. } = &ask
            && !bypasses_attention(cdb)
        {
            // It lost its power or its state: tapes are somewhere else now.
            self.returned = false;
            let end = Code::POWER_ON.end(len);
            return self.ports.end(port, Ended { tag, status: IoStatus::Scsi, end, buf });
        }
        let block_bytes = u64::from(self.shared.block_bytes.load(Ordering::Relaxed));
        let (transfer, total) = match &ask {
            Ask::Scsi { cdb, cdb_len, .. } => {
                let transfer = Transfer::of(&cdb[..usize::from(*cdb_len)]);
                let whole = |transfer: &Transfer| {
                    transfer.blocks.checked_mul(block_bytes) == Some(len.into())
                };
                (transfer.filter(|t| self.traits.is_disk && whole(t)), u64::from(len))
            }
            Ask::Blocks(op) => {
                let transfer = Transfer::of_op(op);
                (transfer, transfer.map_or(0, |transfer| transfer.blocks * block_bytes))
            }
        };
        if let Ask::Scsi { cdb, direction: DataDirection::In, .. } = &ask
            && !(self.traits.is_disk && Transfer::of(cdb).is_some())
            && let Some(buf) = &mut buf
        {
            // Not every host adapter says how much less came than was asked for.
            buf.fill(0..len as usize, 0);
        }
        let active = Active { port, tag, ask, buf, transfer, total, done: 0, len, attentions: 0 };
        let number = self.free.pop().expect("looked at before the command was taken");
        self.active[number as usize] = Some(active);
        self.launch(number);
    }

    /// Hands the next part of a command to the driver.
    fn launch(&mut self, number: u32) {
        let Some(device) = &mut self.device else { return };
        let active = self.active[number as usize].as_mut().expect("taken and not ended");
        let limit = device.transfer_bytes_max();
        let flight = match active.flight(number, limit, &self.shared, self.traits) {
            Some(flight) => flight,
            None => {
                let end = Code::INVALID_FIELD.end(active.len);
                return self.finish(number, end);
            }
        };
        match device.start(flight) {
            Ok(()) => self.in_flight += 1,
            Err((errno, flight)) => {
                self.suspect |= matches!(errno, Errno::NODEV | Errno::NXIO);
                let len = flight.len;
                active.take_back(flight.payload);
                let end = active.with_rest(end_of_refused(errno, len), len);
                self.finish(number, end);
            }
        }
    }

    fn on_reaped(&mut self, flight: Flight, raw: &Raw) {
        self.in_flight -= 1;
        self.suspect |= raw.host_status == DID_NO_CONNECT;
        let Flight { number, len, cdb, payload, .. } = flight;
        let active = self.active[number as usize].as_mut().expect("with the driver");
        active.take_back(payload);
        let mut end = end_of(raw, len);
        if self.traits.is_tape
            && let Some(residual) = tape_residual(
                &cdb,
                end.sense(),
                self.shared.block_bytes.load(Ordering::Relaxed),
                len,
            )
        {
            end.residual = end.residual.max(residual);
        }
        if end.status == 0 {
            self.shared.learn(active, end.residual, self.traits.is_tape);
            active.done += u64::from(len - end.residual.min(len));
            if end.residual == 0 && active.done < active.total {
                return self.again.push_back(number);
            }
            end.residual = (active.total - active.done.min(active.total)) as u32;
            return self.finish(number, end);
        }
        let retry = matches!(&active.ask, Ask::Blocks(op) if status_of(&end, op).is_none());
        if retry && active.attentions < ATTENTIONS_MAX {
            active.attentions += 1;
            return self.again.push_back(number);
        }
        let end = active.with_rest(end, len);
        self.finish(number, end);
    }

    /// A command has ended: its place is free, its core is told.
    fn finish(&mut self, number: u32, end: ScsiEnd) {
        let active = self.active[number as usize].take().expect("taken and not ended");
        self.free.push(number);
        let status = match &active.ask {
            Ask::Scsi { .. } => IoStatus::Scsi,
            Ask::Blocks(op) => status_of(&end, op).unwrap_or(IoStatus::Aborted),
        };
        let Active { port, tag, buf, .. } = active;
        self.ports.end(port, Ended { tag, status, end, buf });
    }

    /// A device that has gone is let go of when the driver has given everything back.
    fn look_for_loss(&mut self) {
        if !self.suspect || self.in_flight > 0 || !self.again.is_empty() {
            return;
        }
        self.suspect = false;
        if self.device.as_ref().is_some_and(Device::is_gone) {
            self.device = None;
            self.shared.online.store(false, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// Takes over what a command says of the medium.
    fn learn(&self, active: &Active, residual: u32, is_tape: bool) {
        let Ask::Scsi { cdb, .. } = &active.ask else { return };
        let Some(data) = active.buf.as_ref().and_then(Buf::private) else { return };
        let moved = data.len() - (residual as usize).min(data.len());
        match learn(cdb, &data[..moved], is_tape) {
            Some(Learned::Capacity { block_bytes, blocks }) => {
                self.block_bytes.store(block_bytes, Ordering::Relaxed);
                self.blocks.store(blocks, Ordering::Relaxed);
            }
            Some(Learned::BlockLength(bytes)) => {
                self.block_bytes.store(bytes, Ordering::Relaxed);
            }
            None => {}
        }
    }
}

impl Active {
    /// The next part. `None`: it moves more than the host can, and can't be done in parts.
    fn flight(
        &mut self,
        number: u32,
        limit: u32,
        shared: &Shared,
        traits: Traits,
    ) -> Option<Flight> {
        let rest = self.total - self.done;
        let is_zeros = matches!(self.ask, Ask::Blocks(IoOp::WriteZeroes { .. }));
        let limit = if is_zeros { limit.min(ZEROS_BYTES) } else { limit };
        let (cdb, cdb_len, len) = match (&self.ask, &self.transfer) {
            (Ask::Scsi { cdb, cdb_len, .. }, _) if rest <= limit.into() && self.done == 0 => {
                (*cdb, *cdb_len, rest as u32)
            }
            (Ask::Blocks(IoOp::Flush), _) => {
                let (cdb, cdb_len) = flush();
                (cdb, cdb_len, 0)
            }
            (_, Some(transfer)) => {
                let block = u64::from(shared.block_bytes.load(Ordering::Relaxed)).max(1);
                let blocks = (rest.min(limit.into()) / block) as u32;
                if blocks == 0 {
                    return None;
                }
                let (cdb, cdb_len) = transfer.part(self.done / block, blocks);
                (cdb, cdb_len, blocks * block as u32)
            }
            _ => return None,
        };
        let direction = match &self.ask {
            Ask::Scsi { direction, .. } => *direction,
            Ask::Blocks(IoOp::Read { .. }) => DataDirection::In,
            Ask::Blocks(_) if len > 0 => DataDirection::Out,
            Ask::Blocks(_) => DataDirection::None,
        };
        let payload = match self.buf.take() {
            Some(buf) if len > 0 => Payload::Buf(buf),
            buf => {
                self.buf = buf;
                if is_zeros { Payload::Zeros } else { Payload::None }
            }
        };
        Some(Flight {
            number,
            cdb,
            cdb_len,
            direction,
            offset: if is_zeros { 0 } else { self.done as u32 },
            payload,
            len,
            timeout_ms: timeout_ms(&cdb, traits.is_disk, traits.timeout_ms),
        })
    }

    fn take_back(&mut self, payload: Payload) {
        if let Payload::Buf(buf) = payload {
            self.buf = Some(buf);
        }
    }

    /// The end of a part of `len` bytes, with what of the whole was not moved.
    fn with_rest(&self, mut end: ScsiEnd, len: u32) -> ScsiEnd {
        let moved = self.done + u64::from(len - end.residual.min(len));
        end.residual = (self.total - moved.min(self.total)) as u32;
        end
    }
}

impl<D> Drop for Worker<D> {
    fn drop(&mut self) {
        // What the cores still wait for when the process ends: nobody takes it home.
        for active in self.active.iter_mut().filter_map(Option::take) {
            std::mem::forget(active.buf);
        }
    }
}
