//! A small JSON-RPC client.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// How long an answer may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// JSON-RPC's or the method's own code.
    pub code: i64,
    /// For the operator.
    pub message: String,
}

/// One connection.
#[derive(Debug)]
pub struct Rpc {
    stream: BufReader<UnixStream>,
    last_id: u64,
}

impl Rpc {
    /// Connects; `None` while nobody listens.
    pub fn connect(path: &Path) -> Option<Rpc> {
        let stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(ANSWER_WAIT_MAX)).expect("a time limit");
        Some(Rpc { stream: BufReader::new(stream), last_id: 0 })
    }

    /// The connection itself, to send what no client would.
    pub fn stream(&mut self) -> &mut UnixStream {
        self.stream.get_mut()
    }

    /// Calls a method. `params` may be null for none.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, Refusal> {
        self.last_id += 1;
        let mut request = json!({ "jsonrpc": "2.0", "method": method, "id": self.last_id });
        if !params.is_null() {
            request["params"] = params.clone();
        }
        self.stream().write_all(request.to_string().as_bytes()).expect("the target reads requests");
        let mut answer = self.answer().unwrap_or_else(|| panic!("{method}: connection closed"));
        assert_eq!(answer["id"], self.last_id, "{answer}");
        match answer.get("error") {
            None => Ok(answer["result"].take()),
            Some(error) => Err(refusal(error)),
        }
    }

    /// The next answer; `None` at the end of the connection.
    pub fn answer(&mut self) -> Option<Value> {
        let mut line = String::new();
        let len = self.stream.read_line(&mut line).expect("an answer in time");
        (len > 0).then(|| serde_json::from_str(&line).expect("answers are JSON"))
    }
}

fn refusal(error: &Value) -> Refusal {
    let code = error["code"].as_i64().expect("an error has a code");
    Refusal { code, message: error["message"].as_str().expect("and a message").to_owned() }
}
