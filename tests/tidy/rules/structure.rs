//! The rules about files and types together: lines of methods, circles of files, visible fields.

use std::collections::BTreeMap;

use srpt_tidy::Source;
use srpt_tidy::modules::Modules;
use srpt_tidy::types::{Types, visible_fields};

use crate::rules::Finding;

pub(crate) const METHOD_LINES_MAX: usize = 600;

/// Sizes are rounded up to these steps, so that not every change moves an entry of the ratchet.
const METHOD_LINES_STEP: usize = 50;
const FIELDS_STEP: usize = 5;

/// What the files of the crates that ship say together.
pub(crate) fn measure(sources: &[Source]) -> Vec<Finding> {
    let modules = Modules::new(sources);
    let mut found = long_types(&modules);
    found.extend(circles(&modules));
    found.extend(fields(sources));
    found
}

fn long_types(modules: &Modules) -> Vec<Finding> {
    let long = Types::new(modules).methods().into_iter();
    let long = long.filter(|methods| methods.lines > METHOD_LINES_MAX);
    let finding = |methods: srpt_tidy::types::Methods| {
        let lines = methods.lines;
        let size = lines.next_multiple_of(METHOD_LINES_STEP);
        let what = format!("{}: {lines} lines of methods: give some to its parts", methods.name);
        let (path, item) = (methods.path, methods.name);
        Finding { rule: "lines of methods", path, line: 0, item, size, what }
    };
    long.map(finding).collect()
}

/// One finding for each folder: how many of its files are in circles.
fn circles(modules: &Modules) -> Vec<Finding> {
    let mut folders: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for circle in modules.circles() {
        let (files, what) = folders.entry(circle.folder.clone()).or_default();
        *files += circle.files.len();
        *what +=
            &format!("\n  {} name each other; the shortest way round:", circle.files.join(", "));
        for arrow in circle.shortest() {
            *what += &format!("\n    {} -> {} ({})", arrow.from, arrow.to, arrow.place);
        }
    }
    let finding = |(path, (size, what))| Finding {
        rule: "circles",
        path,
        line: 0,
        item: String::new(),
        size,
        what,
    };
    folders.into_iter().map(finding).collect()
}

/// The folder whose files are counted together: two levels below the root at most.
fn folder(path: &str) -> String {
    let folders: Vec<&str> = path.split('/').collect();
    folders[..folders.len().saturating_sub(1).min(2)].join("/")
}

