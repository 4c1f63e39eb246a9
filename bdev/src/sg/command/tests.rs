use super::*;

#[test]
fn every_form_of_a_transfer_is_read_and_made() {
    for (cdb, lba, blocks) in [
        (&[0x08, 0x1f, 2, 3, 0, 0][..], 0x1f_0203, 256),
        (&[0x0a, 0, 0, 3, 9, 0], 3, 9),
        (&[0x28, 0x10, 1, 2, 3, 4, 0, 5, 6, 0], 0x0102_0304, 0x0506),
        (&[0x2e, 0, 0, 0, 0, 4, 0, 0, 6, 0], 4, 6),
        (&[0xa8, 0, 1, 2, 3, 4, 0, 0, 5, 6, 0, 0], 0x0102_0304, 0x0506),
        (&[0x8a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 9, 1, 0, 0], 0x0102_0304_0506_0708, 0x0901),
    ] {
        let transfer = Transfer::of(cdb).unwrap();
        assert_eq!((transfer.lba, transfer.blocks), (lba, blocks));
        let (made, len) = transfer.part(0, blocks as u32);
        let flags = made[1] & if cdb.len() == 6 { 0xe0 } else { 0xff };
        assert_eq!((usize::from(len), made[0]), (cdb.len(), cdb[0]));
        assert_eq!(flags, cdb[1] & if cdb.len() == 6 { 0xe0 } else { 0xff });
        assert_eq!(Transfer::of(&made[..usize::from(len)]).unwrap().lba, lba);
        assert_eq!(Transfer::of(&made[..usize::from(len)]).unwrap().blocks, blocks);
    }
    for cdb in [&[0x12, 0, 0, 0, 36, 0][..], &[0x28, 0, 0], &[]] {
        assert_eq!(Transfer::of(cdb), None);
    }
    // Beyond the short form's addresses the wide one says so.
    let last = Transfer::of(&[0x2a, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 4, 0]).unwrap();
    let (made, len) = last.part(2, 2);
    assert_eq!((len, made[0], &made[2..10]), (16, 0x8a, &[0, 0, 0, 1, 0, 0, 0, 1][..]));
}

#[test]
fn the_medium_is_learnt_from_what_passes() {
    let long = |last: u64| {
        let mut data = last.to_be_bytes().to_vec();
        data.extend([0, 0, 0x10, 0]);
        data
    };
    let capacity = |block_bytes, blocks| Some(Learned::Capacity { block_bytes, blocks });
    let read_16 = [0x9e, 0x10];
    assert_eq!(learn(&[0x25], &[0, 0, 0, 9, 0, 0, 2, 0], false), capacity(512, 10));
    assert_eq!(learn(&[0x25], &[255, 255, 255, 255, 0, 0, 2, 0], false), None);
    assert_eq!(learn(&read_16, &long(1 << 33), false), capacity(4096, (1 << 33) + 1));
    assert_eq!(learn(&read_16, &long(u64::MAX), false), None);
    let mode_6 = [11, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 2, 0];
    assert_eq!(learn(&[0x1a], &mode_6, true), Some(Learned::BlockLength(512)));
    assert_eq!(learn(&[0x1a], &mode_6, false), None);
    let mode_10 = [0, 14, 0, 0x10, 0, 0, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0];
    assert_eq!(learn(&[0x55], &mode_10, true), Some(Learned::BlockLength(65536)));
    for len in 0..8 {
        assert_eq!(learn(&[0x25], &mode_6[..len], false), None);
        assert_eq!(learn(&[0x5a], &mode_10[..len], true), None);
    }
}

#[test]
fn what_winds_or_erases_gets_hours() {
    for code in [0x01, 0x11, 0x19, 0x1b, 0x2b, 0x92, 0xa5] {
        assert_eq!(timeout_ms(&[code], false, 900_000), 14_000_000, "{code:02x}");
    }
    assert_eq!(timeout_ms(&[0x08], false, 900_000), 900_000);
    assert_eq!(timeout_ms(&[0x1b], true, 60_000), 60_000);
    assert_eq!(timeout_ms(&[0x04], true, 60_000), 14_000_000);
    assert_eq!(timeout_ms(&[0x04], true, 80_000_000), 80_000_000);
}
