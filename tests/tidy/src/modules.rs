//! Which file names which, and where they go round in circles.

use std::collections::{BTreeMap, BTreeSet};

use super::scan::{Source, Use, has_word, is_word};
use super::types::Types;

/// The files of the crates that ship, by module. Files of tests are left out.
pub struct Modules<'a> {
    pub(super) files: Vec<&'a Source>,
    by_module: BTreeMap<String, usize>,
    uses: Vec<Vec<Use>>,
}

/// One file names another, or a subfolder does.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    /// The module that names the other.
    pub from: String,
    /// The module that is named.
    pub to: String,
    /// Path and line of the first place that does.
    pub place: String,
}

/// Files of one folder that name each other, directly or through others.
#[derive(Debug, PartialEq, Eq)]
pub struct Circle {
    /// The folder, from the root.
    pub folder: String,
    /// The files, by the names of their modules. A module stands for its subfolder, too. The module
    /// of the folder itself (`mod.rs`) is none of them: a parent and its children are one thing.
    pub files: Vec<String>,
    /// The arrows between them.
    pub arrows: Vec<Arrow>,
}

impl Circle {
    /// The shortest way round: each arrow begins where the one before it ends.
    pub fn shortest(&self) -> Vec<&Arrow> {
        let ways = self.arrows.iter().filter_map(|first| self.way(first));
        ways.min_by_key(Vec::len).unwrap_or_default()
    }

    /// The shortest way from an arrow back to where it begins.
    fn way<'c>(&'c self, first: &'c Arrow) -> Option<Vec<&'c Arrow>> {
        let mut ways = vec![vec![first]];
        for _ in 0..self.files.len() {
            if let Some(at) = ways.iter().position(|way| way[way.len() - 1].to == first.from) {
                return Some(ways.swap_remove(at));
            }
            let mut longer: Vec<Vec<&Arrow>> = Vec::new();
            for way in &ways {
                for next in self.arrows.iter().filter(|next| next.from == way[way.len() - 1].to) {
                    if !longer.iter().any(|other| other[other.len() - 1].to == next.to) {
                        longer.push(way.iter().copied().chain([next]).collect());
                    }
                }
            }
            ways = longer;
        }
        None
    }
}

impl<'a> Modules<'a> {
    /// The modules of these files.
    pub fn new(sources: &'a [Source]) -> Self {
        let for_tests: BTreeSet<Vec<String>> = sources.iter().flat_map(test_modules).collect();
        let belongs = |source: &&Source| {
            let module = source.module();
            source.ships()
                && !source.path.ends_with("src/main.rs")
                && !module[0].is_empty()
                && !(1..=module.len()).any(|length| for_tests.contains(&module[..length]))
        };
        let files: Vec<&Source> = sources.iter().filter(belongs).collect();
        let by_module =
            files.iter().enumerate().map(|(at, file)| (file.module().join("::"), at)).collect();
        let mut modules = Modules { files, by_module, uses: Vec::new() };
        modules.uses = modules.files.iter().map(|file| modules.uses_of(file)).collect();
        modules
    }

    /// The uses of a file outside its tests, with paths that begin at a child module made whole.
    fn uses_of(&self, file: &Source) -> Vec<Use> {
        let outside = file.uses().into_iter().filter(|used| !file.test[used.line]);
        outside.map(|used| Use { path: self.whole(file, &used.path), ..used }).collect()
    }

    /// What the file `at` brings in by `use`.
    pub(super) fn uses(&self, at: usize) -> &[Use] {
        &self.uses[at]
    }

    /// `path` as `file` says it, from the name of the crate on.
    pub(super) fn whole(&self, file: &Source, path: &str) -> String {
        let module = file.module().join("::");
        let first = path.split("::").next().unwrap_or("");
        let child = format!("{module}::{first}");
        if self.by_module.contains_key(&child) { format!("{module}::{path}") } else { path.into() }
    }

    /// The file that defines what `path` means, through any re-exports.
    pub(super) fn file_of(&self, path: &str) -> Option<usize> {
        self.follow(path, 8)
    }

    fn follow(&self, path: &str, depth: usize) -> Option<usize> {
        let names: Vec<&str> = path.split("::").collect();
        let (at, length) = (1..=names.len()).rev().find_map(|length| {
            self.by_module.get(&names[..length].join("::")).map(|at| (*at, length))
        })?;
        let Some(name) = names.get(length).filter(|_| depth > 0) else { return Some(at) };
        let rest = names[length + 1..].iter().map(|name| format!("::{name}")).collect::<String>();
        let uses = &self.uses[at];
        if let Some(used) = uses.iter().find(|used| used.name == *name && used.path != path) {
            return self.follow(&format!("{}{rest}", used.path), depth - 1).or(Some(at));
        }
        let globs = uses.iter().filter(|used| used.name == "*");
        let behind = globs.filter_map(|used| {
            let there = self.follow(used.path.trim_end_matches("::*"), depth - 1)?;
            defines(self.files[there], name).then_some(there)
        });
        Some(behind.into_iter().next().filter(|_| !defines(self.files[at], name)).unwrap_or(at))
    }

