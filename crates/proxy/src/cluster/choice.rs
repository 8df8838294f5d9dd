//! The choice of an endpoint for a request or connection, and what is held and reported for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{HeaderMap, StatusCode};

use super::breaker::{Overflow, Pending, RoutingPriority};
use super::members::{Draw, Endpoints, next};
use super::subset::Labels;
use super::{Cluster, Discovery, Endpoint, LbPolicy};
use crate::connection::Connection;
use crate::reason::{Reason, grpc_to_http};
use crate::worker::roll;

/// What the choice depends on.
#[derive(Debug, Clone, Copy)]
pub struct ChoiceContext<'a> {
    /// Of which of the cluster's subsets it is to be.
    pub subset: Option<&'a Labels>,
    /// Of the route's hash policies, for consistent hashing.
    pub hash: Option<u64>,
    /// Where the client was going, which is the endpoint of an original destination cluster.
    pub destination: Option<SocketAddr>,
    /// The request's headers, one of which may name the endpoint of an original destination cluster.
    pub headers: Option<&'a HeaderMap>,
    /// Endpoints of earlier attempts, which are passed over …
    pub tried: &'a [SocketAddr],
    /// … by choosing again at most so often.
    pub reselections: u32,
    /// Whose circuit breakers count.
    pub priority: RoutingPriority,
    /// Any number, even in distribution.
    pub roll: u64,
}

/// A chosen endpoint and the load on it, given back when dropped.
#[derive(Debug)]
pub struct Chosen {
    /// Its cluster.
    pub cluster: Arc<Cluster>,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Whose circuit breakers count.
    pub priority: RoutingPriority,
    begun: bool,
}

/// Why there is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEndpoint {
    /// There is none that may be used.
    Unhealthy,
    /// The control plane wants a share of the requests dropped.
    Dropped,
}

/// What came of a request or connection, for the judgement of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with this status; of gRPC see [`Outcome::grpc`].
    Status(StatusCode),
    /// An opaque connection was opened.
    Connected,
    /// The connection was refused, or TLS failed.
    ConnectFailed,
    /// The connection did not open in time.
    ConnectTimeout,
    /// The connection or stream ended before the answer's head.
    Reset,
    /// No answer within the route's or the attempt's timeout.
    Timeout,
}

// === impl ChoiceContext ===

impl<'a> ChoiceContext<'a> {
    /// A client's first attempt, without a hash, of default priority.
    pub fn new(connection: &Connection, roll: u64) -> ChoiceContext<'a> {
        let destination = connection.peer.destination;
        ChoiceContext {
            destination: connection.is_redirected.then_some(destination),
            ..ChoiceContext::of_proxy(roll)
        }
    }

    /// A connection of the proxy's own.
    pub fn of_proxy(roll: u64) -> ChoiceContext<'a> {
        ChoiceContext {
            subset: None,
            hash: None,
            destination: None,
            headers: None,
            tried: &[],
            reselections: 0,
            priority: RoutingPriority::Default,
            roll,
        }
    }
}

// === impl NoEndpoint ===

impl From<NoEndpoint> for Reason {
    fn from(no_endpoint: NoEndpoint) -> Reason {
        match no_endpoint {
            NoEndpoint::Unhealthy => Reason::NoHealthyUpstream,
            NoEndpoint::Dropped => Reason::DropOverload,
        }
    }
}

impl From<Overflow> for Reason {
    fn from(_: Overflow) -> Reason {
        Reason::UpstreamOverflow
    }
}

// === impl Outcome ===

impl Outcome {
    /// A gRPC status, judged as the HTTP status it stands for.
    pub fn grpc(status: u32) -> Outcome {
        Outcome::Status(grpc_to_http(status))
    }
}

// === impl Chosen ===

impl Chosen {
    fn new(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>, priority: RoutingPriority) -> Chosen {
        endpoint.active.fetch_add(1, Ordering::Relaxed);
        endpoint.stats.requests.increment();
        Chosen {
            cluster,
            endpoint,
            priority,
            begun: false,
        }
    }

