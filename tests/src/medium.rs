//! What devices in memory have in common: blocks, what they tell of themselves, and what they may
//! be given.

use std::ops::Range;

use bdev::{Geometry, Io, IoOp};

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: u32 = 512;

/// Where blocks are in a medium.
pub(crate) fn bytes_of(lba: u64, blocks: u64) -> Range<usize> {
    let at = |lba: u64| (lba * u64::from(BLOCK_BYTES)) as usize;
    at(lba)..at(lba + blocks)
}

/// A disk of so many blocks with a volatile cache, which can unmap.
pub(crate) fn geometry(blocks: u64) -> Geometry {
    Geometry {
        block_bytes: BLOCK_BYTES,
        blocks,
        physical_exponent: 0,
        buf_align: 1,
        write_cache: true,
        read_only: false,
        unmap: true,
        unmap_zeroes: true,
        unmap_granularity: BLOCK_BYTES,
        rotational: false,
    }
}

/// Fails unless an operation has the buffer that it needs, and no other has one.
pub(crate) fn assert_buf(io: &Io) {
    let bytes = match io.op {
        IoOp::Read { blocks, .. } | IoOp::Write { blocks, .. } => {
            Some(bytes_of(0, blocks.into()).len())
        }
        _ => None,
    };
    assert_eq!(io.buf.as_ref().map(|buf| buf.len()), bytes, "buffer of {:?}", io.op);
}
