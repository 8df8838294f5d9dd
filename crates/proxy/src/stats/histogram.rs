//! Histograms with Envoy's default buckets.

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Metric, Value};

/// Upper bounds of Envoy's default buckets, milliseconds.
pub const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// Envoy's quantiles.
const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];
/// What cannot be below a bucket's bound is counted past the last one.
const BUCKETS: usize = BOUNDS.len() + 1;

/// Times in milliseconds. What never recorded anything takes a pointer: most clusters of a mesh are idle.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; BUCKETS],
    /// Microseconds.
    sum: AtomicU64,
}

/// A histogram's numbers at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Values up to each bound, and all.
    pub cumulative: [u64; BUCKETS],
    /// Their sum, milliseconds.
    pub sum: f64,
}

// === impl Histogram ===

impl Histogram {
    /// Records a time.
    pub fn record(&self, time: Duration) {
        let counts = self.0.get_or_init(Box::default);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let milliseconds = time.as_secs_f64() * 1000.0;
        let bucket = BOUNDS.partition_point(|bound| *bound < milliseconds);
        if let Some(bucket) = counts.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        counts.sum.fetch_add(micros, Ordering::Relaxed);
    }

    /// The numbers; none if nothing was ever recorded.
    pub fn read(&self) -> Option<Reading> {
        let counts = self.0.get()?;
        let mut total = 0;
        let cumulative = counts.buckets.each_ref().map(|bucket| {
            total += bucket.load(Ordering::Relaxed);
            total
        });
        Some(Reading {
            cumulative,
            sum: counts.sum.load(Ordering::Relaxed) as f64 / 1000.0,
        })
    }
}

impl Metric for Histogram {
    fn value(&self) -> Value<'_> {
        Value::Histogram(self)
    }

    fn reset(&self) {
        if let Some(counts) = self.0.get() {
            for bucket in &counts.buckets {
                bucket.store(0, Ordering::Relaxed);
            }
            counts.sum.store(0, Ordering::Relaxed);
        }
    }
}

// === impl Reading ===

impl Reading {
    /// Values in all.
    pub fn count(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or_default()
    }

    /// The value below which this part of all values lies, taken as evenly spread within its bucket.
    pub fn quantile(&self, part: f64) -> f64 {
        let rank = part * self.count() as f64;
        let (mut low, mut before) = (0.0, 0u64);
        for (bound, upto) in BOUNDS.iter().zip(self.cumulative) {
            if upto > 0 && upto as f64 >= rank && upto > before {
                let within = (rank - before as f64).max(0.0) / (upto - before) as f64;
                return low + (bound - low) * within;
            }
            (low, before) = (*bound, upto);
        }
        low
    }

    /// Envoy's plain form: `P0(nan,1) P25(nan,1.02) …`; intervals are not kept.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for part in QUANTILES {
            let space = if text.is_empty() { "" } else { " " };
            let percent = part * 100.0;
            let value = (self.quantile(part) * 100.0).round() / 100.0;
            let _ = write!(text, "{space}P{percent}(nan,{value})");
        }
        text
    }

    /// Envoy's quantiles in percent, with their values.
    pub fn quantiles(&self) -> impl Iterator<Item = (f64, f64)> {
        QUANTILES
            .into_iter()
            .map(|part| (part * 100.0, self.quantile(part)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fall_into_envoys_buckets() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read(), None);
        for micros in [0, 500, 501, 1000, 7_000, 4_000_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let reading = histogram.read().unwrap();
        assert_eq!(reading.cumulative[..5], [2, 4, 4, 5, 5]);
        assert_eq!(reading.count(), 6);
        assert!(
            (reading.sum - 4_000_009.001).abs() < 0.01,
            "{}",
            reading.sum
        );
        assert!(reading.quantile(0.5) <= 1.0 && reading.quantile(1.0) == 3_600_000.0);
        assert!(
            reading.summary().starts_with("P0(nan,0) P25(nan,"),
            "{}",
            reading.summary()
        );
        histogram.reset();
        assert_eq!(histogram.read().unwrap().count(), 0);
    }
}
