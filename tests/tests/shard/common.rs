//! What the tests of the shard share.

use std::sync::Arc;

use srpt_tests::gate::Gate;
use srpt_tests::port::{Code, Port};
use srpt_tests::world::{Login, Options, World};
use transport::RemoteSeg;
use transport::initiator::{DataMemory, Outcome};

/// GOOD.
pub(crate) const GOOD: u8 = 0;
/// CHECK CONDITION.
pub(crate) const CHECK: u8 = 2;

/// Invalid field in CDB.
pub(crate) const INVALID_FIELD: Code = (5, 0x24, 0);
/// Logical unit not supported.
pub(crate) const NO_LUN: Code = (5, 0x25, 0);
/// Power on or reset.
pub(crate) const POWER_ON: Code = (6, 0x29, 0);

/// TEST UNIT READY.
pub(crate) const TUR: [u8; 6] = [0; 6];

/// A world whose LUN 0 is an open gate of 8192 blocks (4 MiB).
pub(crate) fn gated(options: &Options) -> (World, Gate) {
    let mut world = World::new(options);
    let gate = Gate::new("gate", 8192);
    world.add(0, Arc::new(gate.clone()));
    (world, gate)
}

/// A gated world of one core with one initiator that has no unit attention.
pub(crate) fn single() -> (World, Gate, Port) {
    let (mut world, gate) = gated(&Options::default());
    let port = world.ready(0, &Login::of(1), &[0]);
    (world, gate, port)
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let byte = |at: usize| (at as u64 * 31 + (at as u64 >> 9) * 7 + seed * 131) as u8;
    (0..len).map(byte).collect()
}

/// Sense key and codes of an outcome; `None` for GOOD.
pub(crate) fn code(outcome: &Outcome) -> Option<Code> {
    match outcome.status {
        GOOD => {
            assert!(outcome.sense.as_bytes().is_empty());
            None
        }
        CHECK => Some(outcome.sense.code().expect("CHECK CONDITION has sense data")),
        other => panic!("status {other:#x}"),
    }
}

/// One segment of a port's memory.
pub(crate) fn seg(port: &Port, at: usize, len: usize) -> [RemoteSeg; 1] {
    [port.memory.seg(at, len as u32)]
}
