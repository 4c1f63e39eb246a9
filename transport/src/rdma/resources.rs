//! What a core needs of a device, and what a connection needs: made on the control thread.
use std::sync::Arc;

use reactor::sys::memory::Memory;

use super::options::FabricOptions;
use super::sys::queue::QpPlan;
use super::sys::{
    CmId, Completion, CompletionChannel, Cq, Device, EventChannel, PoolKeys, Qp, RdmaError,
    ReceiveArea, ReceiveChain, Region, Srq,
};
use crate::ConnId;

/// Bytes of the zeroes that answers without data are made of.
pub(super) const ZERO_BYTES: u32 = 64 << 10;
/// Segments of one send work request that are worth having.
const SEGMENTS_MAX: u32 = 16;
/// Entries wanted in a completion queue, before the device's limit.
const COMPLETIONS_MAX: u32 = 1 << 18;
/// Receives posted at a time.
const RECEIVE_CHAIN: usize = 128;
/// Bytes of a response that are worth carrying in its request: SRP_RSP without sense data.
const INLINE_BYTES: u32 = 64;

/// A completion queue of a core, and what is known of its notification.
pub(super) struct Queue {
    cq: Arc<Cq>,
    /// A notification was asked for and has not been taken.
    armed: bool,
    /// Completions have been polled since: it has come, or is about to.
    fired: bool,
}

impl Queue {
    fn new(cq: &Arc<Cq>) -> Self {
        Queue { cq: Arc::clone(cq), armed: false, fired: false }
    }

    /// See [`Cq::poll`].
    #[inline]
    pub(super) fn poll(&mut self, completions: &mut [Completion]) -> usize {
        let count = self.cq.poll(completions);
        self.fired |= count > 0;
        count
    }

    fn arm(&mut self) {
        if !self.armed {
            self.cq.arm();
            (self.armed, self.fired) = (true, false);
        }
    }
}

/// One device as one core uses it.
pub(super) struct CoreDevice {
    /// Completions of sends, of which only some are waited for.
    pub sends: Queue,
    pub receives: Queue,
    /// Readable when one of the two has notified.
    channel: Arc<CompletionChannel>,
    /// Keys of the core's buffers.
    pub pool: PoolKeys,
    /// One slot per operation, for information units on their way out.
    pub units: Region,
    pub unit_stride: usize,
    pub zeroes: Region,
    /// Segments of a send work request.
    pub segments: u32,
    pub shared: Option<Shared>,
    /// Connections by queue pair number, sorted; used with shared receives only.
    pub by_number: Vec<(u32, u32)>,
}

impl CoreDevice {
    /// Before the core sleeps. Afterwards the next receive makes the channel readable, and with
    /// `sends` so does the next send. Completions that came before may not: poll once more.
    pub(super) fn arm(&mut self, sends: bool) {
        while (self.sends.armed && self.sends.fired) || (self.receives.armed && self.receives.fired)
        {
            match self.channel.take([&self.sends.cq, &self.receives.cq]) {
                Some(0) => self.sends.armed = false,
                Some(_) => self.receives.armed = false,
                // On its way: then it ends the sleep.
                None => break,
            }
        }
        self.receives.arm();
        if sends {
            self.sends.arm();
        }
    }
}

/// A shared receive queue and its slots.
pub(super) struct Shared {
    pub srq: Arc<Srq>,
    pub area: ReceiveArea,
    pub chain: ReceiveChain,
}

/// The control thread's part of a core's device.
pub(super) struct DeviceControl {
    pub device: Arc<Device>,
    pub sends: Arc<Cq>,
    pub receives: Arc<Cq>,
    pub channel: Arc<CompletionChannel>,
    pub srq: Option<Arc<Srq>>,
    /// Entries of the completion queues that no connection has claimed.
    pub free: Claim,
    /// Connections not yet released.
    pub connections: u32,
    /// The device has been removed.
    pub dead: bool,
}

/// Entries of the two completion queues.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Claim {
    pub sends: u32,
    pub receives: u32,
}

