//! Operations that wait, and what goes on meanwhile.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::json;

use crate::control::{Mail, watch};
use crate::rpc::methods;
use crate::rpc::testing::{Bench, Served};
use crate::shard::message::{Ask, Up};
use crate::shard::names::CoreId;

/// What others may wait for an answer while an operation waits. On a machine that is busy.
const OTHERS_WAIT_MAX: Duration = Duration::from_millis(500);

/// Calls a method beside others; the result when it is there.
fn begin(
    bench: &Bench,
    method: &'static str,
    params: &'static str,
) -> std::thread::JoinHandle<Result<serde_json::Value, crate::rpc::RpcError>> {
    let shared = std::sync::Arc::clone(&bench.shared);
    std::thread::spawn(move || {
        let raw = serde_json::value::RawValue::from_string(params.to_owned()).expect("JSON");
        shared.call(method, Some(&raw))
    })
}

fn luns(bench: &Bench) -> usize {
    let targets = bench.ok("srpt_get_targets", r#"{"name":"t0"}"#);
    targets[0]["luns"].as_array().expect("a list").len()
}

/// Calls what does not need a core, and fails unless the answers come at once.
fn others_are_answered(bench: &Bench) {
    for method in ["spdk_get_version", "bdev_get_bdevs", "save_config", "srpt_get_sessions"] {
        let began = Instant::now();
        bench.ok(method, "");
        assert!(began.elapsed() < OTHERS_WAIT_MAX, "{method}: {:?}", began.elapsed());
    }
}

/// A pipe that stands for a file which takes long to open and to read.
fn pipe_at(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::RUSR | Mode::WUSR).expect("a pipe");
}

/// The other end of a pipe, once somebody has opened the pipe to read.
fn writer_of(path: &Path) -> File {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK;
    loop {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(writer) => return writer.into(),
            Err(Errno::NXIO) => std::thread::yield_now(),
            Err(errno) => panic!("{}: {errno}", path.display()),
        }
    }
}

#[test]
fn a_configuration_file_that_takes_long_to_read_holds_up_nobody() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.json");
    pipe_at(&file);
    let (sender, loaded) = mpsc::channel();
    let own = file.clone();
    bench.shared.post().begin(
        |desk| async move { methods::load_file(&desk, &own).await.map_err(|e| e.to_string()) },
        move |result| drop(sender.send(result)),
    );
    let mut writer = writer_of(&file);
    others_are_answered(&bench);
    writer.write_all(br#"{"subsystems":[]}"#).expect("somebody reads");
    drop(writer);
    assert_eq!(loaded.recv().expect("an end"), Ok(()));
}

