//! An initiator that is free to lie, whatever the fabric.

use std::os::fd::OwnedFd;

use rustix::fs::SealFlags;
use transport::srp::{
    Cmd, CredRsp, DataDesc, LoginForm, LoginReq, LoginRsp, Lun, Opcode, RejectReason, Residual,
    Rsp, SolNot, TaskAttr,
};

use super::rdma::RdmaWire;
use super::shm::{ShmWire, memory};
use super::way::Way;
use crate::process::{PATIENCE, until};

/// Bytes of the memory that a peer registers.
pub const DATA_BYTES: usize = 4 << 20;

/// Where immediate data begins in the commands of a peer.
const IMM_DATA_OFFSET: u16 = 68;

/// Why there is no peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// SRP_LOGIN_REJ.
    Rejected(RejectReason),
    /// The handshake's own words.
    Error(String),
    /// Closed without a word.
    Closed,
}

/// A response as the peer reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The tag.
    pub tag: u64,
    /// SCSI status.
    pub status: u8,
    /// Sense key, code and qualifier.
    pub sense: Option<(u8, u8, u8)>,
    /// Residual.
    pub residual: Option<Residual>,
    /// Code of a task management function.
    pub code: Option<u8>,
    /// All bytes.
    pub bytes: Vec<u8>,
}

impl Reply {
    /// Parses a unit that must be a response.
    pub fn of(bytes: &[u8]) -> Reply {
        let rsp = Rsp::parse(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
        let sense =
            (rsp.sense.len() >= 14).then(|| (rsp.sense[2] & 15, rsp.sense[12], rsp.sense[13]));
        Reply {
            tag: u64::from_be_bytes(rsp.tag),
            status: rsp.status,
            sense,
            residual: rsp.residual,
            code: rsp.response_code,
            bytes: bytes.to_vec(),
        }
    }
}

/// A login at a target as the initiator port `number`, with immediate data.
pub fn login(way: &Way, number: u64) -> LoginReq {
    let port = u128::from(number) << 64 | 0xBAD;
    LoginReq {
        form: LoginForm::Ib,
        tag: *b"hostile!",
        req_it_iu_len: 8276,
        req_buf_fmt: 6,
        req_flags: LoginReq::FLAG_IMMEDIATE_DATA,
        imm_data_offset: IMM_DATA_OFFSET,
        initiator_port_id: port.to_be_bytes(),
        target_port_id: way.target_port(),
    }
}

/// The bytes of a command.
pub fn command(tag: u64, lun: u16, cdb: &[u8], out: DataDesc<'_>, into: DataDesc<'_>) -> Vec<u8> {
    let cmd = Cmd {
        tag: tag.to_be_bytes(),
        lun: Lun::from_number(lun).expect("a LUN"),
        task_attr: TaskAttr::Simple,
        sol_not: SolNot::default(),
        cdb,
        data_out: out,
        data_in: into,
    };
    let offset = Some(u32::from(IMM_DATA_OFFSET));
    let mut bytes = vec![0; cmd.wire_len(offset)];
    cmd.emit(offset, &mut bytes);
    bytes
}

/// What carries the units of a peer.
enum Wire {
    Shm(ShmWire),
    Rdma(Box<RdmaWire>),
}

/// One channel.
pub struct Peer {
    wire: Wire,
    /// Credits by what the target granted and the peer sent.
    pub credits: i64,
    /// What the target agreed to.
    pub agreed: LoginRsp,
}

impl Peer {
    /// Logs in with [`DATA_BYTES`] of memory.
    pub fn login(way: &Way, login: &LoginReq) -> Result<Peer, Refused> {
        match way {
            Way::Shm(_) => {
                let data = memory(DATA_BYTES, SealFlags::SHRINK | SealFlags::GROW);
                Peer::with_memory(way, login, data)
            }
            Way::Rdma(_) => {
                let mut request = [0; LoginReq::LEN_IB];
                let len = login.emit(&mut request);
                Peer::with_request(way, &request[..len])
            }
        }
    }

    /// Logs in with memory of the caller's, which only shared memory can register.
    pub fn with_memory(way: &Way, login: &LoginReq, data: OwnedFd) -> Result<Peer, Refused> {
        let Way::Shm(path) = way else { panic!("no memory file can be registered") };
        let mut request = [0; LoginReq::LEN_IB];
        let len = login.emit(&mut request);
        let (wire, agreed) = ShmWire::login(path, &request[..len], data)?;
        Ok(Peer { wire: Wire::Shm(wire), credits: i64::from(agreed.req_lim_delta), agreed })
    }

