//! An initiator that breaks the protocol's rules. It may lose its connection, and nothing else may
//! happen: what it asks for in earnest are reads, and LUNs that are not there.

use transport::initiator::Link;
use transport::sim::{LoginAnswer, Rng, SimLink, SimMemory};
use transport::srp::{
    AerRsp, Cmd, CredRsp, DataDesc, LoginReq, LoginRsp, Rsp, Seg, SolNot, TaskAttr, TskMgmt,
};
use transport::{CloseReason, RemoteSeg};

use super::attentions::NO_LUN;
use super::plan::Fault;
use super::run::{Act, Shared};
use super::tally::Seen;
use crate::note;
use crate::port::lun;
use crate::world::Login;

/// The initiator.
pub struct Hostile {
    rng: Rng,
    memory: SimMemory,
    link: Option<SimLink>,
    credits: Option<i32>,
    steps: u64,
    serial: u64,
}

impl Hostile {
    /// One that has not begun.
    pub fn new(rng: Rng) -> Hostile {
        let memory = SimMemory::new(1 << 16);
        Hostile { rng, memory, link: None, credits: None, steps: 0, serial: 0 }
    }

    /// It goes away.
    pub fn forget(&mut self) {
        (self.link, self.credits) = (None, None);
    }

    /// What it does in this step.
    pub fn tick(&mut self, shared: &mut Shared) {
        if shared.act != Act::Trouble {
            return self.forget();
        }
        let Some(link) = &mut self.link else {
            if shared.plan.strikes(Fault::Hostile, &mut self.rng) {
                self.knock(shared);
            }
            return;
        };
        self.steps += 1;
        if link.poll(&mut |_| {}).is_err() || self.steps > 200 {
            let ended = link.ended();
            note!(shared, "hostile ended: {ended:?}");
            if matches!(ended, Some(CloseReason::Protocol | CloseReason::RemoteAccess)) {
                shared.tally.seen(Seen::Expelled);
            }
            return self.forget();
        }
        match (link.login_answer(), self.credits) {
            (Some(LoginAnswer::Accepted(rsp)), None) => {
                self.credits = LoginRsp::parse(&rsp).map(|rsp| rsp.req_lim_delta).ok();
            }
            (_, Some(_)) if self.rng.one(6) => self.break_a_rule(shared),
            _ => {}
        }
    }

    /// Sends a login, right or wrong.
    fn knock(&mut self, shared: &mut Shared) {
        let mut bytes = Login::of(1000 + self.rng.below(2)).bytes();
        match self.rng.below(6) {
            0 => bytes.truncate(self.rng.below(bytes.len() as u64) as usize),
            1 | 2 => {
                let at = self.rng.below(bytes.len() as u64) as usize;
                // Not another's name.
                if !(LoginReq::LEN_IB - 32..LoginReq::LEN_IB - 16).contains(&at) {
                    bytes[at] ^= 1 << self.rng.below(8);
                }
            }
            _ => {}
        }
        let core = self.rng.below(shared.world.shards.len() as u64) as usize;
        let target = if self.rng.one(8) { "nobody" } else { "t" };
        note!(shared, "hostile knocks at core {core}");
        self.link = shared.world.net.connect(core, target, &bytes, &self.memory);
        self.steps = 0;
        shared.tally.fault(Fault::Hostile);
    }

