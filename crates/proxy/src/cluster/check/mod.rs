//! Active health checks of a cluster: one task per endpoint on the control thread; what they find is the cluster's.

mod payload;
mod probe;

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use lb::health::{Check, Outcome, Settings, Step};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub use payload::Payload;
use probe::Connection;

use super::endpoint::{Endpoint, Flag};
use super::outlier::readmit;
use super::{Cluster, Discovery, State};
use crate::worker::roll;

/// How a cluster's endpoints are checked.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// Thresholds and times.
    pub settings: Settings,
    /// What is asked.
    pub probe: Probe,
    /// The connection is kept for the next check.
    pub reuse_connection: bool,
    /// Another port than that of requests.
    pub port: Option<u16>,
}

/// What is asked of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// An HTTP request.
    Http(HttpProbe),
    /// A connection, and what is said on it.
    Tcp(Payload),
    /// `grpc.health.v1.Health/Check`.
    Grpc(GrpcProbe),
}

/// An HTTP request and the answers that are well.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    /// The authority; empty: the endpoint's own or the cluster's name.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// The method.
    pub method: Method,
    /// Set in the request; those with an empty value are taken out of it.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// Statuses that pass, as half-open ranges.
    pub expected: Vec<(u16, u16)>,
    /// Statuses that count as a failure of the network, as half-open ranges.
    pub retriable: Vec<(u16, u16)>,
    /// HTTP/2 instead of HTTP/1.1.
    pub http2: bool,
}

/// A gRPC health request.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcProbe {
    /// The service asked about; empty: the server.
    pub service: String,
    /// The authority; empty: the endpoint's own or the cluster's name.
    pub authority: String,
    /// Metadata of the request.
    pub metadata: Vec<(HeaderName, HeaderValue)>,
}

/// The tasks of a cluster's endpoints, by the endpoint's place in memory; they end with this.
#[derive(Default)]
struct Tasks(HashMap<usize, (Arc<Endpoint>, JoinHandle<()>)>);

/// Checks the cluster's endpoints for ever.
pub(super) async fn watch(cluster: Arc<Cluster>, check: Arc<HealthCheck>) {
    let mut tasks = Tasks::default();
    loop {
        tasks.reconcile(&cluster, &check);
        // A change before this is not lost: the permit stays.
        cluster.changed.notified().await;
    }
}

// === impl Tasks ===

impl Tasks {
    fn reconcile(&mut self, cluster: &Arc<Cluster>, check: &Arc<HealthCheck>) {
        let view = cluster.endpoints.load();
        let wanted: HashMap<usize, &Arc<Endpoint>> = view
            .all
            .iter()
            .filter(|member| !member.config.check.disabled)
            .map(|member| (Arc::as_ptr(&member.endpoint).addr(), &member.endpoint))
            .collect();
        self.0.retain(|place, (_, task)| {
            let stays = wanted.contains_key(place);
            if !stays {
                task.abort();
            }
            stays
        });
        for (place, endpoint) in wanted {
            self.0.entry(place).or_insert_with(|| {
                let task = follow(cluster.clone(), endpoint.clone(), check.clone());
                (endpoint.clone(), tokio::spawn(task))
            });
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for (_, task) in self.0.values() {
            task.abort();
        }
    }
}

/// Checks one endpoint for ever.
async fn follow(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>, check: Arc<HealthCheck>) {
    let settings = &check.settings;
    let mut state = if endpoint.has(Flag::PendingActiveCheck) {
        Check::default()
    } else {
        Check::known(!endpoint.has(Flag::FailedActiveCheck))
    };
    sleep(settings.first_wait(roll())).await;
    let mut kept: Option<Connection> = None;
    loop {
        cluster.balance.checks.attempts.increment();
        let probing = probe::probe(&cluster, &endpoint, &check, kept.take());
        let outcome = match timeout(settings.timeout, probing).await {
            Ok((outcome, connection)) => {
                kept = connection.filter(|_| check.reuse_connection);
                outcome
            }
            Err(_) => Outcome::Network,
        };
        let used = cluster.stats.connections.get() > 0;
        let step = state.after(settings, outcome, used, roll());
        cluster.checked(&endpoint, outcome, step);
        sleep(step.wait).await;
    }
}

// === impl Cluster ===

impl Cluster {
    /// Takes the result of a check in.
    fn checked(&self, endpoint: &Arc<Endpoint>, outcome: Outcome, step: Step) {
        let stats = &self.balance.checks;
        match outcome {
            Outcome::Passed => stats.successes.increment(),
            Outcome::Refused => stats.failures.increment(),
            Outcome::Retriable | Outcome::Network => {
                stats.failures.increment();
                stats.network_failures.increment();
            }
        }
        let mut state = self.state.lock();
        let mut changed = endpoint.set(Flag::PendingActiveCheck, false);
        changed |= endpoint.set(Flag::FailedActiveCheck, !step.healthy);
        let at = state
            .members
            .iter()
            .position(|member| Arc::ptr_eq(&member.endpoint, endpoint));
        let Some(at) = at else {
            return; // It has left since.
        };
        let unejects = (self.config.outliers.as_ref()).is_some_and(|o| o.health_check_unejects);
        if let Some(member) = state.members.get_mut(at)
            && unejects
            && step.healthy
            && outcome == Outcome::Passed
            && member.ejection.is_on()
        {
            readmit(member);
            changed = true;
        }
        if !step.healthy && endpoint.has(Flag::PendingRemoval) {
            state.members.swap_remove(at);
            endpoint.set(Flag::Removed, true);
            self.changed.notify_one();
            changed = true;
        }
        if changed {
            self.publish(&state);
        }
        let is_settled = is_checked(&state);
        drop(state);
        if step.changed {
            let address = endpoint.config.address;
            tracing::info!(cluster = %self.config.name, %address, healthy = step.healthy, "health check");
            if !step.healthy && self.config.close_on_health_failure {
                endpoint.close_connections();
            }
        }
        if is_settled {
            self.settle();
        }
    }

