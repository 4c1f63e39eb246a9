//! Ports on SRP channels: login, the target's logical units, commands.
//!
//! One SRP command with one direct descriptor per port command. Nothing is allocated per command.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use transport::initiator::{
    Channel, Command as SrpCommand, Connector, Data, DataMemory, Event, Link, LinkError,
    LoginOptions, Scsi, Sense, Session, SubmitError, cdb,
};
use transport::srp::Lun;

use crate::address::port_id;
use crate::port::{Command, Done, Fault, Kind, Port, Unit};

/// Data memory that finding the logical units needs, in bytes.
pub const MEMORY_BYTES_MIN: usize = 64 * 1024;

/// How long a command may take that nobody measures.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait for the target to close channels that were logged out.
const LOGOUT_WAIT: Duration = Duration::from_secs(1);

const GOOD: u8 = 0x00;
const TASK_ABORTED: u8 = 0x40;

/// Who logs in, and to whom.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Identifier extension of the target port.
    pub id_ext: u64,
    /// GUID of the target port: the I/O controller's.
    pub ioc_guid: u64,
    /// Identifier extension of the initiator port. A login ends earlier sessions of the same
    /// initiator port.
    pub initiator_ext: u64,
}

/// Opens `channels` channels of `depth` commands with `memory_bytes` of data memory.
pub fn login<C: Connector>(
    connector: &C,
    identity: &Identity,
    channels: usize,
    depth: u32,
    memory_bytes: usize,
) -> Result<Session<C>> {
    ensure!((1..=64).contains(&channels), "from 1 to 64 channels are needed");
    let initiator = port_id(identity.initiator_ext, u64::from(std::process::id()));
    let target = port_id(identity.id_ext, identity.ioc_guid);
    let mut options = LoginOptions::new(initiator, target);
    // One more for the task management request that every channel keeps room for.
    options.queue_size = depth as usize + 1;
    let memory_bytes = memory_bytes.max(MEMORY_BYTES_MIN);
    Ok(Session::login(connector, &options, channels, memory_bytes)?)
}

/// The target's disks, or those of `wanted`.
pub fn units<C: Connector>(session: &mut Session<C>, wanted: Option<&[u16]>) -> Result<Vec<Unit>> {
    let Session { channels, memory } = session;
    let mut scsi = Scsi::new(&mut channels[0], &*memory, 0..MEMORY_BYTES_MIN, PATIENCE);
    let listed: Vec<u16> = match wanted {
        Some(wanted) => wanted.to_vec(),
        None => {
            let luns = scsi.report_luns().context("REPORT LUNS")?;
            luns.into_iter().filter_map(Lun::number).collect()
        }
    };
    let mut units = Vec::new();
    for lun in listed {
        let id = Lun::from_number(lun).context("a LUN above 16383")?;
        let context = || format!("LUN {lun}");
        // Takes the unit attentions that a login leaves.
        scsi.test_unit_ready(id).with_context(context)?;
        let inquiry = scsi.inquiry(id).with_context(context)?;
        // Qualifier 0 and type 0: a connected direct access block device (SPC-5, 6.7.2).
        if inquiry.first() != Some(&0) {
            ensure!(wanted.is_none(), "LUN {lun} is no disk");
            continue;
        }
        let capacity = scsi.read_capacity16(id).with_context(context)?;
        let block_bytes = capacity.block_bytes;
        ensure!(
            block_bytes.is_power_of_two() && (512..=32768).contains(&block_bytes),
            "LUN {lun} has blocks of {block_bytes} bytes: not supported"
        );
        units.push(Unit { lun, block_bytes, blocks: capacity.blocks });
    }
    if units.is_empty() {
        bail!("the target shows no disk");
    }
    Ok(units)
}

/// A channel with the memory of its session.
pub struct SrpPort<'a, L, M> {
    channel: &'a mut Channel<L>,
    memory: &'a M,
}

impl<'a, L: Link, M: DataMemory> SrpPort<'a, L, M> {
    /// A port on a channel that nobody else uses meanwhile.
    pub fn new(channel: &'a mut Channel<L>, memory: &'a M) -> Self {
        SrpPort { channel, memory }
    }
}

