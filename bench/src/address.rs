//! Where a target listens, and who it is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::size::{ParseError, parse_bytes};

/// A listener of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `shm:PATH`: shared memory on this host, met at a Unix socket.
    Shm(PathBuf),
    /// `rdma:IP:PORT`, an IPv6 address in brackets: RDMA/CM.
    Rdma(SocketAddr),
    /// `ideal:SIZE`: no target at all, but [`crate::ideal`] with so many bytes.
    Ideal(u64),
}

impl FromStr for Address {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.split_once(':') {
            Some(("shm", path)) if !path.is_empty() => Ok(Address::Shm(path.into())),
            Some(("rdma", address)) => address.parse().map(Address::Rdma).map_err(|_| {
                ParseError::new(text, "an address like rdma:192.0.2.1:5555 is needed")
            }),
            Some(("ideal", size)) => Ok(Address::Ideal(parse_bytes(size)?)),
            _ => Err(ParseError::new(text, "an address like shm:/run/srpt.sock is needed")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Shm(path) => write!(f, "shm:{}", path.display()),
            Address::Rdma(address) => write!(f, "rdma:{address}"),
            Address::Ideal(bytes) => write!(f, "ideal:{bytes}"),
        }
    }
}

/// Half of an SRP port identifier: up to 16 hexadecimal digits, as sysfs and `add_target` show it.
pub fn parse_guid(text: &str) -> Result<u64, ParseError> {
    let digits = text.strip_prefix("0x").unwrap_or(text).replace(':', "");
    let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(&digits, 16)
        .ok()
        .filter(|_| hex && digits.len() <= 16)
        .ok_or_else(|| ParseError::new(text, "up to 16 hexadecimal digits are needed"))
}

/// An SRP port identifier of its two halves (SRP 16A, annex B: identifier extension, then GUID).
pub fn port_id(extension: u64, guid: u64) -> [u8; 16] {
    (u128::from(extension) << 64 | u128::from(guid)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_their_fabric() {
        let address: Address = "shm:/run/a:b.sock".parse().unwrap();
        assert_eq!(address, Address::Shm("/run/a:b.sock".into()));
        assert_eq!(address.to_string(), "shm:/run/a:b.sock");
        assert_eq!("ideal:64m".parse(), Ok(Address::Ideal(64 << 20)));
        let address: Address = "rdma:[fd77::1]:5555".parse().unwrap();
        assert_eq!(address.to_string(), "rdma:[fd77::1]:5555");
        for text in ["", "rdma:1.2.3.4", "shm:", "ideal:", "/run/a.sock", "tcp:1.2.3.4"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn guids_are_hexadecimal() {
        assert_eq!(parse_guid("0x0002c903000a1b2c"), Ok(0x0002_c903_000a_1b2c));
        assert_eq!(parse_guid("0002:c903:000a:1b2c"), Ok(0x0002_c903_000a_1b2c));
        for text in ["", "0x", "g", "+1", "11112222333344445"] {
            assert!(parse_guid(text).is_err(), "{text}");
        }
        assert_eq!(port_id(1, 2)[7..9], [1, 0]);
        assert_eq!(port_id(1, 2)[15], 2);
    }
}
