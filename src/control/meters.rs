//! What is set and counted per bdev: rate limits, histograms, and the counts of channels that are
//! closed.
//!
//! It stays with the bdev as long as that exists, whether a LUN shows it or not.

use rustix::io::Errno;

use super::{Control, Refused};
use crate::shard::message::{Action, IoCounts, Report};
use crate::shard::meter::{Histogram, OpKind};
use crate::shard::qos::rate::RateLimits;

/// Of one bdev.
#[derive(Debug, Default)]
pub(super) struct Meters {
    limits: RateLimits,
    /// Counts of channels that are closed.
    past: IoCounts,
    /// Times in channels that are closed; `None`: times are not counted.
    histogram: Option<Histogram>,
}

impl Control {
    /// The rate limits of a bdev, as they were set.
    pub fn rate_limits(&self, bdev: &str) -> RateLimits {
        self.meters.get(bdev).map(|meters| meters.limits).unwrap_or_default()
    }

    /// Sets the rate limits of a bdev. They hold for all LUNs that show it, or a bdev over it.
    pub fn set_rate_limits(&mut self, name: &str, limits: RateLimits) -> Result<(), Refused> {
        let name = self.bdev(name)?.name().to_owned();
        let before = self.rate_limits(&name);
        self.meters.entry(name.clone()).or_default().limits = limits;
        let set = self.apply_limits(&name);
        if set.is_err() {
            self.meters.entry(name.clone()).or_default().limits = before;
            if let Err(error) = self.apply_limits(&name) {
                tracing::warn!("bdev {name}: while undoing a change that failed: {error}");
            }
        }
        set?;
        tracing::info!("bdev {name}: {limits:?}");
        Ok(())
    }

    /// Brings changed limits of a bdev to the logical unit that shows it or a bdev over it.
    fn apply_limits(&mut self, name: &str) -> Result<(), Refused> {
        let mut affected = self.bdevs.names_over(name);
        affected.push(name.to_owned());
        for name in affected {
            let limits = self.limits_of_unit(&name);
            let Some(unit) = self.units.get(&name) else { continue };
            unit.lu.limiter.set(&limits);
            self.all(&Action::RateLimits { bdev: name, limited: limits.is_on() })?;
        }
        Ok(())
    }

    /// What holds for a logical unit: the limits of its bdev and of all below.
    pub(super) fn limits_of_unit(&self, bdev: &str) -> RateLimits {
        let below = |name: &&str| self.bdevs.base_of(name);
        let chain = std::iter::successors(Some(bdev), below);
        chain.fold(RateLimits::default(), |limits, name| limits.over(&self.rate_limits(name)))
    }

    /// Whether times of a bdev are counted, and if so of which operations.
    pub fn histogram_kind(&self, bdev: &str) -> Option<Option<OpKind>> {
        self.meters.get(bdev)?.histogram.as_ref().map(Histogram::only)
    }

    /// Begins to count how long a bdev's operations take, anew, or stops.
    pub fn enable_histogram(
        &mut self,
        name: &str,
        enable: bool,
        only: Option<OpKind>,
    ) -> Result<(), Refused> {
        let name = self.bdev(name)?.name().to_owned();
        self.all(&Action::SetHistogram { bdev: name.clone(), enable, only })?;
        self.meters.entry(name).or_default().histogram = enable.then(|| Histogram::new(only));
        Ok(())
    }

    /// How long a bdev's operations took, over all cores. EFAULT where it is not counted, as in
    /// SPDK.
    pub fn histogram(&mut self, name: &str) -> Result<Histogram, Refused> {
        let name = self.bdev(name)?.name().to_owned();
        let past = self.meters.get(&name).and_then(|meters| meters.histogram.clone());
        let Some(mut sum) = past else {
            let what = format!("bdev {name}: bdev_enable_histogram has not been called");
            return Err(Refused::new(Errno::FAULT, what));
        };
        for report in self.all(&Action::Histogram { bdev: name })? {
            if let Some(histogram) = &report.histogram {
                sum.add(histogram);
            }
        }
        Ok(sum)
    }

    /// A bdev has just been opened on all cores.
    pub(super) fn begin_histogram(&mut self, bdev: &str) {
        let Some(only) = self.histogram_kind(bdev) else { return };
        let set = Action::SetHistogram { bdev: bdev.to_owned(), enable: true, only };
        if let Err(error) = self.all(&set) {
            tracing::warn!("bdev {bdev}: the histogram will be incomplete: {error}");
        }
    }

    /// What closed channels of a bdev did.
    pub fn past_counts(&self, bdev: &str) -> IoCounts {
        self.meters.get(bdev).map(|meters| meters.past).unwrap_or_default()
    }

    /// The channels of a bdev have been closed on all cores.
    pub(super) fn keep_counts(&mut self, bdev: &str, reports: &[Report]) {
        let meters = self.meters.entry(bdev.to_owned()).or_default();
        for report in reports {
            report.bdevs.iter().for_each(|(_, counts)| meters.past.add(counts));
            if let (Some(sum), Some(histogram)) = (&mut meters.histogram, &report.histogram) {
                sum.add(histogram);
            }
        }
    }

    /// Starts the I/O counts of some bdevs anew on every core: all counts, or only the longest and
    /// shortest times.
    pub fn reset_io_counts(&mut self, bdevs: Vec<String>, sums: bool) -> Result<(), Refused> {
        for bdev in &bdevs {
            if let Some(meters) = self.meters.get_mut(bdev) {
                meters.past.reset(sums);
            }
        }
        self.all(&Action::ResetIoCounts { bdevs, sums }).map(drop)
    }
}
