//! What the tests of this folder share: a logical unit, CDBs from short hex-like lists.

use std::sync::LazyLock;

use bdev::Geometry;

use super::{Identity, LuView};

/// Identity of the test logical unit.
pub(super) static IDENTITY: LazyLock<Identity> = LazyLock::new(|| {
    Identity::new(
        "Malloc disk",
        *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff",
    )
});

/// 1000 blocks of 512 bytes, thin, with a write cache, in a 4 KiB physical block.
pub(super) fn lu() -> LuView<'static> {
    LuView {
        geometry: Geometry {
            block_bytes: 512,
            blocks: 1000,
            physical_exponent: 3,
            buf_align: 512,
            write_cache: true,
            read_only: false,
            unmap: true,
            unmap_zeroes: true,
            unmap_granularity: 4096,
            rotational: false,
        },
        identity: &IDENTITY,
        read_only: false,
        ready: true,
        relative_port: 7,
        io_bytes_max: 64 << 10,
    }
}

/// A CDB in 16 bytes.
pub(super) fn cdb(bytes: &[u8]) -> [u8; 16] {
    let mut whole = [0; 16];
    whole[..bytes.len()].copy_from_slice(bytes);
    whole
}

/// A CDB with an LBA in bytes 2 to 5 and a length in bytes 7 and 8.
pub(super) fn cdb_10(opcode: u8, flags: u8, lba: u32, length: u16) -> [u8; 16] {
    let mut whole = cdb(&[opcode, flags]);
    whole[2..6].copy_from_slice(&lba.to_be_bytes());
    whole[7..9].copy_from_slice(&length.to_be_bytes());
    whole
}

/// A CDB with an LBA in bytes 2 to 5 and a length in bytes 6 to 9.
pub(super) fn cdb_12(opcode: u8, flags: u8, lba: u32, length: u32) -> [u8; 16] {
    let mut whole = cdb(&[opcode, flags]);
    whole[2..6].copy_from_slice(&lba.to_be_bytes());
    whole[6..10].copy_from_slice(&length.to_be_bytes());
    whole
}

/// A CDB with an LBA in bytes 2 to 9 and a length in bytes 10 to 13.
pub(super) fn cdb_16(opcode: u8, flags: u8, lba: u64, length: u32) -> [u8; 16] {
    let mut whole = cdb(&[opcode, flags]);
    whole[2..10].copy_from_slice(&lba.to_be_bytes());
    whole[10..14].copy_from_slice(&length.to_be_bytes());
    whole
}
