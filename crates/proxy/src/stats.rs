//! Counters under Envoy's names, and their two text forms.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use http::StatusCode;
use parking_lot::Mutex;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// Responses by the first digit of their status.
#[derive(Debug, Default)]
pub struct Classes([Counter; 5]);

/// Counters of a cluster.
#[derive(Debug, Default)]
pub struct ClusterStats {
    /// Connections opened.
    pub connections: Counter,
    /// Connections open.
    pub connections_active: Gauge,
    /// Connections that failed to open.
    pub connect_failures: Counter,
    /// Connections that did not open in time.
    pub connect_timeouts: Counter,
    /// Requests sent.
    pub requests: Counter,
    /// Requests in flight.
    pub requests_active: Gauge,
    /// Requests that timed out.
    pub timeouts: Counter,
    /// Requests without an endpoint.
    pub unhealthy: Counter,
    /// Connections not opened: a limit.
    pub connection_overflow: Counter,
    /// Requests that had to wait for a connection.
    pub pending: Counter,
    /// Requests that wait for a connection.
    pub pending_active: Gauge,
    /// Requests refused: a limit.
    pub pending_overflow: Counter,
    /// Retries.
    pub retries: Counter,
    /// Retries not made: a limit.
    pub retry_overflow: Counter,
    /// Responses by class.
    pub classes: Classes,
    /// Bytes sent on opaque connections.
    pub sent: Counter,
    /// Bytes received on opaque connections.
    pub received: Counter,
}

/// Counters of a listener.
#[derive(Debug, Default)]
pub struct ListenerStats {
    /// Connections accepted.
    pub connections: Counter,
    /// Connections open.
    pub connections_active: Gauge,
    /// Connections that no chain took.
    pub no_filter_chain: Counter,
    /// TLS handshakes done.
    pub handshakes: Counter,
    /// TLS handshakes that failed.
    pub handshake_errors: Counter,
    /// Connections and requests that RBAC let pass.
    pub rbac_allowed: Counter,
    /// Connections and requests that RBAC refused.
    pub rbac_denied: Counter,
    /// Requests.
    pub requests: Counter,
    /// Requests in flight.
    pub requests_active: Gauge,
    /// Responses by class.
    pub classes: Classes,
}

/// All counters of the proxy.
#[derive(Debug)]
pub struct Stats {
    started: Instant,
    /// The xDS stream stands.
    pub connected: Gauge,
    /// xDS streams opened.
    pub streams: Counter,
    /// Certificates received.
    pub certificates: Counter,
    /// Seconds until the own certificate ends.
    pub certificate_seconds: Gauge,
    /// Access log lines dropped because the output is too slow.
    pub log_dropped: Counter,
    listeners: Mutex<BTreeMap<Arc<str>, Arc<ListenerStats>>>,
}

// === impl Counter, Gauge, Classes ===

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    /// Sets the number.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Goes up or down.
    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Classes {
    /// Counts a response.
    pub fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(1);
        if let Some(counter) = self.0.get(class) {
            counter.increment();
        }
    }
}

// === impl Stats ===

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            started: Instant::now(),
            connected: Gauge::default(),
            streams: Counter::default(),
            certificates: Counter::default(),
            certificate_seconds: Gauge::default(),
            log_dropped: Counter::default(),
            listeners: Mutex::default(),
        }
    }
}

impl Stats {
    /// The counters of a listener; made at its first sight. Names come from configuration only, so they are bounded.
    pub fn listener(&self, name: &Arc<str>) -> Arc<ListenerStats> {
        self.listeners
            .lock()
            .entry(name.clone())
            .or_default()
            .clone()
    }