    /// Whether an endpoint that left the assignment goes on serving: as long as its checks pass.
    pub(super) fn outstays(&self, endpoint: &Endpoint) -> bool {
        let is_dynamic = matches!(self.config.discovery, Discovery::Eds(_) | Discovery::Dns(_));
        self.config.check.is_some()
            && is_dynamic
            && !self.config.ignore_health_on_removal
            && !endpoint.config.check.disabled
            && !endpoint.has(Flag::FailedActiveCheck)
            && !endpoint.has(Flag::DrainingEds)
    }
}

/// Whether every endpoint was looked at.
pub(super) fn is_checked(state: &State) -> bool {
    let mut endpoints = state.members.iter().map(|member| &member.endpoint);
    !endpoints.any(|endpoint| endpoint.has(Flag::PendingActiveCheck))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lb::health::Intervals;

    use super::super::choice::{ChoiceContext, Outcome as Judged};
    use super::super::testing::{assignment, cluster_with, endpoint};
    use super::super::{Assignment, ClusterConfig, EndpointConfig};
    use super::*;

    fn health_check() -> HealthCheck {
        let seconds = Duration::from_secs(1);
        HealthCheck {
            settings: Settings {
                timeout: seconds,
                unhealthy_threshold: 2,
                healthy_threshold: 1,
                initial_jitter: Duration::ZERO,
                interval_jitter: Duration::ZERO,
                interval_jitter_percent: 0,
                intervals: Intervals {
                    healthy: seconds,
                    healthy_edge: seconds,
                    unhealthy: seconds,
                    unhealthy_edge: seconds,
                    no_traffic: seconds,
                    no_traffic_healthy: seconds,
                },
            },
            probe: Probe::Tcp(Payload::default()),
            reuse_connection: true,
            port: None,
        }
    }

    fn checked(change: impl FnOnce(&mut ClusterConfig)) -> Arc<Cluster> {
        cluster_with(|config| {
            config.discovery = Discovery::Eds("c".into());
            config.check = Some(Arc::new(health_check()));
            config.balance.panic_threshold = 0.0;
            change(config);
        })
    }

    fn result(cluster: &Cluster, port: u16, state: &mut Check, outcome: Outcome) {
        let view = cluster.endpoints.load_full();
        let mut members = view.all.iter();
        let found = members.find(|m| m.config.address.port() == port).unwrap();
        let step = state.after(&health_check().settings, outcome, true, 0);
        cluster.checked(&found.endpoint, outcome, step);
    }

    fn ports(cluster: &Arc<Cluster>) -> Vec<u16> {
        let chosen = (0..20).filter_map(|roll| {
            let chosen = cluster.choose(&ChoiceContext::of_proxy(roll)).ok()?;
            Some(chosen.endpoint.config.address.port())
        });
        let mut ports: Vec<u16> = chosen.collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn flags(cluster: &Cluster) -> Vec<String> {
        let view = cluster.endpoints.load();
        view.all.iter().map(|m| m.endpoint.health_flags()).collect()
    }

    fn is_settled(cluster: &Cluster) -> bool {
        cluster.resolved.load(std::sync::atomic::Ordering::Acquire)
    }

    #[test]
    fn an_endpoint_serves_after_its_first_check_and_not_while_checks_fail() {
        let cluster = checked(|_| {});
        let unchecked = EndpointConfig {
            check: super::super::CheckTarget {
                disabled: true,
                ..Default::default()
            },
            ..endpoint(3, 1, 0)
        };
        cluster.assign(assignment(vec![
            endpoint(1, 1, 0),
            endpoint(2, 1, 0),
            unchecked,
        ]));
        let waiting = "/failed_active_hc/pending_active_hc";
        assert_eq!(flags(&cluster), [waiting, waiting, "healthy"]);
        assert_eq!((ports(&cluster), is_settled(&cluster)), (vec![3], false));
        let (mut one, mut two) = (Check::default(), Check::default());
        result(&cluster, 1, &mut one, Outcome::Passed);
        assert!(!is_settled(&cluster), "one was not looked at yet");
        result(&cluster, 2, &mut two, Outcome::Network);
        assert_eq!((ports(&cluster), is_settled(&cluster)), (vec![1, 3], true));
        result(&cluster, 2, &mut two, Outcome::Passed);
        result(&cluster, 1, &mut one, Outcome::Network);
        assert_eq!(ports(&cluster), [1, 2, 3], "below the threshold");
        result(&cluster, 1, &mut one, Outcome::Network);
        assert_eq!(ports(&cluster), [2, 3]);
        assert_eq!(flags(&cluster), ["/failed_active_hc", "healthy", "healthy"]);
    }

    #[test]
    fn an_endpoint_that_leaves_serves_until_its_checks_fail_unless_told_otherwise() {
        for ignore in [false, true] {
            let cluster = checked(|config| config.ignore_health_on_removal = ignore);
            cluster.assign(assignment(vec![endpoint(1, 1, 0), endpoint(2, 1, 0)]));
            let (mut one, mut two) = (Check::default(), Check::default());
            result(&cluster, 1, &mut one, Outcome::Passed);
            result(&cluster, 2, &mut two, Outcome::Passed);
            cluster.assign(assignment(vec![endpoint(1, 1, 0)]));
            if ignore {
                assert_eq!(ports(&cluster), [1]);
                continue;
            }
            assert_eq!(ports(&cluster), [1, 2]);
            assert_eq!(flags(&cluster), ["healthy", "/pending_dynamic_removal"]);
            cluster.assign(assignment(vec![endpoint(1, 1, 0), endpoint(2, 1, 0)]));
            assert_eq!(flags(&cluster), ["healthy", "healthy"], "it came back");
            cluster.assign(assignment(vec![endpoint(1, 1, 0)]));
            result(&cluster, 2, &mut two, Outcome::Refused);
            assert_eq!((ports(&cluster), flags(&cluster).len()), (vec![1], 1));
        }
    }

    #[test]
    fn a_new_cluster_knows_what_the_old_one_of_its_name_knew() {
        let old = checked(|_| {});
        old.assign(assignment(vec![
            endpoint(1, 1, 0),
            endpoint(2, 1, 0),
            endpoint(3, 1, 0),
        ]));
        result(&old, 1, &mut Check::default(), Outcome::Passed);
        result(&old, 2, &mut Check::default(), Outcome::Refused);
        let new = checked(|config| config.thresholds.default.requests = 5);
        new.inherit(&old);
        new.assign(old.endpoints.load().assignment.clone());
        let waiting = "/failed_active_hc/pending_active_hc";
        assert_eq!(flags(&new), ["healthy", "/failed_active_hc", waiting]);
    }

    #[test]
    fn a_check_that_passes_ends_an_ejection() {
        let cluster = checked(|config| {
            config.outliers = Some(lb::outlier::Settings {
                max_ejection_percent: 100,
                ..Default::default()
            });
        });
        cluster.assign(assignment(vec![endpoint(1, 1, 0)]));
        let mut state = Check::default();
        result(&cluster, 1, &mut state, Outcome::Passed);
        let one = cluster.endpoints.load().all[0].endpoint.clone();
        (0..5).for_each(|_| cluster.report(&one, Judged::Reset));
        assert!(ports(&cluster).is_empty());
        result(&cluster, 1, &mut state, Outcome::Passed);
        assert_eq!(ports(&cluster), [1]);
    }

    #[test]
    fn unchecked_endpoints_do_not_count_where_they_are_to_be_ignored() {
        for ignore in [false, true] {
            let cluster = checked(|config| {
                config.balance.ignore_unchecked = ignore;
                config.balance.panic_threshold = 50.0;
            });
            let endpoints = (1..=4).map(|port| endpoint(port, 1, 0)).collect();
            cluster.assign(Arc::new(Assignment {
                endpoints,
                ..Assignment::default()
            }));
            result(&cluster, 1, &mut Check::default(), Outcome::Passed);
            let expected: &[u16] = if ignore { &[1] } else { &[1, 2, 3, 4] };
            assert_eq!(ports(&cluster), expected, "panic or not");
        }
    }
}
