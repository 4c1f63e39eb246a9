//! A target with LUNs for every purpose, and what it says of itself.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};
use srpt_tests::hostile::{Meter, Peer, Reply, Way, command, login};
use srpt_tests::process::{PATIENCE, Target, cores, until};
use transport::srp::{DataDesc, LoginReq, Seg};

/// Something that a hostile peer does.
pub(crate) struct Case {
    /// What.
    pub name: &'static str,
    /// Does it and returns what the target did.
    pub run: fn(&Rig) -> String,
    shm: Result<(), &'static str>,
    rdma: Result<(), &'static str>,
}

impl Case {
    /// Whether it can be done to this rig, or why not.
    pub(crate) fn over(&self, rig: &Rig) -> Result<(), &'static str> {
        if rig.is_rdma() { self.rdma } else { self.shm }
    }
}

/// A case of every fabric.
pub(crate) const fn both(name: &'static str, run: fn(&Rig) -> String) -> Case {
    Case { name, run, shm: Ok(()), rdma: Ok(()) }
}

/// A case of shared memory, and why it is none of RDMA.
pub(crate) const fn shm(name: &'static str, run: fn(&Rig) -> String, why: &'static str) -> Case {
    Case { name, run, shm: Ok(()), rdma: Err(why) }
}

/// A case of RDMA, and why it is none of shared memory.
pub(crate) const fn rdma(name: &'static str, run: fn(&Rig) -> String, why: &'static str) -> Case {
    Case { name, run, shm: Err(why), rdma: Ok(()) }
}

/// In memory, for offenders.
pub(crate) const LUN: u16 = 1;
/// Holds reads and writes between [`Rig::hold`] and [`Rig::resume`].
pub(crate) const HELD_LUN: u16 = 2;
/// Fails every read.
pub(crate) const BROKEN_LUN: u16 = 3;
/// LUNs of the target.
pub(crate) const LUNS: u16 = 4;

/// Invalid field in CDB.
pub(crate) const INVALID_FIELD: Option<(u8, u8, u8)> = Some((5, 0x24, 0));

/// What the target's core has done.
#[derive(Debug, Clone)]
pub(crate) struct Core {
    /// Commands of the good session, answered.
    pub commands: u64,
    /// Busy turns, by where they end in nanoseconds.
    turns: BTreeMap<u64, u64>,
}

impl Core {
    /// Nanoseconds that at least 99 of 100 commands of the good session have not waited for the
    /// core since `before`, and by which all turns since then were over. It has one command at a
    /// time, and what arrives in a turn is looked at in the next one: so a turn makes at most one
    /// of its commands wait, and the long turns that are fewer than one for a hundred commands
    /// are those of the slowest hundredth.
    pub(crate) fn since(&self, before: &Core) -> (u64, u64) {
        let commands = self.commands - before.commands;
        let before = |end: &u64| before.turns.get(end).copied().unwrap_or(0);
        let mut longer = 0;
        let (mut p99_ns, mut longest_ns) = (0, 0);
        for (end, turns) in self.turns.iter().rev() {
            longer += turns - before(end);
            if longer > 0 {
                longest_ns = longest_ns.max(*end);
            }
            if longer > commands / 100 {
                p99_ns = *end;
                break;
            }
        }
        (p99_ns, longest_ns)
    }
}

/// The target and the way in.
pub(crate) struct Rig {
    /// The process.
    pub target: Target,
    /// Where offenders and the good session log in.
    pub way: Way,
    /// The listener of a target that only [`crate::secrets`] uses.
    pub secret_way: Way,
    number: Cell<u64>,
}

impl Rig {
    /// Starts a target that is met over shared memory.
    pub(crate) fn start() -> Rig {
        let target = Rig::target();
        let secret = target.path("secret.sock");
        let listener = json!({ "target": "t1", "trtype": "shm", "traddr": secret });
        target.rpc("srpt_add_listener", listener);
        let way = Way::Shm(target.srp_socket());
        Rig { target, way, secret_way: Way::Shm(secret), number: Cell::new(1) }
    }

