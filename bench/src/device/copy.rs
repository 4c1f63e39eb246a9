//! The ceiling of a device in memory: the copies alone.
//!
//! Same places, sizes and buffers as a load on such a device, with nothing but one memcpy per
//! operation.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reactor::pool::SizeClass;
use reactor::sys::memory::{Memory, PageWish};
use reactor::sys::tsc::Tsc;
use reactor::{Clock, Pool};

use super::load::Plan;
use crate::load::Totals;
use crate::pattern::Pattern;
use crate::port::{Kind, Unit};

/// Copies between two readings of the clock.
const ROUND: u32 = 32;

/// Copies into and out of `bytes` bytes of memory on this thread for the plan's time. Only one size
/// is taken; latencies are not measured.
pub fn run(plan: &Plan, bytes: u64) -> Result<Totals> {
    let size = plan.sizes.single().context("one size is needed to copy")?;
    ensure!(u64::from(size) <= bytes && bytes < 1 << 32, "from {size} bytes to 4 GiB are needed");
    let place = pool(bytes as u32, 1, plan.pages)?.take(bytes as usize);
    let mut place = place.context("memory for the copies")?;
    let mut pool = pool(size, plan.depth, plan.pages)?;
    let mut bufs: Vec<_> = (0..plan.depth).filter_map(|_| pool.take(size as usize)).collect();
    place.fill(0..bytes as usize, 0x5a);
    bufs.iter_mut().for_each(|buf| buf.fill(0..size as usize, 0xa5));
    let unit = Unit { lun: 0, block_bytes: 512, blocks: bytes / 512 };
    let mut pattern =
        Pattern::new(&[unit], &plan.sizes, plan.workload, plan.read_percent, plan.seed);
    let (clock, mut totals) = (Tsc::new(), Totals::default());
    let start = clock.now();
    let end = start.after(plan.duration);
    let mut next = 0;
    while clock.now() < end && !plan.stop.is_raised() {
        for _ in 0..ROUND {
            let (kind, extent) = pattern.draw();
            let at = extent.lba as usize * 512;
            let buf = &mut bufs[next];
            next = if next + 1 == plan.depth as usize { 0 } else { next + 1 };
            let tally = match kind {
                Kind::Read => {
                    let from = place.private().context("memory of this process")?;
                    buf.write_at(0, &from[at..at + size as usize]);
                    &mut totals.reads
                }
                _ => {
                    place.write_at(at, buf.private().context("memory of this process")?);
                    &mut totals.writes
                }
            };
            tally.ios += 1;
            tally.bytes += u64::from(size);
        }
    }
    totals.interrupted = plan.stop.is_raised();
    totals.elapsed = std::time::Duration::from_nanos(clock.now().ns_since(start));
    // Nobody takes these buffers again: the memory goes with the process.
    bufs.into_iter().chain([place]).for_each(std::mem::forget);
    Ok(totals)
}

fn pool(bytes: u32, count: u32, pages: PageWish) -> Result<Pool> {
    let class = SizeClass { bytes: bytes.next_multiple_of(4096), count };
    let (memory, _) = Memory::new(class.bytes as usize * count as usize, pages)?;
    Ok(Pool::new(Arc::new(memory), &[class]))
}
