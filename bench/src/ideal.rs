//! An ideal target inside this process: what the tools could measure at most, and something to try
//! them on.
//!
//! Speaks SRP byte for byte and answers at the next poll. LUN 0 moves no data; LUN 1 keeps it in
//! memory. Nothing is allocated per command that moves data.
//!
//! ```
//! use std::time::Duration;
//!
//! use transport::initiator::{Connector, LoginOptions, Scsi, Session};
//! use transport::srp::Lun;
//!
//! fn first_block<C: Connector>(connector: &C) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
//!     // Port identifiers: whose session it is, and which target is meant.
//!     let options = LoginOptions::new([1; 16], [2; 16]);
//!     let Session { mut channels, memory } = Session::login(connector, &options, 1, 65536)?;
//!     let mut scsi = Scsi::new(&mut channels[0], &memory, 0..65536, Duration::from_secs(5));
//!     let lun = Lun::from_number(1).expect("LUNs up to 16383");
//!     // Takes the unit attentions that a login leaves.
//!     scsi.test_unit_ready(lun)?;
//!     let mut block = vec![0; scsi.read_capacity16(lun)?.block_bytes as usize];
//!     scsi.read(lun, 0, 1, &mut block)?;
//!     Ok(block)
//! }
//!
//! let target = srpt_bench::ideal::Ideal::new(1 << 20);
//! target.disk().borrow_mut()[..512].fill(0xA5);
//! assert_eq!(first_block(&target)?, [0xA5; 512]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use transport::RemoteSeg;
use transport::initiator::{ConnectError, Connector, DataMemory, Link, LinkError};
use transport::srp::{
    BUF_FMT_DIRECT, Cmd, DataDesc, LoginReq, LoginRsp, Lun, Opcode, OtherChannels, Rsp,
};

/// Blocks of both units, in bytes.
const BLOCK_BYTES: usize = 512;
/// Blocks of LUN 0.
const NULL_BLOCKS: u64 = 1 << 31;
/// Credits of each channel.
const CREDITS: i32 = 1024;
/// Largest information unit in both directions.
const IU_BYTES_MAX: u32 = 256;

const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;
/// ILLEGAL REQUEST, logical block address out of range, in fixed format (SPC-5, 4.4.3).
const OUT_OF_RANGE: [u8; 18] = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0];
/// ILLEGAL REQUEST, invalid command operation code.
const INVALID_OPCODE: [u8; 18] = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0];
/// ILLEGAL REQUEST, logical unit not supported.
const NO_UNIT: [u8; 18] = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x25, 0, 0, 0, 0, 0];

/// The target: the bytes of LUN 1, shared by all links.
#[derive(Debug, Clone)]
pub struct Ideal(Rc<RefCell<Vec<u8>>>);

impl Ideal {
    /// A target whose LUN 1 holds `bytes` bytes, rounded up to whole blocks.
    pub fn new(bytes: usize) -> Self {
        Ideal(Rc::new(RefCell::new(vec![0; bytes.next_multiple_of(BLOCK_BYTES)])))
    }

    /// The bytes of LUN 1.
    pub fn disk(&self) -> &RefCell<Vec<u8>> {
        &self.0
    }
}

/// Data memory of the same process.
#[derive(Debug, Clone)]
pub struct Memory(Rc<RefCell<Vec<u8>>>);

impl DataMemory for Memory {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    #[inline]
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

impl Connector for Ideal {
    type Link = IdealLink;
    type Memory = Memory;

    fn memory(&self, bytes: usize) -> Result<Memory, ConnectError> {
        Ok(Memory(Rc::new(RefCell::new(vec![0; bytes]))))
    }

