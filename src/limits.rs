//! Every capacity of a core as a sum of named terms, checked at start.
//!
//! Nothing on the path of a command grows. What a peer can make us hold is bounded here: posted
//! receives per channel bound what waits, request slots bound what runs, the pool bounds the bytes.

use std::time::Duration;

use reactor::pool::SizeClass;
use transport::srp::DESCRIPTOR_BYTES;

/// Receives beyond a channel's credits: one for the answer to the single request that a target may
/// have outstanding (SRP 16A, 4.4), one for an SRP_I_LOGOUT.
pub const RECEIVES_EXTRA: u32 = 2;

/// Commands that a channel can have outstanding: the most that an initiator's `queue_size` gets.
pub const COMMANDS_PER_CHANNEL: u32 = 128;

/// Credits that initiators leave for task management: the stock one subtracts so many from its
/// login's.
pub const TASK_MANAGEMENT_CREDITS: u32 = 1;

/// Largest data transfer of one command in bytes, as VPD page B0h reports it.
pub const IO_BYTES_MAX: u32 = 1 << 20;

/// Entries of an indirect descriptor table, in the information unit or fetched: as many segments
/// as the stock initiator's `indirect_sg_entries` allows.
pub const SEGMENTS_MAX: usize = 2048;

/// Channels of one session. The stock initiator opens at most one per processor.
pub const CHANNELS_PER_SESSION_MAX: usize = 64;

/// Task management requests being carried out on one core at a time; one more waits, as the
/// received information unit that it is.
pub const TASK_MANAGEMENT_MAX: usize = 64;

/// Bytes of sense data in a response: what a device that takes commands itself gives.
pub const SENSE_BYTES_MAX: usize = bdev::scsi::SENSE_BYTES_MAX;

/// Capacities of one core.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections (SRP channels) over shared memory, logins in progress included. An idle one
    /// costs a place and what its rings touch.
    pub shm_connections: usize,
    /// The same over RDMA, where completion queues are sized for all of them.
    pub rdma_connections: usize,
    /// Request limit granted to a channel at login.
    pub credits: u32,
    /// Commands that have been admitted and not yet been replied to.
    pub slots: usize,
    /// Largest initiator-to-target information unit in bytes (`srp_max_req_size`).
    pub iu_bytes_max: u32,
    /// Largest target-to-initiator information unit in bytes (`srp_max_rsp_size`).
    pub rsp_bytes_max: u32,
    /// Bytes of data, by their CDBs, after which no more commands begin in a turn. Where the
    /// processor copies them, more would keep all others waiting.
    pub turn_bytes: u64,
    /// How often the peers of all channels are asked whether they are there.
    pub probe_every: Duration,
    /// Buffers by size.
    pub classes: Vec<SizeClass>,
}

/// Share of the pool in 1/16 for each size class, by bytes of a buffer. Small commands are the
/// many, large ones the heavy: half of the memory serves whole transfers.
const SHARES: [(u32, usize); 5] =
    [(4 << 10, 2), (16 << 10, 2), (64 << 10, 2), (256 << 10, 3), (IO_BYTES_MAX, 7)];

impl Limits {
    /// Smallest pool of a core: each class has a buffer.
    pub const POOL_BYTES_MIN: usize = 16 << 20;

    /// The plan for a core with `pool_bytes` of buffers.
    pub fn for_pool(pool_bytes: usize) -> Limits {
        assert!(pool_bytes >= Self::POOL_BYTES_MIN, "a core's pool of {pool_bytes} bytes");
        let sixteenth = pool_bytes / SHARES.iter().map(|(_, share)| share).sum::<usize>();
        let classes = SHARES
            .iter()
            .map(|(bytes, share)| SizeClass {
                bytes: *bytes,
                count: (sixteenth * share / *bytes as usize) as u32,
            })
            .collect();
        let limits = Limits {
            shm_connections: 2048,
            rdma_connections: 512,
            credits: COMMANDS_PER_CHANNEL + TASK_MANAGEMENT_CREDITS,
            slots: 4096,
            iu_bytes_max: 8276,
            rsp_bytes_max: 256,
            turn_bytes: IO_BYTES_MAX.into(),
            probe_every: Duration::from_secs(30),
            classes,
        };
        limits.check();
        limits
    }

    /// Asserts what the rest of the target relies on.
    pub fn check(&self) {
        assert!(self.connections() > 0 && self.slots > 0 && self.credits > 0);
        assert!(self.turn_bytes > 0, "no command would ever begin");
        assert!(self.classes.iter().all(|class| class.count > 0), "an empty size class");
        // A command with a data, a scratch and a table buffer can always run alone.
        let largest = self.classes.last().expect("at least one class");
        assert!(largest.bytes >= IO_BYTES_MAX && largest.count >= 2, "no room for one command");
        let table_bytes = (SEGMENTS_MAX * DESCRIPTOR_BYTES) as u32;
        let tables = self.classes.iter().filter(|class| class.bytes >= table_bytes);
        let count: u32 = tables.map(|class| class.count).sum();
        assert!(count >= 3, "no room for the table of one command");
        // SRP_LOGIN_REQ asks for at least 64; a response carries fixed-format sense.
        assert!(self.iu_bytes_max >= 64 && self.rsp_bytes_max >= 36 + 18);
    }

    /// Connections over both fabrics.
    pub fn connections(&self) -> usize {
        self.shm_connections + self.rdma_connections
    }

    /// Bytes that the size classes occupy.
    pub fn pool_bytes(&self) -> usize {
        self.classes.iter().map(|class| class.bytes as usize * class.count as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pool_size_from_the_smallest_has_a_plan_that_fits() {
        for mib in [16, 17, 32, 100, 256, 1024, 16384] {
            let limits = Limits::for_pool(mib << 20);
            assert!(limits.pool_bytes() <= mib << 20);
            assert!(limits.pool_bytes() >= (mib << 20) / 2, "{mib} MiB: too much is left over");
        }
    }

    #[test]
    #[should_panic(expected = "no room for the table")]
    fn two_buffers_are_too_few_for_data_scratch_and_table() {
        let classes =
            vec![SizeClass { bytes: 4096, count: 9 }, SizeClass { bytes: IO_BYTES_MAX, count: 2 }];
        Limits { classes, ..Limits::for_pool(Limits::POOL_BYTES_MIN) }.check();
    }

    #[test]
    #[should_panic(expected = "pool of")]
    fn a_smaller_pool_is_refused() {
        Limits::for_pool(Limits::POOL_BYTES_MIN - 1);
    }
}
