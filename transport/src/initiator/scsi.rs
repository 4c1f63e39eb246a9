//! Single SCSI commands that wait for their answer: for tools and tests, not for load.
//!
//! Borrows a channel and a range of data memory through which all data goes. Waiting is polling;
//! events of other requests on the channel are dropped, so the channel should be idle.

use std::ops::Range;
use std::time::{Duration, Instant};

use reactor::Tag;

use super::{
    Channel, Command, Completion, Data, DataMemory, Event, Link, LinkError, SubmitError,
    TaskRequest, cdb,
};
use crate::srp::{Lun, Residual};

#[cfg(test)]
mod tests;

/// SCSI status GOOD (SAM-5, 5.3).
const GOOD: u8 = 0x00;

/// Sense key UNIT ATTENTION (SPC-4, 4.5.6).
const UNIT_ATTENTION: u8 = 0x06;

/// Unit attentions that [`Scsi::test_unit_ready`] clears before it gives up.
const UNIT_ATTENTIONS_MAX: usize = 16;

/// Bytes asked for by [`Scsi::inquiry`] and [`Scsi::vpd`].
const INQUIRY_BYTES: u16 = 0xFF;
const VPD_BYTES: u16 = 0x1000;
const REPORT_LUNS_BYTES: u32 = 0x1_0000;
const READ_CAPACITY16_BYTES: u32 = 32;

/// Sense data of one answer, cut off after 96 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    len: u8,
    bytes: [u8; Sense::BYTES_MAX],
}

impl Sense {
    /// Bytes kept.
    pub const BYTES_MAX: usize = 96;

    /// A copy of sense data.
    pub fn new(sense: &[u8]) -> Self {
        let len = sense.len().min(Self::BYTES_MAX);
        let mut bytes = [0; Self::BYTES_MAX];
        bytes[..len].copy_from_slice(&sense[..len]);
        Sense { len: len as u8, bytes }
    }

    /// The bytes; none for no sense data.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Sense key, additional sense code and its qualifier (SPC-4, 4.5), in either format.
    pub fn code(&self) -> Option<(u8, u8, u8)> {
        let bytes = self.as_bytes();
        // The top bit says that the INFORMATION field is valid.
        match (bytes.first()? & 0x7F, bytes) {
            (0x72 | 0x73, [_, key, asc, ascq, ..]) => Some((key & 0x0F, *asc, *ascq)),
            (0x70 | 0x71, [_, _, key, _, _, _, _, _, _, _, _, _, asc, ascq, ..]) => {
                Some((key & 0x0F, *asc, *ascq))
            }
            _ => None,
        }
    }
}

impl std::fmt::Debug for Sense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code() {
            Some((key, asc, ascq)) => write!(f, "{key:x}/{asc:02x}/{ascq:02x}"),
            None => write!(f, "{:02x?}", self.as_bytes()),
        }
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// SCSI status.
    pub status: u8,
    /// Sense data.
    pub sense: Sense,
    /// Residual.
    pub residual: Option<Residual>,
}

impl Outcome {
    /// A copy of a completion.
    pub fn new(completion: &Completion<'_>) -> Self {
        let Completion { status, sense, residual, .. } = *completion;
        Outcome { status, sense: Sense::new(sense), residual }
    }
}

/// Data of one command.
#[derive(Debug, Clone, Copy)]
pub enum Transfer<'a> {
    /// None.
    None,
    /// To the initiator: room for so many bytes.
    In(u32),
    /// From the initiator.
    Out(&'a [u8]),
}

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It ended with another status than GOOD.
    #[error("status {:#04x}, sense {:?}", .0.status, .0.sense)]
    Status(Outcome),
    /// A task management function took it away.
    #[error("aborted")]
    Aborted,
    /// No answer in time. It is still in flight: the channel is of no further use here.
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    /// The answer is shorter than the standard requires.
    #[error("{0} returned {1} bytes")]
    Short(&'static str, usize),
    /// More data than the range of memory holds.
    #[error("{0} bytes of data are more than the buffer holds")]
    Buffer(usize),
    /// Not sent.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// READ CAPACITY (16) data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Logical blocks.
    pub blocks: u64,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// A physical block has two to the power of this many logical blocks.
    pub physical_exponent: u8,
    /// Unmapping is supported (LBPME).
    pub thin: bool,
    /// First logical block that begins a physical one.
    pub lowest_aligned_lba: u16,
}

enum Ended {
    Answered(Outcome),
    Aborted,
    TaskMgmt(Option<u8>),
}

/// Single commands on a channel; see the module.
pub struct Scsi<'a, L, M> {
    channel: &'a mut Channel<L>,
    memory: &'a M,
    buffer: Range<usize>,
    timeout: Duration,
}

