//! Models of the rings in shared memory and of the bell that wakes a sleeping target.

use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::atomic::{Side, side};
use crate::queues::RingBuffer;
use crate::shm::nap::Nap;
use crate::shm::ready::Ready;
use crate::shm::ring::{Arrival, Consumer, Ends, Geometry, before_last_look};
use crate::shm::sys::Mapping;
use crate::sleep::Bell;

/// Both ends of rings of two slots, so that the third unit begins a lap.
fn ends() -> (Ends, Ends) {
    let geometry = Geometry::checked(2, 136, 8).expect("sizes that can be");
    let mapping = Mapping::new(geometry.bytes());
    (Ends::of_target(&geometry, mapping.clone()), Ends::of_initiator(&geometry, mapping))
}

/// A unit of `len` bytes that says its number in every word.
fn unit(number: u64, len: usize) -> Vec<u8> {
    (0..len / 8).flat_map(|word| (number << 8 | word as u64).to_ne_bytes()).collect()
}

fn take(consumer: &mut Consumer) -> Option<Vec<u8>> {
    match consumer.peek() {
        Arrival::Nothing => None,
        Arrival::Unit(len) => {
            let mut bytes = vec![0; len as usize];
            consumer.take(&mut bytes);
            Some(bytes)
        }
        Arrival::Bad(len) => panic!("a unit of {len} bytes"),
    }
}

fn wait(consumer: &mut Consumer) -> Vec<u8> {
    loop {
        match take(consumer) {
            Some(unit) => return unit,
            None => thread::yield_now(),
        }
    }
}

/// Units inside their slots and beyond, each answered before the next one takes its slot again.
/// Without Release or Acquire at the header, a unit is read before it is there.
pub(crate) fn conversation() {
    const LENS: [usize; 3] = [8, 136, 16];
    let (mut target, mut initiator) = ends();
    let serving = thread::spawn(move || {
        for (number, len) in (1..).zip(LENS) {
            assert_eq!(wait(&mut target.consumer), unit(number, len));
            target.producer.publish(&unit(number, 8));
        }
    });
    for (number, len) in (1..).zip(LENS) {
        initiator.producer.publish(&unit(number, len));
        assert_eq!(wait(&mut initiator.consumer), unit(number, 8));
    }
    serving.join().expect("a target in peace");
}

/// What the initiator tells the control thread through the bell and the socket.
struct Line {
    bell: Bell,
    ended: Mutex<bool>,
}

/// One unit for a target that falls asleep as soon as it finds nothing. As in the fabric's `arm`,
/// the link's `flush` and the door's `wake`. Without a fence of initiator or core it is left lying
/// there.
pub(crate) fn a_unit_for_a_sleeper() {
    let (target, mut initiator) = ends();
    let line = Arc::new(Line { bell: Bell::new(), ended: Mutex::new(false) });
    let (nap, wake) = (Arc::new(Nap::new()), Arc::new(Bell::new()));
    let control = thread::spawn({
        let (line, nap, wake) = (Arc::clone(&line), Arc::clone(&nap), Arc::clone(&wake));
        move || {
            side(Side::Control);
            loop {
                line.bell.hear();
                if *line.ended.lock().unwrap() {
                    return;
                }
                if nap.must_wake() {
                    wake.ring();
                }
            }
        }
    });
    let core = thread::spawn(move || core(target, &nap, &wake));
    side(Side::Initiator);
    initiator.producer.publish(&unit(1, 8));
    if initiator.sleep.wants_bell() {
        line.bell.ring();
    }
    core.join().expect("a core in peace");
    *line.ended.lock().unwrap() = true;
    line.bell.ring();
    control.join().expect("a control thread in peace");
}

/// Polls and sleeps until a unit is there.
fn core(mut target: Ends, nap: &Nap, wake: &Bell) {
    side(Side::Core);
    loop {
        if let Some(bytes) = take(&mut target.consumer) {
            return assert_eq!(bytes, unit(1, 8));
        }
        nap.set(true);
        target.sleep.set(true);
        before_last_look();
        if target.consumer.peek() == Arrival::Nothing {
            wake.hear();
        }
        nap.set(false);
        target.sleep.set(false);
    }
}

/// A quiet connection sends one unit, while the bell of another one, which sends nothing, is heard.
/// As in the fabric's `settle_if_silent`, `on_bells` and `arm`, the link's `flush` and the door's
/// `ring`. Without a fence, and without Release or Acquire at the bits, the unit is left lying
/// there.
pub(crate) fn a_unit_of_a_quiet_connection() {
    const OURS: u32 = 0;
    const OTHER: u32 = 1;
    let (target, mut initiator) = ends();
    let line = Arc::new(Line { bell: Bell::new(), ended: Mutex::new(false) });
    let core_side = (Arc::new(Ready::new(2)), Arc::new(Nap::new()), Arc::new(Bell::new()));
    let control = thread::spawn({
        let (line, (ready, nap, wake)) = (Arc::clone(&line), core_side.clone());
        move || {
            side(Side::Control);
            let heard = |place| {
                ready.set(place);
                if nap.must_wake() {
                    wake.ring();
                }
            };
            heard(OTHER);
            loop {
                line.bell.hear();
                if *line.ended.lock().unwrap() {
                    return;
                }
                heard(OURS);
            }
        }
    });
    let core = thread::spawn(move || {
        side(Side::Core);
        let (ready, nap, wake) = core_side;
        target.sleep.set(true);
        before_last_look();
        let mut news = target.consumer.peek() != Arrival::Nothing;
        while !news {
            if ready.any() {
                ready.take(|place| {
                    news |= place == OURS && target.consumer.peek() != Arrival::Nothing;
                });
                continue;
            }
            nap.set(true);
            before_last_look();
            if !ready.any() {
                wake.hear();
            }
            nap.set(false);
        }
    });
    side(Side::Initiator);
    initiator.producer.publish(&unit(1, 8));
    if initiator.sleep.wants_bell() {
        line.bell.ring();
    }
    core.join().expect("a core in peace");
    *line.ended.lock().unwrap() = true;
    line.bell.ring();
    control.join().expect("a control thread in peace");
}

/// The control thread hands over a peer to a core that falls asleep as soon as it finds nothing.
/// As in the door's `send` and the fabric's `arm`. Without either of the two fences nobody sees
/// the other.
pub(crate) fn a_message_for_a_sleeper() {
    let (mut messages, mut heard) = RingBuffer::new(1);
    let (nap, wake) = (Arc::new(Nap::new()), Arc::new(Bell::new()));
    let core = thread::spawn({
        let (nap, wake) = (Arc::clone(&nap), Arc::clone(&wake));
        move || {
            side(Side::Core);
            while heard.pop() != Ok("a peer") {
                nap.set(true);
                before_last_look();
                if heard.is_empty() {
                    wake.hear();
                }
                nap.set(false);
            }
        }
    });
    side(Side::Control);
    assert!(messages.push("a peer").is_ok());
    if nap.must_wake() {
        wake.ring();
    }
    core.join().expect("a core in peace");
}
