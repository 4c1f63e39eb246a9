//! Commands that look at data or need several operations: a generator of [`Step`]s.
//!
//! [`Steps::next`] gets the end of the last operation and says the next one. It owns no memory: the
//! caller keeps the data-out and a scratch buffer, whose bytes must stay as they were left between
//! two calls (the operation itself aside).
//!
//! Data shorter than the CDB says ends the command, it is never read past. The caller makes sure
//! that nobody changes the data meanwhile, and that nothing else writes between the steps of a
//! command that [`Steps::is_atomic`].
//!
//! No allocation; a comparison or a copy of the bytes, once.

use bdev::{IoOp, IoStatus};

use super::LuView;
use super::sense::Sense;
use super::status::sense_of;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Do this, then call [`Steps::next`] with its status. `Read` and `Write` use the first
    /// `blocks` blocks of the scratch buffer.
    Io(IoOp),
    /// The command has ended: GOOD, or CHECK CONDITION with this sense data.
    Done(Result<(), Sense>),
}

/// A command in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    kind: Kind,
    lba: u64,
    /// Blocks of the command; of the device for UNMAP.
    blocks: u64,
    block_bytes: u32,
    /// Blocks (descriptors for UNMAP) that are done or under way.
    position: u64,
    /// The operation under way.
    running: Option<IoOp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    CompareAndWrite {
        fua: bool,
    },
    WriteSame {
        unmap: bool,
    },
    /// BYTCHK 00b.
    VerifyMedium,
    /// BYTCHK 01b.
    VerifyData,
    /// BYTCHK 11b.
    VerifyBlock,
    Unmap {
        list_bytes: u16,
        blocks_max: u32,
        descriptors_max: u32,
    },
}

/// Most scratch bytes of commands that go through the medium piece by piece.
const CHUNK_BYTES_MAX: u32 = 128 << 10;
/// Bytes of the UNMAP parameter list header and of a block descriptor (SBC-3 5.28.2).
const UNMAP_HEADER_BYTES: usize = 8;
const UNMAP_DESCRIPTOR_BYTES: usize = 16;

impl Steps {
    fn new(kind: Kind, lba: u64, blocks: u64, block_bytes: u32) -> Steps {
        Steps { kind, lba, blocks, block_bytes, position: 0, running: None }
    }

    /// COMPARE AND WRITE of checked blocks.
    pub(super) fn compare_and_write(lba: u64, blocks: u32, block_bytes: u32, fua: bool) -> Steps {
        Steps::new(Kind::CompareAndWrite { fua }, lba, u64::from(blocks), block_bytes)
    }

    /// WRITE SAME of checked blocks, with data.
    pub(super) fn write_same(lba: u64, blocks: u32, block_bytes: u32, unmap: bool) -> Steps {
        Steps::new(Kind::WriteSame { unmap }, lba, u64::from(blocks), block_bytes)
    }

    /// VERIFY without data.
    pub(super) fn verify_medium(lba: u64, blocks: u32, block_bytes: u32) -> Steps {
        Steps::new(Kind::VerifyMedium, lba, u64::from(blocks), block_bytes)
    }

    /// VERIFY against as much data.
    pub(super) fn verify_data(lba: u64, blocks: u32, block_bytes: u32) -> Steps {
        Steps::new(Kind::VerifyData, lba, u64::from(blocks), block_bytes)
    }

    /// VERIFY of each block against one block.
    pub(super) fn verify_block(lba: u64, blocks: u32, block_bytes: u32) -> Steps {
        Steps::new(Kind::VerifyBlock, lba, u64::from(blocks), block_bytes)
    }

    /// UNMAP with a parameter list of at least a header.
    pub(super) fn unmap(list_bytes: u16, lu: &LuView<'_>) -> Steps {
        let blocks_max = lu.unmap_blocks_max();
        let descriptors_max = lu.unmap_descriptors_max();
        let kind = Kind::Unmap { list_bytes, blocks_max, descriptors_max };
        Steps::new(kind, 0, lu.geometry.blocks, lu.geometry.block_bytes)
    }

    /// Bytes of data-out that the CDB announces.
    pub fn data_bytes(&self) -> usize {
        match self.kind {
            Kind::CompareAndWrite { .. } => 2 * self.bytes(self.blocks),
            Kind::WriteSame { .. } | Kind::VerifyBlock => self.block_bytes as usize,
            Kind::VerifyMedium => 0,
            Kind::VerifyData => self.bytes(self.blocks),
            Kind::Unmap { list_bytes, .. } => usize::from(list_bytes),
        }
    }

