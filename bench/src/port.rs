//! A channel to a target as the tools see it: block commands in, outcomes out.
//!
//! The grammar is that of the target's own seams: `submit` enqueues, `flush` publishes, outcomes
//! appear only in `poll`. Slots name commands, so nothing is looked up and nothing allocates.

use std::fmt;

use transport::initiator::LinkError;

/// A logical unit of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Logical unit number.
    pub lun: u16,
    /// Bytes of a logical block.
    pub block_bytes: u32,
    /// Logical blocks.
    pub blocks: u64,
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// READ (16).
    Read,
    /// WRITE (16).
    Write,
    /// SYNCHRONIZE CACHE (16) of the whole unit; moves no data.
    Flush,
    /// UNMAP of one range. The port puts the parameter list at the command's offset, where
    /// [`transport::initiator::cdb::UNMAP_RANGE_BYTES`] must have room.
    Unmap,
}

/// A command on blocks, with its data at `offset` of the session's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Comes back with the outcome; below the depth the port was opened with.
    pub slot: u32,
    /// What to do.
    pub kind: Kind,
    /// Where.
    pub lun: u16,
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u32,
    /// First byte of the data in the session's memory.
    pub offset: usize,
    /// Bytes of data.
    pub bytes: u32,
}

/// How a command failed: SCSI status and, when the target gave sense, its codes (SPC-5 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// SCSI status byte; GOOD with a residual when less data moved than asked for.
    pub status: u8,
    /// Sense key.
    pub key: u8,
    /// Additional sense code and qualifier.
    pub asc: (u8, u8),
    /// Bytes that did not move.
    pub residual: u32,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match self.status {
            0x00 => "GOOD",
            0x02 => "CHECK CONDITION",
            0x08 => "BUSY",
            0x18 => "RESERVATION CONFLICT",
            0x28 => "TASK SET FULL",
            0x30 => "ACA ACTIVE",
            0x40 => "TASK ABORTED",
            _ => "unknown status",
        };
        write!(f, "{status} ({:02X}h)", self.status)?;
        if self.status == 0x02 {
            let (code, qualifier) = self.asc;
            write!(f, ", {} ({:X}h), {code:02X}h/{qualifier:02X}h", key_name(self.key), self.key)?;
            if let Some(text) = asc_text(self.asc) {
                write!(f, " {text}")?;
            }
        }
        if self.residual > 0 {
            write!(f, ", {} bytes did not move", self.residual)?;
        }
        Ok(())
    }
}

fn key_name(key: u8) -> &'static str {
    match key {
        0x0 => "NO SENSE",
        0x1 => "RECOVERED ERROR",
        0x2 => "NOT READY",
        0x3 => "MEDIUM ERROR",
        0x4 => "HARDWARE ERROR",
        0x5 => "ILLEGAL REQUEST",
        0x6 => "UNIT ATTENTION",
        0x7 => "DATA PROTECT",
        0xB => "ABORTED COMMAND",
        0xE => "MISCOMPARE",
        _ => "sense key",
    }
}

/// The codes that a block device is likely to answer (SPC-5 annex F).
fn asc_text(asc: (u8, u8)) -> Option<&'static str> {
    Some(match asc {
        (0x03, 0x00) => "peripheral device write fault",
        (0x04, _) => "logical unit not ready",
        (0x0C, _) => "write error",
        (0x11, _) => "unrecovered read error",
        (0x20, 0x00) => "invalid command operation code",
        (0x21, 0x00) => "logical block address out of range",
        (0x24, 0x00) => "invalid field in CDB",
        (0x25, 0x00) => "logical unit not supported",
        (0x26, 0x00) => "invalid field in parameter list",
        (0x27, _) => "write protected",
        (0x28, 0x00) => "medium may have changed",
        (0x29, _) => "power on or reset occurred",
        (0x2A, 0x09) => "capacity data has changed",
        (0x3F, 0x0E) => "reported LUNs data has changed",
        (0x44, 0x00) => "internal target failure",
        _ => return None,
    })
}

/// A command's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The command's slot.
    pub slot: u32,
    /// How it ended.
    pub result: Result<(), Fault>,
}

