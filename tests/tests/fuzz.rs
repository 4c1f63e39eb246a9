//! Every input of the corpus, without a fuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use srpt_tests::fuzz::{TARGETS, corpus};

/// Files of a folder, in order.
fn files(folder: &PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn every_input_of_the_corpus_is_survived() {
    for target in TARGETS {
        let files = files(&corpus().join(target.name));
        assert!(!files.is_empty(), "{} has no corpus", target.name);
        for file in files {
            // A panic is told with the file that it is about.
            println!("{}", file.display());
            (target.run)(&fs::read(&file).expect("a readable file"));
        }
    }
}

#[test]
fn every_folder_of_the_corpus_has_a_target() {
    let folders: BTreeSet<PathBuf> = files(&corpus()).into_iter().collect();
    let targets = TARGETS.iter().map(|target| corpus().join(target.name)).collect();
    assert_eq!(folders, targets);
}

#[test]
fn no_bytes_at_all_are_survived() {
    TARGETS.iter().for_each(|target| (target.run)(&[]));
}