    fn connect(
        &self,
        login_req: &[u8],
        memory: &Memory,
        _timeout: Duration,
    ) -> Result<(IdealLink, Vec<u8>), ConnectError> {
        let login = LoginReq::parse(login_req).map_err(|error| ConnectError::Failed {
            what: "login".into(),
            reason: error.to_string(),
        })?;
        let mut answer = vec![0; LoginRsp::LEN];
        let rsp = LoginRsp {
            tag: login.tag,
            req_lim_delta: CREDITS,
            max_it_iu_len: IU_BYTES_MAX,
            max_ti_iu_len: IU_BYTES_MAX,
            buf_fmt: BUF_FMT_DIRECT,
            other_channels: OtherChannels::None,
            immediate_data: false,
        };
        rsp.emit(&mut answer);
        let answers = VecDeque::with_capacity(CREDITS as usize);
        Ok((
            IdealLink { target: self.clone(), memory: memory.clone(), answers, closed: false },
            answer,
        ))
    }
}

/// A channel to the ideal target.
#[derive(Debug)]
pub struct IdealLink {
    target: Ideal,
    memory: Memory,
    answers: VecDeque<(u8, [u8; IU_BYTES_MAX as usize])>,
    /// The initiator has sent something else than a command: a logout.
    closed: bool,
}

impl Link for IdealLink {
    #[inline]
    fn send(&mut self, iu: &[u8]) -> Result<(), LinkError> {
        if iu.first() != Some(&(Opcode::Cmd as u8)) {
            self.closed = true;
            return Ok(());
        }
        let cmd = Cmd::parse(iu, None).map_err(|_| LinkError::Closed)?;
        let result = self.execute(&cmd);
        let (status, sense) = match &result {
            Ok(()) => (GOOD, &[][..]),
            Err(sense) => (CHECK_CONDITION, &sense[..]),
        };
        let rsp = Rsp {
            tag: cmd.tag,
            req_lim_delta: 1,
            solicited: false,
            status,
            residual: None,
            sense,
            response_code: None,
        };
        let mut answer = [0; IU_BYTES_MAX as usize];
        let len = rsp.emit(&mut answer) as u8;
        self.answers.push_back((len, answer));
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> Result<(), LinkError> {
        Ok(())
    }

    #[inline]
    fn poll(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<usize, LinkError> {
        let count = self.answers.len();
        for (len, answer) in self.answers.drain(..) {
            each(&answer[..usize::from(len)]);
        }
        if self.closed && count == 0 { Err(LinkError::Closed) } else { Ok(count) }
    }
}

impl IdealLink {
    #[inline]
    fn execute(&self, cmd: &Cmd<'_>) -> Result<(), [u8; 18]> {
        let lba = u64::from_be_bytes(cmd.cdb[2..10].try_into().expect("16 bytes"));
        let number = cmd.lun.number();
        match cmd.cdb[0] {
            // Of other units there is nothing but their list.
            opcode if opcode != 0xA0 && number.is_none_or(|number| number > 1) => Err(NO_UNIT),
            // TEST UNIT READY, SYNCHRONIZE CACHE (16)
            0x00 | 0x91 => Ok(()),
            // READ (16), WRITE (16)
            0x88 | 0x8A if number == Some(0) => Ok(()),
            0x88 => self.copy(lba, cmd.data_in, true),
            0x8A => self.copy(lba, cmd.data_out, false),
            // INQUIRY: a disk
            0x12 => self.answer(cmd, &[0; 36]),
            // REPORT LUNS: two
            0xA0 => {
                let mut list = [0; 24];
                list[3] = 16;
                list[16..].copy_from_slice(&Lun::from_number(1).expect("small").0);
                self.answer(cmd, &list)
            }
            // READ CAPACITY (16)
            0x9E => {
                let disk_blocks = (self.target.0.borrow().len() / BLOCK_BYTES) as u64;
                let blocks = if number == Some(0) { NULL_BLOCKS } else { disk_blocks };
                let mut data = [0; 32];
                data[..8].copy_from_slice(&(blocks - 1).to_be_bytes());
                data[8..12].copy_from_slice(&(BLOCK_BYTES as u32).to_be_bytes());
                self.answer(cmd, &data)
            }
            _ => Err(INVALID_OPCODE),
        }
    }

    /// Data of a command that nobody times; what is not answered reads as zero.
    fn answer(&self, cmd: &Cmd<'_>, data: &[u8]) -> Result<(), [u8; 18]> {
        if let DataDesc::Direct(seg) = cmd.data_in {
            let len = data.len().min(seg.len as usize);
            self.memory.write_at(seg.addr as usize, &vec![0; seg.len as usize]);
            self.memory.write_at(seg.addr as usize, &data[..len]);
        }
        Ok(())
    }

    #[inline]
    fn copy(&self, lba: u64, desc: DataDesc<'_>, to_initiator: bool) -> Result<(), [u8; 18]> {
        let DataDesc::Direct(seg) = desc else { return Err(INVALID_OPCODE) };
        let mut disk = self.target.0.borrow_mut();
        let first = usize::try_from(lba).ok().and_then(|lba| lba.checked_mul(BLOCK_BYTES));
        let range = first.and_then(|first| Some(first..first.checked_add(seg.len as usize)?));
        let on_disk = range.and_then(|range| disk.get_mut(range)).ok_or(OUT_OF_RANGE)?;
        let at = seg.addr as usize;
        if to_initiator {
            self.memory.write_at(at, on_disk);
        } else {
            self.memory.read_at(at, on_disk);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reactor::sys::tsc::Tsc;

    use super::*;
    use crate::copy::{self, Job};
    use crate::interrupt::Interrupt;
    use crate::load::{self, Plan};
    use crate::pattern::Workload;
    use crate::port::{Command, Kind, Port, Unit};
    use crate::session::{self, Identity, SrpPort};

    const IDENTITY: Identity = Identity { id_ext: 0, ioc_guid: 0, initiator_ext: 1 };

    #[test]
    fn the_units_of_a_target_are_found() {
        let mut session = session::login(&Ideal::new(1 << 20), &IDENTITY, 1, 8, 0).unwrap();
        let null = Unit { lun: 0, block_bytes: 512, blocks: NULL_BLOCKS };
        let disk = Unit { lun: 1, block_bytes: 512, blocks: 2048 };
        assert_eq!(session::units(&mut session, None).unwrap(), [null, disk]);
        assert_eq!(session::units(&mut session, Some(&[1])).unwrap(), [disk]);
        let error = format!("{:#}", session::units(&mut session, Some(&[2])).unwrap_err());
        assert_eq!(error, "LUN 2: status 0x02, sense 5/25/00");
    }

    #[test]
    fn a_load_over_srp_verifies_memory_and_not_the_null_unit() {
        let mut session = session::login(&Ideal::new(1 << 20), &IDENTITY, 2, 4, 1 << 20).unwrap();
        let units = session::units(&mut session, None).unwrap();
        let memory = &session.memory;
        let mut ports: Vec<_> =
            session.channels.iter_mut().map(|channel| SrpPort::new(channel, memory)).collect();
        let mut run = |unit: Unit| {
            let plan = Plan {
                units: vec![Unit { blocks: unit.blocks.min(2048), ..unit }],
                sizes: "512-8k".parse().unwrap(),
                workload: Workload::RandRw,
                read_percent: 50,
                depth: 4,
                duration: Duration::from_millis(10),
                verify: true,
                seed: 1,
                stop: Interrupt::default(),
            };
            load::run(&plan, &mut ports, memory, &Tsc::new(), |_, _| {}).unwrap()
        };
        let totals = run(units[1]);
        assert_eq!(totals.errors, 0, "{:?}", totals.errors_shown);
        assert!(totals.reads.ios > 0 && totals.writes.ios > 0);
        let totals = run(units[0]);
        assert!(totals.errors > 0);
        assert!(totals.errors_shown[0].contains("no stamp"), "{:?}", totals.errors_shown);
    }

    #[test]
    fn a_copy_over_srp_arrives() {
        let ideal = Ideal::new(1 << 20);
        let mut session = session::login(&ideal, &IDENTITY, 1, 4, 1 << 20).unwrap();
        let unit = session::units(&mut session, Some(&[1])).unwrap()[0];
        let mut port = SrpPort::new(&mut session.channels[0], &session.memory);
        let data: Vec<u8> = (0..100_000u32).map(|number| (number * 7 / 5) as u8).collect();
        let job = Job { unit, start_byte: 512, bytes_max: u64::MAX, chunk_bytes: 4096, depth: 4 };
        let copied = copy::to_unit(
            &mut port,
            &session.memory,
            &job,
            &mut &data[..],
            true,
            &Interrupt::default(),
        )
        .unwrap();
        assert_eq!(copied.bytes, data.len() as u64);
        assert_eq!(ideal.disk().borrow()[512..512 + data.len()], data);
    }

    #[test]
    fn sense_of_a_failed_command_comes_through() {
        let mut session = session::login(&Ideal::new(1 << 20), &IDENTITY, 1, 4, 1 << 20).unwrap();
        let mut port = SrpPort::new(&mut session.channels[0], &session.memory);
        let command = Command {
            slot: 3,
            kind: Kind::Read,
            lun: 1,
            lba: 2048,
            blocks: 1,
            offset: 0,
            bytes: 512,
        };
        assert!(port.submit(&command).unwrap());
        port.flush().unwrap();
        let mut done = Vec::with_capacity(4);
        port.poll(&mut done).unwrap();
        assert_eq!(done[0].slot, 3);
        let fault = done[0].result.expect_err("out of range");
        assert_eq!((fault.status, fault.key, fault.asc), (2, 5, (0x21, 0)));
    }
}
