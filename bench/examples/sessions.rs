//! Many sessions on one target over shared memory: what an idle one costs in memory, and what the
//! target does when a few of them are busy.
//!
//! `sessions SOCKET [SESSIONS] [ACTIVE] [DEPTH] [SECONDS] [PID]` logs in SESSIONS times, each time
//! as another initiator port, then loads ACTIVE of them with 4 KiB random reads of LUN 0.

use std::time::Duration;

use anyhow::{Context, Result};
use reactor::sys::tsc::Tsc;
use srpt_bench::address::port_id;
use srpt_bench::load::{self, Plan};
use srpt_bench::pattern::Workload;
use srpt_bench::port::Unit;
use srpt_bench::report::Report;
use srpt_bench::session::SrpPort;
use transport::initiator::{Channel, Connector, Link, LoginOptions, Scsi, login};
use transport::shm::ShmConnector;
use transport::srp::Lun;

/// Bytes that finding LUN 0 needs.
const SCSI_BYTES: usize = 64 << 10;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| -> Result<usize> {
        arguments.get(at).map_or(Ok(default), |text| text.parse().context(text.clone()))
    };
    let socket = arguments.first().context("the socket of a listener is needed")?;
    let (sessions, active, depth) = (number(1, 1000)?, number(2, 100)?, number(3, 4)?);
    let (seconds, pid) = (number(4, 2)?, number(5, 0)?);
    let connector = ShmConnector::new(socket);
    let memory = connector.memory(SCSI_BYTES.max(active * depth * 4096))?;
    let before = resident_kib(pid);
    let mut channels = Vec::new();
    for number in 0..sessions {
        let initiator = port_id(number as u64 + 1, u64::from(std::process::id()));
        let mut options = LoginOptions::new(initiator, port_id(0, 0));
        options.queue_size = depth + 1;
        let channel = login(&connector, &memory, &options);
        channels.push(channel.with_context(|| format!("login {}", number + 1))?);
    }
    let idle = resident_kib(pid);
    if let (Some(before), Some(after)) = (before, idle) {
        let each = (after - before) as f64 / sessions as f64;
        println!("{sessions} sessions: {before} KiB, then {after} KiB: {each:.1} KiB each");
    }
    let mut units = Vec::new();
    for channel in channels.iter_mut().take(active) {
        let mut scsi = Scsi::new(channel, &memory, 0..SCSI_BYTES, Duration::from_secs(30));
        let lun = Lun::from_number(0).context("LUN 0")?;
        scsi.test_unit_ready(lun)?;
        let capacity = scsi.read_capacity16(lun)?;
        let (block_bytes, blocks) = (capacity.block_bytes, capacity.blocks);
        units = vec![Unit { lun: 0, block_bytes, blocks }];
    }
    if active == 0 {
        return attend(&mut channels, Duration::from_secs(seconds as u64));
    }
    let plan = Plan {
        units,
        sizes: "4k".parse()?,
        workload: Workload::RandRead,
        read_percent: 100,
        depth: depth as u32,
        duration: Duration::from_secs(seconds as u64),
        verify: false,
        seed: 1,
        stop: srpt_bench::interrupt::Interrupt::default(),
    };
    let active_channels = channels.iter_mut().take(active);
    let mut ports: Vec<_> = active_channels.map(|channel| SrpPort::new(channel, &memory)).collect();
    let totals = load::run(&plan, &mut ports, &memory, &Tsc::new(), |_, _| {})?;
    print!("{}", Report::new(&plan, socket, active, &totals).table());
    if let (Some(idle), Some(after)) = (idle, resident_kib(pid)) {
        println!("{active} active: {:.1} KiB more each", (after - idle) as f64 / active as f64);
    }
    Ok(())
}

/// Keeps idle sessions answered for a time; an error when the target ends one of them.
fn attend<L: Link>(channels: &mut [Channel<L>], time: Duration) -> Result<()> {
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end {
        for channel in channels.iter_mut() {
            channel.poll(|_| {})?;
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Resident memory of a process, shared pages included. `None` for process 0.
fn resident_kib(pid: usize) -> Option<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
