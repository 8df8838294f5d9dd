//! Clusters: their configuration, their endpoints, and the choice of one.

mod breaker;
mod choice;
mod config;
mod endpoint;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;

pub use breaker::{
    Breaker, Breakers, ConnectionSlot, Limits, Overflow, Pending, Retry, RetryLimit,
    RoutingPriority, Thresholds,
};
pub use choice::{ChoiceContext, Chosen, NoEndpoint, Outcome};
pub use config::{
    Assignment, ClusterConfig, Discovery, Dns, EndpointConfig, Family, LbPolicy, UpstreamHttp,
};
pub use endpoint::{Endpoint, EndpointStats};

use crate::stats::ClusterStats;
use crate::tls::TlsClient;

/// A cluster that serves.
#[derive(Debug)]
pub struct Cluster {
    /// As configured.
    pub config: Arc<ClusterConfig>,
    /// TLS origination; absent while its secrets are.
    pub tls: ArcSwapOption<TlsClient>,
    /// Its endpoints.
    pub endpoints: ArcSwap<Endpoints>,
    /// Endpoints were heard of (a cluster without any answers otherwise than one that waits).
    pub resolved: AtomicBool,
    /// Told when `resolved` turns true.
    pub arrived: Notify,
    /// Counters.
    pub stats: Arc<ClusterStats>,
    /// Circuit breakers.
    pub breakers: Breakers,
    turn: AtomicU64,
    workers: usize,
}

/// The endpoints of one priority, and all.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// All, in order.
    pub all: Vec<Arc<Endpoint>>,
    /// Those of the best priority that may be used.
    usable: Vec<Arc<Endpoint>>,
    /// Sum of the usable ones' weights; 0 if all weigh the same.
    uneven_total: u64,
}

// === impl Cluster ===

impl Cluster {
    /// A cluster without endpoints yet, for this many workers.
    pub fn new(config: Arc<ClusterConfig>, workers: usize) -> Cluster {
        Cluster {
            stats: Arc::new(ClusterStats::default()),
            breakers: Breakers::new(config.thresholds),
            config,
            tls: ArcSwapOption::empty(),
            endpoints: ArcSwap::default(),
            resolved: AtomicBool::new(false),
            arrived: Notify::new(),
            turn: AtomicU64::new(0),
            workers,
        }
    }

    /// Replaces the endpoints; those that stay keep their connections and their load.
    pub fn assign(&self, assignment: &[EndpointConfig]) {
        let old = self.endpoints.load_full();
        let all = assignment
            .iter()
            .map(
                |config| match old.all.iter().find(|endpoint| endpoint.config == *config) {
                    Some(endpoint) => endpoint.clone(),
                    None => Arc::new(Endpoint::new(config.clone(), self.workers)),
                },
            )
            .collect();
        self.endpoints.store(Arc::new(Endpoints::new(all)));
        self.settle();
    }

    /// Whoever waits for endpoints need not wait longer: there are some, or there are none.
    pub fn settle(&self) {
        self.resolved.store(true, Ordering::Release);
        self.arrived.notify_waiters();
    }

    /// Forgets every pooled connection: TLS has changed.
    pub fn renew_connections(&self) {
        let old = self.endpoints.load_full();
        let all = old
            .all
            .iter()
            .map(|e| Arc::new(Endpoint::new(e.config.clone(), self.workers)))
            .collect();
        self.endpoints.store(Arc::new(Endpoints::new(all)));
    }

    /// Chooses an endpoint; `roll` is any number, even in distribution.
    pub fn pick(&self, roll: u64) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        let usable = &endpoints.usable;
        let count = u64::try_from(usable.len())
            .ok()
            .filter(|count| *count > 0)?;
        let at = |number: u64| usable.get(usize::try_from(number % count).unwrap_or(0));
        let chosen = match self.config.policy {
            LbPolicy::RoundRobin => endpoints.weighted(self.turn.fetch_add(1, Ordering::Relaxed)),
            LbPolicy::Random => endpoints.weighted(roll),
            LbPolicy::LeastRequest => match (at(roll), at(roll >> 32)) {
                (Some(one), Some(other)) => Some(if one.load() <= other.load() {
                    one
                } else {
                    other
                }),
                (one, other) => one.or(other),
            },
        };
        chosen.cloned()
    }
}

// === impl Endpoints ===

impl Endpoints {
    fn new(all: Vec<Arc<Endpoint>>) -> Endpoints {
        let best = all
            .iter()
            .filter(|e| e.config.healthy)
            .map(|e| e.config.priority)
            .min();
        let usable: Vec<Arc<Endpoint>> = all
            .iter()
            .filter(|e| e.config.healthy && Some(e.config.priority) == best)
            .cloned()
            .collect();
        let first = usable.first().map(|e| e.config.weight);
        let even = usable.iter().all(|e| Some(e.config.weight) == first);
        let uneven_total = if even {
            0
        } else {
            usable.iter().map(|e| u64::from(e.config.weight)).sum()
        };
        Endpoints {
            all,
            usable,
            uneven_total,
        }
    }

