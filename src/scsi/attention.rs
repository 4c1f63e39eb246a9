//! Unit attentions of one nexus at one logical unit (SAM-5 5.14): a set of bits with a fixed order.
//! One more bit of the set is no unit attention: [`ASK_FIRST`].

use super::opcodes::opcode;
use super::sense::Sense;

/// One unit attention condition, as a bit of a set. They are reported in the order of
/// `Attention::ALL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Attention {
    /// 29/00: power on or reset.
    PowerOn = 1 << 0,
    /// 3F/0E: the LUN map has changed.
    LunsChanged = 1 << 1,
    /// 2A/09: the capacity has changed.
    CapacityChanged = 1 << 2,
    /// 2F/00: another initiator has cleared the nexus's commands.
    CommandsCleared = 1 << 3,
    /// 28/00: a medium that was gone is back, or the one of a removable device may be another.
    MediumChanged = 1 << 4,
}

impl Attention {
    /// In the order in which they are reported.
    const ALL: [Attention; 5] = [
        Attention::PowerOn,
        Attention::MediumChanged,
        Attention::LunsChanged,
        Attention::CapacityChanged,
        Attention::CommandsCleared,
    ];

    /// Its bit in a set.
    pub const fn bit(self) -> u16 {
        self as u16
    }

    /// What it reports.
    pub const fn sense(self) -> Sense {
        match self {
            Attention::PowerOn => Sense::POWER_ON,
            Attention::LunsChanged => Sense::LUNS_CHANGED,
            Attention::CapacityChanged => Sense::CAPACITY_CHANGED,
            Attention::CommandsCleared => Sense::COMMANDS_CLEARED,
            Attention::MediumChanged => Sense::MEDIUM_CHANGED,
        }
    }
}

/// Under the LUN is another logical unit than the nexus knows there. Every command ends with
/// LOGICAL UNIT NOT SUPPORTED but those of [`bypasses_attention`], until INQUIRY or REPORT LUNS has
/// told the nexus what is there. It is no unit attention, because an initiator that repeats its
/// command after one would then read and write the new unit as if it were the one before.
pub const ASK_FIRST: u16 = 1 << 15;

/// True for commands that are served while a unit attention is pending and leave it pending
/// (SPC-4 5.2: INQUIRY, REPORT LUNS; REQUEST SENSE reports it as data, and the caller clears it).
#[inline]
pub fn bypasses_attention(operation_code: u8) -> bool {
    matches!(operation_code, opcode::INQUIRY | opcode::REPORT_LUNS | opcode::REQUEST_SENSE)
}

/// The condition of a set that is reported next: its bit, and its sense data.
#[inline]
pub fn highest(bits: u16) -> Option<(u16, Sense)> {
    if bits == 0 {
        return None;
    }
    let first = Attention::ALL.into_iter().find(|attention| bits & attention.bit() != 0)?;
    Some((first.bit(), first.sense()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_in_order_until_none_is_left() {
        let mut bits = 0b1_1111;
        let mut reported = Vec::new();
        while let Some((bit, sense)) = highest(bits) {
            bits &= !bit;
            reported.push((sense.key, sense.asc, sense.ascq));
        }
        let expected = [(0x29, 0), (0x28, 0), (0x3f, 0x0e), (0x2a, 9), (0x2f, 0)];
        assert_eq!(reported, expected.map(|(asc, ascq)| (6, asc, ascq)));
        assert_eq!(highest(ASK_FIRST), None, "no unit attention");
    }

    #[test]
    fn three_commands_bypass() {
        let bypassing: Vec<u8> = (0..=255).filter(|&code| bypasses_attention(code)).collect();
        assert_eq!(bypassing, [0x03, 0x12, 0xa0]);
    }
}
