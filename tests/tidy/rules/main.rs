//! The house rules as a test: arrows between crates and modules, where unsafe may be, words that
//! are banned, sizes, and what files and types say together.

mod foo;
mod links;
mod rules;
mod structure;

use std::path::Path;

use rules::Finding;
use srpt_tidy::Source;

/// What is larger than the rules allow and may only shrink: rule, file, item, size. An entry that
/// is no longer needed, or larger than needed, fails the test.
const RATCHET: &[(&str, &str, &str, usize)] = &[
    // A worker of the control plane and the initiator's side of a connect, where the system has
    // nothing to wait on but time.
    ("sleeps", "bdev/src/uring/medium.rs", "", 1),
    ("sleeps", "transport/src/shm/connector.rs", "", 1),
    // Processes that a test has started are the same test, and do a part of it.
    ("early ends", "tests/tests/hostile/main.rs", "", 2),
    ("early ends", "transport/src/shm/tests/handshake.rs", "", 1),
    // What the machine does, and not a peer: a device that goes and comes.
    ("log lines", "transport/src/dm/agent.rs", "", 3),
    ("log lines", "transport/src/rdma/listener/control.rs", "", 6),
    ("log lines", "transport/src/shm/listener/control.rs", "", 1),
    // In steps of 50 lines.
    ("lines of methods", "transport/src/rdma/fabric.rs", "RdmaFabric", 800),
    // In steps of 5 fields.
    ("visible fields", "bdev/src", "", 15),
    ("visible fields", "bench/src", "", 5),
    ("visible fields", "src/control", "", 5),
    ("visible fields", "src/rpc", "", 5),
    ("visible fields", "src/scsi", "", 5),
    ("visible fields", "src/shard", "", 10),
    ("visible fields", "transport/src", "", 70),
];

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace");
    let found = srpt_tidy::read(root).expect("readable sources");
    assert!(found.iter().any(|source| source.path == "transport/src/lib.rs"), "not the workspace");
    found
}

