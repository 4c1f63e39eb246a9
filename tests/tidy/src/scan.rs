//! Reads a source file line by line: code without comments and strings, paths, functions.

/// A text file of the repository.
pub struct Source {
    /// Path from the root, with slashes.
    pub path: String,
    /// The file.
    pub text: String,
    /// The file with comments, strings and characters blanked, line for line. Empty unless Rust.
    pub code: String,
    /// For every line, whether it belongs to a test. Empty unless Rust.
    pub test: Vec<bool>,
}

/// A function: name, first line (from 0) and number of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of `fn`, from 0.
    pub line: usize,
    /// Lines from `fn` to the closing brace, both counted.
    pub lines: usize,
}

/// A name that a `use` statement brings into a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The line of the statement, from 0.
    pub line: usize,
    /// The name in the file; `*` for all names of a module.
    pub name: String,
    /// What is meant, from the name of its crate on where the text says so.
    pub path: String,
    /// The statement starts with `pub`, with or without a range.
    pub is_reexport: bool,
}

impl Source {
    /// The file at `path` (from the root, with slashes) with this text.
    pub fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { strip(text) } else { String::new() };
        let test = test_lines(path, &code);
        Source { path: path.into(), text: text.into(), code, test }
    }

    /// True for a Rust file.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// True for a Rust file that is not all tests.
    pub fn ships(&self) -> bool {
        self.is_rust() && !self.test.iter().all(|test| *test)
    }

    /// The file's module path, from the name of its crate on.
    pub fn module(&self) -> Vec<String> {
        let (krate, rest) = match self.path.split_once("src/") {
            Some(("", rest)) => ("srpt_tgt", rest),
            Some(("bench/", rest)) => ("srpt_bench", rest),
            Some(("tests/", rest)) => ("srpt_tests", rest),
            Some(("tests/tidy/", rest)) => ("srpt_tidy", rest),
            Some((member, rest)) => (member.trim_end_matches('/'), rest),
            None => ("", ""),
        };
        let names = rest.trim_end_matches(".rs").split('/');
        let names = names.filter(|name| !["mod", "lib", "main", ""].contains(name));
        std::iter::once(krate).chain(names).map(str::to_string).collect()
    }

    /// Every path (`a::b::c`) of the code with its line, starting at a crate's name: `crate`,
    /// `self` and `super` are resolved, groups of `use` taken apart.
    pub fn paths(&self) -> Vec<(usize, String)> {
        let module = self.module();
        let mut found: Vec<(usize, String)> =
            self.uses().into_iter().map(|used| (used.line, used.path)).collect();
        for (line, text) in statements(&self.code) {
            if use_tree(&text).is_none() {
                found.extend(inline_paths(&text).map(|path| (line, resolve(&module, &path))));
            }
        }
        found.sort();
        found
    }

    /// What the `use` statements bring in, one entry for each name.
    pub fn uses(&self) -> Vec<Use> {
        let module = self.module();
        let mut found = Vec::new();
        for (line, text) in statements(&self.code) {
            let Some(tree) = use_tree(&text) else { continue };
            let is_reexport = text.trim_start().starts_with("pub");
            let mut flat = Vec::new();
            flatten("", &tree, &mut flat);
            found.extend(flat.into_iter().map(|(path, alias)| {
                let path = resolve(&module, &path);
                let name = alias.unwrap_or_else(|| last_name(&path).to_string());
                Use { line, name, path, is_reexport }
            }));
        }
        found
    }

    /// The functions that have a body.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            let before = self.code[..at].chars().next_back();
            if before.is_some_and(is_word) {
                continue;
            }
            let rest = &self.code[at + 3..];
            let name: String = rest.chars().take_while(|c| is_word(*c)).collect();
            let Some(bytes) = body_end(rest).filter(|_| !name.is_empty()) else { continue };
            let line = self.code[..at].matches('\n').count();
            found.push(Function { name, line, lines: rest[..bytes].matches('\n').count() + 1 });
        }
        found
    }
}

/// True for a character of an identifier.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// True when `text` has `word` with no identifier character on either side.
pub fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && (!word.ends_with(is_word) || !after.is_some_and(is_word))
    })
}