    fn break_a_rule(&mut self, shared: &mut Shared) {
        let rule = self.rng.below(11);
        note!(shared, "hostile breaks rule {rule}");
        let mut ius = Vec::new();
        match rule {
            0 => ius.push((0..self.rng.below(90)).map(|_| self.rng.next_u64() as u8).collect()),
            1 => ius.push(self.mutated()),
            2 => {
                let count = self.credits.expect("logged in") + 3;
                (0..count).for_each(|_| ius.push(self.ready()));
            }
            3 => ius.push(if self.rng.one(2) { cred_rsp() } else { aer_rsp() }),
            4 => ius.push(response()),
            5 => ius.push(vec![2; 9000]),
            6 => {
                let again = self.ready();
                (0..2).for_each(|_| ius.push(again.clone()));
            }
            7 => ius.push(self.function()),
            8 => {
                let seg = self.seg();
                let mut iu = self.command(0, DataDesc::Direct(seg), DataDesc::None);
                iu.truncate(iu.len() - 1 - self.rng.below(15) as usize);
                ius.push(iu);
            }
            9 => {
                let (one, other) = (self.seg(), self.seg());
                ius.push(self.command(0, DataDesc::Direct(one), DataDesc::Direct(other)));
            }
            _ => {
                let seg = self.seg();
                ius.push(self.command(0, DataDesc::Direct(seg), DataDesc::None));
            }
        }
        let link = self.link.as_mut().expect("it ticks");
        // An end on the way is what it asks for.
        ius.iter().for_each(|iu| drop(link.send(iu)));
    }

    fn tag(&mut self) -> [u8; 8] {
        self.serial += 1;
        self.serial.to_be_bytes()
    }

    /// Memory that is not there, overlaps, is empty, or is nearly endless.
    fn seg(&mut self) -> RemoteSeg {
        let addr = [0, 512, 65_530, u64::MAX - 10, 1 << 40][self.rng.below(5) as usize];
        let len = [0, 1, 511, 512, 513, u32::MAX][self.rng.below(6) as usize];
        Seg { addr, key: 1 + self.rng.below(2) as u32, len }
    }

    /// TEST UNIT READY of a LUN that is not there.
    fn ready(&mut self) -> Vec<u8> {
        self.command(NO_LUN, DataDesc::None, DataDesc::None)
    }

    /// READ of a block, or with no data TEST UNIT READY.
    fn command(&mut self, number: u16, data_in: DataDesc<'_>, data_out: DataDesc<'_>) -> Vec<u8> {
        let read = transport::initiator::cdb::read16(0, 1);
        let cdb = if matches!(data_in, DataDesc::None) { &[0; 16] } else { &read };
        let cmd = Cmd {
            tag: self.tag(),
            lun: lun(number),
            task_attr: TaskAttr::Simple,
            sol_not: SolNot::default(),
            cdb,
            data_out,
            data_in,
        };
        let mut iu = vec![0; 200];
        let len = cmd.emit(None, &mut iu);
        iu.truncate(len);
        iu
    }

    /// A command with one byte changed, to a LUN that is not there.
    fn mutated(&mut self) -> Vec<u8> {
        let seg = self.seg();
        let mut iu = self.command(NO_LUN, DataDesc::Direct(seg), DataDesc::None);
        let at = self.rng.below(iu.len() as u64) as usize;
        // SRP_CMD has its LUN in bytes 16 to 23.
        if !(16..24).contains(&at) {
            iu[at] ^= 1 << self.rng.below(8);
        }
        if self.rng.one(3) {
            iu.truncate(at);
        }
        iu
    }

    fn function(&mut self) -> Vec<u8> {
        let mut iu = vec![0; TskMgmt::LEN];
        let task_tag = self.rng.below(4).to_be_bytes();
        let function = self.rng.below(256) as u8;
        let (lun, sol_not) = (lun(NO_LUN), SolNot::default());
        TskMgmt { tag: self.tag(), lun, sol_not, function, task_tag }.emit(&mut iu);
        iu
    }
}

fn cred_rsp() -> Vec<u8> {
    let mut iu = vec![0; CredRsp::LEN];
    CredRsp { tag: [0; 8] }.emit(&mut iu);
    iu
}

fn aer_rsp() -> Vec<u8> {
    let mut iu = vec![0; AerRsp::LEN];
    AerRsp { tag: [0; 8] }.emit(&mut iu);
    iu
}

/// What only a target may send.
fn response() -> Vec<u8> {
    let mut iu = vec![0; Rsp::LEN_MIN];
    let rsp = Rsp {
        tag: [0; 8],
        req_lim_delta: 100,
        solicited: false,
        status: 0,
        residual: None,
        sense: &[],
        response_code: None,
    };
    rsp.emit(&mut iu);
    iu
}