    /// All arrows from file to file, each with the first line that draws it: what a path names
    /// (re-exports of a parent's own children aside), and calls of a type's methods that another
    /// file defines.
    fn arrows(&self) -> BTreeMap<(usize, usize), usize> {
        let mut found: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (from, file) in self.files.iter().enumerate() {
            let own = file.module().join("::") + "::";
            let reexports: BTreeSet<usize> = self.uses[from]
                .iter()
                .filter(|used| used.is_reexport && used.path.starts_with(&own))
                .map(|used| used.line)
                .collect();
            for (line, path) in file.paths() {
                if file.test[line] || reexports.contains(&line) {
                    continue;
                }
                let to = self.file_of(&self.whole(file, &path));
                if let Some(to) = to.filter(|to| *to != from) {
                    found.entry((from, to)).or_insert(line);
                }
            }
        }
        for (from, to, line) in Types::new(self).calls() {
            found.entry((from, to)).or_insert(line);
        }
        found
    }

    /// The circles, folder by folder.
    pub fn circles(&self) -> Vec<Circle> {
        type Places = BTreeMap<(String, String), String>;
        let mut folders: BTreeMap<String, Places> = BTreeMap::new();
        for ((from, to), line) in self.arrows() {
            let (a, b) = (self.files[from].module(), self.files[to].module());
            let shared = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            let (Some(from_name), Some(to_name)) = (a.get(shared), b.get(shared)) else { continue };
            if shared == 0 {
                continue;
            }
            let path = &self.files[from].path;
            let root = path.split_once("src/").map_or("", |(root, _)| root);
            let folder = format!("{root}src/{}", a[1..shared].join("/"));
            let places = folders.entry(folder.trim_end_matches('/').into()).or_default();
            let arrow = (from_name.clone(), to_name.clone());
            places.entry(arrow).or_insert(format!("{path}:{}", line + 1));
        }
        let mut found = Vec::new();
        for (folder, places) in folders {
            let edges: BTreeSet<(&str, &str)> =
                places.keys().map(|(from, to)| (from.as_str(), to.as_str())).collect();
            for files in components(&edges) {
                let inside = |name: &String| files.contains(name);
                let arrows = places
                    .iter()
                    .filter(|((from, to), _)| inside(from) && inside(to))
                    .map(|((from, to), place)| (from.clone(), to.clone(), place.clone()))
                    .map(|(from, to, place)| Arrow { from, to, place })
                    .collect();
                found.push(Circle { folder: folder.clone(), files, arrows });
            }
        }
        found
    }
}

/// The modules that a file declares for tests only.
fn test_modules(file: &Source) -> Vec<Vec<String>> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut found = Vec::new();
    for pair in lines.windows(2).filter(|pair| pair[0].starts_with("#[cfg(")) {
        let name = pair[1].rsplit_once("mod ").and_then(|(_, name)| name.strip_suffix(';'));
        if let Some(name) = name.filter(|_| has_word(pair[0], "test")) {
            found.push(file.module().into_iter().chain([name.to_string()]).collect());
        }
    }
    found
}

/// True when `file` has an item of this name outside any block.
fn defines(file: &Source, name: &str) -> bool {
    const KINDS: &[&str] =
        &["struct", "enum", "trait", "fn", "const", "static", "type", "union", "mod"];
    file.code.lines().filter(|line| !line.starts_with([' ', '}'])).any(|line| {
        let mut words = line.split(|c: char| !is_word(c)).filter(|word| !word.is_empty());
        words.any(|word| KINDS.contains(&word)) && words.next() == Some(name)
    })
}

/// The groups of two or more nodes that reach each other.
fn components(edges: &BTreeSet<(&str, &str)>) -> Vec<Vec<String>> {
    let reach = |start: &str| -> BTreeSet<String> {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start.to_string()]);
        while let Some(node) = open.pop() {
            for (_, to) in edges.iter().filter(|(from, _)| *from == node) {
                if seen.insert(to.to_string()) {
                    open.push(to.to_string());
                }
            }
        }
        seen
    };
    let nodes: BTreeSet<&str> = edges.iter().flat_map(|(from, to)| [*from, *to]).collect();
    let reached: BTreeMap<&str, BTreeSet<String>> =
        nodes.iter().map(|node| (*node, reach(node))).collect();
    let mut found: Vec<Vec<String>> = Vec::new();
    for node in &nodes {
        let mates = nodes.iter().filter(|other| {
            *other == node || (reached[node].contains(**other) && reached[*other].contains(*node))
        });
        let group: Vec<String> = mates.map(|mate| mate.to_string()).collect();
        if group.len() > 1 && !found.contains(&group) {
            found.push(group);
        }
    }
    found
}
