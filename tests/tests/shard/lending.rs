//! Initiators that share their memory: commands use it as their buffer.

use bdev::malloc::MallocOptions;
use srpt_tests::port::Port;
use srpt_tests::world::{Login, Options, World};
use srpt_tgt::target::mark::{Mark, marked};
use transport::initiator::{Data, DataMemory, cdb};
use transport::{CloseReason, RemoteSeg};

use crate::common::{GOOD, gated, pattern, seg};

/// Bytes of what is written and read here.
const BYTES: usize = 8 * 512;

fn options() -> Options {
    Options { lends: true, delay_ns_max: 0, ..Options::default() }
}

/// A world whose LUN 0 is memory, and an initiator without unit attention.
fn memory() -> (World, Port) {
    let mut world = memory_of(&options());
    let port = world.ready(0, &Login::of(1), &[0]);
    (world, port)
}

fn memory_of(options: &Options) -> World {
    let mut world = World::new(options);
    let name = Some("memory".to_owned());
    let memory = MallocOptions { name, num_blocks: 8192, block_size: 512, ..Default::default() };
    world.bdevs.create_malloc(memory).expect("memory");
    world.map("t", 0, "memory");
    world
}

fn write(port: &Port) -> reactor::Tag {
    port.submit(0, &cdb::write10(0, 8, false), Data::Out(&seg(port, 0, BYTES)))
}

#[test]
fn a_plain_command_is_over_in_the_turn_that_takes_it() {
    let (mut world, port) = memory();
    let data = pattern(1, BYTES);
    port.memory_write(0, &data);
    let credits = port.credits();
    let written = write(&port);
    let back = seg(&port, BYTES, BYTES);
    let read = port.submit(0, &cdb::read10(0, 8), Data::In(&back));
    assert_eq!(port.credits(), credits - 2);
    let before = marked(Mark::DoneAtOnce);
    world.step();
    assert_eq!(marked(Mark::DoneAtOnce) - before, 2, "done without a slot");
    for tag in [written, read] {
        assert_eq!(port.outcome(tag).expect("answered").status, GOOD);
    }
    assert_eq!(port.bytes(BYTES, BYTES), data);
    assert_eq!(port.credits(), credits);
}

#[test]
fn a_write_whose_data_came_with_it_is_over_in_the_turn_that_takes_it() {
    let (mut world, port) = memory();
    let (data, credits) = (pattern(3, BYTES), port.credits());
    let immediate =
        |data: &[u8]| port.submit(0, &cdb::write10(0, 8, false), Data::OutImmediate(data));
    let written = immediate(&data);
    let before = marked(Mark::WrittenAtOnce);
    world.step();
    assert_eq!(marked(Mark::WrittenAtOnce) - before, 1);
    assert_eq!(port.outcome(written).expect("answered").status, GOOD);
    assert_eq!(port.credits(), credits);
    let back = seg(&port, 0, BYTES);
    world.run(&port, 0, &cdb::read10(0, 8), Data::In(&back));
    assert_eq!(port.bytes(0, BYTES), data);

    // Neither what is too little nor what is too much may be written as it comes.
    for bytes in [BYTES - 512, BYTES + 512] {
        let written = immediate(&vec![0x5a; bytes]);
        world.until("the answer", |_| port.outcome(written).is_some());
        assert_eq!(marked(Mark::WrittenAtOnce) - before, 1, "{bytes} bytes for {BYTES}");
    }
}

#[test]
fn a_turn_copies_no_more_than_its_share() {
    let mut options = options();
    options.limits.turn_bytes = BYTES as u64;
    let mut world = memory_of(&options);
    let [much, little] = [1, 2].map(|who| world.ready(0, &Login::of(who), &[0]));
    let commands: Vec<_> = (0..8).map(|_| write(&much)).collect();
    let one = write(&little);
    let answered = |port: &Port, tag| port.outcome(tag).is_some();
    for turn in 1..=9 {
        world.step();
        let done = commands.iter().filter(|tag| answered(&much, **tag)).count();
        assert_eq!(done + usize::from(answered(&little, one)), turn);
        assert!(turn < 3 || answered(&little, one), "the neighbour waits for {done} of others");
    }
}

#[test]
fn memory_comes_back_from_a_device_after_its_channel_has_gone() {
    let (mut world, gate) = gated(&options());
    let port = world.ready(0, &Login::of(1), &[0]);
    gate.shut();
    port.memory_write(0, &pattern(2, BYTES));
    write(&port);
    world.until("the device has it", |_| gate.held() == 1);
    port.disconnect();
    world.steps(100);
    assert!(!port.is_released(), "released with its memory at the device");
    gate.open();
    world.until("the release", |_| port.is_released());
    assert_eq!(gate.medium(0, 8), pattern(2, BYTES));
}

#[test]
fn what_was_never_registered_is_not_lent() {
    let (_, port) = memory();
    let good = seg(&port, 0, BYTES)[0];
    let beyond = RemoteSeg { addr: port.memory.len() as u64 - 512, ..good };
    let elsewhere = RemoteSeg { key: good.key + 1, ..good };
    for wrong in [beyond, elsewhere] {
        let (mut world, port) = memory();
        port.submit(0, &cdb::read10(0, 8), Data::In(&[wrong]));
        world.until("the end of the channel", |_| port.closed());
        assert_eq!(port.ended(), Some(CloseReason::RemoteAccess), "{wrong:?}");
    }
}
