//! Sense data (SPC-4 4.5): why a command ended with CHECK CONDITION.

/// Bytes of the longest sense data that [`Sense::emit`] makes.
pub const SENSE_BYTES_MAX: usize = 28;
/// Bytes of fixed format sense data (SPC-4 4.5.3).
const FIXED_BYTES: usize = 18;

/// Sense keys (SPC-4 table 48).
pub mod key {
    /// NO SENSE.
    pub const NO_SENSE: u8 = 0x0;
    /// NOT READY.
    pub const NOT_READY: u8 = 0x2;
    /// MEDIUM ERROR.
    pub const MEDIUM_ERROR: u8 = 0x3;
    /// HARDWARE ERROR.
    pub const HARDWARE_ERROR: u8 = 0x4;
    /// ILLEGAL REQUEST.
    pub const ILLEGAL_REQUEST: u8 = 0x5;
    /// UNIT ATTENTION.
    pub const UNIT_ATTENTION: u8 = 0x6;
    /// DATA PROTECT.
    pub const DATA_PROTECT: u8 = 0x7;
    /// ABORTED COMMAND.
    pub const ABORTED_COMMAND: u8 = 0xb;
    /// MISCOMPARE.
    pub const MISCOMPARE: u8 = 0xe;
}

/// Which byte of the CDB or of the parameter list is wrong (SPC-4 4.5.2.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldPointer {
    /// The byte is in the CDB, else in the parameter list.
    pub in_cdb: bool,
    /// Its offset.
    pub byte: u16,
}

/// One sense data: key, additional sense code and qualifier, and what is known about the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// Sense key, see [`key`].
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// INFORMATION field: an LBA, or the byte offset of a miscompare.
    pub information: Option<u64>,
    /// Where the wrong field is.
    pub field: Option<FieldPointer>,
}

impl Sense {
    /// NO SENSE: nothing to report.
    pub const NO_SENSE: Sense = Sense::new(key::NO_SENSE, 0x00, 0x00);
    /// Logical unit not ready, cause not reportable.
    pub const NOT_READY: Sense = Sense::new(key::NOT_READY, 0x04, 0x00);
    /// Write error.
    pub const WRITE_ERROR: Sense = Sense::new(key::MEDIUM_ERROR, 0x0c, 0x00);
    /// Unrecovered read error.
    pub const READ_ERROR: Sense = Sense::new(key::MEDIUM_ERROR, 0x11, 0x00);
    /// Internal target failure.
    pub const INTERNAL_TARGET_FAILURE: Sense = Sense::new(key::HARDWARE_ERROR, 0x44, 0x00);
    /// Invalid field in command information unit: less data than the CDB says.
    pub const INVALID_INFORMATION_UNIT: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x0e, 0x03);
    /// Parameter list length error.
    pub const PARAMETER_LIST_LENGTH: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x1a, 0x00);
    /// Invalid command operation code.
    pub const INVALID_OPCODE: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x20, 0x00);
    /// Logical block address out of range.
    pub const LBA_OUT_OF_RANGE: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x21, 0x00);
    /// Logical unit not supported.
    pub const LUN_NOT_SUPPORTED: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x25, 0x00);
    /// Saving parameters not supported.
    pub const SAVING_NOT_SUPPORTED: Sense = Sense::new(key::ILLEGAL_REQUEST, 0x39, 0x00);
    /// Not ready to ready change, medium may have changed.
    pub const MEDIUM_CHANGED: Sense = Sense::new(key::UNIT_ATTENTION, 0x28, 0x00);
    /// Power on, reset, or bus device reset occurred.
    pub const POWER_ON: Sense = Sense::new(key::UNIT_ATTENTION, 0x29, 0x00);
    /// Capacity data has changed.
    pub const CAPACITY_CHANGED: Sense = Sense::new(key::UNIT_ATTENTION, 0x2a, 0x09);
    /// 6/2F/00: commands cleared by another initiator.
    pub const COMMANDS_CLEARED: Sense = Sense::new(key::UNIT_ATTENTION, 0x2f, 0x00);
    /// Reported LUNs data has changed.
    pub const LUNS_CHANGED: Sense = Sense::new(key::UNIT_ATTENTION, 0x3f, 0x0e);
    /// Write protected.
    pub const WRITE_PROTECTED: Sense = Sense::new(key::DATA_PROTECT, 0x27, 0x00);
    /// Space allocation failed write protect (SBC-3 4.7.3.6).
    pub const SPACE_ALLOCATION_FAILED: Sense = Sense::new(key::DATA_PROTECT, 0x27, 0x07);
    /// Aborted command, no additional sense information.
    pub const ABORTED: Sense = Sense::new(key::ABORTED_COMMAND, 0x00, 0x00);
    /// Data phase error: the command's data did not arrive.
    pub const DATA_PHASE_ERROR: Sense = Sense::new(key::ABORTED_COMMAND, 0x4b, 0x00);

    /// Miscompare during verify operation.
    pub const MISCOMPARE: Sense = Sense::new(key::MISCOMPARE, 0x1d, 0x00);

    /// Sense data without a place.
    pub const fn new(key: u8, asc: u8, ascq: u8) -> Sense {
        Sense { key, asc, ascq, information: None, field: None }
    }

    /// Invalid field in CDB, at `byte`.
    pub const fn invalid_field_in_cdb(byte: u16) -> Sense {
        let field = Some(FieldPointer { in_cdb: true, byte });
        Sense { field, ..Sense::new(key::ILLEGAL_REQUEST, 0x24, 0x00) }
    }

    /// Invalid field in parameter list, at `byte`.
    pub const fn invalid_field_in_parameters(byte: u16) -> Sense {
        let field = Some(FieldPointer { in_cdb: false, byte });
        Sense { field, ..Sense::new(key::ILLEGAL_REQUEST, 0x26, 0x00) }
    }

    /// Miscompare of COMPARE AND WRITE, first at byte `offset` of the data (SBC-3 5.2).
    pub const fn miscompare(offset: u64) -> Sense {
        Sense { information: Some(offset), ..Sense::MISCOMPARE }
    }

    /// The sense-key specific bytes of a field pointer (SPC-4 table 50): SKSV, C/D, no bit pointer.
    fn key_specific(field: FieldPointer) -> [u8; 3] {
        let [high, low] = field.byte.to_be_bytes();
        [0x80 | (u8::from(field.in_cdb) << 6), high, low]
    }

    /// Writes current sense data in fixed (70h, 18 bytes) or descriptor format (72h, 8 to 28 bytes)
    /// to the front of `out`, cut off at its end. Returns the bytes written. In fixed format an
    /// INFORMATION beyond 32 bits is left out and VALID is 0 (SPC-4 4.5.3).
    pub fn emit(&self, descriptor: bool, out: &mut [u8]) -> usize {
        let mut bytes = [0; SENSE_BYTES_MAX];
        let length = if descriptor { self.descriptor(&mut bytes) } else { self.fixed(&mut bytes) };
        let length = length.min(out.len());
        out[..length].copy_from_slice(&bytes[..length]);
        length
    }

    fn fixed(&self, bytes: &mut [u8; SENSE_BYTES_MAX]) -> usize {
        bytes[0] = 0x70;
        bytes[2] = self.key;
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[7] = (FIXED_BYTES - 8) as u8;
        bytes[12] = self.asc;
        bytes[13] = self.ascq;
        if let Some(field) = self.field {
            bytes[15..18].copy_from_slice(&Sense::key_specific(field));
        }
        FIXED_BYTES
    }

    fn descriptor(&self, bytes: &mut [u8; SENSE_BYTES_MAX]) -> usize {
        bytes[..4].copy_from_slice(&[0x72, self.key, self.asc, self.ascq]);
        let mut length = 8;
        if let Some(information) = self.information {
            bytes[length..length + 4].copy_from_slice(&[0x00, 0x0a, 0x80, 0x00]);
            bytes[length + 4..length + 12].copy_from_slice(&information.to_be_bytes());
            length += 12;
        }
        if let Some(field) = self.field {
            bytes[length..length + 2].copy_from_slice(&[0x02, 0x06]);
            bytes[length + 4..length + 7].copy_from_slice(&Sense::key_specific(field));
            length += 8;
        }
        bytes[7] = (length - 8) as u8;
        length
    }
}

