//! Copies between a stream of bytes and a logical unit, several requests at a time.
//!
//! Chunk `n` of the copy uses slot `n` modulo the depth, so the stream is read and written in order
//! while the unit answers in any order. The first error ends the copy, once everything that is in
//! flight has been answered.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use transport::initiator::{DataMemory, LinkError};

use crate::interrupt::Interrupt;
use crate::port::{Command, Done, Fault, Kind, Port, Unit};

/// How long to wait for the next answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where on a unit, and how.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// The unit.
    pub unit: Unit,
    /// First byte on the unit, a multiple of its block size.
    pub start_byte: u64,
    /// Bytes to copy at most.
    pub bytes_max: u64,
    /// Bytes per request, a multiple of the unit's block size.
    pub chunk_bytes: u32,
    /// Requests in flight.
    pub depth: u32,
}

impl Job {
    /// Data memory that the copy needs, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.chunk_bytes as usize * self.depth as usize
    }

    fn unit_bytes(&self) -> u64 {
        self.unit.blocks * u64::from(self.unit.block_bytes)
    }
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Bytes.
    pub bytes: u64,
    /// Bytes of the last block that were kept because the input ended inside it.
    pub tail_kept: u32,
    /// The copy ended early because somebody asked for it.
    pub interrupted: bool,
}

/// Why a copy stopped.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The unit refused or failed a request.
    #[error("LUN {lun}, {kind:?} at byte {byte}: {fault}")]
    Unit {
        /// Which unit.
        lun: u16,
        /// Which request.
        kind: Kind,
        /// Where.
        byte: u64,
        /// Status and sense.
        fault: Fault,
    },
    /// There is more input than space.
    #[error("no space left on LUN {lun} after {bytes} bytes")]
    NoSpace {
        /// Which unit.
        lun: u16,
        /// Bytes copied.
        bytes: u64,
    },
    /// The file or pipe failed.
    #[error("{0}")]
    Stream(#[from] std::io::Error),
    /// The channel failed.
    #[error("{0}")]
    Link(#[from] LinkError),
    /// The target does not answer.
    #[error("no answer for {PATIENCE:?}")]
    NoAnswer,
}

struct Copy<'a, P, M> {
    port: &'a mut P,
    memory: &'a M,
    job: Job,
    /// Requests of each slot in flight.
    busy: Vec<Option<Command>>,
    done: Vec<Done>,
    failed: Option<CopyError>,
}

