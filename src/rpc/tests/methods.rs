//! What methods do and answer.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use reactor::pool::ClassCount;
use serde_json::{Value, json};
use transport::{CloseReason, ConnId, PeerInfo};

use crate::rpc::methods;
use crate::rpc::testing::{Bench, Served};
use crate::shard::message::{ChannelReport, IoCounts, Report};
use crate::shard::names::SessionId;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn channel(session: u64, index: u32) -> ChannelReport {
    ChannelReport {
        session: SessionId::new(session),
        target: "t0".to_owned(),
        peer: PeerInfo {
            trtype: "shm",
            traddr: "/run/t0".to_owned(),
            peer: "pid 7".to_owned(),
            target: "t0".to_owned(),
            arrival: u64::from(index),
        },
        conn: ConnId { index, generation: 0 },
        initiator_port_id: [0xab; 16],
        target_port_id: [1; 16],
        credits: 64,
        req_lim: 60,
        in_flight: 4,
        iu_bytes_max: 2116,
        immediate_data: true,
        multichannel: true,
        commands: 9,
        bytes_read: 4096,
        bytes_written: 0,
    }
}

fn with_reports() -> Bench {
    let bench = Bench::with_target();
    let counts = |read_ops| IoCounts { read_ops, read_ns_min: read_ops, ..IoCounts::default() };
    let report = |core: u64| Report {
        channels: vec![channel(3, core as u32), channel(4 + core, 9)],
        buffers: vec![
            ClassCount { bytes: 4096, total: 10, free: 8 },
            ClassCount { bytes: 65536, total: 4, free: 3 },
        ],
        slots_total: 128,
        slots_used: 2,
        waiting: 1,
        bdevs: vec![("Null0".to_owned(), counts(10 + core))],
        histogram: None,
        closed: vec![(CloseReason::Protocol, 5)],
        counters: vec![("login_rejected", 2)],
    };
    bench.seen.lock().unwrap().reports = vec![report(0), report(1)];
    bench
}

