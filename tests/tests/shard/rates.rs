//! How many reads a second credits, network latency and buffers allow, in simulated time: a table
//! that is kept in `tests/corpus/rates.txt`. Steps of the world take 500 ns, whatever happens in
//! them: the figures are about waiting for each other, not about instructions.
//!
//! `SRPT_KEEP=1` writes the table anew; that belongs into the commit that changes it, with the why.

use std::fmt::Write;

use bdev::null::NullOptions;
use srpt_tests::port::Port;
use srpt_tests::world::{Login, Options, World};
use transport::initiator::{Data, cdb};

use crate::common::seg;

const STEPS: usize = 20_000;
const CREDITS: [u32; 4] = [1, 8, 32, 128];
const DELAYS_NS_MAX: [u64; 3] = [1_000, 10_000, 100_000];
/// Of 4 KiB; a read takes one of three large ones when these are all in use.
const BUFFERS: [u32; 3] = [1, 13, 125];

fn world(credits: u32, delay_ns_max: u64, buffers: u32) -> (World, Port) {
    let mut options = Options::tight(256, &[(4096, buffers), (1 << 20, 3)]);
    options.limits.credits = credits;
    options.delay_ns_max = delay_ns_max;
    let mut world = World::new(&options);
    let null = NullOptions {
        name: Some("N".into()),
        num_blocks: 1 << 20,
        block_size: 512,
        ..NullOptions::default()
    };
    world.bdevs.create(null).expect("a null device");
    world.map("t", 0, "N");
    let port = world.ready(0, &Login::of(1), &[0]);
    (world, port)
}

/// Thousand reads of 4 KiB a second.
fn rate(credits: u32, delay_ns_max: u64, buffers: u32) -> u64 {
    let (mut world, port) = world(credits, delay_ns_max, buffers);
    let (mut flying, mut done) = (Vec::new(), 0u64);
    for _ in 0..STEPS {
        while port.credits() > 0 {
            let at = flying.len() * 4096;
            let data = seg(&port, at, 4096);
            flying.push(port.submit(0, &cdb::read10(0, 8), Data::In(&data)));
        }
        world.step();
        let before = flying.len();
        flying.retain(|tag| port.end(*tag).is_none());
        done += (before - flying.len()) as u64;
    }
    world.assert_home();
    let elapsed_us = STEPS as u64 * world.step_time.as_nanos() as u64 / 1000;
    done * 1000 / elapsed_us
}

#[test]
fn the_table_of_simulated_rates_is_kept() {
    let mut table = String::from(
        "# Thousand 4 KiB reads a second in simulated time; by credits of the channel, longest\n\
         # latency of a message in ns, and buffers of 4 KiB beside three larger ones.\n\
         # credits latency buffers rate\n",
    );
    for credits in CREDITS {
        for delay_ns_max in DELAYS_NS_MAX {
            for buffers in BUFFERS {
                let rate = rate(credits, delay_ns_max, buffers);
                writeln!(table, "{credits} {delay_ns_max} {buffers} {rate}").expect("a string");
            }
        }
    }
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/rates.txt");
    if std::env::var_os("SRPT_KEEP").is_some() {
        std::fs::write(kept, &table).expect("the corpus can be written");
    }
    let before = std::fs::read_to_string(kept).expect("a table is kept");
    assert!(before == table, "SRPT_KEEP=1 keeps the new table:\n{table}");
}
