//! The end of a target: in order, in time, and with every completed write in the file.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use srpt_tests::process::{Initiator, Options, Stamps, Target, lun};
use transport::initiator::{Command, Data, DataMemory, Event, Session, cdb};

/// What an orderly stop may take.
const STOP_WAIT_MAX: Duration = Duration::from_secs(2);

const BLOCK_BYTES: usize = 512;
const IO_BLOCKS: u64 = 8;
const IO_BYTES: usize = BLOCK_BYTES * IO_BLOCKS as usize;
/// Writes in flight: as many as the credits allow.
const DEPTH: usize = 100;
/// Places of [`IO_BLOCKS`] blocks that are written over and over.
const PLACES: u64 = 1024;

/// What a writer knows when its target has gone.
#[derive(Default)]
struct Writes {
    /// Generation of the last completed write by place.
    completed: BTreeMap<u64, u64>,
    /// Generation that was in flight at the end, by place.
    in_flight: BTreeMap<u64, u64>,
    logged_out: bool,
    count: u64,
}

/// Keeps writes in flight until the target ends the channel; `loaded` is called once, when it runs
/// at full load. Each place has one write in flight at most, so its order is known.
fn write_to_the_end(socket: &Path, number: u16, loaded: impl FnOnce()) -> Writes {
    let mut initiator = Initiator::login(socket, u64::from(number) + 1, 1);
    initiator.scsi().test_unit_ready(lun(number)).unwrap();
    let Session { channels, memory } = &mut initiator.session;
    let channel = &mut channels[0];
    let mut writes = Writes::default();
    let mut loaded = Some(loaded);
    let mut idle: Vec<usize> = (0..DEPTH).collect();
    let mut at_slot: Vec<(u64, u64)> = vec![(0, 0); DEPTH];
    let mut data = vec![0; IO_BYTES];
    let mut next = 0;
    loop {
        while let Some(slot) = idle.pop() {
            next += 1;
            let place = next % PLACES;
            for (block, bytes) in data.chunks_exact_mut(BLOCK_BYTES).enumerate() {
                Stamps::fill(bytes, place * IO_BLOCKS + block as u64, next);
            }
            memory.write_at(slot * IO_BYTES, &data);
            let segs = [memory.seg(slot * IO_BYTES, IO_BYTES as u32)];
            let cdb = cdb::write16(place * IO_BLOCKS, IO_BLOCKS as u32, false);
            let command = Command::new(lun(number), &cdb, Data::Out(&segs), slot as u64);
            // Whether it was sent or not: a write that nobody saw complete may be there or not.
            writes.in_flight.insert(place, next);
            at_slot[slot] = (place, next);
            if channel.submit(&command).is_err() {
                break;
            }
        }
        // A target that has gone shows in the poll.
        let _ = channel.flush();
        let polled = channel.poll(|event| match event {
            Event::Done(completion) => {
                let slot = completion.user as usize;
                idle.push(slot);
                // A stopping target answers what it no longer begins with another status.
                if completion.status == 0 {
                    let (place, generation) = at_slot[slot];
                    writes.completed.insert(place, generation);
                    writes.in_flight.remove(&place);
                    writes.count += 1;
                }
            }
            Event::Logout { .. } => writes.logged_out = true,
            other => panic!("{other:?}"),
        });
        if writes.count > 20 * PLACES
            && let Some(loaded) = loaded.take()
        {
            loaded();
        }
        if polled.is_err() {
            return writes;
        }
    }
}

/// Every block of the file is the last completed write, or the one that was in flight.
fn check(file: &Path, writes: &Writes) {
    let file = std::fs::File::open(file).unwrap();
    let mut block = [0; BLOCK_BYTES];
    for place in 0..PLACES {
        let completed = writes.completed.get(&place).copied().unwrap_or(0);
        for lba in place * IO_BLOCKS..(place + 1) * IO_BLOCKS {
            file.read_exact_at(&mut block, lba * BLOCK_BYTES as u64).unwrap();
            let found = Stamps::generation(&block, lba);
            assert!(
                found == Some(completed)
                    || found.is_some() && found == writes.in_flight.get(&place).copied(),
                "block {lba}: generation {found:?}, but {completed} had completed"
            );
        }
    }
}

fn stops_in_order(options: &Options, stop: impl FnOnce(&Target)) {
    let mut target = Target::start_with(options);
    let files = [target.file_bdev("File0", 4), target.file_bdev("File1", 4)];
    target.export(&["File0", "File1"]);
    let socket = target.srp_socket();
    let other = {
        let socket = socket.clone();
        std::thread::spawn(move || write_to_the_end(&socket, 1, || ()))
    };
    let mut asked = None;
    let writes = write_to_the_end(&socket, 0, || {
        asked = Some(Instant::now());
        stop(&target);
    });
    target.process.succeed(STOP_WAIT_MAX);
    let took = asked.expect("full load was reached").elapsed();
    assert!(took < STOP_WAIT_MAX, "stopped after {took:?}");
    let writes = [writes, other.join().unwrap()];
    for (file, writes) in files.iter().zip(&writes) {
        assert!(writes.logged_out, "the target went without a word");
        check(file, writes);
    }
    let dir = target.into_dir();
    let left: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| ![".img", ".out", ".err"].iter().any(|end| name.ends_with(end)))
        .collect();
    assert_eq!(left, [""; 0], "the target left something behind");
}

#[test]
fn sigterm_at_full_load_loses_no_completed_write() {
    let options = Options { idle: "poll", ..Options::default() };
    stops_in_order(&options, |target| target.process.signal(Signal::TERM));
}

#[test]
fn sigint_stops_in_order() {
    stops_in_order(&Options::default(), |target| target.process.signal(Signal::INT));
}

#[test]
fn an_rpc_stops_in_order() {
    stops_in_order(&Options::default(), |target| {
        target.rpc("spdk_kill_instance", json!({ "sig_name": "SIGTERM" }));
    });
}

#[test]
fn a_target_without_work_stops_as_well() {
    for idle in ["poll", "adaptive"] {
        let mut target = Target::start_with(&Options { idle, ..Options::default() });
        target.process.signal(Signal::TERM);
        target.process.succeed(STOP_WAIT_MAX);
    }
}
