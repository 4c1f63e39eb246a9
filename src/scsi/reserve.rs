//! RESERVE and RELEASE (SPC-2 5.5.1, 7.21 to 7.24): a logical unit for one initiator port alone.
//!
//! Who has reserved a unit is decided elsewhere, for all cores; here is what the commands ask for,
//! and what others may still do at a reserved unit.

use super::opcodes::opcode;

/// Operation codes of other device types (SPC-4) that are looked at.
mod code {
    pub(super) const PREVENT_ALLOW: u8 = 0x1e;
    pub(super) const LOG_SENSE: u8 = 0x4d;
}

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// RESERVE (6) and (10): the whole unit.
    Reserve,
    /// RELEASE (6) and (10).
    Release,
}

/// True for commands that are carried out while another session has reserved the unit (SPC-2
/// table 9).
pub fn is_allowed(cdb: &[u8]) -> bool {
    match cdb[0] {
        opcode::INQUIRY | opcode::REQUEST_SENSE | opcode::REPORT_LUNS => true,
        opcode::RELEASE_6 | opcode::RELEASE_10 | code::LOG_SENSE => true,
        code::PREVENT_ALLOW => cdb[4] & 0x03 == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_unit_answers_little_to_others() {
        let cdb = |operation_code: u8, byte_4: u8| [operation_code, 0, 0, 0, byte_4, 0];
        for code in [0x03, 0x12, 0x17, 0x4d, 0x57, 0xa0] {
            assert!(is_allowed(&cdb(code, 0)), "{code:02x}");
        }
        assert!(is_allowed(&cdb(0x1e, 0)) && !is_allowed(&cdb(0x1e, 1)));
        let refused = (0..=255).filter(|code| !is_allowed(&cdb(*code, 0)));
        assert_eq!(refused.count(), 256 - 7, "all else is for the holder");
    }
}
