//! A bdev has one user: a bdev over it, or the logical unit that shows it.

use serde_json::json;

use crate::rpc::testing::Bench;

const OVER: [(&str, &str, &str); 3] = [
    (
        "bdev_passthru_create",
        r#"{"base_bdev_name":"B","name":"Over"}"#,
        r#"{"base_bdev_name":"B","name":"Over2"}"#,
    ),
    (
        "bdev_delay_create",
        r#"{"base_bdev_name":"B","name":"Over","avg_read_latency":1,"p99_read_latency":1,
            "avg_write_latency":1,"p99_write_latency":1}"#,
        r#"{"base_bdev_name":"B","name":"Over2","avg_read_latency":1,"p99_read_latency":1,
            "avg_write_latency":1,"p99_write_latency":1}"#,
    ),
    ("bdev_error_create", r#"{"base_name":"B"}"#, r#"{"base_name":"B","uuid":null}"#),
];

fn with_base() -> Bench {
    let bench = Bench::new();
    bench.ok("bdev_null_create", r#"{"name":"B","num_blocks":64,"block_size":512}"#);
    bench.ok("srpt_create_target", r#"{"name":"t0"}"#);
    bench.ok("srpt_create_target", r#"{"name":"t1"}"#);
    bench
}

const MAP: &str = r#"{"target":"t0","bdev_name":"B"}"#;

#[test]
fn what_is_below_another_bdev_can_be_neither_mapped_nor_used_again() {
    for (first, params, second) in OVER {
        let bench = with_base();
        bench.ok(first, params);
        bench.actions();
        let saved = bench.saved();
        let refused = bench.fail("srpt_map_lun", MAP);
        assert_eq!(refused.code, -16, "{refused}");
        assert!(refused.message.contains("bdev B is in use by"), "{refused}");
        for (method, _, params) in OVER {
            let refused = bench.fail(method, params);
            // The second error bdev would have the name of the first, too.
            let expected = [-16, if method == "bdev_error_create" { -17 } else { -16 }];
            assert!(expected.contains(&refused.code), "{method} over {first}: {refused}");
        }
        let refused = bench.fail(first, second);
        assert!([-16, -17].contains(&refused.code), "{refused}");
        assert_eq!(bench.fail("bdev_null_delete", r#"{"name":"B"}"#).code, -16);
        assert_eq!((bench.saved(), bench.actions()), (saved, Vec::new()), "nothing has changed");
        let delete = format!("{}_delete", first.strip_suffix("_create").expect("a create"));
        let name = if first == "bdev_error_create" { "EE_B" } else { "Over" };
        bench.ok(&delete, &json!({ "name": name }).to_string());
        bench.ok("srpt_map_lun", MAP);
    }
}

#[test]
fn what_is_mapped_can_be_below_no_bdev() {
    for read_only in [false, true] {
        let bench = with_base();
        let map = json!({ "target": "t0", "bdev_name": "B", "read_only": read_only });
        bench.ok("srpt_map_lun", &map.to_string());
        let bdev = bench.ok("bdev_get_bdevs", r#"{"name":"B"}"#)[0].clone();
        assert_eq!(
            (&bdev["claimed"], &bdev["claim_type"]),
            (&json!(true), &json!("exclusive_write"))
        );
        for (method, params, _) in OVER {
            let refused = bench.fail(method, params);
            assert_eq!(refused.code, -16, "{method}: {refused}");
            assert!(refused.message.contains("LUN 0 of target t0"), "{method}: {refused}");
        }
        let refused = bench.fail("bdev_null_delete", r#"{"name":"B"}"#);
        assert!(refused.message.contains("LUN 0 of target t0"), "{refused}");
        bench.ok("srpt_unmap_lun", r#"{"target":"t0","lun":0}"#);
        let bdev = bench.ok("bdev_get_bdevs", r#"{"name":"B"}"#)[0].clone();
        assert_eq!(bdev["claimed"], json!(false));
        bench.ok("bdev_error_create", r#"{"base_name":"B"}"#);
    }
}

/// Targets share the logical unit of a bdev: its reservations and its identity are one.
#[test]
fn two_targets_on_one_bdev_are_one_user() {
    let bench = with_base();
    bench.ok("srpt_map_lun", MAP);
    bench.ok("srpt_map_lun", r#"{"target":"t1","bdev_name":"B","lun":5}"#);
    let unit = |target: usize, lun: u16| {
        bench.with(move |control| control.targets()[target].luns()[&lun].unit().id)
    };
    assert_eq!(unit(0, 0), unit(1, 5));
    for (target, lun) in [("t0", 0), ("t1", 5)] {
        assert_eq!(bench.fail("bdev_passthru_create", OVER[0].1).code, -16);
        let place = json!({ "target": target, "lun": lun });
        bench.actions();
        bench.ok("srpt_unmap_lun", &place.to_string());
        let closed = bench.actions().iter().any(|action| action.ends_with("close B"));
        assert_eq!(closed, target == "t1", "the last one closes it");
    }
    bench.ok("bdev_passthru_create", OVER[0].1);
}

#[test]
fn a_unit_is_announced_to_all_cores_before_one_shows_it() {
    let bench = with_base();
    bench.refuse("map");
    bench.fail("srpt_map_lun", MAP);
    let announced = std::mem::take(&mut bench.seen.lock().unwrap().announced);
    assert_eq!(announced, ["0: announce t0 0 B unit 1", "1: announce t0 0 B unit 1"]);
}

#[test]
fn a_map_that_fails_leaves_no_claim() {
    let bench = with_base();
    bench.refuse("map");
    bench.actions();
    assert_eq!(bench.fail("srpt_map_lun", MAP).code, -5);
    let undone = ["0: unmap t0 0", "0: close B"];
    assert_eq!(bench.actions()[2..], undone, "only core 0 had it");
    bench.ok("bdev_passthru_create", OVER[0].1);
}
