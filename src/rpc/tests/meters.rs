//! Rate limits, counts and histograms.

use serde_json::json;

use crate::control::meter::{BUCKETS, Histogram};
use crate::rpc::testing::Bench;
use crate::shard::message::{IoCounts, Report};

fn counts(read_ops: u64) -> IoCounts {
    IoCounts { read_ops, ..IoCounts::default() }
}

#[test]
fn limits_are_shown_kept_and_taken_away_one_by_one() {
    let bench = Bench::with_target();
    let shown = |bench: &Bench| {
        bench.ok("bdev_get_bdevs", r#"{"name":"Null0"}"#)[0]["assigned_rate_limits"].clone()
    };
    bench.ok("bdev_set_qos_limit", r#"{"name":"Null0","rw_ios_per_sec":1,"r_mbytes_per_sec":5}"#);
    bench.ok("bdev_set_qos_limit", r#"{"name":"Null0","rw_mbytes_per_sec":9}"#);
    assert_eq!(
        shown(&bench),
        json!({
            "rw_ios_per_sec": 1,
            "rw_mbytes_per_sec": 9,
            "r_mbytes_per_sec": 5,
            "w_mbytes_per_sec": 0,
        })
    );
    let actions = bench.actions();
    assert_eq!(actions[0], r#"0: RateLimits { bdev: "Null0", limited: true }"#);
    bench.ok(
        "bdev_set_qos_limit",
        r#"{"name":"Null0","rw_ios_per_sec":0,"rw_mbytes_per_sec":0,"r_mbytes_per_sec":0}"#,
    );
    assert!(bench.actions().contains(&r#"1: RateLimits { bdev: "Null0", limited: false }"#.into()));
    assert!(!bench.saved().to_string().contains("qos"));
}

#[test]
fn limits_of_a_base_hold_for_the_bdev_over_it() {
    let bench = Bench::new();
    bench.ok("bdev_null_create", r#"{"name":"N","num_blocks":64,"block_size":512}"#);
    bench.ok("bdev_passthru_create", r#"{"name":"P","base_bdev_name":"N"}"#);
    bench.ok("bdev_set_qos_limit", r#"{"name":"P","rw_ios_per_sec":20}"#);
    bench.ok("srpt_create_target", r#"{"name":"t"}"#);
    bench.ok("srpt_map_lun", r#"{"target":"t","bdev_name":"P"}"#);
    bench.actions();
    bench.ok("bdev_set_qos_limit", r#"{"name":"N","rw_ios_per_sec":10}"#);
    assert_eq!(bench.actions()[0], r#"0: RateLimits { bdev: "P", limited: true }"#);
    let limits = bench.with(|control| control.targets()[0].luns()[&0].unit().limiter.limits());
    assert_eq!(limits.rw_ios, 10);
}

#[test]
fn wrong_limits_name_the_member_and_its_range() {
    let bench = Bench::with_target();
    for (params, code, words) in [
        (r#"{"name":"Null0"}"#, -32602, "give at least one"),
        (
            r#"{"name":"Null0","rw_ios_per_sec":1000000001}"#,
            -32602,
            "rw_ios_per_sec: 1000000001 is not in 0..=1000000000",
        ),
        (r#"{"name":"Null0","w_mbytes_per_sec":-1}"#, -32602, "w_mbytes_per_sec: -1 is not in"),
        (r#"{"name":"Null0","iops":1}"#, -32602, "unknown field `iops`"),
        (r#"{"name":"a\u0007b","rw_ios_per_sec":1}"#, -32602, "name: \"a\\u{7}b\" is not 1 to"),
        (r#"{"name":"Nope","rw_ios_per_sec":1}"#, -19, "bdev Nope"),
    ] {
        let error = bench.fail("bdev_set_qos_limit", params);
        assert_eq!(error.code, code, "{params}");
        assert!(error.message.contains(words), "{}", error.message);
    }
    let error = bench.fail("bdev_enable_histogram", r#"{"name":"Null0","enable":true,"opc":"x"}"#);
    assert!(error.message.contains("opc: unknown variant `x`"), "{}", error.message);
    assert_eq!(bench.actions(), [""; 0]);
}

#[test]
fn counts_stay_when_a_lun_goes() {
    let bench = Bench::with_target();
    let reads = |bench: &Bench| {
        bench.ok("bdev_get_iostat", r#"{"name":"Null0"}"#)["bdevs"][0]["num_read_ops"].clone()
    };
    let report = |n| Report { bdevs: vec![("Null0".to_owned(), counts(n))], ..Report::default() };
    bench.seen.lock().unwrap().reports = vec![report(5), report(6)];
    assert_eq!(reads(&bench), 11);
    bench.ok("srpt_unmap_lun", r#"{"target":"t0","lun":0}"#);
    bench.seen.lock().unwrap().reports.clear();
    assert_eq!(reads(&bench), 11);
    bench.ok("bdev_reset_iostat", r#"{"name":"Null0","mode":"maxmin"}"#);
    assert_eq!(reads(&bench), 11);
    bench.ok("bdev_reset_iostat", "");
    assert_eq!(reads(&bench), 0);
}

#[test]
fn a_histogram_is_the_sum_of_all_cores() {
    let bench = Bench::with_target();
    assert_eq!(bench.fail("bdev_get_histogram", r#"{"name":"Null0"}"#).code, -14);
    bench.ok("bdev_enable_histogram", r#"{"name":"Null0","enable":true}"#);
    let histogram = || {
        let histogram = Some(Box::new(Histogram::new(None)));
        let mut meter = crate::control::meter::Meter { histogram, ..Default::default() };
        meter.count(&bdev::IoOp::Flush, 512, bdev::IoStatus::Good, 33);
        Report { histogram: meter.histogram, ..Report::default() }
    };
    bench.seen.lock().unwrap().reports = vec![histogram(), histogram()];
    let shown = bench.ok("bdev_get_histogram", r#"{"name":"Null0"}"#);
    let text = shown["histogram"].as_str().expect("text");
    assert_eq!(text.len(), BUCKETS * 8 / 3 * 4);
    // Bucket 1 is 2: bytes 8 to 15.
    assert!(text.starts_with("AAAAAAAAAAACAAAA"), "{}", &text[..20]);
    for (member, value) in
        [("granularity", 7), ("min_range", 5), ("max_range", 28), ("tsc_rate", 1_000_000_000)]
    {
        assert_eq!(shown[member], value);
    }
}
