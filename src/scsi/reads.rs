//! The commands that a read-only mapping of a passed-through device lets through: what reads, and
//! what moves a medium without changing what is recorded on it.
//!
//! A command that is not in the table is refused, so one that nobody has heard of here destroys
//! nothing. That holds for vendors' commands, for ATA PASS-THROUGH, whose ATA command may be any,
//! and for self-tests, which may write. Data for the device is refused whatever the command.
//!
//! Rewinding, locating and moving a volume from one place to another stay possible: without them
//! nothing could be read of a tape or library.

/// Kinds of devices, a bit for each peripheral device type (SPC-4 table 142).
type Types = u32;

/// Every type.
const ALL: Types = u32::MAX;
/// Disks: direct access, write-once, optical memory, simplified, host managed zoned.
const DISK: Types = 1 << 0x00 | 1 << 0x04 | 1 << 0x07 | 1 << 0x0e | 1 << 0x14;
const TAPE: Types = 1 << 0x01;
const PROCESSOR: Types = 1 << 0x03;
const CD: Types = 1 << 0x05;
const CHANGER: Types = 1 << 0x08;

/// A set of service actions, a bit for each.
type Actions = u32;

/// The command has no service actions.
const NO_ACTIONS: Actions = u32::MAX;

/// Operation code, service actions, types of devices.
struct Row(u8, Actions, Types);

impl Row {
    fn is_of(&self, cdb: &[u8], peripheral_type: u8) -> bool {
        let Row(opcode, actions, types) = *self;
        opcode == cdb[0]
            && actions & (1 << (cdb[1] & 0x1f)) != 0
            && types & (1 << (peripheral_type & 0x1f)) != 0
    }
}

