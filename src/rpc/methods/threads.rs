//! Cores in SPDK's shape: one reactor per core with one lightweight thread, `srpt_poll_group_NNN`.
//! Times are in ticks of 1 ns.

use std::sync::atomic::Ordering;

use reactor::stats::{CoreStats, Counter};
use serde_json::{Value, json};

use super::{CORE_SILENT, Method, Outcome, locked, shared};
use crate::control::{Control, Desk};
use crate::rpc::params::{self, Params};
use crate::rpc::schema::{Member, gives, member};

pub(super) const METHODS: [Method; 4] = [
    locked("framework_get_reactors", reactors).doc("Shows the cores with their times.").gives(
        gives("object", "The cores.").of(&[
            TICKS,
            member("pid", "integer", "Process id of the target."),
            member("reactors", "array", "One entry per core."),
            member("reactors[].lcore", "integer", "Number of the processor."),
            member("reactors[].numa_id", "integer", "Memory node of the processor."),
            member("reactors[].tid", "integer", "Id of the thread."),
            member("reactors[].busy", "integer", "Ticks in turns that moved something."),
            member("reactors[].idle", "integer", "Ticks in all other turns and asleep."),
            member("reactors[].in_interrupt", "boolean", "The core sleeps until it is woken."),
            member("reactors[].irq", "integer", "Always 0."),
            member("reactors[].sys", "integer", "Time in the kernel, in clock ticks of proc(5)."),
            member("reactors[].usr", "integer", "Time outside, in clock ticks of proc(5)."),
            member("reactors[].lw_threads", "array", "The one lightweight thread of the core."),
            member("reactors[].lw_threads[].name", "string", "Name of the thread."),
            member("reactors[].lw_threads[].id", "integer", "Id of the thread."),
            member("reactors[].lw_threads[].cpumask", "string", "Mask of its processor, in hex."),
            member("reactors[].lw_threads[].elapsed", "integer", "Ticks since the core started."),
        ]),
    ),
    locked("thread_get_stats", thread_stats)
        .doc("Shows busy and idle times of the threads.")
        .gives(gives("object", "The threads.").of(&[
            TICKS,
            member("threads", "array", "One entry per core."),
            member("threads[].name", "string", "Name of the thread."),
            member("threads[].id", "integer", "Id of the thread."),
            member("threads[].cpumask", "string", "Mask of its processor, in hex."),
            member("threads[].busy", "integer", "Ticks in turns that moved something."),
            member("threads[].idle", "integer", "Ticks in all other turns and asleep."),
            member("threads[].active_pollers_count", "integer", "Always 1."),
            member("threads[].timed_pollers_count", "integer", "Always 0."),
            member("threads[].paused_pollers_count", "integer", "Always 0."),
        ])),
    locked("thread_get_pollers", pollers).doc("Shows the pollers of the threads.").gives(
        gives("object", "The threads.").of(&[
            TICKS,
            member("threads", "array", "One entry per core."),
            member("threads[].name", "string", "Name of the thread."),
            member("threads[].id", "integer", "Id of the thread."),
            member("threads[].active_pollers", "array", "The one poller of the core."),
            member("threads[].active_pollers[].name", "string", "Name of the poller."),
            member("threads[].active_pollers[].id", "integer", "Id of the poller."),
            member("threads[].active_pollers[].state", "string", "Always `waiting`."),
            member("threads[].active_pollers[].run_count", "integer", "Turns."),
            member("threads[].active_pollers[].busy_count", "integer", "Turns that did something."),
            member("threads[].timed_pollers", "array", "Always empty."),
            member("threads[].paused_pollers", "array", "Always empty."),
        ]),
    ),
    shared("thread_get_io_channels", |desk, params| Box::pin(io_channels(desk, params)))
        .doc("Shows the I/O channels of the threads.")
        .gives(gives("object", "The threads.").of(&[
            TICKS,
            member("threads", "array", "One entry per core."),
            member("threads[].name", "string", "Name of the thread."),
            member("threads[].io_channels", "array", "`srpt_tgt`, and each open bdev."),
            member("threads[].io_channels[].name", "string", "Name of the device."),
            member("threads[].io_channels[].ref", "integer", "Always 1."),
        ]))
        .fails(&[CORE_SILENT]),
];

/// Of answers with times.
pub(super) const TICKS: Member = member("tick_rate", "integer", "Ticks per second: 1000000000.");

/// Ticks per second of all times in answers.
pub(super) const TICK_RATE: u64 = 1_000_000_000;

/// Name of the lightweight thread of a core.
pub(super) fn thread_name(core: usize) -> String {
    format!("srpt_poll_group_{core:03}")
}

/// Number of the lightweight thread of a core.
pub(super) fn thread_id(core: usize) -> usize {
    core + 1
}

