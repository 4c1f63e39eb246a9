//! REPORT LUNS (SPC-4 6.33) and the 8-byte form of a LUN (SAM-5 4.7).

/// Which logical units REPORT LUNS asks for (SPC-4 table 285).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LunSelect {
    /// 00h: those with a plain LUN.
    Addressable,
    /// 01h: well known logical units; there are none.
    WellKnown,
    /// 02h: all.
    All,
}

impl LunSelect {
    /// From the SELECT REPORT field; `None` for codes that are not served.
    pub(super) fn from_code(code: u8) -> Option<LunSelect> {
        match code {
            0x00 => Some(LunSelect::Addressable),
            0x01 => Some(LunSelect::WellKnown),
            0x02 => Some(LunSelect::All),
            _ => None,
        }
    }
}

/// Writes the parameter data for `luns` (ascending, each at most 16383) to the front of `out`, cut
/// off at its end; LUN LIST LENGTH counts all of them (SPC-4 6.33). Returns the bytes written.
/// Costs as many steps as LUNs have room.
pub fn report_luns(
    select: LunSelect,
    luns: impl ExactSizeIterator<Item = u16>,
    out: &mut [u8],
) -> usize {
    let count = if select == LunSelect::WellKnown { 0 } else { luns.len() };
    let list_bytes = u32::try_from(8 * count).expect("16384 LUNs at most");
    let (header, list) = out.split_at_mut(out.len().min(8));
    put(header, 0, &list_bytes.to_be_bytes());
    put(header, 4, &[0; 4]);
    for (place, lun) in list.chunks_mut(8).zip(luns.take(count)) {
        put(place, 0, &lun_bytes(lun));
    }
    out.len().min(8 + 8 * count)
}

/// Copies as much of `bytes` to `out[at..]` as has room.
fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(room) = out.get_mut(at..) {
        let length = room.len().min(bytes.len());
        room[..length].copy_from_slice(&bytes[..length]);
    }
}

/// The 8-byte form of a LUN: peripheral device addressing to 255, flat space addressing above
/// (SAM-5 4.7.7.1, 4.7.7.2).
pub fn lun_bytes(lun: u16) -> [u8; 8] {
    assert!(lun <= 16383);
    let [high, low] = lun.to_be_bytes();
    let method = if lun <= 255 { 0x00 } else { 0x40 };
    [method | high, low, 0, 0, 0, 0, 0, 0]
}

/// The LUN that an 8-byte form names, in peripheral (bus 0) or flat space addressing at level one;
/// `None` for every other form.
#[inline]
pub fn lun_of(bytes: [u8; 8]) -> Option<u16> {
    let form = u64::from_be_bytes(bytes);
    if form & 0x0000_ffff_ffff_ffff != 0 {
        return None;
    }
    let first = (form >> 48) as u16;
    match first >> 14 {
        0 if first <= 255 => Some(first),
        1 => Some(first & 0x3fff),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut out = [0xff; 40];
        assert_eq!(report_luns(LunSelect::All, [0, 255, 256].into_iter(), &mut out), 32);
        assert_eq!(out[..8], [0, 0, 0, 24, 0, 0, 0, 0]);
        assert_eq!(out[8..16], [0; 8]);
        assert_eq!(out[16..24], [0, 255, 0, 0, 0, 0, 0, 0]);
        assert_eq!(out[24..32], [0x41, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(out[32..], [0xff; 8]);
        assert_eq!(report_luns(LunSelect::WellKnown, [0].into_iter(), &mut out), 8);
        assert_eq!(out[..8], [0; 8]);
    }

    #[test]
    fn short_buffers_keep_the_full_length() {
        for room in 0..24 {
            let mut out = vec![0xff; room];
            assert_eq!(report_luns(LunSelect::Addressable, [1, 2].into_iter(), &mut out), room);
            if room >= 4 {
                assert_eq!(out[..4], [0, 0, 0, 16]);
            }
        }
    }

    #[test]
    fn what_has_no_room_is_not_looked_at() {
        let mut seen = 0;
        let luns = (0..16384u16).inspect(|_| seen += 1);
        let mut out = [0xff; 8 + 8 + 3];
        assert_eq!(report_luns(LunSelect::All, luns, &mut out), 19);
        assert_eq!(out[..4], [0, 2, 0, 0]);
        assert_eq!(out[16..], [0, 1, 0]);
        assert!(seen <= 3, "{seen} LUNs");
    }

    #[test]
    fn every_lun_survives_its_form() {
        for lun in 0..=16383 {
            assert_eq!(lun_of(lun_bytes(lun)), Some(lun));
        }
        assert_eq!(lun_of([0x40, 5, 0, 0, 0, 0, 0, 0]), Some(5));
        for form in
            [[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [0xc1, 1, 0, 0, 0, 0, 0, 0]]
        {
            assert_eq!(lun_of(form), None);
        }
    }
}
