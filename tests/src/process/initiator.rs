//! Initiators inside the test's own process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use transport::initiator::{ExecError, LoginOptions, Scsi, Session};
use transport::shm::{ShmConnector, ShmLink, ShmMemory};
use transport::srp::Lun;

/// How long one command may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Data memory of an initiator, in bytes.
const MEMORY_BYTES: usize = 4 << 20;

/// The LUN with this number.
pub fn lun(number: u16) -> Lun {
    Lun::from_number(number).expect("a LUN up to 16383")
}

/// Sense key and additional sense code of a failed command.
pub fn sense<T: std::fmt::Debug>(ended: Result<T, ExecError>) -> (u8, u8, u8) {
    match ended {
        Err(ExecError::Status(outcome)) => outcome.sense.code().expect("sense data"),
        other => panic!("{other:?} instead of sense data"),
    }
}

/// One session.
pub struct Initiator {
    /// Its channels and memory.
    pub session: Session<ShmConnector>,
}

impl Initiator {
    /// Logs in as the initiator port `number`.
    pub fn login(socket: &Path, number: u64, channels: usize) -> Initiator {
        let ours = (u128::from(number) << 64 | u128::from(std::process::id())).to_be_bytes();
        let options = LoginOptions::new(ours, [0; 16]);
        let connector = ShmConnector::new(socket);
        let session = Session::login(&connector, &options, channels, MEMORY_BYTES);
        Initiator { session: session.unwrap_or_else(|error| panic!("login: {error}")) }
    }

    /// Single commands on the first channel.
    pub fn scsi(&mut self) -> Scsi<'_, ShmLink, ShmMemory> {
        let Session { channels, memory } = &mut self.session;
        Scsi::new(&mut channels[0], &*memory, 0..MEMORY_BYTES, PATIENCE)
    }

    /// The same, with the unit attentions of LUNs 0 to `luns` taken.
    pub fn ready(&mut self, luns: u16) -> Scsi<'_, ShmLink, ShmMemory> {
        let mut scsi = self.scsi();
        (0..luns).for_each(|number| scsi.test_unit_ready(lun(number)).expect("a unit is ready"));
        scsi
    }
}

/// Blocks of 512 bytes that say which block and which generation they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamps;

impl Stamps {
    /// Fills a block.
    pub fn fill(block: &mut [u8], lba: u64, generation: u64) {
        for (word, bytes) in block.chunks_exact_mut(16).enumerate() {
            bytes[..8].copy_from_slice(&(lba << 8 | word as u64).to_be_bytes());
            bytes[8..].copy_from_slice(&generation.to_be_bytes());
        }
    }

    /// The generation of a block: 0 for one of zeros, `None` for a torn or foreign one.
    pub fn generation(block: &[u8], lba: u64) -> Option<u64> {
        let generation = u64::from_be_bytes(block[8..16].try_into().expect("eight bytes"));
        if generation == 0 {
            return block.iter().all(|byte| *byte == 0).then_some(0);
        }
        let mut expected = vec![0; block.len()];
        Stamps::fill(&mut expected, lba, generation);
        (block == expected).then_some(generation)
    }
}

/// An initiator that writes, reads and compares all the while, in a thread of its own: whatever
/// happens to others must not touch it.
#[derive(Debug)]
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbour {
    /// Commands that a neighbour has in flight.
    pub const IN_FLIGHT_MAX: u64 = 1;

    /// Logs in and works on the first 8 MiB of a LUN.
    pub fn start(socket: PathBuf, number: u16) -> Neighbour {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let mut initiator = Initiator::login(&socket, 0xBEEF, 1);
            let mut scsi = initiator.scsi();
            scsi.test_unit_ready(lun(number)).expect("ready");
            let (mut block, mut back) = ([0; 4096], [0; 4096]);
            let mut round = 0;
            while !stopped.load(Ordering::Acquire) {
                round += 1;
                let lba = round % 2048 * 8;
                Stamps::fill(&mut block, lba, round);
                scsi.write(lun(number), lba, 8, &block, false).expect("a write beside trouble");
                scsi.read(lun(number), lba, 8, &mut back).expect("a read beside trouble");
                assert!(block == back, "block {lba} of the neighbour has changed");
                counted.store(round, Ordering::Release);
            }
        });
        Neighbour { stop, rounds, thread: Some(thread) }
    }

    /// Writes and reads that came out right so far.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Acquire)
    }

    /// Stops it; fails if anything went wrong, or nothing happened at all.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("a neighbour stops once");
        thread.join().expect("a neighbour in peace");
        let rounds = self.rounds();
        assert!(rounds > 0, "the neighbour did nothing");
        rounds
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A failing test reports its own reason; the thread's panic has been printed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_and_foreign_blocks_have_no_generation() {
        let mut block = [0; 512];
        assert_eq!(Stamps::generation(&block, 7), Some(0));
        Stamps::fill(&mut block, 7, 3);
        assert_eq!(Stamps::generation(&block, 7), Some(3));
        assert_eq!(Stamps::generation(&block, 8), None);
        let mut other = [0; 512];
        Stamps::fill(&mut other, 7, 4);
        block[256..].copy_from_slice(&other[256..]);
        assert_eq!(Stamps::generation(&block, 7), None);
        block.fill(0);
        block[511] = 1;
        assert_eq!(Stamps::generation(&block, 7), None);
    }
}
