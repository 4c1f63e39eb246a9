//! Wrong parameters: each is refused, names the parameter, and changes nothing.

use crate::rpc::methods;
use crate::rpc::testing::Bench;

/// Method, parameters, code, text that the message holds.
const WRONG: &[(&str, &str, i32, &str)] = &[
    ("bdev_null_create", "", -32602, "`name`"),
    ("bdev_null_create", "[]", -32602, "named parameters"),
    ("bdev_null_create", r#"{"name":"X"}"#, -32602, "`num_blocks`"),
    (
        "bdev_null_create",
        r#"{"name":"X","num_blocks":0,"block_size":512}"#,
        -32602,
        "num_blocks: 0 is not in 1..=",
    ),
    (
        "bdev_null_create",
        r#"{"name":"X","num_blocks":-1,"block_size":512}"#,
        -32602,
        "num_blocks: -1 is not in",
    ),
    (
        "bdev_null_create",
        r#"{"name":"X","num_blocks":"9","block_size":512}"#,
        -32602,
        "num_blocks: invalid type",
    ),
    (
        "bdev_null_create",
        r#"{"name":"X","num_blocks":18014398509481984,"block_size":4096}"#,
        -32602,
        "2^63",
    ),
    (
        "bdev_null_create",
        r#"{"name":"X","num_blocks":9,"block_size":513}"#,
        -32602,
        "block_size: 513 is not a power of two",
    ),
    (
        "bdev_null_create",
        r#"{"name":"X","num_blocks":9,"block_size":512,"uuid":"x"}"#,
        -32602,
        "uuid: ",
    ),
    (
        "bdev_null_create",
        r#"{"name":"X","num_blocks":9,"block_size":512,"bogus":1}"#,
        -32602,
        "unknown field `bogus`, expected one of `name`, `num_blocks`",
    ),
    (
        "bdev_null_create",
        r#"{"name":"X","name":"Y","num_blocks":9,"block_size":512}"#,
        -32602,
        "duplicate field `name`",
    ),
    (
        "bdev_null_create",
        r#"{"name":"X","num_blocks":9,"block_size":512,"md_size":8}"#,
        -32602,
        "md_size: 8 is not in 0..=0",
    ),
    (
        "bdev_null_create",
        r#"{"name":"X","num_blocks":9,"block_size":512,"dif_is_head_of_md":true}"#,
        -32602,
        "dif_is_head_of_md: true",
    ),
    ("bdev_null_create", r#"{"name":"","num_blocks":9,"block_size":512}"#, -32602, "name: "),
    (
        "bdev_null_create",
        r#"{"name":"Null0","num_blocks":9,"block_size":512}"#,
        -17,
        "File exists: bdev Null0",
    ),
    ("bdev_null_delete", "", -32602, "`name`"),
    ("bdev_null_delete", r#"{"name":"Nope"}"#, -19, "No such device: bdev Nope"),
    ("bdev_null_delete", r#"{"name":"free"}"#, -19, "bdev free is a Malloc disk"),
    (
        "bdev_null_delete",
        r#"{"name":"Null0"}"#,
        -16,
        "Device or resource busy: bdev Null0 is mapped as LUN 0 of target t0",
    ),
    ("bdev_null_resize", r#"{"name":"Null0","new_size":0}"#, -32602, "new_size: 0 is not in 1..="),
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
    ("bdev_malloc_delete", r#"{"name":7}"#, -32602, "name: invalid type"),
    ("bdev_malloc_delete", r#"{"name":"M0"}"#, -16, "LUN 7 of target t0"),
    ("bdev_uring_create", r#"{"name":"U"}"#, -32602, "`filename`"),
    (
        "bdev_uring_create",
        r#"{"filename":"/x","block_size":513}"#,
        -32602,
        "block_size: 513 is neither 0 nor a power of two",
    ),
    ("bdev_uring_create", r#"{"filename":"/no/such"}"#, -2, "No such file or directory: "),
    ("bdev_uring_create", r#"{"filename":"/x","direct":"maybe"}"#, -32602, "`auto`"),
    (
        "bdev_uring_create",
        r#"{"filename":"/x","write_cache":"maybe"}"#,
        -32602,
        "write_cache: invalid value: string \"maybe\", expected `on`, `off`",
    ),
    ("bdev_uring_create", r#"{"filename":"/x","serial":"a\u0007b"}"#, -32602, "serial: \"a"),
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
    ("bdev_uring_create", r#"{"name":"a\u001bb","filename":"/x"}"#, -32602, "name: "),
    ("bdev_uring_create", r#"{"filename":"/"}"#, -32602, "/ is a directory"),
    ("bdev_uring_create", r#"{"filename":"/dev/null"}"#, -32602, "is a character device"),
    ("bdev_uring_delete", r#"{"name":"M0"}"#, -19, "bdev M0"),
    ("bdev_sg_create", "", -32602, "`filename`"),
    ("bdev_sg_create", r#"{"filename":"/dev/sg0","timeout_ms":0}"#, -32602, "1..=86400000"),
    ("bdev_sg_create", r#"{"filename":"/dev/sg0","size":1}"#, -32602, "`size`"),
    ("bdev_sg_create", r#"{"filename":"/no/such"}"#, -2, "No such file or directory: "),
    ("bdev_sg_create", r#"{"filename":"/"}"#, -32602, "/ is a directory, not a SCSI device"),
    ("bdev_sg_create", r#"{"filename":"/dev/null"}"#, -32602, "not a SCSI device"),
    ("bdev_sg_delete", r#"{"name":"M0"}"#, -19, "bdev M0"),
    ("bdev_uring_rescan", r#"{"name":"M0"}"#, -19, "bdev M0"),
    ("bdev_passthru_create", r#"{"name":"P"}"#, -32602, "`base_bdev_name`"),
    ("bdev_passthru_create", r#"{"base_bdev_name":"free"}"#, -32602, "`name`"),
    (
        "bdev_passthru_create",
        r#"{"base_bdev_name":"Nope","name":"P"}"#,
        -19,
        "No such device: bdev Nope",
    ),
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
        r#"{"base_bdev_name":"free","name":"X","avg_read_latency":1,"p99_read_latency":1,
            "avg_write_latency":1}"#,
        -32602,
        "`p99_write_latency`",
    ),
    (
        "bdev_delay_create",
        r#"{"base_bdev_name":"free","name":"X","avg_read_latency":2,"p99_read_latency":1,
            "avg_write_latency":1,"p99_write_latency":1}"#,
        -32602,
        "p99_read_latency 1 is below avg_read_latency 2",
    ),
    (
        "bdev_delay_create",
        r#"{"base_bdev_name":"free","name":"X","avg_read_latency":0,"p99_read_latency":0,
            "avg_write_latency":1,"p99_write_latency":3600000001}"#,
        -32602,
        "p99_write_latency: 3600000001 is not in 0..=3600000000",
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
        r#"{"delay_bdev_name":"D","latency_type":"p50_read","latency_us":1}"#,
        -32602,
        "latency_type: unknown variant `p50_read`, expected one of `avg_read`",
    ),
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
    ("bdev_error_create", "", -32602, "`base_name`"),
    ("bdev_error_create", r#"{"base_name":"D"}"#, -17, "File exists: bdev EE_D"),
    ("bdev_error_create", r#"{"base_name":"M0"}"#, -16, "LUN 7 of target t0"),
    ("bdev_error_create", r#"{"base_name":"free","uuid":"x"}"#, -32602, "uuid: "),
    ("bdev_error_delete", r#"{"name":"free"}"#, -19, "bdev free is a Malloc disk"),
    (
        "bdev_error_inject_error",
        r#"{"name":"EE_D","io_type":"reset","error_type":"failure"}"#,
        -32602,
        "io_type: unknown variant `reset`, expected one of `clear`, `read`",
    ),
    (
        "bdev_error_inject_error",
        r#"{"name":"EE_D","io_type":"read","error_type":"fail"}"#,
        -32602,
        "error_type: unknown variant `fail`, expected one of `failure`",
    ),
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
        r#"{"name":"EE_D","io_type":"read","error_type":"corrupt_data","corrupt_value":256}"#,
        -32602,
        "corrupt_value: 256 is not in 1..=255",
    ),
    (
        "bdev_error_inject_error",
        r#"{"name":"EE_D","io_type":"read","error_type":"failure","num":-1}"#,
        -32602,
        "num: -1 is not in 0..=4294967295",
    ),
    (
        "bdev_error_inject_error",
        r#"{"name":"D","io_type":"read","error_type":"failure"}"#,
        -19,
        "bdev D is a delay",
    ),
    ("bdev_error_resume_pending", r#"{"name":"D"}"#, -19, "bdev D is a delay"),
    ("bdev_error_resume_pending", r#"{"name":"Nope"}"#, -19, "No such device: bdev Nope"),
    ("bdev_get_bdevs", r#"{"name":"Nope"}"#, -19, "No such device: bdev Nope"),
    ("bdev_get_bdevs", r#"{"name":"Nope","timeout":1}"#, -110, "Connection timed out: bdev Nope"),
    ("bdev_get_bdevs", r#"{"timeout":-1}"#, -32602, "timeout: -1 is not in 0..="),
    ("bdev_get_iostat", r#"{"name":"Nope"}"#, -19, "bdev Nope"),
    ("bdev_get_iostat", r#"{"names":"M0"}"#, -32602, "names: invalid type"),
    ("bdev_get_iostat", r#"{"name":"M0","names":["M0"]}"#, -32602, "name: "),
    ("bdev_get_iostat", r#"{"per_channel":true}"#, -32602, "per_channel: "),
    (
        "bdev_get_iostat",
        r#"{"reset_mode":"some"}"#,
        -32602,
        "expected one of `none`, `all`, `maxmin`",
    ),
    ("spdk_get_version", r#"{"a":1}"#, -32602, "spdk_get_version method requires no parameters"),
    ("framework_start_init", "", -1, "framework_start_init"),
    ("framework_get_config", r#"{"name":"nvmf"}"#, -32602, "name: Subsystem 'nvmf' not found"),
    ("rpc_get_methods", r#"{"current":1}"#, -32602, "current: invalid type"),
    ("log_set_level", r#"{"level":"LOUD"}"#, -32602, "level: \"LOUD\" is not one of ERROR"),
    ("log_set_print_level", r#"{}"#, -32602, "`level`"),
    (
        "spdk_kill_instance",
        r#"{"sig_name":"SIGSTOP"}"#,
        -32602,
        "sig_name: \"SIGSTOP\" is not one of SIGINT",
    ),
    ("srpt_create_target", r#"{}"#, -32602, "`name`"),
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
        r#"{"name":"x","relative_port":0}"#,
        -32602,
        "relative_port: 0 is not in 1..=65535",
    ),
    (
        "srpt_create_target",
        r#"{"name":"x","relative_port":1}"#,
        -17,
        "relative_port 1 is that of target t0",
    ),
    ("srpt_delete_target", r#"{"name":"x"}"#, -19, "No such device: target x"),
    ("srpt_get_targets", r#"{"name":"x"}"#, -19, "target x"),
    (
        "srpt_add_listener",
        r#"{"target":"t0","trtype":"tcp","traddr":"/x"}"#,
        -32602,
        "trtype: \"tcp\" is not one of shm, rdma",
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
    ("srpt_add_listener", r#"{"target":"x","trtype":"shm","traddr":"/x"}"#, -19, "target x"),
    (
        "srpt_remove_listener",
        r#"{"target":"t0","trtype":"shm","traddr":"/x"}"#,
        -19,
        "listener shm /x of target t0",
    ),
    ("srpt_get_login_info", r#"{"target":"x"}"#, -19, "target x"),
    ("srpt_map_lun", r#"{"target":"t0"}"#, -32602, "`bdev_name`"),
    (
        "srpt_map_lun",
        r#"{"target":"t0","bdev_name":"free","lun":16384}"#,
        -32602,
        "lun: 16384 is not in 0..=16383",
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
    ("srpt_map_lun", r#"{"target":"x","bdev_name":"free"}"#, -19, "target x"),
    ("srpt_map_lun", r#"{"target":"t0","bdev_name":"Nope"}"#, -19, "bdev Nope"),
    (
        "srpt_map_lun",
        r#"{"target":"t0","bdev_name":"free","vendor":"ninechars"}"#,
        -32602,
        "vendor: ",
    ),
    ("srpt_map_lun", r#"{"target":"t0","bdev_name":"free","product":""}"#, -32602, "product: "),
    (
        "srpt_map_lun",
        r#"{"target":"t0","bdev_name":"free","read_only":"yes"}"#,
        -32602,
        "read_only: ",
    ),
    ("srpt_unmap_lun", r#"{"target":"t0","lun":1}"#, -19, "No such device: LUN 1 of target t0"),
    (
        "srpt_set_options",
        r#"{"srp_max_req_size":995}"#,
        -32602,
        "srp_max_req_size: 995 is not in 996..=65536",
    ),
    (
        "srpt_set_options",
        r#"{"srp_max_req_size":65537}"#,
        -32602,
        "srp_max_req_size: 65537 is not in 996..=65536",
    ),
    (
        "srpt_set_options",
        r#"{"srp_max_rsp_size":53}"#,
        -32602,
        "srp_max_rsp_size: 53 is not in 54..=8276",
    ),
    (
        "srpt_set_options",
        r#"{"srp_max_rsp_size":8277}"#,
        -32602,
        "srp_max_rsp_size: 8277 is not in 54..=8276",
    ),
    (
        "srpt_set_options",
        r#"{"srp_max_rdma_size":255}"#,
        -32602,
        "srp_max_rdma_size: 255 is not in 256..=16777216",
    ),
    (
        "srpt_set_options",
        r#"{"srp_max_rdma_size":16777217}"#,
        -32602,
        "srp_max_rdma_size: 16777217 is not in 256..=16777216",
    ),
    ("srpt_set_options", r#"{"srpt_srq_size":3}"#, -32602, "srpt_srq_size: 3 is not in 4..=65535"),
    (
        "srpt_set_options",
        r#"{"srpt_srq_size":65536}"#,
        -32602,
        "srpt_srq_size: 65536 is not in 4..=65535",
    ),
    ("srpt_set_options", r#"{"srpt_sq_size":15}"#, -32602, "srpt_sq_size: 15 is not in 16..=65535"),
    (
        "srpt_set_options",
        r#"{"srpt_sq_size":65536}"#,
        -32602,
        "srpt_sq_size: 65536 is not in 16..=65535",
    ),
    (
        "srpt_set_options",
        r#"{"rdma_cm_port":65536}"#,
        -32602,
        "rdma_cm_port: 65536 is not in 0..=65535",
    ),
    ("srpt_set_options", r#"{"srpt_sq_size":-1}"#, -32602, "srpt_sq_size: -1 is not in 16..=65535"),
    ("srpt_set_options", r#"{"use_srq":1}"#, -32602, "use_srq: invalid type"),
    ("srpt_set_options", r#"{"channels_in_order":1}"#, -32602, "channels_in_order: invalid type"),
    ("srpt_set_options", r#"{"srpt_service_guid":"x"}"#, -32602, "srpt_service_guid: \"x\" is not"),
    ("srpt_set_options", r#"{"use_srq":true,"srpt_sq_size":1}"#, -32602, "srpt_sq_size: 1 is not"),
    ("srpt_enable_dm_agent", r#"{"device":"x","port":0}"#, -32602, "port: 0 is not in 1..=255"),
    ("srpt_enable_dm_agent", r#"{"device":"../x","port":1}"#, -32602, "device: "),
    ("srpt_enable_dm_agent", r#"{"device":"none","port":1}"#, -19, "none"),
    ("srpt_disable_dm_agent", r#"{"device":"x","port":1}"#, -19, "agent of x port 1"),
    ("srpt_unmap_lun", r#"{"target":"t0"}"#, -32602, "`lun`"),
    ("srpt_get_sessions", r#"{"target":"x"}"#, -19, "target x"),
    ("srpt_disconnect_session", r#"{"session":5}"#, -19, "session 5"),
    ("load_config", "", -32602, "`subsystems`"),
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

#[test]
fn every_method_refuses_a_parameter_it_does_not_know() {
    let bench = Bench::with_target();
    for method in methods::names() {
        let error = bench.fail(method, r#"{"no_such_parameter":1}"#);
        assert_eq!(error.code, -32602, "{method}: {error}");
        assert!(
            error.message.contains("no_such_parameter") || error.message.contains("no parameters"),
            "{method}: {error}"
        );
    }
}
