//! Answers byte by byte, and what any bytes do.

use proptest::prelude::*;

use super::*;

const HARDWARE: Hardware = Hardware { vendor_id: 0x2c9, device_id: 0x1017, version: 0x00a1 };

fn unit() -> Unit {
    let controller = |guid| Controller {
        guid,
        service_id: 0x0000_0000_013f_1388,
        queue_depth: 128,
        send_bytes_max: 8276,
        rdma_bytes_max: 65536,
    };
    let mut unit = Unit::default();
    unit.show(vec![controller(0x0002_c903_00a1_b2c3), controller(0x0002_c903_00a1_b2c4)]);
    unit
}

fn request(method: u8, attribute: u16, modifier: u32) -> [u8; DATAGRAM_BYTES] {
    let mut bytes = [0; DATAGRAM_BYTES];
    bytes[..4].copy_from_slice(&[1, CLASS, CLASS_VERSION, method]);
    bytes[8..16].copy_from_slice(b"transact");
    bytes[16..18].copy_from_slice(&attribute.to_be_bytes());
    bytes[20..24].copy_from_slice(&modifier.to_be_bytes());
    // What a requester leaves in the rest must not come back.
    bytes[24..].fill(0xee);
    bytes
}

/// The attribute's bytes of a good answer.
fn data(attribute: u16, modifier: u32) -> Vec<u8> {
    let answer = unit().answer(&HARDWARE, &request(GET, attribute, modifier)).unwrap();
    let mut head = [0; DATA];
    head[..4].copy_from_slice(&[1, 0x06, 1, 0x81]);
    head[8..16].copy_from_slice(b"transact");
    head[16..18].copy_from_slice(&attribute.to_be_bytes());
    head[20..24].copy_from_slice(&modifier.to_be_bytes());
    assert_eq!(answer[..DATA], head, "attribute {attribute:#x} of {modifier:#x}");
    answer[DATA..].to_vec()
}

fn status(method: u8, attribute: u16, modifier: u32) -> u16 {
    let answer = unit().answer(&HARDWARE, &request(method, attribute, modifier)).unwrap();
    assert_eq!(answer[3], 0x81);
    u16::from_be_bytes([answer[4], answer[5]])
}

/// 192 bytes, zeros but for what is given.
fn bytes(fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 192];
    for (at, field) in fields {
        bytes[*at..at + field.len()].copy_from_slice(field);
    }
    bytes
}

#[test]
fn class_port_info() {
    assert_eq!(data(0x0001, 0), bytes(&[(0, &[1, 1]), (4, &[0, 0, 0, 20])]));
}

#[test]
fn unit_info_shows_two_of_sixteen_slots() {
    let slots: &[u8] = &[0x11, 0, 0, 0, 0, 0, 0, 0];
    let wanted = bytes(&[(0, &[0, 1, 16, 0]), (4, slots), (12, &[0xff; 120])]);
    assert_eq!(data(0x0010, 0), wanted);
}

#[test]
fn a_change_moves_the_change_counter_and_no_change_does_not() {
    let mut unit = unit();
    let before = unit.clone();
    unit.show(before.controllers.clone());
    assert_eq!(unit, before);
    unit.show(vec![before.controllers[0].clone(); 17]);
    assert_eq!((unit.change_id, unit.controllers.len()), (2, 16));
}

#[test]
fn profile_of_the_second_slot() {
    let wanted = bytes(&[
        (0, &[0, 2, 0xc9, 3, 0, 0xa1, 0xb2, 0xc4]),
        (8, &[0, 0, 0x02, 0xc9]),
        (12, &[0, 0, 0x10, 0x17]),
        (16, &[0, 0xa1]),
        (20, &[0, 0, 0x02, 0xc9]),
        (28, &[0x01, 0x00]),
        (30, &[0x60, 0x9e]),
        (32, &[0x01, 0x08]),
        (34, &[0, 1]),
        (40, &[0, 128]),
        (43, &[4]),
        (44, &[0, 0, 0x20, 0x54]),
        (48, &[0, 1, 0, 0]),
        (52, &[0x2b, 0, 1]),
        (64, b"srpt_tgt SRP target"),
    ]);
    assert_eq!(data(0x0011, 2), wanted);
}

#[test]
fn service_entries_name_guid_and_service() {
    let name = b"SRP.T10:0002c90300a1b2c3";
    let wanted = bytes(&[(0, name), (40, &[0, 0, 0, 0, 0x01, 0x3f, 0x13, 0x88])]);
    assert_eq!(data(0x0012, 0x0001_0000), wanted);
    assert_eq!(data(0x0012, 0x0001_0100), wanted, "one more than there are is allowed");
    assert_eq!(data(0x0012, 0x0001_0101), bytes(&[]));
}

#[test]
fn what_is_not_there_has_a_status() {
    for (method, attribute, modifier, wanted) in [
        (GET, 0x0011, 0, 0x001c),
        (GET, 0x0011, 17, 0x001c),
        (GET, 0x0011, 16, 0x0100),
        (GET, 0x0011, 3, 0x0100),
        (GET, 0x0012, 0x0000_0000, 0x001c),
        (GET, 0x0012, 0x0011_0000, 0x001c),
        (GET, 0x0012, 0x0003_0000, 0x0100),
        (GET, 0x0012, 0x0001_0001, 0x0100),
        (GET, 0x0012, 0x0001_0200, 0x0100),
        (GET, 0x0013, 0, 0x000c),
        (SET, 0x0001, 0, 0x000c),
        (SET, 0x0010, 0, 0x000c),
        (0x03, 0x0001, 0, 0x0008),
    ] {
        let found = status(method, attribute, modifier);
        assert_eq!(found, wanted, "{method:#x} {attribute:#x} {modifier:#x}");
    }
}

#[test]
fn other_versions_are_refused_and_other_classes_left_alone() {
    let mut bytes = request(GET, 0x0001, 0);
    bytes[2] = 2;
    assert_eq!(unit().answer(&HARDWARE, &bytes).unwrap()[4..6], [0, 4]);
    bytes[1] = 0x03;
    assert_eq!(unit().answer(&HARDWARE, &bytes), None);
    assert_eq!(unit().answer(&HARDWARE, &request(0x81, 0x0001, 0)), None, "an answer");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(head in prop::collection::vec(any::<u8>(), 24)) {
        let mut bytes = [0; DATAGRAM_BYTES];
        bytes[..24].copy_from_slice(&head);
        bytes[1] = CLASS;
        for method in [head[3], GET] {
            bytes[3] = method;
            if let Some(answer) = unit().answer(&HARDWARE, &bytes) {
                prop_assert_eq!(&answer[8..24], &bytes[8..24]);
            }
        }
    }
}
