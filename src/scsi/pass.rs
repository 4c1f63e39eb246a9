//! Commands for a device that takes them as they are: what is decided and changed on their way.
//!
//! The device sees one initiator, this host, so what belongs to a nexus is answered as for every
//! unit: reservations (SPC-2), unit attentions, the LUN map. PERSISTENT RESERVE is refused, because
//! registrations of one initiator would be those of all.
//!
//! Of what a device says only two things are changed: the designators of its target port are
//! replaced by ours, and a read-only mapping shows as write protected.

use super::attention::Attention;
use super::cdb::length_of_group;
use super::opcodes::opcode;
use super::sense::{Sense, key};
use super::vpd::{VpdPage, designator};

/// Operation codes (SPC-2, SPC-4, SBC-3, SSC-4) that are looked at.
mod code {
    pub(super) const PERSISTENT_RESERVE_IN: u8 = 0x5e;
    pub(super) const PERSISTENT_RESERVE_OUT: u8 = 0x5f;
    pub(super) const EXTENDED: u8 = 0x7e;
    pub(super) const VARIABLE: u8 = 0x7f;
}

/// Bytes in which a device is asked for its page 83h, whatever an initiator asked for.
pub const IDENTIFICATION_BYTES: u16 = 2048;

/// Where a command is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// By the device; the CDB has so many bytes.
    Forward(usize),
    /// By the device, with its page 83h changed.
    Identification,
    /// Here, as for every logical unit.
    Here,
    /// Here, if a unit attention is pending; else by the device.
    RequestSense,
}

/// Where a command is answered; an error is CHECK CONDITION. `cdb` has at least 16 bytes, and may
/// be longer than the command.
pub fn classify(cdb: &[u8], cdb_bytes_max: usize) -> Result<Pass, Sense> {
    match cdb[0] {
        opcode::REPORT_LUNS
        | opcode::RESERVE_6
        | opcode::RESERVE_10
        | opcode::RELEASE_6
        | opcode::RELEASE_10 => return Ok(Pass::Here),
        opcode::REQUEST_SENSE => return Ok(Pass::RequestSense),
        opcode::INQUIRY if cdb[1] & 0x01 != 0 && cdb[2] == VpdPage::DeviceIdentification as u8 => {
            return Ok(Pass::Identification);
        }
        code::PERSISTENT_RESERVE_IN | code::PERSISTENT_RESERVE_OUT | code::EXTENDED => {
            return Err(Sense::INVALID_OPCODE);
        }
        _ => {}
    }
    let bytes = match cdb[0] {
        code::VARIABLE => 8 + usize::from(cdb[7]),
        // Vendors choose the length; what is too much is zeros.
        operation_code => length_of_group(operation_code).unwrap_or(16),
    };
    if bytes > cdb.len().min(cdb_bytes_max) {
        return Err(Sense::invalid_field_in_cdb(7));
    }
    Ok(Pass::Forward(bytes))
}

/// Sets the write protect bit of MODE SENSE data (SPC-4 7.5.5, SBC-3 6.4.1, SSC-4 8.3).
pub fn protect(cdb: &[u8], data: &mut [u8]) {
    let at = match cdb[0] {
        opcode::MODE_SENSE_6 => 2,
        opcode::MODE_SENSE_10 => 3,
        _ => return,
    };
    if let Some(parameter) = data.get_mut(at) {
        *parameter |= 0x80;
    }
}

/// The unit attentions that all other sessions must see when a device has reported `sense` to one
/// of them: bits of [`Attention`].
pub fn attentions_of(sense: &[u8]) -> u16 {
    let of = |at: usize| sense.get(at).copied().unwrap_or(0);
    let (sense_key, asc, ascq) = match of(0) & 0x7f {
        0x70 => (of(2) & 0x0f, of(12), of(13)),
        0x72 => (of(1) & 0x0f, of(2), of(3)),
        _ => return 0,
    };
    match (sense_key, asc, ascq) {
        (key::UNIT_ATTENTION, 0x28, _) => Attention::MediumChanged.bit(),
        (key::UNIT_ATTENTION, 0x29, _) => Attention::PowerOn.bit(),
        (key::UNIT_ATTENTION, 0x2a, 0x09) => Attention::CapacityChanged.bit(),
        _ => 0,
    }
}

