//! Random worlds: some seeds, and that a seed is a run. The program `soak` runs many more.

use srpt_tests::soak::{Cuts, Tally, corpus, run};

/// Says which seed it was when the test fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again: cargo run -p srpt_tests --bin soak -- --seed {}", self.0);
        }
    }
}

#[test]
fn random_worlds_keep_every_promise() {
    let mut tally = Tally::default();
    for seed in 1_000_000..1_000_400 {
        let _named = Named(seed);
        run(seed, &Cuts::default(), false, &mut tally);
    }
    assert!(tally.missing().is_empty(), "a trouble never struck: {:?}", tally.missing());
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let hash = |seed| run(seed, &Cuts::default(), false, &mut Tally::default());
    for seed in 0..20 {
        let _named = Named(seed);
        assert_eq!(hash(seed), hash(seed));
        assert_ne!(hash(seed), hash(seed + 500));
    }
}

#[test]
fn what_is_cut_out_does_not_happen() {
    use srpt_tests::soak::plan::Fault;
    let cuts = Cuts { without: Fault::ALL.to_vec(), commands: Some(3), ..Cuts::default() };
    let mut tally = Tally::default();
    for seed in 0..20 {
        run(seed, &cuts, false, &mut tally);
    }
    let struck: Vec<_> = tally.rows().filter(|(_, count)| *count > 0).collect();
    let allowed = ["commands", "answered", "either value", "miscompares", "unit attentions"];
    let allowed = [&allowed[..], &["logins", "events", "fair acts"]].concat();
    assert!(struck.iter().all(|(name, _)| allowed.contains(name)), "{struck:?}");
    assert!(struck.iter().any(|(name, count)| *name == "commands" && *count <= 60), "{struck:?}");
}

#[test]
fn every_line_of_the_corpus_has_a_seed() {
    for entry in corpus::entries() {
        assert!(entry.arguments().any(|argument| argument == "--seed"), "{}", entry.line);
    }
}
