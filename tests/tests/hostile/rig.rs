//! A target with LUNs for every purpose, and what it says of itself.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Pid;
use serde_json::{Value, json};
use srpt_tests::hostile::{Peer, Reply, command, login};
use srpt_tests::process::{PATIENCE, Target, until};
use transport::srp::{DataDesc, Seg};

/// A name, and something that a hostile peer does: it returns what the target did.
pub type Case = (&'static str, fn(&Rig) -> String);

/// In memory, for offenders.
pub const LUN: u16 = 1;
/// Holds reads and writes between [`Rig::hold`] and [`Rig::resume`].
pub const HELD_LUN: u16 = 2;
/// Fails every read.
pub const BROKEN_LUN: u16 = 3;
/// LUNs of the target.
pub const LUNS: u16 = 4;

/// Invalid field in CDB.
pub const INVALID_FIELD: Option<(u8, u8, u8)> = Some((5, 0x24, 0));

/// The target and the way in.
pub struct Rig {
    /// The process.
    pub target: Target,
    /// Where offenders and the good session log in.
    pub socket: PathBuf,
    /// The listener of a target that only [`crate::secrets`] uses.
    pub secret_socket: PathBuf,
    number: Cell<u64>,
}

impl Rig {
    /// Starts a target.
    pub fn start() -> Rig {
        let target = Target::start();
        for name in ["Good", "Bad", "Base", "Rotten", "Secret"] {
            target.malloc_bdev(name, 4);
        }
        for base in ["Base", "Rotten"] {
            target.rpc("bdev_error_create", json!({ "base_name": base }));
        }
        inject(&target, "EE_Rotten", "read", "failure");
        target.export(&["Good", "Bad", "EE_Base", "EE_Rotten"]);
        let secret_socket = target.path("secret.sock");
        target.rpc("srpt_create_target", json!({ "name": "t1" }));
        target.rpc("srpt_map_lun", json!({ "target": "t1", "lun": 0, "bdev_name": "Secret" }));
        target.rpc(
            "srpt_add_listener",
            json!({ "target": "t1", "trtype": "shm", "traddr": secret_socket }),
        );
        Rig { socket: target.srp_socket(), target, secret_socket, number: Cell::new(1) }
    }

    /// The number of an initiator port that nobody has had.
    pub fn number(&self) -> u64 {
        self.number.replace(self.number.get() + 1)
    }

    /// A new session with its unit attentions taken.
    pub fn peer(&self) -> Peer {
        Peer::ready(&self.socket, self.number(), LUNS)
    }

    /// Everything that the target counts, by name; closed connections as `closed REASON`.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let stats = self.target.rpc("srpt_get_stats", Value::Null);
        let mut all = BTreeMap::new();
        for core in stats["cores"].as_array().expect("cores") {
            for (group, prefix) in [("closed", "closed "), ("counters", "")] {
                for (name, count) in core[group].as_object().expect("counts") {
                    *all.entry(format!("{prefix}{name}")).or_default() +=
                        count.as_u64().expect("a count");
                }
            }
        }
        all
    }

    /// Runs an offence and fails unless it is counted under these names, so many times each.
    pub fn counted(&self, names: &[(&str, u64)], offence: impl FnOnce()) {
        let before = self.counts();
        offence();
        let grown = |name: &str, now: &BTreeMap<String, u64>| {
            let of = |counts: &BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
            of(now) - of(&before)
        };
        self.target.process.until(&format!("{names:?} are counted"), PATIENCE, || {
            let now = self.counts();
            names.iter().all(|(name, count)| grown(name, &now) == *count).then_some(())
        });
    }

    /// One offence of a new peer that ends its channel, and is counted as a close for `reason` and
    /// under `counter`, if that is a name.
    pub fn thrown_out(&self, reason: &str, counter: &str, offence: impl FnOnce(&mut Peer)) {
        let closed = format!("closed {reason}");
        let names = [(&*closed, 1), (counter, 1)];
        let names = if counter.is_empty() { &names[..1] } else { &names[..] };
        let mut peer = self.peer();
        self.counted(names, || {
            offence(&mut peer);
            peer.thrown_out();
        });
    }

    /// Waits until so many commands of a port's session run, and nothing of it waits.
    pub fn in_flight(&self, number: u64, count: u64) {
        self.target.process.until("its commands are under way", PATIENCE, || {
            (self.channel(number, "in_flight") == Some(count)).then_some(())
        });
    }

    /// From now on [`HELD_LUN`] holds commands.
    pub fn hold(&self) {
        inject(&self.target, "EE_Base", "all", "pending");
    }

    /// Lets the commands of [`HELD_LUN`] go.
    pub fn resume(&self) {
        inject(&self.target, "EE_Base", "clear", "pending");
        self.target.rpc("bdev_error_resume_pending", json!({ "name": "EE_Base" }));
    }

    /// Waits until no session but the good one is left, and what offenders held is home.
    pub fn only_the_good_session_is_left(&self) {
        until("offenders leave nothing behind", PATIENCE, || {
            let left = self.target.sessions().len() == 1 && self.target.in_use() <= 2;
            left.then_some(())
        });
    }

    /// What the session of an initiator port says, by a field of its first channel.
    pub fn channel(&self, number: u64, field: &str) -> Option<u64> {
        let port = format!("{:032x}", u128::from_be_bytes(login(number).initiator_port_id));
        let sessions = self.target.sessions();
        let session = sessions.iter().find(|session| session["initiator_port_id"] == port)?;
        session["channels"][0][field].as_u64()
    }

    /// Resident memory of the target in KiB.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", Pid::as_raw_nonzero(self.target.process.pid()));
        let status = std::fs::read_to_string(path).expect("the target runs");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a size");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// Lines that the target has logged.
    pub fn log_lines(&self) -> usize {
        self.target.process.err().lines().count() + self.target.process.out().lines().count()
    }
}

fn inject(target: &Target, name: &str, io_type: &str, error_type: &str) {
    target.rpc(
        "bdev_error_inject_error",
        json!({ "name": name, "io_type": io_type, "error_type": error_type, "num": u32::MAX }),
    );
}

/// A range of the peer's memory.
pub fn seg(at: usize, len: u32) -> Seg {
    Seg { addr: at as u64, key: 0, len }
}

/// A read of [`LUN`] with these descriptors.
pub fn read(tag: u64, cdb: &[u8], into: DataDesc<'_>) -> Vec<u8> {
    command(tag, LUN, cdb, DataDesc::None, into)
}

/// A write of [`LUN`] with these descriptors.
pub fn write(tag: u64, cdb: &[u8], out: DataDesc<'_>) -> Vec<u8> {
    command(tag, LUN, cdb, out, DataDesc::None)
}

/// TEST UNIT READY.
pub fn ready(tag: u64) -> Vec<u8> {
    command(tag, LUN, &[0; 16], DataDesc::None, DataDesc::None)
}

/// Fails unless the status is GOOD.
pub fn good(reply: &Reply) {
    assert_eq!((reply.status, reply.sense), (0, None), "{reply:?}");
}

/// Fails unless the status is CHECK CONDITION with this sense.
pub fn check(reply: &Reply, sense: Option<(u8, u8, u8)>) {
    assert_eq!((reply.status, reply.sense), (2, sense), "{reply:?}");
}

/// How long a peer goes on that goes on for a while.
pub const A_WHILE: Duration = Duration::from_millis(300);