    /// Starts a target that is met over RDMA, at an address of a device of this machine.
    pub(crate) fn start_rdma(address: &str) -> Rig {
        let target = Rig::target();
        let ways = [("t0", 5555), ("t1", 5556)].map(|(name, port): (&str, u16)| {
            let (traddr, trsvcid) = (address, port.to_string());
            target.rpc(
                "srpt_add_listener",
                json!({ "target": name, "trtype": "rdma", "traddr": traddr, "trsvcid": trsvcid }),
            );
            let targets = target.rpc("srpt_get_targets", Value::Null);
            let targets = targets.as_array().expect("a list");
            let found = targets.iter().find(|target| target["name"] == name).expect("just made");
            let guid = found["service_guid"].as_str().expect("digits");
            Way::parse(&format!("{address}:{port}/{guid}"))
        });
        let [way, secret_way] = ways;
        Rig { target, way, secret_way, number: Cell::new(1) }
    }

    fn target() -> Target {
        let target = Target::start();
        for name in ["Good", "Bad", "Base", "Rotten", "Secret"] {
            target.malloc_bdev(name, 4);
        }
        for base in ["Base", "Rotten"] {
            target.rpc("bdev_error_create", json!({ "base_name": base }));
        }
        inject(&target, "EE_Rotten", "read", "failure");
        target.export(&["Good", "Bad", "EE_Base", "EE_Rotten"]);
        target.rpc("srpt_create_target", json!({ "name": "t1" }));
        target.rpc("srpt_map_lun", json!({ "target": "t1", "lun": 0, "bdev_name": "Secret" }));
        target
    }

    /// True when it is met over RDMA.
    pub(crate) fn is_rdma(&self) -> bool {
        matches!(self.way, Way::Rdma(_))
    }

    /// A login in order, of an initiator port that nobody has had.
    pub(crate) fn login(&self) -> LoginReq {
        login(&self.way, self.number())
    }

    /// A range of a peer's memory.
    pub(crate) fn seg(&self, at: usize, len: u32) -> Seg {
        self.way.seg(at, len)
    }

    /// The number of an initiator port that nobody has had.
    pub(crate) fn number(&self) -> u64 {
        self.number.replace(self.number.get() + 1)
    }

    /// A new session with its unit attentions taken.
    pub(crate) fn peer(&self) -> Peer {
        Peer::ready(&self.way, self.number(), LUNS)
    }

    /// Everything that the target counts, by name; closed connections as `closed REASON`.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
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

    /// Runs an offence and fails unless it is counted under these names, so many times each. A
    /// name may be several with bars between: their sum counts.
    pub(crate) fn counted(&self, names: &[(&str, u64)], offence: impl FnOnce()) {
        let before = self.counts();
        offence();
        let grown = |name: &str, now: &BTreeMap<String, u64>| {
            let of = |counts: &BTreeMap<String, u64>| -> u64 {
                name.split('|').filter_map(|name| counts.get(name)).sum()
            };
            of(now) - of(&before)
        };
        self.target.process.until(&format!("{names:?} are counted"), PATIENCE, || {
            let now = self.counts();
            names.iter().all(|(name, count)| grown(name, &now) == *count).then_some(())
        });
    }

    /// One offence of a new peer that ends its channel, and is counted as a close for `reason` and
    /// under `counter`, if that is a name.
    pub(crate) fn thrown_out(&self, reason: &str, counter: &str, offence: impl FnOnce(&mut Peer)) {
        // Over RDMA a refused access ends the peer's own end, too, whose farewell may be first.
        let closed = match reason {
            "remote_access" if self.is_rdma() => "closed remote_access|closed peer_gone".into(),
            _ => format!("closed {reason}"),
        };
        let names = [(&*closed, 1), (counter, 1)];
        let names = if counter.is_empty() { &names[..1] } else { &names[..] };
        let mut peer = self.peer();
        self.counted(names, || {
            offence(&mut peer);
            peer.thrown_out();
        });
    }

    /// Waits until so many commands of a port's session run, and nothing of it waits.
    pub(crate) fn in_flight(&self, number: u64, count: u64) {
        let (mut last, began) = (None, Instant::now());
        self.target.process.until("its commands are under way", 2 * PATIENCE, || {
            assert!(began.elapsed() < PATIENCE, "{last:?} under way, not {count}");
            last = self.channel(number, "in_flight");
            (last == Some(count)).then_some(())
        });
    }

    /// From now on [`HELD_LUN`] holds commands.
    pub(crate) fn hold(&self) {
        inject(&self.target, "EE_Base", "all", "pending");
    }

    /// Lets the commands of [`HELD_LUN`] go.
    pub(crate) fn resume(&self) {
        inject(&self.target, "EE_Base", "clear", "pending");
        self.target.rpc("bdev_error_resume_pending", json!({ "name": "EE_Base" }));
    }