impl<'a, L: Link, M: DataMemory> Scsi<'a, L, M> {
    /// Commands whose data goes through `buffer`, a range of `memory`. 64 KiB are enough for all
    /// but large reads and writes.
    pub fn new(
        channel: &'a mut Channel<L>,
        memory: &'a M,
        buffer: Range<usize>,
        timeout: Duration,
    ) -> Self {
        Scsi { channel, memory, buffer, timeout }
    }

    /// Runs a command whatever its status. Data to the initiator is at the start of the buffer.
    pub fn execute(
        &mut self,
        lun: Lun,
        cdb: &[u8],
        transfer: Transfer<'_>,
    ) -> Result<Outcome, ExecError> {
        let at = self.buffer.start;
        let segs = match transfer {
            Transfer::None => [self.memory.seg(at, 0)],
            Transfer::In(len) => [self.memory.seg(at, self.fit(len as usize)?)],
            Transfer::Out(bytes) => {
                let len = self.fit(bytes.len())?;
                self.memory.write_at(at, bytes);
                [self.memory.seg(at, len)]
            }
        };
        let data = match transfer {
            Transfer::In(len) if len > 0 => Data::In(&segs),
            Transfer::Out(bytes) if !bytes.is_empty() => Data::Out(&segs),
            _ => Data::None,
        };
        let tag = self.channel.submit(&Command::new(lun, cdb, data, 0))?;
        match self.wait(tag)? {
            Ended::Answered(outcome) => Ok(outcome),
            Ended::Aborted | Ended::TaskMgmt(_) => Err(ExecError::Aborted),
        }
    }

    /// Runs a command that must end GOOD and returns the bytes that moved.
    pub fn command(
        &mut self,
        lun: Lun,
        cdb: &[u8],
        transfer: Transfer<'_>,
    ) -> Result<usize, ExecError> {
        let outcome = self.execute(lun, cdb, transfer)?;
        if outcome.status != GOOD {
            return Err(ExecError::Status(outcome));
        }
        let expected = match transfer {
            Transfer::None => 0,
            Transfer::In(len) => len as usize,
            Transfer::Out(bytes) => bytes.len(),
        };
        let missing = match outcome.residual {
            Some(Residual { overflow: false, count, .. }) => count as usize,
            _ => 0,
        };
        Ok(expected.saturating_sub(missing))
    }

    /// Runs a command that returns data, at most `len` bytes.
    pub fn data_in(&mut self, lun: Lun, cdb: &[u8], len: u32) -> Result<Vec<u8>, ExecError> {
        let moved = self.command(lun, cdb, Transfer::In(len))?;
        let mut data = vec![0; moved];
        self.memory.read_at(self.buffer.start, &mut data);
        Ok(data)
    }

    /// Requests a task management function and returns the response code, if there is one.
    pub fn task_mgmt(
        &mut self,
        function: u8,
        lun: Lun,
        task: Option<Tag>,
    ) -> Result<Option<u8>, ExecError> {
        let tag = self.channel.task_mgmt(&TaskRequest { function, lun, task, user: 0 })?;
        match self.wait(tag)? {
            Ended::TaskMgmt(code) => Ok(code),
            Ended::Answered(_) | Ended::Aborted => Err(ExecError::Aborted),
        }
    }

    /// TEST UNIT READY, again while it reports a unit attention, of which each is reported once.
    pub fn test_unit_ready(&mut self, lun: Lun) -> Result<(), ExecError> {
        let mut cleared = 0;
        loop {
            match self.command(lun, &cdb::test_unit_ready(), Transfer::None) {
                Err(ExecError::Status(Outcome { sense, .. }))
                    if sense.code().is_some_and(|(key, ..)| key == UNIT_ATTENTION)
                        && cleared < UNIT_ATTENTIONS_MAX =>
                {
                    cleared += 1;
                }
                ended => return ended.map(|_| ()),
            }
        }
    }

    /// Standard INQUIRY data.
    pub fn inquiry(&mut self, lun: Lun) -> Result<Vec<u8>, ExecError> {
        self.data_in(lun, &cdb::inquiry(None, INQUIRY_BYTES), INQUIRY_BYTES.into())
    }

    /// A page of vital product data, with its header.
    pub fn vpd(&mut self, lun: Lun, page: u8) -> Result<Vec<u8>, ExecError> {
        self.data_in(lun, &cdb::inquiry(Some(page), VPD_BYTES), VPD_BYTES.into())
    }

    /// The logical units of the target, as far as the buffer holds their list.
    pub fn report_luns(&mut self) -> Result<Vec<Lun>, ExecError> {
        let len = REPORT_LUNS_BYTES.min(u32::try_from(self.buffer.len()).unwrap_or(u32::MAX));
        let lun = Lun::default();
        let data = self.data_in(lun, &cdb::report_luns(len), len)?;
        let Some((header, list)) = data.split_first_chunk::<8>() else {
            return Err(ExecError::Short("REPORT LUNS", data.len()));
        };
        let [a, b, c, d, ..] = *header;
        let listed = u32::from_be_bytes([a, b, c, d]) as usize / size_of::<Lun>();
        let (luns, _) = list.as_chunks();
        Ok(luns.iter().take(listed).copied().map(Lun).collect())
    }

