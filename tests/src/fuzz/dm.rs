//! Device management datagrams.

use transport::dm::{CONTROLLERS_MAX, Controller, DATAGRAM_BYTES, Hardware, Unit};

use super::Input;

/// How many controllers there are, then a datagram.
pub(super) fn datagram(input: &[u8]) {
    let mut input = Input::new(input);
    let controllers = input.below(CONTROLLERS_MAX + 2) as u64;
    let request: [u8; DATAGRAM_BYTES] = input.array();
    let mut unit = Unit::default();
    unit.show((0..controllers).map(controller).collect());
    let hardware = Hardware { vendor_id: 0x2c9, device_id: 0x1017, version: 1 };
    let Some(answer) = unit.answer(&hardware, &request) else { return };
    assert_eq!((answer[0], answer[1], answer[3]), (request[0], request[1], 0x81));
    assert_eq!(answer[8..16], request[8..16], "the transaction");
    assert_eq!(answer[16..24], request[16..24], "attribute and modifier");
    if answer[4..6] != [0, 0] {
        assert_eq!(answer[64..], [0; DATAGRAM_BYTES - 64], "data with an error");
    }
    assert_eq!(unit.answer(&hardware, &answer), None, "an answer is answered");
}

fn controller(number: u64) -> Controller {
    Controller {
        guid: 0x0002_c903_0000_0000 + number,
        service_id: number << 56,
        queue_depth: 128,
        send_bytes_max: 8276,
        rdma_bytes_max: 1 << 20,
    }
}
