//! Prints how a checkout of the sources is built: what `srpt_tidy` counts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use srpt_tidy::modules::Modules;
use srpt_tidy::types::{Types, visible_fields};
use srpt_tidy::{Source, has_word};

/// Types whose methods are listed.
const TYPES: usize = 8;

const USAGE: &str = "Usage: structure [FOLDER]

Counts circles of files, lines of methods and visible fields in a checkout of the sources; that
around the present folder if none is named.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".into()));
    if folder.as_os_str() == "--help" {
        return printed(USAGE);
    }
    if folder.as_os_str().as_encoded_bytes().starts_with(b"-") || arguments.next().is_some() {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    }
    let sources = match srpt_tidy::read(&folder) {
        Ok(sources) => sources,
        Err(error) => {
            eprintln!("structure: {}: {error}", folder.display());
            return ExitCode::FAILURE;
        }
    };
    let modules = Modules::new(&sources);
    let text = [
        circles(&modules),
        methods(&modules),
        fields(&sources),
        public_items(&sources),
        parses(&sources),
        foo(&folder),
    ]
    .concat();
    printed(&text)
}

fn printed(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn circles(modules: &Modules) -> String {
    let found = modules.circles();
    let mut text = format!("circles of files inside a folder: {}\n", found.len());
    for circle in found {
        text += &format!("  {:24} {}\n", circle.folder, circle.files.join(" "));
    }
    text
}

fn methods(modules: &Modules) -> String {
    let mut text = "lines of methods, the largest types:\n  lines methods files\n".to_string();
    for methods in Types::new(modules).methods().iter().take(TYPES) {
        let (name, path) = (&methods.name, &methods.path);
        let (lines, count, files) = (methods.lines, methods.count, methods.files);
        text += &format!("  {lines:5} {count:7} {files:5} {name} ({path})\n");
    }
    text
}

fn fields(sources: &[Source]) -> String {
    let mut crates: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.ships()) {
        let Some((name, _)) = source.path.split_once("src/") else { continue };
        let name = if name.is_empty() { "srpt_tgt" } else { name.trim_end_matches('/') };
        let visible = visible_fields(source);
        let sum = crates.entry(name).or_default();
        *sum = (sum.0 + visible.all, sum.1 + visible.of_parts.len());
    }
    let mut text = "fields visible outside their file: all, and of no plain data\n".to_string();
    for (name, (all, of_parts)) in crates {
        text += &format!("  {all:5} {of_parts:5} {name}\n");
    }
    text
}

/// The compiler counts them: here stands only whether it does.
fn public_items(sources: &[Source]) -> String {
    let root = sources.iter().find(|source| source.path == "Cargo.toml");
    let is_on = root.is_some_and(|root| root.text.contains("\nunreachable_pub = "));
    let found = if is_on { "0: the lint unreachable_pub is on" } else { "not looked for" };
    format!("`pub` items that no other crate can name: {found}\n")
}

/// Places where the shard reads a received information unit of a command.
fn parses(sources: &[Source]) -> String {
    const CALLS: &[&str] = &["Cmd::parse", "DirectCmd::parse", "ImmediateCmd::parse", "Opcode::of"];
    let shard = |source: &&Source| {
        source.ships()
            && ["src/shard/", "src/target/"].iter().any(|root| source.path.starts_with(root))
    };
    let mut places = Vec::new();
    for source in sources.iter().filter(shard) {
        for (line, code) in source.code.lines().enumerate() {
            if !source.test[line] && CALLS.iter().any(|call| has_word(code, call)) {
                places.push(format!("  {}:{} {}\n", source.path, line + 1, code.trim()));
            }
        }
    }
    format!("places that parse a command's IU: {}\n{}", places.len(), places.concat())
}

/// Files that the planted "foo" of each kind touches.
fn foo(root: &Path) -> String {
    let mut text = "files to touch for a new\n".to_string();
    let Ok(folder) = fs::read_dir(root.join("tests/corpus/foo")) else {
        return text + "  (no patches in this checkout)\n";
    };
    let mut lines: Vec<String> = folder
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let patch = fs::read_to_string(&path).ok()?;
            let count = patch.lines().filter(|line| line.starts_with("+++ b/")).count();
            Some(format!("  {count:5} {}\n", path.file_stem()?.to_string_lossy()))
        })
        .collect();
    lines.sort();
    text += &lines.concat();
    text
}
