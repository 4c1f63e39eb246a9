//! The rdma fabric and the rdma connector against each other over a real device.
//!
//! Needs an RDMA device with the addresses in `RDMA_TEST_ADDRESS` and `RDMA_TEST_ADDRESS6`.
//! `scripts/guest/test.sh contract` runs all of them over soft-RoCE.
mod rdma_host;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rdma_host::{
    ASK, CLOSE, CREDITS, ECHO, FETCH, HOLD, Host, PROBE, REFUSE, SLEEP_MAX, WRITE, ZERO, checksum,
    command, pattern,
};
use transport::CloseReason;
use transport::initiator::{ConnectError, Connector, DataMemory, Link, LinkError};
use transport::rdma::{
    Listener, RdmaConnector, RdmaLink, RdmaMemory, RdmaOptions, RdmaValues, available,
};
use transport::srp::{LoginForm, LoginReq};

const WAIT: Duration = Duration::from_secs(20);
const LOGIN: [u8; 56] = [7; 56];

/// The address of the RDMA device under test.
fn address(variable: &str) -> String {
    available().expect("an RDMA device");
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set"))
}

struct World {
    listener: Listener,
    hosts: Vec<Host>,
    connector: RdmaConnector,
    memory: RdmaMemory,
}

impl World {
    fn new(port: &str, values: RdmaValues, cores: usize) -> World {
        World::at(&address("RDMA_TEST_ADDRESS"), port, values, cores)
    }

    fn at(address: &str, port: &str, values: RdmaValues, cores: usize) -> World {
        let options = RdmaOptions::new(values).unwrap();
        let (hosts, doors) = (0..cores).map(|_| Host::start(options)).unzip();
        let listener = Listener::start(doors).unwrap();
        listener.add_listener("target", address, port).unwrap();
        let peer = SocketAddr::new(address.parse().unwrap(), port.parse().unwrap());
        let connector = RdmaConnector::new(peer, WAIT).unwrap();
        let memory = connector.memory(8 << 20).unwrap();
        World { listener, hosts, connector, memory }
    }

    fn connect(&self) -> RdmaLink {
        let (link, login_rsp) = self.connector.connect(&LOGIN, &self.memory, WAIT).unwrap();
        assert_eq!(&login_rsp[..52], &[0xc0; 52]);
        link
    }

    fn host(&self) -> &Host {
        &self.hosts[0]
    }
}

/// Sends and waits for one answer: tag and checksum.
fn call(link: &mut RdmaLink, iu: &[u8]) -> Result<(u64, u64), LinkError> {
    link.send(iu)?;
    link.flush()?;
    let mut answer = None;
    let start = Instant::now();
    while answer.is_none() {
        link.poll(&mut |iu| answer = Some(answer_of(iu)))?;
        assert!(start.elapsed() < WAIT, "no answer");
    }
    Ok(answer.unwrap())
}

fn answer_of(iu: &[u8]) -> (u64, u64) {
    assert_eq!(iu.len(), 16);
    let number = |at: usize| u64::from_be_bytes(iu[at..at + 8].try_into().unwrap());
    (number(0), number(8))
}

fn until_closed(link: &mut RdmaLink) {
    let start = Instant::now();
    while !matches!(link.poll(&mut |_| {}), Err(LinkError::Closed)) {
        assert!(start.elapsed() < WAIT, "the link does not end");
    }
}

/// `count` segments that are `len` bytes together, with holes between them.
fn segments(memory: &RdmaMemory, len: u32, count: u32) -> Vec<(usize, u32)> {
    let (each, rest) = (len / count, len % count);
    let mut at = 3;
    (0..count)
        .map(|index| {
            let len = each + u32::from(index < rest);
            let segment = (at, len);
            at += len as usize + 5;
            assert!(at <= memory.len());
            segment
        })
        .collect()
}

