//! SRP_I_LOGOUT and SRP_T_LOGOUT: either side ends the channel (SRP 16A, 6.5 and 6.6).

use super::{Malformed, Opcode, SOLNT, TAG, Tag, be32, fixed, put, start, tag};

const SOL_NOT: usize = 1;
const REASON: usize = 4;

/// The initiator ends the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ILogout {
    /// The initiator's name for it. Nothing answers.
    pub tag: Tag,
}

impl ILogout {
    /// Bytes.
    pub const LEN: usize = 16;

    /// Parses the received bytes.
    pub fn parse(iu: &[u8]) -> Result<Self, Malformed> {
        let head: &[u8; Self::LEN] = fixed(iu, Opcode::ILogout)?;
        Ok(ILogout { tag: tag(head) })
    }

    /// Writes the IU and returns its bytes, 16.
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let head: &mut [u8; Self::LEN] = start(to, Opcode::ILogout);
        put(head, TAG, &self.tag);
        Self::LEN
    }
}

/// The target ends the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TLogout {
    /// The target's name for it. Nothing answers.
    pub tag: Tag,
    /// Raises the initiator's solicited event.
    pub solicited: bool,
    /// Why, as a code of the standard.
    pub reason: u32,
}

impl TLogout {
    /// Bytes.
    pub const LEN: usize = 16;
    /// `reason`: none given.
    pub const NO_REASON: u32 = 0;

    /// Parses the received bytes.
    pub fn parse(iu: &[u8]) -> Result<Self, Malformed> {
        let head: &[u8; Self::LEN] = fixed(iu, Opcode::TLogout)?;
        let solicited = head[SOL_NOT] & SOLNT != 0;
        Ok(TLogout { tag: tag(head), solicited, reason: be32(head, REASON) })
    }

    /// Writes the IU and returns its bytes, 16.
    pub fn emit(&self, to: &mut [u8]) -> usize {
        let head: &mut [u8; Self::LEN] = start(to, Opcode::TLogout);
        head[SOL_NOT] = if self.solicited { SOLNT } else { 0 };
        put(head, REASON, &self.reason.to_be_bytes());
        put(head, TAG, &self.tag);
        Self::LEN
    }
}
