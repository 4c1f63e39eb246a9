//! One core of the production target, under initiators that log in, send and register what the
//! input says, while devices are slow and fail. A good initiator on the same core keeps its
//! session, and at the end everything is home.

use std::sync::Arc;

use bdev::malloc::MallocOptions;
use bdev::null::NullOptions;
use bdev::registry::Registry;
use bdev::{IoStatus, ScsiEnd};
use transport::initiator::{Data, DataMemory, Link, cdb};
use transport::sim::{LoginAnswer, SimLink, SimMemory};
use transport::srp::{
    Cmd, DataDesc, Indirect, LoginForm, Lun, Opcode, Seg, SolNot, TLogout, TaskAttr, TskMgmt,
    encode_table,
};

use super::Input;
use crate::gate::Gate;
use crate::port::Port;
use crate::scripted::Scripted;
use crate::world::{Login, Options, World};

const MEMORY_BYTES: usize = 1 << 16;
/// Hostile connections at a time.
const LINKS: usize = 3;
const ACTS: usize = 96;
/// Entries of the table that each memory begins with.
const TABLE_ENTRIES: usize = 16;

/// Devices: LUN 0 slow, LUN 1 in memory, LUN 2 without data, LUN 3 passed through.
struct Scene {
    world: World,
    gate: Gate,
    tape: Scripted,
    links: [Option<SimLink>; LINKS],
    memories: [SimMemory; LINKS],
}

/// Capacities, then what happens.
pub(super) fn hostile(input: &[u8]) {
    let mut input = Input::new(input);
    let mut scene = Scene::new(&mut input);
    let good = scene.world.ready(0, &Login::of(1), &[1]);
    for _ in 0..ACTS {
        if input.is_empty() {
            break;
        }
        scene.act(&mut input);
    }
    scene.finish(&good);
}

impl Scene {
    fn new(input: &mut Input<'_>) -> Scene {
        let kind = input.u8();
        let mut options = match kind & 3 {
            0 => Options::tight(1 + usize::from(kind >> 6), &[(32 << 10, 1), (1 << 20, 2)]),
            _ => Options::tight(64, &[(4 << 10, 32), (32 << 10, 8), (1 << 20, 3)]),
        };
        options.limits.credits = if kind & 4 == 0 { 32 } else { 2 };
        options.seed = u64::from(input.u16());
        let mut world = World::new(&options);
        let gate = Gate::new("gate", 64);
        gate.random(options.seed, 1 + u64::from(kind >> 3 & 7), 0);
        world.add(0, Arc::new(gate.clone()));
        create(&mut world.bdevs);
        world.map("t", 1, "memory");
        world.map("t", 2, "none");
        let tape = Scripted::new("tape", 1);
        world.add(3, Arc::new(tape.clone()));
        let memories = std::array::from_fn(|_| memory());
        Scene { world, gate, tape, links: [None, None, None], memories }
    }

    fn act(&mut self, input: &mut Input<'_>) {
        let number = input.below(LINKS);
        match input.u8() % 12 {
            0 => self.knock(number, input),
            1 => self.send(number, input.run()),
            2..=4 => {
                let unit = if input.u8() < 0xc0 { command(input) } else { odd_command(input) };
                self.send(number, &unit);
            }
            5 => {
                let unit = function(input);
                self.send(number, &unit);
            }
            6 => {
                let at = input.below(MEMORY_BYTES);
                let bytes = input.run();
                let fits = bytes.len().min(MEMORY_BYTES - at);
                self.memories[number].write_at(at, &bytes[..fits]);
            }
            7 => self.links[number] = None,
            8 => self.device(input),
            _ => {
                self.world.steps(1 + usize::from(input.u8() & 63));
                self.listen();
            }
        }
    }

    /// A login that is right but for some bytes, or no login at all.
    fn knock(&mut self, number: usize, input: &mut Input<'_>) {
        let kind = input.u8();
        let mut login = Login::of(2 + u64::from(kind & 1));
        if kind & 2 != 0 {
            login.req.form = LoginForm::RdmaCm;
        }
        let mut bytes = if kind & 4 == 0 { login.bytes() } else { input.run().to_vec() };
        if kind & 8 != 0 && !bytes.is_empty() {
            let at = input.below(bytes.len());
            bytes[at] = input.u8();
        }
        // Not the good initiator's name, whose session would end.
        if bytes.windows(8).any(|window| window == 1u64.to_be_bytes()) {
            return;
        }
        let target = if kind & 16 == 0 { "t" } else { "nobody" };
        self.links[number] = self.world.net.connect(0, target, &bytes, &self.memories[number]);
        if kind & 32 == 0 {
            self.world.steps(8);
            // Each unit has something to say first.
            for lun in 0..4 {
                self.send(number, &unit_of(0, lun, &[0; 16], DataDesc::None, DataDesc::None));
            }
            self.world.steps(16);
        }
    }