    /// Bytes of scratch that [`Steps::next`] wants, 0 for none; at most `io_bytes_max`, which is
    /// that of the [`LuView`].
    pub fn scratch_bytes(&self, io_bytes_max: u32) -> usize {
        let chunk_blocks = u64::from(io_bytes_max.min(CHUNK_BYTES_MAX) / self.block_bytes);
        match self.kind {
            Kind::Unmap { .. } => 0,
            Kind::CompareAndWrite { .. } => self.bytes(self.blocks),
            _ => self.bytes(self.blocks.min(chunk_blocks)),
        }
    }

    /// Whether it writes, and the bytes that it reads, compares or writes; `None` for UNMAP.
    pub fn moves(&self) -> Option<(bool, u64)> {
        let writes = match self.kind {
            Kind::Unmap { .. } => return None,
            Kind::CompareAndWrite { .. } | Kind::WriteSame { .. } => true,
            Kind::VerifyMedium | Kind::VerifyData | Kind::VerifyBlock => false,
        };
        Some((writes, self.blocks.saturating_mul(u64::from(self.block_bytes))))
    }

    /// The operation under way.
    pub fn running(&self) -> Option<IoOp> {
        self.running
    }

    /// True when no other write may happen between its operations (SBC-3 4.22): the caller keeps
    /// other atomic commands of the logical unit away until the end.
    pub fn is_atomic(&self) -> bool {
        matches!(self.kind, Kind::CompareAndWrite { .. })
    }

    /// The next step. `last`: how the operation of the step before ended, anything on the first
    /// call.
    /// `data`: the data-out as far as it arrived; `scratch`: at least [`Steps::scratch_bytes`].
    pub fn next(&mut self, last: IoStatus, data: &[u8], scratch: &mut [u8]) -> Step {
        match self.advance(last, data, scratch) {
            Ok(Some(op)) => {
                self.running = Some(op);
                Step::Io(op)
            }
            Ok(None) => Step::Done(Ok(())),
            Err(sense) => Step::Done(Err(sense)),
        }
    }

    fn bytes(&self, blocks: u64) -> usize {
        usize::try_from(blocks * u64::from(self.block_bytes)).expect("a buffer's length")
    }

    fn advance(
        &mut self,
        last: IoStatus,
        data: &[u8],
        scratch: &mut [u8],
    ) -> Result<Option<IoOp>, Sense> {
        if let Some(op) = self.running {
            if let Some(sense) = sense_of(last, &op) {
                return Err(sense);
            }
            if let (IoOp::Read { blocks, .. }, IoStatus::GoodNoData) = (op, last) {
                scratch[..self.bytes(u64::from(blocks))].fill(0);
            }
        }
        if let Kind::Unmap { list_bytes, blocks_max, descriptors_max } = self.kind {
            let list = &data[..data.len().min(usize::from(list_bytes))];
            return self.next_unmap(list, blocks_max, descriptors_max);
        }
        let Some(data) = data.get(..self.data_bytes()) else {
            return Err(Sense::INVALID_INFORMATION_UNIT);
        };
        match self.kind {
            Kind::CompareAndWrite { fua } => self.next_compare_and_write(fua, data, scratch),
            Kind::WriteSame { unmap } => Ok(self.next_write_same(unmap, data, scratch)),
            _ => self.next_verify(data, scratch),
        }
    }

    fn next_compare_and_write(
        &mut self,
        fua: bool,
        data: &[u8],
        scratch: &mut [u8],
    ) -> Result<Option<IoOp>, Sense> {
        let (lba, blocks) = (self.lba, self.blocks as u32);
        match self.running {
            None => Ok(Some(IoOp::Read { lba, blocks })),
            Some(IoOp::Read { .. }) => {
                let (verify, write) = data.split_at(data.len() / 2);
                let scratch = &mut scratch[..verify.len()];
                if let Some(offset) = first_difference(verify, scratch) {
                    return Err(Sense::miscompare(offset as u64));
                }
                scratch.copy_from_slice(write);
                Ok(Some(IoOp::Write { lba, blocks, fua }))
            }
            Some(_) => Ok(None),
        }
    }

