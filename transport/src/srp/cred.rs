//! SRP_CRED_REQ and SRP_CRED_RSP: the target changes the request limit (SRP 16A, 6.10 and 6.11).

use super::{Malformed, Opcode, SOLNT, TAG, Tag, be32, fixed, put, start, tag};

const SOL_NOT: usize = 1;
const REQ_LIM_DELTA: usize = 4;

/// The target grants or withdraws credits. At most one request of the target is unanswered on a
/// channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredReq {
    /// The target's name for it.
    pub tag: Tag,
    /// Raises the initiator's solicited event.
    pub solicited: bool,
    /// Credits granted (or, negative, withdrawn).
    pub req_lim_delta: i32,
}

impl CredReq {
    /// Bytes.
    pub const LEN: usize = 16;

    /// Parses the received bytes.
    pub fn parse(iu: &[u8]) -> Result<Self, Malformed> {
        let head: &[u8; Self::LEN] = fixed(iu, Opcode::CredReq)?;
        Ok(CredReq {
            tag: tag(head),
            solicited: head[SOL_NOT] & SOLNT != 0,
            req_lim_delta: be32(head, REQ_LIM_DELTA).cast_signed(),
        })
    }

    /// Writes the IU and returns its bytes, 16.
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let head: &mut [u8; Self::LEN] = start(to, Opcode::CredReq);
        head[SOL_NOT] = if self.solicited { SOLNT } else { 0 };
        put(head, REQ_LIM_DELTA, &self.req_lim_delta.to_be_bytes());
        put(head, TAG, &self.tag);
        Self::LEN
    }
}

/// The initiator's answer. Uses no credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CredRsp {
    /// The request's tag.
    pub tag: Tag,
}

impl CredRsp {
    /// Bytes.
    pub const LEN: usize = 16;

    /// Parses the received bytes.
    pub fn parse(iu: &[u8]) -> Result<Self, Malformed> {
        let head: &[u8; Self::LEN] = fixed(iu, Opcode::CredRsp)?;
        Ok(CredRsp { tag: tag(head) })
    }

    /// Writes the IU and returns its bytes, 16.
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let head: &mut [u8; Self::LEN] = start(to, Opcode::CredRsp);
        put(head, TAG, &self.tag);
        Self::LEN
    }
}