    fn send(&mut self, number: usize, unit: &[u8]) {
        if let Some(link) = &mut self.links[number] {
            // A link that has ended is what it asks for.
            let _ = link.send(unit);
        }
    }

    /// Everything that the target says is understood.
    fn listen(&mut self) {
        for slot in &mut self.links {
            let Some(link) = slot else { continue };
            if let Some(LoginAnswer::Accepted(rsp)) = link.login_answer() {
                transport::srp::LoginRsp::parse(&rsp).expect("a login response");
            }
            let polled = link.poll(&mut |unit| match Opcode::of(unit).expect("a unit") {
                Opcode::Rsp => drop(transport::srp::Rsp::parse(unit).expect("a response")),
                Opcode::CredReq => drop(transport::srp::CredReq::parse(unit).expect("credits")),
                Opcode::AerReq => drop(transport::srp::AerReq::parse(unit).expect("an event")),
                Opcode::TLogout => drop(TLogout::parse(unit).expect("a logout")),
                other => panic!("{other:?} from a target"),
            });
            if polled.is_err() {
                *slot = None;
            }
        }
    }

    /// What a device does next.
    fn device(&mut self, input: &mut Input<'_>) {
        match input.u8() % 7 {
            0 => self.gate.fail_next(IoStatus::ReadError),
            1 => self.gate.fail_next(IoStatus::GoodNoData),
            2 => self.gate.resize(u64::from(input.u8())),
            3 => self.world.unmap("t", 2),
            4 => {
                let end = ScsiEnd::check(input.run(), input.u32());
                self.tape.answer(end, input.run());
            }
            5 => {
                let mut end = ScsiEnd::new(input.u8());
                end.residual = input.u32();
                self.tape.answer(end, input.run());
            }
            _ => self.gate.random(1, u64::from(input.u8()), 0),
        }
    }

    /// The offenders go; then the good initiator is as well as before.
    fn finish(mut self, good: &Port) {
        self.listen();
        self.links = [None, None, None];
        self.gate.open();
        assert!(!good.closed(), "the good session has ended");
        let ready = (0..16).any(|_| self.world.run(good, 1, &[0; 6], Data::None).status == 0);
        assert!(ready, "the good session gets no answer but attentions");
        self.world.assert_home();
        assert_eq!(good.protocol_errors(), 0);
        assert_eq!(good.credits(), good.credits_at_login());
    }
}

fn create(bdevs: &mut Registry) {
    let size = |name: &str| serde_json::json!({"name": name, "num_blocks": 64, "block_size": 512});
    let memory: MallocOptions = serde_json::from_value(size("memory")).expect("its parameters");
    bdevs.create(memory).expect("a malloc bdev");
    let none: NullOptions = serde_json::from_value(size("none")).expect("its parameters");
    bdevs.create(none).expect("a null bdev");
}

fn segment(input: &mut Input<'_>) -> Seg {
    let (kind, addr) = (input.u8(), input.u16());
    let addr = if kind & 1 == 0 { u64::from(addr) } else { u64::MAX - u64::from(addr) };
    let len = match kind >> 1 & 7 {
        0 => u32::MAX,
        1 => input.u32(),
        2 => u32::from(input.u16()),
        blocks => (blocks as u32 - 2) * 512,
    };
    Seg { addr, key: if kind >> 4 == 0xf { 2 } else { 1 }, len }
}

/// Memory that begins with a table of what comes behind it.
fn memory() -> SimMemory {
    let memory = SimMemory::new(MEMORY_BYTES);
    let mut table = [0; TABLE_ENTRIES * 16];
    encode_table(&table_entries(TABLE_ENTRIES), &mut table);
    memory.write_at(0, &table);
    memory
}

fn table_entries(count: usize) -> Vec<Seg> {
    let entry = |number: usize| Seg { addr: 4096 + 512 * number as u64, key: 1, len: 512 };
    (0..count).map(entry).collect()
}

