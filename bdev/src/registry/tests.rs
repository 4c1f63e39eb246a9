use super::*;
use crate::malloc::{Malloc, MallocOptions};
use crate::null::{Null, NullOptions};
use crate::stacked::delay::{DelayOptions, Latencies};
use crate::stacked::fault::ErrorOptions;
use crate::stacked::passthru::PassthruOptions;

fn null(name: Option<&str>) -> NullOptions {
    NullOptions {
        name: name.map(str::to_owned),
        num_blocks: 8,
        block_size: 512,
        ..NullOptions::default()
    }
}

fn parsed<T: serde::de::DeserializeOwned>(params: Value) -> T {
    serde_json::from_value(params).unwrap()
}

#[test]
fn names_are_unique_and_given_when_absent() {
    let mut registry = Registry::with_host("host");
    assert_eq!(registry.create(null(None)).unwrap().name(), "Null0");
    registry.create(null(Some("Null1"))).unwrap();
    assert_eq!(registry.create(null(None)).unwrap().name(), "Null2");
    let error = registry.create(null(Some("Null1"))).unwrap_err();
    assert_eq!(error.to_string(), "bdev Null1 already exists");
    assert_eq!(error.errno(), -17);
    let names: Vec<_> = registry.iter().map(|(bdev, _)| bdev.name().to_owned()).collect();
    assert_eq!(names, ["Null0", "Null1", "Null2"]);
}

#[test]
fn a_name_that_is_given_has_the_lowest_free_number() {
    let mut registry = Registry::with_host("host");
    for number in 0..20 {
        assert_eq!(registry.create(null(None)).unwrap().name(), format!("Null{number}"));
    }
    for name in ["Null7", "Null3"] {
        registry.delete(name, "null").unwrap();
    }
    registry.create(null(Some("Null3"))).unwrap();
    for next in ["Null7", "Null20"] {
        assert_eq!(registry.create(null(None)).unwrap().name(), next);
    }
}

#[test]
fn names_are_printable() {
    let mut registry = Registry::with_host("host");
    let long = "x".repeat(256);
    for name in ["", "a\nb", "\u{e4}", "a\0", long.as_str()] {
        assert_eq!(registry.create(null(Some(name))).unwrap_err().errno(), -22, "{name:?}");
    }
    registry.create(null(Some(&long[1..]))).unwrap();
}

#[test]
fn identity_follows_from_host_kind_and_name() {
    let uuid =
        |host: &str, name: &str| Registry::with_host(host).create(null(Some(name))).unwrap().uuid();
    assert_eq!(uuid("a", "x"), uuid("a", "x"));
    assert_ne!(uuid("a", "x"), uuid("b", "x"));
    assert_ne!(uuid("a", "x"), uuid("a", "y"));
    let malloc = MallocOptions {
        name: Some("x".into()),
        num_blocks: 1,
        block_size: 512,
        ..MallocOptions::default()
    };
    let malloc = Registry::with_host("a").create(malloc).unwrap();
    assert_ne!(malloc.uuid(), uuid("a", "x"));
}

#[test]
fn an_identity_belongs_to_one_device() {
    let mut registry = Registry::with_host("host");
    let uuid = Uuid::from_u128(7);
    let options = NullOptions { uuid: Some(uuid), ..null(Some("a")) };
    registry.create(options.clone()).unwrap();
    let second = NullOptions { name: Some("b".into()), ..options };
    let error = registry.create(second).unwrap_err();
    assert!(matches!(error, BdevError::UuidTaken { .. }));
    assert_eq!(registry.find(&uuid.to_string()).unwrap().name(), "a");
}

#[test]
fn a_claimed_device_stays() {
    let mut registry = Registry::with_host("host");
    registry.create(null(Some("a"))).unwrap();
    registry.claim("a", "target t, LUN 0").unwrap();
    let error = registry.delete("a", "null").unwrap_err();
    assert_eq!(error.to_string(), "bdev a is in use by target t, LUN 0");
    assert_eq!(error.errno(), -16);
    assert_eq!(registry.claim("a", "other").unwrap_err().errno(), -16);
    assert_eq!(registry.claimed_by("a"), Some("target t, LUN 0"));
    registry.release("a").unwrap();
    registry.delete("a", "null").unwrap();
    assert_eq!(registry.find("a").unwrap_err().errno(), -19);
    assert_eq!(registry.release("a").unwrap_err().errno(), -19);
}

