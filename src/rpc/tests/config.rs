//! Saving and loading: lossless, all or nothing.

use std::fs;

use serde_json::{Value, json};

use crate::rpc::methods;
use crate::rpc::testing::Bench;
use crate::rpc::tests::furnished::Furnished;

/// Everything that can be in a configuration.
fn rich() -> Bench {
    let bench = Bench::with_target();
    bench.ok(
        "srpt_set_options",
        r#"{"srp_max_req_size":996,"srp_max_rsp_size":54,"srp_max_rdma_size":256,
            "srpt_srq_size":4,"use_srq":true,"srpt_sq_size":16,"rdma_cm_port":5555,
            "channels_in_order":true,
            "srpt_service_guid":"0x0002c90300a1ffff"}"#,
    );
    bench.ok("srpt_create_target", r#"{"name":"t1","relative_port":9}"#);
    bench.ok("srpt_map_lun", r#"{"target":"t1","bdev_name":"Null0","lun":16383,"read_only":true}"#);
    bench.ok(
        "bdev_malloc_create",
        r#"{"num_blocks":16,"block_size":512,"physical_block_size":4096,
            "uuid":"3b1d2a30-1111-4222-8333-444455556666"}"#,
    );
    bench.ok(
        "srpt_map_lun",
        r#"{"target":"t1","bdev_name":"Malloc0","vendor":"ACME","product":"Disk","serial":"9"}"#,
    );
    // Over each other, and with names against that order.
    bench.ok(
        "bdev_null_create",
        r#"{"name":"Zero","num_blocks":64,"block_size":512,"dummy":true,"read_zero":true}"#,
    );
    bench.ok(
        "bdev_delay_create",
        r#"{"base_bdev_name":"Zero","name":"Y","avg_read_latency":1,"p99_read_latency":20,
            "avg_write_latency":3,"p99_write_latency":40}"#,
    );
    bench.ok("bdev_error_create", r#"{"base_name":"Y"}"#);
    bench.ok(
        "bdev_passthru_create",
        r#"{"base_bdev_name":"EE_Y","name":"A","uuid":"3b1d2a30-1111-4222-8333-444455557777"}"#,
    );
    bench.ok("srpt_map_lun", r#"{"target":"t1","bdev_name":"A"}"#);
    bench.ok(
        "bdev_set_qos_limit",
        r#"{"name":"A","rw_ios_per_sec":7,"rw_mbytes_per_sec":50,"r_mbytes_per_sec":40,
            "w_mbytes_per_sec":30}"#,
    );
    bench.ok("bdev_set_qos_limit", r#"{"name":"Null0","rw_ios_per_sec":1}"#);
    bench.ok("bdev_enable_histogram", r#"{"name":"A","enable":true}"#);
    bench.ok("bdev_enable_histogram", r#"{"name":"Y","enable":true,"opc":"write_zeroes"}"#);
    bench.ok("srpt_enable_dm_agent", r#"{"device":"mlx5_0","port":2}"#);
    bench.ok("srpt_add_listener", r#"{"target":"t1","trtype":"SHM","traddr":"/run/t1"}"#);
    bench.ok("srpt_add_listener", r#"{"target":"t1","trtype":"shm","traddr":"/run/t2"}"#);
    bench
}

#[test]
fn what_was_saved_makes_the_same_state() {
    let bench = rich();
    let saved = bench.saved();
    let again = Bench::new();
    assert_eq!(again.ok("load_config", &saved.to_string()), json!(true));
    assert_eq!(again.saved(), saved);
    assert_eq!(again.ok("srpt_get_targets", ""), bench.ok("srpt_get_targets", ""));
    assert_eq!(again.ok("srpt_get_options", ""), bench.ok("srpt_get_options", ""));
    assert_eq!(again.ok("bdev_get_bdevs", ""), bench.ok("bdev_get_bdevs", ""));
}

#[test]
fn what_each_method_makes_is_saved_and_loaded() {
    let furnished = Furnished::new();
    let saved = furnished.bench.saved();
    // It needs a device: scripts/guest/in/srp-sg.sh.
    let elsewhere = ["bdev_sg_create"];
    let text = saved.to_string();
    for method in methods::changes().into_iter().filter(|method| !elsewhere.contains(method)) {
        assert!(text.contains(&format!("\"{method}\"")), "{method} is not saved");
    }
    // A file is locked while a target has it.
    drop(furnished.bench);
    let again = Bench::new();
    again.offer("rdma");
    assert_eq!(again.ok("load_config", &text), json!(true));
    assert_eq!(again.saved(), saved);
}

/// What a file that was saved says of bdevs, byte for byte: another version must read the file, and
/// whoever compares two files is to see what an operator changed.
const SAVED_BDEVS: &[(&str, &str)] = &[
    (
        "bdev_null_create",
        r#"{"name":"N","num_blocks":64,"block_size":512,"physical_block_size":4096,
            "md_size":0,"dif_type":0,"dif_is_head_of_md":false,"dif_pi_format":0,
            "uuid":"3b1d2a30-1111-4222-8333-444455550001","dummy":true,"read_zero":true,
            "preferred_write_granularity":0,"preferred_write_alignment":0,
            "optimal_write_size":0,"preferred_unmap_granularity":0,
            "preferred_unmap_alignment":0}"#,
    ),
    (
        "bdev_malloc_create",
        r#"{"name":"M","num_blocks":16,"block_size":512,"physical_block_size":512,
            "uuid":"3b1d2a30-1111-4222-8333-444455550002","optimal_io_boundary":0,"md_size":0,
            "dif_type":0,"dif_is_head_of_md":false,"dif_pi_format":0,"numa_id":-1}"#,
    ),
    (
        "bdev_uring_create",
        r#"{"name":"U","block_size":4096,"filename":"/srv/disk.img",
            "uuid":"3b1d2a30-1111-4222-8333-444455550003","read_only":false,"shared":true,
            "direct":"off","write_cache":true,"rotational":false,"sq_poll":false,
            "io_poll":false,"serial":"S-1"}"#,
    ),
    (
        "bdev_uring_create",
        r#"{"name":"V","block_size":512,"filename":"/srv/other.img",
            "uuid":"3b1d2a30-1111-4222-8333-444455550004","read_only":true,"shared":false,
            "direct":"auto","write_cache":false,"rotational":true,"sq_poll":false,
            "io_poll":false}"#,
    ),
    (
        "bdev_delay_create",
        r#"{"name":"D","base_bdev_name":"N","uuid":"3b1d2a30-1111-4222-8333-444455550005",
            "avg_read_latency":1,"p99_read_latency":20,"avg_write_latency":3,
            "p99_write_latency":40}"#,
    ),
    ("bdev_error_create", r#"{"base_name":"D","uuid":"3b1d2a30-1111-4222-8333-444455550006"}"#),
    (
        "bdev_passthru_create",
        r#"{"base_bdev_name":"EE_D","name":"P","uuid":"3b1d2a30-1111-4222-8333-444455550007"}"#,
    ),
];

#[test]
fn a_saved_bdev_has_its_members_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = |text: &str| {
        let text: String = text.split_whitespace().collect();
        text.replace("/srv", &folder.path().display().to_string())
    };
    for file in ["disk.img", "other.img"] {
        fs::write(folder.path().join(file), vec![0; 1 << 20]).expect("written");
    }
    let bench = Bench::new();
    for (method, params) in SAVED_BDEVS {
        bench.ok(method, &here(params));
    }
    let saved = bench.saved();
    let entries = saved["subsystems"][0]["config"].as_array().expect("an array");
    assert_eq!(entries.len(), SAVED_BDEVS.len());
    for (entry, (method, params)) in entries.iter().zip(SAVED_BDEVS) {
        assert_eq!(entry["method"], *method);
        assert_eq!(entry["params"].to_string(), here(params));
    }
}

#[test]
fn a_file_keeps_every_option() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("disk.img");
    fs::write(&file, vec![0; 1 << 20]).expect("written");
    let create = json!({
        "name": "U", "filename": file, "block_size": 4096, "read_only": true, "direct": "off",
        "write_cache": false, "rotational": true, "uuid": "3b1d2a30-1111-4222-8333-444455556666",
        "serial": "S-1", "shared": false, "sq_poll": false, "io_poll": false,
    });
    let bench = Bench::new();
    bench.ok("bdev_uring_create", &create.to_string());
    let saved = bench.saved();
    let params = &saved["subsystems"][0]["config"][0]["params"];
    for (name, value) in create.as_object().expect("an object") {
        assert_eq!(&params[name], value, "{name}");
    }
    // The file is locked while a target has it.
    drop(bench);
    let again = Bench::new();
    again.ok("load_config", &saved.to_string());
    assert_eq!(again.saved(), saved);
    drop(again);
    let other = json!({
        "name": "V", "filename": file, "direct": "off", "write_cache": "off", "shared": true,
        "sq_poll": true,
    });
    let bench = Bench::new();
    bench.ok("bdev_uring_create", &other.to_string());
    let saved = bench.saved();
    let params = &saved["subsystems"][0]["config"][0]["params"];
    assert_eq!(
        [&params["write_cache"], &params["shared"], &params["sq_poll"]],
        [&json!(false), &json!(true), &json!(true)]
    );
    drop(bench);
    let again = Bench::new();
    again.ok("load_config", &saved.to_string());
    assert_eq!(again.saved(), saved);
}

