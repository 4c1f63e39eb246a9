//! The parameters of `ib_srpt`.

use serde_json::json;

use crate::rpc::testing::Bench;

#[test]
fn the_defaults_are_those_of_ib_srpt() {
    let defaults = json!({
        "srp_max_req_size": 8276,
        "srp_max_rsp_size": 256,
        "srp_max_rdma_size": 65536,
        "srpt_srq_size": 4095,
        "use_srq": false,
        "srpt_sq_size": 256,
        "channels_in_order": false,
        "srpt_service_guid": "0000000000000000",
        "rdma_cm_port": 0,
    });
    assert_eq!(Bench::new().ok("srpt_get_options", ""), defaults);
}

#[test]
fn the_ends_of_every_range_are_in_it() {
    let bench = Bench::new();
    let low = r#"{"srp_max_req_size":996,"srp_max_rsp_size":54,"srp_max_rdma_size":256,
        "srpt_srq_size":4,"srpt_sq_size":16,"rdma_cm_port":0}"#;
    let high = r#"{"srp_max_req_size":65536,"srp_max_rsp_size":8276,"srp_max_rdma_size":16777216,
        "srpt_srq_size":65535,"srpt_sq_size":65535,"rdma_cm_port":65535}"#;
    for params in [low, high] {
        bench.ok("srpt_set_options", params);
        let wanted: serde_json::Value = serde_json::from_str(params).unwrap();
        let shown = bench.ok("srpt_get_options", "");
        for (name, value) in wanted.as_object().unwrap() {
            assert_eq!(&shown[name], value, "{name}");
        }
    }
}

#[test]
fn sizes_go_to_every_core_and_what_is_absent_stays() {
    let bench = Bench::new();
    bench.ok("srpt_set_options", r#"{"srp_max_rsp_size":100}"#);
    bench.ok("srpt_set_options", r#"{"srp_max_req_size":2116}"#);
    let last = "SetIuSizes { iu_bytes_max: 2116, rsp_bytes_max: 100 }";
    assert_eq!(bench.actions()[2..], [format!("0: {last}"), format!("1: {last}")]);
    bench.ok("srpt_set_options", r#"{"rdma_cm_port":7}"#);
    assert!(bench.actions().is_empty(), "nothing that a core needs to know");
}

#[test]
fn what_one_core_refuses_is_put_back() {
    let bench = Bench::new();
    let before = bench.ok("srpt_get_options", "");
    bench.refuse("SetIuSizes { iu_bytes_max: 996");
    bench.fail("srpt_set_options", r#"{"srp_max_req_size":996,"rdma_cm_port":9}"#);
    assert_eq!(bench.ok("srpt_get_options", ""), before);
    let undo = "0: SetIuSizes { iu_bytes_max: 8276, rsp_bytes_max: 256 }";
    assert_eq!(bench.actions().last().map(String::as_str), Some(undo));
    assert_eq!(
        bench.seen.lock().unwrap().configured.last().map(|o| o.srp_max_req_size),
        Some(8276)
    );
}

#[test]
fn a_fabric_that_is_laid_out_refuses_and_no_core_hears_of_it() {
    let bench = Bench::new();
    let before = bench.ok("srpt_get_options", "");
    bench.refuse("configure");
    let error = bench.fail("srpt_set_options", r#"{"use_srq":true}"#);
    assert_eq!(error.code, -16, "{error}");
    assert!(bench.actions().is_empty());
    assert_eq!(bench.ok("srpt_get_options", ""), before);
}

#[test]
fn targets_without_a_guid_take_the_default_one() {
    let bench = Bench::new();
    bench.ok("srpt_set_options", r#"{"srpt_service_guid":"0002c90300a1ffff"}"#);
    bench.ok("srpt_create_target", r#"{"name":"a"}"#);
    assert_eq!(bench.ok("srpt_get_targets", "")[0]["service_guid"], "0002c90300a1ffff");
    let error = bench.fail("srpt_create_target", r#"{"name":"b"}"#);
    assert!(error.message.contains("is that of target a"), "{error}");
    bench.ok("srpt_set_options", r#"{"srpt_service_guid":"0"}"#);
    bench.ok("srpt_create_target", r#"{"name":"b"}"#);
}

#[test]
fn rdma_listeners_without_a_port_take_the_default_one() {
    let bench = Bench::new();
    bench.offer("rdma");
    bench.ok("srpt_create_target", r#"{"name":"a"}"#);
    bench.ok("srpt_set_options", r#"{"rdma_cm_port":5555}"#);
    let at = r#"{"target":"a","trtype":"rdma","traddr":"/address"}"#;
    bench.ok("srpt_add_listener", at);
    let shown = &bench.ok("srpt_get_targets", "")[0]["listeners"];
    assert_eq!(*shown, json!([{ "trtype": "rdma", "traddr": "/address", "trsvcid": "5555" }]));
    bench.ok("srpt_remove_listener", at);
    bench.ok("srpt_add_listener", r#"{"target":"a","trtype":"shm","traddr":"/s"}"#);
    let shown = &bench.ok("srpt_get_targets", "")[0]["listeners"];
    assert_eq!(*shown, json!([{ "trtype": "shm", "traddr": "/s" }]), "shm has no ports");
}
