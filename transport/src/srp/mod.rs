//! The wire format of the SCSI RDMA Protocol (SRP revision 16A, with the immediate data of SRP-2).
//!
//! One information unit (IU) per file: a value, its `parse` from the bytes that were received and
//! its `emit` into the caller's bytes. Nothing here allocates, keeps state or knows a fabric.
//!
//! Integers are big-endian. Tags are opaque and echoed unchanged. Reserved bytes are sent as zero
//! and ignored when received. Only the received length counts: `parse` never reads past it and
//! never panics. `emit` writes every byte of the length it returns, and panics when the caller's
//! space is too short, which is the caller's bug.

mod aer;
mod cmd;
mod cred;
mod descriptor;
mod login_rej;
mod login_req;
mod login_rsp;
mod logout;
mod rsp;
mod tsk_mgmt;

#[cfg(test)]
mod tests;

pub use aer::{AerReq, AerRsp};
pub use cmd::{CDB_BYTES, Cmd, CmdError, CmdFault, DirectCmd, ImmediateCmd, InvalidCmd, TaskAttr};
pub use cred::{CredReq, CredRsp};
pub use descriptor::{
    DESCRIPTOR_BYTES, DataDesc, Direction, INDIRECT_BYTES, Indirect, Seg, Segs, covers,
    decode_table, encode_table,
};
pub use login_rej::{LoginRej, RejectReason};
pub use login_req::{LoginForm, LoginReq, Multichannel};
pub use login_rsp::{LoginRsp, OtherChannels};
pub use logout::{ILogout, TLogout};
pub use rsp::{Residual, Rsp, response_code};
pub use tsk_mgmt::{Tmf, TskMgmt};

/// The 8 opaque bytes by which the sender of a request knows its answer.
pub type Tag = [u8; 8];

/// An SRP port identifier: 16 bytes.
pub type PortId = [u8; 16];

/// Supported-format bit of LOGIN_REQ, LOGIN_RSP and LOGIN_REJ: direct descriptors.
pub const BUF_FMT_DIRECT: u16 = 0x0002;
/// Supported-format bit of LOGIN_REQ, LOGIN_RSP and LOGIN_REJ: indirect descriptors.
pub const BUF_FMT_INDIRECT: u16 = 0x0004;

/// Smallest request IU length that a login may ask for: 64 bytes (SRP 16A, 6.2).
pub const REQ_IT_IU_LEN_MIN: u32 = 64;

/// `SOLNT` of RSP, T_LOGOUT, CRED_REQ and AER_REQ: this IU raises the solicited event.
const SOLNT: u8 = 0x01;

/// The first byte of an information unit (except in the 56-byte login request).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// SRP_LOGIN_REQ, only in connection management.
    LoginReq = 0x00,
    /// SRP_TSK_MGMT.
    TskMgmt = 0x01,
    /// SRP_CMD.
    Cmd = 0x02,
    /// SRP_I_LOGOUT.
    ILogout = 0x03,
    /// SRP_CRED_RSP.
    CredRsp = 0x41,
    /// SRP_AER_RSP.
    AerRsp = 0x42,
    /// SRP_T_LOGOUT.
    TLogout = 0x80,
    /// SRP_CRED_REQ.
    CredReq = 0x81,
    /// SRP_AER_REQ.
    AerReq = 0x82,
    /// SRP_LOGIN_RSP, only in connection management.
    LoginRsp = 0xC0,
    /// SRP_RSP.
    Rsp = 0xC1,
    /// SRP_LOGIN_REJ, only in connection management.
    LoginRej = 0xC2,
}

impl Opcode {
    /// The opcode of a byte, if it is one.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x00 => Opcode::LoginReq,
            0x01 => Opcode::TskMgmt,
            0x02 => Opcode::Cmd,
            0x03 => Opcode::ILogout,
            0x41 => Opcode::CredRsp,
            0x42 => Opcode::AerRsp,
            0x80 => Opcode::TLogout,
            0x81 => Opcode::CredReq,
            0x82 => Opcode::AerReq,
            0xC0 => Opcode::LoginRsp,
            0xC1 => Opcode::Rsp,
            0xC2 => Opcode::LoginRej,
            _ => return None,
        })
    }

    /// Bytes that every IU of this opcode has at least.
    pub const fn min_len(self) -> usize {
        match self {
            Opcode::LoginReq => LoginReq::LEN_IB,
            Opcode::TskMgmt => TskMgmt::LEN,
            Opcode::Cmd => Cmd::LEN_MIN,
            Opcode::ILogout => ILogout::LEN,
            Opcode::CredRsp => CredRsp::LEN,
            Opcode::AerRsp => AerRsp::LEN,
            Opcode::TLogout => TLogout::LEN,
            Opcode::CredReq => CredReq::LEN,
            Opcode::AerReq => AerReq::LEN_MIN,
            Opcode::LoginRsp => LoginRsp::LEN,
            Opcode::Rsp => Rsp::LEN_MIN,
            Opcode::LoginRej => LoginRej::LEN,
        }
    }

    /// The opcode of a received IU that is long enough for it.
    #[inline]
    pub fn of(iu: &[u8]) -> Result<Self, Malformed> {
        let &byte = iu.first().ok_or(Malformed::Empty)?;
        let opcode = Opcode::from_byte(byte).ok_or(Malformed::UnknownOpcode { byte })?;
        if iu.len() < opcode.min_len() {
            return Err(Malformed::TooShort { opcode, len: iu.len() });
        }
        Ok(opcode)
    }
}