/// In ascending order of operation codes. Some codes are other commands on other devices.
static READS: &[Row] = &[
    Row(0x00, NO_ACTIONS, ALL),       // TEST UNIT READY (SPC-4 6.47)
    Row(0x01, NO_ACTIONS, TAPE),      // REWIND (SSC-3 7.9)
    Row(0x03, NO_ACTIONS, ALL),       // REQUEST SENSE (SPC-4 6.39)
    Row(0x05, NO_ACTIONS, TAPE),      // READ BLOCK LIMITS (SSC-3 7.5)
    Row(0x07, NO_ACTIONS, CHANGER),   // INITIALIZE ELEMENT STATUS (SMC-3 6)
    Row(0x08, NO_ACTIONS, DISK),      // READ (6) (SBC-2 5.5)
    Row(0x08, NO_ACTIONS, TAPE),      // READ (6) (SSC-3 6.4)
    Row(0x08, NO_ACTIONS, PROCESSOR), // RECEIVE (SPC-2 8.2.1)
    Row(0x0f, NO_ACTIONS, TAPE),      // READ REVERSE (6) (SSC-3 6.5)
    Row(0x11, NO_ACTIONS, TAPE),      // SPACE (6) (SSC-3 6.6)
    Row(0x12, NO_ACTIONS, ALL),       // INQUIRY (SPC-4 6.6)
    Row(0x13, NO_ACTIONS, TAPE),      // VERIFY (6) (SSC-3 6.7)
    Row(0x1a, NO_ACTIONS, ALL),       // MODE SENSE (6) (SPC-4 6.13)
    Row(0x1b, NO_ACTIONS, DISK),      // START STOP UNIT (SBC-3 5.25)
    Row(0x1b, NO_ACTIONS, TAPE),      // LOAD UNLOAD (SSC-3 7.2)
    Row(0x1b, NO_ACTIONS, CD),        // START STOP UNIT (MMC-6 6)
    Row(0x1b, NO_ACTIONS, CHANGER),   // OPEN/CLOSE IMPORT/EXPORT ELEMENT (SMC-3 6)
    Row(0x1c, NO_ACTIONS, ALL),       // RECEIVE DIAGNOSTIC RESULTS (SPC-4 6.27)
    Row(0x1e, NO_ACTIONS, ALL),       // PREVENT ALLOW MEDIUM REMOVAL (SBC-3 5.10)
    Row(0x23, NO_ACTIONS, CD),        // READ FORMAT CAPACITIES (MMC-6 6)
    Row(0x25, NO_ACTIONS, DISK | CD), // READ CAPACITY (10) (SBC-3 5.15)
    Row(0x28, NO_ACTIONS, DISK | CD), // READ (10) (SBC-3 5.11)
    Row(0x2b, NO_ACTIONS, TAPE),      // LOCATE (10) (SSC-3 6.3)
    Row(0x2b, NO_ACTIONS, CD),        // SEEK (10) (MMC-6 6)
    Row(0x2b, NO_ACTIONS, CHANGER),   // POSITION TO ELEMENT (SMC-3 6)
    Row(0x2f, NO_ACTIONS, DISK | CD), // VERIFY (10) (SBC-3 5.29)
    Row(0x34, NO_ACTIONS, DISK),      // PRE-FETCH (10) (SBC-3 5.8)
    Row(0x34, NO_ACTIONS, TAPE),      // READ POSITION (SSC-3 7.6)
    Row(0x35, NO_ACTIONS, DISK),      // SYNCHRONIZE CACHE (10) (SBC-3 5.26)
    Row(0x37, NO_ACTIONS, DISK),      // READ DEFECT DATA (10) (SBC-3 5.17)
    Row(0x37, NO_ACTIONS, CHANGER),   // INITIALIZE ELEMENT STATUS WITH RANGE (SMC-3 6)
    Row(0x3c, NO_ACTIONS, ALL),       // READ BUFFER (SPC-4 6.18)
    Row(0x3e, NO_ACTIONS, DISK),      // READ LONG (10) (SBC-3 5.19)
    Row(0x42, NO_ACTIONS, CD),        // READ SUB-CHANNEL (MMC-3 6)
    Row(0x43, NO_ACTIONS, CD),        // READ TOC/PMA/ATIP (MMC-6 6.25)
    Row(0x44, NO_ACTIONS, TAPE),      // REPORT DENSITY SUPPORT (SSC-3 7.8)
    Row(0x44, NO_ACTIONS, CD),        // READ HEADER (MMC-2 6)
    Row(0x44, NO_ACTIONS, CHANGER),   // REPORT VOLUME TYPES SUPPORTED (SMC-3 6)
    Row(0x45, NO_ACTIONS, CD),        // PLAY AUDIO (10) (MMC-3 6)
    Row(0x46, NO_ACTIONS, CD),        // GET CONFIGURATION (MMC-6 6)
    Row(0x47, NO_ACTIONS, CD),        // PLAY AUDIO MSF (MMC-3 6)
    Row(0x4a, NO_ACTIONS, CD),        // GET EVENT STATUS NOTIFICATION (MMC-6 6)
    Row(0x4b, NO_ACTIONS, CD),        // PAUSE/RESUME (MMC-3 6)
    Row(0x4d, NO_ACTIONS, ALL),       // LOG SENSE (SPC-4 6.8)
    Row(0x4e, NO_ACTIONS, CD),        // STOP PLAY/SCAN (MMC-3 6)
    Row(0x51, NO_ACTIONS, CD),        // READ DISC INFORMATION (MMC-6 6)
    Row(0x52, NO_ACTIONS, CD),        // READ TRACK INFORMATION (MMC-6 6)
    Row(0x5a, NO_ACTIONS, ALL),       // MODE SENSE (10) (SPC-4 6.14)
    Row(0x5c, NO_ACTIONS, CD),        // READ BUFFER CAPACITY (MMC-6 6)
    Row(0x81, NO_ACTIONS, TAPE),      // READ REVERSE (16) (SSC-3 5.4)
    Row(0x88, NO_ACTIONS, DISK),      // READ (16) (SBC-3 5.13)
    Row(0x88, NO_ACTIONS, TAPE),      // READ (16) (SSC-3 5.3)
    Row(0x8c, NO_ACTIONS, ALL),       // READ ATTRIBUTE (SPC-4 6.17)
    Row(0x8f, NO_ACTIONS, DISK),      // VERIFY (16) (SBC-3 5.31)
    Row(0x8f, NO_ACTIONS, TAPE),      // VERIFY (16) (SSC-3 5.5)
    Row(0x90, NO_ACTIONS, DISK),      // PRE-FETCH (16) (SBC-3 5.9)
    Row(0x91, NO_ACTIONS, DISK),      // SYNCHRONIZE CACHE (16) (SBC-3 5.27)
    Row(0x91, NO_ACTIONS, TAPE),      // SPACE (16) (SSC-3 7.11)
    Row(0x92, NO_ACTIONS, TAPE),      // LOCATE (16) (SSC-3 7.3)
    Row(0x95, 1 << 0x00, DISK),       // REPORT ZONES (ZBC 5.2)
    // READ CAPACITY (16), READ LONG (16), GET LBA STATUS, REPORT REFERRALS (SBC-3 5.16, 5.20, 5.4,
    // 5.23)
    Row(0x9e, 1 << 0x10 | 1 << 0x11 | 1 << 0x12 | 1 << 0x13, DISK),
    Row(0xa2, NO_ACTIONS, ALL), // SECURITY PROTOCOL IN (SPC-4 6.40)
    // REPORT IDENTIFYING INFORMATION, TARGET PORT GROUPS, ALIASES, SUPPORTED OPERATION CODES,
    // SUPPORTED TASK MANAGEMENT FUNCTIONS, PRIORITY, TIMESTAMP (SPC-4 6.32, 6.37, 6.30, 6.35, 6.36,
    // 6.34, 6.38); SEND KEY on a CD
    Row(0xa3, 1 << 0x05 | 0x3f << 0x0a, !CD),
    Row(0xa4, NO_ACTIONS, CD),           // REPORT KEY (MMC-6 6)
    Row(0xa5, NO_ACTIONS, CD),           // PLAY AUDIO (12) (MMC-3 6)
    Row(0xa5, NO_ACTIONS, CHANGER),      // MOVE MEDIUM (SMC-3 6)
    Row(0xa6, NO_ACTIONS, CD | CHANGER), // LOAD/UNLOAD MEDIUM (MMC-6 6), EXCHANGE (SMC-3 6)
    Row(0xa8, NO_ACTIONS, DISK | CD),    // READ (12) (SBC-3 5.12)
    Row(0xab, 1 << 0x01, ALL),           // READ MEDIA SERIAL NUMBER (SPC-4 6.19)
    Row(0xac, NO_ACTIONS, CD),           // GET PERFORMANCE (MMC-6 6)
    Row(0xad, NO_ACTIONS, CD),           // READ DISC STRUCTURE (MMC-6 6)
    Row(0xaf, NO_ACTIONS, DISK),         // VERIFY (12) (SBC-3 5.30)
    Row(0xb5, NO_ACTIONS, CHANGER),      // REQUEST VOLUME ELEMENT ADDRESS (SMC-3 6)
    Row(0xb7, NO_ACTIONS, DISK),         // READ DEFECT DATA (12) (SBC-3 5.18)
    Row(0xb8, NO_ACTIONS, CHANGER),      // READ ELEMENT STATUS (SMC-3 6)
    Row(0xb9, NO_ACTIONS, CD),           // READ CD MSF (MMC-6 6)
    Row(0xbb, NO_ACTIONS, CD),           // SET CD SPEED (MMC-6 6)
    Row(0xbd, NO_ACTIONS, CD),           // MECHANISM STATUS (MMC-6 6)
    Row(0xbe, NO_ACTIONS, CD),           // READ CD (MMC-6 6)
];

