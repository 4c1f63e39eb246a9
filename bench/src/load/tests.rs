use std::cell::Cell;

use super::*;
use crate::port::memory::{Ideal, Memory};

/// A clock that moves with every look.
struct Ticking {
    now_ns: Cell<u64>,
    step_ns: u64,
}

impl Ticking {
    fn new(step: Duration) -> Self {
        Ticking { now_ns: Cell::new(0), step_ns: step.as_nanos() as u64 }
    }
}

impl Clock for Ticking {
    fn now(&self) -> Instant {
        self.now_ns.set(self.now_ns.get() + self.step_ns);
        Instant::from_ns(self.now_ns.get())
    }
}

fn plan(workload: Workload, sizes: &str, verify: bool) -> Plan {
    Plan {
        units: vec![Unit { lun: 0, block_bytes: 512, blocks: 256 }],
        sizes: sizes.parse().unwrap(),
        workload,
        read_percent: 50,
        depth: 8,
        duration: Duration::from_millis(20),
        verify,
        seed: 1,
        stop: crate::interrupt::Interrupt::default(),
    }
}

fn run_on(plan: &Plan, ports: &mut [Ideal], memory: &Memory) -> Result<Totals> {
    run(plan, ports, memory, &Ticking::new(Duration::from_micros(1)), |_, _| {})
}

#[test]
fn the_depth_is_kept_and_everything_is_counted() {
    let plan = plan(Workload::RandRead, "4k", false);
    let memory = Memory::new(plan.memory_bytes(2));
    let mut ports = [0, 1].map(|_| Ideal::new(&memory, 256 * 512, 512));
    let totals = run_on(&plan, &mut ports, &memory).unwrap();
    assert!(ports.iter().all(|port| port.in_flight_max == 8 && port.waiting.is_empty()));
    assert!(totals.reads.ios > 1000, "{}", totals.reads.ios);
    assert_eq!(totals.reads.bytes, totals.reads.ios * 4096);
    assert_eq!(totals.reads.latency_ns.len(), totals.reads.ios);
    assert!(totals.reads.latency_ns.min() >= 1000, "a look at the clock lies between");
    assert_eq!((totals.writes.ios, totals.errors), (0, 0));
    assert!(totals.elapsed >= plan.duration);
}

#[test]
fn fewer_credits_than_the_depth_are_enough() {
    let plan = plan(Workload::RandRw, "512-4k", true);
    let memory = Memory::new(plan.memory_bytes(1));
    let mut ports = [Ideal::new(&memory, 256 * 512, 512)];
    ports[0].credits = 3;
    let totals = run_on(&plan, &mut ports, &memory).unwrap();
    assert_eq!((ports[0].in_flight_max, totals.errors), (3, 0));
    assert!(totals.reads.ios > 0 && totals.writes.ios > 0);
}

#[test]
fn a_good_target_verifies() {
    for workload in [Workload::Write, Workload::RandWrite, Workload::Rw, Workload::RandRw] {
        for sizes in ["512", "4k", "512-8k", "512,4k"] {
            let plan = plan(workload, sizes, true);
            let memory = Memory::new(plan.memory_bytes(1));
            let mut ports = [Ideal::new(&memory, 256 * 512, 512)];
            let totals = run_on(&plan, &mut ports, &memory).unwrap();
            assert_eq!(totals.errors, 0, "{:?}", totals.errors_shown);
            assert!(totals.blocks_swept > 0, "{workload:?} {sizes}");
        }
    }
}

#[test]
fn commands_in_flight_never_overlap_when_verified() {
    let plan = plan(Workload::RandRw, "512-16k", true);
    let memory = Memory::new(plan.memory_bytes(1));
    let mut inner = Ideal::new(&memory, 256 * 512, 512);
    inner.fault = Box::new(|_| None);
    struct Watched(Ideal);
    impl Port for Watched {
        fn submit(&mut self, new: &Command) -> Result<bool, transport::initiator::LinkError> {
            let blocks = |c: &Command| c.lba..c.lba + u64::from(c.blocks);
            for old in &self.0.waiting {
                let apart = blocks(old).end <= new.lba || blocks(new).end <= old.lba;
                assert!(apart, "{old:?} and {new:?} overlap");
            }
            self.0.submit(new)
        }
        fn flush(&mut self) -> Result<(), transport::initiator::LinkError> {
            self.0.flush()
        }
        fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), transport::initiator::LinkError> {
            self.0.poll(done)
        }
    }
    let clock = Ticking::new(Duration::from_micros(1));
    let totals = run(&plan, &mut [Watched(inner)], &memory, &clock, |_, _| {}).unwrap();
    assert_eq!(totals.errors, 0, "{:?}", totals.errors_shown);
}

