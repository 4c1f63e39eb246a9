//! I/O counts of bdevs, summed over the cores or per core.

use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::threads::{TICK_RATE, TICKS, thread_id};
use super::{CORE_SILENT, Method, NO_BDEV, Outcome, shared};
use crate::control::{Control, Desk, meters};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, BdevName, Params};
use crate::rpc::schema::{Member, gives, member};
use crate::shard::message::{IoCounts, Report};

pub(super) const METHODS: [Method; 2] = [
    shared("bdev_get_iostat", |desk, params| Box::pin(iostat(desk, params)))
        .doc("Shows I/O counts of bdevs since they were started anew, for all cores or per core.")
        .takes::<IostatParams>()
        .gives(gives("object", "The counts.").of(COUNTS))
        .fails(&[NO_BDEV, CORE_SILENT])
        .example(r#"{"name":"Null0"}"#),
    shared("bdev_reset_iostat", |desk, params| Box::pin(reset(desk, params)))
        .doc("Starts I/O counts of all bdevs, or of one, anew.")
        .takes::<ResetParams>()
        .fails(&[NO_BDEV, CORE_SILENT])
        .example(r#"{"name":"Null0","mode":"maxmin"}"#),
];

/// Counts of a bdev are described once, as those of all cores.
const COUNTS: &[Member] = &[
    TICKS,
    member("ticks", "integer", "Ticks of a clock: only differences mean anything."),
    member("bdevs", "array", "One entry per bdev, unless `per_channel` is true."),
    member("bdevs[].name", "string", "Name of the bdev."),
    member("bdevs[].bytes_read", "integer", "Bytes read."),
    member("bdevs[].num_read_ops", "integer", "Reads."),
    member("bdevs[].bytes_written", "integer", "Bytes written."),
    member("bdevs[].num_write_ops", "integer", "Writes."),
    member("bdevs[].bytes_unmapped", "integer", "Bytes unmapped."),
    member("bdevs[].num_unmap_ops", "integer", "Unmaps."),
    member("bdevs[].bytes_copied", "integer", "Always 0."),
    member("bdevs[].num_copy_ops", "integer", "Always 0."),
    member("bdevs[].read_latency_ticks", "integer", "Ticks that all reads took together."),
    member("bdevs[].max_read_latency_ticks", "integer", "Ticks of the longest read."),
    member("bdevs[].min_read_latency_ticks", "integer", "Ticks of the shortest read."),
    member("bdevs[].write_latency_ticks", "integer", "Ticks that all writes took together."),
    member("bdevs[].max_write_latency_ticks", "integer", "Ticks of the longest write."),
    member("bdevs[].min_write_latency_ticks", "integer", "Ticks of the shortest write."),
    member("bdevs[].unmap_latency_ticks", "integer", "Ticks that all unmaps took together."),
    member("bdevs[].max_unmap_latency_ticks", "integer", "Ticks of the longest unmap."),
    member("bdevs[].min_unmap_latency_ticks", "integer", "Ticks of the shortest unmap."),
    member("bdevs[].copy_latency_ticks", "integer", "Always 0."),
    member("bdevs[].max_copy_latency_ticks", "integer", "Always 0."),
    member("bdevs[].min_copy_latency_ticks", "integer", "Always 0."),
    member("bdevs[].io_error", "object", "`failed`: operations that failed, if any did."),
    member("name", "string", "Name of the bdev, if `per_channel` is true."),
    member(
        "channels",
        "array",
        "If `per_channel` is true, one entry per core: `thread_id`, and the counts of `bdevs[]`.",
    ),
];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ResetMode {
    #[default]
    None,
    All,
    Maxmin,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct IostatParams {
    /// Shows only the bdev of this name or UUID.
    #[serde(default)]
    name: Option<BdevName>,
    /// Shows only the bdevs of these names or UUIDs. Not together with `name`.
    #[serde(default)]
    names: Option<Vec<BdevName>>,
    /// Shows the counts of each core; for exactly one bdev.
    #[serde(default)]
    per_channel: bool,
    /// What is started anew once it has been shown: all counts, or only the longest and shortest
    /// times.
    #[serde(default)]
    reset_mode: ResetMode,
}

async fn iostat(desk: &Desk, params: Params<'_>) -> Outcome {
    let params: IostatParams = params::parse(params)?;
    if params.name.is_some() && params.names.is_some() {
        return Err(RpcError::invalid_params("name: names is there too; give one of them"));
    }
    let wanted = params.name.map(|name| vec![name]).or(params.names);
    let names = desk.with(|control| names(control, wanted))?;
    if params.per_channel && names.len() != 1 {
        return Err(RpcError::invalid_params(
            "per_channel: it needs exactly one bdev in name or names",
        ));
    }
    let reports = desk.reports().await?;
    if params.reset_mode != ResetMode::None {
        let sums = params.reset_mode == ResetMode::All;
        meters::reset_io_counts(desk, names.clone(), sums).await?;
    }
    let mut answer = Map::new();
    answer.insert("tick_rate".to_owned(), json!(TICK_RATE));
    answer.insert("ticks".to_owned(), json!(ticks()));
    if params.per_channel {
        let channels: Vec<Value> = per_core(&reports, &names[0])
            .map(|(core, counts)| {
                members([("thread_id".to_owned(), json!(thread_id(core)))], &counts)
            })
            .collect();
        answer.insert("name".to_owned(), json!(names[0]));
        answer.insert("channels".to_owned(), json!(channels));
    } else {
        let bdevs: Vec<Value> = names
            .iter()
            .map(|name| {
                let mut sum = desk.with(|control| control.past_counts(name));
                per_core(&reports, name).for_each(|(_, counts)| sum.add(&counts));
                members([("name".to_owned(), json!(name))], &sum)
            })
            .collect();
        answer.insert("bdevs".to_owned(), json!(bdevs));
    }
    Ok(Value::Object(answer))
}

/// The names of those that are wanted, or of all.
fn names(control: &Control, wanted: Option<Vec<BdevName>>) -> Result<Vec<String>, RpcError> {
    let Some(wanted) = wanted else {
        return Ok(control.bdevs().iter().map(|(bdev, _)| bdev.name().to_owned()).collect());
    };
    wanted.iter().map(|name| Ok(control.bdev(&name.0)?.name().to_owned())).collect()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ResetParams {
    /// Only the bdev of this name or UUID; all if absent.
    #[serde(default)]
    name: Option<BdevName>,
    /// What is started anew: all counts, or only the longest and shortest times.
    #[serde(default = "all")]
    mode: ResetMode,
}

fn all() -> ResetMode {
    ResetMode::All
}

/// Of one bdev, or of all.
async fn reset(desk: &Desk, params: Params<'_>) -> Outcome {
    let ResetParams { name, mode } = params::parse(params)?;
    let names = desk.with(|control| names(control, name.map(|name| vec![name])))?;
    match mode {
        ResetMode::None => {}
        ResetMode::All => meters::reset_io_counts(desk, names, true).await?,
        ResetMode::Maxmin => meters::reset_io_counts(desk, names, false).await?,
    }
    Ok(json!(true))
}

/// Nanoseconds of the wall clock: only differences mean anything.
fn ticks() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn per_core<'a>(
    reports: &'a [Report],
    name: &'a str,
) -> impl Iterator<Item = (usize, IoCounts)> + 'a {
    reports.iter().enumerate().flat_map(move |(core, report)| {
        let of_name = report.bdevs.iter().filter(move |(bdev, _)| bdev == name);
        of_name.map(move |(_, counts)| (core, *counts))
    })
}

fn members<const N: usize>(first: [(String, Value); N], counts: &IoCounts) -> Value {
    let numbers = [
        ("bytes_read", counts.bytes_read),
        ("num_read_ops", counts.read_ops),
        ("bytes_written", counts.bytes_written),
        ("num_write_ops", counts.write_ops),
        ("bytes_unmapped", counts.bytes_unmapped),
        ("num_unmap_ops", counts.unmap_ops),
        ("bytes_copied", 0),
        ("num_copy_ops", 0),
        ("read_latency_ticks", counts.read_ns),
        ("max_read_latency_ticks", counts.read_ns_max),
        ("min_read_latency_ticks", counts.read_ns_min),
        ("write_latency_ticks", counts.write_ns),
        ("max_write_latency_ticks", counts.write_ns_max),
        ("min_write_latency_ticks", counts.write_ns_min),
        ("unmap_latency_ticks", counts.unmap_ns),
        ("max_unmap_latency_ticks", counts.unmap_ns_max),
        ("min_unmap_latency_ticks", counts.unmap_ns_min),
        ("copy_latency_ticks", 0),
        ("max_copy_latency_ticks", 0),
        ("min_copy_latency_ticks", 0),
    ];
    let errors = match counts.errors {
        0 => json!({}),
        failed => json!({ "failed": failed }),
    };
    let mut object = Map::from_iter(first);
    object.extend(numbers.map(|(name, number)| (name.to_owned(), json!(number))));
    object.insert("io_error".to_owned(), errors);
    Value::Object(object)
}
