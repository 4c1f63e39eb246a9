//! A device that has no data: writes go nowhere, reads say that there is nothing to copy.
//!
//! It measures everything but the device, and has any size up to 2^63 bytes. A channel owns only
//! its ring of finished operations, as large as the core has requests, so it can't overflow.
//!
//! One operation is a range check, one push and one pop: a few tens of nanoseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reactor::{Batch, Buf, Instant};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::refused::{BdevError, Shape};
use crate::{
    Alone, Bdev, CoreContext, Geometry, Io, IoChannel, IoDone, IoOp, IoStatus, OpenError, contains,
};

/// Parameters of `bdev_null_create`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct NullOptions {
    /// Name; `Null0` and so on when absent.
    pub name: Option<String>,
    /// Size in blocks; at most 2^63 bytes.
    pub num_blocks: u64,
    /// Bytes of a block: a power of two from 512 to 32768.
    pub block_size: u32,
    /// Bytes of a physical block: `block_size` times a power of two. Absent or 0: `block_size`.
    #[serde(default)]
    pub physical_block_size: Option<u32>,
    /// Identity; derived from host and name when absent.
    #[serde(default)]
    pub uuid: Option<Uuid>,
    /// Only holds a LUN's place: initiators find nothing connected there.
    #[serde(default)]
    pub dummy: bool,
    /// Reads fill the initiator's memory with zeros. Otherwise they move nothing where the fabric
    /// can leave that out.
    #[serde(default)]
    pub read_zero: bool,
    /// Other members, refused unless they are SPDK's and ask for nothing.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Members that SPDK clients send and the only values that have a meaning here.
pub(crate) fn neutral(member: &str) -> Option<Value> {
    Some(match member {
        "md_size" | "dif_type" | "dif_pi_format" => json!(0),
        "preferred_write_granularity" | "preferred_write_alignment" | "optimal_write_size" => {
            json!(0)
        }
        "preferred_unmap_granularity" | "preferred_unmap_alignment" => json!(0),
        "dif_is_head_of_md" => json!(false),
        _ => return None,
    })
}

/// The null device.
#[derive(Debug)]
pub struct Null {
    name: String,
    uuid: Uuid,
    shape: Shape,
    dummy: bool,
    read_zero: bool,
    blocks: Arc<Alone<AtomicU64>>,
}

impl Null {
    /// A null device of checked name and shape.
    pub(crate) fn new(name: String, uuid: Uuid, shape: Shape) -> Null {
        let blocks = Arc::new(Alone(AtomicU64::new(shape.blocks)));
        Null { name, uuid, shape, dummy: false, read_zero: false, blocks }
    }

    /// The device with what the options say beside name and shape.
    pub(crate) fn with(self, options: &NullOptions) -> Null {
        Null { dummy: options.dummy, read_zero: options.read_zero, ..self }
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
        self.dummy
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        Ok(Box::new(NullChannel {
            blocks: Arc::clone(&self.blocks),
            block_bytes: self.shape.block_bytes,
            read_zero: self.read_zero,
            done: Batch::new(core.depth as usize),
        }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        Map::new()
    }

    fn create_call(&self) -> (&'static str, Value) {
        let params = json!({
            "name": self.name,
            "num_blocks": self.blocks.0.load(Ordering::Relaxed),
            "block_size": self.shape.block_bytes,
            "physical_block_size": self.shape.physical_bytes,
            "md_size": 0,
            "dif_type": 0,
            "dif_is_head_of_md": false,
            "dif_pi_format": 0,
            "uuid": self.uuid,
            "dummy": self.dummy,
            "read_zero": self.read_zero,
            "preferred_write_granularity": 0,
            "preferred_write_alignment": 0,
            "optimal_write_size": 0,
            "preferred_unmap_granularity": 0,
            "preferred_unmap_alignment": 0,
        });
        ("bdev_null_create", params)
    }

    fn delete_method(&self) -> &'static str {
        "bdev_null_delete"
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
        let shape = Shape { blocks: num_blocks, block_bytes: 512, physical_bytes: 4096 };
        shape.check("Null0").unwrap();
        Null::new("Null0".into(), Uuid::nil(), shape)
    }

    #[test]
    fn obeys_the_contract() {
        contract::every_rule(&null(1 << 20), 1);
        contract::every_rule(&null(1 << 54), 2);
    }

    #[test]
    fn zeros_are_written_only_when_wanted() {
        let zeroes = NullOptions { read_zero: true, ..NullOptions::default() };
        let zeroing = null(1 << 20).with(&zeroes);
        // The medium is always zeros, so the rule that data is kept does not hold.
        contract::ranges_are_checked(&zeroing);
        contract::depth_is_held(&zeroing);
        for (null, byte) in [(null(8), 0xa5), (null(8).with(&zeroes), 0)] {
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
    fn the_create_call_makes_the_same_device() {
        let mut registry = Registry::with_host("host");
        let options = NullOptions { num_blocks: 7, block_size: 4096, ..NullOptions::default() };
        let options = NullOptions { dummy: true, read_zero: true, ..options };
        let first = registry.create_null(options).unwrap();
        let (_, params) = first.create_call();
        registry.delete(first.name(), "bdev_null_delete").unwrap();
        let second = registry.create_null(serde_json::from_value(params).unwrap()).unwrap();
        assert_eq!(first.create_call(), second.create_call());
        assert_eq!(first.geometry(), second.geometry());
        assert!(second.placeholder());
    }
}
