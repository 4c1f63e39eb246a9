//! Who a logical unit says it is.

/// T10 vendor identification when none is configured.
pub const VENDOR_DEFAULT: &[u8; 8] = b"SRPT_TGT";
/// Product revision level: the series of this program.
const REVISION: &[u8; 4] = b"0.1 ";
/// Most bytes of a serial number.
const SERIAL_BYTES_MAX: usize = 36;
/// NAA 6h, IEEE Registered Extended, in the top half byte (SPC-4 7.8.6.6.5), and behind it the IEEE
/// company ID 52-50-54h.
///
/// Form 6h is the one that all tools take for the name of the disk: udev's `scsi_id`, the rules of
/// sg3-utils, the kernel's `wwid`, and multipath all rank it before the other names that we show.
/// Form 3h, locally assigned, needs no company ID, but the rules of sg3-utils rank it behind the
/// T10 vendor ID and `scsi_id` before it, so a disk had two names.
///
/// Nobody has assigned a company ID to this project. The one here has the bit of locally
/// administered identifiers (bit 1 of the first byte), as the addresses of virtual machines do: the
/// IEEE gives no such ID to a maker of devices, so no device of theirs has one of these names.
const NAA_REGISTERED_EXTENDED: u128 = 0x652_5054 << 100;

/// Who a logical unit says it is (SPC-4 INQUIRY and VPD). Stable across restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// T10 vendor identification, 8 bytes of ASCII, padded with spaces.
    pub vendor: [u8; 8],
    /// Product identification, 16 bytes of ASCII, padded with spaces.
    pub product: [u8; 16],
    /// Product revision level, 4 bytes of ASCII.
    pub revision: [u8; 4],
    /// Unit serial number, 1 to 36 bytes of printable ASCII.
    pub serial: String,
    /// NAA designator: IEEE Registered Extended (6h), of a company ID that is locally administered.
    pub naa: [u8; 16],
    /// UUID of the device, as a designator of its own.
    pub uuid: [u8; 16],
}

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be 1 to {bytes_max} bytes of printable ASCII")]
pub struct IdentityError {
    /// Which name.
    pub field: &'static str,
    /// Most bytes it may have.
    pub bytes_max: usize,
}

impl Identity {
    /// The identity that follows from the device: vendor `SRPT_TGT`, `product` made to fit (other
    /// characters become `_`), serial number the UUID in 32 hex digits, and in the NAA designator
    /// the UUID folded to 100 bits.
    pub fn new(product: &str, uuid: [u8; 16]) -> Identity {
        let mut padded = [b' '; 16];
        for (to, from) in padded.iter_mut().zip(product.bytes()) {
            *to = if is_printable(from) { from } else { b'_' };
        }
        let number = u128::from_be_bytes(uuid);
        // Some tools show the first 64 bits of the designator alone, of which 36 are ours: each bit
        // of the UUID counts there.
        let upper = number ^ (number >> 36) ^ (number >> 72) ^ (number >> 108);
        let lower = (number >> 64) as u64 ^ (number as u64).rotate_left(17);
        let folded = (upper & ((1 << 36) - 1)) << 64 | u128::from(lower);
        Identity {
            vendor: *VENDOR_DEFAULT,
            product: padded,
            revision: *REVISION,
            serial: format!("{number:032x}"),
            naa: (NAA_REGISTERED_EXTENDED | folded).to_be_bytes(),
            uuid,
        }
    }

    /// Replaces the vendor: 1 to 8 bytes of printable ASCII.
    pub fn with_vendor(mut self, vendor: &str) -> Result<Identity, IdentityError> {
        self.vendor = padded("vendor", vendor)?;
        Ok(self)
    }

    /// Replaces the product: 1 to 16 bytes of printable ASCII.
    pub fn with_product(mut self, product: &str) -> Result<Identity, IdentityError> {
        self.product = padded("product", product)?;
        Ok(self)
    }

    /// Replaces the serial number: 1 to 36 bytes of printable ASCII.
    pub fn with_serial(mut self, serial: &str) -> Result<Identity, IdentityError> {
        check("serial", serial, SERIAL_BYTES_MAX)?;
        self.serial = serial.to_owned();
        Ok(self)
    }
}

fn is_printable(byte: u8) -> bool {
    (0x20..=0x7e).contains(&byte)
}

fn check(field: &'static str, value: &str, bytes_max: usize) -> Result<(), IdentityError> {
    let fits = !value.is_empty() && value.len() <= bytes_max && value.bytes().all(is_printable);
    if fits { Ok(()) } else { Err(IdentityError { field, bytes_max }) }
}

fn padded<const N: usize>(field: &'static str, value: &str) -> Result<[u8; N], IdentityError> {
    check(field, value, N)?;
    let mut bytes = [b' '; N];
    bytes[..value.len()].copy_from_slice(value.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_from_the_uuid() {
        let identity = Identity::new("Malloc disk", *b"0123456789abcdef");
        assert_eq!(&identity.vendor, b"SRPT_TGT");
        assert_eq!(&identity.product, b"Malloc disk     ");
        assert_eq!(identity.serial, "30313233343536373839616263646566");
        assert_eq!((&identity.naa[..3], identity.naa[3] >> 4), (&[0x65, 0x25, 0x05][..], 4));
        for bit in 0..128 {
            let other = u128::from_be_bytes(*b"0123456789abcdef") ^ (1 << bit);
            let other = Identity::new("Malloc disk", other.to_be_bytes());
            assert_ne!(identity.naa[..8], other.naa[..8], "bit {bit}");
            assert_ne!(identity.naa[8..], other.naa[8..], "bit {bit}");
        }
        assert_eq!(
            &Identity::new("a\u{e9}b and much more text", [0; 16]).product,
            b"a__b and much mo"
        );
    }

    #[test]
    fn overrides_are_checked_at_their_bounds() {
        let new = || Identity::new("x", [0; 16]);
        assert_eq!(&new().with_vendor("12345678").unwrap().vendor, b"12345678");
        assert_eq!(&new().with_product("p").unwrap().product, b"p               ");
        assert_eq!(new().with_serial(&"s".repeat(36)).unwrap().serial.len(), 36);
        assert!(new().with_vendor("123456789").is_err());
        assert!(new().with_product(&"p".repeat(17)).is_err());
        assert!(new().with_serial(&"s".repeat(37)).is_err());
        assert!(new().with_serial("").is_err());
        assert!(new().with_serial("caf\u{e9}").is_err());
        assert!(new().with_serial("a\nb").is_err());
    }
}
