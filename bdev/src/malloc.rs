//! A device in memory.
//!
//! It owns one anonymous mapping that all cores copy into and out of. Pages come with the first
//! write and go back with an unmap; what was never written reads as zero. The data dies with the
//! device.
//!
//! Commands that overlap on different cores may mix byte by byte, which SBC allows; no command can
//! reach outside the mapping, because every range is checked against it.
//!
//! One operation is one memcpy in `submit`; its completion waits for `poll` in a fixed ring.

use std::sync::Arc;

use reactor::{Batch, Buf, Instant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::options::{Options, Place, checked, maybe, to_value};
use crate::refused::{BdevError, Shape};
use crate::sys::region::Region;
use crate::values::{BdevName, BlockSize, Blocks, False, Signed, UuidText, Zero};
use crate::{
    Bdev, CoreContext, Geometry, Io, IoChannel, IoDone, IoOp, IoStatus, OpenError, contains,
};

/// Parameters of `bdev_malloc_create`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MallocOptions {
    /// Name of the new bdev; the first free of Malloc0, Malloc1 and so on if absent.
    #[serde(default, deserialize_with = "maybe::<BdevName, _, _>")]
    #[schemars(with = "Option<BdevName>")]
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
    /// Identity; derived from host and name if absent.
    #[serde(default, deserialize_with = "maybe::<UuidText, _, _>")]
    #[schemars(with = "Option<UuidText>")]
    pub uuid: Option<Uuid>,
    /// I/O boundaries are not supported.
    #[serde(default)]
    pub optimal_io_boundary: Zero,
    /// Metadata is not supported.
    #[serde(default)]
    pub md_size: Zero,
    /// Metadata is not supported.
    #[serde(default, skip_serializing)]
    pub md_interleave: False,
    /// Protection information is not supported.
    #[serde(default)]
    pub dif_type: Zero,
    /// Protection information is not supported.
    #[serde(default)]
    pub dif_is_head_of_md: False,
    /// Protection information is not supported.
    #[serde(default)]
    pub dif_pi_format: Zero,
    /// Memory node to prefer, one of this machine's; -1 or absent: any.
    #[serde(default, deserialize_with = "maybe::<Node, _, _>")]
    #[schemars(with = "Option<Node>")]
    pub numa_id: Option<i32>,
}

/// Number of a memory node, or [`ANY_NODE`].
type Node = Signed<{ ANY_NODE as i64 }, { i32::MAX as i64 }>;

impl Options for MallocOptions {
    const MODULE: &'static str = "malloc";

    fn name(&self, _base: &str) -> Option<String> {
        self.name.clone()
    }

    fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    fn make(self, place: Place) -> Result<Arc<dyn Bdev>, BdevError> {
        let Place { name, uuid, .. } = place;
        let shape = Shape::of(&name, self.num_blocks, self.block_size, self.physical_block_size)?;
        Ok(Arc::new(Malloc::on_node(name, uuid, shape, self.numa_id)?))
    }
}

/// The memory device.
#[derive(Debug)]
pub struct Malloc {
    name: String,
    uuid: Uuid,
    shape: Shape,
    numa_id: i32,
    region: Arc<Region>,
}

/// Any memory node.
const ANY_NODE: i32 = -1;

impl Malloc {
    /// A memory device of checked name and shape.
    ///
    /// Fails with [`BdevError::NoMemory`] when the system could not back it.
    #[cfg(test)]
    pub(crate) fn new(name: String, uuid: Uuid, shape: Shape) -> Result<Malloc, BdevError> {
        Malloc::on_node(name, uuid, shape, None)
    }

    /// The same with the memory of a node.
    ///
    /// Fails with [`BdevError::Invalid`] when there is no such node.
    pub(crate) fn on_node(
        name: String,
        uuid: Uuid,
        shape: Shape,
        numa_id: Option<i32>,
    ) -> Result<Malloc, BdevError> {
        let numa_id = numa_id.unwrap_or(ANY_NODE);
        let node = (numa_id != ANY_NODE).then_some(numa_id);
        if let Some(node) = node {
            check_node(&name, node)?;
        }
        let bytes = shape.bytes();
        let available = available_bytes();
        let refused = || BdevError::NoMemory { name: name.clone(), bytes, available };
        if bytes > available {
            return Err(refused());
        }
        let len = usize::try_from(bytes).map_err(|_| refused())?;
        let region = Region::new(len).map_err(|_| refused())?;
        if let Some(node) = node {
            let preferred = region.prefer_node(node.unsigned_abs());
            preferred.map_err(|errno| BdevError::Os {
                what: format!("bdev {name}: taking memory of node {node}"),
                errno,
            })?;
        }
        Ok(Malloc { name, uuid, shape, numa_id, region: Arc::new(region) })
    }
}

/// Fails with [`BdevError::Invalid`] unless this machine has a memory node of that number.
fn check_node(name: &str, node: i32) -> Result<(), BdevError> {
    let text = std::fs::read_to_string("/sys/devices/system/node/has_memory");
    let nodes = text.as_deref().map_or("0", str::trim);
    let there = nodes.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<i32>(), last.parse::<i32>());
        matches!((first, last), (Ok(first), Ok(last)) if (first..=last).contains(&node))
    });
    if there {
        return Ok(());
    }
    Err(BdevError::Invalid(format!(
        "bdev {name}: numa_id {node} is not one of this machine's memory nodes ({nodes}), nor -1 \
         for any"
    )))
}

/// Bytes that the system says it can give without swapping; unlimited where it doesn't say.
fn available_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib * 1024)
}

impl Bdev for Malloc {
    fn name(&self) -> &str {
        &self.name
    }

