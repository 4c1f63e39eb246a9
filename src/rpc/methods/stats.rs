//! Resources and events of the cores.

use reactor::stats::{CoreStats, turn_ns_end};
use serde_json::{Map, Value, json};
use transport::CloseReason;

use super::{CORE_SILENT, Method, Outcome, shared};
use crate::control::Desk;
use crate::rpc::params::{self, Params};
use crate::rpc::schema::{gives, member};
use crate::shard::message::Report;

pub(super) const METHODS: [Method; 2] = [
    shared("iobuf_get_stats", |desk, params| Box::pin(iobuf(desk, params)))
        .doc("Shows free I/O buffers of all cores together.")
        .gives(gives("array", "One entry.").of(&[
            member("[].module", "string", "Always `srpt`."),
            member("[].small_pool", "object", "Buffers of the smallest size."),
            member("[].small_pool.cache", "integer", "Always 0."),
            member("[].small_pool.main", "integer", "Free buffers."),
            member("[].small_pool.retry", "integer", "Information units that wait."),
            member("[].small_pool.cache_size", "integer", "Always 0."),
            member("[].large_pool", "object", "Buffers of all other sizes."),
            member("[].large_pool.cache", "integer", "Always 0."),
            member("[].large_pool.main", "integer", "Free buffers."),
            member("[].large_pool.retry", "integer", "Always 0."),
            member("[].large_pool.cache_size", "integer", "Always 0."),
        ]))
        .fails(&[CORE_SILENT]),
    shared("srpt_get_stats", |desk, params| Box::pin(stats(desk, params)))
        .doc("Shows buffers, slots and counters of every core.")
        .gives(gives("object", "The cores.").of(&[
            member("cores", "array", "One entry per core."),
            member("cores[].core", "integer", "Number of the core, from 0."),
            member("cores[].lcore", "integer", "Number of its processor."),
            member("cores[].busy_turns", "array", "Turns that moved something, by length."),
            member("cores[].busy_turns[].below_ns", "integer", "Shorter than this; null: any."),
            member("cores[].busy_turns[].turns", "integer", "How many, besides those before."),
            member("cores[].channels", "integer", "Channels of the core."),
            member("cores[].buffers", "array", "Buffers by size."),
            member("cores[].buffers[].bytes", "integer", "Bytes of a buffer."),
            member("cores[].buffers[].total", "integer", "Buffers there are."),
            member("cores[].buffers[].free", "integer", "Buffers that are free."),
            member("cores[].slots", "object", "Slots for commands."),
            member("cores[].slots.total", "integer", "Slots there are."),
            member("cores[].slots.used", "integer", "Slots in use."),
            member("cores[].waiting", "integer", "IUs that wait for a slot or buffers."),
            member("cores[].closed", "object", "Connections that ended, by reason."),
            member("cores[].closed.*", "integer", "How many ended for this reason."),
            member("cores[].counters", "object", "What went wrong."),
            member("cores[].counters.*", "integer", "How often."),
        ]))
        .fails(&[CORE_SILENT]),
];

/// Buffers in SPDK's shape: `small_pool` is the smallest size class, `large_pool` all others.
/// `main` counts free buffers (each core has its own: nothing is cached apart), `retry` what waits.
async fn iobuf(desk: &Desk, params: Params<'_>) -> Outcome {
    params::none("iobuf_get_stats", params)?;
    let reports = desk.reports().await?;
    let free = |from: usize, to: usize| -> u64 {
        let classes = |report: &Report| -> u64 {
            let classes = report.buffers.iter().skip(from).take(to - from);
            classes.map(|class| u64::from(class.free)).sum()
        };
        reports.iter().map(classes).sum()
    };
    let waiting: u64 = reports.iter().map(|report| u64::from(report.waiting)).sum();
    Ok(json!([{
        "module": "srpt",
        "small_pool": { "cache": 0, "main": free(0, 1), "retry": waiting, "cache_size": 0 },
        "large_pool": { "cache": 0, "main": free(1, usize::MAX), "retry": 0, "cache_size": 0 },
    }]))
}

/// Per core: turns that moved something by their length, buffers of each size, request slots,
/// information units that wait for either, connections closed by reason, and named counters of
/// what went wrong.
async fn stats(desk: &Desk, params: Params<'_>) -> Outcome {
    params::none("srpt_get_stats", params)?;
    let reports = desk.reports().await?;
    let counters = desk.with(|control| control.stats().to_vec());
    let cores: Vec<Value> = reports
        .iter()
        .enumerate()
        .map(|(core, report)| {
            let (cpu, stats) = counters.get(core).map(|(cpu, stats)| (*cpu, stats)).unzip();
            let turns = stats.map_or_else(Vec::new, |stats| busy_turns(stats));
            self::core(core, cpu, turns, report)
        })
        .collect();
    Ok(json!({ "cores": cores }))
}

/// What others waited for on a core: how many turns were shorter than so many nanoseconds, and not
/// shorter than the entry before says. Lengths without a turn are left out; the last has no end.
fn busy_turns(stats: &CoreStats) -> Vec<Value> {
    let lengths = stats.busy_turns.iter().map(|count| count.value()).enumerate();
    let some = lengths.filter(|(_, turns)| *turns > 0);
    some.map(|(at, turns)| json!({ "below_ns": turn_ns_end(at), "turns": turns })).collect()
}

fn core(core: usize, cpu: Option<usize>, busy_turns: Vec<Value>, report: &Report) -> Value {
    let buffers: Vec<Value> = report
        .buffers
        .iter()
        .map(|class| json!({ "bytes": class.bytes, "total": class.total, "free": class.free }))
        .collect();
    let closed = report.closed.iter().map(|(reason, count)| (*reason, *count));
    let closed: Map<String, Value> =
        closed.map(|(reason, count)| (reason_name(reason).to_owned(), json!(count))).collect();
    let counters: Map<String, Value> =
        report.counters.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect();
    json!({
        "core": core,
        "lcore": cpu,
        "busy_turns": busy_turns,
        "channels": report.channels.len(),
        "buffers": buffers,
        "slots": { "total": report.slots_total, "used": report.slots_used },
        "waiting": report.waiting,
        "closed": closed,
        "counters": counters,
    })
}

fn reason_name(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::PeerGone => "peer_gone",
        CloseReason::Local => "local",
        CloseReason::Protocol => "protocol",
        CloseReason::RemoteAccess => "remote_access",
        CloseReason::Link => "link",
    }
}
