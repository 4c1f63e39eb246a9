//! Why the control plane refused an operation.

use std::fmt;

use rustix::io::Errno;

/// An operation that the operator asked for and that was not done. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The closest error number; its negative is the JSON-RPC code.
    pub errno: Errno,
    /// What was refused and why, in words.
    pub what: String,
    /// It is the value of a parameter, which the words name first.
    pub parameter: bool,
}

impl Refused {
    /// A refusal with an error number and words.
    pub fn new(errno: Errno, what: impl Into<String>) -> Self {
        Refused { errno, what: what.into(), parameter: false }
    }

    /// A parameter has a value that only its user could see to be wrong.
    pub fn parameter(what: impl Into<String>) -> Self {
        Refused { parameter: true, ..Refused::invalid(what) }
    }

    /// Something that was named does not exist (ENODEV, as SPDK answers).
    pub fn missing(what: impl Into<String>) -> Self {
        Refused::new(Errno::NODEV, what)
    }

    /// Something with that name exists (EEXIST).
    pub fn exists(what: impl Into<String>) -> Self {
        Refused::new(Errno::EXIST, what)
    }

    /// Something is in use (EBUSY).
    pub fn busy(what: impl Into<String>) -> Self {
        Refused::new(Errno::BUSY, what)
    }

    /// A value that can't be used (EINVAL).
    pub fn invalid(what: impl Into<String>) -> Self {
        Refused::new(Errno::INVAL, what)
    }
}

/// The system's text for an error number, as `strerror` gives it.
pub fn strerror(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", strerror(self.errno), self.what)
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_with_the_systems_text() {
        assert_eq!(Refused::exists("bdev Null0").to_string(), "File exists: bdev Null0");
        assert_eq!(strerror(Errno::TIMEDOUT), "Connection timed out");
    }
}
