//! Rate limits: exact, fair, and never in the way of what ends commands.

use std::sync::Arc;
use std::time::Duration;

use reactor::{Clock, Instant, Service, Tag};
use srpt_tests::gate::Gate;
use srpt_tests::port::{End, Port};
use srpt_tests::scripted::Scripted;
use srpt_tests::world::{Login, Options, World};
use srpt_tgt::shard::message::Action;
use srpt_tgt::shard::qos::rate::{BURST_NS, RateLimits};
use transport::initiator::{Data, cdb};
use transport::srp::Tmf;

use crate::common::{GOOD, NO_LUN, TUR, code, gated, seg, single};

const OFF: RateLimits = RateLimits { rw_ios: 0, rw_bytes: 0, r_bytes: 0, w_bytes: 0 };

fn ios(rw_ios: u64) -> RateLimits {
    RateLimits { rw_ios, ..OFF }
}

/// When limits are set: long enough after the start of the clock for a burst.
const START_NS: u64 = 1_000_000_000;

fn limit(world: &mut World, limits: RateLimits) {
    world.clock.set(Instant::from_ns(START_NS));
    world.limit("gate", limits);
}

/// An initiator that keeps commands in flight.
struct Load {
    port: Port,
    depth: usize,
    blocks: u16,
    writes: bool,
    tags: Vec<Tag>,
    done: u64,
}

impl Load {
    fn new(port: &Port, depth: usize, blocks: u16, writes: bool) -> Load {
        Load { port: port.clone(), depth, blocks, writes, tags: Vec::new(), done: 0 }
    }

    fn poll(&mut self) {
        let port = &self.port;
        let before = self.tags.len();
        self.tags.retain(|tag| match port.take_end(*tag) {
            None => true,
            Some(End::Answered(outcome)) => {
                assert_eq!(outcome.status, GOOD);
                false
            }
            Some(other) => panic!("{other:?}"),
        });
        self.done += (before - self.tags.len()) as u64;
        let data = seg(&self.port, 0, usize::from(self.blocks) * 512);
        while self.tags.len() < self.depth {
            let tag = match self.writes {
                false => self.port.submit(0, &cdb::read10(0, self.blocks), Data::In(&data)),
                true => self.port.submit(0, &cdb::write10(0, self.blocks, false), Data::Out(&data)),
            };
            self.tags.push(tag);
        }
    }
}

/// Lets loads run for a time in steps of `step_ns`.
fn run(world: &mut World, loads: &mut [&mut Load], time: Duration, step_ns: u64) {
    let end = world.clock.now().after(time);
    while world.clock.now() < end {
        world.clock.advance(Duration::from_nanos(step_ns));
        loads.iter_mut().for_each(|load| load.poll());
        world.step();
    }
}

/// Without the limit everything ends, and all is home.
fn settle(mut world: World) {
    world.limit("gate", OFF);
    world.assert_home();
}

fn close_to(found: u64, expected: u64) {
    let (low, high) = (expected - expected / 500 - 1, expected + expected / 500 + 1);
    assert!((low..=high).contains(&found), "{found} instead of {expected}");
}

#[test]
fn a_limit_is_exact_whatever_the_rate() {
    for (rw_ios, ms, step_ns) in [(100, 10_000, 90_000), (10_000, 2000, 9_000), (500_000, 100, 500)]
    {
        let (mut world, _gate, port) = single();
        limit(&mut world, ios(rw_ios));
        let mut load = Load::new(&port, 30, 1, false);
        run(&mut world, &mut [&mut load], Duration::from_millis(ms), step_ns);
        close_to(load.done, rw_ios * ms / 1000 + rw_ios * BURST_NS / 1_000_000_000);
        settle(world);
    }
}

