//! What is counted of a bdev's operations.

/// Operations of one bdev on one core, as SPDK's `bdev_get_iostat` counts them. Times in ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoCounts {
    /// Bytes read.
    pub bytes_read: u64,
    /// Reads.
    pub read_ops: u64,
    /// Sum of read times.
    pub read_ns: u64,
    /// Longest read; 0 before the first.
    pub read_ns_max: u64,
    /// Shortest read; 0 before the first.
    pub read_ns_min: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Writes.
    pub write_ops: u64,
    /// Sum of write times.
    pub write_ns: u64,
    /// Longest write.
    pub write_ns_max: u64,
    /// Shortest write.
    pub write_ns_min: u64,
    /// Bytes unmapped.
    pub bytes_unmapped: u64,
    /// Unmaps.
    pub unmap_ops: u64,
    /// Sum of unmap times.
    pub unmap_ns: u64,
    /// Longest unmap.
    pub unmap_ns_max: u64,
    /// Shortest unmap.
    pub unmap_ns_min: u64,
    /// Operations that failed.
    pub errors: u64,
}
