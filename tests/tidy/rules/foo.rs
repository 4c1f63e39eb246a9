//! How many files it takes to add something: a planted "foo" of each kind is a patch, which
//! `scripts/foo.sh` tries on a copy of the sources. Files that a command writes anew from the
//! sources (the reference of the RPCs) are not counted.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Kind, and the files that its patch touches, its test among them. May only shrink.
const FILES: &[(&str, usize)] = &[("bdev", 4), ("option", 1), ("rpc", 1), ("scsi-command", 3)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("a workspace").to_path_buf()
}

/// The files that a patch touches: those that it names as new.
fn files(patch: &str) -> usize {
    patch.lines().filter(|line| line.starts_with("+++ b/")).count()
}

/// Why a patch does not apply to the sources, which are left alone.
fn refused(root: &Path, patch: &Path) -> Option<String> {
    let mut git = Command::new("git");
    // Git sets these for hooks, and they would send it elsewhere.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    let git = git.current_dir(root).args(["apply", "--check", "-C1"]).arg(patch);
    let output = git.output().expect("git runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success()).then_some(said)
}

#[test]
fn a_foo_of_each_kind_takes_the_files_that_the_list_says() {
    let folder = root().join("tests/corpus/foo");
    let mut wrong = Vec::new();
    for (kind, at_most) in FILES {
        let path = folder.join(format!("{kind}.patch"));
        let patch = std::fs::read_to_string(&path).expect("a patch");
        let count = files(&patch);
        if count != *at_most {
            wrong.push(format!("{kind}: {count} files, the list says {at_most}"));
        }
        wrong.extend(refused(&root(), &path).map(|why| format!("{kind} does not apply:\n{why}")));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let patches = std::fs::read_dir(&folder).expect("the folder of the patches").count();
    assert_eq!(patches, FILES.len(), "a patch that is not in the list");
}

#[test]
fn a_patch_that_does_not_apply_is_refused() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foo");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("a.rs"), "one\ntwo\nthree\n").expect("a file");
    let patch = folder.join("foo.patch");
    let text = "--- a/a.rs\n+++ b/a.rs\n@@ -1,2 +1,3 @@\n one\n+foo\n two\n";
    std::fs::write(&patch, text).expect("a patch");
    assert_eq!(refused(&folder, &patch), None);
    assert_eq!(files(text), 1);
    std::fs::write(&patch, text.replace("two", "four")).expect("a patch");
    let why = refused(&folder, &patch).expect("a refusal");
    assert!(why.contains("patch does not apply"), "{why}");
}