#[test]
fn bytes_are_counted_over_all_sessions_and_cores() {
    let (mut world, _gate) = gated(&Options::cores(2));
    let ports = [world.ready(0, &Login::of(1), &[0]), world.ready(1, &Login::of(2), &[0])];
    limit(&mut world, RateLimits { rw_bytes: 50 << 20, ..OFF });
    let mut loads = [Load::new(&ports[0], 8, 8, false), Load::new(&ports[1], 8, 8, true)];
    let [first, second] = &mut loads;
    run(&mut world, &mut [first, second], Duration::from_millis(1000), 5_000);
    let all = loads.iter().map(|load| load.done).sum::<u64>();
    close_to(all, 12_800 + 128);
    assert!(loads[0].done.abs_diff(all / 2) < all / 100, "{} of {all}", loads[0].done);
    settle(world);
}

/// Of a device that takes commands as they are, each one with data counts.
#[test]
fn commands_that_are_passed_on_are_limited_by_their_data() {
    for (limits, expected) in [
        (ios(1000), 1000 + 10),
        (RateLimits { w_bytes: 512_000, ..OFF }, 1000 + 10),
        (RateLimits { r_bytes: 1, ..OFF }, u64::MAX),
    ] {
        let mut world = World::new(&Options::default());
        world.add(0, Arc::new(Scripted::new("gate", 1)));
        let port = world.ready(0, &Login::of(1), &[0]);
        limit(&mut world, limits);
        let end = world.clock.now().after(Duration::from_secs(1));
        let (mut written, mut asked) = (0, 0);
        let mut write = None;
        while world.clock.now() < end && written < 5000 {
            let data = seg(&port, 0, 512);
            let tag = *write
                .get_or_insert_with(|| port.submit(0, &[0x0a, 0, 0, 2, 0, 0], Data::Out(&data)));
            if port.take_end(tag).is_some() {
                written += 1;
                write = None;
            }
            if written % 100 == 0 {
                assert_eq!(world.run(&port, 0, &TUR, Data::None).status, GOOD);
                asked += 1;
            }
            world.clock.advance(Duration::from_micros(20));
            world.step();
        }
        assert!(asked > 0, "what moves nothing is free");
        match expected {
            u64::MAX => assert_eq!(written, 5000),
            expected => close_to(written, expected),
        }
        settle(world);
    }
}

#[test]
fn sessions_have_equal_shares_whatever_their_depth() {
    for core in [0, 1] {
        let (mut world, _gate) = gated(&Options::cores(2));
        let greedy = world.ready(0, &Login::of(1), &[0]);
        let modest = world.ready(core, &Login::of(2), &[0]);
        limit(&mut world, ios(5_000));
        let (mut greedy, mut modest) =
            (Load::new(&greedy, 32, 1, false), Load::new(&modest, 1, 1, true));
        run(&mut world, &mut [&mut greedy, &mut modest], Duration::from_millis(500), 2_000);
        let all = greedy.done + modest.done;
        close_to(all, 2_550);
        assert!(modest.done * 100 >= all * 48, "core {core}: {} of {all}", modest.done);
        settle(world);
    }
}

#[test]
fn reads_wait_for_reads_only() {
    let (mut world, _gate, port) = single();
    limit(&mut world, RateLimits { r_bytes: 1 << 20, ..OFF });
    let (mut reads, mut writes) = (Load::new(&port, 10, 8, false), Load::new(&port, 2, 8, true));
    run(&mut world, &mut [&mut reads, &mut writes], Duration::from_millis(100), 1_000);
    close_to(reads.done, 28);
    assert!(writes.done > 5_000, "{}", writes.done);
    settle(world);
}

#[test]
fn other_logical_units_are_not_slowed() {
    let (mut world, _gate, port) = single();
    world.add(1, Arc::new(Gate::new("other", 64)));
    for lun in [0, 1] {
        while world.run(&port, lun, &TUR, Data::None).status != GOOD {}
    }
    limit(&mut world, ios(1));
    let held: Vec<Tag> = (0..20).map(|_| read(&port)).collect();
    for _ in 0..50 {
        let data = Data::In(&seg(&port, 0, 512));
        assert_eq!(world.run(&port, 1, &cdb::read10(0, 1), data).status, GOOD);
        assert_eq!(world.run(&port, 0, &TUR, Data::None).status, GOOD);
    }
    assert_eq!(held.iter().filter(|tag| port.end(**tag).is_some()).count(), 1);
    assert!(world.shards[0].deadline().is_some(), "an idle core wakes for them");
}