fn fields(sources: &[Source]) -> Vec<Finding> {
    let mut folders: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.ships()) {
        for (item, field) in visible_fields(source).of_parts {
            let (size, what) = folders.entry(folder(&source.path)).or_default();
            *size += 1;
            *what += &format!("\n  {}:{}: {item}.{}", source.path, field.line + 1, field.name);
        }
    }
    let finding = |(path, (count, what)): (String, (usize, String))| Finding {
        rule: "visible fields",
        path,
        line: 0,
        item: String::new(),
        size: count.next_multiple_of(FIELDS_STEP),
        what: format!("{count} fields that other files may change:{what}"),
    };
    folders.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rule: &str, files: &[(&str, &str)]) -> Vec<(String, usize)> {
        let sources: Vec<Source> =
            files.iter().map(|(path, text)| Source::new(path, text)).collect();
        let all = measure(&sources).into_iter().filter(|finding| finding.rule == rule);
        all.map(|finding| (finding.path + &finding.item, finding.size)).collect()
    }

    #[test]
    fn the_lines_of_all_blocks_of_a_type_are_counted_together() {
        let half = METHOD_LINES_MAX / 2;
        let block = |header: &str, lines| format!("{header} {{{}}}\n", "\n".repeat(lines));
        let a = format!("pub struct A;\n{}", block("impl A", half));
        let b =
            |lines| format!("use super::a::A;\n{}", block("impl<T: Fn() -> u8> X for A", lines));
        let files = |b: &str| found("lines of methods", &[("src/x/a.rs", &a), ("src/x/b.rs", b)]);
        assert_eq!(files(&b(half)), []);
        assert_eq!(files(&b(half + 1)), [("src/x/a.rsA".to_string(), 650)]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", block("impl A", half));
        assert_eq!(files(&format!("{}{tests}", b(half))), []);
        assert_eq!(files(&b(half + 1).replace("super::a::A", "crate::y::A")), []);
    }

    #[test]
    fn files_of_a_folder_that_name_each_other_are_found() {
        let circle = |files: &[(&str, &str)]| found("circles", files);
        let size = |size| vec![("src/x".to_string(), size)];
        let (a, b, c) = ("src/x/a.rs", "src/x/b.rs", "src/x/c.rs");
        assert_eq!(circle(&[(a, "use super::b::B;"), (b, "pub struct B;")]), []);
        assert_eq!(circle(&[(a, "use super::b::B;"), (b, "fn f(a: super::a::A) {}")]), size(2));
        let three = [(a, "use super::b::B;"), (b, "use super::c::C;"), (c, "use super::a::A;")];
        assert_eq!(circle(&three), size(3));
        // A subfolder is one with the file of its name.
        let below = [("src/x/a/d.rs", "use crate::x::b::B;"), (b, "use super::a::d::D;")];
        assert_eq!(circle(&below), size(2));
        // A test may look at anything.
        let test = "#[cfg(test)]\nmod tests {\n    use crate::x::a::A;\n}\n";
        assert_eq!(circle(&[(a, "use super::b::B;"), (b, test)]), []);
        let declared = ("src/x/mod.rs", "mod a;\n#[cfg(test)]\nmod b;\n");
        assert_eq!(circle(&[declared, (a, "use super::b::B;"), (b, "use super::a::A;")]), []);
    }

    #[test]
    fn a_folder_s_own_module_hides_no_circle() {
        let circle = |files: &[(&str, &str)]| found("circles", files);
        let size = |size| vec![("src/x".to_string(), size)];
        let (a, b) = ("src/x/a.rs", "src/x/b.rs");
        let parent = ("src/x/mod.rs", "mod a;\nmod b;\npub use a::A;\npub(crate) use b::*;\n");
        let (names_b, names_a) = ((a, "use super::B;\npub struct A;"), "pub struct B;");
        assert_eq!(circle(&[parent, names_b, (b, names_a)]), []);
        assert_eq!(circle(&[parent, names_b, (b, "use super::A;\npub struct B;")]), size(2));
        // What the parent defines itself is the folder's.
        let parent = ("src/x/mod.rs", "mod a;\npub struct P(a::A);\n");
        assert_eq!(circle(&[parent, (a, "use super::P;\npub struct A;")]), []);
    }

    #[test]
    fn methods_of_one_type_in_two_files_that_call_each_other_are_a_circle() {
        let a = "pub struct S;\nimpl S {\n    fn a(&self) { self.b(); }\n}\n";
        let b = "use super::a::S;\nimpl S {\n    fn b(&self) { g(); }\n}\n";
        let files = |a: &str, b: &str| found("circles", &[("src/x/a.rs", a), ("src/x/b.rs", b)]);
        assert_eq!(files(a, b), [("src/x".to_string(), 2)]);
        assert_eq!(files(&a.replace("self.b()", "other.b()"), b), []);
        assert_eq!(files(&a.replace("self.b()", "self.a()"), b), []);
    }

    #[test]
    fn fields_of_parts_that_others_may_change_are_counted() {
        let fields = |text: &str| found("visible fields", &[("src/x/y/z.rs", text)]);
        let one = vec![("src/x".to_string(), FIELDS_STEP)];
        let part = "pub struct A {\n    pub(super) a: u8,\n    b: u8,\n}\n";
        assert_eq!(fields(part), one);
        assert_eq!(fields(&part.replace("pub(super) ", "")), []);
        assert_eq!(fields(&part.replace("    b", "    pub b")), []);
        let changed = "impl A {\n    pub fn f(&mut self) {}\n}\n";
        assert_eq!(fields(&(part.replace("    b", "    pub b") + changed)), one);
        assert_eq!(fields(&format!("#[repr(C)]\n{part}")), []);
        assert_eq!(fields(&format!("#[cfg(test)]\nmod tests {{\n{part}}}\n")), []);
    }
}
