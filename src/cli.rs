//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};
use reactor::cpumask::CoreSet;

use crate::config::{Config, HugeSize, Idle, MemSize, Memory};
use crate::logs::Level;

/// Where operators reach the target unless told otherwise.
const RPC_SOCKET: &str = "/var/tmp/srpt_tgt.sock";

/// A SCSI RDMA Protocol target in user space.
#[derive(Debug, Parser)]
#[command(
    name = "srpt_tgt",
    version = crate::version(),
    disable_version_flag = true,
    after_help = "Exit codes: 0 after an orderly stop, 1 when the target could not start, 2 for a \
                  wrong command line."
)]
pub struct Options {
    /// Processors to run on, one core each: a hexadecimal mask (0x3) or a list ([0,2-3])
    #[arg(short = 'm', long, value_name = "MASK|LIST", default_value = "0x1")]
    cpumask: CoreSet,

    /// Memory for I/O buffers of the whole process in MiB, at least 32; each core gets an equal
    /// share for its own use
    #[arg(short = 's', long, value_name = "MB", default_value = "256")]
    mem_size: MemSize,

    /// Unix socket for JSON-RPC (scripts/rpc.py -s)
    #[arg(short = 'r', long, value_name = "PATH", default_value = RPC_SOCKET)]
    rpc_socket: PathBuf,

    /// Configuration to load at start, as save_config writes it
    #[arg(short = 'c', long, alias = "json", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Take ordinary pages for I/O buffers
    #[arg(long, conflicts_with = "huge_size")]
    no_huge: bool,

    /// Size of huge pages; ordinary pages are taken when there are none
    #[arg(long, value_name = "SIZE", value_enum, default_value = "2M")]
    huge_size: HugeSize,

    /// What a core does when it finds nothing to do: poll on, or sleep after a while
    #[arg(long, value_name = "POLICY", value_enum, default_value = "poll")]
    idle: IdlePolicy,

    /// With --idle adaptive: microseconds to poll in vain before sleeping
    #[arg(
        long,
        value_name = "MICROSECONDS",
        default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    idle_spin_us: u32,

    /// What to log: ERROR, WARNING, NOTICE, INFO or DEBUG
    #[arg(short = 'L', long, value_name = "LEVEL", default_value = "NOTICE")]
    log_level: Level,

    #[command(flatten)]
    version: VersionFlag,
}

/// The flag that every program has.
#[derive(Debug, clap::Args)]
pub struct VersionFlag {
    /// Print the version and the commit; -v does, too
    #[arg(short = 'V', short_alias = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// Words for `--idle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IdlePolicy {
    /// Poll without pause: lowest latency, one processor fully used per core.
    Poll,
    /// Sleep after a while without work, wake on the next request.
    Adaptive,
}

impl From<Options> for Config {
    fn from(options: Options) -> Self {
        let idle = match options.idle {
            IdlePolicy::Poll => Idle::Poll,
            IdlePolicy::Adaptive => {
                Idle::Adaptive { spin: Duration::from_micros(u64::from(options.idle_spin_us)) }
            }
        };
        let huge = (!options.no_huge).then_some(options.huge_size);
        Config {
            cpus: options.cpumask,
            memory: Memory { size: options.mem_size, huge },
            rpc_socket: options.rpc_socket,
            config_file: options.config,
            idle,
            log_level: options.log_level,
        }
    }
}