/// Blanks comments, strings and character literals; keeps every line break.
fn strip(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match (bytes[at], bytes.get(at + 1)) {
            ('/', Some('/')) => find(&bytes, at, &['\n']),
            ('/', Some('*')) => block_comment_end(&bytes, at),
            ('r', Some('"' | '#')) if !word_before(&bytes, at) => raw_string_end(&bytes, at),
            ('b', Some('r')) if !word_before(&bytes, at) => raw_string_end(&bytes, at + 1),
            ('"', _) => string_end(&bytes, at),
            ('\'', Some('\\')) => find(&bytes, at + 3, &['\'']) + 1,
            ('\'', Some(_)) if bytes.get(at + 2) == Some(&'\'') => at + 3,
            _ => at,
        };
        if end <= at {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        let end = end.min(bytes.len());
        out.extend(bytes[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

fn word_before(text: &[char], at: usize) -> bool {
    at > 0 && is_word(text[at - 1]) && text[at - 1] != 'b'
}

fn find(text: &[char], from: usize, any: &[char]) -> usize {
    (from..text.len()).find(|at| any.contains(&text[*at])).unwrap_or(text.len())
}

fn block_comment_end(text: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The end of `r"..."` or `r#"..."#`; `from` itself for a raw identifier.
fn raw_string_end(text: &[char], from: usize) -> usize {
    let hashes = text[from + 1..].iter().take_while(|c| **c == '#').count();
    if text.get(from + 1 + hashes) != Some(&'"') {
        return from;
    }
    let mut at = from + 2 + hashes;
    while at < text.len() {
        let tail = text[at + 1..].iter().take_while(|c| **c == '#').count();
        if text[at] == '"' && tail >= hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

fn string_end(text: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Lines of `#[cfg(test)] mod x { .. }`, or all lines of a test file.
fn test_lines(path: &str, code: &str) -> Vec<bool> {
    let all = path.starts_with("tests/")
        || path.contains("/tests/")
        || path.contains("/benches/")
        || path.ends_with("/tests.rs");
    let mut test = vec![all; code.lines().count()];
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let Some(bytes) = body_end(&code[at..]) else { continue };
        let first = code[..at].matches('\n').count();
        let last = first + code[at..at + bytes].matches('\n').count();
        test[first..=last].fill(true);
    }
    test
}

/// Offset after the `}` that closes the first `{`; `None` when a `;` outside brackets comes first.
pub(super) fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0, 0);
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            '{' => braces += 1,
            '}' => braces -= 1,
            ';' if braces == 0 && brackets == 0 => return None,
            _ => {}
        }
        if c == '}' && braces == 0 {
            return Some(at + 1);
        }
    }
    None
}

/// The code line by line, a `use` statement as one line.
fn statements(code: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (number, line) in code.lines().enumerate() {
        match found.last_mut().filter(|_| open) {
            Some((_, text)) => text.push_str(line),
            None => found.push((number, line.to_string())),
        }
        open = found
            .last()
            .is_some_and(|(_, text)| use_keyword(text).is_some() && !text.contains(';'));
    }
    found
}

/// What follows the keyword of a `use` statement.
fn use_keyword(text: &str) -> Option<&str> {
    let mut text = text.trim_start();
    if let Some(rest) = text.strip_prefix("pub") {
        let rest = rest.trim_start();
        text = match rest.strip_prefix('(') {
            Some(inner) => inner.split_once(')')?.1.trim_start(),
            None => rest,
        };
    }
    text.strip_prefix("use ")
}

fn use_tree(text: &str) -> Option<String> {
    let tree = use_keyword(text)?.split(';').next()?;
    Some(tree.split(" as ").map(str::trim).collect::<Vec<_>>().join(" as "))
}

/// The last name of a path.
pub fn last_name(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

/// The paths of a `use` tree, each with its name behind `as`.
fn flatten(prefix: &str, tree: &str, out: &mut Vec<(String, Option<String>)>) {
    let tree = tree.trim().trim_start_matches("::");
    let Some(open) = tree.find('{') else {
        let (name, alias) = tree.split_once(" as ").map_or((tree, None), |(n, a)| (n, Some(a)));
        if !name.trim().is_empty() {
            let alias = alias.map(|alias| alias.trim().to_string());
            out.push((format!("{prefix}{}", name.trim()), alias));
        }
        return;
    };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut from) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                flatten(&prefix, &inner[from..at], out);
                from = at + 1;
            }
            _ => {}
        }
    }
    flatten(&prefix, &inner[from..], out);
}

/// Paths of two or more names in a line of code that is no `use`.
fn inline_paths(line: &str) -> impl Iterator<Item = String> {
    line.split(|c: char| !is_word(c) && c != ':')
        .map(|word| word.trim_matches(':'))
        .filter(|word| word.contains("::"))
        .map(str::to_string)
        .collect::<Vec<_>>()
        .into_iter()
}

fn resolve(module: &[String], path: &str) -> String {
    let mut base: Vec<&str> = Vec::new();
    for name in path.split("::") {
        match name {
            "crate" => base = vec![&module[0]],
            "self" if base.is_empty() => base = module.iter().map(String::as_str).collect(),
            "super" if base.is_empty() => {
                base = module.iter().map(String::as_str).collect();
                base.pop();
            }
            "super" => {
                base.pop();
            }
            "self" => {}
            name => base.push(name),
        }
    }
    base.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_blank() {
        let code = strip("a /* b /* c */ d */ e // f\n\"g\\\"h\" 'i' '\\n' &'j r#\"k\"# b\"l\" m");
        assert_eq!(code.replace(' ', ""), "ae\n&'jbm");
    }

    #[test]
    fn uses_are_taken_apart_and_resolved() {
        let text = "use crate::{scsi::{Sense, cdb}, shard};\npub(crate) use super::lun::X as Y;\n\
                    fn f() { transport::Event::new(); }";
        let paths = Source::new("src/shard/shard.rs", text).paths();
        let names: Vec<&str> = paths.iter().map(|(_, path)| path.as_str()).collect();
        assert_eq!(
            names,
            [
                "srpt_tgt::scsi::Sense",
                "srpt_tgt::scsi::cdb",
                "srpt_tgt::shard",
                "srpt_tgt::shard::lun::X",
                "transport::Event::new"
            ]
        );
    }

    #[test]
    fn functions_are_measured() {
        let text = "trait A { fn none(&self); }\nfn f(x: [u8; 2]) -> u8 {\n  {\n  }\n}\n";
        let source = Source::new("src/a.rs", text);
        let found: Vec<_> = source.functions().iter().map(|f| (f.name.clone(), f.lines)).collect();
        assert_eq!(found, [("f".to_string(), 4)]);
    }

    #[test]
    fn test_modules_are_known() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n}\nfn b() {}\n";
        assert_eq!(Source::new("src/a.rs", text).test, [false, true, true, true, false]);
    }
}
