//! The server over a real socket.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::control::WAITING_MAX;
use crate::rpc::server::CLIENTS_MAX;
use crate::rpc::testing::{Bench, Served};
use crate::rpc::{BindError, Server};

const VERSION: &str = r#"{"jsonrpc":"2.0","id":1,"method":"spdk_get_version"}"#;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("one answer a line")).collect()
}

fn error_code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().expect("an error")
}

#[test]
fn pipelined_documents_are_answered_in_order() {
    let served = Served::start();
    let answers = lines(&served.talk(
        br#"{"id":"a","method":"log_get_level"}{"id":2.50,"method":"nope"}

            {"jsonrpc":"2.0",
            "id":3,"method":"framework_wait_init","params":null}"#,
    ));
    assert_eq!(answers[0], json!({"jsonrpc":"2.0","id":"a","result":"NOTICE"}));
    assert_eq!((answers[1]["id"].clone(), error_code(&answers[1])), (json!(2.5), -32601));
    assert_eq!(answers[2], json!({"jsonrpc":"2.0","id":3,"result":true}));
    assert_eq!(answers.len(), 3);
}

#[test]
fn answers_are_one_compact_line_with_the_id_as_it_came() {
    let served = Served::start();
    assert_eq!(
        served.talk(br#"{"id":1.50,"method":"framework_wait_init"}"#),
        "{\"jsonrpc\":\"2.0\",\"id\":1.50,\"result\":true}\n"
    );
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let served = Served::start();
    let mut stream = served.connect();
    for byte in VERSION.as_bytes() {
        stream.write_all(&[*byte]).expect("open");
    }
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).expect("answered");
    assert_eq!(&answer, br#"{"jsonrpc":"2.0""#);
}

#[test]
fn an_id_of_null_is_an_id_and_its_request_is_answered() {
    let served = Served::start();
    assert_eq!(
        served.talk(br#"{"id":null,"method":"framework_wait_init"} {"id":null,"method":"nope"}"#),
        "{\"jsonrpc\":\"2.0\",\"id\":null,\"result\":true}\n\
         {\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32601,\
         \"message\":\"Method not found: nope\"}}\n"
    );
}

#[test]
fn notifications_are_done_and_not_answered() {
    let served = Served::start();
    let answer = served.talk(
        br#"{"method":"log_set_level","params":{"level":"DEBUG"}}
            {"method":"log_set_print_level","params":{"level":"ERROR"}}
            [{"method":"framework_wait_init"}] {"method":"nope"}"#,
    );
    assert_eq!(answer, "");
    assert_eq!(served.bench.ok("log_get_level", ""), json!("DEBUG"));
    assert_eq!(served.bench.ok("log_get_print_level", ""), json!("ERROR"));
}

#[test]
fn batches_are_answered_as_one_array() {
    let served = Served::start();
    let answer = served.talk(
        br#"[{"id":1,"method":"log_get_level"},{"method":"log_get_level"},
             5,{"id":2,"method":"x"}]"#,
    );
    let answers: Value = serde_json::from_str(&answer).expect("an array");
    let codes: Vec<Option<i64>> = answers.as_array().expect("an array")[1..]
        .iter()
        .map(|answer| answer["error"]["code"].as_i64())
        .collect();
    assert_eq!(answers[0]["result"], "NOTICE");
    assert_eq!(codes, [Some(-32600), Some(-32601)]);
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_stays() {
    let served = Served::start();
    let wrong = [
        "{}",
        "[]",
        "42 ",
        "\"hello\"",
        r#"{"id":1}"#,
        r#"{"id":1,"method":5}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"log_get_level"}"#,
        r#"{"id":{},"method":"log_get_level"}"#,
        r#"{"id":true,"method":"log_get_level"}"#,
        r#"{"id":1,"method":"log_get_level","extra":1}"#,
        r#"{"id":1,"id":2,"method":"log_get_level"}"#,
    ];
    let answers = lines(&served.talk((wrong.join("") + VERSION).as_bytes()));
    for (wrong, answer) in wrong.iter().zip(&answers) {
        assert_eq!((error_code(answer), &answer["id"]), (-32600, &Value::Null), "{wrong}");
    }
    assert_eq!(answers[wrong.len()]["id"], 1);
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let answer: Value = serde_json::from_str(&served.talk(deep.as_bytes())).expect("an array");
    assert_eq!(error_code(&answer[0]), -32600);
    let batch = format!("[{}]", vec!["1"; 1025].join(","));
    let answers = lines(&served.talk(batch.as_bytes()));
    assert!(answers[0]["error"]["message"].as_str().is_some_and(|text| text.contains("1024")));
}

#[test]
fn what_is_no_json_is_answered_and_ends_the_connection() {
    let served = Served::start();
    for wrong in [
        &br#"{"id":1,"method":}"#[..],
        b"// comment\n",
        b"\xff\xfe{}",
        b"{\"id\":1,\"method\":\"\xff\"}",
        b"}",
        br#"{"id":1,"#,
    ] {
        let text = [wrong, VERSION.as_bytes()].concat();
        let sent: &[u8] = if wrong.ends_with(b",") { wrong } else { &text };
        let answers = lines(&served.talk(sent));
        assert_eq!(answers.len(), 1, "{wrong:?}");
        assert_eq!((error_code(&answers[0]), &answers[0]["id"]), (-32700, &Value::Null));
    }
}

#[test]
fn a_configuration_of_five_thousand_luns_is_saved_and_loaded() {
    const LUNS: usize = 5000;
    let (first, second) = (Served::start(), Served::start());
    first.bench.ok("srpt_create_target", r#"{"name":"t"}"#);
    for number in 0..LUNS {
        let null = json!({ "name": format!("Null{number}"), "num_blocks": 8, "block_size": 512 });
        first.bench.ok("bdev_null_create", &null.to_string());
        let lun = json!({ "target": "t", "bdev_name": format!("Null{number}") });
        first.bench.ok("srpt_map_lun", &lun.to_string());
    }
    let saved = lines(&first.talk(br#"{"id":1,"method":"save_config"}"#))[0]["result"].clone();
    let load = json!({ "id": 2, "method": "load_config", "params": saved }).to_string();
    assert!(load.len() > 1 << 20, "{}", load.len());
    let answer = second.talk(load.as_bytes());
    assert_eq!(lines(&answer), [json!({ "jsonrpc": "2.0", "id": 2, "result": true })]);
    assert_eq!(second.bench.saved(), saved);
}

#[test]
fn a_huge_request_gets_its_answer_and_costs_no_memory() {
    let served = Served::start();
    let mut stream = served.connect();
    let piece = vec![b'x'; 1 << 20];
    stream.write_all(b"{\"id\":1,\"method\":\"").expect("open");
    for _ in 0..100 {
        stream.write_all(&piece).expect("the server reads on");
    }
    let mut answer = String::new();
    stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    stream.read_to_string(&mut answer).expect("no reset");
    let answer = &lines(&answer)[0];
    assert_eq!(error_code(answer), -32600);
    assert!(answer["error"]["message"].as_str().is_some_and(|text| text.contains("16777216")));
}

#[test]
fn a_client_that_never_reads_is_closed_and_harms_nobody() {
    let served = Served::start_with(Duration::from_millis(100));
    let mut deaf = served.connect();
    deaf.set_write_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    let request = br#"{"id":1,"method":"rpc_get_methods"}"#.repeat(64);
    // Ends when the server has closed the connection, because nobody takes its answers.
    let started = Instant::now();
    while deaf.write_all(&request).is_ok() {
        assert!(started.elapsed() < Duration::from_secs(15), "still open");
    }
    assert_eq!(lines(&served.talk(VERSION.as_bytes())).len(), 1);
}

/// Clients that have each been served once, the longest idle first.
fn idle_clients(served: &Served, count: usize) -> Vec<UnixStream> {
    let client = |_| {
        let mut client = served.connect();
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        ask(&mut client);
        client
    };
    (0..count).map(client).collect()
}

/// One request and its answer, up to the line's end.
fn ask(client: &mut UnixStream) -> String {
    client.write_all(VERSION.as_bytes()).expect("open");
    line(client)
}

fn line(client: &mut UnixStream) -> String {
    let (mut answer, mut byte) = (String::new(), [0]);
    while !answer.ends_with('\n') && client.read(&mut byte).expect("an answer") == 1 {
        answer.push(char::from(byte[0]));
    }
    answer
}

#[test]
fn the_client_that_is_idle_for_longest_makes_room() {
    let served = Served::start();
    let mut clients = idle_clients(&served, CLIENTS_MAX);
    // Half a request keeps no place, and the first one is idle no longer than the second.
    clients[1].write_all(b"{\"id\":1,").expect("open");
    ask(&mut clients[0]);
    for gone in [1, 2] {
        assert_eq!(lines(&served.talk(VERSION.as_bytes())).len(), 1);
        assert_eq!(clients[gone].read(&mut [0; 8]).expect("closed in order"), 0);
        // What has left again gives its place back.
        clients.push(idle_clients(&served, 1).remove(0));
    }
    for (number, client) in clients.iter_mut().enumerate().filter(|(n, _)| ![1, 2].contains(n)) {
        assert!(ask(client).contains("fields"), "client {number}");
    }
}

#[test]
fn a_client_that_waits_for_an_answer_keeps_its_place() {
    let served = Served::start();
    let wait = |name: &str, ms: u32| {
        format!(
            r#"{{"id":1,"method":"bdev_get_bdevs","params":{{"name":"{name}","timeout":{ms}}}}}"#
        )
    };
    let mut waiting = idle_clients(&served, WAITING_MAX);
    for client in &mut waiting {
        client.write_all(wait("late", 600_000).as_bytes()).expect("open");
    }
    let started = Instant::now();
    while served.bench.run(|desk| async move { desk.waiting() }) < WAITING_MAX {
        assert!(started.elapsed() < Duration::from_secs(60), "they do not wait");
        std::thread::yield_now();
    }
    let refused = served.talk(wait("x", 1).as_bytes());
    assert_eq!(error_code(&lines(&refused)[0]), -16, "{refused}");
    // Those that do nothing come and go.
    let _idle = idle_clients(&served, CLIENTS_MAX);
    served.bench.ok("bdev_null_create", r#"{"name":"late","num_blocks":8,"block_size":512}"#);
    for client in &mut waiting {
        assert!(line(client).contains("\"name\":\"late\""));
    }
}

#[test]
fn the_socket_is_private_and_goes_with_the_server() {
    let served = Served::start();
    let mode = std::fs::metadata(served.path()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let Served { server, folder, .. } = served;
    server.stop();
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn a_dead_targets_socket_is_taken_over_and_a_live_ones_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rpc.sock");
    drop(UnixListener::bind(&path).expect("a socket that nobody listens on"));
    let bench = Bench::new();
    let server = Server::start(&path, Arc::clone(&bench.shared)).expect("taken over");
    let second = Server::start(&path, Arc::clone(&Bench::new().shared)).err();
    assert!(matches!(second, Some(BindError::Live { .. })), "{second:?}");
    server.stop();

    let _foreign = UnixListener::bind(&path).expect("free again");
    let second = Server::start(&path, Arc::clone(&Bench::new().shared)).err();
    assert!(matches!(second, Some(BindError::Live { .. })), "{second:?}");

    let file = folder.path().join("file");
    std::fs::write(&file, "precious").expect("written");
    let refused = Server::start(&file, bench.shared).err().expect("not a socket");
    assert!(refused.to_string().contains("is not a socket"));
    assert_eq!(std::fs::read_to_string(&file).expect("untouched"), "precious");
}

#[test]
fn waiting_for_a_bdev_holds_nobody_up_and_ends_with_the_bdev() {
    let served = Served::start();
    let mut waiting = served.connect();
    waiting
        .write_all(
            br#"{"id":1,"method":"bdev_get_bdevs","params":{"name":"late","timeout":60000}}"#,
        )
        .expect("open");
    let create = r#"{"name":"late","num_blocks":8,"block_size":512}"#;
    served.bench.ok("bdev_null_create", create);
    let mut answer = [0; 60];
    waiting.read_exact(&mut answer).expect("answered");
    assert!(String::from_utf8_lossy(&answer).contains("\"name\":\"late\""));

    // A client that waits does not keep the server from stopping.
    waiting
        .write_all(
            br#"{"id":2,"method":"bdev_get_bdevs","params":{"name":"never","timeout":60000}}"#,
        )
        .expect("open");
    let started = Instant::now();
    served.server.stop();
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// Whoever still looks at the control plane then must not keep socket files from being removed.
#[test]
fn a_control_plane_that_has_stopped_holds_no_listener() {
    let bench = Bench::new();
    let holders = Arc::strong_count(&bench.seen);
    bench.run(|desk| async move { desk.stop(Duration::from_secs(1)).await }).expect("they answer");
    bench.with(|control| control.drop_listeners());
    assert_eq!(Arc::strong_count(&bench.seen), holders - 1);
}