fn cpumask(cpu: usize) -> String {
    format!("{:x}{}", 1 << (cpu % 4), "0".repeat(cpu / 4))
}

fn reactors(control: &mut Control, params: Params<'_>) -> Outcome {
    params::none("framework_get_reactors", params)?;
    let reactors: Vec<Value> = control
        .stats()
        .iter()
        .enumerate()
        .map(|(core, (cpu, stats))| reactor(core, *cpu, stats))
        .collect();
    Ok(json!({ "tick_rate": TICK_RATE, "pid": std::process::id(), "reactors": reactors }))
}

fn reactor(core: usize, cpu: usize, stats: &CoreStats) -> Value {
    let (busy, idle) = (stats.busy_ns.value(), stats.idle_ns.value());
    let tid = stats.tid.load(Ordering::Relaxed);
    let (usr, sys) = processor_time(tid);
    json!({
        "lcore": cpu,
        "numa_id": numa_node(cpu),
        "tid": tid,
        "busy": busy,
        "idle": idle,
        "in_interrupt": stats.asleep.load(Ordering::Relaxed),
        "irq": 0,
        "sys": sys,
        "usr": usr,
        "lw_threads": [{
            "name": thread_name(core),
            "id": thread_id(core),
            "cpumask": cpumask(cpu),
            "elapsed": busy + idle,
        }],
    })
}

/// User and system time of a kernel thread in clock ticks (proc(5), fields 14 and 15 of `stat`).
/// Zeros for a thread that does not run.
fn processor_time(tid: i32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap_or_default();
    // The second field is a name in parentheses that may hold anything.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = rest.split_ascii_whitespace().skip(11).map(|field| field.parse().unwrap_or(0));
    (fields.next().unwrap_or(0), fields.next().unwrap_or(0))
}

/// The memory node of a processor; 0 where the system doesn't say.
fn numa_node(cpu: usize) -> u32 {
    std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}"))
        .into_iter()
        .flatten()
        .flatten()
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
        .unwrap_or(0)
}

fn threads(control: &Control, thread: impl Fn(usize, usize, &CoreStats) -> Value) -> Value {
    let threads: Vec<Value> = control
        .stats()
        .iter()
        .enumerate()
        .map(|(core, (cpu, stats))| thread(core, *cpu, stats))
        .collect();
    json!({ "tick_rate": TICK_RATE, "threads": threads })
}

fn thread_stats(control: &mut Control, params: Params<'_>) -> Outcome {
    params::none("thread_get_stats", params)?;
    Ok(threads(control, |core, cpu, stats| {
        json!({
            "name": thread_name(core),
            "id": thread_id(core),
            "cpumask": cpumask(cpu),
            "busy": stats.busy_ns.value(),
            "idle": stats.idle_ns.value(),
            "active_pollers_count": 1,
            "timed_pollers_count": 0,
            "paused_pollers_count": 0,
        })
    }))
}

fn pollers(control: &mut Control, params: Params<'_>) -> Outcome {
    params::none("thread_get_pollers", params)?;
    Ok(threads(control, |core, _, stats| {
        let turns = stats.turns.value();
        json!({
            "name": thread_name(core),
            "id": thread_id(core),
            "active_pollers": [{
                "name": "srpt_poll_group_poll",
                "id": 1,
                "state": "waiting",
                "run_count": turns,
                "busy_count": busy_turns(stats),
            }],
            "timed_pollers": [],
            "paused_pollers": [],
        })
    }))
}

/// Turns that moved something.
fn busy_turns(stats: &CoreStats) -> u64 {
    stats.busy_turns.iter().map(Counter::value).sum()
}

async fn io_channels(desk: &Desk, params: Params<'_>) -> Outcome {
    params::none("thread_get_io_channels", params)?;
    let threads: Vec<Value> = desk
        .reports()
        .await?
        .iter()
        .enumerate()
        .map(|(core, report)| {
            let bdevs = report.bdevs.iter().map(|(name, _)| name.as_str());
            let channels: Vec<Value> = std::iter::once("srpt_tgt")
                .chain(bdevs)
                .map(|name| json!({ "name": name, "ref": 1 }))
                .collect();
            json!({ "name": thread_name(core), "io_channels": channels })
        })
        .collect();
    Ok(json!({ "tick_rate": TICK_RATE, "threads": threads }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_one_bit_whatever_the_processor() {
        let masks: Vec<String> = [0, 3, 4, 70].into_iter().map(cpumask).collect();
        assert_eq!(masks, ["1", "8", "10", "400000000000000000"]);
    }

    #[test]
    fn a_thread_that_does_not_run_has_no_time() {
        assert_eq!(processor_time(0), (0, 0));
    }
}
