//! The rules. Each looks at one file and names what it finds.

use srpt_tidy::{Source, has_word};

/// Something a rule does not allow. `size` is what the ratchet list compares.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub rule: &'static str,
    pub path: String,
    pub line: usize,
    /// Function name, or empty.
    pub item: String,
    pub size: usize,
    pub what: String,
}

pub(crate) const FILE_LINES_MAX: usize = 600;
pub(crate) const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

/// A rule: its name and its check.
pub(crate) type Rule = (&'static str, fn(&Source, &mut dyn FnMut(usize, String)));

/// Rules without a measure.
pub(crate) const RULES: &[Rule] = &[
    ("crate arrows", crate_arrows),
    ("module arrows", module_arrows),
    ("unsafe", unsafe_code),
    ("banned words", banned_words),
    ("simulated code", simulated_code),
    ("columns", columns),
    ("dependency reasons", dependency_reasons),
    ("machine paths", machine_paths),
    ("ignored tests", ignored_tests),
];

/// All findings of the plain rules in a file.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (rule, run) in RULES {
        run(source, &mut |line, what| {
            let path = source.path.clone();
            found.push(Finding { rule, path, line, item: String::new(), size: 1, what });
        });
    }
    found
}

/// Where peers are met: they could fill the log with any line that `peer_line!` does not write.
const PEERS_ARE_MET: &[&str] = &["transport/src/shm", "transport/src/rdma", "transport/src/dm"];

/// Long files, long functions, sleeps (in tests, too) and lines beside the budget for those that
/// peers cause, with their sizes. The tools in `bench` may sleep.
pub(crate) fn measure(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut add = |rule, line, item: &str, size, what: String| {
        let (path, item) = (source.path.clone(), item.to_string());
        found.push(Finding { rule, path, line, item, size, what });
    };
    let inline = source.test.iter().filter(|test| **test).count();
    let lines = source.test.len();
    let counted = if inline == lines { lines } else { lines - inline };
    if counted > FILE_LINES_MAX {
        add("file length", 0, "", counted, format!("{counted} lines without inline tests"));
    }
    for function in source.functions() {
        if function.lines > FUNCTION_LINES_MAX {
            let what = format!("fn {}: {} lines", function.name, function.lines);
            add("function length", function.line, &function.name, function.lines, what);
        }
    }
    let ends = early_ends(source);
    if let Some(first) = ends.first() {
        let what = format!("{} tests end early: #[ignore = \"needs ..\"]", ends.len());
        add("early ends", *first, "", ends.len(), what);
    }
    if !under(&source.path, "bench", "/") {
        let sleeps = lines_with(source, |code, _| has_word(code, "thread::sleep"));
        if let Some(first) = sleeps.first() {
            let what = format!("{} sleeps: wait for what is waited for", sleeps.len());
            add("sleeps", *first, "", sleeps.len(), what);
        }
    }
    if PEERS_ARE_MET.iter().any(|scope| under(&source.path, scope, "/")) {
        let lines = lines_with(source, |code, test| !test && code.contains("tracing::"));
        if let Some(first) = lines.first() {
            let what = format!("{} log lines: what peers cause is a peer_line!", lines.len());
            add("log lines", *first, "", lines.len(), what);
        }
    }
    found
}

fn lines_with(source: &Source, hit: impl Fn(&str, bool) -> bool) -> Vec<usize> {
    let lines = source.code.lines().zip(&source.test).enumerate();
    lines.filter(|(_, (code, test))| hit(code, **test)).map(|(line, _)| line).collect()
}

/// Which crates of ours a crate may depend on (HOUSE: src -> transport, bdev, reactor).
const CRATE_ARROWS: &[(&str, &[&str])] = &[
    ("Cargo.toml", &["transport", "bdev", "reactor"]),
    ("transport/Cargo.toml", &["reactor"]),
    ("bdev/Cargo.toml", &["reactor"]),
    ("reactor/Cargo.toml", &[]),
    ("bench/Cargo.toml", OURS),
    ("bench/engine/Cargo.toml", OURS),
    ("tests/Cargo.toml", OURS),
    ("tests/tidy/Cargo.toml", &[]),
];
const OURS: &[&str] =
    &["srpt_tgt", "transport", "bdev", "reactor", "srpt_bench", "srpt_tests", "srpt_tidy"];

