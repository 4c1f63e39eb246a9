//! Types: where their methods are, how long they are together, and which fields others see.

use std::collections::BTreeMap;

use super::modules::Modules;
use super::scan::{Function, Source, body_end, has_word, is_word, last_name};

/// A block `impl Type` or `impl Trait for Type`.
#[derive(Debug, PartialEq, Eq)]
pub struct Impl {
    /// The type as the header names it, without generics and references.
    pub name: String,
    /// True for `impl Trait for Type`.
    pub is_of_trait: bool,
    /// First and last line, from 0.
    pub lines: (usize, usize),
    /// Its functions that have a body.
    pub functions: Vec<Function>,
}

/// A field of a struct with names.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its line, from 0.
    pub line: usize,
    /// `pub`, with or without a range: other files may use it.
    pub is_visible: bool,
}

/// A struct with named fields.
#[derive(Debug, PartialEq, Eq)]
pub struct Struct {
    /// Its name.
    pub name: String,
    /// Its line, from 0.
    pub line: usize,
    /// Its fields.
    pub fields: Vec<Field>,
    /// `repr(C)`: its layout is that of somebody else's struct.
    pub is_foreign: bool,
}

/// The `impl` blocks of a file, those of tests left out.
pub fn impls(source: &Source) -> Vec<Impl> {
    let functions = source.functions();
    let mut found = Vec::new();
    let mut offset = 0;
    for (first, line) in source.code.split_inclusive('\n').enumerate() {
        let at = offset;
        offset += line.len();
        let text = line.trim_start();
        let text = text.strip_prefix("unsafe ").unwrap_or(text);
        let is_impl = text.strip_prefix("impl").is_some_and(|rest| rest.starts_with(['<', ' ']));
        if !is_impl || source.test[first] {
            continue;
        }
        let Some(bytes) = body_end(&source.code[at..]) else { continue };
        let block = &source.code[at..at + bytes];
        let Some((name, is_of_trait)) = header(block) else { continue };
        let lines = (first, first + block.matches('\n').count());
        let inside = |f: &&Function| f.line >= lines.0 && f.line <= lines.1;
        let functions = functions.iter().filter(inside).cloned().collect();
        found.push(Impl { name, is_of_trait, lines, functions });
    }
    found
}

/// The type that the header of an `impl` block names, and whether a trait stands before it.
fn header(block: &str) -> Option<(String, bool)> {
    let text = block.split_once("impl")?.1.split('{').next()?;
    let text = if text.starts_with('<') { after_generics(text) } else { text };
    let text = text.split(" where ").next()?.split("\nwhere").next()?.trim();
    let (is_of_trait, text) = match text.rsplit_once(" for ") {
        Some((_, name)) => (true, name),
        None => (false, text),
    };
    let text = text.trim_start_matches('&').trim_start_matches("mut ").trim();
    let name: String = text.chars().take_while(|c| is_word(*c) || *c == ':').collect();
    Some((name, is_of_trait)).filter(|(name, _)| !name.is_empty())
}

/// `text` after the generics that it begins with.
fn after_generics(text: &str) -> &str {
    let mut depth = 0;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        before = c;
        if depth == 0 {
            return &text[at + 1..];
        }
    }
    ""
}

/// The structs with named fields of a file, those of tests left out.
pub fn structs(source: &Source) -> Vec<Struct> {
    let mut found = Vec::new();
    let lines: Vec<&str> = source.code.lines().collect();
    for (line, text) in lines.iter().enumerate() {
        let text = without_visibility(text.trim_start()).0;
        let Some(rest) = text.strip_prefix("struct ").filter(|_| !source.test[line]) else {
            continue;
        };
        let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
        let Some(open) = (line..lines.len()).find(|at| lines[*at].contains(['{', ';', '('])) else {
            continue;
        };
        let Some(indent) = lines[line].find(|c| c != ' ') else { continue };
        if !lines[open].trim_end().ends_with('{') {
            continue;
        }
        let fields = (open + 1..lines.len())
            .take_while(|at| !lines[*at].get(..=indent).is_some_and(|end| end.ends_with('}')))
            .filter_map(|at| field(lines[at], at, indent + 4))
            .collect();
        let attributes = lines[..line].iter().rev().take_while(|above| !above.trim().is_empty());
        let is_foreign = attributes.into_iter().any(|above| above.contains("#[repr(C"));
        found.push(Struct { name, line, fields, is_foreign });
    }
    found
}

/// The field that a line begins, at the column of fields.
fn field(text: &str, line: usize, column: usize) -> Option<Field> {
    let (text, is_visible) = without_visibility(text.get(column..)?);
    let name: String = text.chars().take_while(|c| is_word(*c)).collect();
    let is_field = !name.is_empty() && text[name.len()..].starts_with(':');
    is_field.then_some(Field { name, line, is_visible })
}

/// `text` without a `pub` at its beginning, and whether there was one.
fn without_visibility(text: &str) -> (&str, bool) {
    let Some(rest) = text.strip_prefix("pub") else { return (text, false) };
    match rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, rest)) => (rest.trim_start(), true),
        None if rest.starts_with(' ') => (rest.trim_start(), true),
        None => (text, false),
    }
}

/// The types of the crates that ship.
pub struct Types<'m, 'a> {
    modules: &'m Modules<'a>,
    /// By file: its blocks, each with the file that defines the type.
    blocks: Vec<Vec<(usize, Impl)>>,
}

