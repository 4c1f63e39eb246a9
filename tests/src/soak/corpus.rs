//! Seeds that once failed: they run for ever.

/// The file: a line of options of `soak` each, and behind `#` what it found.
const FILE: &str = include_str!("../../corpus/seeds.txt");

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The line.
    pub line: &'static str,
}

impl Entry {
    /// A command line, with the program's name.
    pub fn arguments(self) -> impl Iterator<Item = &'static str> {
        let options = self.line.split('#').next().unwrap_or("");
        std::iter::once("soak").chain(options.split_whitespace())
    }
}

/// All of them.
pub fn entries() -> impl Iterator<Item = Entry> {
    let lines = FILE.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| Entry { line })
}
