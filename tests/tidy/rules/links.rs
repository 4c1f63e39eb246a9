//! The documentation as a whole: every link of the Markdown files leads to a file and a heading
//! that are there, the manual's table of contents names every page, and README stays short.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use srpt_tidy::Source;

/// Most bytes of README: what is read before the first try.
const README_BYTES_MAX: usize = 8192;

/// The lines of a Markdown file outside of fenced blocks, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        (!fenced && !is_fence).then_some((at + 1, line))
    })
}

/// A line without what stands in backquotes.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// Where the links of a line lead to.
fn targets(line: &str) -> Vec<String> {
    let line = without_code(line);
    let ends = line.split("](").skip(1);
    ends.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// The anchors of a file's headings, as GitHub and mdBook name them. Headings of the same words are
/// numbered.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in prose(text).filter(|(_, line)| line.starts_with('#')) {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let numbered = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone()).chain(numbered).find(|a| !found.contains(a));
        found.extend(free);
    }
    found
}

/// `path` without `.` and `..`; `None` if it leads out of the folder that it begins in.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if !normal.pop() => return None,
            Component::Normal(name) => normal.push(name),
            _ => {}
        }
    }
    Some(normal)
}

/// Links that lead nowhere, of the Markdown files among the sources. `exists` is asked for files
/// that are not among the sources. Links to other hosts are not looked at.
fn broken(sources: &[Source], exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let pages: BTreeMap<PathBuf, &Source> =
        sources.iter().map(|source| (PathBuf::from(&source.path), source)).collect();
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with(".md")) {
        let folder = Path::new(&source.path).parent().unwrap_or(Path::new(""));
        for (number, line) in prose(&source.text) {
            for target in targets(line).into_iter().filter(|target| !target.contains("://")) {
                let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
                let path = if file.is_empty() {
                    Some(PathBuf::from(&source.path))
                } else {
                    normal(&folder.join(file))
                };
                let page = path.as_ref().and_then(|path| pages.get(path));
                let is_there = path.as_ref().is_some_and(|path| page.is_some() || exists(path));
                let is_named = anchor.is_empty()
                    || page.is_some_and(|page| anchors(&page.text).contains(anchor));
                if !is_there || !is_named {
                    wrong.push(format!("{}:{number}: {target} leads nowhere", source.path));
                }
            }
        }
    }
    wrong
}

/// Pages of the folder `docs` that its table of contents names not exactly once, and lines of the
/// table that mdBook does not take: anything but headings and single links to pages.
fn contents(sources: &[Source]) -> Vec<String> {
    let summary = sources.iter().find(|source| source.path == "docs/SUMMARY.md");
    let summary = summary.map_or("", |source| &source.text);
    let mut wrong = Vec::new();
    let mut named: Vec<String> = Vec::new();
    for (at, line) in summary.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match targets(line).as_slice() {
            [] if line.starts_with("# ") => {}
            [page] if line.trim_start().trim_start_matches("- ").starts_with('[') => {
                named.push(format!("docs/{page}"));
            }
            _ => wrong.push(format!("docs/SUMMARY.md:{}: not a heading, not a page", at + 1)),
        }
    }
    let pages = sources.iter().map(|source| &source.path);
    let pages = pages.filter(|path| path.starts_with("docs/") && path.ends_with(".md"));
    for page in pages.filter(|path| *path != "docs/SUMMARY.md") {
        let times = named.iter().filter(|path| *path == page).count();
        if times != 1 {
            wrong.push(format!("docs/SUMMARY.md names {page} {times} times"));
        }
    }
    wrong
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace");
    let wrong = broken(&super::sources(), |path| root.join(path).exists());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_table_of_contents_names_every_page_of_the_manual_once() {
    let wrong = contents(&super::sources());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn readme_is_short() {
    let sources = super::sources();
    let readme = sources.iter().find(|source| source.path == "README.md").expect("README.md");
    assert!(readme.text.len() <= README_BYTES_MAX, "{} bytes", readme.text.len());
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = |text: &str| {
        let other = "# A\n\n## What it does: now!\n\n### a_b\n\n```\n# not a heading\n```\n\n# A\n";
        let sources = [Source::new("docs/a.md", text), Source::new("docs/b.md", other)];
        broken(&sources, |path| path == Path::new("bench/x.txt")).len()
    };
    for good in [
        "[b](b.md)",
        "[b](b.md#what-it-does-now)",
        "[b](b.md#a_b), [b](b.md#a-1)",
        "[x](../bench/x.txt)",
        "[far](https://example.org/nothing)",
        "`[code](nowhere.md)`",
        "```\n[code](nowhere.md)\n```",
        "# Here\n[here](#here)",
    ] {
        assert_eq!(page(good), 0, "{good}");
    }
    for bad in [
        "[c](c.md)",
        "[b](b.md) and [c](c.md)",
        "[b](b.md#what-it-did)",
        "[b](b.md#not-a-heading)",
        "[out](../../b.md)",
        "[here](#here)",
        "[x](../bench/y.txt)",
    ] {
        assert_eq!(page(bad), 1, "{bad}");
    }
}

#[test]
fn a_page_that_is_missing_in_the_table_of_contents_is_found() {
    let with = |summary: &str| {
        contents(&[Source::new("docs/SUMMARY.md", summary), Source::new("docs/a.md", "# A")]).len()
    };
    assert_eq!(with("# Summary\n\n- [A](a.md)\n"), 0);
    assert_eq!(with("# Summary\n\n[A](a.md)\n"), 0);
    assert_eq!(with("# Summary\n"), 1);
    assert_eq!(with("# Summary\n\n- [A](a.md)\n  - [B](a.md)\n"), 1);
    assert_eq!(with("# Summary\n\n- [A](a.md)\n\nWords.\n"), 1);
}
