//! SRP_RSP: the answer to a command or a task management request (SRP 16A, 6.9).

use super::{Direction, Malformed, Opcode, SOLNT, TAG, Tag, be32, fixed, put, start, tag};

const SOL_NOT: usize = 1;
const REQ_LIM_DELTA: usize = 4;
const FLAGS: usize = 18;
const STATUS: usize = 19;
const DATA_OUT_RES_CNT: usize = 20;
const DATA_IN_RES_CNT: usize = 24;
const SENSE_DATA_LEN: usize = 28;
const RESP_DATA_LEN: usize = 32;

const RSPVALID: u8 = 0x01;
const SNSVALID: u8 = 0x02;
const DOOVER: u8 = 0x04;
const DOUNDER: u8 = 0x08;
const DIOVER: u8 = 0x10;
const DIUNDER: u8 = 0x20;

/// Response data of a task management request: three reserved bytes and the code.
const RESPONSE_DATA_BYTES: usize = 4;

/// Codes of the response data.
pub mod response_code {
    /// The function is complete.
    pub const SUCCESS: u8 = 0x00;
    /// A field of the request is invalid.
    pub const FIELDS_INVALID: u8 = 0x02;
    /// The function is not supported.
    pub const NOT_SUPPORTED: u8 = 0x04;
    /// The function failed.
    pub const FAILED: u8 = 0x05;
}

/// Data that did not move, or would have moved with a larger buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Residual {
    /// Which data.
    pub direction: Direction,
    /// True: the command had `count` bytes more than the initiator's buffer. False: it moved
    /// `count` bytes less.
    pub overflow: bool,
    /// Bytes.
    pub count: u32,
}

/// A response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rsp<'a> {
    /// The request's tag.
    pub tag: Tag,
    /// Credits granted (or, negative, withdrawn) with it.
    pub req_lim_delta: i32,
    /// Raises the initiator's solicited event.
    pub solicited: bool,
    /// SCSI status (SAM-5, 5.3).
    pub status: u8,
    /// Residual of one direction. Of a response with two, the one of DATA-IN.
    pub residual: Option<Residual>,
    /// Sense data; empty for none.
    pub sense: &'a [u8],
    /// Code of the response data, see [`response_code`]: in answers to task management.
    pub response_code: Option<u8>,
}

impl<'a> Rsp<'a> {
    /// Bytes of a response without response data and sense.
    pub const LEN_MIN: usize = 36;

    /// GOOD, without residual.
    #[inline]
    pub const fn good(tag: Tag, req_lim_delta: i32, solicited: bool) -> Rsp<'static> {
        let (residual, sense, response_code) = (None, &[], None);
        Rsp { tag, req_lim_delta, solicited, status: 0, residual, sense, response_code }
    }

    /// Parses the received bytes.
    #[inline]
    pub fn parse(iu: &'a [u8]) -> Result<Self, Malformed> {
        let head: &[u8; Rsp::LEN_MIN] = fixed(iu, Opcode::Rsp)?;
        let flags = head[FLAGS];
        let mut rsp = Rsp {
            tag: tag(head),
            req_lim_delta: be32(head, REQ_LIM_DELTA).cast_signed(),
            solicited: head[SOL_NOT] & SOLNT != 0,
            status: head[STATUS],
            residual: None,
            sense: &[],
            response_code: None,
        };
        if flags & (DOOVER | DOUNDER | DIOVER | DIUNDER) != 0 {
            let (direction, over, at) = if flags & (DIOVER | DIUNDER) != 0 {
                (Direction::In, DIOVER, DATA_IN_RES_CNT)
            } else {
                (Direction::Out, DOOVER, DATA_OUT_RES_CNT)
            };
            let overflow = flags & over != 0;
            rsp.residual = Some(Residual { direction, overflow, count: be32(head, at) });
        }
        if flags & (RSPVALID | SNSVALID) != 0 {
            rsp.parse_tail(iu, flags)
                .ok_or(Malformed::TooShort { opcode: Opcode::Rsp, len: iu.len() })?;
        }
        Ok(rsp)
    }

    /// Response data and sense. `None` when they are longer than the IU.
    fn parse_tail(&mut self, iu: &'a [u8], flags: u8) -> Option<()> {
        let mut tail = iu.get(Self::LEN_MIN..)?;
        if flags & RSPVALID != 0 {
            let (data, rest) = tail.split_at_checked(be32(iu, RESP_DATA_LEN) as usize)?;
            self.response_code = Some(*data.get(RESPONSE_DATA_BYTES - 1)?);
            tail = rest;
        }
        if flags & SNSVALID != 0 {
            self.sense = tail.get(..be32(iu, SENSE_DATA_LEN) as usize)?;
        }
        Some(())
    }

    /// Writes the IU and returns its bytes. `to` is at most the connection's `max_ti_iu_len` bytes
    /// long: sense data that does not fit is cut off. Panics below 36 bytes, 40 with a response
    /// code.
    #[inline]
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let head: &mut [u8; Rsp::LEN_MIN] = start(to, Opcode::Rsp);
        head[SOL_NOT] = if self.solicited { SOLNT } else { 0 };
        put(head, REQ_LIM_DELTA, &self.req_lim_delta.to_be_bytes());
        put(head, TAG, &self.tag);
        head[STATUS] = self.status;
        if let Some(Residual { direction, overflow, count }) = self.residual {
            let (flag, at) = match (direction, overflow) {
                (Direction::Out, true) => (DOOVER, DATA_OUT_RES_CNT),
                (Direction::Out, false) => (DOUNDER, DATA_OUT_RES_CNT),
                (Direction::In, true) => (DIOVER, DATA_IN_RES_CNT),
                (Direction::In, false) => (DIUNDER, DATA_IN_RES_CNT),
            };
            head[FLAGS] |= flag;
            put(head, at, &count.to_be_bytes());
        }
        let mut len = Self::LEN_MIN;
        if let Some(code) = self.response_code {
            to[FLAGS] |= RSPVALID;
            put(to, RESP_DATA_LEN, &(RESPONSE_DATA_BYTES as u32).to_be_bytes());
            put(to, len, &[0, 0, 0, code]);
            len += RESPONSE_DATA_BYTES;
        }
        let sense = &self.sense[..self.sense.len().min(to.len() - len)];
        if !sense.is_empty() {
            to[FLAGS] |= SNSVALID;
            put(to, SENSE_DATA_LEN, &(sense.len() as u32).to_be_bytes());
            put(to, len, sense);
            len += sense.len();
        }
        len
    }
}