#[test]
fn bdevs_that_are_over_each_other_in_a_circle_are_refused() {
    let passthru = |base: &str, name: &str| {
        json!({
            "method": "bdev_passthru_create",
            "params": { "base_bdev_name": base, "name": name },
        })
    };
    let config = [passthru("B", "A"), passthru("A", "B"), passthru("C", "C")];
    let bench = Bench::new();
    let document = json!({ "subsystems": [{ "subsystem": "bdev", "config": config }] });
    let error = bench.fail("load_config", &document.to_string());
    assert_eq!(error.code, -19);
    assert_eq!(bench.saved(), empty());
}

#[test]
fn listeners_come_last_whatever_the_order_of_the_document() {
    let mut document = rich().saved();
    for subsystem in document["subsystems"].as_array_mut().expect("an array") {
        subsystem["config"].as_array_mut().expect("an array").reverse();
    }
    document["subsystems"].as_array_mut().expect("an array").reverse();
    let bench = Bench::new();
    bench.ok("load_config", &document.to_string());
    assert_eq!(bench.seen.lock().unwrap().listeners.len(), 3);
    let actions = bench.actions();
    let last_create = actions.iter().rposition(|action| action.contains("create"));
    let first_map = actions.iter().position(|action| action.contains("map"));
    assert!(last_create < first_map, "{actions:?}");
    let bdevs = bench.ok("bdev_get_bdevs", "");
    let names = bdevs.as_array().expect("an array").iter().map(|bdev| bdev["name"].clone());
    let names: Vec<Value> = names.collect();
    assert_eq!(names[names.len() - 3..], ["Y", "EE_Y", "A"].map(Value::from));
}

