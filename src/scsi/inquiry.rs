//! Standard INQUIRY data (SPC-4 6.6.2).

use super::LuView;
use super::page::Page;

/// Qualifier 000b, device type 00h: a disk is there.
pub const PERIPHERAL_DISK: u8 = 0x00;
/// Qualifier 001b, device type 1Fh: nothing is connected, but may be one day. LUN 0 without a unit
/// says so, because initiators find the other LUNs through LUN 0, and so does a device that only
/// holds the place of a LUN. A known device type in place of 1Fh would make Linux keep a device
/// without a disk, and never look again.
pub const PERIPHERAL_UNCONNECTED: u8 = 0x3f;
/// Qualifier 011b, device type 1Fh: no logical unit can be there.
pub const PERIPHERAL_NONE: u8 = 0x7f;

/// Bytes of the data.
const STANDARD_BYTES: usize = 96;
/// SPC-4 (SPC-4 table 142).
const VERSION_SPC_4: u8 = 0x06;
/// LUNs may be of the flat space form (HISUP); response data format 2.
const HISUP_FORMAT_2: u8 = 0x12;
/// Commands may be queued (CMDQUE).
const CMDQUE: u8 = 0x02;
/// SAM-5, SRP, SPC-4, SBC-3; no version claimed of any (SPC-4 table 144).
const VERSION_DESCRIPTORS: [u16; 4] = [0x00a0, 0x0940, 0x0460, 0x04c0];

/// Appends the data; `peripheral` is its first byte.
pub(super) fn standard(peripheral: u8, lu: &LuView<'_>, page: &mut Page) {
    page.bytes(&[peripheral, 0, VERSION_SPC_4, HISUP_FORMAT_2]);
    page.bytes(&[(STANDARD_BYTES - 5) as u8, 0, 0, CMDQUE]);
    page.bytes(&lu.identity.vendor);
    page.bytes(&lu.identity.product);
    page.bytes(&lu.identity.revision);
    page.zeros(58 - page.len());
    for descriptor in VERSION_DESCRIPTORS {
        page.u16(descriptor);
    }
    page.zeros(STANDARD_BYTES - page.len());
}