#[test]
fn rdma_devices_that_take_long_to_look_at_hold_up_nobody() {
    let bench = Bench::with_target();
    bench.offer("rdma");
    let listener = r#"{"target":"t0","trtype":"rdma","traddr":"192.0.2.1","trsvcid":"5555"}"#;
    bench.ok("srpt_add_listener", listener);
    let devices = tempfile::tempdir().expect("a folder");
    let port = devices.path().join("rxe0/ports/1");
    std::fs::create_dir_all(&port).expect("a folder");
    let link_layer = port.join("link_layer");
    pipe_at(&link_layer);
    let folder = devices.path().to_owned();
    bench.with(|control| control.set_rdma_devices(folder));
    let info = begin(&bench, "srpt_get_login_info", r#"{"target":"t0"}"#);
    let writer = writer_of(&link_layer);
    others_are_answered(&bench);
    let error = bench.fail("srpt_get_login_info", r#"{"target":"t0"}"#);
    assert_eq!(error.code, -16, "{error}");
    assert!(
        error.message.contains("RDMA devices is busy: their ports are being read for "),
        "{error}"
    );
    drop(writer);
    info.join().expect("no panic").expect("the look has ended");
}

#[test]
fn an_agent_whose_port_takes_long_to_open_holds_up_nobody_and_is_busy() {
    let bench = Bench::new();
    let (go_on, stuck) = mpsc::channel();
    bench.seen.lock().unwrap().stuck_agent = Some(stuck);
    let at = r#"{"device":"mlx5_0","port":1}"#;
    let enable = begin(&bench, "srpt_enable_dm_agent", at);
    while bench.seen.lock().unwrap().stuck_agent.is_some() {
        std::thread::yield_now();
    }
    others_are_answered(&bench);
    for method in ["srpt_enable_dm_agent", "srpt_disable_dm_agent"] {
        let error = bench.fail(method, at);
        assert_eq!(error.code, -16, "{method}: {error}");
        let busy = "agent of mlx5_0 port 1 is busy: opening the port for ";
        assert!(error.message.contains(busy), "{method}: {error}");
    }
    assert_eq!(bench.ok("srpt_get_dm_agents", ""), json!([]));
    drop(go_on);
    assert_eq!(enable.join().expect("no panic"), Ok(json!(true)));
    bench.ok("srpt_disable_dm_agent", at);
}

#[test]
fn a_lun_whose_command_does_not_end_is_gone_for_everybody_and_drains() {
    let bench = Bench::with_target();
    bench.silence("unmap t0 7");
    let unmap = begin(&bench, "srpt_unmap_lun", r#"{"target":"t0","lun":7}"#);
    while luns(&bench) == 2 {
        std::thread::yield_now();
    }
    others_are_answered(&bench);
    let error = bench.fail("bdev_malloc_delete", r#"{"name":"M0"}"#);
    assert_eq!(error.code, -16);
    assert!(error.message.contains("bdev M0 is busy: "), "{error}");
    assert_eq!(unmap.join().expect("no panic"), Ok(json!(true)));
    // After the operation has ended, too.
    let draining = "commands to LUN 7 of target t0 drain for ";
    let bdev = bench.ok("bdev_get_bdevs", r#"{"name":"M0"}"#)[0].clone();
    assert!(bdev["busy"].as_str().is_some_and(|busy| busy.starts_with(draining)), "{bdev}");
    for (method, params) in [
        ("bdev_malloc_delete", r#"{"name":"M0"}"#),
        ("srpt_map_lun", r#"{"target":"t0","bdev_name":"M0"}"#),
        ("bdev_passthru_create", r#"{"base_bdev_name":"M0","name":"P"}"#),
    ] {
        let error = bench.fail(method, params);
        assert_eq!(error.code, -16, "{method}: {error}");
        assert!(error.message.contains(draining), "{method}: {error}");
    }
    bench.ok("bdev_null_create", r#"{"name":"N2","num_blocks":8,"block_size":512}"#);
    let error = bench.fail("srpt_map_lun", r#"{"target":"t0","bdev_name":"N2","lun":7}"#);
    assert!(error.message.contains(draining), "{error}");
    let actions = bench.actions();
    assert!(actions.contains(&"1: changed t0".to_owned()), "initiators are told: {actions:?}");
    assert!(!actions.iter().any(|action| action.contains("close")), "{actions:?}");

    bench.answer_late();
    while bench.call("bdev_malloc_delete", r#"{"name":"M0"}"#).is_err() {
        std::thread::yield_now();
    }
    bench.ok("srpt_map_lun", r#"{"target":"t0","bdev_name":"N2","lun":7}"#);
    assert!(bench.actions().contains(&"1: close M0".to_owned()));
}

#[test]
fn a_core_that_does_not_answer_is_named_and_nothing_is_half_done() {
    let bench = Bench::with_target();
    let before = bench.saved();
    bench.silence("create t1");
    let create = begin(&bench, "srpt_create_target", r#"{"name":"t1"}"#);
    while bench.seen.lock().unwrap().unanswered.is_empty() {
        std::thread::yield_now();
    }
    others_are_answered(&bench);
    // The second operation at the same object waits for a moment and is told why.
    let error = bench.fail("srpt_create_target", r#"{"name":"t1"}"#);
    assert_eq!(error.code, -16);
    assert!(error.message.contains("target t1 is busy: being created for "), "{error}");
    bench.actions();
    let error = create.join().expect("no panic").expect_err("core 1 is silent");
    assert_eq!(error.code, -110);
    assert!(error.message.contains("core 1 does not answer"), "{error}");
    assert_eq!(bench.actions(), ["1: delete t1", "0: delete t1"], "undone where it may be done");
    assert_eq!(bench.saved(), before);
    bench.answer_late();
    assert_eq!(bench.saved(), before);
    bench.ok("srpt_create_target", r#"{"name":"t1"}"#);
}

#[test]
fn a_stop_waits_for_no_request_that_does_not_end() {
    let served = Served::start();
    served.bench.silence("create t1");
    let mut client = served.connect();
    let create = br#"{"id":7,"method":"srpt_create_target","params":{"name":"t1"}}"#;
    client.write_all(create).expect("open");
    while served.bench.seen.lock().unwrap().unanswered.is_empty() {
        std::thread::yield_now();
    }
    let began = Instant::now();
    served.server.stop();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("no reset");
    assert!(answer.contains("the target stops"), "{answer}");
}

#[test]
fn an_operation_that_panics_ends_alone() {
    let bench = Bench::new();
    let post = bench.shared.post();
    let lost = post.run(Duration::from_secs(60), |_| async move {
        assert!(std::hint::black_box(false), "a bug");
    });
    assert_eq!(lost, None);
    bench.ok("spdk_get_version", "");
}

#[test]
fn what_cores_ask_while_the_control_thread_is_busy_is_answered_in_order() {
    const ASKS: usize = 10_000;
    let bench = Bench::with_target();
    let (go_on, busy) = mpsc::channel::<()>();
    let post = bench.shared.post();
    post.begin(|desk| watch(desk, Duration::from_secs(1)), drop);
    // Whoever waits here holds the thread until the test lets it go on.
    post.send(Mail::Do(Box::new(move |_| assert!(busy.recv().is_err(), "nobody sends"))));
    let core = CoreId::new(0);
    for number in 0..ASKS {
        let ask = Ask::LookAt { bdev: format!("D{number}") };
        post.send(Mail::Core(Up::Ask(core, ask)));
    }
    drop(go_on);
    let (mut seen, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(60));
    while seen.len() < ASKS {
        assert!(Instant::now() < deadline, "{} answers", seen.len());
        seen.extend(bench.actions());
        std::thread::yield_now();
    }
    let expected = (0..ASKS).map(|number| format!("0: Looked {{ bdev: \"D{number}\" }}"));
    assert!(seen.into_iter().eq(expected), "each once, in the order of the questions");
}
