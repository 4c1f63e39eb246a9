//! Options that `srpt_perf` and `bdevperf` share, under the short names of SPDK's tools.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::pattern::Workload;
use crate::size::{Sizes, parse_bytes};

/// Largest tested range per device of a verified run, unless --range says otherwise.
const VERIFY_RANGE_BYTES: u64 = 1 << 30;

/// What the tools' help ends with.
pub const AFTER_HELP: &str = "\
Ctrl-C ends the run early and prints the results so far; a second one ends at once, without them.

Exit codes: 0, 1 for errors, 2 for a wrong command line, 128 for a run that Ctrl-C ended early.";

/// The job: what runs, how long, and where its result goes.
#[derive(Debug, clap::Args)]
pub struct JobOptions {
    /// In flight at a time: commands per channel of srpt_perf, operations per device and core of
    /// bdevperf
    #[arg(short = 'q', long, default_value_t = 32)]
    pub depth: u32,
    /// Size of commands: 4k, a list 4k,64k or a range 512-1m
    #[arg(short = 'o', long, default_value = "4k")]
    pub io_size: Sizes,
    /// read, write, randread, randwrite, rw or randrw
    #[arg(short = 'w', long, default_value = "randread")]
    pub workload: Workload,
    /// Percentage of reads in rw and randrw
    #[arg(short = 'M', long, default_value_t = 50)]
    pub read_percent: u8,
    /// Seconds to run
    #[arg(short = 't', long = "time", default_value_t = 10.0)]
    pub seconds: f64,
    /// Write stamped blocks, read them back and compare
    #[arg(long)]
    pub verify: bool,
    /// Use only so many bytes from the start of each device: 64m
    #[arg(long, value_parser = parse_bytes)]
    pub range: Option<u64>,
    /// Seed of places, sizes and data
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the result as JSON to a file, or to standard output
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub json: Option<PathBuf>,
}

impl JobOptions {
    /// How long to run. Fails for a time that is none.
    pub fn duration(&self) -> Result<Duration> {
        ensure!((0.001..=1e6).contains(&self.seconds), "a time up to 1000000 seconds is needed");
        Ok(Duration::from_secs_f64(self.seconds))
    }

    /// Bytes from the start of a device that are used at most.
    pub fn range_bytes(&self) -> u64 {
        self.range.or(self.verify.then_some(VERIFY_RANGE_BYTES)).unwrap_or(u64::MAX)
    }

    /// Writes the result where it was asked for. True: standard output has it, and nothing else
    /// belongs there.
    pub fn write_json(&self, report: &impl Serialize) -> Result<bool> {
        let Some(file) = &self.json else { return Ok(false) };
        let json = serde_json::to_string_pretty(report)?;
        if file.as_os_str() == "-" {
            println!("{json}");
            return Ok(true);
        }
        std::fs::write(file, json + "\n").with_context(|| format!("{}", file.display()))?;
        Ok(false)
    }
}
