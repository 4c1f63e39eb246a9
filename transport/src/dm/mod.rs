//! The device management agent: how `ibsrpdm` and `srp_daemon` ask a port for its SRP targets.
//!
//! [`Unit`] turns a question into an answer, byte by byte and without side effects. [`Agent`] is a
//! thread that registers with the kernel for the questions that one port receives. It answers, it
//! does not announce: that a port has such an agent is said by a port capability bit (IBA 14.2.5.6,
//! IsDeviceManagementSupported) that only a kernel module can set.
//!
//! Nothing here is near the path of a command.

mod agent;
mod datagram;
#[allow(unsafe_code, non_camel_case_types)]
mod sys;

pub use agent::{Agent, AgentError};
pub use datagram::{CONTROLLERS_MAX, Controller, DATAGRAM_BYTES, Hardware, Unit};
