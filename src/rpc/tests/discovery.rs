//! What initiators are told.

use serde_json::json;

use crate::rpc::testing::Bench;

fn reachable() -> Bench {
    let bench = Bench::with_target();
    bench.offer("rdma");
    for (traddr, trsvcid) in [("192.0.2.1", "5555"), ("ib:fe80::2:c903:e:8acd", "5000")] {
        let listener = json!({ "target": "t0", "trtype": "rdma", "traddr": traddr,
            "trsvcid": trsvcid });
        bench.ok("srpt_add_listener", &listener.to_string());
    }
    bench
}

#[test]
fn login_lines_can_be_pasted() {
    let info = reachable().ok("srpt_get_login_info", r#"{"target":"t0"}"#);
    let who = "id_ext=0002c90300a1b2c3,ioc_guid=0002c90300a1b2c3";
    assert_eq!(info["srp_daemon"], format!("a {who}"));
    let logins = &info["logins"];
    assert_eq!(logins[0].get("add_target"), None, "shm has no such file");
    assert_eq!(logins[1]["add_target"], json!([format!("{who},dest=192.0.2.1:5555")]));
    let native = "pkey=ffff,dgid=fe800000000000000002c903000e8acd,service_id=00000000013f1388";
    assert_eq!(logins[2]["add_target"], json!([format!("{who},{native}")]));
}

#[test]
fn agents_show_the_targets_with_native_listeners() {
    let bench = reachable();
    bench.ok("srpt_create_target", r#"{"name":"t1"}"#);
    bench.ok("srpt_enable_dm_agent", r#"{"device":"mlx5_0","port":1}"#);
    let error = bench.fail("srpt_enable_dm_agent", r#"{"device":"mlx5_0","port":1}"#);
    assert_eq!(error.code, -17, "{error}");
    let shown = json!([{ "device": "mlx5_0", "port": 1, "answered": 3 }]);
    assert_eq!(bench.ok("srpt_get_dm_agents", ""), shown);
    bench.ok("srpt_set_options", r#"{"srp_max_req_size":2116,"srp_max_rdma_size":4096}"#);
    let controllers = bench.seen.lock().unwrap().controllers.clone();
    assert_eq!(controllers.len(), 1, "t1 has no listener");
    let controller = &controllers[0];
    assert_eq!((controller.guid, controller.service_id), (0x0002_c903_00a1_b2c3, 0x013f_1388));
    assert_eq!((controller.send_bytes_max, controller.rdma_bytes_max), (2116, 4096));
    assert_eq!(controller.queue_depth, 128);
    bench.ok(
        "srpt_remove_listener",
        r#"{"target":"t0","trtype":"rdma","traddr":"ib:fe80::2:c903:e:8acd","trsvcid":"5000"}"#,
    );
    assert!(bench.seen.lock().unwrap().controllers.is_empty());
    bench.ok("srpt_disable_dm_agent", r#"{"device":"mlx5_0","port":1}"#);
    assert_eq!(bench.ok("srpt_get_dm_agents", ""), json!([]));
}
