//! Numbers with their names in both forms.

use super::histogram::Reading;
use super::{Group, Metric, Value};

/// The front part of names, and labels: a cluster's, a listener's, a filter's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Before a name on `/stats`, with its last dot.
    pub(super) plain: String,
    /// Before a name for Prometheus, with its last underscore.
    metric: String,
    labels: Vec<(&'static str, String)>,
}

/// One number with its names.
#[derive(Debug)]
pub struct Sample {
    /// As `/stats` writes it.
    pub plain: String,
    /// As Prometheus writes it.
    pub metric: String,
    /// Prometheus' labels, `name="value"` with commas.
    pub labels: String,
    /// What it shows.
    pub shown: Shown,
}

/// What a sample shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// A number that only grows.
    Counter(u64),
    /// A number that goes up and down.
    Gauge(i64),
    /// Times; none if nothing was recorded.
    Histogram(Option<Box<Reading>>),
}

/// Samples as they are collected.
#[derive(Debug, Default)]
pub struct Samples(pub Vec<Sample>);

// === impl Family ===

impl Family {
    /// Any, by the front parts of both names.
    pub fn new(plain: impl Into<String>, metric: impl Into<String>) -> Family {
        Family {
            plain: plain.into(),
            metric: metric.into(),
            labels: Vec::new(),
        }
    }

    /// With a label; its value must come from configuration.
    pub fn label(mut self, name: &'static str, value: impl Into<String>) -> Family {
        self.labels.push((name, value.into()));
        self
    }

    /// A cluster's: `cluster.<name>.`.
    pub fn cluster(name: &str) -> Family {
        Family::new(format!("cluster.{name}."), "envoy_cluster_").label("envoy_cluster_name", name)
    }

    /// A listener's: `listener.<name>.`.
    pub fn listener(name: &str) -> Family {
        Family::new(format!("listener.{name}."), "envoy_listener_")
            .label("envoy_listener_address", name)
    }

    /// A connection manager's: `http.<prefix>.`.
    pub fn http(prefix: &str) -> Family {
        Family::new(format!("http.{prefix}."), "envoy_http_")
            .label("envoy_http_conn_manager_prefix", prefix)
    }

    /// An HTTP filter's below its connection manager: `http.<prefix>.<filter>.`, the filter with dots if it has more parts.
    pub fn http_filter(prefix: &str, filter: &str) -> Family {
        Family::new(
            format!("http.{prefix}.{filter}."),
            format!("envoy_http_{}_", underscored(filter)),
        )
        .label("envoy_http_conn_manager_prefix", prefix)
    }

    /// A TCP proxy's: `tcp.<prefix>.`.
    pub fn tcp(prefix: &str) -> Family {
        Family::new(format!("tcp.{prefix}."), "envoy_tcp_").label("envoy_tcp_prefix", prefix)
    }

    /// A network filter's with a prefix of its own, as `local_rate_limit.<prefix>.`; Prometheus' label names the prefix.
    pub fn prefixed(filter: &str, prefix: &str, label: &'static str) -> Family {
        Family::new(
            format!("{filter}.{prefix}."),
            format!("envoy_{}_", underscored(filter)),
        )
        .label(label, prefix)
    }
}

// === impl Samples ===

impl Samples {
    /// Every field of a group.
    pub fn group(&mut self, family: &Family, group: &dyn Group) {
        group.each(&mut |short, metric| self.metric(family, short, metric));
    }

    /// A counter's number.
    pub fn counter(&mut self, family: &Family, short: &str, number: u64) {
        self.push(family, short, &[], Shown::Counter(number));
    }

    /// A gauge's number.
    pub fn gauge(&mut self, family: &Family, short: &str, number: i64) {
        self.push(family, short, &[], Shown::Gauge(number));
    }

    /// Anything that is shown.
    pub fn metric(&mut self, family: &Family, short: &str, metric: &dyn Metric) {
        match metric.value() {
            Value::Counter(number) => self.counter(family, short, number),
            Value::Gauge(number) => self.gauge(family, short, number),
            Value::Histogram(histogram) => {
                let shown = Shown::Histogram(histogram.read().map(Box::new));
                self.push(family, short, &[], shown);
            }
            Value::Classes(classes) => {
                for (digit, number) in ["1", "2", "3", "4", "5"].into_iter().zip(classes) {
                    let sample = Sample {
                        plain: format!("{}{short}_{digit}xx", family.plain),
                        metric: format!("{}{short}_xx", family.metric),
                        labels: labels(&[("envoy_response_code_class", digit.into())], family),
                        shown: Shown::Counter(number),
                    };
                    self.0.push(sample);
                }
            }
        }
    }

    /// A counter that differs from its like by a label; `plain` stands at the end of its plain name.
    pub fn labelled(&mut self, family: &Family, short: &str, plain: &str, metric: &dyn Metric) {
        let Value::Counter(number) = metric.value() else {
            return;
        };
        self.0.push(Sample {
            plain: format!("{}{short}.{plain}", family.plain),
            metric: format!("{}{}", family.metric, underscored(short)),
            labels: labels(&[], family),
            shown: Shown::Counter(number),
        });
    }

    fn push(&mut self, family: &Family, short: &str, more: &[(&str, String)], shown: Shown) {
        self.0.push(Sample {
            plain: format!("{}{short}", family.plain),
            metric: prometheus_name(&family.metric, short),
            labels: labels(more, family),
            shown,
        });
    }
}

/// Our own metrics do not carry Envoy's name.
fn prometheus_name(front: &str, short: &str) -> String {
    let name = underscored(short);
    match name.starts_with("osm_") {
        true => name,
        false => format!("{front}{name}"),
    }
}

fn underscored(name: &str) -> String {
    name.chars()
        .map(|letter| match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => letter,
            _ => '_',
        })
        .collect()
}

fn labels(more: &[(&str, String)], family: &Family) -> String {
    let mut text = String::new();
    let own = family.labels.iter().map(|(name, value)| (*name, value));
    for (name, value) in more.iter().map(|(name, value)| (*name, value)).chain(own) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for letter in value.chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                other => text.push(other),
            }
        }
        text.push('"');
    }
    text
}