    fn weighted(&self, number: u64) -> Option<&Arc<Endpoint>> {
        let count = u64::try_from(self.usable.len())
            .ok()
            .filter(|count| *count > 0)?;
        if self.uneven_total == 0 {
            return self.usable.get(usize::try_from(number % count).ok()?);
        }
        // Strides by a large odd number, so that neighbours in turn are not neighbours in weight.
        let mut at = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.uneven_total;
        for endpoint in &self.usable {
            let weight = u64::from(endpoint.config.weight);
            if at < weight {
                return Some(endpoint);
            }
            at = at.saturating_sub(weight);
        }
        self.usable.last()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! What the tests of this folder share.

    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::rbac::Peer;

    pub(crate) fn config() -> ClusterConfig {
        ClusterConfig {
            name: "c".into(),
            discovery: Discovery::Static(Arc::default()),
            policy: LbPolicy::RoundRobin,
            connect_timeout: Duration::from_secs(1),
            tls: None,
            http: UpstreamHttp::Http1,
            idle_timeout: Duration::from_secs(1),
            max_requests_per_connection: None,
            thresholds: Thresholds::default(),
        }
    }

    pub(crate) fn cluster_with(change: impl FnOnce(&mut ClusterConfig)) -> Arc<Cluster> {
        let mut config = config();
        change(&mut config);
        Arc::new(Cluster::new(Arc::new(config), 1))
    }

    pub(crate) fn endpoint(port: u16, weight: u32, priority: u32, healthy: bool) -> EndpointConfig {
        EndpointConfig {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            hostname: String::new(),
            weight,
            priority,
            healthy,
        }
    }

    pub(crate) fn peer() -> Peer {
        Peer {
            destination: SocketAddr::from(([127, 0, 0, 1], 80)),
            source: [127, 0, 0, 1].into(),
            names: None,
            server_name: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{cluster_with, endpoint, peer};
    use super::*;

    fn cluster(policy: LbPolicy) -> Arc<Cluster> {
        cluster_with(|config| config.policy = policy)
    }

    fn shares(cluster: &Cluster, rounds: u64) -> Vec<(u16, u64)> {
        let mut counts = std::collections::BTreeMap::new();
        for roll in 0..rounds {
            let port = cluster
                .pick(roll.wrapping_mul(0x1234_5678_9ABC_DEF1))
                .unwrap()
                .config
                .address
                .port();
            *counts.entry(port).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    #[test]
    fn round_robin_takes_turns_and_weights_count() {
        let cluster = cluster(LbPolicy::RoundRobin);
        assert!(cluster.pick(0).is_none());
        cluster.assign(&[
            endpoint(1, 1, 0, true),
            endpoint(2, 1, 0, true),
            endpoint(3, 1, 1, true),
        ]);
        assert_eq!(
            shares(&cluster, 10),
            [(1, 5), (2, 5)],
            "the second priority rests"
        );
        cluster.assign(&[endpoint(1, 1, 0, true), endpoint(2, 3, 0, true)]);
        let shares = shares(&cluster, 4000);
        assert!((900..1100).contains(&shares[0].1), "{shares:?}");
    }

    #[test]
    fn what_is_unhealthy_is_not_used_and_the_next_priority_steps_in() {
        let cluster = cluster(LbPolicy::Random);
        cluster.assign(&[endpoint(1, 1, 0, false), endpoint(2, 1, 1, true)]);
        assert_eq!(shares(&cluster, 10), [(2, 10)]);
    }

    #[test]
    fn least_request_prefers_the_idle_one() {
        let cluster = cluster(LbPolicy::LeastRequest);
        cluster.assign(&[endpoint(1, 1, 0, true), endpoint(2, 1, 0, true)]);
        let peer = peer();
        let busy = cluster.choose(&ChoiceContext::new(&peer, 0)).unwrap();
        assert_eq!(busy.endpoint.config.address.port(), 1);
        let picked = (0..64u64).filter(|roll| {
            cluster
                .pick(roll | (roll + 1) << 32)
                .unwrap()
                .config
                .address
                .port()
                == 2
        });
        assert_eq!(picked.count(), 64);
    }

    #[test]
    fn endpoints_that_stay_keep_their_load() {
        let cluster = cluster(LbPolicy::RoundRobin);
        cluster.assign(&[endpoint(1, 1, 0, true)]);
        let first = cluster.pick(0).unwrap();
        cluster.assign(&[endpoint(1, 1, 0, true), endpoint(2, 1, 0, true)]);
        assert!(Arc::ptr_eq(&first, &cluster.endpoints.load().all[0]));
        cluster.assign(&[endpoint(2, 1, 0, true)]);
        assert_eq!(Arc::strong_count(&first), 1, "a removed endpoint is let go");
    }
}
