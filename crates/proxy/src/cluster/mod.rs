//! Clusters: their configuration, their endpoints, the choice of one, and the judgement of those that fail.

mod breaker;
mod check;
mod choice;
mod circuit;
mod config;
mod endpoint;
mod hash;
mod members;
mod original;
mod outlier;
mod page;
mod stats;
pub mod subset;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use breaker::{
    Breaker, Breakers, ConnectionSlot, Limits, Overflow, Pending, Retry, RetryLimit,
    RoutingPriority, Thresholds,
};
pub use check::{GrpcProbe, HealthCheck, HttpProbe, Payload, Probe};
pub use choice::{ChoiceContext, Chosen, NoEndpoint, Outcome};
pub use circuit::{CircuitBreaker, Degraded};
pub use config::{
    Assignment, Balance, CheckTarget, ClusterConfig, Contest, Discovery, Dns, DnsHost,
    EndpointConfig, Family, LbPolicy, Locality, OVERPROVISIONING, OriginalLb, Reported,
    UpstreamHttp,
};
pub use endpoint::{Endpoint, EndpointStats, Flag, Health};
pub use hash::{HashCookie, HashPolicy, HashSource, Hashed, hash, hash_source};
pub use members::{Counts, Endpoints, Member};
pub use original::Originals;
pub use page::{Host, hosts, page};
pub use stats::{BalanceStats, CheckStats, OutlierStats};
pub use upkeep::Upkeep;

use circuit::Circuit;

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
    /// Told when endpoints come or go.
    pub changed: Notify,
    /// Counters.
    pub stats: Arc<ClusterStats>,
    /// Counters of balance and health.
    pub balance: BalanceStats,
    /// Circuit breakers.
    pub breakers: Breakers,
    /// Breaks by errors and slow answers, where that is configured.
    pub circuit: Option<Circuit>,
    /// Endpoints at original destinations.
    pub originals: Originals,
    state: Mutex<State>,
    workers: usize,
}

/// What the view that serves is made from.
#[derive(Debug, Default)]
struct State {
    assignment: Arc<Assignment>,
    members: Vec<Member>,
    /// Endpoints an older cluster of the same name knew, and whether their checks failed.
    inherited: HashMap<SocketAddr, bool>,
}

impl Cluster {
    /// A cluster without endpoints yet, for this many workers.
    pub fn new(config: Arc<ClusterConfig>, workers: usize) -> Cluster {
        Cluster {
            stats: Arc::new(ClusterStats::default()),
            balance: BalanceStats::default(),
            breakers: Breakers::new(config.thresholds),
            circuit: config.circuit.as_ref().map(Circuit::new),
            config,
            tls: ArcSwapOption::empty(),
            endpoints: ArcSwap::default(),
            resolved: AtomicBool::new(false),
            arrived: Notify::new(),
            changed: Notify::new(),
            originals: Originals::default(),
            state: Mutex::default(),
            workers,
        }
    }

    /// Replaces the endpoints; those that stay keep their connections, their load and their health. The same
    /// assignment again changes nothing.
    pub fn assign(&self, assignment: Arc<Assignment>) {
        let mut state = self.state.lock();
        if state.assignment != assignment {
            let old = std::mem::take(&mut state.members);
            state.members = self.members(&assignment, old, &state.inherited);
            state.inherited = HashMap::new();
            state.assignment = assignment;
            self.balance.membership_change.increment();
            self.publish(&state);
            self.changed.notify_one();
        }
        let is_settled = check::is_checked(&state);
        drop(state);
        if is_settled {
            self.settle();
        }
    }

    /// Takes over what an older cluster of the same name knows of endpoints: a change of settings is no reason to
    /// wait for checks anew.
    pub fn inherit(&self, old: &Cluster) {
        if old.config.check.is_some() && self.config.check.is_some() {
            let view = old.endpoints.load();
            let checked = view.all.iter().map(|member| &member.endpoint);
            let known = checked.filter(|endpoint| !endpoint.has(Flag::PendingActiveCheck));
            self.state.lock().inherited = known
                .map(|endpoint| {
                    (
                        endpoint.config.address,
                        endpoint.has(Flag::FailedActiveCheck),
                    )
                })
                .collect();
        }
    }

