//! Vital product data pages (SPC-4 7.8, SBC-3 6.5).

use super::LuView;
use super::page::Page;

/// A page that is served. The value is its page code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum VpdPage {
    /// Supported VPD pages.
    Supported = 0x00,
    /// Unit serial number.
    SerialNumber = 0x80,
    /// Device identification.
    DeviceIdentification = 0x83,
    /// Extended INQUIRY data.
    ExtendedInquiry = 0x86,
    /// Block limits.
    BlockLimits = 0xb0,
    /// Block device characteristics.
    BlockDeviceCharacteristics = 0xb1,
    /// Logical block provisioning.
    LogicalBlockProvisioning = 0xb2,
}

impl VpdPage {
    /// All pages in ascending order, as page 00h lists them.
    const ALL: [VpdPage; 7] = [
        VpdPage::Supported,
        VpdPage::SerialNumber,
        VpdPage::DeviceIdentification,
        VpdPage::ExtendedInquiry,
        VpdPage::BlockLimits,
        VpdPage::BlockDeviceCharacteristics,
        VpdPage::LogicalBlockProvisioning,
    ];

    /// The page with this code, if it is served.
    pub(super) fn from_code(code: u8) -> Option<VpdPage> {
        VpdPage::ALL.into_iter().find(|page| *page as u8 == code)
    }
}

/// Designator types and code sets (SPC-4 7.8.5.1).
pub(super) mod designator {
    /// T10 vendor ID based.
    pub(crate) const T10_VENDOR: u8 = 0x1;
    /// NAA.
    pub(crate) const NAA: u8 = 0x3;
    /// Relative target port identifier.
    pub(crate) const RELATIVE_PORT: u8 = 0x4;
    /// UUID (SPC-5 7.7.6.11); readers of older standards skip types that they don't know.
    pub(crate) const UUID: u8 = 0xa;
    /// The designator is binary.
    pub(crate) const BINARY: u8 = 0x1;
    /// The designator is ASCII.
    pub(crate) const ASCII: u8 = 0x2;
    /// PIV: the protocol identifier is valid.
    pub(crate) const PIV: u8 = 0x80;
    /// The designator is of the target port.
    pub(crate) const OF_TARGET_PORT: u8 = 0x10;
    /// Protocol identifier of SRP, in the upper half of the first byte.
    pub(crate) const SRP: u8 = 0x40;
}

/// Page length of B0h and B1h (SBC-3 6.5.2, 6.5.3) and of 86h (SPC-4 7.8.7).
const LONG_PAGE: usize = 0x3c;

/// Appends a page with its header.
pub(super) fn page(which: VpdPage, lu: &LuView<'_>, out: &mut Page) {
    out.bytes(&[0x00, which as u8, 0, 0]);
    match which {
        VpdPage::Supported => VpdPage::ALL.into_iter().for_each(|page| out.u8(page as u8)),
        VpdPage::SerialNumber => out.bytes(lu.identity.serial.as_bytes()),
        VpdPage::DeviceIdentification => device_identification(lu, out),
        VpdPage::ExtendedInquiry => extended_inquiry(lu, out),
        VpdPage::BlockLimits => block_limits(lu, out),
        VpdPage::BlockDeviceCharacteristics => block_device_characteristics(lu, out),
        VpdPage::LogicalBlockProvisioning => logical_block_provisioning(lu, out),
    }
    out.patch_u16(2, out.len() - 4);
}

/// Appends page 00h of a LUN without a logical unit: there are no other pages.
pub(super) fn absent(peripheral: u8, out: &mut Page) {
    let page = VpdPage::Supported as u8;
    out.bytes(&[peripheral, page, 0, 1, page]);
}

/// Who the logical unit is (T10 vendor ID, NAA, UUID), and through which port it is seen.
fn device_identification(lu: &LuView<'_>, out: &mut Page) {
    let identity = lu.identity;
    let t10_bytes = identity.vendor.len() + identity.serial.len();
    out.bytes(&[designator::ASCII, designator::T10_VENDOR, 0, t10_bytes as u8]);
    out.bytes(&identity.vendor);
    out.bytes(identity.serial.as_bytes());

    out.bytes(&[designator::BINARY, designator::NAA, 0, 16]);
    out.bytes(&identity.naa);

    out.bytes(&[designator::BINARY, designator::UUID, 0, 18, 0x10, 0]);
    out.bytes(&identity.uuid);

    let of_port = designator::PIV | designator::OF_TARGET_PORT;
    out.bytes(&[designator::SRP | designator::BINARY, of_port | designator::RELATIVE_PORT, 0, 4]);
    out.u16(0);
    out.u16(lu.relative_port);
}

/// Only simple tasks; whether a write cache is volatile (V_SUP).
fn extended_inquiry(lu: &LuView<'_>, out: &mut Page) {
    out.u8(0);
    out.u8(0x01);
    out.u8(u8::from(lu.geometry.write_cache));
    out.zeros(LONG_PAGE - 3);
}

fn block_limits(lu: &LuView<'_>, out: &mut Page) {
    let geometry = &lu.geometry;
    // WSNZ: a WRITE SAME of 0 blocks is refused rather than meaning "to the end".
    out.u8(0x01);
    out.u8(lu.compare_and_write_blocks_max() as u8);
    out.u16(1 << geometry.physical_exponent.min(15));
    out.u32(lu.transfer_blocks_max());
    // No optimal transfer length, no PRE-FETCH.
    out.u32(0);
    out.u32(0);
    out.u32(lu.unmap_blocks_max());
    out.u32(lu.unmap_descriptors_max());
    let granularity = geometry.unmap_granularity / geometry.block_bytes;
    let ugavalid = geometry.unmap && granularity != 0;
    out.u32(if ugavalid { granularity } else { 0 });
    out.u32(if ugavalid { 1 << 31 } else { 0 });
    out.u64(lu.write_same_blocks_max());
    out.zeros(LONG_PAGE + 4 - out.len());
}

/// MEDIUM ROTATION RATE: 1 without rotation, 0 when it is not known.
fn block_device_characteristics(lu: &LuView<'_>, out: &mut Page) {
    out.u16(u16::from(!lu.geometry.rotational));
    out.zeros(LONG_PAGE - 2);
}

/// LBPU, LBPWS, LBPWS10 and provisioning type thin when space can be given back; LBPRZ.
fn logical_block_provisioning(lu: &LuView<'_>, out: &mut Page) {
    let geometry = &lu.geometry;
    let zeroes = if geometry.unmap_zeroes { 0x04 } else { 0 };
    let (abilities, thin) = if geometry.unmap { (0xe0 | zeroes, 0x02) } else { (0, 0) };
    out.bytes(&[0, abilities, thin, 0]);
}
