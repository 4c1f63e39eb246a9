//! SRP_LOGIN_RSP, the private data of an accepted connection (SRP 16A, 6.3).

use super::{Malformed, Opcode, TAG, Tag, be16, be32, fixed, put, start, tag};

const REQ_LIM_DELTA: usize = 4;
const MAX_IT_IU_LEN: usize = 16;
const MAX_TI_IU_LEN: usize = 20;
const BUF_FMT: usize = 24;
const RSP_FLAGS: usize = 26;
const OTHER_CHANNELS_MASK: u8 = 0x03;
const IMMEDIATE_DATA: u8 = 0x80;

/// What became of the other channels of the I_T nexus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OtherChannels {
    /// There were none.
    None = 0,
    /// They were terminated.
    Terminated = 1,
    /// They were kept.
    Kept = 2,
}

/// The answer to a login that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoginRsp {
    /// The request's tag.
    pub tag: Tag,
    /// Initial credit: requests the initiator may have outstanding.
    pub req_lim_delta: i32,
    /// Largest IU, in bytes, that the initiator may send.
    pub max_it_iu_len: u32,
    /// Largest IU, in bytes, that the target will send.
    pub max_ti_iu_len: u32,
    /// Descriptor formats the target supports.
    pub buf_fmt: u16,
    /// What became of the other channels.
    pub other_channels: OtherChannels,
    /// Immediate data may be used, at the offset of the request.
    pub immediate_data: bool,
}

impl LoginRsp {
    /// Bytes.
    pub const LEN: usize = 52;

    /// Parses private data; a connection manager may pad it.
    pub fn parse(data: &[u8]) -> Result<Self, Malformed> {
        let head: &[u8; Self::LEN] = fixed(data, Opcode::LoginRsp)?;
        let other_channels = match head[RSP_FLAGS] & OTHER_CHANNELS_MASK {
            0 => OtherChannels::None,
            1 => OtherChannels::Terminated,
            2 => OtherChannels::Kept,
            _ => {
                return Err(Malformed::Undefined { opcode: Opcode::LoginRsp, offset: RSP_FLAGS });
            }
        };
        Ok(LoginRsp {
            tag: tag(head),
            req_lim_delta: be32(head, REQ_LIM_DELTA).cast_signed(),
            max_it_iu_len: be32(head, MAX_IT_IU_LEN),
            max_ti_iu_len: be32(head, MAX_TI_IU_LEN),
            buf_fmt: be16(head, BUF_FMT),
            other_channels,
            immediate_data: head[RSP_FLAGS] & IMMEDIATE_DATA != 0,
        })
    }

    /// Writes the IU and returns its bytes, 52.
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let head: &mut [u8; Self::LEN] = start(to, Opcode::LoginRsp);
        put(head, REQ_LIM_DELTA, &self.req_lim_delta.to_be_bytes());
        put(head, TAG, &self.tag);
        put(head, MAX_IT_IU_LEN, &self.max_it_iu_len.to_be_bytes());
        put(head, MAX_TI_IU_LEN, &self.max_ti_iu_len.to_be_bytes());
        put(head, BUF_FMT, &self.buf_fmt.to_be_bytes());
        head[RSP_FLAGS] =
            self.other_channels as u8 | if self.immediate_data { IMMEDIATE_DATA } else { 0 };
        Self::LEN
    }
}