/// An IU that can't be understood. Its connection closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No bytes.
    #[error("empty information unit")]
    Empty,
    /// Not an SRP opcode.
    #[error("unknown opcode {byte:#04x}")]
    UnknownOpcode {
        /// The byte.
        byte: u8,
    },
    /// Another opcode than the one to parse.
    #[error("{found:?} in place of {wanted:?}")]
    Unexpected {
        /// What the parser is for.
        wanted: Opcode,
        /// What arrived.
        found: Opcode,
    },
    /// Fewer bytes than the opcode, or the lengths inside the IU, need.
    #[error("{opcode:?} of {len} bytes is too short")]
    TooShort {
        /// The opcode.
        opcode: Opcode,
        /// Bytes received.
        len: usize,
    },
    /// A field has a value that the standard does not define.
    #[error("{opcode:?} has an undefined value at byte {offset}")]
    Undefined {
        /// The opcode.
        opcode: Opcode,
        /// The field's first byte.
        offset: usize,
    },
}

/// The fixed part of an IU: its first `N` bytes, of the opcode `wanted`.
#[inline]
fn fixed<const N: usize>(iu: &[u8], wanted: Opcode) -> Result<&[u8; N], Malformed> {
    match iu.first_chunk::<N>() {
        Some(head) if head[0] == wanted as u8 => Ok(head),
        _ => Err(mismatch(iu, wanted)),
    }
}

#[cold]
fn mismatch(iu: &[u8], wanted: Opcode) -> Malformed {
    match Opcode::of(iu) {
        Err(malformed) => malformed,
        Ok(found) => Malformed::Unexpected { wanted, found },
    }
}

/// The `N` bytes from `at`, which must be inside.
#[inline]
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the length was checked")
}

/// Where the tag is in every IU but the 56-byte login request.
const TAG: usize = 8;

/// The tag of an IU.
#[inline]
fn tag(head: &[u8]) -> Tag {
    field(head, TAG)
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(field(bytes, at))
}

#[inline]
fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(field(bytes, at))
}

/// Copies `bytes` to the range from `at`.
#[inline]
fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Zeroes the first `N` bytes of `to` and writes the opcode.
#[inline]
fn start<const N: usize>(to: &mut [u8], opcode: Opcode) -> &mut [u8; N] {
    let head = to.first_chunk_mut::<N>().expect("space for the information unit");
    *head = [0; N];
    head[0] = opcode as u8;
    head
}

/// A logical unit number in its 8-byte form (SAM-5, 4.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Lun(pub [u8; 8]);

impl Lun {
    /// Highest number that the flat space addressing method can carry (SAM-5, 4.7.7.1).
    pub const MAX: u16 = 0x3FFF;

    /// The number, from a single-level LUN in peripheral device addressing with bus 0 or in flat
    /// space addressing. `None`: any other form, which names no logical unit of this target.
    #[inline]
    pub const fn number(self) -> Option<u16> {
        let [first, second, 0, 0, 0, 0, 0, 0] = self.0 else { return None };
        match first >> 6 {
            0b00 if first == 0 => Some(second as u16),
            0b01 => Some(((first & 0x3F) as u16) << 8 | second as u16),
            _ => None,
        }
    }

    /// The 8-byte form: peripheral device addressing up to 255, flat space above. `None` above
    /// [`Lun::MAX`].
    pub const fn from_number(number: u16) -> Option<Self> {
        let [high, low] = number.to_be_bytes();
        match number {
            0..=0xFF => Some(Lun([0, low, 0, 0, 0, 0, 0, 0])),
            0x100..=Self::MAX => Some(Lun([0x40 | high, low, 0, 0, 0, 0, 0, 0])),
            _ => None,
        }
    }
}

/// Solicited-notification wishes of SRP_CMD and SRP_TSK_MGMT: whether the response is to raise the
/// initiator's solicited event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SolNot {
    /// SCSOLNT: on success.
    pub on_success: bool,
    /// UCSOLNT: on failure.
    pub on_failure: bool,
}

impl SolNot {
    const SCSOLNT: u8 = 0x02;
    const UCSOLNT: u8 = 0x04;

    #[inline]
    const fn from_byte(byte: u8) -> Self {
        SolNot { on_success: byte & Self::SCSOLNT != 0, on_failure: byte & Self::UCSOLNT != 0 }
    }

    #[inline]
    const fn to_byte(self) -> u8 {
        (self.on_success as u8) << 1 | (self.on_failure as u8) << 2
    }

    /// Whether the response of a request that ended so is solicited.
    #[inline]
    pub const fn solicits(self, success: bool) -> bool {
        if success { self.on_success } else { self.on_failure }
    }
}
