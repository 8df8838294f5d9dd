//! `/stats` and `/stats/prometheus`.

use regex::RegexBuilder;
use xds::client::Kind;

use super::{Admin, Answer, Query, json, text};
use crate::stats::{self, Family, Filter, Samples};

/// A pattern beyond this compiles into more than a page of statistics is worth.
const PATTERN_BYTES: usize = 1 << 20;

impl Admin {
    pub(super) fn stats(&self, query: &Query<'_>) -> Answer {
        let samples = match self.samples(query) {
            Ok(samples) => samples,
            Err(reason) => return text(http::StatusCode::BAD_REQUEST, &format!("{reason}\n")),
        };
        match query.value("format").as_deref() {
            Some("prometheus") => text(http::StatusCode::OK, &stats::prometheus(&samples.0)),
            Some("json") => json(&stats::json(&samples.0)),
            None | Some("text" | "html") => text(http::StatusCode::OK, &stats::plain(&samples.0)),
            Some(other) => text(
                http::StatusCode::BAD_REQUEST,
                &format!("usage: /stats?format=(text|json|prometheus), not {other}\n"),
            ),
        }
    }

    pub(super) fn prometheus(&self, query: &Query<'_>) -> Answer {
        match self.samples(query) {
            Ok(samples) => text(http::StatusCode::OK, &stats::prometheus(&samples.0)),
            Err(reason) => text(http::StatusCode::BAD_REQUEST, &format!("{reason}\n")),
        }
    }

    fn samples(&self, query: &Query<'_>) -> Result<Samples, String> {
        let pattern = query.value("filter").map(|pattern| {
            RegexBuilder::new(&pattern)
                .size_limit(PATTERN_BYTES)
                .build()
                .map_err(|error| format!("filter: {error}"))
        });
        let filter = Filter {
            name: pattern.transpose()?,
            used_only: query.has("usedonly"),
            kind: query.value("type").map(|kind| kind.into_owned()),
        };
        let mut samples = Samples::default();
        self.measure();
        self.shared.stats.sample(&mut samples);
        self.shared.overload.sample(&mut samples);
        self.subscriptions(&mut samples);
        let snapshot = self.shared.snapshot.load();
        let mut clusters: Vec<_> = snapshot.clusters.iter().collect();
        clusters.sort_by_key(|(name, _)| *name);
        for (name, cluster) in clusters {
            let family = Family::cluster(name);
            samples.group(&family, &*cluster.stats);
            cluster.numbers(&mut |short, is_gauge, number| match u64::try_from(number) {
                Ok(number) if !is_gauge => samples.counter(&family, short, number),
                _ => samples.gauge(&family, short, number),
            });
        }
        filter.apply(&mut samples.0);
        Ok(samples)
    }

    /// What is read, not counted.
    fn measure(&self) {
        let server = &self.shared.stats.server;
        let connections = i64::try_from(self.shared.connections()).unwrap_or(i64::MAX);
        server.connections.set(connections);
        server.concurrency.set(i64::from(self.settings.workers));
        server.state.set(self.state().number());
        if let Some((resident, anonymous)) = super::pages::memory() {
            server
                .memory
                .set(i64::try_from(resident).unwrap_or(i64::MAX));
            server
                .allocated
                .set(i64::try_from(anonymous).unwrap_or(i64::MAX));
        }
    }

    /// Envoy's `update_*` of each kind; of routes, endpoints and secrets in sum, for their names are many.
    fn subscriptions(&self, samples: &mut Samples) {
        let machine = self.machine.lock();
        for kind in Kind::ALL {
            let front = match kind {
                Kind::Cluster => "cluster_manager.cds",
                Kind::Listener => "listener_manager.lds",
                Kind::Endpoints => "osm_proxy.eds",
                Kind::Routes => "osm_proxy.rds",
                Kind::Secret => "osm_proxy.sds",
            };
            let status = machine.status(kind);
            let family = Family::new("", "envoy_");
            let mut counter = |short: &str, number| {
                samples.counter(&family, &format!("{front}.{short}"), number);
            };
            counter(
                "update_attempt",
                status.success.saturating_add(status.rejected),
            );
            counter("update_success", status.success);
            counter("update_rejected", status.rejected);
        }
        let family = Family::new("", "envoy_");
        let mut gauge = |name: &str, number: usize| {
            samples.gauge(&family, name, i64::try_from(number).unwrap_or(i64::MAX));
        };
        let active = |kind| machine.active(kind).count();
        gauge("cluster_manager.active_clusters", active(Kind::Cluster));
        gauge(
            "cluster_manager.warming_clusters",
            machine.warming(Kind::Cluster).len(),
        );
        gauge(
            "listener_manager.total_listeners_warming",
            machine.warming(Kind::Listener).len(),
        );
        gauge("osm_proxy.routes_active", active(Kind::Routes));
        gauge("osm_proxy.secrets_active", active(Kind::Secret));
        gauge("osm_proxy.assignments_active", active(Kind::Endpoints));
    }
}