#[test]
fn a_core_that_refuses_a_lun_leaves_no_trace() {
    let bench = Bench::with_target();
    bench.ok("bdev_null_create", r#"{"name":"N2","num_blocks":8,"block_size":512}"#);
    let before = bench.saved();
    bench.refuse("map");
    let error = bench.fail("srpt_map_lun", r#"{"target":"t0","bdev_name":"N2"}"#);
    assert_eq!((error.code, error.message.as_str()), (-5, "Input/output error: core 1: no room"));
    let map = "map t0 1 N2 unit 3 read_only false";
    assert_eq!(
        bench.actions(),
        [format!("0: {map}"), format!("1: {map}"), "0: unmap t0 1".into(), "0: close N2".into(),]
    );
    assert_eq!(bench.saved(), before);
    bench.ok("bdev_null_delete", r#"{"name":"N2"}"#);

    bench.refuse("create");
    bench.fail("srpt_create_target", r#"{"name":"t9"}"#);
    assert_eq!(bench.actions(), ["0: create t9", "1: create t9", "0: delete t9"]);
}

#[test]
fn a_deletion_that_a_core_is_late_with_is_done_for_everybody_else() {
    let bench = Bench::with_target();
    bench.ok("bdev_null_create", r#"{"name":"N2","num_blocks":8,"block_size":512}"#);
    bench.silence("delete t0");
    // Answered after a while, although core 1 has not forgotten the target.
    bench.ok("srpt_delete_target", r#"{"name":"t0"}"#);
    assert_eq!(bench.ok("srpt_get_targets", ""), json!([]));
    bench.actions();
    // A core that has not forgotten the target can't be asked for another one of that name.
    let again = r#"{"name":"t0"}"#;
    let error = bench.fail("srpt_create_target", again);
    assert_eq!(error.code, -16);
    let words = "target t0 is busy: its last commands drain for ";
    assert!(error.message.contains(words), "{}", error.message);
    let guid = r#"{"name":"t1","service_guid":"0x0002c90300a1b2c3"}"#;
    assert_eq!(bench.fail("srpt_create_target", guid).code, -17);
    assert_eq!(bench.actions(), [""; 0]);
    // What was mapped is free again: for another identity, and to be deleted.
    bench.ok("srpt_create_target", r#"{"name":"t1"}"#);
    bench.ok("srpt_map_lun", r#"{"target":"t1","bdev_name":"Null0","serial":"S2"}"#);
    bench.ok("bdev_malloc_delete", r#"{"name":"M0"}"#);

    bench.answer_late();
    bench.ok("srpt_create_target", again);
    bench.ok("srpt_map_lun", r#"{"target":"t0","bdev_name":"N2"}"#);
}

#[test]
fn the_cores_are_never_asked_for_more_mappings_than_they_hold() {
    let bench = Bench::new();
    for number in 0..128 {
        let bdev = json!({"name": format!("N{number}"), "num_blocks": 8, "block_size": 512});
        bench.ok("bdev_null_create", &bdev.to_string());
    }
    let map = |target: usize, bdev: usize| {
        json!({"target": format!("t{target}"), "bdev_name": format!("N{bdev}")}).to_string()
    };
    for target in 0..129 {
        bench.ok("srpt_create_target", &json!({"name": format!("t{target}")}).to_string());
        (0..128).filter(|_| target < 128).for_each(|bdev| {
            bench.ok("srpt_map_lun", &map(target, bdev));
        });
    }
    bench.actions();
    let error = bench.fail("srpt_map_lun", &map(128, 0));
    assert_eq!(error.code, -28);
    assert!(error.message.contains("16384 LUNs of all targets"), "{}", error.message);
    assert_eq!(bench.actions(), [""; 0]);
    bench.ok("srpt_unmap_lun", r#"{"target":"t5","lun":3}"#);
    bench.ok("srpt_map_lun", &map(128, 0));
}

#[test]
fn two_targets_share_one_logical_unit_until_the_last_unmap() {
    let bench = Bench::with_target();
    bench.ok("srpt_create_target", r#"{"name":"t1"}"#);
    bench.actions();
    let uuid = bench.ok("bdev_get_bdevs", r#"{"name":"Null0"}"#)[0]["uuid"].clone();
    let by_uuid = json!({"target": "t1", "bdev_name": uuid}).to_string();
    assert_eq!(bench.ok("srpt_map_lun", &by_uuid), json!(0));
    assert_eq!(bench.actions()[0], "0: map t1 0 Null0 unit 1 read_only false");
    bench.ok("srpt_unmap_lun", r#"{"target":"t0","lun":0}"#);
    assert_eq!(
        bench.actions(),
        ["0: unmap t0 0", "1: unmap t0 0", "0: changed t0", "1: changed t0"]
    );
    // The identity that the first mapping gave lives as long as the unit.
    assert_eq!(bench.ok("srpt_get_targets", r#"{"name":"t1"}"#)[0]["luns"][0]["serial"], "S1");
    bench.ok("srpt_delete_target", r#"{"name":"t1"}"#);
    assert_eq!(
        bench.actions(),
        [
            "0: unmap t1 0",
            "1: unmap t1 0",
            "0: close Null0",
            "1: close Null0",
            "0: delete t1",
            "1: delete t1",
        ]
    );
    bench.ok("bdev_null_delete", r#"{"name":"Null0"}"#);
}

#[test]
fn a_new_size_is_brought_to_the_cores_and_saved() {
    let bench = Bench::with_target();
    bench.ok("bdev_null_resize", r#"{"name":"Null0","new_size":2}"#);
    assert_eq!(bench.actions(), ["0: resized Null0", "1: resized Null0"]);
    assert_eq!(bench.saved()["subsystems"][0]["config"][0]["params"]["num_blocks"], 4096);
}

#[test]
fn the_lowest_free_lun_is_taken() {
    let bench = Bench::with_target();
    for lun in [1, 2] {
        let name = format!("{{\"name\":\"x{lun}\",\"num_blocks\":8,\"block_size\":512}}");
        bench.ok("bdev_null_create", &name);
        let map = format!("{{\"target\":\"t0\",\"bdev_name\":\"x{lun}\"}}");
        assert_eq!(bench.ok("srpt_map_lun", &map), json!(lun));
    }
}

#[test]
fn a_target_shows_what_it_has() {
    let bench = Bench::with_target();
    let target = &bench.ok("srpt_get_targets", "")[0];
    assert_eq!(keys(target), ["name", "service_guid", "relative_port", "listeners", "luns"]);
    assert_eq!(target["service_guid"], "0002c90300a1b2c3");
    assert_eq!(target["listeners"], json!([{"trtype":"shm","traddr":"/run/t0"}]));
    assert_eq!(target["luns"][1]["lun"], 7);
    let login = bench.ok("srpt_get_login_info", r#"{"target":"t0"}"#);
    assert_eq!(login["logins"][0]["id_ext"], "0002c90300a1b2c3");
    assert_eq!(login["logins"][0]["ioc_guid"], "0002c90300a1b2c3");
    assert_eq!(login["logins"][0]["traddr"], "/run/t0");
}

#[test]
fn a_guid_that_was_not_given_is_the_same_every_time() {
    let guid = |name: &str| {
        let bench = Bench::new();
        bench.ok("srpt_create_target", &json!({ "name": name }).to_string());
        bench.ok("srpt_get_targets", "")[0]["service_guid"].clone()
    };
    assert_eq!(guid("a"), guid("a"));
    assert_ne!(guid("a"), guid("b"));
}

#[test]
fn sessions_gather_their_channels_from_all_cores() {
    let bench = with_reports();
    let sessions = bench.ok("srpt_get_sessions", "");
    let channels = |id: usize| sessions[id]["channels"].as_array().expect("an array").len();
    assert_eq!((channels(0), channels(1), channels(2)), (2, 1, 1));
    assert_eq!(sessions[0]["initiator_port_id"], "ab".repeat(16));
    assert_eq!(sessions[0]["channels"][1]["core"], 1);
    assert_eq!(bench.ok("srpt_get_sessions", r#"{"target":"t0"}"#), sessions);
    bench.ok("srpt_disconnect_session", r#"{"session":4}"#);
    assert_eq!(bench.actions(), ["0: disconnect 4", "0: disconnect 4", "1: disconnect 4"]);
}

#[test]
fn iostat_sums_cores_and_lists_them() {
    let bench = with_reports();
    let answer = bench.ok("bdev_get_iostat", r#"{"per_channel":false}"#);
    assert_eq!(keys(&answer), ["tick_rate", "ticks", "bdevs"]);
    assert_eq!(answer["bdevs"][0]["num_read_ops"], 21);
    assert_eq!(answer["bdevs"][0]["min_read_latency_ticks"], 10);
    assert_eq!(answer["bdevs"][1]["num_read_ops"], 0);
    let answer = bench.ok("bdev_get_iostat", r#"{"names":["Null0"],"per_channel":true}"#);
    assert_eq!(keys(&answer), ["tick_rate", "ticks", "name", "channels"]);
    assert_eq!(answer["channels"][1]["thread_id"], 2);
    assert_eq!(answer["channels"][1]["num_read_ops"], 11);
    bench.ok("bdev_get_iostat", r#"{"name":"M0","reset_mode":"maxmin"}"#);
    bench.ok("bdev_get_iostat", r#"{"name":"M0","reset_mode":"all"}"#);
    assert_eq!(
        bench.actions()[..3],
        [r#"0: reset ["M0"] false"#, r#"1: reset ["M0"] false"#, r#"0: reset ["M0"] true"#]
    );
}

#[test]
fn stats_have_the_members_that_monitors_read() {
    let bench = with_reports();
    let reactors = bench.ok("framework_get_reactors", "");
    assert_eq!(keys(&reactors), ["tick_rate", "pid", "reactors"]);
    assert_eq!(
        keys(&reactors["reactors"][1]),
        [
            "lcore",
            "numa_id",
            "tid",
            "busy",
            "idle",
            "in_interrupt",
            "irq",
            "sys",
            "usr",
            "lw_threads"
        ]
    );
    assert_eq!(reactors["reactors"][1]["lw_threads"][0]["cpumask"], "20");
    let threads = bench.ok("thread_get_stats", "");
    assert_eq!(threads["threads"][1]["name"], "srpt_poll_group_001");
    assert_eq!(
        keys(&threads["threads"][0]),
        [
            "name",
            "id",
            "cpumask",
            "busy",
            "idle",
            "active_pollers_count",
            "timed_pollers_count",
            "paused_pollers_count"
        ]
    );
    let pollers = bench.ok("thread_get_pollers", "");
    assert_eq!(
        keys(&pollers["threads"][0]["active_pollers"][0]),
        ["name", "id", "state", "run_count", "busy_count"]
    );
    let channels = bench.ok("thread_get_io_channels", "");
    assert_eq!(channels["threads"][0]["io_channels"][1], json!({"name":"Null0","ref":1}));
    let iobuf = bench.ok("iobuf_get_stats", "");
    assert_eq!(
        (&iobuf[0]["small_pool"]["main"], &iobuf[0]["large_pool"]["main"]),
        (&json!(16), &json!(6))
    );
    let stats = bench.ok("srpt_get_stats", "");
    assert_eq!(stats["cores"][1]["lcore"], 5);
    assert_eq!(stats["cores"][1]["closed"], json!({"protocol": 5}));
    assert_eq!(stats["cores"][0]["counters"], json!({"login_rejected": 2}));
    let turns = json!([{"below_ns": 1024, "turns": 2}, {"below_ns": null, "turns": 1}]);
    assert_eq!(stats["cores"][1]["busy_turns"], turns);
    assert_eq!(stats["cores"][0]["busy_turns"], json!([]));
    assert_eq!(pollers["threads"][1]["active_pollers"][0]["busy_count"], 3);
}

#[test]
fn a_bdev_in_a_map_is_claimed() {
    let bench = Bench::with_target();
    let claimed =
        |bench: &Bench| bench.ok("bdev_get_bdevs", r#"{"name":"M0"}"#)[0]["claimed"].clone();
    assert_eq!(claimed(&bench), json!(true));
    bench.ok("srpt_unmap_lun", r#"{"target":"t0","lun":7}"#);
    assert_eq!(claimed(&bench), json!(false));
}

/// The bdevs Zero, delay D over it, and EE_D over that.
fn with_stack() -> Bench {
    let bench = Bench::with_target();
    bench.ok("bdev_null_create", r#"{"name":"Zero","num_blocks":2048,"block_size":512}"#);
    let delay = r#"{"base_bdev_name":"Zero","name":"D","avg_read_latency":100,
        "p99_read_latency":1000,"avg_write_latency":200,"p99_write_latency":2000}"#;
    assert_eq!(bench.ok("bdev_delay_create", delay), "D");
    assert_eq!(bench.ok("bdev_error_create", r#"{"base_name":"D"}"#), json!(true));
    bench.actions();
    bench
}

#[test]
fn a_bdev_over_another_claims_it_until_it_is_deleted() {
    let bench = with_stack();
    let show =
        |name: &str| bench.ok("bdev_get_bdevs", &json!({ "name": name }).to_string())[0].clone();
    let claim = |name: &str| {
        let bdev = show(name);
        (bdev["claimed"].clone(), bdev.get("claim_type").cloned())
    };
    let taken = (json!(true), Some(json!("exclusive_write")));
    let free = (json!(false), None);
    assert_eq!([claim("Zero"), claim("D"), claim("EE_D")], [taken.clone(), taken, free.clone()]);
    assert_eq!(show("EE_D")["driver_specific"], json!({"error_disk": {"base_bdev": "D"}}));
    let delay = show("D");
    assert_eq!(
        delay["driver_specific"],
        json!({"delay": {
            "name": "D", "base_bdev_name": "Zero", "uuid": delay["uuid"],
            "avg_read_latency": 100, "p99_read_latency": 1000,
            "avg_write_latency": 200, "p99_write_latency": 2000,
        }})
    );
    bench.ok("bdev_error_delete", r#"{"name":"EE_D"}"#);
    assert_eq!(claim("D"), free);
    bench.ok("bdev_delay_delete", r#"{"name":"D"}"#);
    assert_eq!(claim("Zero"), free);
    bench.ok("bdev_passthru_create", r#"{"base_bdev_name":"Zero","name":"P"}"#);
    bench.ok("bdev_passthru_delete", r#"{"name":"P"}"#);
    bench.ok("bdev_null_delete", r#"{"name":"Zero"}"#);
}

#[test]
fn a_new_size_shows_in_all_bdevs_over_the_one_that_has_it() {
    let bench = with_stack();
    bench.ok("bdev_null_resize", r#"{"name":"Zero","new_size":2}"#);
    assert_eq!(
        bench.actions(),
        [
            "0: resized Zero",
            "1: resized Zero",
            "0: resized D",
            "1: resized D",
            "0: resized EE_D",
            "1: resized EE_D"
        ]
    );
    assert_eq!(bench.ok("bdev_get_bdevs", r#"{"name":"EE_D"}"#)[0]["num_blocks"], 4096);
}

#[test]
fn a_latency_can_be_changed_and_is_saved() {
    let bench = with_stack();
    let update = r#"{"delay_bdev_name":"D","latency_type":"p99_read","latency_us":777}"#;
    assert_eq!(bench.ok("bdev_delay_update_latency", update), json!(true));
    let saved = bench.saved();
    assert_eq!(saved["subsystems"][0]["config"][3]["params"]["p99_read_latency"], 777);
}

#[test]
fn errors_are_injected_and_what_is_pending_is_resumed_on_every_core() {
    let bench = with_stack();
    let wake = |bench: &Bench| bench.seen.lock().unwrap().actions.clone();
    for params in [
        r#"{"name":"EE_D","io_type":"read","error_type":"failure","num":5}"#,
        r#"{"name":"EE_D","io_type":"all","error_type":"pending","queue_depth":3}"#,
        r#"{"name":"EE_D","io_type":"write","error_type":"corrupt_data","corrupt_value":255,
            "corrupt_offset":7}"#,
        r#"{"name":"EE_D","io_type":"clear","error_type":"failure"}"#,
    ] {
        assert_eq!(bench.ok("bdev_error_inject_error", params), json!(true));
        assert_eq!(wake(&bench), Vec::<String>::new(), "no core needs to know");
    }
    assert_eq!(bench.ok("bdev_error_resume_pending", r#"{"name":"EE_D"}"#), json!(true));
    assert_eq!(wake(&bench), ["0: report", "1: report"], "a core that sleeps must wake");
}

#[test]
fn signals_are_raised_by_name() {
    let bench = Bench::new();
    bench.ok("spdk_kill_instance", r#"{"sig_name":"SIGTERM"}"#);
    bench.ok("spdk_kill_instance", r#"{"sig_name":"INT"}"#);
    assert_eq!(bench.seen.lock().unwrap().signals, [15, 2]);
}

#[test]
fn current_methods_leave_out_what_can_no_longer_be_called() {
    let bench = Bench::new();
    let all = bench.ok("rpc_get_methods", "");
    let current = bench.ok("rpc_get_methods", r#"{"current":true,"include_aliases":true}"#);
    let count = |list: &Value| list.as_array().expect("an array").len();
    assert_eq!(count(&all), methods::names().collect::<BTreeSet<_>>().len());
    assert_eq!(count(&all), count(&current) + 1);
}

pub(super) fn rpc_py(arguments: &[&str]) -> (i32, String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rpc.py");
    let output = Command::new("python3").arg(script).args(arguments).output().expect("python3");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

#[test]
fn the_client_has_a_subcommand_for_every_method() {
    let (code, help, _) = rpc_py(&["--help"]);
    assert_eq!(code, 0);
    let commands: BTreeSet<&str> = help
        .lines()
        .filter(|line| line.starts_with("    ") && !line.starts_with("     "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(commands, methods::names().collect());
}

#[test]
fn the_client_prints_results_and_reasons_where_they_belong() {
    let served = Served::start();
    let path = served.path();
    let socket = path.to_str().expect("UTF-8");
    let run = |arguments: &[&str]| rpc_py(&[&["-s", socket], arguments].concat());
    let create = ["bdev_malloc_create", "-b", "M", "1", "512"];
    assert_eq!(run(&create), (0, "M\n".to_owned(), String::new()));
    let (code, out, error) = run(&create);
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(error, "rpc.py: bdev_malloc_create: File exists: bdev M (code -17)\n");
    assert_eq!(run(&["bdev_malloc_create", "1"]).0, 2);
    let wrong_block = run(&["bdev_malloc_create", "1", "-512"]).2;
    assert!(wrong_block.contains("block_size: "), "{wrong_block}");
    let wrong_lun = run(&["srpt_unmap_lun", "t", "x"]).2;
    assert!(wrong_lun.contains("argument lun: x is not a number"), "{wrong_lun}");
    assert_eq!(run(&["log_get_level"]).1, "\"NOTICE\"\n");
    let delay = ["bdev_delay_create", "-b", "M", "-d", "D", "-r", "1", "-t", "2", "-w", "3"];
    assert_eq!(run(&[&delay[..], &["-n", "4"]].concat()), (0, "D\n".to_owned(), String::new()));
    assert_eq!(run(&["bdev_delay_update_latency", "D", "avg_read", "2"]).1, "true\n");
    assert_eq!(run(&["bdev_error_create", "D"]).1, "true\n");
    let inject = ["bdev_error_inject_error", "EE_D", "read", "corrupt_data", "-n", "5"];
    let quiet = (0, String::new(), String::new());
    assert_eq!(run(&[&inject[..], &["-q", "1", "-o", "3", "-v", "255"]].concat()), quiet);
    assert_eq!(run(&["bdev_error_resume_pending", "EE_D"]), quiet);
    assert_eq!(run(&["bdev_passthru_create", "-b", "EE_D", "-p", "P"]).1, "P\n");
    for (kind, name) in [("passthru", "P"), ("error", "EE_D"), ("delay", "D")] {
        assert_eq!(run(&[&format!("bdev_{kind}_delete"), name]), quiet);
    }
    assert_eq!(run(&["bdev_malloc_delete", "M"]), quiet);
}