fn crate_arrows(source: &Source, found: &mut dyn FnMut(usize, String)) {
    if !source.path.ends_with("Cargo.toml") {
        return;
    }
    let Some((_, allowed)) = CRATE_ARROWS.iter().find(|(path, _)| *path == source.path) else {
        return found(0, "a crate that no arrow leads to: add it to CRATE_ARROWS".into());
    };
    let mut section = "";
    for (line, text) in source.text.lines().enumerate() {
        if text.starts_with('[') {
            section = text.trim();
        }
        let name = text.split(['.', '=', ' ']).next().unwrap_or("");
        let depends = section.ends_with("dependencies]") && section != "[workspace.dependencies]";
        if depends && OURS.contains(&name) && !allowed.contains(&name) {
            found(line, format!("must not depend on {name}"));
        }
    }
}

/// Code under `scope`, except under `except`, must not name a path that starts with `never`, unless
/// it starts with one of `but`.
struct Arrow {
    scope: &'static str,
    except: &'static [&'static str],
    never: &'static [&'static str],
    but: &'static [&'static str],
}

const MODULE_ARROWS: &[Arrow] = &[
    Arrow {
        scope: "src/scsi",
        except: &[],
        never: &["srpt_tgt", "transport", "reactor", "bdev"],
        but: &["srpt_tgt::scsi", "bdev::IoStatus", "bdev::IoOp", "bdev::Geometry"],
    },
    Arrow {
        scope: "transport/src/srp",
        except: &[],
        never: &["transport", "reactor", "bdev", "srpt_tgt"],
        but: &["transport::srp"],
    },
    Arrow {
        scope: "src/rpc",
        except: &[],
        never: &["srpt_tgt"],
        but: &[
            "srpt_tgt::rpc",
            "srpt_tgt::control",
            "srpt_tgt::logs",
            "srpt_tgt::shard::message",
            "srpt_tgt::shard::names",
        ],
    },
    Arrow {
        scope: "src/shard",
        except: &[],
        never: &["srpt_tgt::rpc", "srpt_tgt::control"],
        but: &[],
    },
    Arrow { scope: "src/control", except: &[], never: &["srpt_tgt::rpc"], but: &[] },
    Arrow {
        scope: "src",
        except: &["src/app", "src/main.rs"],
        never: &["srpt_tgt::app", "srpt_tgt::main"],
        but: &[],
    },
    Arrow { scope: "transport/src", except: &[], never: &["bdev", "srpt_tgt"], but: &[] },
    Arrow { scope: "bdev/src", except: &[], never: &["transport", "srpt_tgt"], but: &[] },
    Arrow {
        scope: "reactor/src",
        except: &[],
        never: &["transport", "bdev", "srpt_tgt"],
        but: &[],
    },
    Arrow {
        scope: "",
        except: &["transport/src/rdma"],
        never: &["transport::rdma::sys"],
        but: &[],
    },
    Arrow { scope: "", except: &["transport/src/shm"], never: &["transport::shm::sys"], but: &[] },
    Arrow {
        scope: "",
        except: &["transport/src/shared", "transport/src/shm", "transport/src/sim"],
        never: &["transport::shared"],
        but: &[],
    },
    Arrow { scope: "", except: &["transport/src/dm"], never: &["transport::dm::sys"], but: &[] },
    Arrow { scope: "", except: &["bdev/src"], never: &["bdev::sys"], but: &[] },
    Arrow {
        scope: "",
        except: &["bench", "tests"],
        never: &["srpt_bench", "srpt_tests"],
        but: &[],
    },
];

fn under(path: &str, prefix: &str, separator: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.is_empty() || rest.is_empty() || rest.starts_with(separator) || rest == ".rs"
}

fn module_arrows(source: &Source, found: &mut dyn FnMut(usize, String)) {
    let paths = source.paths();
    let arrows = MODULE_ARROWS.iter().filter(|arrow| {
        under(&source.path, arrow.scope, "/")
            && !arrow.except.iter().any(|except| under(&source.path, except, "/"))
    });
    for arrow in arrows {
        for (line, path) in &paths {
            let hit = |prefixes: &[&str]| prefixes.iter().any(|p| under(path, p, "::"));
            if hit(arrow.never) && !hit(arrow.but) {
                found(*line, format!("{} must not use {path}", source.path));
            }
        }
    }
}

/// Files outside `sys/` that may be unsafe.
const UNSAFE_FILES: &[&str] = &["reactor/src/pool.rs"];