    /// Waits until no session but the good one is left, and what offenders held is home.
    pub(crate) fn only_the_good_session_is_left(&self) {
        until("offenders leave nothing behind", PATIENCE, || {
            let left = self.target.sessions().len() == 1 && self.target.in_use() <= 2;
            left.then_some(())
        });
    }

    /// What the session of an initiator port says, by a field of its first channel.
    pub(crate) fn channel(&self, number: u64, field: &str) -> Option<u64> {
        let port = login(&self.way, number).initiator_port_id;
        self.channel_of(u128::from_be_bytes(port), field)
    }

    /// What the core has done so far.
    pub(crate) fn core(&self) -> Core {
        let commands = self.channel_of(Meter::PORT, "commands").expect("the good session");
        Core { commands, turns: self.turns() }
    }

    fn channel_of(&self, port: u128, field: &str) -> Option<u64> {
        let port = format!("{port:032x}");
        let sessions = self.target.sessions();
        let session = sessions.iter().find(|session| session["initiator_port_id"] == port)?;
        session["channels"][0][field].as_u64()
    }

    /// Leaves the target's core a processor of its own: everything else of the target, and this
    /// process with what it starts from now on, goes to another one. False: there is none.
    pub(crate) fn apart(&self) -> bool {
        let (core, Some(other)) = (cores()[0], cores().last().copied()) else { return false };
        if core == other {
            return false;
        }
        let mut set = CpuSet::new();
        set.set(other);
        let reactors = self.target.rpc("framework_get_reactors", Value::Null);
        let pinned = reactors["reactors"][0]["tid"].as_i64().expect("a number");
        let tasks = format!("/proc/{}/task", Pid::as_raw_nonzero(self.target.process.pid()));
        for task in std::fs::read_dir(tasks).expect("the target runs") {
            let name = task.expect("a thread").file_name();
            let tid = name.to_str().and_then(|name| name.parse().ok()).expect("a number");
            if i64::from(tid) != pinned {
                // One that answered a question of ours may have ended.
                let _ = sched_setaffinity(Pid::from_raw(tid), &set);
            }
        }
        sched_setaffinity(None, &set).expect("an allowed processor");
        true
    }

    /// Busy turns of the target's core so far, by where they end in nanoseconds.
    fn turns(&self) -> BTreeMap<u64, u64> {
        let stats = self.target.rpc("srpt_get_stats", Value::Null);
        let lengths = stats["cores"][0]["busy_turns"].as_array().expect("a list").iter();
        let number = |value: &Value| value.as_u64();
        lengths
            .map(|length| {
                let end = number(&length["below_ns"]).unwrap_or(u64::MAX);
                (end, number(&length["turns"]).expect("a number"))
            })
            .collect()
    }

    /// Resident memory of the target in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", Pid::as_raw_nonzero(self.target.process.pid()));
        let status = std::fs::read_to_string(path).expect("the target runs");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a size");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// Lines that the target has logged.
    pub(crate) fn log_lines(&self) -> usize {
        self.target.process.err().lines().count() + self.target.process.out().lines().count()
    }
}

fn inject(target: &Target, name: &str, io_type: &str, error_type: &str) {
    target.rpc(
        "bdev_error_inject_error",
        json!({ "name": name, "io_type": io_type, "error_type": error_type, "num": u32::MAX }),
    );
}

/// A read of [`LUN`] with these descriptors.
pub(crate) fn read(tag: u64, cdb: &[u8], into: DataDesc<'_>) -> Vec<u8> {
    command(tag, LUN, cdb, DataDesc::None, into)
}

/// A write of [`LUN`] with these descriptors.
pub(crate) fn write(tag: u64, cdb: &[u8], out: DataDesc<'_>) -> Vec<u8> {
    command(tag, LUN, cdb, out, DataDesc::None)
}

/// TEST UNIT READY.
pub(crate) fn ready(tag: u64) -> Vec<u8> {
    command(tag, LUN, &[0; 16], DataDesc::None, DataDesc::None)
}

/// Fails unless the status is GOOD.
pub(crate) fn good(reply: &Reply) {
    assert_eq!((reply.status, reply.sense), (0, None), "{reply:?}");
}

/// Fails unless the status is CHECK CONDITION with this sense.
pub(crate) fn check(reply: &Reply, sense: Option<(u8, u8, u8)>) {
    assert_eq!((reply.status, reply.sense), (2, sense), "{reply:?}");
}

/// How long a peer goes on that goes on for a while.
pub(crate) const A_WHILE: Duration = Duration::from_millis(300);
