//! The text forms: plain, JSON, Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;

use regex::Regex;
use serde_json::{Value as Json, json};

use super::histogram::BOUNDS;
use super::sample::{Sample, Shown};

/// Which samples are shown.
#[derive(Debug, Default)]
pub struct Filter {
    /// The plain name matches.
    pub name: Option<Regex>,
    /// Something was counted.
    pub used_only: bool,
    /// `Counters`, `Gauges` or `Histograms`.
    pub kind: Option<String>,
}

impl Filter {
    /// Leaves out what is not asked for.
    pub fn apply(&self, samples: &mut Vec<Sample>) {
        samples.retain(|sample| self.takes(sample));
    }

    fn takes(&self, sample: &Sample) -> bool {
        let (kind, used) = match &sample.shown {
            Shown::Counter(number) => ("counters", *number > 0),
            Shown::Gauge(number) => ("gauges", *number != 0),
            Shown::Histogram(reading) => (
                "histograms",
                reading.as_ref().is_some_and(|reading| reading.count() > 0),
            ),
        };
        let of_kind = self.kind.as_deref().is_none_or(|asked| {
            asked.eq_ignore_ascii_case("all") || asked.eq_ignore_ascii_case(kind)
        });
        let named = self
            .name
            .as_ref()
            .is_none_or(|name| name.is_match(&sample.plain));
        of_kind && named && (used || !self.used_only)
    }
}

/// The plain form, as Envoy's `/stats`: numbers by name, then histograms.
pub fn plain(samples: &[Sample]) -> String {
    let (mut numbers, mut histograms) = (Vec::new(), Vec::new());
    for sample in samples {
        let name = &sample.plain;
        match &sample.shown {
            Shown::Counter(number) => numbers.push(format!("{name}: {number}\n")),
            Shown::Gauge(number) => numbers.push(format!("{name}: {number}\n")),
            Shown::Histogram(Some(reading)) if reading.count() > 0 => {
                histograms.push(format!("{name}: {}\n", reading.summary()));
            }
            Shown::Histogram(_) => histograms.push(format!("{name}: No recorded values\n")),
        }
    }
    numbers.sort();
    histograms.sort();
    numbers.concat() + &histograms.concat()
}

/// The JSON form, as Envoy's `/stats?format=json`.
pub fn json(samples: &[Sample]) -> Json {
    let mut stats = Vec::new();
    let mut histograms = Vec::new();
    let mut quantiles = Vec::new();
    for sample in samples {
        match &sample.shown {
            Shown::Counter(number) => stats.push(json!({ "name": sample.plain, "value": number })),
            Shown::Gauge(number) => stats.push(json!({ "name": sample.plain, "value": number })),
            Shown::Histogram(Some(reading)) if reading.count() > 0 => {
                quantiles = reading.quantiles().map(|(percent, _)| percent).collect();
                let values: Vec<Json> = reading
                    .quantiles()
                    .map(|(_, value)| json!({ "interval": null, "cumulative": value }))
                    .collect();
                histograms.push(json!({ "name": sample.plain, "values": values }));
            }
            Shown::Histogram(_) => {}
        }
    }
    if !histograms.is_empty() {
        let computed =
            json!({ "supported_quantiles": quantiles, "computed_quantiles": histograms });
        stats.push(json!({ "histograms": computed }));
    }
    json!({ "stats": stats })
}

/// The Prometheus form.
pub fn prometheus(samples: &[Sample]) -> String {
    let mut by_metric: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        by_metric.entry(&sample.metric).or_default().push(sample);
    }
    let mut text = String::new();
    for (metric, samples) in by_metric {
        let kind = match samples.first().map(|sample| &sample.shown) {
            Some(Shown::Counter(_)) => "counter",
            Some(Shown::Histogram(_)) => "histogram",
            _ => "gauge",
        };
        let _ = writeln!(text, "# TYPE {metric} {kind}");
        for sample in samples {
            match &sample.shown {
                Shown::Counter(number) => line(&mut text, metric, "", &sample.labels, number),
                Shown::Gauge(number) => line(&mut text, metric, "", &sample.labels, number),
                Shown::Histogram(reading) => {
                    histogram(&mut text, metric, sample, reading.as_deref())
                }
            }
        }
    }
    text
}

fn line(
    text: &mut String,
    metric: &str,
    suffix: &str,
    labels: &str,
    number: impl std::fmt::Display,
) {
    let _ = writeln!(text, "{metric}{suffix}{{{labels}}} {number}");
}

fn histogram(
    text: &mut String,
    metric: &str,
    sample: &Sample,
    reading: Option<&super::histogram::Reading>,
) {
    // What never recorded anything is left out, as Envoy does with unused histograms.
    let Some(reading) = reading else {
        return;
    };
    let comma = if sample.labels.is_empty() { "" } else { "," };
    for (bound, upto) in BOUNDS.iter().zip(reading.cumulative) {
        let labels = format!("{}{comma}le=\"{bound}\"", sample.labels);
        line(text, metric, "_bucket", &labels, upto);
    }
    let labels = format!("{}{comma}le=\"+Inf\"", sample.labels);
    line(text, metric, "_bucket", &labels, reading.count());
    line(text, metric, "_sum", &sample.labels, reading.sum);
    line(text, metric, "_count", &sample.labels, reading.count());
}