fn data_of_every_shape(world: &World) {
    let (link, memory) = (&mut world.connect(), &world.memory);
    let mut tag = 0;
    for len in [1, 2, 511, 512, 4096, 65535, 65536, 100_000, 1 << 20] {
        for count in [1, 2, 3, 12, 64] {
            if count > len {
                continue;
            }
            let parts = segments(memory, len, count);
            let segs: Vec<_> = parts.iter().map(|(at, len)| memory.seg(*at, *len)).collect();
            let blank = vec![0x55; memory.len()];

            tag += 1;
            memory.write_at(0, &blank);
            assert_eq!(call(link, &command(WRITE, tag, len, &segs)).unwrap(), (tag, 0));
            let mut all = vec![0; memory.len()];
            memory.read_at(0, &mut all);
            let data: Vec<u8> =
                parts.iter().flat_map(|(at, len)| &all[*at..at + *len as usize]).copied().collect();
            assert!(data.iter().enumerate().all(|(at, byte)| *byte == pattern(tag, at)));
            let written: usize = all.iter().filter(|byte| **byte != 0x55).count();
            assert!(written <= len as usize, "bytes outside of the segments were written");

            let wanted = checksum(&data);
            assert_eq!(call(link, &command(FETCH, tag, len, &segs)).unwrap(), (tag, wanted));

            assert_eq!(call(link, &command(ZERO, tag, len, &segs)).unwrap(), (tag, 0));
            memory.read_at(0, &mut all);
            assert!(
                parts
                    .iter()
                    .all(|(at, len)| all[*at..at + *len as usize].iter().all(|byte| *byte == 0))
            );
            assert_eq!((all[2], all[parts[0].0 + parts[0].1 as usize]), (0x55, 0x55));
        }
    }
}

