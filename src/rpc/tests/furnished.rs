//! A control plane that has one of everything, and on which the example of every method works.

use reactor::pool::ClassCount;
use serde_json::Value;
use tempfile::TempDir;
use transport::{CloseReason, ConnId, PeerInfo};

use crate::rpc::testing::Bench;
use crate::shard::message::{ChannelReport, IoCounts, Report};
use crate::shard::names::SessionId;

/// Calls that make it. `/srv` stands for a scratch folder.
const FURNITURE: &[(&str, &str)] = &[
    ("bdev_null_create", r#"{"name":"Null0","num_blocks":2048,"block_size":512}"#),
    ("bdev_null_create", r#"{"name":"Null1","num_blocks":2048,"block_size":512}"#),
    ("bdev_null_create", r#"{"name":"Null2","num_blocks":2048,"block_size":512}"#),
    ("bdev_null_create", r#"{"name":"Null3","num_blocks":2048,"block_size":512}"#),
    ("bdev_null_create", r#"{"name":"Null4","num_blocks":2048,"block_size":512}"#),
    ("bdev_malloc_create", r#"{"name":"Malloc0","num_blocks":64,"block_size":4096}"#),
    ("bdev_malloc_create", r#"{"name":"Malloc1","num_blocks":64,"block_size":512}"#),
    ("bdev_uring_create", r#"{"filename":"/srv/disk.img","name":"Uring0"}"#),
    ("bdev_passthru_create", r#"{"base_bdev_name":"Null1","name":"Passthru0"}"#),
    (
        "bdev_delay_create",
        r#"{"base_bdev_name":"Null2","name":"Delay0","avg_read_latency":100,
            "p99_read_latency":1000,"avg_write_latency":100,"p99_write_latency":1000}"#,
    ),
    ("bdev_error_create", r#"{"base_name":"Null3"}"#),
    ("bdev_set_qos_limit", r#"{"name":"Malloc0","r_mbytes_per_sec":100}"#),
    ("bdev_enable_histogram", r#"{"name":"Malloc0","enable":true}"#),
    ("srpt_create_target", r#"{"name":"target0","service_guid":"0002c90300a1b2c3"}"#),
    ("srpt_create_target", r#"{"name":"target1"}"#),
    ("srpt_map_lun", r#"{"target":"target0","bdev_name":"Null0","serial":"S1"}"#),
    ("srpt_map_lun", r#"{"target":"target0","bdev_name":"Malloc0","lun":7,"read_only":true}"#),
    ("srpt_add_listener", r#"{"target":"target0","trtype":"shm","traddr":"/run/target0.sock"}"#),
    (
        "srpt_add_listener",
        r#"{"target":"target0","trtype":"rdma","traddr":"192.0.2.1","trsvcid":"5555"}"#,
    ),
    ("srpt_enable_dm_agent", r#"{"device":"mlx5_0","port":1}"#),
];

pub(super) struct Furnished {
    pub(super) bench: Bench,
    folder: TempDir,
}

impl Furnished {
    pub(super) fn new() -> Furnished {
        let folder = tempfile::tempdir().expect("a folder");
        for file in ["disk.img", "new.img"] {
            std::fs::write(folder.path().join(file), vec![0; 1 << 20]).expect("a file");
        }
        let bench = Bench::new();
        bench.offer("rdma");
        let furnished = Furnished { bench, folder };
        for (method, params) in FURNITURE {
            furnished.bench.ok(method, &furnished.here(params));
        }
        furnished.bench.seen.lock().unwrap().reports = vec![report(0), report(1)];
        furnished.bench.actions();
        furnished
    }

    /// A text with the scratch folder in place of `/srv`.
    pub(super) fn here(&self, text: &str) -> String {
        text.replace("/srv/", &format!("{}/", self.folder.path().display()))
    }

    /// The opposite.
    pub(super) fn elsewhere(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "/srv/")
    }

    /// All that can be seen from outside and that a refused call must leave as it was: the
    /// configuration and what the methods show that only show, without counters.
    pub(super) fn state(&self) -> Vec<Value> {
        let shown = ["bdev_get_bdevs", "srpt_get_targets", "srpt_get_dm_agents", "log_get_level"];
        let mut state = vec![self.bench.saved()];
        state.extend(shown.map(|method| self.bench.ok(method, "")));
        state.push(self.bench.ok("log_get_print_level", ""));
        state
    }
}

fn channel(session: u64, index: u32) -> ChannelReport {
    ChannelReport {
        session: SessionId::new(session),
        target: "target0".to_owned(),
        peer: PeerInfo {
            trtype: "shm",
            traddr: "/run/target0.sock".to_owned(),
            peer: "pid 7".to_owned(),
            target: "target0".to_owned(),
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

fn report(core: u32) -> Report {
    let counts = IoCounts { read_ops: 10, read_ns_min: 10, ..IoCounts::default() };
    Report {
        channels: vec![channel(3, core)],
        buffers: vec![
            ClassCount { bytes: 4096, total: 10, free: 8 },
            ClassCount { bytes: 65536, total: 4, free: 3 },
        ],
        slots_total: 128,
        slots_used: 2,
        waiting: 1,
        bdevs: vec![("Null0".to_owned(), counts)],
        histogram: None,
        closed: vec![(CloseReason::Protocol, 5)],
        counters: vec![("login_rejected", 2)],
    }
}
