//! JSON-RPC and configurations: the whole control plane, with doubles for the cores, the listeners
//! and the agents. No file is opened: a `filename` that could be one is not passed on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use bdev::registry::Registry;
use reactor::stats::CoreStats;
use serde_json::Value;
use srpt_tgt::control::{
    AgentPort, Agents, Control, Cores, Desk, ListenError, Listeners, Mail, Office, Parts, Post,
};
use srpt_tgt::logs::{Level, Logs};
use srpt_tgt::rpc::dispatch::{self, Then};
use srpt_tgt::rpc::{Documents, Next, Shared, load, methods};
use srpt_tgt::shard::message::{Action, Answer, Report, Token, Up};
use srpt_tgt::shard::names::CoreId;
use transport::dm::Controller;

use super::Input;

/// Where no file is.
const NOWHERE: &str = "/nowhere/";

/// They answer before they have read.
struct NoCores(Post);

impl Cores for NoCores {
    fn count(&self) -> usize {
        2
    }

    fn send(&mut self, core: CoreId, token: Token, _: &Action) -> bool {
        let result = Ok(Report::default());
        self.0.send(Mail::Core(Up::Answer(Answer { core, token, result })));
        true
    }
}

struct NoListeners;

impl Listeners for NoListeners {
    fn add(&self, _: &str, _: &str, _: Option<&str>) -> Result<(), ListenError> {
        Ok(())
    }

    fn remove(&self, _: &str, _: &str, _: Option<&str>) -> Result<(), ListenError> {
        Ok(())
    }
}

struct NoAgents;

impl Agents for NoAgents {
    fn enable(&self, _: &AgentPort) -> Result<(), ListenError> {
        Ok(())
    }

    fn disable(&self, _: &AgentPort) {}

    fn answered(&self, _: &AgentPort) -> u64 {
        0
    }

    fn show(&self, _: Vec<Controller>) {}
}

fn control() -> (Control, Post, Receiver<Mail>) {
    let (post, inbox) = Post::new();
    let mut control = Control::new(Parts {
        cores: Box::new(NoCores(post.clone())),
        stats: vec![(0, Arc::new(CoreStats::default())), (5, Arc::new(CoreStats::default()))],
        bdevs: Registry::with_host("fuzz"),
        host_id: "fuzz".to_owned(),
        logs: Logs::new(Level::Notice, |_| {}),
        raise: Box::new(|_| Ok(())),
    });
    control.offer("shm", Arc::new(NoListeners));
    control.offer("rdma", Arc::new(NoListeners));
    control.offer_agents(Arc::new(NoAgents));
    (control, post, inbox)
}

fn office() -> Office {
    let (control, post, inbox) = control();
    Office::new(control, post, inbox)
}

/// Loads a configuration.
fn load_into(office: &mut Office, text: &str) -> Result<(), load::LoadError> {
    let text = text.to_owned();
    office.block_on(|desk| async move { methods::load(&desk, &text).await })
}

fn saved(office: &Office) -> Value {
    office.desk().with(|control| methods::saved(control))
}

/// A configuration with something of each kind.
const FURNISHED: &str = r#"{"subsystems": [
    {"subsystem": "bdev", "config": [
        {"method": "bdev_null_create", "params": {"name": "N", "num_blocks": 9, "block_size": 512}},
        {"method": "bdev_malloc_create",
            "params": {"name": "M", "num_blocks": 8, "block_size": 4096}},
        {"method": "bdev_passthru_create", "params": {"name": "P", "base_bdev_name": "M"}}]},
    {"subsystem": "srpt", "config": [
        {"method": "srpt_create_target", "params": {"name": "t"}},
        {"method": "srpt_map_lun", "params": {"target": "t", "bdev_name": "P", "lun": 3}},
        {"method": "srpt_add_listener",
            "params": {"target": "t", "trtype": "shm", "traddr": "/nowhere/t"}}]}]}"#;

fn furnished() -> Office {
    let mut office = office();
    load_into(&mut office, FURNISHED).expect("a configuration in order");
    office
}