#[test]
fn a_lost_write_is_found() {
    let plan = plan(Workload::RandRw, "4k", true);
    let memory = Memory::new(plan.memory_bytes(1));
    let mut ports = [Ideal::new(&memory, 256 * 512, 512)];
    // Every hundredth write answers GOOD and keeps the old data.
    let (disk, mut writes) = (ports[0].disk.clone(), 0);
    let source = memory.clone();
    ports[0].fault = Box::new(move |command| {
        if command.kind == Kind::Write {
            writes += 1;
            if writes % 100 == 0 {
                let first = command.lba as usize * 512;
                let old = disk.borrow()[first..first + command.bytes as usize].to_vec();
                source.write_at(command.offset, &old);
            }
        }
        None
    });
    let totals = run_on(&plan, &mut ports, &memory).unwrap();
    assert!(totals.errors > 0);
    assert!(totals.errors_shown[0].starts_with("LUN 0, byte "), "{:?}", totals.errors_shown);
}

#[test]
fn damage_after_the_check_is_found_by_the_sweep() {
    let plan = plan(Workload::Write, "4k", true);
    let memory = Memory::new(plan.memory_bytes(1));
    let mut ports = [Ideal::new(&memory, 256 * 512, 512)];
    // Only reads of the sweep follow each other without writes between them.
    let (disk, mut reads) = (ports[0].disk.clone(), 0);
    ports[0].fault = Box::new(move |command| {
        reads = if command.kind == Kind::Read { reads + 1 } else { 0 };
        if reads == 17 {
            disk.borrow_mut()[command.lba as usize * 512 + 100] ^= 1;
        }
        None
    });
    let totals = run_on(&plan, &mut ports, &memory).unwrap();
    assert_eq!(totals.errors, 1, "{:?}", totals.errors_shown);
}

#[test]
fn failed_commands_are_counted_and_shown() {
    let plan = plan(Workload::RandWrite, "4k", true);
    let memory = Memory::new(plan.memory_bytes(1));
    let mut ports = [Ideal::new(&memory, 256 * 512, 512)];
    ports[0].fault = Box::new(|command| {
        let fault = Fault { status: 2, key: 7, asc: (0x27, 0), residual: 0 };
        (command.kind == Kind::Write).then_some(fault)
    });
    let totals = run_on(&plan, &mut ports, &memory).unwrap();
    assert!(totals.errors > 100);
    assert_eq!(totals.errors_shown.len(), ERRORS_SHOWN_MAX);
    assert!(totals.errors_shown[0].contains("DATA PROTECT"), "{:?}", totals.errors_shown);
    assert_eq!((totals.writes.ios, totals.blocks_swept), (0, 0));
}

#[test]
fn a_target_that_does_not_answer_is_an_error() {
    struct Mute;
    impl Port for Mute {
        fn submit(&mut self, _: &Command) -> Result<bool, transport::initiator::LinkError> {
            Ok(true)
        }
        fn flush(&mut self) -> Result<(), transport::initiator::LinkError> {
            Ok(())
        }
        fn poll(&mut self, _: &mut Vec<Done>) -> Result<(), transport::initiator::LinkError> {
            Ok(())
        }
    }
    let plan = plan(Workload::Read, "4k", false);
    let memory = Memory::new(plan.memory_bytes(1));
    let clock = Ticking::new(Duration::from_millis(1));
    let error = run(&plan, &mut [Mute], &memory, &clock, |_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "8 commands are not answered after 30s");
}

#[test]
fn plans_that_make_no_sense_are_refused() {
    let good = plan(Workload::Write, "4k", true);
    assert!(good.check().is_ok());
    let bad = |change: fn(&mut Plan)| {
        let mut plan = good.clone();
        change(&mut plan);
        plan.check().expect_err("refused").to_string()
    };
    assert!(bad(|plan| plan.workload = Workload::Read).contains("nothing to compare"));
    assert!(bad(|plan| plan.units[0].blocks = 7).contains("does not fit"));
    assert!(bad(|plan| plan.units[0].block_bytes = 8192).contains("multiple"));
    assert!(bad(|plan| plan.units[0].blocks = BLOCKS_MAX + 1).contains("range"));
    assert!(bad(|plan| plan.depth = 0).contains("depth"));
    assert!(bad(|plan| plan.units.clear()).contains("no logical unit"));
}
