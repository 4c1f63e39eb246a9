//! A device that has no data: writes go nowhere, reads say that there is nothing to copy.
//!
//! It measures everything but the device, and has any size up to 2^63 bytes. A channel owns only
//! its ring of finished operations, as large as the core has requests, so it can't overflow.
//!
//! One operation is a range check, one push and one pop: a few tens of nanoseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reactor::{Batch, Buf, Instant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::options::{Options, Place, checked, maybe, to_value};
use crate::refused::{BdevError, Shape};
use crate::values::{BdevName, BlockSize, Blocks, False, UuidText, Zero};
use crate::{
    Alone, Bdev, CoreContext, Geometry, Io, IoChannel, IoDone, IoOp, IoStatus, OpenError, contains,
};

/// Parameters of `bdev_null_create`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NullOptions {
    /// Name of the new bdev.
    #[serde(deserialize_with = "checked::<BdevName, _, _>")]
    #[schemars(with = "BdevName")]
    pub name: Option<String>,
    /// Size; at most 2^63 bytes.
    #[serde(deserialize_with = "checked::<Blocks, _, _>")]
    #[schemars(with = "Blocks", extend("x-unit" = "blocks"))]
    pub num_blocks: u64,
    /// Size of a logical block.
    #[serde(deserialize_with = "checked::<BlockSize, _, _>")]
    #[schemars(with = "BlockSize")]
    pub block_size: u32,
    /// Size of a physical block, which initiators are told; that of a logical block if absent.
    #[serde(default, deserialize_with = "maybe::<BlockSize, _, _>")]
    #[schemars(with = "Option<BlockSize>")]
    pub physical_block_size: Option<u32>,
    /// Metadata is not supported.
    #[serde(default)]
    pub md_size: Zero,
    /// Protection information is not supported.
    #[serde(default)]
    pub dif_type: Zero,
    /// Protection information is not supported.
    #[serde(default)]
    pub dif_is_head_of_md: False,
    /// Protection information is not supported.
    #[serde(default)]
    pub dif_pi_format: Zero,
    /// Identity; derived from host and name if absent.
    #[serde(default, deserialize_with = "maybe::<UuidText, _, _>")]
    #[schemars(with = "Option<UuidText>")]
    pub uuid: Option<Uuid>,
    /// Shows initiators a logical unit that is not connected.
    #[serde(default)]
    pub dummy: bool,
    /// Reads fill memory with zeros.
    #[serde(default)]
    pub read_zero: bool,
    /// Preferences of access are not supported.
    #[serde(default)]
    pub preferred_write_granularity: Zero,
    /// Preferences of access are not supported.
    #[serde(default)]
    pub preferred_write_alignment: Zero,
    /// Preferences of access are not supported.
    #[serde(default)]
    pub optimal_write_size: Zero,
    /// Preferences of access are not supported.
    #[serde(default)]
    pub preferred_unmap_granularity: Zero,
    /// Preferences of access are not supported.
    #[serde(default)]
    pub preferred_unmap_alignment: Zero,
}

impl Options for NullOptions {
    const MODULE: &'static str = "null";

    fn name(&self, _base: &str) -> Option<String> {
        self.name.clone()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn make(self, place: Place) -> Result<Arc<dyn Bdev>, BdevError> {
        Ok(Arc::new(Null::new(place.name, place.uuid, self)?))
    }
}

/// The null device.
#[derive(Debug)]
pub struct Null {
    name: String,
    uuid: Uuid,
    shape: Shape,
    options: NullOptions,
    blocks: Arc<Alone<AtomicU64>>,
}

impl Null {
    /// A null device of checked name.
    ///
    /// Fails with [`BdevError::Invalid`] when sizes don't go together.
    pub(crate) fn new(name: String, uuid: Uuid, options: NullOptions) -> Result<Null, BdevError> {
        let NullOptions { num_blocks, block_size, physical_block_size, .. } = options;
        let shape = Shape::of(&name, num_blocks, block_size, physical_block_size)?;
        let blocks = Arc::new(Alone(AtomicU64::new(shape.blocks)));
        Ok(Null { name, uuid, shape, options, blocks })
    }

    /// Changes the size; open channels see it with their next operation.
    ///
    /// Fails with [`BdevError::Invalid`] for 0 blocks or more than 2^63 bytes.
    pub fn resize(&self, blocks: u64) -> Result<(), BdevError> {
        let shape = Shape { blocks, ..self.shape };
        shape.check(&self.name)?;
        self.blocks.0.store(blocks, Ordering::Relaxed);
        Ok(())
    }
}

impl Bdev for Null {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        "Null disk"
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            block_bytes: self.shape.block_bytes,
            blocks: self.blocks.0.load(Ordering::Relaxed),
            physical_exponent: self.shape.physical_exponent(),
            buf_align: 1,
            write_cache: false,
            read_only: false,
            unmap: true,
            unmap_zeroes: true,
            unmap_granularity: self.shape.block_bytes,
            rotational: false,
        }
    }

    fn placeholder(&self) -> bool {
        self.options.dummy
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        Ok(Box::new(NullChannel {
            blocks: Arc::clone(&self.blocks),
            block_bytes: self.shape.block_bytes,
            read_zero: self.options.read_zero,
            done: Batch::new(core.depth as usize),
        }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        Map::new()
    }

    fn module(&self) -> &'static str {
        NullOptions::MODULE
    }

    fn options(&self) -> Value {
        to_value(&NullOptions {
            name: Some(self.name.clone()),
            num_blocks: self.blocks.0.load(Ordering::Relaxed),
            physical_block_size: Some(self.shape.physical_bytes),
            uuid: Some(self.uuid),
            ..self.options.clone()
        })
    }
}