fn read(port: &Port) -> Tag {
    port.submit(0, &cdb::read10(0, 1), Data::In(&seg(port, 0, 512)))
}

/// A world where one read a second passes and `count` more wait.
fn waiting(count: usize) -> (World, Gate, Port, Vec<Tag>) {
    let (mut world, gate, port) = single();
    limit(&mut world, ios(1));
    let first = read(&port);
    world.wait(&port, first);
    let tags: Vec<Tag> = (0..count).map(|_| read(&port)).collect();
    world.steps(100);
    assert_eq!(world.reports()[0].waiting, count as u32);
    (world, gate, port, tags)
}

#[test]
fn what_waits_goes_on_when_the_limit_goes_or_changes() {
    for limits in [OFF, ios(1_000_000)] {
        let (mut world, _gate, port, tags) = waiting(20);
        world.limit("gate", limits);
        for tag in tags {
            assert!(matches!(world.wait(&port, tag), End::Answered(o) if o.status == GOOD));
        }
        assert!(world.clock.now().ns() < START_NS + 100_000_000);
        world.assert_home();
    }
}

#[test]
fn what_waits_can_be_ended_at_once() {
    let ended = |world: &mut World, port: &Port, tags: &[Tag]| {
        let all = || tags.iter().all(|tag| port.end(*tag) == Some(End::Aborted));
        world.until("the end of what waited", |_| all());
        world.assert_home();
        assert!(world.clock.now().ns() < START_NS + 500_000_000, "nobody waited for the limit");
    };
    let (mut world, _gate, port, tags) = waiting(5);
    for tag in &tags {
        let abort = port.abort(0, *tag);
        assert_eq!(world.wait(&port, abort), End::Task(Some(0)));
    }
    ended(&mut world, &port, &tags);
    for function in [Tmf::LunReset, Tmf::AbortTaskSet, Tmf::ClearTaskSet] {
        let (mut world, _gate, port, tags) = waiting(5);
        let reset = port.task(function as u8, 0, None);
        assert_eq!(world.wait(&port, reset), End::Task(Some(0)));
        ended(&mut world, &port, &tags);
    }
}

#[test]
fn a_lun_that_goes_tells_what_waits_for_it() {
    let (mut world, _gate, port, tags) = waiting(5);
    world.unmap("t", 0);
    for tag in tags {
        let End::Answered(outcome) = world.wait(&port, tag) else { panic!("{tag:?}") };
        assert_eq!(code(&outcome), Some(NO_LUN));
    }
    world.assert_home();
}

#[test]
fn channels_with_waiting_commands_end_at_once() {
    let (mut world, _gate, port, _) = waiting(5);
    port.disconnect();
    world.assert_home();
    let (mut world, _gate, port, _) = waiting(5);
    let session = world.reports()[0].channels[0].session;
    world.control(Action::Disconnect { session });
    world.until("the end of the channel", |_| port.closed());
    world.assert_home();
    let (mut world, ..) = waiting(5);
    world.shut_down();
}

/// An initiator that drops its commands again and again takes no more than its share.
#[test]
fn grants_of_aborted_commands_go_to_others() {
    let (mut world, _gate) = gated(&Options::cores(2));
    let hostile = world.ready(0, &Login::of(1), &[0]);
    let other = world.ready(1, &Login::of(2), &[0]);
    limit(&mut world, ios(1_000));
    let mut load = Load::new(&other, 4, 1, false);
    let end = world.clock.now().after(Duration::from_millis(200));
    while world.clock.now() < end {
        (0..8).for_each(|_| _ = read(&hostile));
        run(&mut world, &mut [&mut load], Duration::from_micros(40), 2_000);
        let reset = hostile.task(Tmf::AbortTaskSet as u8, 0, None);
        run(&mut world, &mut [&mut load], Duration::from_micros(40), 2_000);
        assert!(hostile.end(reset).is_some());
        hostile.forget_ends();
    }
    assert!(load.done >= 98, "{}", load.done);
}
