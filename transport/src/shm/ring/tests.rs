use proptest::prelude::*;

use super::super::sys::sealed_file;
use super::*;

fn pair(credits: u32, to_target: u32, to_initiator: u32) -> (Ends, Ends) {
    let geometry = Geometry::for_credits(credits, to_target, to_initiator).unwrap();
    let file = sealed_file("ring-test", geometry.bytes()).unwrap();
    let map = || Mapping::of_sealed(&file, u64::MAX).unwrap();
    (Ends::of_target(&geometry, map()), Ends::of_initiator(&geometry, map()))
}

fn unit(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(31) ^ salt.wrapping_mul(197)) as u8).collect()
}

fn receive(consumer: &mut Consumer) -> Option<Vec<u8>> {
    match consumer.peek() {
        Arrival::Nothing => None,
        Arrival::Unit(len) => {
            let mut bytes = vec![0; len as usize];
            consumer.take(&mut bytes);
            Some(bytes)
        }
        Arrival::Bad(len) => panic!("bad length {len}"),
    }
}

#[test]
fn units_of_every_size_cross_in_both_directions() {
    let (mut target, mut initiator) = pair(4, 8276, 500);
    for len in 1..=8276 {
        initiator.producer.publish(&unit(len, len));
        assert_eq!(receive(&mut target.consumer), Some(unit(len, len)), "{len} bytes");
        let back = len.min(500);
        target.producer.publish(&unit(back, len + 1));
        assert_eq!(receive(&mut initiator.consumer), Some(unit(back, len + 1)));
    }
    assert_eq!(receive(&mut target.consumer), None);
    assert_eq!(receive(&mut initiator.consumer), None);
}

#[test]
fn a_full_ring_keeps_its_units_apart_over_many_laps() {
    let (mut target, mut initiator) = pair(4, 1000, 1000);
    let slots = 16;
    for lap in 0..100 {
        for slot in 0..slots {
            let len = 1 + (lap * 37 + slot * 119) % 1000;
            initiator.producer.publish(&unit(len, lap * slots + slot));
            target.producer.publish(&unit(1001 - len, slot));
        }
        for slot in 0..slots {
            let len = 1 + (lap * 37 + slot * 119) % 1000;
            assert_eq!(receive(&mut target.consumer), Some(unit(len, lap * slots + slot)));
            assert_eq!(receive(&mut initiator.consumer), Some(unit(1001 - len, slot)));
        }
        assert_eq!(target.consumer.peek(), Arrival::Nothing);
    }
}

#[test]
fn laps_go_on_when_their_number_wraps() {
    let (mut target, mut initiator) = pair(1, 100, 100);
    target.consumer.0.lap = u32::MAX;
    initiator.producer.0.lap = u32::MAX;
    for salt in 0..100 {
        initiator.producer.publish(&unit(100, salt));
        assert_eq!(receive(&mut target.consumer), Some(unit(100, salt)));
        assert_eq!(target.consumer.peek(), Arrival::Nothing, "unit {salt} is seen once");
    }
    assert!(target.consumer.0.lap < 10);
}

#[test]
fn small_units_alone_need_no_overflow_area() {
    let both = Geometry::for_credits(28, 120, 120).unwrap();
    assert_eq!((both.slots(), both.bytes()), (64, 4096 + 2 * 64 * 128));
    let one = Geometry::for_credits(28, 120, 121).unwrap();
    assert_eq!(one.bytes(), both.bytes() + 64 * 192);
}

#[test]
fn impossible_sizes_are_refused() {
    assert_eq!(Geometry::for_credits(u32::MAX, 100, 100), None);
    assert_eq!(Geometry::for_credits(CREDITS_MAX + 1, 100, 100), None);
    assert!(Geometry::for_credits(CREDITS_MAX, 100, 100).is_some());
    for (slots, to_target, to_initiator) in
        [(0, 64, 64), (48, 64, 64), (64, 0, 64), (64, 64, 0), (64, IU_BYTES_MAX + 1, 64)]
    {
        assert_eq!(Geometry::checked(slots, to_target, to_initiator), None);
    }
}

#[test]
#[should_panic(expected = "ring file too small")]
fn a_file_smaller_than_the_geometry_is_refused() {
    let geometry = Geometry::for_credits(60, 8276, 8276).unwrap();
    let file = sealed_file("ring-test", 4096).unwrap();
    Ends::of_target(&geometry, Mapping::of_sealed(&file, u64::MAX).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    })]

    /// Whatever a header says, the consumer answers with a length inside its limits or with Bad.
    #[test]
    fn any_header_is_survived(header: u64, len in 0u32..2000, lap in 0u32..3, limit in 1u32..1500) {
        for header in [header, u64::from(lap) << 32 | u64::from(len)] {
            let (mut target, initiator) = pair(2, limit, 64);
            let at = initiator.producer.0.header_at();
            initiator.producer.0.ring.word(at).store(header, Ordering::Release);
            match target.consumer.peek() {
                Arrival::Nothing => prop_assert_ne!((header >> 32) as u32, 1),
                Arrival::Bad(len) => prop_assert!(len == 0 || len > limit),
                Arrival::Unit(len) => {
                    prop_assert!(len >= 1 && len <= limit);
                    target.consumer.take(&mut vec![0; len as usize]);
                }
            }
        }
    }
}