    fn product_name(&self) -> &'static str {
        "Malloc disk"
    }

    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            block_bytes: self.shape.block_bytes,
            blocks: self.shape.blocks,
            physical_exponent: self.shape.physical_exponent(),
            buf_align: 1,
            write_cache: false,
            read_only: false,
            unmap: true,
            unmap_zeroes: true,
            unmap_granularity: rustix::param::page_size() as u32,
            rotational: false,
        }
    }

    fn open_channel(&self, core: &mut CoreContext) -> Result<Box<dyn IoChannel>, OpenError> {
        Ok(Box::new(MallocChannel {
            region: Arc::clone(&self.region),
            shape: self.shape,
            done: Batch::new(core.depth as usize),
        }))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        Map::new()
    }

    fn module(&self) -> &'static str {
        MallocOptions::MODULE
    }

    fn options(&self) -> Value {
        to_value(&MallocOptions {
            name: Some(self.name.clone()),
            num_blocks: self.shape.blocks,
            block_size: self.shape.block_bytes,
            physical_block_size: Some(self.shape.physical_bytes),
            uuid: Some(self.uuid),
            numa_id: Some(self.numa_id),
            ..MallocOptions::default()
        })
    }
}

struct MallocChannel {
    region: Arc<Region>,
    shape: Shape,
    done: Batch<IoDone>,
}

impl MallocChannel {
    #[inline(always)]
    fn run(&self, op: &IoOp, buf: Option<&mut Buf>) -> IoStatus {
        op.assert_buf(buf.as_deref(), self.shape.block_bytes);
        let Some((lba, blocks)) = op.range() else { return IoStatus::Good };
        let Some(offset) = self.offset(lba, blocks) else { return IoStatus::OutOfRange };
        match (op, buf) {
            (IoOp::Read { .. }, Some(buf)) => self.region.read(offset, buf),
            (IoOp::Write { .. }, Some(buf)) => self.region.write(offset, buf),
            _ => self.region.discard(offset, (blocks * u64::from(self.shape.block_bytes)) as usize),
        }
        IoStatus::Good
    }

    /// Where blocks begin, if the device has them.
    #[inline(always)]
    fn offset(&self, lba: u64, blocks: u64) -> Option<usize> {
        // In range, so it fits the mapping's length and with it a usize.
        contains(self.shape.blocks, lba, blocks)
            .then(|| (lba * u64::from(self.shape.block_bytes)) as usize)
    }
}

impl IoChannel for MallocChannel {
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
        op.assert_data(data, self.shape.block_bytes);
        let range = op.range();
        let Some(offset) = range.and_then(|(lba, blocks)| self.offset(lba, blocks)) else {
            return false;
        };
        self.region.write_bytes(offset, data);
        true
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

    fn malloc(blocks: u64, block_bytes: u32) -> Malloc {
        let shape = Shape { blocks, block_bytes, physical_bytes: block_bytes };
        Malloc::new("Malloc0".into(), Uuid::nil(), shape).unwrap()
    }

    #[test]
    fn obeys_the_contract() {
        contract::every_rule(&malloc(8192, 512), 3);
        contract::every_rule(&malloc(1000, 4096), 4);
    }

    #[test]
    fn starts_as_zeros_and_is_one_device_to_all_channels() {
        let malloc = malloc(16, 512);
        let mut one = contract::Rig::new(&malloc, 2, 8192);
        let mut other = contract::Rig::new(&malloc, 2, 8192);
        assert!(one.read(0, 16).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(one.write(3, &[7; 512]), IoStatus::Good);
        assert_eq!(other.read(3, 1).unwrap(), [7; 512]);
    }

    /// Bytes of memory that this process has.
    fn resident_bytes() -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size() as u64
    }

    #[test]
    fn unmap_gives_memory_back() {
        let malloc = malloc(128 << 11, 512);
        let mut rig = contract::Rig::new(&malloc, 2, 1 << 20);
        let before = resident_bytes();
        for at in 0..128 {
            assert_eq!(rig.write(at << 11, &vec![7; 1 << 20]), IoStatus::Good);
        }
        let full = resident_bytes();
        assert!(full > before + (120 << 20), "{before} -> {full}");
        assert_eq!(rig.run(IoOp::Unmap { lba: 0, blocks: 100 << 11 }), IoStatus::Good);
        let after = resident_bytes();
        assert!(after + (90 << 20) < full, "{full} -> {after}");
        assert_eq!(rig.read(127 << 11, 8).unwrap(), [7; 4096]);
        rig.drain();
    }

    #[test]
    fn memory_comes_from_a_node_that_exists() {
        let shape = Shape { blocks: 64, block_bytes: 512, physical_bytes: 512 };
        let on_node = |node| Malloc::on_node("M".into(), Uuid::nil(), shape, Some(node));
        for node in [4096, -2, i32::MIN] {
            let error = on_node(node).unwrap_err().to_string();
            assert!(error.contains(&format!("numa_id {node} is not one of")), "{error}");
        }
        assert_eq!(on_node(-1).unwrap().options()["numa_id"], -1);
        if std::path::Path::new("/sys/devices/system/node/node0").exists() {
            let malloc = on_node(0).unwrap();
            assert_eq!(malloc.options()["numa_id"], 0);
            contract::data_is_kept(&malloc, 9, 100);
        }
    }

    #[test]
    fn more_than_there_is_names_both_sizes() {
        let shape = Shape { blocks: 1 << 50, block_bytes: 512, physical_bytes: 512 };
        let error = Malloc::new("Big".into(), Uuid::nil(), shape).unwrap_err();
        assert_eq!(error.errno(), -12);
        assert!(error.to_string().contains(&(1u64 << 59).to_string()), "{error}");
    }
}
