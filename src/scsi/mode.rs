//! MODE SENSE (SPC-4 6.11, 6.12) and the mode pages (SBC-3 6.4, SPC-4 7.5). No page can be changed.

use super::LuView;
use super::page::Page;

/// Mode page codes.
mod code {
    /// Caching.
    pub(super) const CACHING: u8 = 0x08;
    /// Control.
    pub(super) const CONTROL: u8 = 0x0a;
    /// Informational exceptions control.
    pub(super) const EXCEPTIONS: u8 = 0x1c;
    /// All pages.
    pub(super) const ALL: u8 = 0x3f;
}

/// The pages in the order in which "all pages" returns them (ascending).
const PAGES: [u8; 3] = [code::CACHING, code::CONTROL, code::EXCEPTIONS];

/// Device-specific parameter: medium is write protected (WP).
const WP: u8 = 0x80;
/// Device-specific parameter: DPO and FUA are supported (DPOFUA).
const DPOFUA: u8 = 0x10;

/// What a MODE SENSE asks for; made by [`super::decode()`] only for pages that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeSense {
    /// MODE SENSE (10), with its longer header.
    pub ten: bool,
    /// Page code, or 3Fh for all.
    pub page: u8,
    /// PAGE CONTROL asks for the mask of changeable fields.
    pub changeable: bool,
    /// No block descriptor (DBD).
    pub no_block_descriptor: bool,
    /// A long block descriptor is accepted (LLBAA).
    pub long_lba: bool,
}

/// True for a page code that MODE SENSE answers. No page has subpages.
pub(super) fn is_page(page: u8) -> bool {
    page == code::ALL || PAGES.contains(&page)
}

/// Appends header, block descriptor and pages.
pub(super) fn mode_sense(query: &ModeSense, lu: &LuView<'_>, out: &mut Page) {
    let wp = if lu.write_protected() { WP } else { 0 };
    let long = query.long_lba && !query.no_block_descriptor;
    let descriptor_bytes = match (query.no_block_descriptor, long) {
        (true, _) => 0,
        (false, false) => 8,
        (false, true) => 16,
    };
    if query.ten {
        out.bytes(&[0, 0, 0, wp | DPOFUA, u8::from(long), 0, 0, descriptor_bytes]);
    } else {
        out.bytes(&[0, 0, wp | DPOFUA, descriptor_bytes]);
    }
    if long {
        out.u64(lu.geometry.blocks);
        out.u32(0);
        out.u32(lu.geometry.block_bytes);
    } else if descriptor_bytes != 0 {
        out.u32(u32::try_from(lu.geometry.blocks).unwrap_or(u32::MAX));
        // Byte 0 is reserved, and block lengths fit the other three.
        out.u32(lu.geometry.block_bytes);
    }
    for page in PAGES {
        if query.page == page || query.page == code::ALL {
            mode_page(page, query.changeable, lu, out);
        }
    }
    if query.ten {
        out.patch_u16(0, out.len() - 2);
    } else {
        out.patch_u8(0, out.len() - 1);
    }
}

/// Appends one page; current and default values are the same, and nothing is changeable.
fn mode_page(page: u8, changeable: bool, lu: &LuView<'_>, out: &mut Page) {
    let start = out.len();
    let length = if page == code::CACHING { 0x12 } else { 0x0a };
    out.bytes(&[page, length]);
    if !changeable {
        match page {
            // WCE.
            code::CACHING => out.u8(if lu.geometry.write_cache { 0x04 } else { 0 }),
            // TST 000b: one task set; D_SENSE 0: fixed format; GLTSD; unrestricted reordering;
            // QERR 00b; BUSY TIMEOUT PERIOD unlimited.
            code::CONTROL => out.bytes(&[0x02, 0x10, 0, 0, 0, 0, 0xff, 0xff]),
            // DEXCPT: no exceptions are reported.
            _ => out.u8(0x08),
        }
    }
    out.zeros(start + 2 + usize::from(length) - out.len());
}
