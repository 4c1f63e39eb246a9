//! The data buffers of a core, and those that are kept for a command that was overtaken for long.

use reactor::Pool;
use reactor::pool::{Buf, ClassCount};
use transport::Fabric;

use crate::shard::coverage::{Mark, mark};

/// Buffers of a core.
pub(crate) struct Buffers {
    pool: Pool,
    /// Buffers of at least that many bytes are kept for another command this turn.
    kept: Option<usize>,
}

impl Buffers {
    /// All buffers of a pool.
    pub(crate) fn new(pool: Pool) -> Buffers {
        Buffers { pool, kept: None }
    }

    /// Keeps buffers of at least that many bytes for the command that waits longest, or none.
    #[inline]
    pub(crate) fn keep(&mut self, bytes: Option<usize>) {
        self.kept = bytes;
    }

    /// A buffer that is not kept for another command.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Option<Buf> {
        let buf = self.pool.take(bytes)?;
        if self.kept.is_some_and(|least| buf.capacity() >= least) {
            self.pool.put(buf);
            return None;
        }
        Some(buf)
    }

    /// A buffer of the pool is back.
    #[inline]
    pub(crate) fn put(&mut self, buf: Buf) {
        self.pool.put(buf);
    }

    /// Gives a buffer back to whoever owns it.
    #[inline]
    pub(crate) fn home<F: Fabric>(&mut self, fabric: &mut F, buf: Buf) {
        if buf.is_peer() {
            mark(Mark::LentReturned);
            fabric.give_back(buf)
        } else {
            self.pool.put(buf)
        }
    }

    /// Buffers per size class.
    pub(crate) fn counts(&self) -> Vec<ClassCount> {
        self.pool.counts().collect()
    }
}