    /// A place among those who wait for a connection: to be held from the moment that the pool has none ready until it
    /// has one.
    pub fn pend(&self) -> Result<Pending, Overflow> {
        self.cluster.pending(self.priority)
    }

    /// The request begins on a connection; its place among the requests in flight is held until `self` is dropped.
    pub fn begin(&mut self) -> Result<(), Overflow> {
        if self.begun {
            return Ok(());
        }
        let entered = self.cluster.breakers.enter_request(self.priority);
        if entered.is_err() {
            self.cluster.stats.pending_overflow.increment();
        }
        self.begun = entered.is_ok();
        entered
    }

    /// Tells what came of it.
    pub fn report(&self, outcome: Outcome) {
        self.cluster.report(&self.endpoint, outcome);
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.endpoint.active.fetch_sub(1, Ordering::Relaxed);
        if self.begun {
            self.cluster.breakers.leave_request(self.priority);
        }
    }
}

// === impl Cluster ===

impl Cluster {
    /// Chooses an endpoint. The guards in what is returned count its load.
    pub fn choose(self: &Arc<Self>, context: &ChoiceContext<'_>) -> Result<Chosen, NoEndpoint> {
        let endpoint = match self.config.discovery {
            Discovery::OriginalDestination => self
                .original(context)
                .map(|address| self.originals.at(address, self.workers)),
            _ => {
                let endpoints = self.endpoints.load();
                let is_first = context.tried.is_empty();
                if is_first && drops(&endpoints.assignment.drops, context.roll) {
                    self.balance.dropped.increment();
                    return Err(NoEndpoint::Dropped);
                }
                let endpoints = endpoints.of(&self.config, context.subset);
                endpoints.and_then(|endpoints| self.untried(endpoints, context))
            }
        };
        match endpoint {
            Some(endpoint) => Ok(Chosen::new(self.clone(), endpoint, context.priority)),
            None => {
                self.stats.unhealthy.increment();
                Err(NoEndpoint::Unhealthy)
            }
        }
    }

    /// Where a client wants to go: as a header says, or where it was going before it was redirected.
    fn original(&self, context: &ChoiceContext<'_>) -> Option<SocketAddr> {
        let settings = &self.config.original;
        let named = settings.header.as_ref().and_then(|name| {
            let value = context.headers?.get(name)?;
            value.to_str().ok()?.parse::<SocketAddr>().ok()
        });
        let mut address = named.or(context.destination)?;
        if let Some(port) = settings.port {
            address.set_port(port);
        }
        Some(address)
    }

    /// One that was not tried, if the choice finds one within its reselections.
    fn untried(&self, endpoints: &Endpoints, context: &ChoiceContext<'_>) -> Option<Arc<Endpoint>> {
        let mut draw = Draw {
            hash: context.hash.filter(|_| self.config.policy.is_hashing()),
            roll: context.roll,
            attempt: 0,
        };
        loop {
            let (chosen, panic) = endpoints.pick(self.config.policy, draw);
            if panic {
                self.balance.healthy_panic.increment();
            }
            let chosen = chosen?;
            let was_tried = context.tried.contains(&chosen.config.address);
            if !was_tried || draw.attempt >= context.reselections {
                return Some(chosen);
            }
            draw.attempt = draw.attempt.saturating_add(1);
            draw.roll = next(draw.roll).rotate_left(17);
        }
    }

    /// Tells what came of a request or connection to an endpoint.
    pub fn report(&self, endpoint: &Endpoint, outcome: Outcome) {
        let stats = &endpoint.stats;
        match outcome {
            Outcome::Status(status) if !status.is_server_error() => stats.successes.increment(),
            Outcome::Connected => stats.successes.increment(),
            Outcome::Status(_) | Outcome::Reset => stats.errors.increment(),
            Outcome::ConnectFailed | Outcome::ConnectTimeout => stats.errors.increment(),
            Outcome::Timeout => {
                stats.timeouts.increment();
                stats.errors.increment();
            }
        }
        self.judge(endpoint, outcome, roll());
    }
}

