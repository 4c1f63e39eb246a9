//! Writes devices once, so that a load on them meets blocks that exist.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use bdev::{Bdev, CoreContext, Io, IoDone, IoOp};
use reactor::pool::SizeClass;
use reactor::sys::memory::{Memory, PageWish};
use reactor::sys::tsc::Tsc;
use reactor::{Batch, Clock, Pool, Tag};

use crate::interrupt::Interrupt;

/// Writes every block of a device once, on this thread, so that a load on it meets blocks that
/// exist. Fails when `stop` is raised meanwhile.
pub fn all(
    bdev: &Arc<dyn Bdev>,
    range_bytes: u64,
    pages: PageWish,
    stop: &Interrupt,
) -> Result<()> {
    const PIECE_BYTES: u32 = 1 << 20;
    const DEPTH: u32 = 8;
    let geometry = bdev.geometry();
    let blocks = geometry.blocks.min(range_bytes / u64::from(geometry.block_bytes));
    let class = SizeClass { bytes: PIECE_BYTES, count: DEPTH };
    let (memory, _) = Memory::new((PIECE_BYTES * DEPTH) as usize, pages)?;
    let memory = Arc::new(memory);
    let mut context =
        CoreContext { memory: Arc::clone(&memory), ring: None, depth: DEPTH, wake: None };
    let mut pool = Pool::new(memory, &[class]);
    let mut channel = bdev.open_channel(&mut context)?;
    let (clock, mut done) = (Tsc::new(), Batch::new(DEPTH as usize));
    let mut free: Vec<u32> = (0..DEPTH).collect();
    let (mut lba, mut failed) = (0, None);
    while lba < blocks && failed.is_none() && !stop.is_raised() || free.len() < DEPTH as usize {
        while lba < blocks
            && failed.is_none()
            && !stop.is_raised()
            && let Some(slot) = free.pop()
        {
            let count = (blocks - lba).min(u64::from(PIECE_BYTES / geometry.block_bytes)) as u32;
            let mut buf = pool.take((count * geometry.block_bytes) as usize).context("a buffer")?;
            buf.fill(0..buf.len(), lba as u8 | 1);
            let op = IoOp::Write { lba, blocks: count, fua: false };
            channel.submit(Io { tag: Tag::new(slot, 0), op, buf: Some(buf) });
            lba += u64::from(count);
        }
        channel.flush();
        channel.poll(clock.now(), &mut done);
        while let Some(IoDone { tag, status, buf }) = done.pop() {
            free.push(tag.index() as u32);
            buf.into_iter().for_each(|buf| pool.put(buf));
            failed = failed.or((!status.is_good()).then_some(status));
        }
    }
    match failed {
        Some(status) => Err(anyhow!("{}: writing all blocks: {status:?}", bdev.name())),
        None if lba < blocks => bail!("{}: interrupted while writing all blocks", bdev.name()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Devices, Spec};

    #[test]
    fn all_blocks_are_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, vec![0; 3 << 20]).unwrap();
        let file = Devices::new().make(&Spec::File(path.clone()), 512).unwrap();
        all(&file, 5 << 19, PageWish::Ordinary, &Interrupt::default()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[..5 << 19].iter().all(|byte| *byte != 0));
        assert!(bytes[5 << 19..].iter().all(|byte| *byte == 0), "beyond the range");
        let small = Devices::new().make(&Spec::Malloc(1536), 512).unwrap();
        all(&small, u64::MAX, PageWish::Ordinary, &Interrupt::default()).unwrap();
        let stop = Interrupt::default();
        stop.raise();
        let error = all(&small, u64::MAX, PageWish::Ordinary, &stop).unwrap_err().to_string();
        assert!(error.contains("interrupted"), "{error}");
    }
}
