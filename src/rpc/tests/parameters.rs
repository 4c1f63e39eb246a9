//! Wrong parameters that no description tells, and states that a call does not fit: each is refused
//! with its reason, and changes nothing.

use crate::rpc::methods;
use crate::rpc::testing::Bench;

/// Method, parameters, code, text that the message holds.
const WRONG: &[(&str, &str, i32, &str)] = &[
    (
        "bdev_null_create",
        r#"{"name":"X","num_blocks":18014398509481984,"block_size":4096}"#,
        -32602,
        "2^63",
    ),
    (
        "bdev_null_create",
        r#"{"name":"X","name":"Y","num_blocks":9,"block_size":512}"#,
        -32602,
        "duplicate field `name`",
    ),
    (
        "bdev_null_create",
        r#"{"name":"Null0","num_blocks":9,"block_size":512}"#,
        -17,
        "File exists: bdev Null0",
    ),
    ("bdev_null_delete", r#"{"name":"free"}"#, -19, "bdev free is a Malloc disk"),
    (
        "bdev_null_delete",
        r#"{"name":"Null0"}"#,
        -16,
        "Device or resource busy: bdev Null0 is mapped as LUN 0 of target t0",
    ),
    ("bdev_null_resize", r#"{"name":"M0","new_size":1}"#, -19, "bdev M0"),
    ("bdev_malloc_create", r#"{"num_blocks":9}"#, -32602, "`block_size`"),
    (
        "bdev_malloc_create",
        r#"{"num_blocks":9,"block_size":512,"numa_id":4096}"#,
        -32602,
        "numa_id 4096 is not one of this machine's memory nodes",
    ),
    (
        "bdev_malloc_create",
        r#"{"num_blocks":18014398509481984,"block_size":512}"#,
        -12,
        "Cannot allocate memory: ",
    ),
    ("bdev_malloc_delete", r#"{"name":"M0"}"#, -16, "LUN 7 of target t0"),
    ("bdev_uring_create", r#"{"filename":"/no/such"}"#, -2, "No such file or directory: "),
    (
        "bdev_uring_create",
        r#"{"filename":"/x","shared":true,"read_only":true}"#,
        -32602,
        "shared is for writers",
    ),
    (
        "bdev_uring_create",
        r#"{"filename":"/x","direct":"off","io_poll":true}"#,
        -32602,
        "io_poll needs direct I/O",
    ),
    ("bdev_uring_create", r#"{"filename":"/"}"#, -32602, "/ is a directory"),
    ("bdev_uring_create", r#"{"filename":"/dev/null"}"#, -32602, "is a character device"),
    ("bdev_uring_delete", r#"{"name":"M0"}"#, -19, "bdev M0"),
    ("bdev_sg_create", r#"{"filename":"/no/such"}"#, -2, "No such file or directory: "),
    ("bdev_sg_create", r#"{"filename":"/"}"#, -32602, "/ is a directory, not a SCSI device"),
    ("bdev_sg_create", r#"{"filename":"/dev/null"}"#, -32602, "not a SCSI device"),
    ("bdev_sg_delete", r#"{"name":"M0"}"#, -19, "bdev M0"),
    ("bdev_uring_rescan", r#"{"name":"M0"}"#, -19, "bdev M0"),
    (
        "bdev_passthru_create",
        r#"{"base_bdev_name":"free","name":"M0"}"#,
        -17,
        "File exists: bdev M0",
    ),
    (
        "bdev_passthru_create",
        r#"{"base_bdev_name":"Null0","name":"P"}"#,
        -16,
        "Device or resource busy: bdev Null0 is mapped as LUN 0 of target t0",
    ),
    (
        "bdev_passthru_create",
        r#"{"base_bdev_name":"base","name":"P"}"#,
        -16,
        "Device or resource busy: bdev base is in use by delay bdev D",
    ),
    ("bdev_passthru_delete", r#"{"name":"D"}"#, -19, "bdev D is a delay"),
    (
        "bdev_delay_create",
        r#"{"base_bdev_name":"free","name":"X","avg_read_latency":2,"p99_read_latency":1,
            "avg_write_latency":1,"p99_write_latency":1}"#,
        -32602,
        "p99_read_latency 1 is below avg_read_latency 2",
    ),
    (
        "bdev_delay_create",
        r#"{"base_bdev_name":"D","name":"X","avg_read_latency":0,"p99_read_latency":0,
            "avg_write_latency":0,"p99_write_latency":0}"#,
        -16,
        "bdev D is in use by error bdev EE_D",
    ),
    ("bdev_delay_delete", r#"{"name":"D"}"#, -16, "bdev D is in use by error bdev EE_D"),
    ("bdev_null_delete", r#"{"name":"base"}"#, -16, "bdev base is in use by delay bdev D"),
    ("srpt_map_lun", r#"{"target":"t0","bdev_name":"D"}"#, -16, "in use by error bdev EE_D"),
    (
        "bdev_delay_update_latency",
        r#"{"delay_bdev_name":"D","latency_type":"avg_read","latency_us":11}"#,
        -32602,
        "p99_read_latency 10 is below avg_read_latency 11",
    ),
    (
        "bdev_delay_update_latency",
        r#"{"delay_bdev_name":"M0","latency_type":"avg_read","latency_us":1}"#,
        -19,
        "bdev M0 is a Malloc disk",
    ),
    ("bdev_error_create", r#"{"base_name":"D"}"#, -17, "File exists: bdev EE_D"),
    ("bdev_error_create", r#"{"base_name":"M0"}"#, -16, "LUN 7 of target t0"),
    ("bdev_error_delete", r#"{"name":"free"}"#, -19, "bdev free is a Malloc disk"),
    (
        "bdev_error_inject_error",
        r#"{"name":"EE_D","io_type":"read","error_type":"nomem"}"#,
        -32602,
        "error_type: nomem is not supported",
    ),
    (
        "bdev_error_inject_error",
        r#"{"name":"EE_D","io_type":"read","error_type":"corrupt_data","corrupt_offset":1}"#,
        -32602,
        "corrupt_value: ",
    ),
    (
        "bdev_error_inject_error",
        r#"{"name":"D","io_type":"read","error_type":"failure"}"#,
        -19,
        "bdev D is a delay",
    ),
    ("bdev_error_resume_pending", r#"{"name":"D"}"#, -19, "bdev D is a delay"),
    ("bdev_get_bdevs", r#"{"name":"Nope","timeout":1}"#, -110, "Connection timed out: bdev Nope"),
    ("bdev_get_iostat", r#"{"name":"M0","names":["M0"]}"#, -32602, "name: "),
    ("bdev_get_iostat", r#"{"per_channel":true}"#, -32602, "per_channel: "),
    ("framework_start_init", "", -1, "framework_start_init"),
    ("srpt_create_target", r#"{"name":"t0"}"#, -17, "File exists: target t0"),
    (
        "srpt_create_target",
        r#"{"name":"x","service_guid":"0"}"#,
        -32602,
        "service_guid: \"0\" is not 16 hexadecimal digits",
    ),
    (
        "srpt_create_target",
        r#"{"name":"x","service_guid":"0000000000000000"}"#,
        -32602,
        "service_guid: ",
    ),
    (
        "srpt_create_target",
        r#"{"name":"x","service_guid":"0002c90300a1b2c3"}"#,
        -17,
        "is that of target t0",
    ),
    (
        "srpt_create_target",
        r#"{"name":"x","relative_port":1}"#,
        -17,
        "relative_port 1 is that of target t0",
    ),
    (
        "srpt_add_listener",
        r#"{"target":"t0","trtype":"rdma","traddr":"10.0.0.1"}"#,
        -93,
        "no rdma listener",
    ),
    (
        "srpt_add_listener",
        r#"{"target":"t0","trtype":"shm","traddr":"x"}"#,
        -32602,
        "Invalid parameters: traddr: not an absolute path",
    ),
    (
        "srpt_add_listener",
        r#"{"target":"t0","trtype":"shm","traddr":"/taken"}"#,
        -98,
        "Address already in use: bind /taken",
    ),
    (
        "srpt_add_listener",
        r#"{"target":"t0","trtype":"shm","traddr":"/run/t0"}"#,
        -98,
        "is that of target t0",
    ),
    (
        "srpt_remove_listener",
        r#"{"target":"t0","trtype":"shm","traddr":"/x"}"#,
        -19,
        "listener shm /x of target t0",
    ),
    (
        "srpt_map_lun",
        r#"{"target":"t0","bdev_name":"free","lun":7}"#,
        -17,
        "LUN 7 of target t0 is bdev M0",
    ),
    (
        "srpt_map_lun",
        r#"{"target":"t0","bdev_name":"Null0"}"#,
        -17,
        "bdev Null0 is LUN 0 of target t0 already",
    ),
    (
        "srpt_map_lun",
        r#"{"target":"t1","bdev_name":"Null0","serial":"S2"}"#,
        -22,
        "serial: bdev Null0 is also LUN 0 of target t0",
    ),
    ("srpt_unmap_lun", r#"{"target":"t0","lun":1}"#, -19, "No such device: LUN 1 of target t0"),
    ("srpt_set_options", r#"{"use_srq":true,"srpt_sq_size":1}"#, -32602, "srpt_sq_size: 1 is not"),
    ("srpt_enable_dm_agent", r#"{"device":"../x","port":1}"#, -32602, "device: "),
    ("srpt_enable_dm_agent", r#"{"device":"none","port":1}"#, -19, "none"),
    ("srpt_disable_dm_agent", r#"{"device":"x","port":1}"#, -19, "agent of x port 1"),
    ("srpt_disconnect_session", r#"{"session":5}"#, -19, "session 5"),
];

#[test]
fn every_refusal_names_its_reason_and_changes_nothing() {
    let bench = Bench::with_target();
    bench.ok("bdev_malloc_create", r#"{"name":"free","num_blocks":8,"block_size":512}"#);
    bench.ok("bdev_null_create", r#"{"name":"base","num_blocks":8,"block_size":512}"#);
    bench.ok(
        "bdev_delay_create",
        r#"{"base_bdev_name":"base","name":"D","avg_read_latency":1,"p99_read_latency":10,
            "avg_write_latency":1,"p99_write_latency":10}"#,
    );
    bench.ok("bdev_error_create", r#"{"base_name":"D"}"#);
    bench.ok("srpt_create_target", r#"{"name":"t1"}"#);
    bench.actions();
    let before = bench.saved();
    for (method, params, code, text) in WRONG {
        let error = bench.fail(method, params);
        assert_eq!(error.code, *code, "{method} {params}: {error}");
        let described = methods::described(Some(method))[0]["errors"].clone();
        let mut codes = described.as_array().expect("an array").iter().map(|error| &error["code"]);
        let is_listed = codes.any(|listed| listed.is_null() || *listed == *code);
        assert!(is_listed, "{method}: {error} is not described");
        assert!(error.message.contains(text), "{method} {params}: {error}");
        if *code == -32602 {
            assert!(
                error.message.starts_with("Invalid parameters: ") || *method == "load_config",
                "{error}"
            );
        }
        assert_eq!(bench.actions(), Vec::<String>::new(), "{method} {params}");
    }
    assert_eq!(bench.saved(), before);
}