    /// Zeros go to the device as such; any other block is copied over the scratch buffer once, then
    /// written chunk after chunk.
    fn next_write_same(&mut self, unmap: bool, block: &[u8], scratch: &mut [u8]) -> Option<IoOp> {
        let (lba, blocks) = (self.lba, self.blocks);
        if self.running.is_none() {
            if block.iter().all(|byte| *byte == 0) {
                self.position = blocks;
                return Some(IoOp::WriteZeroes { lba, blocks, unmap, fua: false });
            }
            scratch.chunks_exact_mut(block.len()).for_each(|copy| copy.copy_from_slice(block));
        }
        let (lba, blocks) = self.next_chunk(scratch)?;
        Some(IoOp::Write { lba, blocks, fua: false })
    }

    fn next_verify(&mut self, data: &[u8], scratch: &[u8]) -> Result<Option<IoOp>, Sense> {
        if let Some(IoOp::Read { lba, blocks }) = self.running {
            let medium = &scratch[..self.bytes(u64::from(blocks))];
            let equal = match self.kind {
                Kind::VerifyData => data[self.bytes(lba - self.lba)..].starts_with(medium),
                Kind::VerifyBlock => medium.chunks_exact(data.len()).all(|block| block == data),
                _ => true,
            };
            if !equal {
                return Err(Sense::MISCOMPARE);
            }
        }
        Ok(self.next_chunk(scratch).map(|(lba, blocks)| IoOp::Read { lba, blocks }))
    }

    /// The next blocks that fit the scratch buffer; `None` at the end.
    fn next_chunk(&mut self, scratch: &[u8]) -> Option<(u64, u32)> {
        let room = (scratch.len() / self.block_bytes as usize) as u64;
        assert!(room > 0, "scratch_bytes() was not honoured");
        let left = self.blocks - self.position;
        let blocks = u32::try_from(left.min(room)).expect("a buffer of less than 2^32 blocks");
        let lba = self.lba + self.position;
        self.position += u64::from(blocks);
        (blocks != 0).then_some((lba, blocks))
    }

    /// The list is checked as a whole before anything is given up.
    fn next_unmap(
        &mut self,
        list: &[u8],
        blocks_max: u32,
        descriptors_max: u32,
    ) -> Result<Option<IoOp>, Sense> {
        let descriptors = unmap_descriptors(list)?;
        if self.running.is_none() {
            if descriptors.len() > descriptors_max as usize {
                return Err(Sense::invalid_field_in_parameters(2));
            }
            let mut total = 0;
            for (at, descriptor) in descriptors.iter().enumerate() {
                let (_, blocks) = self.unmap_range(descriptor)?;
                total += u64::from(blocks);
                if total > u64::from(blocks_max) {
                    let length_at = UNMAP_HEADER_BYTES + UNMAP_DESCRIPTOR_BYTES * at + 8;
                    return Err(Sense::invalid_field_in_parameters(length_at as u16));
                }
            }
        }
        while let Some(descriptor) = descriptors.get(self.position as usize) {
            self.position += 1;
            let (lba, blocks) = self.unmap_range(descriptor)?;
            if blocks != 0 {
                return Ok(Some(IoOp::Unmap { lba, blocks: u64::from(blocks) }));
            }
        }
        Ok(None)
    }

    /// First block and number of blocks of a descriptor, inside the device.
    fn unmap_range(&self, descriptor: &[u8; UNMAP_DESCRIPTOR_BYTES]) -> Result<(u64, u32), Sense> {
        let number = u128::from_be_bytes(*descriptor);
        let (lba, blocks) = ((number >> 64) as u64, (number >> 32) as u32);
        if lba > self.blocks || u64::from(blocks) > self.blocks - lba {
            return Err(Sense::LBA_OUT_OF_RANGE);
        }
        Ok((lba, blocks))
    }
}

/// The whole block descriptors of an UNMAP parameter list; an incomplete last one is ignored
/// (SBC-3 5.28.2). A list that ends before its own length says so is refused.
fn unmap_descriptors(list: &[u8]) -> Result<&[[u8; UNMAP_DESCRIPTOR_BYTES]], Sense> {
    let Some((header, rest)) = list.split_first_chunk::<UNMAP_HEADER_BYTES>() else {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    };
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let descriptors = rest.get(..length).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    Ok(descriptors.as_chunks().0)
}

/// Offset of the first byte that differs.
fn first_difference(one: &[u8], other: &[u8]) -> Option<usize> {
    if one == other {
        return None;
    }
    one.iter().zip(other).position(|(a, b)| a != b)
}

#[cfg(test)]
mod tests;