/// Opens the device that `id` is bound to for the core of that index. Registers all of the core's
/// buffers. The device's removal is reported through `channel` with `token`. The cores' interrupts
/// are spread over the device's completion vectors.
pub(super) fn open_device(
    id: &CmId,
    channel: &EventChannel,
    token: u64,
    options: &FabricOptions,
    memory: &Arc<Memory>,
    core: usize,
) -> Result<(DeviceControl, Box<CoreDevice>), RdmaError> {
    let device = Device::of(id, channel, token)?;
    let limits = device.limits();
    let shared_receives = if options.rdma.use_srq {
        options.rdma.srpt_srq_size.min(limits.shared_receives)
    } else {
        0
    };
    let connections = options.connections_max as u32;
    let most = |wanted: u32| wanted.min(COMPLETIONS_MAX).min(limits.completions);
    let free = Claim {
        sends: most(connections.saturating_mul(options.rdma.srpt_sq_size)),
        receives: most(connections.saturating_mul(256).saturating_add(shared_receives)),
    };
    let channel = CompletionChannel::new(&device)?;
    let sends = Cq::new(&device, free.sends, Some(Arc::clone(&channel)), core)?;
    let receives = Cq::new(&device, free.receives, Some(Arc::clone(&channel)), core)?;
    let shared = if shared_receives > 0 {
        Some(open_shared(&device, shared_receives, options.rdma.srp_max_req_size)?)
    } else {
        None
    };
    let unit_stride = (options.rdma.srp_max_rsp_size as usize).next_multiple_of(64);
    let core = CoreDevice {
        sends: Queue::new(&sends),
        receives: Queue::new(&receives),
        channel: Arc::clone(&channel),
        pool: PoolKeys::new(&device, memory)?,
        units: Region::private(&device, unit_stride * options.operations_max)?,
        unit_stride,
        zeroes: Region::private(&device, ZERO_BYTES as usize)?,
        segments: limits.segments.min(SEGMENTS_MAX),
        by_number: Vec::with_capacity(options.connections_max),
        shared,
    };
    let control = DeviceControl {
        device,
        sends,
        receives,
        channel,
        srq: core.shared.as_ref().map(|shared| Arc::clone(&shared.srq)),
        free: Claim { receives: free.receives.saturating_sub(shared_receives), ..free },
        connections: 0,
        dead: false,
    };
    Ok((control, Box::new(core)))
}

fn open_shared(device: &Arc<Device>, slots: u32, bytes: u32) -> Result<Shared, RdmaError> {
    let srq = Srq::new(device, slots)?;
    let mut area = ReceiveArea::new(device, slots, bytes)?;
    let mut chain = ReceiveChain::new(RECEIVE_CHAIN);
    for slot in 0..slots {
        chain.push(WorkId::shared_receive(slot).0, area.local(slot));
        if chain.is_full() {
            srq.post(&mut chain)?;
        }
    }
    srq.post(&mut chain)?;
    Ok(Shared { srq, area, chain })
}

/// What a core needs of an accepted connection.
pub(super) struct Ready {
    pub qp: Qp,
    /// None with a shared receive queue.
    pub receives: Option<ReceiveArea>,
}

/// Makes an accepted connection's queue pair and posts its receives; also what it claims of the
/// completion queues.
pub(super) fn prepare(
    id: &CmId,
    conn: ConnId,
    device: &DeviceControl,
    sends: u32,
    receives: u32,
    iu_bytes_max: u32,
) -> Result<(Ready, Claim), RdmaError> {
    let private = if device.srq.is_some() { 0 } else { receives };
    let segments = device.device.limits().segments.min(SEGMENTS_MAX);
    // Room for the device's own entries; some count them.
    let most = device.device.limits().work_requests.saturating_sub(16).max(16);
    let mut sends = sends.min(most).min(device.free.sends);
    let mut inline = INLINE_BYTES;
    let mut qp = loop {
        if sends < 16 || private > device.free.receives {
            return Err(RdmaError {
                what: "completion queue entries for one more connection",
                reason: std::io::Error::from_raw_os_error(libc::ENOSPC),
            });
        }
        let plan = QpPlan { sends, receives: private, segments, inline };
        let (queues, srq) = ((&device.sends, &device.receives), device.srq.as_ref());
        match Qp::new(id, &device.device, queues.0, queues.1, srq, plan) {
            Ok(qp) => break qp,
            Err(_) if inline > 0 => inline = 0,
            Err(error) if sends / 2 < 16 => return Err(error),
            Err(_) => sends /= 2,
        }
    };
    let receives = match private {
        0 => None,
        slots => Some(post_receives(&mut qp, conn, &device.device, slots, iu_bytes_max)?),
    };
    Ok((Ready { qp, receives }, Claim { sends, receives: private }))
}

