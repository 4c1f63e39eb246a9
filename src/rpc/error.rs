//! JSON-RPC error objects.

use std::fmt;

use serde_json::{Value, json};

use crate::control::Refused;

/// The document is not JSON.
pub const PARSE_ERROR: i32 = -32700;
/// The document is JSON but not a request.
pub const INVALID_REQUEST: i32 = -32600;
/// There is no such method.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// A parameter is missing, unknown or out of range; the message names it.
pub const INVALID_PARAMS: i32 = -32602;

/// The `error` member of an answer. Operations that failed have a negative errno as code, as in
/// SPDK, and a message that begins with the system's text for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    /// JSON-RPC code or negative errno.
    pub code: i32,
    /// For the operator.
    pub message: String,
}

impl RpcError {
    /// The bytes are no document.
    pub fn parse_error(why: impl fmt::Display) -> Self {
        RpcError { code: PARSE_ERROR, message: format!("Parse error: {why}") }
    }

    /// The document is not a request.
    pub fn invalid_request(why: impl fmt::Display) -> Self {
        RpcError { code: INVALID_REQUEST, message: format!("Invalid request: {why}") }
    }

    /// A parameter is wrong; `why` begins with its name.
    pub fn invalid_params(why: impl fmt::Display) -> Self {
        RpcError { code: INVALID_PARAMS, message: format!("Invalid parameters: {why}") }
    }

    /// There is no such method.
    pub fn method_not_found(method: &str) -> Self {
        let shown: String = method.chars().take(64).collect();
        RpcError { code: METHOD_NOT_FOUND, message: format!("Method not found: {shown}") }
    }

    /// The value of the `error` member.
    pub fn to_value(&self) -> Value {
        json!({ "code": self.code, "message": self.message })
    }
}

impl From<Refused> for RpcError {
    fn from(refused: Refused) -> Self {
        if refused.parameter {
            return RpcError::invalid_params(refused.what);
        }
        RpcError { code: -refused.errno.raw_os_error(), message: refused.to_string() }
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RpcError {}
