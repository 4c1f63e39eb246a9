//! SRP_LOGIN_REJ, the private data of a refused connection (SRP 16A, 6.4).

use super::{Malformed, Opcode, TAG, Tag, be16, be32, fixed, put, start, tag};

const REASON: usize = 4;
const BUF_FMT: usize = 24;

/// Why a login is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u32)]
pub enum RejectReason {
    /// Unable to establish an RDMA channel, no reason specified.
    #[error("unable to establish a channel")]
    UnableToEstablish = 0x0001_0000,
    /// Insufficient RDMA channel resources.
    #[error("insufficient resources")]
    InsufficientResources = 0x0001_0001,
    /// The requested initiator-to-target IU length is too large (or too small).
    #[error("requested information unit length is out of range")]
    ItIuTooLarge = 0x0001_0002,
    /// Unable to associate the channel with the named target port.
    #[error("no such target port")]
    UnableToAssociate = 0x0001_0003,
    /// Unsupported data buffer descriptor format.
    #[error("unsupported descriptor format")]
    UnsupportedDescriptorFormat = 0x0001_0004,
    /// The target port does not support several channels per I_T nexus.
    #[error("several channels are not supported")]
    MultichannelNotSupported = 0x0001_0005,
    /// The channel limit of this initiator is reached.
    #[error("channel limit reached")]
    ChannelLimit = 0x0001_0006,
}

impl RejectReason {
    /// The reason of a code, if it is defined.
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0x0001_0000 => RejectReason::UnableToEstablish,
            0x0001_0001 => RejectReason::InsufficientResources,
            0x0001_0002 => RejectReason::ItIuTooLarge,
            0x0001_0003 => RejectReason::UnableToAssociate,
            0x0001_0004 => RejectReason::UnsupportedDescriptorFormat,
            0x0001_0005 => RejectReason::MultichannelNotSupported,
            0x0001_0006 => RejectReason::ChannelLimit,
            _ => return None,
        })
    }
}

/// The answer to a login that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginRej {
    /// The request's tag.
    pub tag: Tag,
    /// Why.
    pub reason: RejectReason,
    /// Descriptor formats the target supports.
    pub buf_fmt: u16,
}

impl LoginRej {
    /// Bytes.
    pub const LEN: usize = 32;

    /// Parses private data; a connection manager may pad it. An undefined reason is an error.
    pub fn parse(data: &[u8]) -> Result<Self, Malformed> {
        let head: &[u8; Self::LEN] = fixed(data, Opcode::LoginRej)?;
        let reason = RejectReason::from_code(be32(head, REASON))
            .ok_or(Malformed::Undefined { opcode: Opcode::LoginRej, offset: REASON })?;
        Ok(LoginRej { tag: tag(head), reason, buf_fmt: be16(head, BUF_FMT) })
    }

    /// Writes the IU and returns its bytes, 32.
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let head: &mut [u8; Self::LEN] = start(to, Opcode::LoginRej);
        put(head, REASON, &(self.reason as u32).to_be_bytes());
        put(head, TAG, &self.tag);
        put(head, BUF_FMT, &self.buf_fmt.to_be_bytes());
        Self::LEN
    }
}
