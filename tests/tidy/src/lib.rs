//! Reads the workspace's sources as text: what the house rules (this crate's test `tidy`) and the
//! program `structure` know of them. Line-based: code without comments and strings, not syntax
//! trees.

pub mod modules;
pub mod scan;
pub mod types;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use scan::{Function, Source, has_word, is_word};

/// Folders of the build, which are in the root only, and of version control.
fn is_skipped(name: &str, is_in_root: bool) -> bool {
    let is_hidden = name.starts_with('.') && ![".ci", ".githooks"].contains(&name);
    is_hidden || (is_in_root && name.starts_with("target"))
}

/// The text files under `root`, in the order of their names.
///
/// # Errors
///
/// A folder or a file that can't be read, or is not UTF-8.
pub fn read(root: &Path) -> io::Result<Vec<Source>> {
    let mut found = Vec::new();
    collect(root, root, &mut found)?;
    Ok(found)
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) -> io::Result<()> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !is_skipped(&name, folder == root) {
                collect(root, &path, found)?;
            }
            continue;
        }
        let text_file = [".rs", ".toml", ".sh", ".py", ".md", ".json", ".c", ".h"];
        let script = folder == root.join(".ci") || folder == root.join(".githooks");
        if script || text_file.iter().any(|end| name.ends_with(end)) {
            let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.push(Source::new(&relative, &fs::read_to_string(&path)?));
        }
    }
    Ok(())
}