#[test]
fn a_virtual_device_claims_its_base_and_releases_it() {
    let mut registry = Registry::with_host("host");
    let base = registry.create(null(Some("a"))).unwrap();
    let passthru = |name: &str, base: &str| PassthruOptions {
        name: name.into(),
        base: base.into(),
        uuid: None,
    };
    // A base can be named by its identity, too.
    registry.create(passthru("p", &base.uuid().to_string())).unwrap();
    let error = registry.create(passthru("q", "a")).unwrap_err();
    assert_eq!(error.to_string(), "bdev a is in use by passthru bdev p");
    assert_eq!(error.errno(), -16);
    assert_eq!(registry.claim("a", "other").unwrap_err().errno(), -16);
    assert_eq!(registry.delete("a", "null").unwrap_err().errno(), -16);
    assert_eq!(registry.create(passthru("x", "x")).unwrap_err().errno(), -19);
    registry.create(passthru("q", "p")).unwrap();
    assert_eq!(registry.names_over("a"), ["p", "q"]);
    assert_eq!(registry.names_over("p"), ["q"]);
    assert_eq!(registry.delete("p", "passthru").unwrap_err().errno(), -16);
    registry.delete("q", "passthru").unwrap();
    registry.delete("p", "passthru").unwrap();
    assert_eq!(registry.claimed_by("a"), None);
    registry.delete("a", "null").unwrap();
}

#[test]
fn a_virtual_device_that_is_refused_claims_nothing() {
    let mut registry = Registry::with_host("host");
    registry.create(null(Some("a"))).unwrap();
    registry.create(null(Some("EE_a"))).unwrap();
    let latencies = Latencies { avg_read_us: 1, ..Default::default() };
    let delay = DelayOptions::new("d", "a", latencies);
    assert_eq!(registry.create(delay).unwrap_err().errno(), -22);
    let error = ErrorOptions { base: "a".into(), uuid: None };
    assert_eq!(registry.create(error).unwrap_err().errno(), -17);
    assert_eq!(registry.claimed_by("a"), None);
}

#[test]
fn a_virtual_device_is_what_its_base_is() {
    for dummy in [false, true] {
        let mut registry = Registry::with_host("host");
        registry.create(NullOptions { dummy, ..null(Some("a")) }).unwrap();
        let base = String::from;
        let delay = DelayOptions::new("d", "a", Latencies::default());
        let passthru = PassthruOptions { name: "p".into(), base: base("d"), uuid: None };
        let error = ErrorOptions { base: base("p"), uuid: None };
        for over in [
            registry.create(delay).unwrap(),
            registry.create(passthru).unwrap(),
            registry.create(error).unwrap(),
        ] {
            assert_eq!(over.placeholder(), dummy, "{over:?}");
            assert_eq!(over.geometry(), registry.find("a").unwrap().geometry());
            assert!(over.ready());
        }
    }
}

#[test]
fn each_kind_has_its_own_methods() {
    let mut registry = Registry::with_host("host");
    let options: MallocOptions = parsed(json!({ "name": "m", "num_blocks": 8, "block_size": 512 }));
    registry.create(options).unwrap();
    let error = registry.delete("m", "null").unwrap_err();
    let why = "bdev m is a Malloc disk: bdev_null_delete does not work on it";
    assert_eq!((error.errno(), error.to_string().as_str()), (-19, why));
    let error = registry.of_kind::<Null>("m", "bdev_null_resize").unwrap_err();
    let why = "bdev m is a Malloc disk: bdev_null_resize does not work on it";
    assert_eq!((error.errno(), error.to_string().as_str()), (-19, why));
    assert_eq!(registry.of_kind::<Null>("x", "bdev_null_resize").unwrap_err().errno(), -19);
    assert_eq!(registry.of_kind::<Malloc>("m", "any").unwrap().name(), "m");
    assert_eq!(registry.all_of::<Malloc>().count(), 1);
    assert_eq!(registry.all_of::<Null>().count(), 0);
    registry.delete("m", "malloc").unwrap();
}

