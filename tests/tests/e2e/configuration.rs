//! What was saved comes back, down to the bytes that initiators see.

use serde_json::{Value, json};
use srpt_tests::process::{Initiator, Options, Target, lun};

/// INQUIRY data, every page of vital product data, and the capacity of each LUN.
fn identities(target: &Target, luns: u16) -> Vec<Vec<u8>> {
    let mut initiator = Initiator::login(&target.srp_socket(), 1, 1);
    let mut scsi = initiator.ready(luns);
    let mut seen = Vec::new();
    for number in (0..luns).map(lun) {
        seen.push(scsi.inquiry(number).unwrap());
        let pages = scsi.vpd(number, 0).unwrap();
        for page in &pages[4..] {
            seen.push(scsi.vpd(number, *page).unwrap());
        }
        seen.push(format!("{:?}", scsi.read_capacity16(number).unwrap()).into_bytes());
    }
    seen
}

fn shown(target: &Target) -> [Value; 3] {
    ["bdev_get_bdevs", "srpt_get_targets", "save_config"]
        .map(|method| target.rpc(method, Value::Null))
}

#[test]
fn a_saved_configuration_is_the_same_after_a_restart() {
    let target = Target::start();
    target.null_bdev("Null0");
    target.file_bdev("File0", 8);
    let uuid = "3f2b8c1e-52f0-4d3c-9a53-6e0d2f6b1a77";
    target.rpc(
        "bdev_malloc_create",
        json!({ "name": "Malloc0", "num_blocks": 4096, "block_size": 4096, "uuid": uuid }),
    );
    target.export(&["Null0", "File0"]);
    let more = [json!({ "bdev_name": "Malloc0", "lun": 2, "read_only": true, "vendor": "ACME",
                "product": "Rocket", "serial": "R-0001" })];
    for mut params in more {
        params["target"] = json!("t0");
        target.rpc("srpt_map_lun", params);
    }
    let guid = "0002c90300a1b2c3";
    target.rpc("srpt_create_target", json!({ "name": "t1", "service_guid": guid }));
    target.rpc("srpt_map_lun", json!({ "target": "t1", "lun": 300, "bdev_name": "File0" }));
    let (before, identities_before) = (shown(&target), identities(&target, 3));
    assert!(identities_before.len() > 3 * 6, "{}", identities_before.len());
    let (code, saved, err) = target.rpc_py(&["save_config"]);
    assert_eq!(code, 0, "{err}");

    let dir = target.killed();
    let config = dir.path().join("config.json");
    std::fs::write(&config, &saved).unwrap();
    let options = Options::with(&["--config", config.to_str().unwrap()]);
    let target = Target::start_in(dir, &options);
    assert_eq!(shown(&target), before);
    assert_eq!(identities(&target, 3), identities_before);
    assert_eq!(target.rpc_py(&["save_config"]).1, saved);

    // The same by RPC, into a target that runs.
    let dir = target.killed();
    let target = Target::start_in(dir, &Options::default());
    let (code, _, err) = target.rpc_py(&["load_config", "--json-conf", config.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(shown(&target), before);
    assert_eq!(identities(&target, 3), identities_before);
}
