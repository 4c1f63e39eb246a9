//! Command descriptor blocks, as an initiator builds them. Blocks and lengths are the caller's
//! claims: nothing is checked here.

/// TEST UNIT READY (SPC-4, 6.47).
pub const fn test_unit_ready() -> [u8; 6] {
    [0; 6]
}

/// INQUIRY (SPC-4, 6.6): standard data, or a page of vital product data.
pub const fn inquiry(vpd_page: Option<u8>, allocation_len: u16) -> [u8; 6] {
    let [high, low] = allocation_len.to_be_bytes();
    match vpd_page {
        Some(page) => [0x12, 1, page, high, low, 0],
        None => [0x12, 0, 0, high, low, 0],
    }
}

/// REPORT LUNS (SPC-4, 6.33) of all addressing methods but well known logical units.
pub const fn report_luns(allocation_len: u32) -> [u8; 12] {
    let [a, b, c, d] = allocation_len.to_be_bytes();
    [0xA0, 0, 0, 0, 0, 0, a, b, c, d, 0, 0]
}

/// READ CAPACITY (16) (SBC-3, 5.16).
pub const fn read_capacity16(allocation_len: u32) -> [u8; 16] {
    let [a, b, c, d] = allocation_len.to_be_bytes();
    [0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, 0, 0]
}

/// READ (10) (SBC-3, 5.11).
#[inline]
pub const fn read10(lba: u32, blocks: u16) -> [u8; 10] {
    cdb10(0x28, 0, lba, blocks)
}

/// READ (16) (SBC-3, 5.13).
#[inline]
pub const fn read16(lba: u64, blocks: u32) -> [u8; 16] {
    cdb16(0x88, 0, lba, blocks)
}

/// WRITE (10) (SBC-3). `fua`: on the medium before the answer.
#[inline]
pub const fn write10(lba: u32, blocks: u16, fua: bool) -> [u8; 10] {
    cdb10(0x2A, if fua { FUA } else { 0 }, lba, blocks)
}

/// WRITE (16) (SBC-3). `fua`: on the medium before the answer.
#[inline]
pub const fn write16(lba: u64, blocks: u32, fua: bool) -> [u8; 16] {
    cdb16(0x8A, if fua { FUA } else { 0 }, lba, blocks)
}

/// SYNCHRONIZE CACHE (10) (SBC-3). Zero blocks: to the end.
pub const fn synchronize_cache10(lba: u32, blocks: u16) -> [u8; 10] {
    cdb10(0x35, 0, lba, blocks)
}

/// SYNCHRONIZE CACHE (16) (SBC-3). Zero blocks: to the end.
pub const fn synchronize_cache16(lba: u64, blocks: u32) -> [u8; 16] {
    cdb16(0x91, 0, lba, blocks)
}

/// WRITE SAME (16) (SBC-3). `unmap`: the blocks may be unmapped.
pub const fn write_same16(lba: u64, blocks: u32, unmap: bool) -> [u8; 16] {
    cdb16(0x93, if unmap { WRITE_SAME_UNMAP } else { 0 }, lba, blocks)
}

/// COMPARE AND WRITE (SBC-3, 5.2). The data holds the blocks to compare, then those to write.
pub const fn compare_and_write(lba: u64, blocks: u8) -> [u8; 16] {
    let mut cdb = cdb16(0x89, 0, lba, 0);
    cdb[13] = blocks;
    cdb
}

/// UNMAP (SBC-3, 5.28) with a parameter list of [`unmap_list`].
pub const fn unmap(list_len: u16) -> [u8; 10] {
    let [high, low] = list_len.to_be_bytes();
    [0x42, 0, 0, 0, 0, 0, 0, high, low, 0]
}

/// The parameter list of UNMAP for one range, as [`unmap_list`] makes it.
pub fn unmap_range(lba: u64, blocks: u32) -> [u8; UNMAP_RANGE_BYTES] {
    let mut list = [0; UNMAP_RANGE_BYTES];
    list[1] = UNMAP_RANGE_BYTES as u8 - 2;
    list[3] = UNMAP_DESCRIPTOR_BYTES as u8;
    list[8..16].copy_from_slice(&lba.to_be_bytes());
    list[16..20].copy_from_slice(&blocks.to_be_bytes());
    list
}

/// The parameter list of UNMAP (SBC-3, 5.28.2) for ranges of (first block, blocks). Panics above
/// 4095 ranges, which no list can hold.
pub fn unmap_list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let descriptors_len = ranges.len() * UNMAP_DESCRIPTOR_BYTES;
    let data_len = |from: usize| -> [u8; 2] {
        let len = descriptors_len + UNMAP_HEADER_BYTES - from;
        u16::try_from(len).expect("at most 4095 ranges").to_be_bytes()
    };
    let mut list = Vec::with_capacity(UNMAP_HEADER_BYTES + descriptors_len);
    list.extend(data_len(2));
    list.extend(data_len(UNMAP_HEADER_BYTES));
    list.extend([0; 4]);
    for (lba, blocks) in ranges {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

const FUA: u8 = 0x08;
const WRITE_SAME_UNMAP: u8 = 0x08;
const UNMAP_HEADER_BYTES: usize = 8;
const UNMAP_DESCRIPTOR_BYTES: usize = 16;
/// Bytes of a parameter list of UNMAP for one range.
pub const UNMAP_RANGE_BYTES: usize = UNMAP_HEADER_BYTES + UNMAP_DESCRIPTOR_BYTES;

const fn cdb10(opcode: u8, flags: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let lba = lba.to_be_bytes();
    let blocks = blocks.to_be_bytes();
    [opcode, flags, lba[0], lba[1], lba[2], lba[3], 0, blocks[0], blocks[1], 0]
}

const fn cdb16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = lba.to_be_bytes();
    let [i, j, k, l] = blocks.to_be_bytes();
    [opcode, flags, a, b, c, d, e, f, g, h, i, j, k, l, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_standards_put_them() {
        assert_eq!(inquiry(None, 0x0124), [0x12, 0, 0, 1, 0x24, 0]);
        assert_eq!(inquiry(Some(0x83), 0xFF), [0x12, 1, 0x83, 0, 0xFF, 0]);
        assert_eq!(report_luns(0x0102_0304), [0xA0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0]);
        assert_eq!(read_capacity16(32)[..2], [0x9E, 0x10]);
        assert_eq!(read_capacity16(32)[10..14], [0, 0, 0, 32]);
        assert_eq!(read10(0x0102_0304, 0x0506), [0x28, 0, 1, 2, 3, 4, 0, 5, 6, 0]);
        assert_eq!(write10(1, 2, true), [0x2A, 8, 0, 0, 0, 1, 0, 0, 2, 0]);
        assert_eq!(
            write16(0x0102_0304_0506_0708, 0x090A_0B0C, false),
            [0x8A, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 0]
        );
        assert_eq!(compare_and_write(1, 3)[9..], [1, 0, 0, 0, 3, 0, 0]);
        assert_eq!(write_same16(0, 1, true)[1], 8);
        assert_eq!(unmap(24), [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0]);
    }

    #[test]
    fn unmap_lists_tell_their_lengths() {
        let list = unmap_list(&[(1, 2), (0x0100, 8)]);
        assert_eq!(list.len(), 40);
        assert_eq!(list[..8], [0, 38, 0, 32, 0, 0, 0, 0]);
        assert_eq!(list[24..40], [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
        assert_eq!(unmap_range(1 << 40, 7)[..], unmap_list(&[(1 << 40, 7)])[..]);
        assert_eq!(unmap_list(&[]), [0, 6, 0, 0, 0, 0, 0, 0]);
    }
}