/// Service actions of the variable length CDB (SPC-4 4.2.3) in bytes 8 and 9, all of disks.
const VARIABLE: u8 = 0x7f;
/// READ (32) (SBC-3 5.14), VERIFY (32) (SBC-3 5.32).
const VARIABLE_READS: [[u8; 2]; 2] = [[0x00, 0x09], [0x00, 0x0a]];

/// True for a command that leaves what is recorded as it is, on a device of this peripheral device
/// type. `cdb` has at least 16 bytes.
pub fn only_reads(cdb: &[u8], peripheral_type: u8) -> bool {
    if cdb[0] == VARIABLE {
        let is_disk = DISK & (1 << (peripheral_type & 0x1f)) != 0;
        return is_disk && VARIABLE_READS.iter().any(|action| cdb[8..10] == *action);
    }
    READS.iter().any(|row| row.is_of(cdb, peripheral_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type of device, the operation codes that it is allowed, and for those with service actions
    /// the operation code and each service action.
    type Expected = (u8, &'static [u8], &'static [(u8, u8)]);

    const EXPECTED: [Expected; 6] = [
        (
            0x00,
            &[
                0x00, 0x03, 0x08, 0x12, 0x1a, 0x1b, 0x1c, 0x1e, 0x25, 0x28, 0x2f, 0x34, 0x35, 0x37,
                0x3c, 0x3e, 0x4d, 0x5a, 0x88, 0x8c, 0x8f, 0x90, 0x91, 0xa2, 0xa8, 0xaf, 0xb7,
            ],
            &[(0x95, 0), (0x9e, 0x10), (0x9e, 0x11), (0x9e, 0x12), (0x9e, 0x13)],
        ),
        (
            0x01,
            &[
                0x00, 0x01, 0x03, 0x05, 0x08, 0x0f, 0x11, 0x12, 0x13, 0x1a, 0x1b, 0x1c, 0x1e, 0x2b,
                0x34, 0x3c, 0x44, 0x4d, 0x5a, 0x81, 0x88, 0x8c, 0x8f, 0x91, 0x92, 0xa2,
            ],
            &[],
        ),
        (0x03, &[0x00, 0x03, 0x08, 0x12, 0x1a, 0x1c, 0x1e, 0x3c, 0x4d, 0x5a, 0x8c, 0xa2], &[]),
        (
            0x05,
            &[
                0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1c, 0x1e, 0x23, 0x25, 0x28, 0x2b, 0x2f, 0x3c, 0x42,
                0x43, 0x44, 0x45, 0x46, 0x47, 0x4a, 0x4b, 0x4d, 0x4e, 0x51, 0x52, 0x5a, 0x5c, 0x8c,
                0xa2, 0xa4, 0xa5, 0xa6, 0xa8, 0xac, 0xad, 0xb9, 0xbb, 0xbd, 0xbe,
            ],
            &[],
        ),
        (
            0x08,
            &[
                0x00, 0x03, 0x07, 0x12, 0x1a, 0x1b, 0x1c, 0x1e, 0x2b, 0x37, 0x3c, 0x44, 0x4d, 0x5a,
                0x8c, 0xa2, 0xa5, 0xa6, 0xb5, 0xb8,
            ],
            &[],
        ),
        (0x0d, &[0x00, 0x03, 0x12, 0x1a, 0x1c, 0x1e, 0x3c, 0x4d, 0x5a, 0x8c, 0xa2], &[]),
    ];

    /// Of every type but a CD, where the code is SEND KEY.
    const MAINTENANCE_IN: [u8; 7] = [0x05, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f];

    fn cdb(opcode: u8, action: u8) -> [u8; 32] {
        let mut cdb = [0; 32];
        (cdb[0], cdb[1]) = (opcode, action);
        cdb
    }

    #[test]
    fn of_all_operation_codes_and_service_actions_only_those_that_read_are_let_through() {
        for (peripheral_type, opcodes, actions) in EXPECTED {
            for opcode in 0..=u8::MAX {
                for action in 0..32 {
                    let maintenance = opcode == 0xa3
                        && peripheral_type != 0x05
                        && MAINTENANCE_IN.contains(&action);
                    let serial_number = (opcode, action) == (0xab, 0x01);
                    let expected = opcodes.contains(&opcode)
                        || actions.contains(&(opcode, action))
                        || maintenance
                        || serial_number;
                    let found = only_reads(&cdb(opcode, action), peripheral_type);
                    assert_eq!(
                        found, expected,
                        "{opcode:02x}h/{action:02x}h on type {peripheral_type:02x}h"
                    );
                }
            }
        }
    }

    #[test]
    fn what_destroys_is_let_through_on_no_type_of_device() {
        // FORMAT UNIT, WRITE FILEMARKS, ERASE, WRITE LONG, SANITIZE, WRITE SAME, UNMAP, ORWRITE,
        // RESET WRITE POINTER and the rest of ZBC OUT, WRITE USING TOKEN, BLANK and ATA
        // PASS-THROUGH, CLOSE TRACK, WRITE BUFFER, REASSIGN BLOCKS' data is data-out.
        let opcodes = [
            0x04, 0x0a, 0x10, 0x19, 0x1d, 0x2a, 0x2e, 0x3b, 0x3f, 0x41, 0x42, 0x48, 0x53, 0x54,
            0x55, 0x58, 0x5b, 0x80, 0x83, 0x85, 0x8a, 0x8b, 0x8e, 0x93, 0x94, 0x9d, 0x9f, 0xa1,
            0xa9, 0xaa, 0xae,
        ];
        for peripheral_type in 0..32 {
            for opcode in opcodes {
                for action in 0..32 {
                    // READ SUB-CHANNEL.
                    let reads = opcode == 0x42 && peripheral_type == 0x05;
                    assert_eq!(only_reads(&cdb(opcode, action), peripheral_type), reads);
                }
            }
            // Vendors' own.
            for opcode in 0xc0..=u8::MAX {
                assert!(!only_reads(&cdb(opcode, 0), peripheral_type), "{opcode:02x}h");
            }
        }
    }

    #[test]
    fn of_the_long_commands_of_disks_two_are_let_through() {
        for action in 0..=u16::MAX {
            let mut cdb = cdb(0x7f, 0);
            cdb[8..10].copy_from_slice(&action.to_be_bytes());
            // WRITE SAME (32) is 000Dh, ATA PASS-THROUGH (32) 1FF0h.
            assert_eq!(only_reads(&cdb, 0x00), matches!(action, 0x0009 | 0x000a), "{action:04x}h");
            assert!(!only_reads(&cdb, 0x01));
        }
    }

    #[test]
    fn the_table_is_in_order() {
        assert!(READS.is_sorted_by_key(|row| row.0));
    }
}