    /// Seconds since the start.
    pub fn uptime(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// All counters, with those of the clusters given.
    pub fn samples<'a>(
        &self,
        clusters: impl Iterator<Item = (&'a str, &'a ClusterStats)>,
    ) -> Vec<Sample> {
        let mut samples = Samples(Vec::new());
        samples.add("server.live", "envoy_server_live", &[], Kind::Gauge, 1);
        samples.add(
            "server.uptime",
            "envoy_server_uptime",
            &[],
            Kind::Gauge,
            signed(self.uptime()),
        );
        samples.add(
            "server.days_until_first_cert_expiring",
            "envoy_server_days_until_first_cert_expiring",
            &[],
            Kind::Gauge,
            self.certificate_seconds.get() / 86_400,
        );
        samples.add(
            "control_plane.connected_state",
            "envoy_control_plane_connected_state",
            &[],
            Kind::Gauge,
            self.connected.get(),
        );
        samples.add(
            "osm_proxy.xds_streams",
            "osm_proxy_xds_streams",
            &[],
            Kind::Counter,
            signed(self.streams.get()),
        );
        samples.add(
            "osm_proxy.certificates",
            "osm_proxy_certificates",
            &[],
            Kind::Counter,
            signed(self.certificates.get()),
        );
        samples.add(
            "osm_proxy.access_log_dropped",
            "osm_proxy_access_log_dropped",
            &[],
            Kind::Counter,
            signed(self.log_dropped.get()),
        );
        for (name, stats) in self.listeners.lock().iter() {
            samples.listener(name, stats);
        }
        for (name, stats) in clusters {
            samples.cluster(name, stats);
        }
        samples.0
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// One number with its names.
#[derive(Debug)]
pub struct Sample {
    /// As `/stats` writes it.
    pub plain: String,
    metric: String,
    labels: String,
    kind: Kind,
    /// The number.
    pub value: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

struct Samples(Vec<Sample>);

impl Samples {
    fn add(&mut self, plain: &str, metric: &str, labels: &[(&str, &str)], kind: Kind, value: i64) {
        let mut text = String::new();
        for (name, value) in labels {
            let comma = if text.is_empty() { "" } else { "," };
            let escaped = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(text, "{comma}{name}=\"{escaped}\"");
        }
        self.0.push(Sample {
            plain: plain.to_owned(),
            metric: metric.to_owned(),
            labels: text,
            kind,
            value,
        });
    }

    fn cluster(&mut self, name: &str, stats: &ClusterStats) {
        let labels = [("envoy_cluster_name", name)];
        let mut one = |short: &str, kind, value| {
            self.add(
                &format!("cluster.{name}.{short}"),
                &format!("envoy_cluster_{short}"),
                &labels,
                kind,
                value,
            );
        };
        one(
            "upstream_cx_total",
            Kind::Counter,
            signed(stats.connections.get()),
        );
        one(
            "upstream_cx_active",
            Kind::Gauge,
            stats.connections_active.get(),
        );
        one(
            "upstream_cx_connect_fail",
            Kind::Counter,
            signed(stats.connect_failures.get()),
        );
        one(
            "upstream_cx_connect_timeout",
            Kind::Counter,
            signed(stats.connect_timeouts.get()),
        );
        one(
            "upstream_cx_tx_bytes_total",
            Kind::Counter,
            signed(stats.sent.get()),
        );
        one(
            "upstream_cx_rx_bytes_total",
            Kind::Counter,
            signed(stats.received.get()),
        );
        one(
            "upstream_cx_none_healthy",
            Kind::Counter,
            signed(stats.unhealthy.get()),
        );
        one(
            "upstream_rq_total",
            Kind::Counter,
            signed(stats.requests.get()),
        );
        one(
            "upstream_rq_active",
            Kind::Gauge,
            stats.requests_active.get(),
        );
        one(
            "upstream_rq_timeout",
            Kind::Counter,
            signed(stats.timeouts.get()),
        );
        one(
            "upstream_cx_overflow",
            Kind::Counter,
            signed(stats.connection_overflow.get()),
        );
        one(
            "upstream_rq_pending_total",
            Kind::Counter,
            signed(stats.pending.get()),
        );
        one(
            "upstream_rq_pending_active",
            Kind::Gauge,
            stats.pending_active.get(),
        );
        one(
            "upstream_rq_pending_overflow",
            Kind::Counter,
            signed(stats.pending_overflow.get()),
        );
        one(
            "upstream_rq_retry",
            Kind::Counter,
            signed(stats.retries.get()),
        );
        one(
            "upstream_rq_retry_overflow",
            Kind::Counter,
            signed(stats.retry_overflow.get()),
        );
        self.classes(
            "cluster",
            "envoy_cluster_upstream_rq_xx",
            "upstream_rq",
            labels,
            &stats.classes,
        );
    }

    fn listener(&mut self, name: &str, stats: &ListenerStats) {
        let labels = [("envoy_listener_address", name)];
        let mut one = |short: &str, kind, value| {
            self.add(
                &format!("listener.{name}.{short}"),
                &format!("envoy_listener_{}", short.replace('.', "_")),
                &labels,
                kind,
                value,
            );
        };
        one(
            "downstream_cx_total",
            Kind::Counter,
            signed(stats.connections.get()),
        );
        one(
            "downstream_cx_active",
            Kind::Gauge,
            stats.connections_active.get(),
        );
        one(
            "no_filter_chain_match",
            Kind::Counter,
            signed(stats.no_filter_chain.get()),
        );
        one(
            "ssl.handshake",
            Kind::Counter,
            signed(stats.handshakes.get()),
        );
        one(
            "ssl.connection_error",
            Kind::Counter,
            signed(stats.handshake_errors.get()),
        );
        one(
            "rbac.allowed",
            Kind::Counter,
            signed(stats.rbac_allowed.get()),
        );
        one(
            "rbac.denied",
            Kind::Counter,
            signed(stats.rbac_denied.get()),
        );
        let labels = [("envoy_http_conn_manager_prefix", name)];
        let mut one = |short: &str, kind, value| {
            self.add(
                &format!("http.{name}.{short}"),
                &format!("envoy_http_{short}"),
                &labels,
                kind,
                value,
            );
        };
        one(
            "downstream_rq_total",
            Kind::Counter,
            signed(stats.requests.get()),
        );
        one(
            "downstream_rq_active",
            Kind::Gauge,
            stats.requests_active.get(),
        );
        self.classes(
            "http",
            "envoy_http_downstream_rq_xx",
            "downstream_rq",
            labels,
            &stats.classes,
        );
    }

    fn classes(
        &mut self,
        scope: &str,
        metric: &str,
        short: &str,
        labels: [(&str, &str); 1],
        classes: &Classes,
    ) {
        let [(label, name)] = labels;
        for (class, counter) in (1..).zip(&classes.0) {
            let digit = class.to_string();
            let plain = format!("{scope}.{name}.{short}_{digit}xx");
            let labels = [("envoy_response_code_class", digit.as_str()), (label, name)];
            self.add(
                &plain,
                metric,
                &labels,
                Kind::Counter,
                signed(counter.get()),
            );
        }
    }
}

/// The plain form, as Envoy's `/stats`.
pub fn plain(samples: &[Sample]) -> String {
    let mut lines: Vec<String> = samples
        .iter()
        .map(|sample| format!("{}: {}\n", sample.plain, sample.value))
        .collect();
    lines.sort();
    lines.concat()
}

/// The Prometheus form.
pub fn prometheus(samples: &[Sample]) -> String {
    let mut by_metric: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        by_metric.entry(&sample.metric).or_default().push(sample);
    }
    let mut text = String::new();
    for (metric, samples) in by_metric {
        let counter = samples.iter().any(|sample| sample.kind == Kind::Counter);
        let _ = writeln!(
            text,
            "# TYPE {metric} {}",
            if counter { "counter" } else { "gauge" }
        );
        for sample in samples {
            let _ = writeln!(text, "{metric}{{{}}} {}", sample.labels, sample.value);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_carry_envoys_names() {
        let stats = Stats::default();
        stats.listener(&"in".into()).requests.add(3);
        let cluster = ClusterStats::default();
        cluster.classes.count(StatusCode::NOT_FOUND);
        let samples = stats.samples([("ns/svc|80", &cluster)].into_iter());
        let plain = plain(&samples);
        assert!(
            plain.contains("http.in.downstream_rq_total: 3\n"),
            "{plain}"
        );
        assert!(
            plain.contains("cluster.ns/svc|80.upstream_rq_4xx: 1\n"),
            "{plain}"
        );
        let text = prometheus(&samples);
        let line = "envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"4\",envoy_cluster_name=\"ns/svc|80\"} 1\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("# TYPE envoy_cluster_upstream_rq_xx counter\n"));
    }
}
