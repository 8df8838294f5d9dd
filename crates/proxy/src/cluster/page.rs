//! A cluster as the administration's `/clusters` shows it, in Envoy's text.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::breaker::{Breaker, RoutingPriority};
use super::config::Locality;
use super::endpoint::Endpoint;
use super::{Cluster, EndpointConfig};
use crate::stats::Counter;

/// Writes a cluster's part of the page.
pub fn page(cluster: &Cluster, added_via_api: bool, out: &mut String) {
    let name = &*cluster.config.name;
    // Writing to a string does not fail.
    let _ = writeln!(out, "{name}::observability_name::{name}");
    for (priority, breaker) in [
        (
            "default_priority",
            cluster.breakers.of(RoutingPriority::Default),
        ),
        ("high_priority", cluster.breakers.of(RoutingPriority::High)),
    ] {
        limits(name, priority, breaker, out);
    }
    let _ = writeln!(out, "{name}::added_via_api::{added_via_api}");
    for host in hosts(cluster) {
        let address = host.endpoint.config.address;
        for (key, value) in &host.facts {
            let _ = writeln!(out, "{name}::{address}::{key}::{value}");
        }
    }
}

/// An endpoint and what the page tells of it.
#[derive(Debug)]
pub struct Host {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Its place.
    pub config: EndpointConfig,
    /// Names and values in Envoy's words; the first eight are counters, those in `_active` gauges.
    pub facts: Vec<(&'static str, String)>,
}

/// All endpoints of a cluster.
pub fn hosts(cluster: &Cluster) -> Vec<Host> {
    let view = cluster.endpoints.load();
    let members = view.all.iter().map(|member| {
        let locality = view.assignment.localities.get(member.config.locality);
        host(&member.endpoint, &member.config, locality)
    });
    let originals = cluster.originals.all();
    let originals = originals
        .iter()
        .map(|endpoint| host(endpoint, &endpoint.config, None));
    members.chain(originals).collect()
}

fn limits(name: &str, priority: &str, breaker: &Breaker, out: &mut String) {
    let words = [
        "max_connections",
        "max_pending_requests",
        "max_requests",
        "max_retries",
    ];
    for (word, (_, _, limit)) in words.iter().zip(breaker.gauges()) {
        let _ = writeln!(out, "{name}::{priority}::{word}::{limit}");
    }
}

fn host(endpoint: &Arc<Endpoint>, config: &EndpointConfig, locality: Option<&Locality>) -> Host {
    let stats = &endpoint.stats;
    let active = |count: &AtomicU32| count.load(Ordering::Relaxed).to_string();
    let count = |counter: &Counter| counter.get().to_string();
    let [region, zone, sub_zone] = locality
        .map(|locality| locality.name.clone())
        .unwrap_or_default();
    Host {
        endpoint: endpoint.clone(),
        config: config.clone(),
        facts: vec![
            ("cx_active", active(&endpoint.connections)),
            ("cx_connect_fail", count(&stats.connect_failures)),
            ("cx_total", count(&stats.connections)),
            ("rq_active", active(&endpoint.active)),
            ("rq_error", count(&stats.errors)),
            ("rq_success", count(&stats.successes)),
            ("rq_timeout", count(&stats.timeouts)),
            ("rq_total", count(&stats.requests)),
            ("hostname", config.hostname.clone()),
            ("health_flags", endpoint.health_flags()),
            ("weight", config.weight.to_string()),
            ("region", region),
            ("zone", zone),
            ("sub_zone", sub_zone),
            ("canary", "false".to_owned()),
            ("priority", config.priority.to_string()),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reported;
    use super::super::testing::{assignment, cluster_with, endpoint};

    #[test]
    fn the_page_reads_as_envoys() {
        let cluster = cluster_with(|config| config.thresholds.high.connections = 7);
        let mut one = endpoint(1, 3, 0);
        one.health = Reported::Unhealthy;
        cluster.assign(assignment(vec![one]));
        let mut text = String::new();
        super::page(&cluster, true, &mut text);
        for line in [
            "c::observability_name::c",
            "c::default_priority::max_connections::1024",
            "c::default_priority::max_retries::3",
            "c::high_priority::max_connections::7",
            "c::127.0.0.1:1::health_flags::/failed_eds_health",
            "c::127.0.0.1:1::weight::3",
            "c::127.0.0.1:1::rq_active::0",
            "c::127.0.0.1:1::priority::0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