impl<P: Port, M: DataMemory> Copy<'_, P, M> {
    fn offset(&self, slot: u32) -> usize {
        slot as usize * self.job.chunk_bytes as usize
    }

    /// Submits a request of `bytes` whole blocks; waits for credit.
    fn submit(&mut self, slot: u32, kind: Kind, byte: u64, bytes: u32) -> Result<(), CopyError> {
        let Unit { lun, block_bytes, .. } = self.job.unit;
        let lba = byte / u64::from(block_bytes);
        let offset = self.offset(slot);
        let command = Command { slot, kind, lun, lba, blocks: bytes / block_bytes, offset, bytes };
        let deadline = Instant::now() + PATIENCE;
        while !self.port.submit(&command)? {
            self.poll(deadline)?;
        }
        self.port.flush()?;
        self.busy[slot as usize] = Some(command);
        Ok(())
    }

    fn poll(&mut self, deadline: Instant) -> Result<(), CopyError> {
        self.done.clear();
        self.port.poll(&mut self.done)?;
        for Done { slot, result } in &self.done {
            let command = self.busy[*slot as usize].take();
            if let (Err(fault), Some(command), None) = (result, command, &self.failed) {
                let byte = command.lba * u64::from(self.job.unit.block_bytes);
                let (lun, kind, fault) = (command.lun, command.kind, *fault);
                self.failed = Some(CopyError::Unit { lun, kind, byte, fault });
            }
        }
        if self.done.is_empty() {
            if Instant::now() >= deadline {
                return Err(CopyError::NoAnswer);
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Waits until a slot's request has been answered.
    fn wait(&mut self, slot: u32) -> Result<(), CopyError> {
        let deadline = Instant::now() + PATIENCE;
        while self.busy[slot as usize].is_some() {
            self.poll(deadline)?;
        }
        Ok(())
    }

    /// Waits for everything in flight; then the first error, if there was one.
    fn finish(&mut self) -> Result<(), CopyError> {
        for slot in 0..self.job.depth {
            self.wait(slot)?;
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    fn flush_unit(&mut self) -> Result<(), CopyError> {
        self.submit(0, Kind::Flush, 0, 0)?;
        self.finish()
    }

    /// Writes the end of the input, which is no whole block: reads the block, puts the new bytes in
    /// front of the old ones, writes it back. Returns the number of bytes kept.
    fn write_tail(&mut self, byte: u64, tail: &[u8]) -> Result<u32, CopyError> {
        let block_bytes = self.job.unit.block_bytes;
        self.finish()?;
        self.submit(0, Kind::Read, byte, block_bytes)?;
        self.finish()?;
        self.memory.write_at(self.offset(0), tail);
        self.submit(0, Kind::Write, byte, block_bytes)?;
        self.finish()?;
        Ok(block_bytes - tail.len() as u32)
    }
}

fn copy<'a, P: Port, M: DataMemory>(port: &'a mut P, memory: &'a M, job: &Job) -> Copy<'a, P, M> {
    let block_bytes = job.unit.block_bytes;
    assert!(job.chunk_bytes.is_multiple_of(block_bytes) && job.chunk_bytes > 0, "whole blocks");
    assert!(job.start_byte.is_multiple_of(block_bytes.into()), "starts at a block");
    assert!(memory.len() >= job.memory_bytes() && job.depth > 0, "memory for the depth");
    let depth = job.depth as usize;
    let (busy, done) = (vec![None; depth], Vec::with_capacity(depth));
    Copy { port, memory, job: *job, busy, done, failed: None }
}

/// Copies from a stream onto a unit until the stream ends or `stop` is raised. `flush`: SYNCHRONIZE
/// CACHE at the end.
pub fn to_unit<P: Port, M: DataMemory>(
    port: &mut P,
    memory: &M,
    job: &Job,
    from: &mut dyn Read,
    flush: bool,
    stop: &Interrupt,
) -> Result<Copied, CopyError> {
    let mut copy = copy(port, memory, job);
    let mut chunk = vec![0; job.chunk_bytes as usize];
    let block_bytes = job.unit.block_bytes as usize;
    let mut copied = Copied::default();
    for slot in (0..job.depth).cycle() {
        copy.wait(slot)?;
        if copy.failed.is_some() || stop.is_raised() {
            break;
        }
        let wanted = (job.bytes_max - copied.bytes).min(chunk.len() as u64) as usize;
        let filled = match fill(from, &mut chunk[..wanted]) {
            Ok(filled) => filled,
            Err(_) if stop.is_raised() => break,
            Err(error) => {
                copy.finish()?;
                return Err(error.into());
            }
        };
        let byte = job.start_byte + copied.bytes;
        if byte + filled as u64 > job.unit_bytes() {
            copy.finish()?;
            return Err(CopyError::NoSpace { lun: job.unit.lun, bytes: copied.bytes });
        }
        let whole = filled / block_bytes * block_bytes;
        if whole > 0 {
            copy.memory.write_at(copy.offset(slot), &chunk[..whole]);
            copy.submit(slot, Kind::Write, byte, whole as u32)?;
        }
        if whole < filled {
            copied.tail_kept = copy.write_tail(byte + whole as u64, &chunk[whole..filled])?;
        }
        copied.bytes += filled as u64;
        if filled < chunk.len() {
            break;
        }
    }
    copy.finish()?;
    copied.interrupted = stop.is_raised();
    if flush {
        copy.flush_unit()?;
    }
    Ok(copied)
}

/// Copies from a unit into a stream until the unit ends or `stop` is raised.
pub fn from_unit<P: Port, M: DataMemory>(
    port: &mut P,
    memory: &M,
    job: &Job,
    to: &mut dyn Write,
    stop: &Interrupt,
) -> Result<Copied, CopyError> {
    let mut copy = copy(port, memory, job);
    let mut chunk = vec![0; job.chunk_bytes as usize];
    let block_bytes = u64::from(job.unit.block_bytes);
    let total = job.bytes_max.min(job.unit_bytes().saturating_sub(job.start_byte));
    let (mut asked, mut copied) = (0, 0);
    while copied < total && !stop.is_raised() {
        let slot = |byte: u64| (byte / u64::from(job.chunk_bytes) % u64::from(job.depth)) as u32;
        let ahead = u64::from(job.chunk_bytes) * u64::from(job.depth);
        while asked < total && asked < copied + ahead {
            let bytes = (total - asked).min(job.chunk_bytes.into()).next_multiple_of(block_bytes);
            copy.submit(slot(asked), Kind::Read, job.start_byte + asked, bytes as u32)?;
            asked += u64::from(job.chunk_bytes);
        }
        copy.wait(slot(copied))?;
        if copy.failed.is_some() {
            break;
        }
        let bytes = (total - copied).min(job.chunk_bytes.into()) as usize;
        memory.read_at(copy.offset(slot(copied)), &mut chunk[..bytes]);
        if let Err(error) = to.write_all(&chunk[..bytes]) {
            copy.finish()?;
            return Err(error.into());
        }
        copied += bytes as u64;
    }
    copy.finish()?;
    to.flush()?;
    Ok(Copied { bytes: copied, tail_kept: 0, interrupted: stop.is_raised() })
}

/// Reads until `to` is full or the input ends; the number of bytes read.
fn fill(from: &mut dyn Read, to: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < to.len() {
        match from.read(&mut to[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes copied", self.bytes)?;
        if self.tail_kept > 0 {
            write!(f, " (the last {} bytes of the last block are as before)", self.tail_kept)?;
        }
        if self.interrupted {
            write!(f, " until interrupted")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Random;
    use crate::port::memory::{Ideal, Memory};

    const UNIT: Unit = Unit { lun: 0, block_bytes: 512, blocks: 64 };

    fn go_on() -> Interrupt {
        Interrupt::default()
    }

    fn job() -> Job {
        Job { unit: UNIT, start_byte: 0, bytes_max: u64::MAX, chunk_bytes: 2048, depth: 4 }
    }

    fn ideal(job: &Job) -> (Memory, Ideal) {
        let memory = Memory::new(job.memory_bytes());
        let port = Ideal::new(&memory, 64 * 512, 512);
        (memory, port)
    }

    fn noise(bytes: usize) -> Vec<u8> {
        let mut random = Random::new(9);
        (0..bytes).map(|_| random.next_u64() as u8).collect()
    }

    #[test]
    fn there_and_back_is_the_same() {
        let job = job();
        for bytes in [0, 1, 511, 512, 513, 2048, 2049, 30_000, 64 * 512] {
            let (memory, mut port) = ideal(&job);
            port.disk.borrow_mut().fill(0xEE);
            port.credits = 3;
            let data = noise(bytes);
            let copied = to_unit(&mut port, &memory, &job, &mut &data[..], true, &go_on()).unwrap();
            assert_eq!(copied.bytes, bytes as u64);
            assert_eq!(copied.tail_kept, (bytes.next_multiple_of(512) - bytes) as u32);
            let mut back = Vec::new();
            let whole = from_unit(&mut port, &memory, &job, &mut back, &go_on()).unwrap();
            assert_eq!(whole.bytes, 64 * 512);
            assert_eq!(back[..bytes], data);
            assert!(back[bytes..].iter().all(|byte| *byte == 0xEE), "{bytes}: the rest is kept");
        }
    }

    #[test]
    fn places_and_counts_are_kept() {
        let job = Job { start_byte: 1024, bytes_max: 3000, ..job() };
        let (memory, mut port) = ideal(&job);
        let data = noise(10_000);
        let copied = to_unit(&mut port, &memory, &job, &mut &data[..], false, &go_on()).unwrap();
        assert_eq!(copied.bytes, 3000);
        assert_eq!(port.disk.borrow()[1024..4024], data[..3000]);
        assert!(port.disk.borrow()[4024..].iter().all(|byte| *byte == 0));
        let mut back = Vec::new();
        from_unit(&mut port, &memory, &job, &mut back, &go_on()).unwrap();
        assert_eq!(back, data[..3000]);
    }

    #[test]
    fn too_much_input_is_an_error() {
        let job = job();
        let (memory, mut port) = ideal(&job);
        let data = noise(64 * 512 + 1);
        let error = to_unit(&mut port, &memory, &job, &mut &data[..], false, &go_on()).unwrap_err();
        assert_eq!(error.to_string(), "no space left on LUN 0 after 32768 bytes");
        let exact = to_unit(&mut port, &memory, &job, &mut &data[1..], false, &go_on()).unwrap();
        assert_eq!(exact.bytes, 64 * 512);
    }

    #[test]
    fn the_first_failure_ends_the_copy_with_its_sense() {
        let job = job();
        let (memory, mut port) = ideal(&job);
        port.fault = Box::new(|command| {
            let fault = Fault { status: 2, key: 3, asc: (0x11, 0), residual: 0 };
            (command.lba >= 8).then_some(fault)
        });
        let mut back = Vec::new();
        let error =
            from_unit(&mut port, &memory, &job, &mut back, &go_on()).unwrap_err().to_string();
        assert!(error.starts_with("LUN 0, Read at byte "), "{error}");
        assert!(error.ends_with("MEDIUM ERROR (3h), 11h/00h unrecovered read error"), "{error}");
        assert!(port.waiting.is_empty(), "nothing is left in flight");
        let error =
            to_unit(&mut port, &memory, &job, &mut &noise(9999)[..], false, &go_on()).unwrap_err();
        assert!(error.to_string().contains("Write at byte"), "{error}");
    }

    #[test]
    fn an_interrupted_copy_says_how_far_it_came() {
        struct Endless(Interrupt, u32);
        impl Read for Endless {
            fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
                self.1 += 1;
                if self.1 == 4 {
                    self.0.raise();
                    return Err(ErrorKind::Other.into());
                }
                to.fill(7);
                Ok(to.len())
            }
        }
        let job = job();
        let (memory, mut port) = ideal(&job);
        let stop = Interrupt::default();
        let mut from = Endless(stop.clone(), 0);
        let copied = to_unit(&mut port, &memory, &job, &mut from, true, &stop).unwrap();
        let expected = Copied { bytes: 3 * 2048, tail_kept: 0, interrupted: true };
        assert_eq!(copied, expected);
        assert_eq!(copied.to_string(), "6144 bytes copied until interrupted");
        assert!(
            port.disk.borrow()[..6144].iter().all(|byte| *byte == 7),
            "what is counted is there"
        );
        let mut back = Vec::new();
        let copied = from_unit(&mut port, &memory, &job, &mut back, &stop).unwrap();
        assert_eq!((copied.bytes, copied.interrupted), (0, true));
    }
}
