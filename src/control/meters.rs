//! What is set and counted per bdev: rate limits, histograms, and the counts of channels that are
//! closed.
//!
//! It stays with the bdev as long as that exists, whether a LUN shows it or not.

use rustix::io::Errno;

use super::{Control, Desk, Refused};
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
}

/// Sets the rate limits of a bdev. They hold for all LUNs that show it, or a bdev over it.
pub async fn set_rate_limits(
    desk: &Desk,
    name: &str,
    change: impl FnOnce(RateLimits) -> RateLimits,
) -> Result<RateLimits, Refused> {
    let _hold = desk.hold_bdev(name, "its rate limits are being set").await?;
    let (name, before) = desk.with(|control| {
        let name = control.bdev(name)?.name().to_owned();
        let before = control.rate_limits(&name);
        Ok::<_, Refused>((name, before))
    })?;
    let limits = change(before);
    let keep = |limits| {
        desk.with(|control| control.meters.entry(name.clone()).or_default().limits = limits);
    };
    keep(limits);
    if let Err(refused) = apply_limits(desk, &name).await {
        keep(before);
        if let Err(error) = apply_limits(desk, &name).await {
            tracing::warn!("bdev {name}: while undoing a change that failed: {error}");
        }
        return Err(refused);
    }
    tracing::info!("bdev {name}: {limits:?}");
    Ok(before)
}

/// Brings changed limits of a bdev to the logical unit that shows it or a bdev over it.
async fn apply_limits(desk: &Desk, name: &str) -> Result<(), Refused> {
    let mut affected = desk.with(|control| control.bdevs.names_over(name));
    affected.push(name.to_owned());
    for name in affected {
        let limited = desk.with(|control| {
            let limits = control.limits_of_unit(&name);
            control.units.get(&name)?.lu.limiter.set(&limits);
            Some(limits.is_on())
        });
        let Some(limited) = limited else { continue };
        desk.all(&Action::RateLimits { bdev: name, limited }).await?;
    }
    Ok(())
}

/// Begins to count how long a bdev's operations take, anew, or stops. What was counted before.
pub async fn enable_histogram(
    desk: &Desk,
    name: &str,
    enable: bool,
    only: Option<OpKind>,
) -> Result<Option<Option<OpKind>>, Refused> {
    let _hold = desk.hold_bdev(name, "its histogram is being set").await?;
    let (name, before) = desk.with(|control| {
        let name = control.bdev(name)?.name().to_owned();
        let before = control.histogram_kind(&name);
        Ok::<_, Refused>((name, before))
    })?;
    desk.all(&Action::SetHistogram { bdev: name.clone(), enable, only }).await?;
    let histogram = enable.then(|| Histogram::new(only));
    desk.with(|control| control.meters.entry(name).or_default().histogram = histogram);
    Ok(before)
}

/// How long a bdev's operations took, over all cores. EFAULT where it is not counted, as in
/// SPDK.
pub async fn histogram(desk: &Desk, name: &str) -> Result<Histogram, Refused> {
    let (name, past) = desk.with(|control| {
        let name = control.bdev(name)?.name().to_owned();
        let past = control.meters.get(&name).and_then(|meters| meters.histogram.clone());
        Ok::<_, Refused>((name, past))
    })?;
    let Some(mut sum) = past else {
        let what = format!("bdev {name}: bdev_enable_histogram has not been called");
        return Err(Refused::new(Errno::FAULT, what));
    };
    for report in desk.all(&Action::Histogram { bdev: name }).await? {
        if let Some(histogram) = &report.histogram {
            sum.add(histogram);
        }
    }
    Ok(sum)
}

/// A bdev has just been opened on all cores.
pub(super) async fn begin_histogram(desk: &Desk, bdev: &str) {
    let Some(only) = desk.with(|control| control.histogram_kind(bdev)) else { return };
    let set = Action::SetHistogram { bdev: bdev.to_owned(), enable: true, only };
    if let Err(error) = desk.all(&set).await {
        tracing::warn!("bdev {bdev}: the histogram will be incomplete: {error}");
    }
}

/// Starts the I/O counts of some bdevs anew on every core: all counts, or only the longest and
/// shortest times.
pub async fn reset_io_counts(desk: &Desk, bdevs: Vec<String>, sums: bool) -> Result<(), Refused> {
    desk.with(|control| {
        for bdev in &bdevs {
            if let Some(meters) = control.meters.get_mut(bdev) {
                meters.past.reset(sums);
            }
        }
    });
    desk.all(&Action::ResetIoCounts { bdevs, sums }).await.map(drop)
}
