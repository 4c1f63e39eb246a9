//! What the process was started with, as values that can't be wrong.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use reactor::cpumask::CoreSet;

use crate::logs::Level;

/// Everything a run is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Processors, one core each.
    pub cpus: CoreSet,
    /// Memory for I/O buffers.
    pub memory: Memory,
    /// Socket for JSON-RPC.
    pub rpc_socket: PathBuf,
    /// Configuration to load at start.
    pub config_file: Option<PathBuf>,
    /// What idle cores do.
    pub idle: Idle,
    /// What to log.
    pub log_level: Level,
}

/// Memory for I/O buffers of the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// MiB in all.
    pub size: MemSize,
    /// Huge pages of this size if there are any; `None`: ordinary pages.
    pub huge: Option<HugeSize>,
}

impl Memory {
    /// Bytes for each of `cores` cores: an equal share in whole MiB.
    pub fn core_bytes(&self, cores: usize) -> usize {
        (self.size.0 as usize / cores.max(1)) << 20
    }
}

/// Sizes of huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HugeSize {
    /// 2 MiB.
    #[value(name = "2M")]
    Mib2,
    /// 1 GiB.
    #[value(name = "1G")]
    Gib1,
}

impl HugeSize {
    /// Bytes of a page.
    pub fn bytes(self) -> usize {
        match self {
            HugeSize::Mib2 => 2 << 20,
            HugeSize::Gib1 => 1 << 30,
        }
    }
}

/// What a core does when a turn found nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// The next turn.
    Poll,
    /// More turns for `spin`, then sleep until something arrives.
    Adaptive {
        /// Time to poll in vain.
        spin: Duration,
    },
}

/// A size in MiB, from 32 to 1048576 (1 TiB).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemSize(u32);

impl MemSize {
    /// MiB.
    pub fn mib(self) -> u32 {
        self.0
    }
}

impl FromStr for MemSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(mib @ 32..=1_048_576) => Ok(MemSize(mib)),
            _ => Err(format!("{text:?} is not a number of MiB in 32..=1048576")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Options;

    fn config(arguments: &[&str]) -> Result<Config, clap::Error> {
        let arguments = std::iter::once(&"srpt_tgt").chain(arguments);
        Options::try_parse_from(arguments).map(Config::from)
    }

    #[test]
    fn the_defaults_are_one_core_that_polls() {
        let config = config(&[]).expect("no argument is needed");
        assert_eq!(config.cpus.iter().collect::<Vec<_>>(), [0]);
        assert_eq!(config.memory.size.mib(), 256);
        assert_eq!(config.memory.huge, Some(HugeSize::Mib2));
        assert_eq!(config.rpc_socket, PathBuf::from("/var/tmp/srpt_tgt.sock"));
        assert_eq!((config.config_file, config.idle), (None, Idle::Poll));
    }

    #[test]
    fn every_option_reaches_its_value() {
        let config = config(&[
            "-m",
            "[3,1-2]",
            "-s",
            "512",
            "-r",
            "/tmp/x",
            "--json",
            "/etc/a.json",
            "--huge-size",
            "1G",
            "--idle",
            "adaptive",
            "--idle-spin-us",
            "7",
            "-L",
            "DEBUG",
        ])
        .expect("all are right");
        assert_eq!(config.cpus.iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(config.memory.core_bytes(3), 170 << 20);
        assert_eq!(config.memory.huge.map(HugeSize::bytes), Some(1 << 30));
        assert_eq!(config.idle, Idle::Adaptive { spin: Duration::from_micros(7) });
        assert_eq!(config.config_file, Some(PathBuf::from("/etc/a.json")));
        assert_eq!(config.log_level, Level::Debug);
    }

    #[test]
    fn wrong_values_are_usage_errors() {
        for wrong in [
            &["-m", "0"][..],
            &["-m", "0xg"],
            &["-m", "[]"],
            &["-m", "[2-1]"],
            &["-m", "[+1]"],
            &["-m", "[1024]"],
            &["-s", "31"],
            &["-s", "1048577"],
            &["-L", "LOUD"],
            &["--idle", "sometimes"],
            &["--idle-spin-us", "0"],
            &["--no-huge", "--huge-size", "1G"],
            &["--unknown"],
            &["stray"],
        ] {
            let error = config(wrong).expect_err("refused");
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
        assert_eq!(config(&["-v"]).expect_err("prints and ends").exit_code(), 0);
    }

    #[test]
    fn masks_and_lists_mean_the_same() {
        for (mask, list) in [("0x3", "[0,1]"), ("f0", "[4-7]"), ("0x10000000000000001", "[0,64]")] {
            assert_eq!(mask.parse::<CoreSet>(), list.parse::<CoreSet>());
        }
    }
}