impl<L: Link, M: DataMemory> SrpPort<'_, L, M> {
    #[inline]
    fn submit_cdb(
        &mut self,
        lun: u16,
        cdb: &[u8],
        data: Data<'_>,
        slot: u32,
    ) -> Result<bool, LinkError> {
        let lun = Lun::from_number(lun).expect("LUNs come from the target or were checked");
        match self.channel.submit(&SrpCommand::new(lun, cdb, data, slot.into())) {
            Ok(_) => Ok(true),
            Err(SubmitError::NoCredit) => Ok(false),
            Err(SubmitError::Link(error)) => Err(error),
            Err(error) => unreachable!("64 bytes always fit: {error}"),
        }
    }

    fn submit_unmap(&mut self, command: &Command) -> Result<bool, LinkError> {
        let Command { slot, lun, lba, blocks, offset, .. } = *command;
        let list = cdb::unmap_range(lba, blocks);
        self.memory.write_at(offset, &list);
        let segs = [self.memory.seg(offset, list.len() as u32)];
        self.submit_cdb(lun, &cdb::unmap(list.len() as u16), Data::Out(&segs), slot)
    }
}

impl<L: Link, M: DataMemory> Port for SrpPort<'_, L, M> {
    #[inline]
    fn submit(&mut self, command: &Command) -> Result<bool, LinkError> {
        let Command { slot, kind, lun, lba, blocks, offset, bytes } = *command;
        if kind == Kind::Unmap {
            return self.submit_unmap(command);
        }
        let segs = [self.memory.seg(offset, bytes)];
        let (cdb, data) = match kind {
            Kind::Read => (cdb::read16(lba, blocks), Data::In(&segs)),
            Kind::Write => (cdb::write16(lba, blocks, false), Data::Out(&segs)),
            _ => (cdb::synchronize_cache16(0, 0), Data::None),
        };
        self.submit_cdb(lun, &cdb, data, slot)
    }

    #[inline]
    fn flush(&mut self) -> Result<(), LinkError> {
        self.channel.flush()
    }

    #[inline]
    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), LinkError> {
        let polled = self.channel.poll(|event| match event {
            Event::Done(completion) => {
                let missing = completion.residual.map_or(0, |residual| residual.count);
                let good = completion.status == GOOD && missing == 0;
                let fault = || fault(completion.status, completion.sense, missing);
                let result = if good { Ok(()) } else { Err(fault()) };
                done.push(Done { slot: completion.user as u32, result });
            }
            Event::Aborted { user, .. } => {
                done.push(Done { slot: user as u32, result: Err(fault(TASK_ABORTED, &[], 0)) });
            }
            // The end of the link and missing answers show by themselves.
            Event::TaskMgmt { .. } | Event::Aer { .. } | Event::Logout { .. } => {}
            Event::Protocol(error) => eprintln!("the target broke the protocol: {error}"),
        });
        polled.map(|_| ())
    }
}

#[cold]
fn fault(status: u8, sense: &[u8], residual: u32) -> Fault {
    let (key, asc, ascq) = Sense::new(sense).code().unwrap_or((0, 0, 0));
    Fault { status, key, asc: (asc, ascq), residual }
}

/// Ends a session in order: says so on every channel and waits a moment for the target to close. A
/// target that is gone already is no error.
pub fn logout<C: Connector>(session: &mut Session<C>) {
    let deadline = Instant::now() + LOGOUT_WAIT;
    for channel in &mut session.channels {
        let _ = channel.logout();
    }
    for channel in &mut session.channels {
        while channel.poll(|_| {}).is_ok() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// Keeps this thread on one core.
pub fn pin(cpu: usize) -> Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let allowed = sched_getaffinity(None).context("which cores are allowed")?;
    ensure!(cpu < CpuSet::MAX_CPU && allowed.is_set(cpu), "core {cpu} is not among the allowed");
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("pinning to core {cpu}"))
}