const FILE: &str = r#"{
  "subsystems": [
    {
      "subsystem": "bdev",
      "config": [
        {"method": "bdev_null_create", "params": {"name": "N", "num_blocks": 8, "block_size": 512}},
        {"method": "bdev_malloc_create",
         "params": {"name": "M", "num_blocks": 8, "block_size": 512}}
      ]
    },
    {"subsystem": "nbd", "config": null},
    {
      "subsystem": "srpt",
      "config": [
        {"method": "srpt_create_target", "params": {"name": "t"}},
        {"method": "srpt_map_lun", "params": {"target": "t", "bdev_name": "N"}},
        {"method": "srpt_add_listener",
         "params": {"target": "t", "trtype": "shm", "traddr": "/run/t"}},

        {"method": "srpt_map_lun", "params": {"target": "t", "bdev_name": "M"}}
      ]
    }
  ]
}
"#;

fn load_text(bench: &Bench, text: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.json");
    fs::write(&path, text).expect("written");
    let file = path.clone();
    let loaded = bench.run(|desk| async move { methods::load_file(&desk, &file).await });
    loaded.map_err(|error| {
        let text = error.to_string();
        text.strip_prefix(&path.display().to_string()).expect("the file is named").to_owned()
    })
}

fn empty() -> Value {
    Bench::new().saved()
}

