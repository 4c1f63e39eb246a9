//! Two simulated fabrics behind one.

use super::*;
use crate::initiator::Link;
use crate::sim::{LoginAnswer, Net, NetOptions, SimFabric, SimLink, SimMemory};

/// Connections of each fabric.
const EACH: usize = 3;

struct Bench {
    nets: [Net; 2],
    pair: Pair<SimFabric, SimFabric>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let options = NetOptions { connections_per_core: EACH, ..NetOptions::default() };
        let nets = [1, 2].map(|seed| Net::new(seed, 1, options));
        let pair = Pair::new(SimFabric::new(&nets[0], 0), SimFabric::new(&nets[1], 0));
        Bench { nets, pair, now: Instant::default() }
    }

    fn connect(&self, net: usize, login: &[u8]) -> SimLink {
        let target = ["first", "second"][net];
        self.nets[net].connect(0, target, login, &SimMemory::new(64)).expect("a free connection")
    }

    /// What the next events are, at most so many at a time.
    fn events(&mut self, count: usize, batch: usize) -> Vec<Event> {
        let mut found = Vec::new();
        let mut events = Batch::new(batch);
        for _ in 0..100 {
            self.now = self.now.after(std::time::Duration::from_micros(1));
            self.pair.poll(self.now, &mut events);
            while let Some(event) = events.pop() {
                found.push(event);
            }
            if found.len() >= count {
                break;
            }
        }
        assert_eq!(found.len(), count, "{found:?}");
        found
    }

    fn logins(&mut self, count: usize, batch: usize) -> Vec<ConnId> {
        let conns = self.events(count, batch).into_iter().map(|event| match event {
            Event::Login { conn } => conn,
            other => panic!("{other:?}"),
        });
        let mut conns: Vec<ConnId> = conns.collect();
        conns.sort_by_key(|conn| conn.index);
        conns
    }
}

#[test]
fn the_second_fabrics_connections_come_behind_the_firsts() {
    let mut bench = Bench::new();
    assert_eq!(bench.pair.connections_max(), 2 * EACH);
    let _links = [bench.connect(0, b"to the first"), bench.connect(1, b"to the second")];
    let conns = bench.logins(2, 8);
    assert_eq!((conns[0].index, conns[1].index), (0, EACH as u32));
    assert_eq!(bench.pair.login_data(conns[0]), b"to the first");
    assert_eq!(bench.pair.login_data(conns[1]), b"to the second");
    assert_eq!(bench.pair.peer(conns[0]).target, "first");
    assert_eq!(bench.pair.peer(conns[1]).target, "second");
}

#[test]
fn a_full_batch_loses_no_event_of_either() {
    let mut bench = Bench::new();
    let _links: Vec<SimLink> =
        (0..2 * EACH).map(|number| bench.connect(number % 2, b"x")).collect();
    let indices: Vec<u32> = bench.logins(2 * EACH, 1).iter().map(|conn| conn.index).collect();
    assert_eq!(indices, (0..2 * EACH as u32).collect::<Vec<_>>());
}

#[test]
fn calls_reach_the_fabric_that_owns_the_connection() {
    let mut bench = Bench::new();
    let mut links = [bench.connect(0, b"a"), bench.connect(1, b"b")];
    let conns = bench.logins(2, 8);
    for (conn, rsp) in conns.iter().zip([b"rsp a", b"rsp b"]) {
        bench.pair.accept(*conn, rsp, 4, 64, 64);
    }
    for (link, text) in links.iter_mut().zip([&b"hello a"[..], b"hello b"]) {
        let Some(LoginAnswer::Accepted(_)) = link.login_answer() else { panic!("not accepted") };
        link.send(text).expect("connected");
    }
    for event in bench.events(2, 8) {
        let Event::Received { conn, recv } = event else { panic!("{event:?}") };
        let wanted: &[u8] = if conn == conns[0] { b"hello a" } else { b"hello b" };
        assert_eq!(bench.pair.iu(conn, &recv), wanted);
        bench.pair.repost(conn, recv);
    }
    bench.pair.close(conns[1], CloseReason::Local);
    let event = bench.events(1, 8).pop();
    assert!(matches!(event, Some(Event::Closed { conn, .. }) if conn == conns[1]), "{event:?}");
    bench.pair.release(conns[1]);
    assert_eq!((bench.nets[0].connections(0), bench.nets[1].connections(0)), (1, 0));
}

#[test]
fn a_reject_ends_only_its_own_connection() {
    let mut bench = Bench::new();
    let links = [bench.connect(0, b"a"), bench.connect(1, b"b")];
    let conns = bench.logins(2, 8);
    bench.pair.reject(conns[1], b"no");
    let event = bench.events(1, 8).pop();
    assert!(matches!(event, Some(Event::Closed { conn, .. }) if conn == conns[1]), "{event:?}");
    assert!(matches!(links[1].login_answer(), Some(LoginAnswer::Rejected(_))));
    assert!(links[0].login_answer().is_none());
}
