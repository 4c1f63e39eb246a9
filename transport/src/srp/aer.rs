//! SRP_AER_REQ and SRP_AER_RSP: the target reports an asynchronous event (SRP 16A, 6.12 and 6.13).

use super::{Lun, Malformed, Opcode, SOLNT, TAG, Tag, be32, field, fixed, put, start, tag};

const SOL_NOT: usize = 1;
const REQ_LIM_DELTA: usize = 4;
const LUN: usize = 20;
const SENSE_DATA_LEN: usize = 28;

/// An asynchronous event of a logical unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AerReq<'a> {
    /// The target's name for it.
    pub tag: Tag,
    /// Raises the initiator's solicited event.
    pub solicited: bool,
    /// Credits granted (or, negative, withdrawn) with it.
    pub req_lim_delta: i32,
    /// The logical unit.
    pub lun: Lun,
    /// Sense data that tells the event.
    pub sense: &'a [u8],
}

impl<'a> AerReq<'a> {
    /// Bytes without sense data.
    pub const LEN_MIN: usize = 36;

    /// Parses the received bytes.
    pub fn parse(iu: &'a [u8]) -> Result<Self, Malformed> {
        let head: &[u8; AerReq::LEN_MIN] = fixed(iu, Opcode::AerReq)?;
        let sense = iu[Self::LEN_MIN..]
            .get(..be32(head, SENSE_DATA_LEN) as usize)
            .ok_or(Malformed::TooShort { opcode: Opcode::AerReq, len: iu.len() })?;
        Ok(AerReq {
            tag: tag(head),
            solicited: head[SOL_NOT] & SOLNT != 0,
            req_lim_delta: be32(head, REQ_LIM_DELTA).cast_signed(),
            lun: Lun(field(head, LUN)),
            sense,
        })
    }

    /// Writes the IU and returns its bytes. `to` is at most the connection's `max_ti_iu_len` bytes
    /// long: sense data that does not fit is cut off. Panics below 36 bytes.
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let head: &mut [u8; AerReq::LEN_MIN] = start(to, Opcode::AerReq);
        head[SOL_NOT] = if self.solicited { SOLNT } else { 0 };
        put(head, REQ_LIM_DELTA, &self.req_lim_delta.to_be_bytes());
        put(head, TAG, &self.tag);
        put(head, LUN, &self.lun.0);
        let sense = &self.sense[..self.sense.len().min(to.len() - Self::LEN_MIN)];
        put(to, SENSE_DATA_LEN, &(sense.len() as u32).to_be_bytes());
        put(to, Self::LEN_MIN, sense);
        Self::LEN_MIN + sense.len()
    }
}

/// The initiator's answer. Uses no credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AerRsp {
    /// The request's tag.
    pub tag: Tag,
}

impl AerRsp {
    /// Bytes.
    pub const LEN: usize = 16;

    /// Parses the received bytes.
    pub fn parse(iu: &[u8]) -> Result<Self, Malformed> {
        let head: &[u8; Self::LEN] = fixed(iu, Opcode::AerRsp)?;
        Ok(AerRsp { tag: tag(head) })
    }

    /// Writes the IU and returns its bytes, 16.
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let head: &mut [u8; Self::LEN] = start(to, Opcode::AerRsp);
        put(head, TAG, &self.tag);
        Self::LEN
    }
}
