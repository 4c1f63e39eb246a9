//! What a run came to: as a table for people, as JSON for programs.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::{Plan, Tally, Totals};

/// A run's result. Field names carry their units.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What was run.
    pub job: Job,
    /// Reads and writes together.
    pub total: Line,
    /// Reads, unless there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<Line>,
    /// Writes, unless there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Line>,
    /// Commands that failed and data that differed.
    pub errors: u64,
    /// The first of them in words.
    pub errors_shown: Vec<String>,
    /// Blocks that the final sweep of a verified run has read again.
    pub blocks_swept: u64,
    /// The run ended before its time because somebody asked for it.
    pub interrupted: bool,
}

/// What was run.
#[derive(Debug, Clone, Serialize)]
pub struct Job {
    /// Address of the target.
    pub target: String,
    /// Workload by name.
    pub pattern: String,
    /// Sizes as on the command line.
    pub io_size: String,
    /// Smallest size.
    pub io_bytes_min: u32,
    /// Largest size.
    pub io_bytes_max: u32,
    /// Percentage of reads.
    pub read_percent: u8,
    /// Commands in flight per channel.
    pub depth: u32,
    /// Channels.
    pub channels: usize,
    /// Logical units.
    pub luns: Vec<u16>,
    /// Seed of the pattern.
    pub seed: u64,
    /// Whether data was verified.
    pub verify: bool,
    /// From the first command to the last answer.
    pub elapsed_s: f64,
}

/// Figures of one kind of command.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Line {
    /// Commands that ended well.
    pub ios: u64,
    /// Bytes they moved.
    pub bytes: u64,
    /// Commands per second.
    pub iops: f64,
    /// Mebibytes per second.
    pub mib_per_s: f64,
    /// Latencies.
    pub latency_us: Latency,
}

/// Latencies in microseconds, from submission to the poll that finds the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Mean.
    pub avg: f64,
    /// Shortest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p99_9: f64,
    /// Longest.
    pub max: f64,
}

impl Latency {
    fn of(latency_ns: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        if latency_ns.is_empty() {
            return Latency { avg: 0.0, min: 0.0, p50: 0.0, p99: 0.0, p99_9: 0.0, max: 0.0 };
        }
        Latency {
            avg: latency_ns.mean() / 1e3,
            min: us(latency_ns.min()),
            p50: us(latency_ns.value_at_quantile(0.5)),
            p99: us(latency_ns.value_at_quantile(0.99)),
            p99_9: us(latency_ns.value_at_quantile(0.999)),
            max: us(latency_ns.max()),
        }
    }
}

impl Line {
    /// The figures of `tally` over a time.
    pub fn of(tally: &Tally, elapsed_s: f64) -> Self {
        let per_second = |count: f64| if elapsed_s > 0.0 { count / elapsed_s } else { 0.0 };
        Line {
            ios: tally.ios,
            bytes: tally.bytes,
            iops: per_second(tally.ios as f64),
            mib_per_s: per_second(tally.bytes as f64 / f64::from(1 << 20)),
            latency_us: Latency::of(&tally.latency_ns),
        }
    }
}

/// How many commands were at least as fast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentile {
    /// Of all commands, in percent.
    pub percent: f64,
    /// Latency in microseconds.
    pub us: f64,
}

/// The points of a latency histogram that are worth a line.
pub fn percentiles(latency_ns: &Histogram<u64>) -> Vec<Percentile> {
    if latency_ns.is_empty() {
        return Vec::new();
    }
    [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99, 99.999, 100.0]
        .map(|percent| {
            let ns = latency_ns.value_at_quantile(percent / 100.0);
            Percentile { percent, us: ns as f64 / 1e3 }
        })
        .to_vec()
}

impl Report {
    /// The result of a run on `channels` channels of the target at `address`.
    pub fn new(plan: &Plan, address: &str, channels: usize, totals: &Totals) -> Self {
        let elapsed_s = totals.elapsed.as_secs_f64();
        let line = |tally: &Tally| (tally.ios > 0).then(|| Line::of(tally, elapsed_s));
        Report {
            job: Job {
                target: address.to_string(),
                pattern: plan.workload.name().to_string(),
                io_size: plan.sizes.to_string(),
                io_bytes_min: plan.sizes.min(),
                io_bytes_max: plan.sizes.max(),
                read_percent: plan.workload.read_percent(plan.read_percent),
                depth: plan.depth,
                channels,
                luns: plan.units.iter().map(|unit| unit.lun).collect(),
                seed: plan.seed,
                verify: plan.verify,
                elapsed_s,
            },
            total: Line::of(&totals.reads.sum(&totals.writes), elapsed_s),
            read: line(&totals.reads),
            write: line(&totals.writes),
            errors: totals.errors,
            errors_shown: totals.errors_shown.clone(),
            blocks_swept: totals.blocks_swept,
            interrupted: totals.interrupted,
        }
    }