/// One channel.
pub trait Port {
    /// Enqueues a command. False: the target has given no credit for another one now; nothing was
    /// taken.
    fn submit(&mut self, command: &Command) -> Result<bool, LinkError>;
    /// Publishes what was enqueued.
    fn flush(&mut self) -> Result<(), LinkError>;
    /// Appends the commands that have ended; never waits. `done` has room for the whole depth.
    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), LinkError>;
}

#[cfg(test)]
pub(crate) mod memory {
    //! An ideal target: answers at the next poll, from a vector.

    use std::cell::RefCell;
    use std::rc::Rc;

    use transport::RemoteSeg;
    use transport::initiator::DataMemory;

    use super::*;

    /// Initiator memory for tests.
    #[derive(Clone)]
    pub(crate) struct Memory(pub Rc<RefCell<Vec<u8>>>);

    impl Memory {
        pub(crate) fn new(bytes: usize) -> Self {
            Memory(Rc::new(RefCell::new(vec![0; bytes])))
        }
    }

    impl DataMemory for Memory {
        fn len(&self) -> usize {
            self.0.borrow().len()
        }
        fn seg(&self, offset: usize, len: u32) -> RemoteSeg {
            RemoteSeg { addr: offset as u64, key: 0, len }
        }
        fn read_at(&self, offset: usize, to: &mut [u8]) {
            to.copy_from_slice(&self.0.borrow()[offset..offset + to.len()]);
        }
        fn write_at(&self, offset: usize, from: &[u8]) {
            self.0.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
        }
    }

    pub(crate) type Hook = Box<dyn FnMut(&Command) -> Option<Fault>>;

    /// One unit of `disk`; `credits` commands at a time.
    pub(crate) struct Ideal {
        pub memory: Memory,
        pub disk: Rc<RefCell<Vec<u8>>>,
        pub block_bytes: u32,
        pub credits: usize,
        pub waiting: Vec<Command>,
        pub in_flight_max: usize,
        /// Looks at each command first; a fault from it is the command's end.
        pub fault: Hook,
    }

    impl Ideal {
        pub(crate) fn new(memory: &Memory, disk_bytes: usize, block_bytes: u32) -> Self {
            Ideal {
                memory: memory.clone(),
                disk: Rc::new(RefCell::new(vec![0; disk_bytes])),
                block_bytes,
                credits: usize::MAX,
                waiting: Vec::new(),
                in_flight_max: 0,
                fault: Box::new(|_| None),
            }
        }

        fn execute(&mut self, command: &Command) -> Result<(), Fault> {
            if let Some(fault) = (self.fault)(command) {
                return Err(fault);
            }
            let first = command.lba as usize * self.block_bytes as usize;
            let range = first..first + command.bytes as usize;
            match command.kind {
                Kind::Read => self.memory.write_at(command.offset, &self.disk.borrow()[range]),
                Kind::Write => {
                    self.memory.read_at(command.offset, &mut self.disk.borrow_mut()[range])
                }
                Kind::Flush | Kind::Unmap => {}
            }
            Ok(())
        }
    }

    impl Port for Ideal {
        fn submit(&mut self, command: &Command) -> Result<bool, LinkError> {
            assert_eq!(
                command.bytes,
                if command.kind == Kind::Flush { 0 } else { command.blocks * self.block_bytes }
            );
            if self.waiting.len() == self.credits {
                return Ok(false);
            }
            self.waiting.push(*command);
            self.in_flight_max = self.in_flight_max.max(self.waiting.len());
            Ok(true)
        }
        fn flush(&mut self) -> Result<(), LinkError> {
            Ok(())
        }
        fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), LinkError> {
            // Half of them, last first, so that order is nobody's assumption.
            for _ in 0..self.waiting.len().div_ceil(2) {
                let command = self.waiting.pop().expect("counted");
                done.push(Done { slot: command.slot, result: self.execute(&command) });
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_spelled_out() {
        let fault = Fault { status: 2, key: 5, asc: (0x21, 0), residual: 0 };
        assert_eq!(
            fault.to_string(),
            "CHECK CONDITION (02h), ILLEGAL REQUEST (5h), \
             21h/00h logical block address out of range"
        );
        let fault = Fault { status: 0, key: 0, asc: (0, 0), residual: 512 };
        assert_eq!(fault.to_string(), "GOOD (00h), 512 bytes did not move");
    }
}