/// Keeps `depth` commands in flight until `total` are answered; the time of it.
fn stream(world: &World, total: u64, depth: u64, each: impl Fn(u64) -> Vec<u8>) -> Duration {
    let mut link = world.connect();
    let (mut sent, mut answered) = (0, vec![false; total as usize]);
    let start = Instant::now();
    let mut done = 0;
    while done < total {
        while sent < total && sent - done < depth {
            link.send(&each(sent)).unwrap();
            sent += 1;
        }
        link.flush().unwrap();
        link.poll(&mut |iu| {
            let (tag, _) = answer_of(iu);
            assert!(!std::mem::replace(&mut answered[tag as usize], true), "answered twice");
            done += 1;
        })
        .unwrap();
        assert!(start.elapsed() < Duration::from_secs(120), "{done} of {total} answered");
    }
    start.elapsed()
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_login_carries_its_private_data_both_ways() {
    let world = World::new("5601", RdmaValues::default(), 1);
    let mut link = world.connect();
    assert_eq!(call(&mut link, &command(ECHO, 42, 0, &[])).unwrap(), (42, 0));
    let seen = world.host().seen.lock().unwrap();
    assert_eq!((seen.logins, seen.login_len), (1, 56));
    assert_eq!(Some(seen.peer.clone()), std::env::var("RDMA_TEST_ADDRESS").ok());
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_reject_carries_its_private_data_and_leaves_nothing() {
    let world = World::new("5602", RdmaValues::default(), 1);
    for _ in 0..20 {
        let result = world.connector.connect(&[REFUSE; LOGIN.len()], &world.memory, WAIT);
        let Err(ConnectError::Rejected(bytes)) = result.map(|_| ()) else { panic!("not rejected") };
        assert_eq!(&bytes[..32], &[0xc2; 32]);
    }
    assert!(world.host().wait(|seen| seen.closed.len() == 20));
    assert_eq!(world.host().seen.lock().unwrap().connections, 0);
}

#[test]
#[ignore = "needs an RDMA device"]
fn data_of_every_shape_moves_both_ways() {
    let world = World::new("5603", RdmaValues::default(), 1);
    data_of_every_shape(&world);
}

#[test]
#[ignore = "needs an RDMA device"]
fn data_of_every_shape_moves_through_a_small_send_queue() {
    let values = RdmaValues { srpt_sq_size: 16, ..Default::default() };
    let world = World::new("5604", values, 1);
    data_of_every_shape(&world);
    let waits = world.host().counts.send_waits.value();
    assert!(waits > 0, "64 segments fit a queue of 16?");
}

#[test]
#[ignore = "needs an RDMA device"]
fn data_of_every_shape_moves_with_shared_receives() {
    let values = RdmaValues { use_srq: true, srpt_srq_size: 256, ..Default::default() };
    let world = World::new("5605", values, 1);
    data_of_every_shape(&world);
}

#[test]
#[ignore = "needs an RDMA device"]
fn full_depth_with_many_segments_never_overflows_the_send_queue() {
    let values = RdmaValues { srpt_sq_size: 32, ..Default::default() };
    let world = World::new("5606", values, 1);
    let each = |tag: u64| {
        let segs: Vec<_> = (0..24).map(|at| world.memory.seg(at * 512, 512)).collect();
        let op = [WRITE, FETCH, ZERO, ECHO][tag as usize % 4];
        command(op, tag, 24 * 512, &segs)
    };
    stream(&world, 2000, u64::from(CREDITS), each);
    assert!(world.host().counts.send_waits.value() > 0);
}

#[test]
#[ignore = "needs an RDMA device"]
fn echoes_and_reads_at_depth() {
    let world = World::new("5607", RdmaValues::default(), 1);
    for depth in [1, 32] {
        let count = 5000;
        let time = stream(&world, count, depth, |tag| command(ECHO, tag, 0, &[]));
        eprintln!("echo, depth {depth}: {:.0} per second", count as f64 / time.as_secs_f64());
        let seg = [world.memory.seg(0, 4096)];
        let time = stream(&world, count, depth, |tag| command(ZERO, tag, 4096, &seg));
        eprintln!("4 KiB read, depth {depth}: {:.0} per second", count as f64 / time.as_secs_f64());
    }
    let counts = &world.host().counts;
    let (doorbells, requests) = (counts.doorbells.value(), counts.requests.value());
    eprintln!("{requests} send requests with {doorbells} doorbells");
    assert!(doorbells < requests);
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_departing_initiator_leaves_nothing() {
    let world = World::new("5608", RdmaValues::default(), 1);
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for cycle in 0..30 {
        let mut link = world.connect();
        let segs = [world.memory.seg(0, 65536)];
        for tag in 0..16 {
            link.send(&command([WRITE, FETCH][tag % 2], tag as u64, 65536, &segs)).unwrap();
        }
        link.flush().unwrap();
        drop(link);
        assert!(world.host().wait(|seen| seen.closed.len() == cycle + 1));
        if cycle == 0 {
            before = descriptors();
        }
    }
    assert_eq!(world.host().seen.lock().unwrap().connections, 0);
    assert_eq!(descriptors(), before);
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_close_by_the_target_reaches_the_initiator() {
    let world = World::new("5609", RdmaValues::default(), 1);
    let mut link = world.connect();
    link.send(&command(CLOSE, 1, 0, &[])).unwrap();
    link.flush().unwrap();
    until_closed(&mut link);
    assert!(world.host().wait(|seen| seen.closed == [CloseReason::Local]));
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_wrong_key_ends_only_its_connection() {
    for op in [WRITE, FETCH] {
        let port = if op == WRITE { "5610" } else { "5611" };
        let world = World::new(port, RdmaValues::default(), 2);
        let (mut bad, mut good) = (world.connect(), world.connect());
        let mut seg = world.memory.seg(0, 4096);
        seg.key ^= 0x5a5a;
        bad.send(&command(op, 1, 4096, &[seg])).unwrap();
        bad.flush().unwrap();
        until_closed(&mut bad);
        let failed = |host: &Host| host.seen.lock().unwrap().operations_failed;
        let one = || world.hosts.iter().map(failed).sum::<u64>() == 1;
        assert!(world.hosts[0].wait(|seen| !seen.closed.is_empty()) && one());
        assert_eq!(world.hosts[0].seen.lock().unwrap().closed, [CloseReason::RemoteAccess]);
        assert_eq!(call(&mut good, &command(ECHO, 2, 0, &[])).unwrap(), (2, 0));
    }
}

#[test]
#[ignore = "needs an RDMA device"]
fn an_information_unit_that_is_too_long_ends_its_connection() {
    let world = World::new("5612", RdmaValues::default(), 1);
    let mut link = world.connect();
    link.send(&vec![ECHO; rdma_host::IU_BYTES as usize + 1]).unwrap();
    link.flush().unwrap();
    until_closed(&mut link);
    assert!(world.host().wait(|seen| seen.closed.len() == 1));
}

#[test]
#[ignore = "needs an RDMA device"]
fn descriptors_that_are_too_short_end_the_connection() {
    let world = World::new("5613", RdmaValues::default(), 1);
    let mut link = world.connect();
    link.send(&command(FETCH, 1, 8192, &[world.memory.seg(0, 4096)])).unwrap();
    link.flush().unwrap();
    until_closed(&mut link);
    assert!(world.host().wait(|seen| seen.closed == [CloseReason::Protocol]));
    assert_eq!(world.host().seen.lock().unwrap().operations_failed, 1);
}

#[test]
#[ignore = "needs an RDMA device"]
fn connections_spread_over_cores_and_the_full_house_is_refused() {
    let world = World::new("5614", RdmaValues::default(), 2);
    let mut links: Vec<_> = (0..16).map(|_| world.connect()).collect();
    for host in &world.hosts {
        assert_eq!(host.seen.lock().unwrap().logins, 8);
    }
    let refused = world.connector.connect(&LOGIN, &world.memory, WAIT).map(|_| ());
    let Err(ConnectError::Rejected(bytes)) = refused else { panic!("one too many") };
    assert_eq!((bytes[0], &bytes[4..8], &bytes[8..16]), (0xc2, &[0, 1, 0, 1][..], &[7; 8][..]));
    links.pop();
    assert!(world.hosts.iter().any(|host| host.wait(|seen| seen.closed.len() == 1)));
    for link in &mut links {
        assert_eq!(call(link, &command(ECHO, 3, 0, &[])).unwrap(), (3, 0));
    }
}

#[test]
#[ignore = "needs an RDMA device"]
fn channels_in_order_go_round_from_the_core_of_their_first() {
    let values = RdmaValues { channels_in_order: true, ..Default::default() };
    let world = World::new("5620", values, 2);
    let mut links = Vec::new();
    let mut core_of = |initiator: u8, req_flags: u8| {
        let logins = |host: &Host| host.seen.lock().unwrap().logins;
        let before: Vec<_> = world.hosts.iter().map(logins).collect();
        let mut bytes = [0; 56];
        let login = LoginReq {
            form: LoginForm::RdmaCm,
            tag: [7; 8],
            req_it_iu_len: 8260,
            req_buf_fmt: 6,
            req_flags,
            imm_data_offset: 0,
            initiator_port_id: [initiator; 16],
            target_port_id: [1; 16],
        };
        login.emit(&mut bytes);
        links.push(world.connector.connect(&bytes, &world.memory, WAIT).unwrap().0);
        world.hosts.iter().zip(before).position(|(host, before)| logins(host) > before).unwrap()
    };
    let multi = LoginReq::FLAG_MULTI;
    // The first of each goes where the fewest are; the seventh would too without an order.
    let mut cores = [(1, 0), (2, 0), (3, 0), (1, multi), (2, multi), (3, multi), (2, multi)]
        .map(|(initiator, flags)| core_of(initiator, flags));
    assert_eq!(cores, [0, 1, 0, 1, 0, 1, 1]);
    // A login that ends the others begins anew, where the fewest are: three to four.
    cores[..3].copy_from_slice(&[core_of(2, 0), core_of(2, multi), core_of(2, multi)]);
    assert_eq!(cores[..3], [0, 1, 0]);
    // Five to five. A stranger's further channel is its first; without an order the fewest count.
    assert_eq!((core_of(4, multi), core_of(1, multi)), (0, 0));
    world.listener.set_channels_in_order(false).unwrap();
    assert_eq!((core_of(1, multi), core_of(1, multi)), (1, 1));
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_sleeping_core_is_woken_by_commands_and_logins() {
    let world = World::new("5615", RdmaValues::default(), 1);
    let mut link = world.connect();
    for tag in 0..20 {
        assert!(world.host().wait(|seen| seen.asleep));
        let start = Instant::now();
        // A fetch is waited for asleep; the end of the reply is not.
        let op = if tag % 2 == 0 { ECHO } else { FETCH };
        let segs = [world.memory.seg(0, 65536)];
        let (answered, _) = call(&mut link, &command(op, tag, 65536, &segs)).unwrap();
        assert_eq!(answered, tag);
        assert!(start.elapsed() < SLEEP_MAX / 2, "the core overslept");
    }
    assert!(world.host().wait(|seen| seen.asleep));
    drop(link);
    assert!(world.host().wait(|seen| seen.closed.len() == 1));
}

#[test]
#[ignore = "needs an RDMA device"]
fn the_end_of_a_reply_does_not_wake_a_sleeping_core() {
    let world = World::new("5620", RdmaValues::default(), 1);
    let mut link = world.connect();
    assert_eq!(call(&mut link, &command(ECHO, 0, 0, &[])).unwrap(), (0, 0));
    let before = world.host().seen.lock().unwrap().woken;
    for tag in 1..=20 {
        assert!(world.host().wait(|seen| seen.asleep));
        assert_eq!(call(&mut link, &command(ECHO, tag, 0, &[])).unwrap(), (tag, 0));
    }
    let woken = world.host().seen.lock().unwrap().woken - before;
    assert!((10..=25).contains(&woken), "{woken} wake-ups for 20 commands");
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_probe_of_a_peer_that_is_there_changes_nothing() {
    // The smallest queue: what a probe has taken of it must come back.
    let values = RdmaValues { srpt_sq_size: 16, ..Default::default() };
    let world = World::new("5622", values, 1);
    let mut link = world.connect();
    let requests = || world.host().counts.requests.value();
    for round in 0..50 {
        let before = requests();
        link.send(&command(PROBE, 0, 0, &[])).unwrap();
        link.flush().unwrap();
        // Asked, and asleep again.
        assert!(world.host().wait(|seen| requests() > before && seen.asleep), "round {round}");
        assert_eq!(requests(), before + 1, "asked twice at once");
        let segs: Vec<_> = (0..24).map(|at| world.memory.seg(at * 512, 512)).collect();
        for (tag, op) in [WRITE, PROBE, FETCH, PROBE, PROBE, ECHO].into_iter().enumerate() {
            link.send(&command(op, tag as u64, 24 * 512, &segs)).unwrap();
        }
        link.flush().unwrap();
        let (mut answered, start) = (Vec::new(), Instant::now());
        while answered.len() < 3 {
            link.poll(&mut |iu| answered.push(answer_of(iu).0)).unwrap();
            assert!(start.elapsed() < WAIT, "round {round}: {answered:?}");
        }
        answered.sort_unstable();
        assert_eq!(answered, [0, 2, 5]);
    }
    assert_eq!(world.host().counts.errors.value(), 0);
    let seen = world.host().seen.lock().unwrap();
    assert_eq!((seen.connections, seen.closed.len(), seen.operations_failed), (1, 0, 0));
}

/// The queue pair is there before it can send.
#[test]
#[ignore = "needs an RDMA device"]
fn a_peer_can_be_asked_while_its_connection_is_made() {
    let world = World::new("5623", RdmaValues::default(), 1);
    let login = [ASK; LOGIN.len()];
    for round in 1..=20 {
        let (mut link, _) = world.connector.connect(&login, &world.memory, WAIT).unwrap();
        assert_eq!(call(&mut link, &command(ECHO, round, 0, &[])).unwrap(), (round, 0));
        drop(link);
        assert!(world.host().wait(|seen| seen.closed.len() == round as usize));
    }
    let seen = world.host().seen.lock().unwrap();
    assert!(seen.closed.iter().all(|reason| *reason == CloseReason::PeerGone), "{:?}", seen.closed);
}

#[test]
#[ignore = "needs an RDMA device"]
fn operations_that_come_after_the_end_fail_once_and_then_all_is_home() {
    for use_srq in [false, true] {
        let values = RdmaValues { use_srq, srpt_srq_size: 256, ..Default::default() };
        let world = World::new("5621", values, 1);
        for cycle in 1..=5 {
            let mut link = world.connect();
            for tag in 0..3 {
                let segs = [world.memory.seg(0, 65536)];
                link.send(&command(HOLD, tag, 65536, &segs)).unwrap();
            }
            link.flush().unwrap();
            assert!(world.host().wait(|seen| seen.held == 3 * cycle));
            drop(link);
            // Released: the fabric would refuse that, did it still have an operation.
            assert!(world.host().wait(|seen| seen.closed.len() as u64 == cycle));
            let seen = world.host().seen.lock().unwrap();
            assert_eq!((seen.operations_failed, seen.connections), (6 * cycle, 0));
        }
        // Its number serves again.
        let mut link = world.connect();
        assert_eq!(call(&mut link, &command(ECHO, 1, 0, &[])).unwrap(), (1, 0));
    }
}

#[test]
#[ignore = "needs an RDMA device"]
fn listeners_come_and_go() {
    let world = World::new("5616", RdmaValues::default(), 1);
    let address = address("RDMA_TEST_ADDRESS");
    let again = world.listener.add_listener("target", &address, "5616").unwrap_err();
    assert!(again.to_string().contains("listens there already"));
    world.listener.add_listener("other", &address, "5617").unwrap();
    let mut link = world.connect();
    world.listener.remove_listener("target", &address, "5616").unwrap();
    let refused = world.connector.connect(&LOGIN, &world.memory, WAIT).map(|_| ());
    assert!(matches!(refused, Err(ConnectError::Failed { .. })));
    assert_eq!(call(&mut link, &command(ECHO, 1, 0, &[])).unwrap(), (1, 0));
    assert!(world.listener.remove_listener("target", &address, "5616").is_err());
}

#[test]
#[ignore = "needs an RDMA device"]
fn listeners_at_all_addresses_of_both_families_share_a_port() {
    let address = address("RDMA_TEST_ADDRESS");
    for (port, order) in [("5619", ["0.0.0.0", "::"]), ("5620", ["::", "0.0.0.0"])] {
        let world = World::at(&address, "5621", RdmaValues::default(), 1);
        for all in order {
            world.listener.add_listener("target", all, port).unwrap();
        }
        let peer = SocketAddr::new(address.parse().unwrap(), port.parse().unwrap());
        let connector = RdmaConnector::new(peer, WAIT).unwrap();
        let memory = connector.memory(1 << 20).unwrap();
        connector.connect(&LOGIN, &memory, WAIT).expect("a login at a wildcard address");
    }
}

#[test]
#[ignore = "needs an RDMA device"]
fn ipv6_works() {
    let world = World::at(&address("RDMA_TEST_ADDRESS6"), "5618", RdmaValues::default(), 1);
    let mut link = world.connect();
    assert_eq!(call(&mut link, &command(ECHO, 1, 0, &[])).unwrap(), (1, 0));
}