    /// The table that a run ends with.
    pub fn table(&self) -> String {
        let Job { pattern, io_size, depth, channels, luns, elapsed_s, .. } = &self.job;
        let luns: Vec<String> = luns.iter().map(u16::to_string).collect();
        let mut text = format!(
            "{pattern} {io_size}, depth {depth} x {channels} channels, LUN {}, {elapsed_s:.2} s\n",
            luns.join(",")
        );
        let columns = ["", "IOPS", "MiB/s", "avg us", "min", "p50", "p99", "p99.9", "max"];
        row(&mut text, columns.map(str::to_string));
        let lines = [("total", Some(&self.total)), ("read", self.read.as_ref())];
        for (name, line) in lines.into_iter().chain([("write", self.write.as_ref())]) {
            let Some(Line { iops, mib_per_s, latency_us: us, .. }) = line else { continue };
            let figure = |value: f64| format!("{value:.1}");
            row(
                &mut text,
                [
                    name.to_string(),
                    format!("{iops:.0}"),
                    figure(*mib_per_s),
                    figure(us.avg),
                    figure(us.min),
                    figure(us.p50),
                    figure(us.p99),
                    figure(us.p99_9),
                    figure(us.max),
                ],
            );
        }
        if self.job.verify {
            let _ = writeln!(text, "verified; blocks in the final sweep: {}", self.blocks_swept);
        }
        if self.interrupted {
            text.push_str("interrupted\n");
        }
        let _ = writeln!(text, "errors: {}", self.errors);
        for error in &self.errors_shown {
            let _ = writeln!(text, "  {error}");
        }
        text
    }
}

fn row(text: &mut String, cells: [String; 9]) {
    let [name, figures @ ..] = cells;
    let _ = write!(text, "{name:<6}");
    for figure in figures {
        let _ = write!(text, " {figure:>10}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pattern::Workload;
    use crate::port::Unit;

    fn report() -> Report {
        let plan = Plan {
            units: vec![Unit { lun: 2, block_bytes: 512, blocks: 256 }],
            sizes: "4k".parse().unwrap(),
            workload: Workload::RandRead,
            read_percent: 50,
            depth: 8,
            duration: Duration::from_secs(2),
            verify: false,
            seed: 1,
            stop: crate::interrupt::Interrupt::default(),
        };
        let mut totals = Totals { elapsed: Duration::from_secs(2), ..Totals::default() };
        for us in 1..=1000 {
            totals.reads.ios += 1;
            totals.reads.bytes += 4096;
            totals.reads.latency_ns.saturating_record(us * 1000);
        }
        totals.errors = 1;
        totals.errors_shown.push("LUN 2: gone".into());
        Report::new(&plan, "shm:/run/a", 1, &totals)
    }

    #[test]
    fn figures_follow_from_counts() {
        let Report { total, read, write, .. } = report();
        assert_eq!((total.ios, total.iops), (1000, 500.0));
        assert_eq!(total.mib_per_s, 1000.0 * 4096.0 / 1_048_576.0 / 2.0);
        let near = |found: f64, expected: f64| (found - expected).abs() < expected * 0.002;
        let us = total.latency_us;
        assert!(near(us.avg, 500.5) && near(us.p50, 500.0) && near(us.p99, 990.0), "{us:?}");
        assert!(near(us.min, 1.0) && near(us.p99_9, 999.0) && near(us.max, 1000.0), "{us:?}");
        assert_eq!((read, write), (Some(total), None));
    }

    #[test]
    fn the_table_is_aligned() {
        let table = report().table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "randread 4k, depth 8 x 1 channels, LUN 2, 2.00 s");
        assert!(lines[1..4].iter().all(|line| line.len() == lines[1].len()), "{table}");
        assert!(lines[2].starts_with("total         500        2.0      500."), "{table}");
        assert_eq!(lines[4..], ["errors: 1", "  LUN 2: gone"]);
    }

    #[test]
    fn the_json_has_the_names_that_scripts_read() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["job"]["luns"][0], 2);
        assert_eq!(json["total"]["iops"], 500.0);
        assert!(json["total"]["latency_us"]["p99_9"].is_number());
        assert!(json.get("write").is_none());
    }
}
