//! Ten thousand bdevs: what is done to each takes no longer because there are many.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rpc::testing::Bench;

/// The names of a life: made, mapped, looked at, saved, loaded, unmapped, deleted.
const STEPS: [&str; 7] = ["create", "map", "find", "save", "load", "unmap", "delete"];

/// How long each step takes for `count` bdevs, every fourth with a limit.
fn life(count: usize) -> [Duration; 7] {
    let bench = Bench::new();
    let last = std::cell::Cell::new(Instant::now());
    let lap = || last.replace(Instant::now()).elapsed();
    let name = |number: usize| json!({ "name": format!("Bdev{number}") }).to_string();
    bench.ok("srpt_create_target", r#"{"name":"t"}"#);
    let each = |run: &dyn Fn(usize)| {
        (0..count).for_each(run);
        lap()
    };
    let create = each(&|number| {
        let mut params = json!({ "num_blocks": 8, "block_size": 512 });
        // Names that are given and names that are asked for.
        if number % 2 == 0 {
            params["name"] = json!(format!("Bdev{number}"));
            bench.ok("bdev_null_create", &params.to_string());
        } else {
            let made = bench.ok("bdev_malloc_create", &params.to_string());
            assert_eq!(made, json!(format!("Malloc{}", number / 2)));
        }
        if number % 4 == 0 {
            let limit = json!({ "name": format!("Bdev{number}"), "rw_ios_per_sec": 7 });
            bench.ok("bdev_set_qos_limit", &limit.to_string());
        }
    });
    let map = each(&|number| {
        let bdev = match number % 2 {
            0 => format!("Bdev{number}"),
            _ => format!("Malloc{}", number / 2),
        };
        let lun =
            bench.ok("srpt_map_lun", &json!({ "target": "t", "bdev_name": bdev }).to_string());
        assert_eq!(lun, json!(number));
    });
    let find = each(&|number| {
        let found = bench.ok("bdev_get_bdevs", &name(number / 2 * 2));
        bench.ok("bdev_get_bdevs", &json!({ "name": found[0]["uuid"] }).to_string());
    });
    let saved = bench.saved();
    let save = lap();
    let again = Bench::new();
    last.set(Instant::now());
    again.ok("load_config", &saved.to_string());
    let load = lap();
    assert_eq!(again.saved(), saved);
    drop(again);
    last.set(Instant::now());
    let unmap = each(&|number| {
        bench
            .ok("srpt_unmap_lun", &json!({ "target": "t", "lun": count - 1 - number }).to_string());
    });
    let delete = each(&|number| {
        match number % 2 {
            0 => bench.ok("bdev_null_delete", &name(number)),
            _ => {
                let name = json!({ "name": format!("Malloc{}", number / 2) }).to_string();
                bench.ok("bdev_malloc_delete", &name)
            }
        };
    });
    assert_eq!(bench.ok("bdev_get_bdevs", ""), Value::Array(Vec::new()));
    [create, map, find, save, load, unmap, delete]
}

#[test]
fn twenty_times_the_bdevs_take_twenty_times_as_long() {
    // Of two, so that a machine that was busy for a moment is no matter. What grows with the
    // square takes four hundred times as long.
    let best = |count| {
        let lives = [(); 2].map(|()| life(count));
        std::array::from_fn::<_, 7, _>(|step| lives.iter().map(|life| life[step]).min().unwrap())
    };
    let (few, many) = (best(500), best(10_000));
    for ((step, few), many) in STEPS.iter().zip(few).zip(many) {
        println!("{step}: {few:?} for 500, {many:?} for 10,000");
        assert!(many < 80 * few.max(Duration::from_millis(25)), "{step}: {few:?}, then {many:?}");
    }
}
