//! A small answer under construction: bytes appended in wire order, big-endian.

use super::ANSWER_BYTES_MAX;

/// Bytes of one answer. Appending beyond [`ANSWER_BYTES_MAX`] is a bug of this crate.
#[derive(Debug)]
pub struct Page {
    bytes: [u8; ANSWER_BYTES_MAX],
    length: usize,
}

impl Page {
    /// An empty page.
    pub(super) fn new() -> Page {
        Page { bytes: [0; ANSWER_BYTES_MAX], length: 0 }
    }

    /// Appends bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Appends one byte.
    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    /// Appends two bytes.
    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    /// Appends four bytes.
    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// Appends eight bytes.
    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// Appends `count` zero bytes.
    pub(super) fn zeros(&mut self, count: usize) {
        self.length += count;
        assert!(self.length <= ANSWER_BYTES_MAX);
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Overwrites the byte at `at`, as length fields need it.
    pub(super) fn patch_u8(&mut self, at: usize, value: usize) {
        self.bytes[at] = u8::try_from(value).expect("a page that long has a wider length field");
    }

    /// Overwrites two bytes from `at` on.
    pub(super) fn patch_u16(&mut self, at: usize, value: usize) {
        let value = u16::try_from(value).expect("answers are shorter than 64 KiB");
        self.bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// Overwrites four bytes from `at` on.
    pub(super) fn patch_u32(&mut self, at: usize, value: usize) {
        let value = u32::try_from(value).expect("answers are shorter than 4 GiB");
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// What was appended.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