/// False for text that could name a file.
fn is_harmless(text: &str) -> bool {
    fn names_nothing(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().all(names_nothing),
            Value::Object(members) => members.iter().all(|(name, value)| {
                let nowhere = value.as_str().is_none_or(|path| path.starts_with(NOWHERE));
                (name != "filename" || nowhere) && names_nothing(value)
            }),
            _ => true,
        }
    }
    match serde_json::from_str(text) {
        Ok(value) => names_nothing(&value),
        // What this reader refuses another may take.
        Err(_) => !text.contains("filename") && !text.contains("\\u"),
    }
}

/// The entries of a configuration in no order: loading may change that.
fn entries(saved: &Value) -> BTreeSet<String> {
    let parts = saved["subsystems"].as_array().expect("a list of subsystems");
    let configs = parts.iter().map(|part| part["config"].as_array().expect("a list"));
    configs.flatten().map(Value::to_string).collect()
}

/// The configuration makes the same state again.
fn check_saved(saved: &Value) {
    let mut again = office();
    load_into(&mut again, &saved.to_string())
        .unwrap_or_else(|error| panic!("{}: {saved:#}", error.why));
    assert_eq!(entries(&self::saved(&again)), entries(saved));
}

/// Whether there is something to begin with, how the bytes arrive, and the bytes.
pub(super) fn stream(input: &[u8]) {
    let mut input = Input::new(input);
    let (begin, piece) = (input.u8(), usize::from(input.u8()));
    let bytes = input.rest();
    let mut plain = Documents::default();
    plain.push(bytes);
    while let Next::Document(text) = plain.next_document() {
        if !std::str::from_utf8(&text).map_or(true, is_harmless) {
            return;
        }
    }
    let (control, post, inbox) = control();
    let shared = Shared::start(control, post, inbox).expect("a thread");
    let run = Duration::from_secs(60);
    if begin & 1 != 0 {
        let furnish = |desk| async move { methods::load(&desk, FURNISHED).await };
        let loaded = shared.post().run(run, furnish).expect("an end");
        loaded.expect("a configuration in order");
    }
    shared.stop_waiting();
    let mut documents = Documents::default();
    let mut answers = Vec::new();
    let mut write = |answer: &[u8]| -> Result<(), ()> {
        answers.extend_from_slice(answer);
        Ok(())
    };
    for piece in bytes.chunks(if piece == 0 { usize::MAX } else { piece }) {
        let then = dispatch::received(&shared, &mut documents, piece, &mut write);
        if then == Ok(Then::Close) {
            break;
        }
    }
    for answer in serde_json::Deserializer::from_slice(&answers).into_iter::<Value>() {
        check_answer(&answer.expect("answers are JSON"));
    }
    let saved = |desk: Desk| async move { desk.with(|control| methods::saved(control)) };
    check_saved(&shared.post().run(run, saved).expect("an end"));
}

fn check_answer(answer: &Value) {
    if let Value::Array(answers) = answer {
        assert!(!answers.is_empty());
        return answers.iter().for_each(check_answer);
    }
    assert_eq!(answer["jsonrpc"], "2.0", "{answer}");
    let ended = [answer.get("result"), answer.get("error")];
    assert_eq!(ended.iter().flatten().count(), 1, "{answer}");
    assert!(answer.get("id").is_some(), "{answer}");
}

/// Whether there is something already, then a configuration.
pub(super) fn configuration(input: &[u8]) {
    let mut input = Input::new(input);
    let begin = input.u8();
    let Ok(text) = std::str::from_utf8(input.rest()) else { return };
    if !is_harmless(text) {
        return;
    }
    let mut office = if begin & 1 == 0 { office() } else { furnished() };
    let before = saved(&office);
    match load_into(&mut office, text) {
        Ok(()) => check_saved(&saved(&office)),
        Err(error) => {
            assert!(error.line.is_none_or(|line| line <= 1 + text.lines().count()), "{error:?}");
            assert_eq!(saved(&office), before, "half of it is there: {error:?}");
        }
    }
}