/// Replaces the target port designators of page 83h (SPC-4 7.8.5) by that of our port. `page`
/// holds `len` bytes of it and has room for eight more. Returns the bytes there are now.
pub fn own_port(page: &mut [u8], len: usize, relative_port: u16) -> usize {
    const HEADER: usize = 4;
    let code = VpdPage::DeviceIdentification as u8;
    if len < HEADER || page[1] != code {
        return len;
    }
    let said = HEADER + usize::from(u16::from_be_bytes([page[2], page[3]]));
    let (mut from, mut to) = (HEADER, HEADER);
    while from + HEADER <= said.min(len) {
        let bytes = HEADER + usize::from(page[from + 3]);
        if from + bytes > said.min(len) {
            break;
        }
        if page[from + 1] & 0x30 != designator::OF_TARGET_PORT {
            page.copy_within(from..from + bytes, to);
            to += bytes;
        }
        from += bytes;
    }
    let [high, low] = relative_port.to_be_bytes();
    let of_port = designator::PIV | designator::OF_TARGET_PORT | designator::RELATIVE_PORT;
    let ours = [designator::SRP | designator::BINARY, of_port, 0, 4, 0, 0, high, low];
    if let Some(place) = page.get_mut(to..to + ours.len()) {
        place.copy_from_slice(&ours);
        to += ours.len();
    }
    page[2..HEADER].copy_from_slice(&((to - HEADER) as u16).to_be_bytes());
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cdb(bytes: &[u8]) -> Vec<u8> {
        let mut cdb = bytes.to_vec();
        cdb.resize(16, 0);
        cdb
    }

    #[test]
    fn what_belongs_to_a_nexus_is_answered_here() {
        for (bytes, expected) in [
            (&[0xa0, 0][..], Ok(Pass::Here)),
            (&[0x03, 0], Ok(Pass::RequestSense)),
            (&[0x12, 1, 0x83, 0, 255], Ok(Pass::Identification)),
            (&[0x12, 1, 0x80, 0, 255], Ok(Pass::Forward(6))),
            (&[0x12, 0, 0x83, 0, 255], Ok(Pass::Forward(6))),
            (&[0x16], Ok(Pass::Here)),
            (&[0x56], Ok(Pass::Here)),
            (&[0x17], Ok(Pass::Here)),
            (&[0x57], Ok(Pass::Here)),
            (&[0x5e, 0], Err(Sense::INVALID_OPCODE)),
            (&[0x5f, 0], Err(Sense::INVALID_OPCODE)),
            (&[0x28, 0], Ok(Pass::Forward(10))),
            (&[0xa8, 0], Ok(Pass::Forward(12))),
            (&[0x88, 0], Ok(Pass::Forward(16))),
            (&[0xc1, 0], Ok(Pass::Forward(16))),
            (&[0x7f, 0, 0, 0, 0, 0, 0, 8], Ok(Pass::Forward(16))),
            (&[0x7f, 0, 0, 0, 0, 0, 0, 24], Err(Sense::invalid_field_in_cdb(7))),
        ] {
            assert_eq!(classify(&cdb(bytes), 32), expected, "{bytes:02x?}");
        }
        let mut long = cdb(&[0x7f, 0, 0, 0, 0, 0, 0, 24]);
        long.resize(32, 0);
        assert_eq!(classify(&long, 32), Ok(Pass::Forward(32)));
        assert!(classify(&long, 31).is_err());
    }

    #[test]
    fn mode_sense_of_a_read_only_mapping_shows_write_protect() {
        let mut mode = [11, 0, 0x10, 8];
        protect(&[0x1a], &mut mode);
        assert_eq!(mode, [11, 0, 0x90, 8]);
        let mut mode = [0, 14, 0, 0];
        protect(&[0x5a], &mut mode);
        assert_eq!(mode, [0, 14, 0, 0x80]);
        protect(&[0x1a], &mut []);
        let mut other = [0; 4];
        protect(&[0x28], &mut other);
        assert_eq!(other, [0; 4]);
    }

    #[test]
    fn attentions_of_both_sense_formats_reach_the_others() {
        let fixed = |asc, ascq| {
            [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0].map(|byte: u8| byte)
        };
        assert_eq!(attentions_of(&fixed(0x28, 0)), Attention::MediumChanged.bit());
        assert_eq!(attentions_of(&fixed(0x29, 3)), Attention::PowerOn.bit());
        assert_eq!(attentions_of(&fixed(0x2a, 9)), Attention::CapacityChanged.bit());
        assert_eq!(attentions_of(&fixed(0x2a, 1)), 0);
        assert_eq!(attentions_of(&[0x72, 6, 0x28, 0, 0, 0, 0, 0]), Attention::MediumChanged.bit());
        assert_eq!(attentions_of(&[0x72, 5, 0x28, 0, 0, 0, 0, 0]), 0);
        assert_eq!(attentions_of(&[0x71, 0, 6]), 0);
        assert_eq!(attentions_of(&[]), 0);
    }

    /// NAA of the unit, NAA and relative port of the port, name of the target device.
    fn page() -> Vec<u8> {
        let mut page = vec![0, 0x83, 0, 0];
        page.extend([0x01, 0x03, 0, 8, 0x33, 1, 2, 3, 4, 5, 6, 7]);
        page.extend([0x61, 0x93, 0, 8, 0x52, 1, 2, 3, 4, 5, 6, 7]);
        page.extend([0x61, 0x94, 0, 4, 0, 0, 0, 1]);
        page.extend([0x63, 0xa8, 0, 4, b'n', b'a', b'a', b'.']);
        page[3] = (page.len() - 4) as u8;
        page
    }

    #[test]
    fn the_port_is_ours_and_all_else_the_devices() {
        let original = page();
        let mut bytes = original.clone();
        bytes.resize(64, 0xee);
        let len = own_port(&mut bytes, original.len(), 0x0203);
        let mut expected = original[..16].to_vec();
        expected.extend(&original[36..44]);
        expected.extend([0x41, 0x94, 0, 4, 0, 0, 2, 3]);
        expected[3] = (expected.len() - 4) as u8;
        assert_eq!(&bytes[..len], expected);
    }

    #[test]
    fn a_page_that_is_cut_or_another_one_stays_harmless() {
        for len in 0..page().len() {
            let mut bytes = page();
            bytes.truncate(len);
            let room = own_port(&mut bytes.clone(), len, 1);
            assert!(room <= len, "{room} of {len} bytes");
            bytes.resize(len + 8, 0xee);
            let made = own_port(&mut bytes, len, 1);
            assert!(made <= len + 8);
            assert!(made < 4 || usize::from(bytes[3]) + 4 == made);
        }
        let mut other = page();
        other[1] = 0x80;
        let same = other.clone();
        assert_eq!(own_port(&mut other, same.len(), 1), same.len());
        assert_eq!(other, same);
    }
}
