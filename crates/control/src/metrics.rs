//! The control plane's metrics under upstream's names, in Prometheus' text format.
//!
//! Written here because upstream's counters are not named `…_total`, which OpenMetrics encoders insist on.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// Most label combinations one metric keeps; what comes after is counted without labels of its own.
const SERIES_BOUND: usize = 10_000;

/// Type of a metric.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Counter,
    Gauge,
}

/// A metric of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// Events received from the Kubernetes API.
    ApiEvents,
    /// Connected proxies.
    ConnectedProxies,
    /// Responses sent to proxies.
    ResponsesSent,
    /// Responses that could not be sent.
    ResponsesFailed,
    /// New configurations handed to all proxies.
    Broadcasts,
    /// Requests of proxies.
    Requests,
    /// Configurations that proxies refused.
    Refusals,
    /// Streams refused because there are too many.
    Rejected,
    /// Certificates issued.
    CertificatesIssued,
    /// Answers of the admission webhooks.
    Admissions,
    /// Kubernetes Events about objects, written or left out.
    Events,
    /// The program's version.
    Version,
}

// === impl Metric ===

impl Metric {
    const ALL: [Metric; 12] = [
        Metric::ApiEvents,
        Metric::ConnectedProxies,
        Metric::ResponsesSent,
        Metric::ResponsesFailed,
        Metric::Broadcasts,
        Metric::Requests,
        Metric::Refusals,
        Metric::Rejected,
        Metric::CertificatesIssued,
        Metric::Admissions,
        Metric::Events,
        Metric::Version,
    ];

    /// Name, type, help, label names.
    fn describe(self) -> (&'static str, Type, &'static str, &'static [&'static str]) {
        const PROXY: &[&str] = &["proxy_uuid", "identity", "type"];
        match self {
            Metric::ApiEvents => (
                "osm_k8s_api_event_count",
                Type::Counter,
                "Events received from the Kubernetes API server",
                &["type", "namespace"],
            ),
            Metric::ConnectedProxies => (
                "osm_proxy_connect_count",
                Type::Gauge,
                "Proxies connected to the controller",
                &[],
            ),
            Metric::ResponsesSent => (
                "osm_proxy_response_send_success_count",
                Type::Counter,
                "Responses sent to proxies",
                PROXY,
            ),
            Metric::ResponsesFailed => (
                "osm_proxy_response_send_error_count",
                Type::Counter,
                "Responses that could not be sent",
                PROXY,
            ),
            Metric::Broadcasts => (
                "osm_proxy_broadcast_event_count",
                Type::Counter,
                "New configurations offered to all proxies",
                &[],
            ),
            Metric::Requests => (
                "osm_proxy_xds_request_count",
                Type::Counter,
                "Requests of proxies",
                PROXY,
            ),
            Metric::Refusals => (
                "osm_proxy_nack_count",
                Type::Counter,
                "Configurations that proxies refused",
                PROXY,
            ),
            Metric::Rejected => (
                "osm_proxy_max_connections_rejected",
                Type::Counter,
                "Streams refused by the limit",
                &[],
            ),
            Metric::CertificatesIssued => (
                "osm_cert_issued_count",
                Type::Counter,
                "Certificates issued to proxies",
                &[],
            ),
            Metric::Admissions => (
                "osm_admission_webhook_response_total",
                Type::Counter,
                "Answers of the admission webhooks",
                &["kind", "success"],
            ),
            Metric::Events => (
                "osm_kubernetes_event_count",
                Type::Counter,
                "Kubernetes Events about objects by result: written, failed or dropped",
                &["reason", "result"],
            ),
            Metric::Version => (
                "osm_version_info",
                Type::Gauge,
                "The program's version",
                &["version", "build_date", "git_commit"],
            ),
        }
    }
}

/// All metrics of one program.
#[derive(Default)]
pub(crate) struct Metrics {
    series: Mutex<BTreeMap<Metric, BTreeMap<Vec<String>, i64>>>,
}

// === impl Metrics ===

impl Metrics {
    /// Adds to a metric; `labels` are the values in the order of the metric's label names.
    pub(crate) fn add(&self, metric: Metric, labels: &[&str], amount: i64) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let series = all.entry(metric).or_default();
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        if series.len() >= SERIES_BOUND && !series.contains_key(&labels) {
            return;
        }
        *series.entry(labels).or_default() += amount;
    }

    /// Forgets the series whose first label has this value: a proxy that is gone.
    pub(crate) fn forget(&self, first_label: &str) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for series in all.values_mut() {
            series.retain(|labels, _| labels.first().is_none_or(|label| label != first_label));
        }
    }

    /// Everything as text for Prometheus.
    pub(crate) fn render(&self) -> String {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for metric in Metric::ALL {
            let (name, kind, help, labels) = metric.describe();
            let kind = if kind == Type::Counter {
                "counter"
            } else {
                "gauge"
            };
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            match all.get(&metric) {
                Some(series) => {
                    for (values, amount) in series {
                        let _ = writeln!(text, "{name}{} {amount}", label_set(labels, values));
                    }
                }
                None if labels.is_empty() => {
                    let _ = writeln!(text, "{name} 0");
                }
                None => {}
            }
        }
        text
    }
}

fn label_set(names: &[&str], values: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = names
        .iter()
        .zip(values)
        .map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_counted_rendered_and_forgotten() {
        let metrics = Metrics::default();
        metrics.add(Metric::Requests, &["u1", "curl.demo", "CDS"], 1);
        metrics.add(Metric::Requests, &["u1", "curl.demo", "CDS"], 2);
        metrics.add(Metric::ConnectedProxies, &[], 1);
        let text = metrics.render();
        let line = "osm_proxy_xds_request_count{proxy_uuid=\"u1\",identity=\"curl.demo\",type=\"CDS\"} 3\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("\nosm_proxy_connect_count 1\n"), "{text}");
        assert!(
            text.contains("\nosm_proxy_broadcast_event_count 0\n"),
            "{text}"
        );
        metrics.forget("u1");
        assert!(!metrics.render().contains("u1"));
    }
}