#[test]
fn a_device_that_is_being_opened_has_its_name_and_its_base() {
    let mut registry = Registry::with_host("host");
    registry.create(null(Some("a"))).unwrap();
    let over = || PassthruOptions { name: "p".into(), base: "a".into(), uuid: None };
    let opening = registry.prepare(over()).unwrap();
    assert_eq!(registry.create(null(Some("p"))).unwrap_err().errno(), -17);
    assert_eq!(registry.claim("a", "other").unwrap_err().errno(), -16);
    assert_eq!(registry.delete("a", "null").unwrap_err().errno(), -16);
    registry.abandon("p");
    assert_eq!(registry.claimed_by("a"), None);
    drop(opening);
    let opened = registry.prepare(over()).unwrap().open().unwrap();
    registry.adopt(opened);
    // Whoever opens one gives the name back at the end, whatever came of it.
    registry.abandon("p");
    assert_eq!(registry.claimed_by("a"), Some("passthru bdev p"));
    assert_eq!(registry.base_of("p"), Some("a"));
}

#[test]
fn neutral_members_of_other_clients_pass_and_others_do_not() {
    let mut params = json!({
        "num_blocks": 204800, "block_size": 512, "name": "Null0", "dif_is_head_of_md": false,
        "md_size": 0, "dif_type": null,
    });
    parsed::<NullOptions>(params.clone());
    let refused = |params: &Value| {
        serde_json::from_value::<NullOptions>(params.clone()).unwrap_err().to_string()
    };
    params["md_size"] = json!(8);
    assert_eq!(refused(&params), "8 is not in 0..=0");
    params["md_size"] = json!(0);
    params["dif_is_head_of_md"] = json!(true);
    assert_eq!(refused(&params), "true is not supported, only false");
    params["dif_is_head_of_md"] = json!(false);
    params["nonsense"] = json!(null);
    assert!(refused(&params).starts_with("unknown field `nonsense`"));
}

#[test]
fn shapes_are_checked() {
    let mut registry = Registry::with_host("host");
    let mut refused = |num_blocks: u64, block_size: u32, physical: u32| {
        let physical_block_size = Some(physical);
        let options = NullOptions { num_blocks, block_size, physical_block_size, ..null(None) };
        registry.create(options).err().map(|error| error.errno())
    };
    assert_eq!(refused(8, 513, 0), Some(-22));
    assert_eq!(refused(8, 256, 0), Some(-22));
    assert_eq!(refused(8, 65536, 0), Some(-22));
    assert_eq!(refused(0, 512, 0), Some(-22));
    assert_eq!(refused(8, 4096, 512), Some(-22));
    assert_eq!(refused(8, 512, 1536), Some(-22));
    assert_eq!(refused((1 << 54) + 1, 512, 0), Some(-22));
    assert_eq!(refused(1 << 54, 512, 4096), None);
    assert_eq!(refused(8, 32768, 32768), None);
}

#[test]
fn the_description_has_the_members_of_spdk_in_order() {
    let mut registry = Registry::with_host("host");
    let uuid = "3b1d2a30-1111-4222-8333-444455556666";
    let options: MallocOptions =
        parsed(json!({ "num_blocks": 8, "block_size": 512, "uuid": uuid }));
    let bdev = registry.create(options).unwrap();
    let entry = describe(bdev.as_ref(), Some("somebody"));
    let members: Vec<_> = entry.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        members,
        [
            "name",
            "aliases",
            "product_name",
            "block_size",
            "num_blocks",
            "preferred_write_alignment",
            "preferred_write_granularity",
            "optimal_write_size",
            "preferred_unmap_alignment",
            "preferred_unmap_granularity",
            "uuid",
            "numa_id",
            "assigned_rate_limits",
            "claimed",
            "claim_type",
            "zoned",
            "supported_io_types",
            "driver_specific",
        ]
    );
    assert_eq!(entry["aliases"], json!([uuid]));
    assert_eq!(entry["supported_io_types"].as_object().unwrap().len(), 22);
    let entry = describe(bdev.as_ref(), None);
    assert_eq!(entry["claimed"], json!(false));
    assert!(entry.get("claim_type").is_none());
}