fn post_receives(
    qp: &mut Qp,
    conn: ConnId,
    device: &Arc<Device>,
    slots: u32,
    bytes: u32,
) -> Result<ReceiveArea, RdmaError> {
    let mut area = ReceiveArea::new(device, slots, bytes)?;
    let mut chain = ReceiveChain::new(RECEIVE_CHAIN);
    for slot in 0..slots {
        chain.push(WorkId::receive(conn, slot).0, area.local(slot));
        if chain.is_full() {
            qp.post_receive(&mut chain)?;
        }
    }
    qp.post_receive(&mut chain)?;
    Ok(area)
}

/// The number of a work request: whose it is, and its slot. A connection's generation is cut to 14
/// bits, which tells a late completion apart from those of the number's next users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkId(pub u64);

/// What a [`WorkId`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A connection's receive.
    Receive { conn: u32, generation: u32, slot: u32 },
    /// A receive of the device's shared queue.
    SharedReceive { slot: u32 },
    /// A connection's send queue.
    Send { conn: u32, generation: u32 },
    /// A connection's send queue: the peer was asked whether it is there.
    Probe { conn: u32, generation: u32 },
}

impl WorkId {
    const GENERATIONS: u32 = 1 << 14;

    /// The part of a generation that is kept.
    #[inline]
    pub(super) fn short(generation: u32) -> u32 {
        generation % Self::GENERATIONS
    }

    fn new(kind: u64, conn: ConnId, slot: u32) -> Self {
        debug_assert!(slot < 1 << 20 && conn.index < 1 << 28);
        let generation = u64::from(Self::short(conn.generation));
        WorkId(kind << 62 | generation << 48 | u64::from(conn.index) << 20 | u64::from(slot))
    }

    pub(super) fn receive(conn: ConnId, slot: u32) -> Self {
        Self::new(0, conn, slot)
    }

    pub(super) fn shared_receive(slot: u32) -> Self {
        Self::new(1, ConnId { index: 0, generation: 0 }, slot)
    }

    pub(super) fn send(conn: ConnId) -> Self {
        Self::new(2, conn, 0)
    }

    pub(super) fn probe(conn: ConnId) -> Self {
        Self::new(3, conn, 0)
    }

    #[inline]
    pub(super) fn work(self) -> Work {
        let slot = (self.0 & 0xf_ffff) as u32;
        let conn = (self.0 >> 20 & 0xfff_ffff) as u32;
        let generation = (self.0 >> 48 & 0x3fff) as u32;
        match self.0 >> 62 {
            0 => Work::Receive { conn, generation, slot },
            1 => Work::SharedReceive { slot },
            2 => Work::Send { conn, generation },
            _ => Work::Probe { conn, generation },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ids_come_back_whole() {
        let conn = ConnId { index: (1 << 28) - 1, generation: 0x3fff };
        let all = Work::Receive { conn: conn.index, generation: 0x3fff, slot: 0xf_ffff };
        assert_eq!(WorkId::receive(conn, 0xf_ffff).work(), all);
        assert_eq!(WorkId::shared_receive(7).work(), Work::SharedReceive { slot: 7 });
        let conn = ConnId { index: 3, generation: 0x4001 };
        assert_eq!(WorkId::send(conn).work(), Work::Send { conn: 3, generation: 1 });
        assert_eq!(WorkId::probe(conn).work(), Work::Probe { conn: 3, generation: 1 });
    }
}
