//! READ CAPACITY (10) and (16) (SBC-3 5.15, 5.16).

use super::LuView;
use super::page::Page;

/// Bytes of READ CAPACITY (10) data.
pub(super) const CAPACITY_10_BYTES: u64 = 8;
/// Bytes of READ CAPACITY (16) data.
const CAPACITY_16_BYTES: usize = 32;
/// Logical block provisioning management is enabled.
const LBPME: u8 = 0x80;
/// Unmapped blocks read as zeros.
const LBPRZ: u8 = 0x40;

/// Appends the data; the last LBA is FFFFFFFFh when READ CAPACITY (16) is needed.
pub(super) fn capacity_10(lu: &LuView<'_>, page: &mut Page) {
    let last = lu.geometry.blocks.saturating_sub(1);
    page.u32(u32::try_from(last).unwrap_or(u32::MAX));
    page.u32(lu.geometry.block_bytes);
}

/// Appends the data.
pub(super) fn capacity_16(lu: &LuView<'_>, page: &mut Page) {
    let geometry = &lu.geometry;
    page.u64(geometry.blocks.saturating_sub(1));
    page.u32(geometry.block_bytes);
    page.u8(0);
    page.u8(geometry.physical_exponent.min(15));
    let zeroes = if geometry.unmap_zeroes { LBPRZ } else { 0 };
    page.u8(if geometry.unmap { LBPME | zeroes } else { 0 });
    page.zeros(CAPACITY_16_BYTES - page.len());
}