    /// READ CAPACITY (16).
    pub fn read_capacity16(&mut self, lun: Lun) -> Result<Capacity, ExecError> {
        let cdb = cdb::read_capacity16(READ_CAPACITY16_BYTES);
        let data = self.data_in(lun, &cdb, READ_CAPACITY16_BYTES)?;
        let Some((&[a, b, c, d, e, f, g, h], &[i, j, k, l, _, exponent, flags, low])) =
            data.split_first_chunk().and_then(|(lba, rest)| Some((lba, rest.first_chunk()?)))
        else {
            return Err(ExecError::Short("READ CAPACITY (16)", data.len()));
        };
        Ok(Capacity {
            blocks: u64::from_be_bytes([a, b, c, d, e, f, g, h]).saturating_add(1),
            block_bytes: u32::from_be_bytes([i, j, k, l]),
            physical_exponent: exponent & 0x0F,
            thin: flags & 0x80 != 0,
            lowest_aligned_lba: u16::from_be_bytes([flags & 0x3F, low]),
        })
    }

    /// READ (16) of `blocks` blocks, which fill `to`.
    pub fn read(
        &mut self,
        lun: Lun,
        lba: u64,
        blocks: u32,
        to: &mut [u8],
    ) -> Result<(), ExecError> {
        let len = self.fit(to.len())?;
        let moved = self.command(lun, &cdb::read16(lba, blocks), Transfer::In(len))?;
        if moved < to.len() {
            return Err(ExecError::Short("READ (16)", moved));
        }
        self.memory.read_at(self.buffer.start, to);
        Ok(())
    }

    /// WRITE (16) of `blocks` blocks. `fua`: on the medium before it returns.
    pub fn write(
        &mut self,
        lun: Lun,
        lba: u64,
        blocks: u32,
        from: &[u8],
        fua: bool,
    ) -> Result<(), ExecError> {
        self.command(lun, &cdb::write16(lba, blocks, fua), Transfer::Out(from)).map(|_| ())
    }

    /// SYNCHRONIZE CACHE (16) of everything.
    pub fn synchronize_cache(&mut self, lun: Lun) -> Result<(), ExecError> {
        self.command(lun, &cdb::synchronize_cache16(0, 0), Transfer::None).map(|_| ())
    }

    /// UNMAP of ranges of (first block, blocks), at most 4095.
    pub fn unmap(&mut self, lun: Lun, ranges: &[(u64, u32)]) -> Result<(), ExecError> {
        let list = cdb::unmap_list(ranges);
        let len = u16::try_from(list.len()).map_err(|_| ExecError::Buffer(list.len()))?;
        self.command(lun, &cdb::unmap(len), Transfer::Out(&list)).map(|_| ())
    }

    /// WRITE SAME (16) of one block's data over `blocks` blocks.
    pub fn write_same(
        &mut self,
        lun: Lun,
        lba: u64,
        blocks: u32,
        block: &[u8],
        unmap: bool,
    ) -> Result<(), ExecError> {
        let cdb = cdb::write_same16(lba, blocks, unmap);
        self.command(lun, &cdb, Transfer::Out(block)).map(|_| ())
    }

    /// COMPARE AND WRITE: writes the second half of `both` if the blocks equal the first half.
    pub fn compare_and_write(
        &mut self,
        lun: Lun,
        lba: u64,
        blocks: u8,
        both: &[u8],
    ) -> Result<(), ExecError> {
        let cdb = cdb::compare_and_write(lba, blocks);
        self.command(lun, &cdb, Transfer::Out(both)).map(|_| ())
    }

    /// The length of a transfer that the buffer holds.
    fn fit(&self, len: usize) -> Result<u32, ExecError> {
        if len > self.buffer.len() {
            return Err(ExecError::Buffer(len));
        }
        u32::try_from(len).map_err(|_| ExecError::Buffer(len))
    }

    fn wait(&mut self, wanted: Tag) -> Result<Ended, ExecError> {
        self.channel.flush()?;
        let deadline = Instant::now() + self.timeout;
        loop {
            let mut ended = None;
            let polled = self.channel.poll(|event| match event {
                Event::Done(completion) if completion.tag == wanted => {
                    ended = Some(Ended::Answered(Outcome::new(&completion)));
                }
                Event::Aborted { tag, .. } if tag == wanted => ended = Some(Ended::Aborted),
                Event::TaskMgmt { tag, response_code, .. } if tag == wanted => {
                    ended = Some(Ended::TaskMgmt(response_code));
                }
                _ => {}
            });
            if let Some(ended) = ended {
                return Ok(ended);
            }
            polled?;
            if Instant::now() >= deadline {
                return Err(ExecError::Timeout(self.timeout));
            }
            std::thread::yield_now();
        }
    }
}