/// Whether a request is among those to be dropped: each share is of what the one before left.
fn drops(shares: &[u32], roll: u64) -> bool {
    let mut roll = roll;
    shares.iter().any(|share| {
        roll = next(roll);
        (roll >> 32) % 1_000_000 < u64::from(*share)
    })
}

impl LbPolicy {
    /// Whether it goes by a request's hash.
    pub fn is_hashing(self) -> bool {
        matches!(self, LbPolicy::RingHash(_) | LbPolicy::Maglev(_))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assignment, cluster_with, endpoint};
    use super::*;

    #[test]
    fn what_was_tried_is_passed_over_while_there_is_another() {
        for policy in [
            LbPolicy::RoundRobin,
            LbPolicy::Random,
            LbPolicy::Maglev(65_537),
        ] {
            let cluster = cluster_with(|config| config.policy = policy);
            cluster.assign(assignment(vec![endpoint(1, 1, 0), endpoint(2, 1, 0)]));
            let tried = [cluster.endpoints.load().all[0].config.address];
            let context = |roll| ChoiceContext {
                hash: Some(roll),
                tried: &tried,
                reselections: 20,
                ..ChoiceContext::of_proxy(roll)
            };
            for roll in 0..8 {
                let chosen = cluster.choose(&context(roll)).unwrap();
                assert_eq!(chosen.endpoint.config.address.port(), 2, "{policy:?}");
            }
            cluster.assign(assignment(vec![endpoint(1, 1, 0)]));
            assert!(cluster.choose(&context(0)).is_ok(), "better than none");
        }
    }

    #[test]
    fn load_is_held_while_the_choice_is() {
        let cluster = cluster_with(|config| config.thresholds.default.requests = 1);
        cluster.assign(assignment(vec![endpoint(1, 1, 0)]));
        let context = ChoiceContext::of_proxy(0);
        let mut one = cluster.choose(&context).unwrap();
        let mut two = cluster.choose(&context).unwrap();
        let host = one.endpoint.clone();
        assert_eq!(host.active.load(Ordering::Relaxed), 2);
        one.begin().unwrap();
        one.begin().unwrap();
        assert_eq!(two.begin(), Err(Overflow));
        drop(one);
        two.begin().unwrap();
        drop(two);
        assert_eq!(host.active.load(Ordering::Relaxed), 0);
        assert_eq!(cluster.stats.pending_overflow.get(), 1);
    }

    #[test]
    fn outcomes_are_counted_at_their_endpoint() {
        let cluster = cluster_with(|_| {});
        cluster.assign(assignment(vec![endpoint(1, 1, 0)]));
        let chosen = cluster.choose(&ChoiceContext::of_proxy(0)).unwrap();
        for outcome in [
            Outcome::grpc(0),
            Outcome::grpc(14),
            Outcome::Timeout,
            Outcome::Connected,
            Outcome::Reset,
        ] {
            chosen.report(outcome);
        }
        let stats = &chosen.endpoint.stats;
        let counts =
            [&stats.successes, &stats.errors, &stats.timeouts].map(|counter| counter.get());
        assert_eq!(counts, [2, 3, 1]);
    }

    #[test]
    fn a_share_of_first_attempts_is_dropped() {
        let cluster = cluster_with(|_| {});
        cluster.assign(Arc::new(super::super::Assignment {
            endpoints: vec![endpoint(1, 1, 0)],
            drops: vec![500_000, 500_000],
            ..Default::default()
        }));
        let dropped = (0..4000u64).filter(|roll| {
            let context = ChoiceContext::of_proxy(next(*roll));
            cluster.choose(&context).err() == Some(NoEndpoint::Dropped)
        });
        let dropped = dropped.count();
        assert!(
            (2800..3200).contains(&dropped),
            "{dropped} of 4000, not 3000"
        );
        let tried = [cluster.endpoints.load().all[0].config.address];
        let context = ChoiceContext {
            tried: &tried,
            ..ChoiceContext::of_proxy(0)
        };
        assert!((0..50).all(|_| cluster.choose(&context).is_ok()));
    }
}