struct NullChannel {
    blocks: Arc<Alone<AtomicU64>>,
    block_bytes: u32,
    read_zero: bool,
    done: Batch<IoDone>,
}

impl NullChannel {
    #[inline(always)]
    fn has(&self, op: &IoOp) -> bool {
        match op.range() {
            Some((lba, blocks)) => contains(self.blocks.0.load(Ordering::Relaxed), lba, blocks),
            None => true,
        }
    }

    #[inline(always)]
    fn run(&self, op: &IoOp, buf: Option<&mut Buf>) -> IoStatus {
        op.assert_buf(buf.as_deref(), self.block_bytes);
        let inside = self.has(op);
        match (op, buf) {
            _ if !inside => IoStatus::OutOfRange,
            (IoOp::Read { .. }, Some(buf)) if self.read_zero => {
                buf.fill(0..buf.len(), 0);
                IoStatus::Good
            }
            (IoOp::Read { .. }, _) => IoStatus::GoodNoData,
            _ => IoStatus::Good,
        }
    }
}

impl IoChannel for NullChannel {
    #[inline]
    fn submit(&mut self, mut io: Io) {
        let status = self.run(&io.op, io.buf.as_mut());
        self.done.push(IoDone { tag: io.tag, status, buf: io.buf });
    }

    #[inline]
    fn at_once(&mut self, op: &IoOp, buf: &mut Buf) -> bool {
        self.run(op, Some(buf)).is_good()
    }

    #[inline]
    fn write_at_once(&mut self, op: &IoOp, data: &[u8]) -> bool {
        op.assert_data(data, self.block_bytes);
        self.has(op)
    }

    fn flush(&mut self) {}

    #[inline]
    fn poll(&mut self, _now: Instant, done: &mut Batch<IoDone>) {
        done.append(&mut self.done);
    }

    fn arm(&mut self) -> bool {
        self.done.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;
    use crate::registry::Registry;

    fn null(num_blocks: u64) -> Null {
        null_with(num_blocks, false)
    }

    fn null_with(num_blocks: u64, read_zero: bool) -> Null {
        let physical_block_size = Some(4096);
        let options = NullOptions {
            num_blocks,
            block_size: 512,
            physical_block_size,
            read_zero,
            ..NullOptions::default()
        };
        Null::new("Null0".into(), Uuid::nil(), options).unwrap()
    }

    #[test]
    fn obeys_the_contract() {
        contract::every_rule(&null(1 << 20), 1);
        contract::every_rule(&null(1 << 54), 2);
    }

    #[test]
    fn zeros_are_written_only_when_wanted() {
        let zeroing = null_with(1 << 20, true);
        // The medium is always zeros, so the rule that data is kept does not hold.
        contract::ranges_are_checked(&zeroing);
        contract::depth_is_held(&zeroing);
        for (null, byte) in [(null(8), 0xa5), (null_with(8, true), 0)] {
            let mut rig = contract::Rig::new(&null, 2, 4096);
            let mut buf = rig.take(4096);
            buf.fill(0..4096, 0xa5);
            rig.submit(IoOp::Read { lba: 0, blocks: 8 }, Some(buf));
            let done = rig.wait();
            assert!(done.status.is_good());
            let bytes = done.buf.as_ref().and_then(reactor::Buf::private).unwrap();
            assert!(bytes.iter().all(|found| *found == byte));
            rig.put(done.buf);
            rig.drain();
        }
    }

    #[test]
    fn every_operation_is_taken_up_to_the_last_block_of_the_largest_size() {
        let largest = null(1 << 54);
        let mut rig = contract::Rig::new(&largest, 2, 4096);
        let (lba, blocks) = ((1 << 54) - 8, 8);
        assert!(rig.read(lba, 8).is_ok());
        assert_eq!(rig.write(lba, &[1; 4096]), IoStatus::Good);
        for op in [
            IoOp::Flush,
            IoOp::Unmap { lba, blocks },
            IoOp::WriteZeroes { lba, blocks, unmap: true, fua: true },
            IoOp::WriteZeroes { lba: 0, blocks: 1 << 54, unmap: false, fua: false },
        ] {
            assert_eq!(rig.run(op), IoStatus::Good, "{op:?}");
        }
        rig.drain();
    }

    #[test]
    fn resize_shows_in_an_open_channel() {
        let null = null(8);
        let mut rig = contract::Rig::new(&null, 4, 4096);
        assert_eq!(rig.run(IoOp::Unmap { lba: 8, blocks: 1 }), IoStatus::OutOfRange);
        null.resize(9).unwrap();
        assert_eq!(rig.run(IoOp::Unmap { lba: 8, blocks: 1 }), IoStatus::Good);
        assert!(null.resize(0).is_err());
        assert!(null.resize((1 << 54) + 1).is_err());
    }

    #[test]
    fn the_options_make_the_same_device() {
        let mut registry = Registry::with_host("host");
        let options = NullOptions { num_blocks: 7, block_size: 4096, ..NullOptions::default() };
        let options = NullOptions { dummy: true, read_zero: true, ..options };
        let first = registry.create(options).unwrap();
        registry.delete(first.name(), "null").unwrap();
        let options: NullOptions = serde_json::from_value(first.options()).unwrap();
        let second = registry.create(options).unwrap();
        assert_eq!(first.options(), second.options());
        assert_eq!(first.geometry(), second.geometry());
        assert!(second.placeholder());
    }
}