/// A command that is in order, with its data in any of the four forms.
fn command(input: &mut Input<'_>) -> Vec<u8> {
    let (lun, tag) = (u16::from(input.u8() & 3), u64::from(input.u8() & 15));
    let (lba, blocks) = (u32::from(input.u8() & 63), 1 + u16::from(input.u8() & 7));
    let (form, kind) = (input.u8(), input.u8());
    let at = u64::from(lba);
    let data = usize::from(blocks) * 512;
    let mut cdb = [0; 16];
    let mut put = |bytes: &[u8]| cdb[..bytes.len()].copy_from_slice(bytes);
    let (out, bytes, ()) = match kind % 16 {
        0..=2 => (false, data, put(&cdb::read10(lba, blocks))),
        3..=5 => (true, data, put(&cdb::write10(lba, blocks, false))),
        6 => (false, data, put(&cdb::read16(at, blocks.into()))),
        7 => (true, data, put(&cdb::write16(at, blocks.into(), true))),
        8 => (true, 24, put(&cdb::unmap(24))),
        9 => (true, 512, put(&cdb::write_same16(at, blocks.into(), form & 64 != 0))),
        10 => (true, 1024, put(&cdb::compare_and_write(at, 1))),
        11 => (true, data, put(&[0x2f, 2, 0, 0, 0, lba as u8, 0, 0, blocks as u8, 0])),
        12 => (false, 255, put(&cdb::inquiry(None, 255))),
        13 => (false, 0, put(&cdb::synchronize_cache10(0, 0))),
        14 => (false, 64, put(&cdb::report_luns(64))),
        _ => (input.flag(), data, put(input.bytes(16))),
    };
    let entries = bytes.div_ceil(512);
    let in_iu: Vec<[u8; 16]> = match form & 3 {
        1 => table_entries(entries).into_iter().map(Seg::to_bytes).collect(),
        _ => Vec::new(),
    };
    let immediate = vec![form; bytes];
    let desc = match form & 3 {
        _ if bytes == 0 => DataDesc::None,
        1 | 2 => DataDesc::Indirect(Indirect {
            table: Seg { addr: 0, key: 1, len: 16 * entries as u32 },
            total_len: bytes as u32,
            in_iu: &in_iu,
        }),
        3 if out => DataDesc::Immediate(&immediate),
        _ => DataDesc::Direct(Seg { addr: 4096, key: 1, len: bytes as u32 }),
    };
    match out {
        true => unit_of(tag, lun, &cdb, desc, DataDesc::None),
        false => unit_of(tag, lun, &cdb, DataDesc::None, desc),
    }
}

/// A command whose fields may contradict each other.
fn odd_command(input: &mut Input<'_>) -> Vec<u8> {
    let (kind, lun, tag) = (input.u8(), u16::from(input.u8() & 7), u64::from(input.u8() & 15));
    let cdb_bytes = 16 + usize::from(kind >> 6 & 1) * 16;
    let mut cdb = input.bytes(cdb_bytes).to_vec();
    cdb.resize(cdb_bytes, 0);
    let count = input.below(4);
    let table: Vec<[u8; 16]> = (0..count).map(|_| segment(input).to_bytes()).collect();
    let desc = match kind & 7 {
        0 => DataDesc::None,
        1..=3 => DataDesc::Direct(segment(input)),
        4 | 5 => DataDesc::Indirect(Indirect {
            table: Seg { len: 16 * (count as u32 + u32::from(input.u8())), ..segment(input) },
            total_len: input.u32() % (3 << 20),
            in_iu: &table,
        }),
        _ => DataDesc::Immediate(input.run()),
    };
    let out = kind & 8 != 0 || matches!(desc, DataDesc::Immediate(_));
    let (data_out, data_in) = if out { (desc, DataDesc::None) } else { (DataDesc::None, desc) };
    let both = kind & 16 != 0 && out;
    let data_in = if both { DataDesc::Direct(segment(input)) } else { data_in };
    unit_of(tag, lun, &cdb, data_out, data_in)
}

/// A command on the wire. Immediate data begins where the login said, or behind descriptors that
/// are longer.
fn unit_of(tag: u64, lun: u16, cdb: &[u8], out: DataDesc<'_>, into: DataDesc<'_>) -> Vec<u8> {
    let cmd = Cmd {
        tag: tag.to_be_bytes(),
        lun: Lun::from_number(lun).expect("a LUN"),
        task_attr: TaskAttr::Simple,
        sol_not: SolNot { on_success: tag & 1 != 0, on_failure: false },
        cdb,
        data_out: out,
        data_in: into,
    };
    let offset = Some(if into.is_none() && cdb.len() <= 16 { 68 } else { 100 });
    let mut unit = vec![0; cmd.wire_len(offset)];
    cmd.emit(offset, &mut unit);
    unit
}

fn function(input: &mut Input<'_>) -> Vec<u8> {
    let (lun, function) = (u16::from(input.u8() & 3), input.u8());
    let request = TskMgmt {
        tag: [0xff, 0, 0, 0, 0, 0, 0, input.u8()],
        lun: Lun::from_number(lun).expect("a LUN"),
        sol_not: SolNot::default(),
        function: if function & 1 == 0 { 1 << (function >> 1 & 7) } else { function },
        task_tag: u64::from(input.u8() & 15).to_be_bytes(),
    };
    let mut unit = vec![0; TskMgmt::LEN];
    request.emit(&mut unit);
    unit
}
