//! What a bdev did on one core: counts, and a histogram of times where it was asked for.

use bdev::{IoOp, IoStatus};

use super::counts::IoCounts;

/// Buckets of a range, as a power of two. As SPDK has it.
pub const GRANULARITY: u32 = 7;
/// The first range begins at 0 and has buckets of 2^5 ns.
pub const RANGE_MIN: u32 = 5;
/// The last range has buckets of 2^27 ns; what took longer is in its last bucket.
pub const RANGE_MAX: u32 = 28;
/// Buckets in all.
pub const BUCKETS: usize = ((RANGE_MAX - RANGE_MIN + 1) as usize) << GRANULARITY;

/// Kinds of operations that a histogram can be restricted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Unmaps.
    Unmap,
    /// Flushes.
    Flush,
    /// Writes of zeroes.
    WriteZeroes,
}

impl OpKind {
    fn of(op: &IoOp) -> OpKind {
        match op {
            IoOp::Read { .. } => OpKind::Read,
            IoOp::Write { .. } => OpKind::Write,
            IoOp::Unmap { .. } => OpKind::Unmap,
            IoOp::Flush => OpKind::Flush,
            IoOp::WriteZeroes { .. } => OpKind::WriteZeroes,
        }
    }
}

/// The place of a time. Each range but the first is as long as all before it together.
fn bucket(ns: u64) -> usize {
    let shift = GRANULARITY + RANGE_MIN;
    let range = (u64::BITS - (ns >> shift).leading_zeros()).min(RANGE_MAX - RANGE_MIN);
    let width = RANGE_MIN + range.saturating_sub(1);
    let whole = 1 << GRANULARITY;
    // From the second range on, the highest bit of the time is that of the range.
    let index = if range == 0 { ns >> width } else { (ns >> width) - whole };
    ((range as usize) << GRANULARITY) + index.min(whole - 1) as usize
}

/// How often operations took how long.
#[derive(Debug, Clone)]
pub struct Histogram {
    only: Option<OpKind>,
    buckets: Box<[u64]>,
}

impl Histogram {
    /// Nothing yet; of all operations, or of one kind.
    pub fn new(only: Option<OpKind>) -> Histogram {
        Histogram { only, buckets: vec![0; BUCKETS].into() }
    }

    /// Which operations.
    pub fn only(&self) -> Option<OpKind> {
        self.only
    }

    /// Counts, [`BUCKETS`] of them.
    pub fn buckets(&self) -> &[u64] {
        &self.buckets
    }

    /// Adds what another core counted.
    pub fn add(&mut self, other: &Histogram) {
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += count;
        }
    }

    fn count(&mut self, op: &IoOp, took_ns: u64) {
        if self.only.is_none_or(|only| only == OpKind::of(op)) {
            self.buckets[bucket(took_ns)] += 1;
        }
    }
}

/// What a bdev did on one core.
#[derive(Debug, Default)]
pub struct Meter {
    /// Counts.
    pub counts: IoCounts,
    /// Times, if somebody wants to know.
    pub histogram: Option<Box<Histogram>>,
}

impl Meter {
    /// Accounts for one operation that took `took_ns`.
    #[inline]
    pub fn count(&mut self, op: &IoOp, block_bytes: u32, status: IoStatus, took_ns: u64) {
        self.counts.count(op, block_bytes, status, took_ns);
        if let Some(histogram) = &mut self.histogram {
            histogram.count(op, took_ns);
        }
    }
}

impl IoCounts {
    /// Accounts for one read or write of `bytes` bytes that went well in `took_ns`.
    #[inline]
    pub fn count_transfer(&mut self, is_read: bool, bytes: u32, took_ns: u64) {
        let count = |moved: &mut u64, ops: &mut u64, ns: &mut u64, max: &mut u64, min: &mut u64| {
            *min = if *max == 0 { took_ns } else { took_ns.min(*min) };
            *max = took_ns.max(*max);
            *moved += u64::from(bytes);
            *ops += 1;
            *ns += took_ns;
        };
        let IoCounts { bytes_read, read_ops, read_ns, read_ns_max, read_ns_min, .. } = self;
        if is_read {
            return count(bytes_read, read_ops, read_ns, read_ns_max, read_ns_min);
        }
        let IoCounts { bytes_written, write_ops, write_ns, write_ns_max, write_ns_min, .. } = self;
        count(bytes_written, write_ops, write_ns, write_ns_max, write_ns_min);
    }