fn unsafe_code(source: &Source, found: &mut dyn FnMut(usize, String)) {
    if source.path.contains("/sys/") || UNSAFE_FILES.contains(&source.path.as_str()) {
        return;
    }
    for line in lines_with(source, |code, _| has_word(code, "unsafe")) {
        found(line, "unsafe outside a sys/ folder".into());
    }
}

const BANNED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

fn banned_words(source: &Source, found: &mut dyn FnMut(usize, String)) {
    for word in BANNED {
        for line in lines_with(source, |code, _| has_word(code, word)) {
            found(line, format!("{word} has no place here"));
        }
    }
}

/// What the simulator runs: time and chance come in as arguments.
const SIMULATED: &[&str] = &[
    "src/shard",
    "src/scsi",
    "transport/src/srp",
    "transport/src/sim",
    "reactor/src/pool",
    "reactor/src/slab",
    "reactor/src/batch",
];
const NOT_SIMULATED: &[&str] = &["Instant::now", "SystemTime", "rand", "HashMap"];

fn simulated_code(source: &Source, found: &mut dyn FnMut(usize, String)) {
    if !SIMULATED.iter().any(|scope| under(&source.path, scope, "/")) {
        return;
    }
    for word in NOT_SIMULATED {
        for line in lines_with(source, |code, test| !test && has_word(code, word)) {
            found(line, format!("{word} in code that the simulator runs"));
        }
    }
}

fn columns(source: &Source, found: &mut dyn FnMut(usize, String)) {
    if ![".rs", ".py"].iter().any(|end| source.path.ends_with(end)) {
        return;
    }
    for (line, text) in source.text.lines().enumerate() {
        let width = text.chars().count();
        if width > COLUMNS_MAX {
            found(line, format!("{width} columns"));
        }
    }
}

fn dependency_reasons(source: &Source, found: &mut dyn FnMut(usize, String)) {
    if !source.path.ends_with("Cargo.toml") {
        return;
    }
    let mut section = "";
    for (line, text) in source.text.lines().enumerate() {
        if text.starts_with('[') {
            section = text.trim();
        }
        if !section.ends_with("dependencies]") || !text.contains('=') || text.starts_with('#') {
            continue;
        }
        let ours = text.contains("path = ") || text.contains(".workspace = true");
        let reason = text.rsplit_once("# ").is_some_and(|(_, reason)| reason.trim().len() > 3);
        if !ours && !reason {
            found(line, format!("no reason given for {text}"));
        }
    }
}

/// Places of somebody's machine. Written in two parts, because this file is checked too.
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];

fn machine_paths(source: &Source, found: &mut dyn FnMut(usize, String)) {
    for (line, text) in source.text.lines().enumerate() {
        for path in MACHINE_PATHS {
            let hit = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '}');
            if text.match_indices(path).any(|(at, _)| hit(at)) {
                found(line, format!("{path} is a place on one machine"));
            }
        }
    }
}

/// Why a test may be ignored. `scripts/needs.sh` finds out which of these a machine has, and
/// `scripts/test.sh` runs the tests that need them.
const NEEDS: &[&str] = &[
    "needs Linux 6.1",
    "needs a SCSI disk to overwrite",
    "needs a block device to overwrite",
    "needs a kernel with huge pages",
    "needs an RDMA device",
    "needs loop devices and mounts",
    "needs the headers of rdma-core and a C compiler",
    "is a part of another test",
];

fn ignored_tests(source: &Source, found: &mut dyn FnMut(usize, String)) {
    for line in lines_with(source, |code, _| code.contains("#[ignore")) {
        let text = source.text.lines().nth(line).unwrap_or("").trim();
        if !NEEDS.iter().any(|need| text == format!("#[ignore = \"{need}\"]")) {
            found(line, "a test that nobody runs: NEEDS has the reasons there may be".into());
        }
    }
}

/// Lines where a test ends early: it counts as passed and has tested nothing.
fn early_ends(source: &Source) -> Vec<usize> {
    let lines: Vec<&str> = source.code.lines().map(str::trim).collect();
    let is_test = |line: usize| {
        let attributes = lines[..line].iter().rev().take_while(|above| above.starts_with("#["));
        attributes.into_iter().any(|above| *above == "#[test]")
    };
    let tests = source.functions().into_iter().filter(|function| is_test(function.line));
    let inside = tests.flat_map(|function| function.line..function.line + function.lines);
    let ends = ["else { return }", "return println!", "return eprintln!"];
    let hit = |line: &usize| {
        lines[*line] == "return;" || ends.iter().any(|end| lines[*line].contains(end))
    };
    inside.filter(hit).collect()
}