/// Findings that the list does not cover, and entries of the list that must go or shrink.
fn ratchet(found: &[Finding], list: &[(&str, &str, &str, usize)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for finding in found {
        let entry = list
            .iter()
            .find(|(rule, path, item, _)| {
                (*rule, *path, *item) == (finding.rule, &*finding.path, &*finding.item)
            })
            .map(|entry| entry.3);
        if entry.is_none_or(|size| size < finding.size) {
            let Finding { path, line, rule, what, .. } = finding;
            wrong.push(format!("{path}:{}: {rule}: {what}", line + 1));
        } else if entry.is_some_and(|size| size > finding.size) {
            wrong.push(format!("ratchet: {} is now {}: lower it", finding.path, finding.size));
        }
    }
    for (rule, path, item, _) in list {
        let needed = |f: &Finding| (f.rule, &*f.path, &*f.item) == (*rule, *path, *item);
        if !found.iter().any(needed) {
            wrong.push(format!("ratchet: {rule} {path} {item} is no longer needed: remove it"));
        }
    }
    wrong
}

#[test]
fn the_rules_hold() {
    let wrong: Vec<String> = sources()
        .iter()
        .flat_map(rules::check)
        .map(|f| format!("{}:{}: {}: {}", f.path, f.line + 1, f.rule, f.what))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn sizes_only_shrink() {
    let sources = sources();
    let mut found: Vec<Finding> = sources.iter().flat_map(rules::measure).collect();
    found.extend(structure::measure(&sources));
    let wrong = ratchet(&found, RATCHET);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Rule, path, a text that breaks the rule, a text that does not.
const SAMPLES: &[(&str, &str, &str, &str)] = &[
    (
        "crate arrows",
        "bdev/Cargo.toml",
        "[dependencies]\ntransport.workspace = true\n",
        "[dependencies]\nreactor.workspace = true\n",
    ),
    (
        "crate arrows",
        "Cargo.toml",
        "[dependencies]\nsrpt_bench.workspace = true\n",
        "[dependencies]\nbdev.workspace = true\n",
    ),
    ("module arrows", "src/scsi/cdb.rs", "use crate::{scsi, shard::X};", "use super::Sense;"),
    ("module arrows", "src/scsi/cdb.rs", "use bdev::Bdev;", "use bdev::{IoOp, Geometry};"),
    ("module arrows", "src/scsi.rs", "fn f(x: reactor::Tag) {}", "fn f() { /* reactor::Tag */ }"),
    ("module arrows", "transport/src/srp/cmd.rs", "use crate::Event;", "use super::Cdb;"),
    ("module arrows", "transport/src/srp/mod.rs", "use super::RemoteSeg;", "use self::cmd::X;"),
    ("module arrows", "src/rpc/mod.rs", "use crate::shard::lun;", "use crate::control::State;"),
    ("module arrows", "src/rpc.rs", "use crate::shard::*;", "use crate::shard::message::A;"),
    ("module arrows", "src/shard/shard.rs", "use crate::rpc::X;", "use super::message::X;"),
    ("module arrows", "src/shard/shard.rs", "use crate::app;", "use crate::application;"),
    ("module arrows", "src/config.rs", "use crate::app::App;", "use crate::limits::Limits;"),
    ("module arrows", "transport/src/lib.rs", "use bdev::Io;", "use reactor::Tag;"),
    ("module arrows", "bdev/src/lib.rs", "pub use transport::Event;", "mod transport_of;"),
    ("module arrows", "reactor/src/core.rs", "use bdev::Io;", "use crate::Tag;"),
    ("module arrows", "transport/src/sim/mod.rs", "use crate::shm::sys::Ring;", "use crate::shm;"),
    ("module arrows", "src/app.rs", "use transport::rdma::sys::X;", "use transport::rdma::X;"),
    ("module arrows", "src/app.rs", "use bdev::sys::Ring;", "use bdev::uring::Ring;"),
    ("module arrows", "src/app.rs", "use srpt_bench::pattern;", "use transport::srp;"),
    ("unsafe", "src/app.rs", "fn f() { unsafe { g() } }", "#![forbid(unsafe_code)] // unsafe"),
    ("unsafe", "reactor/src/batch.rs", "unsafe impl Send for A {}", "let a = \"unsafe\";"),
    ("banned words", "src/app.rs", "fn f() { todo!() }", "// todo!()"),
    ("banned words", "tests/src/lib.rs", "fn f() { dbg!(1); }", "fn dbg() {}"),
    ("banned words", "src/app.rs", "fn f() { unimplemented!() }", "fn f() { \"unimplemented!\" }"),
    ("simulated code", "src/shard/shard.rs", "let now = Instant::now();", "f(now: Instant);"),
    ("simulated code", "reactor/src/slab.rs", "use std::time::SystemTime;", "use std::mem;"),
    ("simulated code", "transport/src/sim/mod.rs", "use rand::Rng;", "fn operand() {}"),
    (
        "simulated code",
        "src/scsi/mod.rs",
        "let m = HashMap::new();",
        "#[cfg(test)]\nmod tests {\n  fn f() { HashMap::new() }\n}",
    ),
    (
        "columns",
        "src/app.rs",
        "// 3456789 123456789 123456789 123456789 123456789 123456789 123456789 123456789 \
         12345678901234567890",
        "// short",
    ),
    (
        "dependency reasons",
        "Cargo.toml",
        "[workspace.dependencies]\nlibc = \"0.2\"\n",
        "[workspace.dependencies]\nlibc = \"0.2\" # calls without a safe form\n",
    ),
    (
        "dependency reasons",
        "bdev/Cargo.toml",
        "[dependencies]\nlibc = { version = \"0.2\" }\n",
        "[dependencies]\nlibc.workspace = true\n",
    ),
    ("machine paths", "README.md", concat!("see /ho", "me/me/x"), "see target/home/x"),
    ("machine paths", "scripts/a.sh", concat!("cd /wo", "rk/x"), "cd \"$root\""),
    ("ignored tests", "src/app.rs", "#[ignore]\nfn f() {}", "// #[ignore]"),
    ("ignored tests", "src/app.rs", "#[ignore = \"slow\"]\nfn f() {}", "fn ignore() {}"),
    (
        "ignored tests",
        "src/app.rs",
        "#[ignore = \"needs luck\"]\nfn f() {}",
        "#[ignore = \"needs Linux 6.1\"]\nfn f() {}",
    ),
];

#[test]
fn every_rule_can_fail() {
    for (rule, path, bad, good) in SAMPLES {
        let hits = |text: &str| {
            rules::check(&Source::new(path, text)).iter().filter(|f| f.rule == *rule).count()
        };
        assert!(hits(bad) > 0, "{rule} accepts {bad:?} in {path}");
        assert_eq!(hits(good), 0, "{rule} refuses {good:?} in {path}");
    }
    assert_eq!(rules::check(&Source::new("eighth/Cargo.toml", ""))[0].rule, "crate arrows");
    for (rule, _) in rules::RULES {
        assert!(SAMPLES.iter().any(|sample| sample.0 == *rule), "no sample for {rule}");
    }
}

#[test]
fn every_measure_can_fail() {
    let sizes = |path: &str, text: &str| -> Vec<(&'static str, usize)> {
        rules::measure(&Source::new(path, text)).iter().map(|f| (f.rule, f.size)).collect()
    };
    let code = "fn f() {}\n".repeat(rules::FILE_LINES_MAX);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
    assert_eq!(sizes("src/a.rs", &code), []);
    assert_eq!(sizes("src/a.rs", &format!("{code}{tests}")), []);
    assert_eq!(sizes("src/a.rs", &format!("{code}fn g() {{}}\n")), [("file length", 601)]);

    let body = "\n".repeat(rules::FUNCTION_LINES_MAX - 1);
    assert_eq!(sizes("src/a.rs", &format!("fn f() {{{body}}}")), []);
    assert_eq!(sizes("src/a.rs", &format!("fn f() {{{body}\n}}")), [("function length", 71)]);

    let sleepy = "fn f() {\n  thread::sleep(a);\n  std::thread::sleep(b);\n}\n";
    assert_eq!(sizes("tests/tests/a.rs", sleepy), [("sleeps", 2)]);
    assert_eq!(sizes("src/app.rs", sleepy), [("sleeps", 2)]);
    assert_eq!(sizes("bench/src/a.rs", sleepy), []);
    assert_eq!(sizes("tests/tests/a.rs", "// thread::sleep(a)"), []);

    let early = "#[test]\n#[ignore = \"a\"]\nfn f() {\n  let Some(a) = b else { return };\n\
                 if c {\n    return;\n  }\n}\n";
    assert_eq!(sizes("src/a.rs", early), [("early ends", 2)]);
    assert_eq!(sizes("src/a.rs", &early.replace("#[test]", "#[inline]")), []);

    let talkative = "fn f() {\n  tracing::info!(a);\n  peer_line!(lines, INFO, a);\n}\n";
    assert_eq!(sizes("transport/src/shm/a.rs", talkative), [("log lines", 1)]);
    assert_eq!(sizes("transport/src/pair.rs", talkative), []);
}

#[test]
fn the_ratchet_only_shrinks() {
    let found = rules::measure(&Source::new("src/a.rs", &"fn f() {}\n".repeat(700)));
    let list = |size| [("file length", "src/a.rs", "", size)];
    assert!(ratchet(&found, &list(700)).is_empty());
    assert!(ratchet(&found, &[])[0].contains("700 lines"));
    assert!(ratchet(&found, &list(699))[0].contains("700 lines"));
    assert!(ratchet(&found, &list(701))[0].contains("lower it"));
    assert!(ratchet(&[], &list(700))[0].contains("no longer needed"));
}
