//! One of the fuzz targets under libFuzzer: the one that `SRPT_FUZZ_TARGET` names. Arguments are
//! libFuzzer's. `scripts/fuzz.sh` builds and runs it.
#![no_main]

use std::sync::OnceLock;

use srpt_tests::fuzz::{self, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();

fn choose() {
    let name = std::env::var("SRPT_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = fuzz::TARGETS.iter().find(|target| target.name == name) else {
        let names: Vec<&str> = fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("SRPT_FUZZ_TARGET={name:?} is none of {}", names.join(", "));
        std::process::exit(2);
    };
    TARGET.set(target).expect("libFuzzer initializes once");
}

libfuzzer_sys::fuzz_target!(init: choose(), |input: &[u8]| {
    (TARGET.get().expect("chosen at the start").run)(input);
});
