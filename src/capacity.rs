//! What the system lets this process have, and how much of that the peers of the shared memory
//! fabric may use up. Read once, at start.
//!
//! The rest is kept for the process itself: threads that begin later, files, devices, clients. So a
//! peer that takes all that it can get is refused with the name of the limit, and nothing else
//! notices.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use transport::shm::{Allowance, Allowed};

/// Mappings kept for the process: two for each thread, and what its allocator and devices take.
const OWN_MAPPINGS: u64 = 4096;
/// Descriptors kept for the process: files and devices, clients, logins that are not finished.
const OWN_DESCRIPTORS: u64 = 1024;
/// Bytes of addresses that the processor has for a process, with a reserve for all but peers.
const ADDRESS_BYTES: u64 = 64 << 40;

/// A limit and what is in use of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    max: u64,
    used: u64,
    name: String,
}

/// The limits that connections run into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SystemLimits {
    mappings: Limit,
    descriptors: Limit,
    memory: Limit,
}

impl SystemLimits {
    /// Those of this process now, whose cores have so many bytes of buffers. What can't be read is
    /// taken as Linux has it by default.
    pub(crate) fn of_this_process(pool_bytes: u64) -> SystemLimits {
        let number = |path: &str| {
            let text = std::fs::read_to_string(path).ok()?;
            text.trim().parse::<u64>().ok()
        };
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let max = number("/proc/sys/vm/max_map_count").unwrap_or(65530);
        let mappings = Limit {
            max,
            used: maps.lines().count() as u64,
            name: format!("vm.max_map_count is {max}"),
        };
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        let max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let name = format!("the limit of open files, ulimit -n, is {max}");
        let descriptors = Limit { max, used: files, name };
        let memory = Limit { used: pool_bytes, ..memory(Path::new("/")) };
        SystemLimits { mappings, descriptors, memory }
    }

    /// What all peers together may use.
    pub(crate) fn allowance(&self) -> Allowance {
        let left = |limit: &Limit, own: u64| {
            // A small limit is shared in halves.
            let kept = (limit.used + own).min(limit.used.max(limit.max / 2));
            Allowed { amount: limit.max.saturating_sub(kept), limit: limit.name.clone() }
        };
        // The other half is for block devices in memory, and for all that is not counted.
        let bytes = (self.memory.max.saturating_sub(self.memory.used) / 2).min(ADDRESS_BYTES);
        Allowance {
            mappings: left(&self.mappings, OWN_MAPPINGS),
            descriptors: left(&self.descriptors, OWN_DESCRIPTORS),
            bytes: Allowed { amount: bytes, limit: self.memory.name.clone() },
        }
    }
}

/// Says what the limits allow, and which of them to raise if that is less than what the cores have
/// places for.
pub(crate) fn report(allowance: &Allowance, places: u64) {
    let ((few, by_one), (fewer, by_many)) = (allowance.connections(1), allowance.connections(16));
    let mib = allowance.bytes.amount >> 20;
    tracing::info!(
        "shared memory: {places} places for channels; the system allows {few} with one region each \
         ({}), {fewer} with 16 ({}), and {mib} MiB of regions in all ({})",
        by_one.limit,
        by_many.limit,
        allowance.bytes.limit,
    );
    if few < places {
        tracing::warn!("{}: raise this limit for more than {few} channels", by_one.limit);
    }
}

/// The memory that this process may have: that of the machine, or less if a control group of it
/// says so.
fn memory(root: &Path) -> Limit {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let kib = read("proc/meminfo").lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    let max = kib.map_or(u64::MAX, |kib| kib << 10);
    let name = format!("the machine has {} MiB of memory", max >> 20);
    let mut limit = Limit { max, used: 0, name };
    for line in read("proc/self/cgroup").lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            "memory" => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // The group and those that it is in. In a container the path may be that of the host; then
        // its own group is at the top.
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let path: PathBuf = [Path::new(mount), group, Path::new(file)].iter().collect();
            let text = std::fs::read_to_string(root.join(&path)).unwrap_or_default();
            if let Ok(max) = text.trim().parse::<u64>()
                && max < limit.max
            {
                limit.max = max;
                limit.name = format!("/{} is {max}", path.display());
            }
        }
    }
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: u64, used: u64, name: &str) -> Limit {
        Limit { max, used, name: name.into() }
    }

    fn capacity(mappings: u64, descriptors: u64, memory: u64) -> SystemLimits {
        SystemLimits {
            mappings: limit(mappings, 100, "maps"),
            descriptors: limit(descriptors, 50, "files"),
            memory: limit(memory, 1 << 20, "memory"),
        }
    }

    #[test]
    fn the_process_keeps_what_it_needs_itself() {
        let allowance = capacity(65530, 20000, 1 << 30).allowance();
        assert_eq!(allowance.mappings.amount, 65530 - 4096 - 100);
        assert_eq!(allowance.descriptors.amount, 20000 - 1024 - 50);
        assert_eq!(
            (allowance.bytes.amount, &*allowance.bytes.limit),
            ((1 << 29) - (1 << 19), "memory")
        );
        let small = capacity(120, 1024, 1 << 50).allowance();
        assert_eq!((small.mappings.amount, small.descriptors.amount), (20, 512));
        assert_eq!(small.bytes.amount, 64 << 40);
    }

    #[test]
    fn this_process_has_limits_and_uses_some() {
        let capacity = SystemLimits::of_this_process(0);
        assert!(capacity.mappings.used > 10 && capacity.mappings.used < capacity.mappings.max);
        assert!(capacity.descriptors.used > 2 && capacity.descriptors.max >= 256);
        assert!(capacity.memory.max > 1 << 26);
    }

    #[test]
    fn the_smallest_memory_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n");
        let found = || memory(root.path());
        assert_eq!(found(), limit(2 << 20, 0, "the machine has 2 MiB of memory"));
        write("proc/self/cgroup", "0::/a/b\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(found().max, 2 << 20);
        write("sys/fs/cgroup/a/memory.max", "1048576\n");
        assert_eq!(found(), limit(1 << 20, 0, "/sys/fs/cgroup/a/memory.max is 1048576"));
        write("proc/self/cgroup", "4:memory:/of/the/host\n1:cpu:/\n");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n");
        let name = "/sys/fs/cgroup/memory/memory.limit_in_bytes is 4096";
        assert_eq!(found(), limit(4096, 0, name));
    }
}