    /// Logs in over RDMA with these bytes, whatever they are.
    pub fn with_request(way: &Way, request: &[u8]) -> Result<Peer, Refused> {
        let Way::Rdma(port) = way else { panic!("a handshake goes around the login") };
        let (wire, agreed) = RdmaWire::login(port, request)?;
        let wire = Wire::Rdma(Box::new(wire));
        Ok(Peer { wire, credits: i64::from(agreed.req_lim_delta), agreed })
    }

    /// A channel as port `number`, with the unit attentions of LUNs below `luns` taken.
    pub fn ready(way: &Way, number: u64, luns: u16) -> Peer {
        let mut peer = Peer::login(way, &login(way, number)).expect("a login that is in order");
        for lun in 0..luns {
            peer.run(&command(0, lun, &[0; 16], DataDesc::None, DataDesc::None));
        }
        peer
    }

    /// Sends a unit of any length that the wire has a place for.
    pub fn send(&mut self, unit: &[u8]) {
        self.credits -= 1;
        match &mut self.wire {
            Wire::Shm(wire) => wire.send_as(unit, unit.len() as u32),
            Wire::Rdma(wire) => wire.send(unit),
        }
    }

    /// The next unit from the target.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        match &mut self.wire {
            Wire::Shm(wire) => wire.take(),
            Wire::Rdma(wire) => wire.take(),
        }
    }

    /// Waits for a response. Credits that the target returns by a request of its own are taken.
    pub fn reply(&mut self) -> Reply {
        loop {
            let unit = until("a response", PATIENCE, || {
                assert!(!self.ended(), "the channel has ended");
                self.take()
            });
            if let Some(reply) = self.on_unit(&unit) {
                return reply;
            }
        }
    }

    /// Takes everything that the target has sent by now, and waits until the peer has so many
    /// credits.
    pub fn credits_back(&mut self, credits: i64) {
        until("credits come back", PATIENCE, || {
            if let Some(unit) = self.take() {
                self.on_unit(&unit);
            }
            (self.credits == credits).then_some(())
        });
    }

    fn on_unit(&mut self, unit: &[u8]) -> Option<Reply> {
        self.credits += i64::from(i32::from_be_bytes(unit[4..8].try_into().expect("a word")));
        if unit[0] == Opcode::CredReq as u8 {
            let mut answer = [0; CredRsp::LEN];
            CredRsp { tag: unit[8..16].try_into().expect("a tag") }.emit(&mut answer);
            self.send(&answer);
            // Answers use no credit.
            self.credits += 1;
            return None;
        }
        Some(Reply::of(unit))
    }

    /// Sends a command and waits for its response.
    pub fn run(&mut self, unit: &[u8]) -> Reply {
        self.send(unit);
        self.reply()
    }

    /// The target has closed the channel.
    pub fn ended(&mut self) -> bool {
        match &mut self.wire {
            Wire::Shm(wire) => wire.ended(),
            Wire::Rdma(wire) => wire.ended(),
        }
    }

    /// Waits until the target closes the channel; responses that come before are forgotten.
    pub fn thrown_out(&mut self) {
        until("the offender is thrown out", PATIENCE, || {
            self.take();
            self.ended().then_some(())
        });
    }

    /// Writes into the registered memory.
    pub fn put(&self, at: usize, bytes: &[u8]) {
        match &self.wire {
            Wire::Shm(wire) => wire.put(at, bytes),
            Wire::Rdma(wire) => wire.put(at, bytes),
        }
    }

    /// Reads from the registered memory.
    pub fn look(&self, at: usize, len: usize) -> Vec<u8> {
        match &self.wire {
            Wire::Shm(wire) => wire.look(at, len),
            Wire::Rdma(wire) => wire.look(at, len),
        }
    }

    /// What only shared memory has. Panics over RDMA.
    pub fn shm(&mut self) -> &mut ShmWire {
        match &mut self.wire {
            Wire::Shm(wire) => wire,
            Wire::Rdma(_) => panic!("not over RDMA"),
        }
    }

    /// What only RDMA has. Panics over shared memory.
    pub fn rdma(&mut self) -> &mut RdmaWire {
        match &mut self.wire {
            Wire::Shm(_) => panic!("not over shared memory"),
            Wire::Rdma(wire) => wire,
        }
    }
}