/// Data of REQUEST SENSE (SPC-4 6.39): the pending sense data, or NO SENSE. Cut off at the end of
/// `out`; returns the bytes written.
pub fn request_sense(pending: Option<Sense>, descriptor: bool, out: &mut [u8]) -> usize {
    pending.unwrap_or(Sense::NO_SENSE).emit(descriptor, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_format_byte_by_byte() {
        let mut out = [0xff; 32];
        assert_eq!(Sense::invalid_field_in_cdb(0x0102).emit(false, &mut out), 18);
        let expected = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xc0, 0x01, 0x02];
        assert_eq!(out[..18], expected);
        assert_eq!(out[18], 0xff);

        assert_eq!(Sense::miscompare(0x0102_0304).emit(false, &mut out), 18);
        let expected = [0xf0, 0, 0x0e, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0];
        assert_eq!(out[..18], expected);
    }

    #[test]
    fn information_beyond_32_bits_is_invalid_in_fixed_format_only() {
        let mut out = [0; 32];
        for (information, valid) in [(u64::from(u32::MAX), true), (1 << 32, false)] {
            let sense = Sense { information: Some(information), ..Sense::READ_ERROR };
            sense.emit(false, &mut out);
            assert_eq!(out[0], if valid { 0xf0 } else { 0x70 });
            assert_eq!(sense.emit(true, &mut out), 20);
            assert_eq!(out[8..12], [0, 0x0a, 0x80, 0]);
            assert_eq!(out[12..20], information.to_be_bytes());
        }
    }

    #[test]
    fn descriptor_format_byte_by_byte() {
        let mut out = [0xff; 32];
        assert_eq!(Sense::LBA_OUT_OF_RANGE.emit(true, &mut out), 8);
        assert_eq!(out[..8], [0x72, 5, 0x21, 0, 0, 0, 0, 0]);
        assert_eq!(Sense::invalid_field_in_parameters(9).emit(true, &mut out), 16);
        let expected = [0x72, 5, 0x26, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0x80, 0, 9, 0];
        assert_eq!(out[..16], expected);
        let both = Sense { information: Some(1), ..Sense::invalid_field_in_cdb(2) };
        assert_eq!(both.emit(true, &mut out), SENSE_BYTES_MAX);
    }

    #[test]
    fn short_buffers_cut_the_data() {
        for descriptor in [false, true] {
            let mut whole = [0; SENSE_BYTES_MAX];
            let length = Sense::invalid_field_in_cdb(1).emit(descriptor, &mut whole);
            for room in 0..length {
                let mut out = vec![0xff; room];
                assert_eq!(
                    request_sense(Some(Sense::invalid_field_in_cdb(1)), descriptor, &mut out),
                    room
                );
                assert_eq!(out, whole[..room]);
            }
        }
    }
}
