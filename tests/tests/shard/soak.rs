//! Random worlds: everything at once, against an oracle.
//!
//! Each session owns a region of the device, so what a block may hold is known exactly: one value,
//! or, after a write that was aborted or lost with its channel, the old or the new one, decided for
//! good once the abort was answered or the session has logged in again.

mod session;

use std::ops::Range;

use srpt_tests::world::{Options, World};
use transport::sim::Rng;

use crate::common::gated;
use session::Session;

/// Steps with trouble, before everything must come to rest.
const STEPS: usize = 600;

/// Blocks of a session's region.
pub const REGION: u64 = 256;

/// What happened, over all seeds: a trouble that never struck is a hole in the test.
#[derive(Debug, Default)]
pub struct Tally {
    pub commands: u64,
    pub errors: u64,
    pub aborts: u64,
    pub aborted: u64,
    pub resets: u64,
    pub lost: u64,
    pub closes: u64,
    pub remaps: u64,
    pub either: u64,
    pub miscompares: u64,
    pub attentions: u64,
    pub absent: u64,
}

fn options(rng: &mut Rng) -> Options {
    let mut options = match rng.below(3) {
        0 => Options::tight(2 + rng.below(4) as usize, &[(4096, 1), (65536, 1), (1 << 20, 2)]),
        1 => Options::tight(8, &[(4096, 8), (65536, 2), (1 << 20, 2)]),
        _ => Options::default(),
    };
    options.cores = 1 + rng.below(3) as usize;
    options.seed = rng.next_u64();
    options.delay_ns_max = [0, 700, 3000, 12_000][rng.below(4) as usize];
    options.mailbox = [1, 3, usize::MAX][rng.below(3) as usize];
    options.limits.credits = [2, 5, 32][rng.below(3) as usize];
    options
}

/// Runs one seed; the digest of all that the initiators saw.
fn run(seed: u64, tally: &mut Tally) -> u64 {
    let mut rng = Rng::new(seed);
    let options = options(&mut rng);
    let (mut world, gate) = gated(&options);
    gate.random(rng.next_u64(), 1 + rng.below(40), [0, 60][rng.below(2) as usize]);
    let count = 1 + rng.below(4);
    let mut sessions: Vec<_> = (0..count)
        .map(|number| {
            let channels = 1 + rng.below(3) as usize;
            Session::new(&mut world, number, channels, rng.next_u64())
        })
        .collect();
    let mut remap = Remap::Idle;
    for _ in 0..STEPS {
        for at in 0..sessions.len() {
            if sessions[at].act(&mut world, tally) {
                // A reset takes commands of everybody.
                sessions.iter_mut().for_each(Session::expose);
            }
        }
        remap = remap.act(&mut world, &mut rng, tally);
        world.step();
        for session in &mut sessions {
            session.look(&mut world, tally);
        }
    }
    if sessions.iter().any(Session::is_resetting) {
        sessions.iter_mut().for_each(Session::expose);
    }
    while !matches!(remap, Remap::Idle) {
        remap = remap.act(&mut world, &mut rng, tally);
        world.step();
    }
    gate.open();
    for session in &mut sessions {
        session.rest(&mut world, tally);
    }
    world.assert_home();
    let mut digest = world.steps;
    for session in &mut sessions {
        session.check_all(&mut world, &gate, tally);
        digest = digest.rotate_left(7) ^ session.digest();
    }
    drop(sessions);
    world.assert_home();
    assert!((0..options.cores).all(|core| world.net.connections(core) == 0));
    digest
}

/// Takes the LUN out of the map and puts it back, without waiting in between.
enum Remap {
    Idle,
    Unmapping(u64),
    Unmapped(u64),
}

impl Remap {
    fn act(self, world: &mut World, rng: &mut Rng, tally: &mut Tally) -> Remap {
        use srpt_tgt::target::message::Action;
        match self {
            Remap::Idle if rng.one(400) => {
                tally.remaps += 1;
                let target = "t".to_owned();
                Remap::Unmapping(world.begin(Action::UnmapLun { target, lun: 0 }))
            }
            Remap::Unmapping(token) if world.answered(token) => Remap::Unmapped(rng.below(40)),
            Remap::Unmapped(0) => {
                world.map("t", 0, "gate");
                Remap::Idle
            }
            Remap::Unmapped(left) => Remap::Unmapped(left - 1),
            same => same,
        }
    }
}

/// Runs seeds; names the one that fails.
fn seeds(range: Range<u64>) -> Tally {
    let mut tally = Tally::default();
    for seed in range {
        let guard = Named(seed);
        run(seed, &mut tally);
        std::mem::forget(guard);
    }
    tally
}

/// Says which seed it was when the test fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        eprintln!("failed with SRPT_SEED={}", self.0);
    }
}

#[test]
fn random_worlds_keep_every_promise() {
    if let Ok(seed) = std::env::var("SRPT_SEED") {
        let seed = seed.parse().expect("SRPT_SEED is a number");
        println!("{:?}", seeds(seed..seed + 1));
        return;
    }
    let tally = seeds(0..150);
    println!("{tally:?}");
    let Tally { commands, errors, aborts, aborted, resets, lost, closes, remaps, .. } = tally;
    let Tally { either, miscompares, attentions, absent, .. } = tally;
    assert!(commands > 10_000, "{commands} commands");
    let troubles = [
        errors,
        aborts,
        aborted,
        resets,
        lost,
        closes,
        remaps,
        either,
        miscompares,
        attentions,
        absent,
    ];
    assert!(troubles.iter().all(|count| *count > 0), "a trouble never struck: {tally:?}");
}

#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in 1000..1010 {
        let one = run(seed, &mut Tally::default());
        assert_eq!(run(seed, &mut Tally::default()), one, "seed {seed}");
        assert_ne!(run(seed + 500, &mut Tally::default()), one);
    }
}
