//! Fuzz targets: one function per place where the target, or this initiator, understands bytes of
//! somebody else.
//!
//! A function takes any bytes, drives the production code with them, and panics when a rule does
//! not hold. `scripts/fuzz.sh` lets libFuzzer look for such bytes; `tests/tests/fuzz.rs` runs every
//! file of `tests/corpus/fuzz` without a fuzzer. What a peer can reach, public items of the crates
//! reach too, so there is no door for fuzzers only.
//!
//! Functions leave nothing behind that the next input could see, and open no files but their own.

use std::path::PathBuf;

mod dm;
mod initiator;
mod input;
mod rpc;
mod scsi;
mod shard;
mod shm;
mod shm_target;
mod srp;

use input::Input;

/// A fuzz target.
#[derive(Debug)]
pub struct Target {
    /// Its name, also that of its folder in the corpus.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    // Information units of both sides; what was understood is what is sent again.
    Target { name: "srp_unit", run: srp::unit },
    // Memory descriptors, their tables, and logical unit numbers.
    Target { name: "srp_descriptors", run: srp::descriptors },
    // Private data of logins, in the form of RDMA/CM and in that of InfiniBand.
    Target { name: "srp_login", run: srp::login },
    // CDBs with their allocation lengths, and the answers cut to these.
    Target { name: "scsi_cdb", run: scsi::cdb },
    // Parameter lists and other data that a command looks at.
    Target { name: "scsi_parameters", run: scsi::parameters },
    // Commands, pages and sense data of devices that are passed through.
    Target { name: "scsi_pass", run: scsi::pass },
    // Device management datagrams.
    Target { name: "dm_datagram", run: dm::datagram },
    // What a hostile target sends to this initiator.
    Target { name: "initiator", run: initiator::answers },
    // The handshake of a hostile process with the target.
    Target { name: "shm_hello", run: shm::hello },
    // A hostile process that scribbles over the memory it shares with the target.
    Target { name: "shm_memory", run: shm::memory },
    // The handshake and the memory of a hostile target, as the initiator sees them.
    Target { name: "shm_target", run: shm_target::answers },
    // JSON-RPC from the first byte of a connection to the answers.
    Target { name: "rpc", run: rpc::stream },
    // Configurations, which are loaded as a whole or not at all.
    Target { name: "config", run: rpc::configuration },
    // A whole core under hostile initiators.
    Target { name: "shard", run: shard::hostile },
];

/// Where the inputs are that every test run repeats: a folder per target.
pub fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus/fuzz")
}
