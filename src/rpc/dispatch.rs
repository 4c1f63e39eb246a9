//! From what a client sends to its answers.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Shared;
use super::documents::{DOCUMENT_BYTES_MAX, Documents, Next};
use super::error::{INVALID_REQUEST, RpcError};

/// Requests that one batch may hold.
pub const BATCH_REQUESTS_MAX: usize = 1024;

/// What a document leaves to be done with its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Go on with the next document.
    GoOn,
    /// The stream can't be trusted any more: close.
    Close,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a> {
    #[serde(default, borrow)]
    jsonrpc: Option<&'a RawValue>,
    method: String,
    #[serde(default, borrow)]
    params: Option<&'a RawValue>,
    /// `None`: a notification.
    #[serde(default, borrow, deserialize_with = "present")]
    id: Option<&'a RawValue>,
}

/// What is there, also if it is null.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(value).map(Some)
}

/// Handles what a client has sent: every document that is whole with these bytes, in turn. `write`
/// gets the answers; an answer that says why the stream ends is the last.
pub fn received<E>(
    shared: &Shared,
    documents: &mut Documents,
    bytes: &[u8],
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<Then, E> {
    documents.push(bytes);
    loop {
        let error = match documents.next_document() {
            Next::More => return Ok(Then::GoOn),
            Next::Document(whole) => match document(shared, &whole, write)? {
                Then::GoOn => continue,
                Then::Close => return Ok(Then::Close),
            },
            Next::Garbage => RpcError::parse_error("a request begins with { or ["),
            Next::TooLarge => RpcError {
                code: INVALID_REQUEST,
                message: format!("Invalid request: it is larger than {DOCUMENT_BYTES_MAX} bytes"),
            },
        };
        write(&refuse_document(&error))?;
        return Ok(Then::Close);
    }
}

/// Handles one document. `write` gets the answer in pieces as it comes into being, so that the
/// answer to a batch never exists as a whole; nothing is written for notifications.
pub fn document<E>(
    shared: &Shared,
    document: &[u8],
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<Then, E> {
    let parsed = match std::str::from_utf8(document) {
        Ok(text) => serde_json::from_str::<&RawValue>(text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let raw = match parsed {
        Ok(raw) => raw.get(),
        Err(why) => {
            write(&refuse_document(&RpcError::parse_error(why)))?;
            return Ok(Then::Close);
        }
    };
    if raw.starts_with('[') {
        batch(shared, raw, write)?;
    } else if let Some(answer) = request(shared, raw) {
        write(format!("{answer}\n").as_bytes())?;
    }
    Ok(Then::GoOn)
}

/// A whole answer to something that is no request.
pub fn refuse_document(error: &RpcError) -> Vec<u8> {
    format!("{}\n", failure("null", error)).into_bytes()
}

fn batch<E>(
    shared: &Shared,
    raw: &str,
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let requests: Vec<&RawValue> = serde_json::from_str(raw).expect("an array that was parsed");
    if requests.is_empty() {
        return write(&refuse_document(&RpcError::invalid_request("the batch is empty")));
    }
    if requests.len() > BATCH_REQUESTS_MAX {
        return write(&refuse_document(&RpcError::invalid_request(format_args!(
            "the batch has {} requests, more than {BATCH_REQUESTS_MAX}",
            requests.len()
        ))));
    }
    let mut before = "[";
    for answer in requests.iter().filter_map(|raw| request(shared, raw.get())) {
        write(format!("{before}{answer}").as_bytes())?;
        before = ",";
    }
    // With no answer at all the batch was all notifications.
    if before == "," { write(b"]\n") } else { Ok(()) }
}

/// The answer to one request; `None` for a notification.
fn request(shared: &Shared, raw: &str) -> Option<String> {
    let request = match parse_request(raw) {
        Ok(request) => request,
        Err(error) => return Some(failure("null", &error)),
    };
    let result = shared.call(&request.method, request.params);
    if let Err(error) = &result {
        tracing::debug!("{}: {error}", request.method);
    }
    let id = request.id?.get();
    Some(match result {
        Ok(result) => success(id, &result),
        Err(error) => failure(id, &error),
    })
}

fn parse_request(raw: &str) -> Result<Request<'_>, RpcError> {
    if !raw.starts_with('{') {
        return Err(RpcError::invalid_request("it is not an object"));
    }
    let request: Request<'_> = serde_json::from_str(raw).map_err(RpcError::invalid_request)?;
    if request.jsonrpc.is_some_and(|version| version.get() != "\"2.0\"") {
        return Err(RpcError::invalid_request("jsonrpc is not \"2.0\""));
    }
    let is_id = |id: &RawValue| {
        let starts = |first: char| first == '"' || first == '-' || first.is_ascii_digit();
        id.get() == "null" || id.get().starts_with(starts)
    };
    if !request.id.is_none_or(is_id) {
        return Err(RpcError::invalid_request("id is neither a string nor a number nor null"));
    }
    Ok(request)
}

fn success(id: &str, result: &Value) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}")
}

fn failure(id: &str, error: &RpcError) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{}}}", error.to_value())
}