/// A type and the lines of its methods.
#[derive(Debug, PartialEq, Eq)]
pub struct Methods {
    /// The file that defines the type.
    pub path: String,
    /// The type.
    pub name: String,
    /// Lines of all its `impl` blocks, without those of the headers.
    pub lines: usize,
    /// The number of methods.
    pub count: usize,
    /// The number of files that have some of them.
    pub files: usize,
}

impl<'m, 'a> Types<'m, 'a> {
    /// The types of these files.
    pub fn new(modules: &'m Modules<'a>) -> Self {
        let blocks = modules.files.iter().enumerate().map(|(at, file)| {
            let with_home = |block: Impl| (home(modules, at, &block.name), block);
            impls(file).into_iter().map(with_home).collect()
        });
        Types { modules, blocks: blocks.collect() }
    }

    /// Every type with its methods, the longest first.
    pub fn methods(&self) -> Vec<Methods> {
        let mut sums: BTreeMap<(usize, &str), (usize, usize, usize)> = BTreeMap::new();
        for blocks in &self.blocks {
            let mut here: BTreeMap<(usize, &str), (usize, usize)> = BTreeMap::new();
            for (home, block) in blocks {
                let sum = here.entry((*home, last_name(&block.name))).or_default();
                sum.0 += block.lines.1 - block.lines.0;
                sum.1 += block.functions.len();
            }
            for (key, (lines, count)) in here {
                let sum = sums.entry(key).or_default();
                *sum = (sum.0 + lines, sum.1 + count, sum.2 + 1);
            }
        }
        let mut found: Vec<Methods> = sums
            .into_iter()
            .map(|((home, name), (lines, count, files))| {
                let path = self.modules.files[home].path.clone();
                Methods { path, name: name.into(), lines, count, files }
            })
            .collect();
        found.sort_by(|a, b| b.lines.cmp(&a.lines).then_with(|| a.name.cmp(&b.name)));
        found
    }

    /// Calls of a method of `self` that another file defines: from, to, line.
    pub(super) fn calls(&self) -> Vec<(usize, usize, usize)> {
        let mut defined: BTreeMap<(usize, &str, &str), Vec<usize>> = BTreeMap::new();
        for (at, blocks) in self.blocks.iter().enumerate() {
            for (home, block) in blocks.iter().filter(|(_, block)| !block.is_of_trait) {
                for function in &block.functions {
                    let key = (*home, last_name(&block.name), function.name.as_str());
                    defined.entry(key).or_default().push(at);
                }
            }
        }
        let mut found = Vec::new();
        for (from, blocks) in self.blocks.iter().enumerate() {
            let lines = self.modules.files[from].code.lines().enumerate();
            for (home, block) in blocks {
                let inside = |(at, _): &(usize, &str)| (block.lines.0..=block.lines.1).contains(at);
                for (line, text) in lines.clone().filter(inside) {
                    for name in called(text) {
                        let homes = defined.get(&(*home, last_name(&block.name), name));
                        let Some(homes) = homes.filter(|homes| !homes.contains(&from)) else {
                            continue;
                        };
                        found.extend(homes.iter().map(|to| (from, *to, line)));
                    }
                }
            }
        }
        found
    }
}

/// The methods that a line of code calls on `self` or `Self`.
fn called(line: &str) -> impl Iterator<Item = &str> {
    ["self.", "Self::"].into_iter().flat_map(move |before| {
        line.match_indices(before).filter_map(move |(at, _)| {
            let rest = &line[at + before.len()..];
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let is_whole = !line[..at].ends_with(is_word);
            (is_whole && rest[end..].starts_with(['(', ':', ')', ','])).then_some(&rest[..end])
        })
    })
}

/// The file that defines the type which the file `at` calls `name`.
fn home(modules: &Modules, at: usize, name: &str) -> usize {
    let file = modules.files[at];
    let first = name.split("::").next().unwrap_or(name);
    let used = modules.uses(at).iter().find(|used| used.name == first);
    let Some(used) = used else { return modules.file_of(&modules.whole(file, name)).unwrap_or(at) };
    modules.file_of(&format!("{}{}", used.path, &name[first.len()..])).unwrap_or(at)
}

/// The fields of a file that other files may use.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Visible {
    /// All of them.
    pub all: usize,
    /// Those of structs that are no plain data, with the structs' names. A struct all of whose
    /// fields are visible, and which no method changes (`&mut self`), is plain data: a message,
    /// options, a report. So is one with the layout of somebody else's struct.
    pub of_parts: Vec<(String, Field)>,
}

/// The fields of a file that other files may use.
pub fn visible_fields(source: &Source) -> Visible {
    let blocks = impls(source);
    let lines: Vec<&str> = source.code.lines().collect();
    let changes = |name: &str| {
        let of_it = blocks.iter().filter(|block| last_name(&block.name) == name);
        of_it.flat_map(|block| &block.functions).any(|function| {
            let body = lines[function.line..].iter();
            let head = body.take_while(|line| !line.contains('{')).copied();
            let head: String = head.chain([lines[function.line]]).collect();
            has_word(&head, "&mut self")
        })
    };
    let mut found = Visible::default();
    for item in structs(source).into_iter().filter(|item| !item.is_foreign) {
        let visible = item.fields.iter().filter(|field| field.is_visible).count();
        found.all += visible;
        if visible == item.fields.len() && !changes(&item.name) {
            continue;
        }
        let fields = item.fields.into_iter().filter(|field| field.is_visible);
        found.of_parts.extend(fields.map(|field| (item.name.clone(), field)));
    }
    found
}
