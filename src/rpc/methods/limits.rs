//! Rate limits and histograms of bdevs.

use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::threads::TICK_RATE;
use super::{BUSY, CORE_SILENT, Method, NO_BDEV, Outcome, change, shared};
use crate::control::meter::{GRANULARITY, Histogram, OpKind, RANGE_MAX, RANGE_MIN};
use crate::control::{Control, Desk, RateLimits, meters};
use crate::rpc::change::{Changed, Undo};
use crate::rpc::error::RpcError;
use crate::rpc::params::{self, BdevName, Bounded, Params};
use crate::rpc::schema::{Rank, fails, gives, member};

pub(super) const METHODS: [Method; 3] = [
    change("bdev_set_qos_limit", Rank::BdevSettings, |desk, params| {
        Box::pin(set_limit(desk, params))
    })
    .doc(
        "Limits the rate of a bdev. At least one limit must be given; what is absent stays as \
             it is.",
    )
    .takes::<LimitParams>()
    .fails(&[NO_BDEV, CORE_SILENT, BUSY])
    .example(r#"{"name":"Null0","rw_ios_per_sec":20000}"#),
    change("bdev_enable_histogram", Rank::BdevSettings, |desk, params| {
        Box::pin(enable_histogram(desk, params))
    })
    .doc("Begins to count how long operations of a bdev take, anew, or stops.")
    .takes::<EnableParams>()
    .fails(&[NO_BDEV, CORE_SILENT, BUSY])
    .example(r#"{"name":"Null0","enable":true,"opc":"read"}"#),
    shared("bdev_get_histogram", |desk, params| Box::pin(histogram(desk, params)))
        .doc(
            "Shows how long operations of a bdev took, in the form that SPDK's histogram.py reads.",
        )
        .takes::<GetParams>()
        .gives(gives("object", "The histogram.").of(&[
            member("histogram", "string", "Counts of the buckets: base64 of 64-bit integers."),
            member("granularity", "integer", "Buckets per power of two, as a power of two."),
            member("min_range", "integer", "Power of two of the shortest time."),
            member("max_range", "integer", "Power of two of the longest time."),
            member("tsc_rate", "integer", "Ticks per second: 1000000000."),
        ]))
        .fails(&[
            NO_BDEV,
            fails(Errno::FAULT, "Times of the bdev are not counted."),
            CORE_SILENT,
            BUSY,
        ])
        .example(r#"{"name":"Malloc0"}"#),
];

/// Reads and writes per second; 0: no limit.
type Ios = Bounded<0, 1_000_000_000>;

/// MiB per second, as SPDK counts its megabytes; 0: no limit.
type Mbytes = Bounded<0, { 1 << 24 }>;

const MBYTE: u64 = 1 << 20;

/// What is absent stays.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LimitParams {
    /// Name or UUID of the bdev.
    name: BdevName,
    /// Reads and writes; 0: no limit.
    #[serde(default)]
    #[schemars(extend("x-unit" = "per second"))]
    rw_ios_per_sec: Option<Ios>,
    /// Bytes read and written; 0: no limit.
    #[serde(default)]
    #[schemars(extend("x-unit" = "MiB per second"))]
    rw_mbytes_per_sec: Option<Mbytes>,
    /// Bytes read; 0: no limit.
    #[serde(default)]
    #[schemars(extend("x-unit" = "MiB per second"))]
    r_mbytes_per_sec: Option<Mbytes>,
    /// Bytes written; 0: no limit.
    #[serde(default)]
    #[schemars(extend("x-unit" = "MiB per second"))]
    w_mbytes_per_sec: Option<Mbytes>,
}

async fn set_limit(desk: &Desk, params: Params<'_>) -> Changed {
    let params: LimitParams = params::parse(params)?;
    let name = params.name.0;
    let bytes = |given: Option<Mbytes>, before| given.map_or(before, |given| given.0 * MBYTE);
    let mbytes = [params.rw_mbytes_per_sec, params.r_mbytes_per_sec, params.w_mbytes_per_sec];
    if params.rw_ios_per_sec.is_none() && mbytes.iter().all(Option::is_none) {
        return Err(RpcError::invalid_params(
            "rw_ios_per_sec, rw_mbytes_per_sec, r_mbytes_per_sec, w_mbytes_per_sec: give at least \
             one, 0 for no limit",
        ));
    }
    let [rw, r, w] = mbytes;
    let limits = |before: RateLimits| RateLimits {
        rw_ios: params.rw_ios_per_sec.map_or(before.rw_ios, |given| given.0),
        rw_bytes: bytes(rw, before.rw_bytes),
        r_bytes: bytes(r, before.r_bytes),
        w_bytes: bytes(w, before.w_bytes),
    };
    let before = meters::set_rate_limits(desk, &name, limits).await?;
    Ok((json!(true), Undo::RateLimits { name, before }))
}

/// Limits by SPDK's names.
fn named(limits: &RateLimits) -> [(&'static str, u64); 4] {
    [
        ("rw_ios_per_sec", limits.rw_ios),
        ("rw_mbytes_per_sec", limits.rw_bytes / MBYTE),
        ("r_mbytes_per_sec", limits.r_bytes / MBYTE),
        ("w_mbytes_per_sec", limits.w_bytes / MBYTE),
    ]
}

/// `assigned_rate_limits` of `bdev_get_bdevs`.
pub(super) fn assigned(limits: &RateLimits) -> Value {
    let all = named(limits).map(|(name, limit)| (name.to_owned(), json!(limit)));
    Value::Object(Map::from_iter(all))
}

/// The calls that would set a bdev's limits and its histogram.
pub(super) fn calls(control: &Control, bdev: &str) -> Vec<(&'static str, Value)> {
    let mut calls = Vec::new();
    let limits = control.rate_limits(bdev);
    if limits.is_on() {
        let mut params = Map::new();
        params.insert("name".to_owned(), json!(bdev));
        let set = named(&limits).into_iter().filter(|(_, limit)| *limit > 0);
        params.extend(set.map(|(name, limit)| (name.to_owned(), json!(limit))));
        calls.push(("bdev_set_qos_limit", Value::Object(params)));
    }
    if let Some(only) = control.histogram_kind(bdev) {
        let mut params = json!({ "name": bdev, "enable": true });
        if let Some(only) = only {
            params["opc"] = json!(Opc::of(only));
        }
        calls.push(("bdev_enable_histogram", params));
    }
    calls
}

/// Kinds of operations by SPDK's names.
#[derive(Deserialize, serde::Serialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Opc {
    Read,
    Write,
    Unmap,
    Flush,
    WriteZeroes,
}

impl Opc {
    const ALL: [(Opc, OpKind); 5] = [
        (Opc::Read, OpKind::Read),
        (Opc::Write, OpKind::Write),
        (Opc::Unmap, OpKind::Unmap),
        (Opc::Flush, OpKind::Flush),
        (Opc::WriteZeroes, OpKind::WriteZeroes),
    ];

    fn of(kind: OpKind) -> Opc {
        let pair = Opc::ALL.into_iter().find(|(_, other)| *other == kind);
        pair.expect("all kinds are there").0
    }

    fn kind(self) -> OpKind {
        Opc::ALL[self as usize].1
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EnableParams {
    /// Name or UUID of the bdev.
    name: BdevName,
    /// True: begin, anew. False: stop.
    enable: bool,
    /// Counts only operations of this kind; all if absent.
    #[serde(default)]
    opc: Option<Opc>,
}

async fn enable_histogram(desk: &Desk, params: Params<'_>) -> Changed {
    let EnableParams { name, enable, opc } = params::parse(params)?;
    let before = meters::enable_histogram(desk, &name.0, enable, opc.map(Opc::kind)).await?;
    Ok((json!(true), Undo::Histogram { name: name.0, before }))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetParams {
    /// Name or UUID of the bdev.
    name: BdevName,
}

/// In the form that SPDK's `histogram.py` reads.
async fn histogram(desk: &Desk, params: Params<'_>) -> Outcome {
    let GetParams { name } = params::parse(params)?;
    let histogram: Histogram = meters::histogram(desk, &name.0).await?;
    let bytes: Vec<u8> = histogram.buckets().iter().flat_map(|count| count.to_le_bytes()).collect();
    Ok(json!({
        "histogram": base64(&bytes),
        "granularity": GRANULARITY,
        "min_range": RANGE_MIN,
        "max_range": RANGE_MAX,
        "tsc_rate": TICK_RATE,
    }))
}

/// RFC 4648, clause 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 0x3f;
            let shown = if digit <= chunk.len() { DIGITS[value as usize] } else { b'=' };
            text.push(char::from(shown));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let texts = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in texts {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