#[test]
fn a_failure_takes_everything_back_and_names_the_line() {
    let bench = Bench::new();
    bench.refuse("map t 1 M");
    let error = load_text(&bench, FILE).expect_err("core 1 refuses");
    assert_eq!(
        error,
        ":20: entry 3 of subsystem srpt (srpt_map_lun): Input/output error: core 1: no room"
    );
    assert_eq!(bench.saved(), empty());
    assert_eq!(
        bench.actions(),
        [
            "0: create t",
            "1: create t",
            "0: map t 0 N unit 1 read_only false",
            "1: map t 0 N unit 1 read_only false",
            "0: changed t",
            "1: changed t",
            "0: map t 1 M unit 2 read_only false",
            "1: map t 1 M unit 2 read_only false",
            "0: unmap t 1",
            "0: close M",
            "0: unmap t 0",
            "1: unmap t 0",
            "0: close N",
            "1: close N",
            "0: changed t",
            "1: changed t",
            "0: delete t",
            "1: delete t",
        ]
    );
    bench.refuse("nothing");
    assert_eq!(load_text(&bench, FILE), Ok(()));
}

#[test]
fn the_operators_own_state_survives_a_failed_load() {
    let bench = rich();
    let before = bench.saved();
    let error = bench.fail("load_config", &before.to_string());
    assert_eq!(error.code, -17);
    assert!(error.message.contains("entry 0 of subsystem bdev (bdev_null_create): File exists"));
    assert_eq!(bench.saved(), before);
}

#[test]
fn errors_name_line_and_reason() {
    let wrong = [
        ("{\n \"subsystems\": [\n}", ":3: column 1: expected value"),
        ("{\n}", ":2: column 1: missing field `subsystems`"),
        (
            "{\"subsystems\":[\n{\"subsystem\":\"nvmf\",\"config\":[{}]}]}",
            ":2: subsystem \"nvmf\" is not one of bdev, srpt",
        ),
        ("{\"subsystems\":[\n{\"config\":[]}]}", ":2: subsystems[0]: missing field `subsystem`"),
        (
            "{\"subsystems\":[\n[\"bdev\",[]]]}",
            ":2: subsystems[0]: invalid type: array, expected an object",
        ),
        (
            "{\"subsystems\":[\n{\"subsystem\":\"bdev\",\"config\":7}]}",
            ":2: subsystems[0]: config: invalid type: integer `7`, expected a sequence",
        ),
        (
            "{\"subsystems\":[{\"subsystem\":\"bdev\",\"config\":[\n[\"bdev_null_create\"]]}]}",
            ":2: entry 0 of subsystem bdev: invalid type: array, expected an object",
        ),
        (
            &FILE.replace("bdev_null_create", "bdev_null_delete"),
            ":6: entry 0 of subsystem bdev: method \"bdev_null_delete\" is not one of \
             bdev_null_create",
        ),
        (
            &FILE.replace("srpt_create_target", "bdev_null_create"),
            ":15: entry 0 of subsystem srpt: method \"bdev_null_create\" is not one of",
        ),
        (
            &FILE.replace("\"name\": \"M\"", "\"nam\": \"M\""),
            ":7: entry 1 of subsystem bdev (bdev_malloc_create): Invalid parameters: \
             unknown field `nam`",
        ),
        (
            &FILE.replace("/run/t", "run"),
            ":17: entry 2 of subsystem srpt (srpt_add_listener): Invalid parameters: traddr",
        ),
        (
            &FILE.replace("\"method\": \"srpt_map", "\"x\": 1, \"method\": \"srpt_map"),
            ":16: entry 1 of subsystem srpt: unknown field `x`",
        ),
    ];
    for (text, expected) in wrong {
        let bench = Bench::new();
        let error = load_text(&bench, text).expect_err(expected);
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(bench.saved(), empty());
    }
    let bench = Bench::new();
    let load = |desk| async move { methods::load_file(&desk, "/no/such/file".as_ref()).await };
    let missing = bench.run(load);
    assert!(missing.expect_err("missing").to_string().starts_with("/no/such/file: No such file"));
}
