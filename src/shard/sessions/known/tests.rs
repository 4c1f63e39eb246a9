//! What ports must ask for, without a shard around it.

use std::collections::BTreeSet;

use super::*;
use crate::shard::names::{MAPPINGS_MAX, SessionId};

const GUID: u64 = 7;

fn unit(name: u8, block_bytes: u32) -> UnitName {
    UnitName::new([name; 16], "serial", block_bytes)
}

/// Ports of one target with their sessions.
struct Ports {
    known: Known,
    last: u64,
    sessions: Vec<Session>,
}

/// A session: its port, what that knows, and the LUNs at which it must ask.
struct Session {
    port: u16,
    knowledge: Knowledge,
    asks: BTreeSet<u16>,
}

fn ends(port: u16) -> Ends {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&port.to_be_bytes());
    (id, GUID)
}

impl Ports {
    fn new() -> Ports {
        Ports { known: Known::default(), last: 0, sessions: Vec::new() }
    }

    fn login(&mut self, port: u16) -> u16 {
        self.last += 1;
        let knowledge = self.known.begin(ends(port), SessionId::new(self.last));
        let asks = (0..1000).filter(|lun| knowledge.must_ask(*lun)).collect();
        self.sessions.push(Session { port, knowledge, asks });
        port
    }

    fn logout(&mut self, port: u16) {
        let at = self.sessions.iter().position(|session| session.port == port).unwrap();
        let Session { knowledge, asks, .. } = self.sessions.remove(at);
        self.known.end(ends(port), knowledge, |lun| asks.contains(&lun));
    }

    fn must_ask(&self, port: u16, lun: u16) -> bool {
        let session = self.sessions.iter().find(|session| session.port == port).unwrap();
        session.asks.contains(&lun)
    }

    fn asked(&mut self, port: u16, lun: u16) {
        let session = self.sessions.iter_mut().find(|session| session.port == port).unwrap();
        assert!(session.asks.remove(&lun));
    }

    fn map(&mut self, lun: u16, name: u8) {
        self.map_unit(lun, unit(name, 512));
    }

    fn map_unit(&mut self, lun: u16, unit: UnitName) {
        let Some(change) = self.known.announce(GUID, lun, unit) else { return };
        for session in &mut self.sessions {
            match session.knowledge.replace(&change, session.asks.contains(&lun)) {
                true => session.asks.insert(lun),
                false => session.asks.remove(&lun),
            };
        }
    }

    fn unmap(&mut self, lun: u16) {
        self.known.unmap(GUID, lun);
        self.known.unmapped(GUID, SessionId::new(self.last));
    }
}

#[test]
fn only_who_may_know_another_unit_must_ask() {
    let mut ports = Ports::new();
    let early = ports.login(1);
    ports.map(3, b'a');
    assert!(!ports.must_ask(early, 3), "nothing was there before");
    let late = ports.login(2);
    ports.unmap(3);
    let after = ports.login(3);
    ports.map(3, b'b');
    assert!(ports.must_ask(early, 3) && ports.must_ask(late, 3));
    assert!(!ports.must_ask(after, 3), "it has never seen the other one");
    let newest = ports.login(4);
    assert!(!ports.must_ask(newest, 3));
    assert!(!ports.must_ask(early, 2) && !ports.must_ask(early, 4));
}

#[test]
fn a_unit_that_some_core_still_shows_may_be_known() {
    let mut ports = Ports::new();
    ports.map(3, b'a');
    ports.known.unmap(GUID, 3);
    let between = ports.login(1);
    ports.known.unmapped(GUID, SessionId::new(ports.last));
    ports.map(3, b'b');
    assert!(ports.must_ask(between, 3));
}

#[test]
fn the_same_unit_or_one_that_comes_back_is_known() {
    let mut ports = Ports::new();
    ports.map(3, b'a');
    let nexus = ports.login(1);
    ports.unmap(3);
    ports.map(3, b'a');
    assert!(!ports.must_ask(nexus, 3));
    ports.unmap(3);
    ports.map(3, b'b');
    assert!(ports.must_ask(nexus, 3));
    ports.unmap(3);
    ports.map(3, b'a');
    assert!(!ports.must_ask(nexus, 3), "the unit that it knows is back");
    ports.unmap(3);
    ports.map(3, b'b');
    ports.asked(nexus, 3);
    ports.unmap(3);
    ports.map(3, b'a');
    assert!(ports.must_ask(nexus, 3), "it has asked, and knows the second one");
}

#[test]
fn other_blocks_make_another_unit() {
    let mut ports = Ports::new();
    ports.map(3, b'a');
    let nexus = ports.login(1);
    ports.unmap(3);
    ports.map_unit(3, unit(b'a', 4096));
    assert!(ports.must_ask(nexus, 3));
}

#[test]
fn a_port_keeps_what_it_knows_between_sessions() {
    let mut ports = Ports::new();
    ports.map(3, b'a');
    ports.map(4, b'c');
    let nexus = ports.login(1);
    ports.unmap(4);
    ports.map(4, b'd');
    ports.logout(nexus);
    ports.unmap(3);
    ports.map(3, b'b');
    let nexus = ports.login(1);
    assert!(ports.must_ask(nexus, 3), "replaced while it was away");
    assert!(ports.must_ask(nexus, 4), "it had not asked before it went");
    ports.asked(nexus, 3);
    ports.asked(nexus, 4);
    ports.logout(nexus);
    let nexus = ports.login(1);
    assert!(!ports.must_ask(nexus, 3) && !ports.must_ask(nexus, 4));
    ports.logout(nexus);
    ports.unmap(3);
    ports.map(3, b'a');
    ports.unmap(3);
    ports.map(3, b'b');
    let nexus = ports.login(1);
    assert!(!ports.must_ask(nexus, 3), "the unit that it knows came back while it was away");
}

#[test]
fn more_luns_than_are_kept_make_a_port_ask_everywhere_it_may_have_to() {
    let mut ports = Ports::new();
    let luns = 0..STALE_MAX as u16 + 8;
    luns.clone().for_each(|lun| ports.map(lun, b'a'));
    let (stays, goes) = (ports.login(1), ports.login(2));
    ports.logout(goes);
    for name in [b'b', b'a'] {
        for lun in luns.clone() {
            ports.unmap(lun);
            ports.map(lun, name);
        }
        let asks = luns.clone().filter(|lun| ports.must_ask(stays, *lun)).count();
        assert_eq!(asks, if name == b'b' { luns.len() } else { 8 });
    }
    let back = ports.login(2);
    assert!(luns.clone().all(|lun| ports.must_ask(back, lun)));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut ports = Ports::new();
    ports.map(0, b'a');
    for port in 0..GONE_MAX as u16 + 5 {
        let nexus = ports.login(port);
        ports.logout(nexus);
    }
    assert_eq!(ports.known.gone.len(), GONE_MAX);
    let unit = unit(b'a', 512);
    for guid in 0..3 {
        for lun in 0..MAPPINGS_MAX as u16 {
            ports.known.announce(guid, lun, unit.clone());
            ports.known.unmap(guid, lun);
            ports.known.unmapped(guid, SessionId::new(ports.last));
        }
    }
    assert!(ports.known.units.len() <= UNITS_MAX);
}