    /// Accounts for one operation that took `took_ns`; of one that failed only that it did.
    #[inline]
    pub fn count(&mut self, op: &IoOp, block_bytes: u32, status: IoStatus, took_ns: u64) {
        if !status.is_good() {
            self.errors += 1;
            return;
        }
        let block_bytes = u64::from(block_bytes);
        let (bytes, ops, ns, max, min, moved) = match *op {
            IoOp::Read { blocks, .. } => (
                &mut self.bytes_read,
                &mut self.read_ops,
                &mut self.read_ns,
                &mut self.read_ns_max,
                &mut self.read_ns_min,
                u64::from(blocks) * block_bytes,
            ),
            IoOp::Write { blocks, .. } => (
                &mut self.bytes_written,
                &mut self.write_ops,
                &mut self.write_ns,
                &mut self.write_ns_max,
                &mut self.write_ns_min,
                u64::from(blocks) * block_bytes,
            ),
            IoOp::Unmap { blocks, .. } | IoOp::WriteZeroes { blocks, .. } => (
                &mut self.bytes_unmapped,
                &mut self.unmap_ops,
                &mut self.unmap_ns,
                &mut self.unmap_ns_max,
                &mut self.unmap_ns_min,
                blocks * block_bytes,
            ),
            IoOp::Flush => return,
        };
        *min = if *max == 0 { took_ns } else { took_ns.min(*min) };
        *max = took_ns.max(*max);
        *bytes += moved;
        *ops += 1;
        *ns += took_ns;
    }

    /// Adds other counts, of another core or of an earlier time.
    pub fn add(&mut self, more: &IoCounts) {
        // 0 says "none yet" and must not win over a real shortest time.
        let shortest = |a: u64, b: u64| if a == 0 || (b != 0 && b < a) { b } else { a };
        self.bytes_read += more.bytes_read;
        self.read_ops += more.read_ops;
        self.read_ns += more.read_ns;
        self.read_ns_max = self.read_ns_max.max(more.read_ns_max);
        self.read_ns_min = shortest(self.read_ns_min, more.read_ns_min);
        self.bytes_written += more.bytes_written;
        self.write_ops += more.write_ops;
        self.write_ns += more.write_ns;
        self.write_ns_max = self.write_ns_max.max(more.write_ns_max);
        self.write_ns_min = shortest(self.write_ns_min, more.write_ns_min);
        self.bytes_unmapped += more.bytes_unmapped;
        self.unmap_ops += more.unmap_ops;
        self.unmap_ns += more.unmap_ns;
        self.unmap_ns_max = self.unmap_ns_max.max(more.unmap_ns_max);
        self.unmap_ns_min = shortest(self.unmap_ns_min, more.unmap_ns_min);
        self.errors += more.errors;
    }

    /// Starts anew: all counts, or only the longest and shortest times.
    pub fn reset(&mut self, sums: bool) {
        let old = if sums { IoCounts::default() } else { *self };
        *self = IoCounts {
            read_ns_max: 0,
            read_ns_min: 0,
            write_ns_max: 0,
            write_ns_min: 0,
            unmap_ns_max: 0,
            unmap_ns_min: 0,
            ..old
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where SPDK's histogram.py says that a bucket ends.
    fn end(bucket: usize) -> u64 {
        let (range, index) = (bucket >> GRANULARITY, (bucket & ((1 << GRANULARITY) - 1)) as u64);
        match range as u32 {
            0 => (index + 1) << RANGE_MIN,
            range => {
                (1 << (range + GRANULARITY + RANGE_MIN - 1))
                    + ((index + 1) << (range + RANGE_MIN - 1))
            }
        }
    }

    #[test]
    fn every_time_is_in_the_bucket_that_spdk_shows_it_in() {
        let edges = (0..35).flat_map(|exponent| {
            let edge = 1u64 << exponent;
            [edge - 1, edge, edge + 1, edge + edge / 3]
        });
        for ns in edges {
            let at = bucket(ns);
            let start = if at == 0 { 0 } else { end(at - 1) };
            assert!((start..end(at)).contains(&ns) || at == BUCKETS - 1, "{ns}: {at}");
        }
        assert_eq!(bucket((1 << 35) - 1), BUCKETS - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_histogram_can_be_of_one_kind_of_operation() {
        let histogram = Some(Box::new(Histogram::new(Some(OpKind::Write))));
        let mut meter = Meter { histogram, ..Meter::default() };
        let (read, write) =
            (IoOp::Read { lba: 0, blocks: 1 }, IoOp::Write { lba: 0, blocks: 1, fua: false });
        for (op, ns) in [(read, 40), (write, 70), (write, 70)] {
            meter.count(&op, 512, IoStatus::Good, ns);
        }
        let histogram = meter.histogram.expect("just put there");
        let found: Vec<_> =
            histogram.buckets().iter().enumerate().filter(|(_, n)| **n > 0).collect();
        assert_eq!(found, [(2, &2)]);
        assert_eq!((meter.counts.read_ops, meter.counts.write_ops), (1, 2));
    }

    #[test]
    fn an_idle_core_has_no_shortest_time() {
        let mut sum = IoCounts::default();
        for read_ns_min in [0, 70, 50, 0, 90] {
            sum.add(&IoCounts { read_ns_min, ..IoCounts::default() });
        }
        assert_eq!(sum.read_ns_min, 50);
    }
}