    /// The members of an assignment; what is left of `old` is let go.
    fn members(
        &self,
        assignment: &Assignment,
        old: Vec<Member>,
        inherited: &HashMap<SocketAddr, bool>,
    ) -> Vec<Member> {
        let mut left: HashMap<SocketAddr, Vec<Member>> = HashMap::new();
        for member in old {
            left.entry(member.config.address).or_default().push(member);
        }
        let mut members: Vec<Member> = Vec::with_capacity(assignment.endpoints.len());
        for config in &assignment.endpoints {
            let twin = left.get_mut(&config.address).and_then(|candidates| {
                let index = candidates.iter().position(|m| m.config.is_same(config))?;
                Some(candidates.swap_remove(index))
            });
            let failed = inherited.get(&config.address).copied();
            let member = match twin {
                Some(member) => Member {
                    config: config.clone(),
                    ..member
                },
                None => self.newcomer(config, failed),
            };
            member.endpoint.reported(config.health);
            member.endpoint.set(Flag::PendingRemoval, false);
            members.push(member);
        }
        for member in left.into_values().flatten() {
            if self.outstays(&member.endpoint) {
                member.endpoint.set(Flag::PendingRemoval, true);
                members.push(member);
            } else {
                member.endpoint.set(Flag::Removed, true);
            }
        }
        members
    }

    /// A new endpoint. Where health is checked it is unhealthy until the first check, unless an older cluster knew it:
    /// `failed` tells its health.
    fn newcomer(&self, config: &EndpointConfig, failed: Option<bool>) -> Member {
        let endpoint = Endpoint::new(config.clone(), self.workers);
        if self.config.check.is_some() && !config.check.disabled {
            endpoint.set(Flag::PendingActiveCheck, failed.is_none());
            endpoint.set(Flag::FailedActiveCheck, failed.unwrap_or(true));
        }
        Member {
            endpoint: Arc::new(endpoint),
            config: config.clone(),
            ejection: lb::outlier::Ejection::default(),
        }
    }

    /// Makes the view that serves.
    fn publish(&self, state: &State) {
        let next = Endpoints::new(
            &self.config,
            state.assignment.clone(),
            state.members.clone(),
        );
        let ejected = state.members.iter().filter(|m| m.ejection.is_on()).count();
        self.balance.counted(next.counts(&self.config), ejected);
        self.endpoints.store(Arc::new(next));
    }

    /// Whoever waits for endpoints need not wait longer: there are some, or there are none.
    pub fn settle(&self) {
        self.resolved.store(true, Ordering::Release);
        self.arrived.notify_waiters();
    }

    /// How many endpoints there are, and how many of them may be used, degraded ones included.
    pub fn health(&self) -> (usize, usize) {
        let endpoints = self.endpoints.load();
        let usable = endpoints.all.iter();
        let usable = usable.filter(|member| member.endpoint.health() != Health::Unhealthy);
        (endpoints.all.len(), usable.count())
    }

    /// Forgets every pooled connection: TLS has changed.
    pub fn renew_connections(&self) {
        let mut state = self.state.lock();
        for member in &mut state.members {
            let renewed = Endpoint::renewed(&member.endpoint, self.workers);
            member.endpoint.set(Flag::Removed, true);
            member.endpoint = Arc::new(renewed);
        }
        self.publish(&state);
        drop(state);
        self.originals.forget();
        self.changed.notify_one();
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! What the tests of this folder share.

    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;

    pub(crate) fn config() -> ClusterConfig {
        ClusterConfig {
            name: "c".into(),
            discovery: Discovery::Static(Arc::default()),
            policy: LbPolicy::RoundRobin,
            balance: Balance::default(),
            subsets: None,
            connect_timeout: Duration::from_secs(1),
            tls: None,
            http: UpstreamHttp::Http1,
            idle_timeout: Duration::from_secs(1),
            max_requests_per_connection: None,
            thresholds: Thresholds::default(),
            circuit: None,
            cleanup_interval: Duration::from_secs(5),
            outliers: None,
            original: OriginalLb::default(),
            max_connection_duration: None,
            socket: Default::default(),
            check: None,
            close_on_health_failure: false,
            ignore_health_on_removal: false,
        }
    }

    pub(crate) fn cluster_with(change: impl FnOnce(&mut ClusterConfig)) -> Arc<Cluster> {
        let mut config = config();
        change(&mut config);
        Arc::new(Cluster::new(Arc::new(config), 1))
    }

    pub(crate) fn endpoint(port: u16, weight: u32, priority: u32) -> EndpointConfig {
        EndpointConfig {
            weight,
            priority,
            ..EndpointConfig::plain(SocketAddr::from(([127, 0, 0, 1], port)))
        }
    }

    pub(crate) fn assignment(endpoints: Vec<EndpointConfig>) -> Arc<Assignment> {
        Arc::new(Assignment {
            endpoints,
            ..Assignment::default()
        })
    }
}
