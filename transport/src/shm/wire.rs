//! The handshake: datagrams on the Unix socket, before the rings take over.
//!
//! Fields are in the host's byte order, because both ends run on one host. Every datagram begins
//! with magic (8 bytes), version (4) and kind (4):
//!
//! - HELLO (1): regions (4), login length (4), login; the regions' memory files travel along.
//! - ACCEPT (2): slots (4), bytes of a unit to the target (4), to the initiator (4), response
//!   length (4), response; the ring file and the wake-up descriptor travel along.
//! - REJECT (3): length (4), login reject.
//! - ERROR (4): length (4), text.

/// First bytes of every datagram.
const MAGIC: [u8; 8] = *b"SRPTSHM\n";
/// Version of the handshake and of the rings.
pub(super) const VERSION: u32 = 1;
/// Bytes of a datagram at most.
pub(super) const DATAGRAM_BYTES_MAX: usize = 4096;
/// Bytes of a login request, a response, a reject or an error text at most.
pub(super) const BODY_BYTES_MAX: usize = 1024;
/// Regions that one connection may register, at most.
pub(super) const REGIONS_MAX: usize = 16;

const HELLO: u32 = 1;
const ACCEPT: u32 = 2;
const REJECT: u32 = 3;
const ERROR: u32 = 4;

/// A datagram of the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Datagram {
    /// Initiator to target: log in.
    Hello {
        /// Memory files that travel along.
        regions: u32,
        /// The login request, opaque.
        login: Vec<u8>,
    },
    /// Target to initiator: welcome.
    Accept {
        /// Slots of each ring.
        slots: u32,
        /// Bytes of a unit from the initiator at most.
        to_target_bytes_max: u32,
        /// Bytes of a unit from the target at most.
        to_initiator_bytes_max: u32,
        /// The login response, opaque.
        login_rsp: Vec<u8>,
    },
    /// Target to initiator: no; the login reject, opaque.
    Reject(Vec<u8>),
    /// Target to initiator: the handshake itself failed, and why.
    Error(String),
}

/// What is wrong with a datagram.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// Does not begin with the magic bytes.
    #[error("not a handshake of this fabric")]
    Magic,
    /// Another version.
    #[error("handshake version {0}, supported is {VERSION}")]
    Version(u32),
    /// A kind that doesn't exist.
    #[error("handshake of unknown kind {0}")]
    Kind(u32),
    /// Lengths that don't agree.
    #[error("malformed handshake of {0} bytes")]
    Length(usize),
}

fn encoded(kind: u32, numbers: &[u32], body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= BODY_BYTES_MAX, "body of {} bytes", body.len());
    let mut bytes = Vec::with_capacity(32 + body.len());
    bytes.extend_from_slice(&MAGIC);
    let words = [VERSION, kind].into_iter().chain(numbers.iter().copied());
    words.chain([body.len() as u32]).for_each(|word| bytes.extend_from_slice(&word.to_ne_bytes()));
    bytes.extend_from_slice(body);
    bytes
}

fn word(bytes: &[u8], index: usize) -> Result<u32, WireError> {
    let at = 8 + index * 4;
    let slice = bytes.get(at..at + 4).ok_or(WireError::Length(bytes.len()))?;
    Ok(u32::from_ne_bytes(slice.try_into().expect("four bytes")))
}

/// The body after `numbers` words, which must be all the rest.
fn body(bytes: &[u8], numbers: usize) -> Result<&[u8], WireError> {
    let len = word(bytes, 2 + numbers)? as usize;
    let rest = &bytes[8 + (3 + numbers) * 4..];
    let good = len == rest.len() && len <= BODY_BYTES_MAX;
    if good { Ok(rest) } else { Err(WireError::Length(bytes.len())) }
}

impl Datagram {
    /// The bytes to send. Panics for a body above [`BODY_BYTES_MAX`]; an error text is cut.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Datagram::Hello { regions, login } => encoded(HELLO, &[*regions], login),
            Datagram::Accept { slots, to_target_bytes_max, to_initiator_bytes_max, login_rsp } => {
                let numbers = [*slots, *to_target_bytes_max, *to_initiator_bytes_max];
                encoded(ACCEPT, &numbers, login_rsp)
            }
            Datagram::Reject(login_rej) => encoded(REJECT, &[], login_rej),
            Datagram::Error(text) => {
                encoded(ERROR, &[], &text.as_bytes()[..text.len().min(BODY_BYTES_MAX)])
            }
        }
    }

    /// Understands received bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Datagram, WireError> {
        if !bytes.starts_with(&MAGIC) {
            return Err(WireError::Magic);
        }
        let version = word(bytes, 0)?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        Ok(match word(bytes, 1)? {
            HELLO => Datagram::Hello { regions: word(bytes, 2)?, login: body(bytes, 1)?.to_vec() },
            ACCEPT => Datagram::Accept {
                slots: word(bytes, 2)?,
                to_target_bytes_max: word(bytes, 3)?,
                to_initiator_bytes_max: word(bytes, 4)?,
                login_rsp: body(bytes, 3)?.to_vec(),
            },
            REJECT => Datagram::Reject(body(bytes, 0)?.to_vec()),
            ERROR => Datagram::Error(String::from_utf8_lossy(body(bytes, 0)?).into_owned()),
            kind => return Err(WireError::Kind(kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Datagram> {
        vec![
            Datagram::Hello { regions: 3, login: vec![7; 64] },
            Datagram::Accept {
                slots: 64,
                to_target_bytes_max: 8276,
                to_initiator_bytes_max: 300,
                login_rsp: vec![1; 52],
            },
            Datagram::Reject(vec![9; 32]),
            Datagram::Error("no".into()),
        ]
    }

    #[test]
    fn what_is_sent_is_understood() {
        for datagram in examples() {
            assert_eq!(Datagram::decode(&datagram.encode()), Ok(datagram));
        }
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        for datagram in examples() {
            let mut bytes = datagram.encode();
            for len in 0..bytes.len() {
                assert!(Datagram::decode(&bytes[..len]).is_err(), "{datagram:?} cut to {len}");
            }
            bytes.push(0);
            assert!(Datagram::decode(&bytes).is_err(), "{datagram:?} with a byte too many");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = Datagram::Reject(vec![]).encode();
        bytes[8] = 2;
        assert_eq!(Datagram::decode(&bytes), Err(WireError::Version(2)));
    }
}
